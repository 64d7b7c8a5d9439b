"""Serving a tracked image over NBD: any machine, kernel or program that speaks it writes through the tracker.

nbdkit gives the protocol, TLS and parallelism; the plugin beside this package (`native/nbdkit/plugin.c`) puts every
change into the image and its change log. The process that serves is nbdkit alone: there is no Python in it, and it may
outlive the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import IO

from ..errors import BusyError, StorageError, UsageError
from ..files import FILES
from ..images import becoming
from ..images.formats import describe, tidy
from ..images.names import RAW, checked_format
from ..nbdkit import PathLike, Place, Server, noted, outliving, place_of, require_nbdkit, start
from ..places import marks_folder
from .control import Control, GoneError
from .known_format import known_format
from .names import Names
from .native import typed
from .source import require_image
from .types import LogMode, TrackingStatus, ctime_rule

PLUGIN = Path(__file__).resolve().parent.parent / "_nbdkit.so"
_END_WAIT_S = 60.0
_MARK = "blockreplica {"  # what the plugin puts before a failure
_THREADS, _THREADS_LIMIT = 16, 256


class Export(Server):
    """An image that is being served. `uri` for NBD clients, `pid` of the nbdkit that serves it.

    A context manager; `close` ends it: clients are cut off, the log is sealed, the socket removed.
    """

    def __init__(self, process: subprocess.Popen[bytes], place: Place, names: Names, log: IO[bytes]) -> None:
        super().__init__(process, place, names.image, log)
        self._names = names

    def status(self) -> TrackingStatus:
        """How its tracker is. StorageError when the export has ended."""
        try:
            control = Control.connect(self._names)
            if control is not None:
                with control:
                    return control.status()
        except GoneError:
            pass
        raise StorageError(f"{self.path}: its export has ended{self._told()}")

    def __enter__(self) -> Export:
        return self


class ServedExport(Export):
    """The export of what a daemon shows of an image; nbdkit ends it, and nothing may be left of it."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """As of `Export`; also StorageError when the daemon had ended before."""
        ended = False
        try:
            ended = super().wait(timeout_s)
        finally:
            if self._process.returncode is not None:
                tidy(self._names.shown, wait_s=_END_WAIT_S)
        failure = _explained(self.told(), self._names) if ended else None
        if failure is not None:
            raise failure
        return ended


def export(
    path: PathLike, *, socket: PathLike | None = None, tcp: str | None = None, tls: PathLike | None = None,
    tracking_dir: PathLike | None = None, log: LogMode | None = None, log_limit: int | None = None,
    read_only: bool = False, detach: bool = False, pid_file: PathLike | None = None, format: str | None = None,
    threads: int | None = None, ignore_ctime: bool | None = None,
) -> Export:  # fmt: skip
    """Serve a disk image over NBD, every change of it tracked; returns once clients can connect.

    `socket`: the Unix socket, `<image>.nbd` among the tracker's files unless given; or `tcp`, "host:port", with `tls`,
    the folder of certificates that nbdkit and its clients have of one authority. `tracking_dir`, `log`, `log_limit`
    and `ignore_ctime` as of `track`. `format`: that of the image (qcow2, VHDX and others are shown as a raw disk by a
    daemon), which its name and its content tell unless given. `threads`: requests of one connection that are served at
    once, sixteen unless given. The export ends with this process, unless `detach`; `pid_file` is written when it is
    ready and removed at its end. BusyError names the process that tracks the image already;
    NotFoundError: no such image, or no nbdkit.
    """
    program = require_nbdkit(PLUGIN)
    names = Names.of(path, tracking_dir)
    require_image(names.image)
    names.ready(FILES)
    fmt = _format(names, format)
    _refuse_second(names)
    path = names.nbd if socket is None else Path(os.path.abspath(socket))
    place = place_of(path, tcp, tls, given=socket is not None)
    place.clear()
    pid_path = Path(os.path.abspath(pid_file)) if pid_file is not None else None
    command = [program, "-f", f"--threads={_threads(threads)}", *place.arguments()]
    command += [*(["-r"] if read_only else []), str(PLUGIN), f"log-limit={log_limit or 0}", f"marks={marks_folder()}"]
    command += [*_told("log", log), *_told("ctime", ctime_rule(ignore_ctime)), *outliving(detach=detach)]
    command += [f"remove={leftover}" for leftover in (place.socket, pid_path) if leftover is not None]
    kind = Export if fmt == RAW else ServedExport
    begun = start(
        _over(names, fmt, command), place, lambda process, log: kind(process, place, names, log), detach=detach,
        explain=lambda told: _explained(told, names),
    )  # fmt: skip
    return noted(begun, partial(FILES.write_durably, pid_path) if pid_path is not None else None)


def _told(name: str, value: str | None) -> list[str]:
    return [] if value is None else [f"{name}={value}"]


def _format(names: Names, said: str | None) -> str:
    fmt = known_format(names, FILES) if said is None else checked_format(said)
    if fmt != RAW:
        describe(names.image, fmt)
    return fmt


def _over(names: Names, fmt: str, server: list[str]) -> list[str]:
    """nbdkit over the image, or over what a daemon shows of it; the tracker's files are named after it in any case."""
    if fmt == RAW:
        return [*server, f"image={names.image}", *([f"tracking-dir={names.folder}"] if names.apart else [])]
    shown = names.shown
    server = [*server, f"image={shown}", f"container={names.image}", f"tracking-dir={names.folder}"]
    server += [f"remove={shown}", f"remove={shown.parent}"]
    return becoming.command(fmt, names.image, shown, server, outlive="outlive=true" in server)


def _threads(wanted: int | None) -> int:
    """Threads that wait for a flush serve nobody: enough of them go on beside those, also where processors are few."""
    if wanted is None:
        return _THREADS
    if not 1 <= wanted <= _THREADS_LIMIT:
        raise UsageError(f"{wanted} threads: wanted 1 to {_THREADS_LIMIT}")
    return wanted


def _refuse_second(names: Names) -> None:
    control = Control.connect(names)
    if control is not None:
        with control, contextlib.suppress(GoneError):
            raise BusyError(f"{names.image}: process {control.status().pid} tracks it already; end that first, or go "
                            "through it")  # fmt: skip


def _explained(told: str, names: Names) -> Exception | None:
    """What the tracker, or the daemon under it, said that stopped it, as a typed error."""
    if (failure := becoming.failure(told)) is not None:
        return failure
    for line in told.splitlines():
        if _MARK in line:
            failure = json.loads(line[line.index(_MARK) + len(_MARK) - 1 :])
            return typed(failure, names)
    return None
