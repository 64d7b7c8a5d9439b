"""Serving a tracked image over NBD: any machine, kernel or program that speaks it writes through the tracker.

nbdkit gives the protocol, TLS and parallelism; the plugin beside this package (`native/nbdkit/plugin.c`) puts every
change into the image and its change log. The process that serves is nbdkit alone: there is no Python in it, and it may
outlive the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket as sockets
import stat
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from ..errors import BusyError, NotFoundError, RefusedError, StorageError, UsageError, translated
from ..files import FILES
from .control import Control, GoneError
from .names import Names
from .native import typed
from .source import require_image
from .types import LogMode, TrackingStatus

PLUGIN = Path(__file__).resolve().parent.parent / "_nbdkit.so"
_START_WAIT_S = 60.0
_STOP_WAIT_S = 120.0
_ADDRESS_LIMIT = 107  # bytes of a Unix socket's path
_MARK = "blockreplica {"  # what the plugin puts before a failure

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an export listens: a Unix socket, or a host and a port with TLS. `certificates`: a folder as nbdkit's
    --tls-certificates wants it; clients must show a certificate of the same authority."""

    socket: Path | None
    host: str = ""
    port: int = 0
    certificates: Path | None = None

    @property
    def uri(self) -> str:
        """As NBD clients take it."""
        if self.socket is not None:
            return f"nbd+unix:///?socket={quote(str(self.socket))}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nbds://{host}:{self.port}"

    def arguments(self) -> list[str]:
        """nbdkit's arguments."""
        if self.socket is not None:
            return ["-U", str(self.socket)]
        return ["-i", self.host, "-p", str(self.port), "--tls=require", f"--tls-certificates={self.certificates}",
                "--tls-verify-peer"]  # fmt: skip

    def greets(self) -> bool | None:
        """Whether somebody who speaks NBD answers here; None: somebody listens, but says nothing yet."""
        try:
            with self._connect() as connection:
                return connection.recv(8) == b"NBDMAGIC"
        except TimeoutError:
            return None
        except OSError:
            return False

    def _connect(self) -> sockets.socket:
        if self.socket is None:
            return sockets.create_connection((self.host, self.port), timeout=1)
        connection = sockets.socket(sockets.AF_UNIX)
        connection.settimeout(1)
        try:
            connection.connect(str(self.socket))
        except BaseException:
            connection.close()
            raise
        return connection


class Export:
    """An image that is being served. `uri` for NBD clients, `pid` of the nbdkit that serves it.

    A context manager; `close` ends it: clients are cut off, the log is sealed, the socket removed.
    """

    def __init__(self, process: subprocess.Popen[bytes], place: Place, names: Names, log: IO[bytes]) -> None:
        self._process, self._place, self._names, self._log = process, place, names, log
        self.path = names.image

    @property
    def uri(self) -> str:
        """What NBD clients connect to."""
        return self._place.uri

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

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

    def wait(self) -> None:
        """Return when it has ended in order; StorageError when it did not."""
        code = self._process.wait()
        if code not in (0, -signal.SIGTERM):
            raise StorageError(f"{self.path}: its export ended with code {code}{self._told()}")

    def terminate(self) -> None:
        """Ask it to end; see `wait`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def close(self) -> None:
        """End it and wait for that; a second call does nothing. StorageError when it did not end in order."""
        if self._process.returncode is None:
            self.terminate()
            try:
                self._process.wait(_STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                raise StorageError(f"{self.path}: its export (process {self.pid}) does not end; look at it") from None
            self.wait()
        self._log.close()

    def __enter__(self) -> Export:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _told(self) -> str:
        text = _read(self._log)
        return f": {text}" if text else ""


def export(
    path: PathLike, *, socket: PathLike | None = None, tcp: str | None = None, tls: PathLike | None = None,
    tracking_dir: PathLike | None = None, log: LogMode | None = None, log_limit: int | None = None,
    read_only: bool = False, detach: bool = False, pid_file: PathLike | None = None,
) -> Export:  # fmt: skip
    """Serve a disk image over NBD, every change of it tracked; returns once clients can connect.

    `socket`: the Unix socket, `<image>.nbd` among the tracker's files unless given; or `tcp`, "host:port", with `tls`,
    the folder of certificates that nbdkit and its clients have of one authority. `tracking_dir`, `log` and `log_limit`
    as of `track`. The export ends with this process, unless `detach`; `pid_file` is written when it is ready and
    removed at its end. BusyError names the process that tracks the image already; NotFoundError: no such image, or no
    nbdkit.
    """
    program = require_nbdkit()
    names = Names.of(path, tracking_dir)
    require_image(names.image)
    names.claim(FILES)
    names.refuse_confusion(FILES)
    _refuse_second(names)
    place = _place(names, socket, tcp, tls)
    _clear(place)
    pid_path = Path(os.path.abspath(pid_file)) if pid_file is not None else None
    server = [program, "-f", *place.arguments(), *(["-r"] if read_only else [])]
    plugin = [str(PLUGIN), f"image={names.image}", f"log-limit={log_limit or 0}"]
    plugin += [f"log={log}"] if log is not None else []
    plugin += [f"tracking-dir={names.folder}"] if names.apart else []
    if detach or threading.current_thread() is not threading.main_thread():
        plugin.append("outlive=true")  # or it would end with the thread that began it, which the system means by parent
    plugin += [f"remove={leftover}" for leftover in (place.socket, pid_path) if leftover is not None]
    begun = _start([*server, *plugin], place, names, detach=detach)
    if pid_path is not None:
        FILES.write_durably(pid_path, b"%d\n" % begun.pid)
    return begun


def require_nbdkit() -> str:
    """The path of nbdkit. NotFoundError says what of it, or of our plugin for it, is missing and how to get it."""
    program = shutil.which("nbdkit") or shutil.which("nbdkit", path="/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if program is None:
        raise NotFoundError("nbdkit is not installed, and it serves the image; on Debian: apt install nbdkit")
    if not PLUGIN.exists():
        raise NotFoundError(
            f"{PLUGIN}: the plugin for nbdkit was not built, because nbdkit's header was missing when blockreplica was "
            "installed; on Debian: apt install nbdkit nbdkit-plugin-dev, then install blockreplica again"
        )
    return program


def _refuse_second(names: Names) -> None:
    control = Control.connect(names)
    if control is not None:
        with control, contextlib.suppress(GoneError):
            raise BusyError(f"{names.image}: process {control.status().pid} tracks it already; end that first, or go "
                            "through it")  # fmt: skip


def _place(names: Names, socket: PathLike | None, tcp: str | None, tls: PathLike | None) -> Place:
    if tcp is None:
        if tls is not None:
            raise UsageError("certificates are for an export over TCP; a Unix socket is guarded by its folder")
        path = names.nbd if socket is None else Path(os.path.abspath(socket))
        if len(os.fsencode(path)) > _ADDRESS_LIMIT:
            raise UsageError(f"{path}: is longer than the {_ADDRESS_LIMIT} bytes that a socket's path may have; "
                             "choose a shorter one for the socket")  # fmt: skip
        return Place(path)
    if socket is not None:
        raise UsageError("an export listens on a Unix socket or over TCP, not on both")
    if tls is None:
        raise UsageError("an export over TCP needs a folder of certificates: without them anybody could write the disk")
    host, _, port = tcp.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{tcp!r}: wanted HOST:PORT")
    if not Path(tls).is_dir():
        raise NotFoundError(f"{tls}: no such folder of certificates")
    return Place(None, host.strip("[]"), int(port), Path(tls).resolve())


def _clear(place: Place) -> None:
    """Remove the socket that an export left which died; BusyError when somebody listens on it."""
    if place.greets() is not False:
        raise BusyError(f"{place.uri}: somebody listens there already; end that first, or choose another place")
    if place.socket is None or not os.path.lexists(place.socket):
        return
    with translated(place.socket, "looking for an old socket"):
        if not stat.S_ISSOCK(os.lstat(place.socket).st_mode):
            raise RefusedError(f"{place.socket}: is there already, and is no socket; choose another path")
        os.unlink(place.socket)


def _start(command: list[str], place: Place, names: Names, *, detach: bool) -> Export:
    log = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with translated(command[0], "starting"):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=detach
            )
        begun = Export(process, place, names, log)
        _wait_until_ready(begun, place)
        return begun
    except BaseException:
        log.close()
        raise


def _wait_until_ready(begun: Export, place: Place) -> None:
    process, until = begun._process, time.monotonic() + _START_WAIT_S
    try:
        while place.greets() is not True:
            if process.poll() is not None:
                raise _ended_early(begun, place)
            if time.monotonic() > until:
                raise StorageError(f"{begun.path}: nbdkit does not answer after {_START_WAIT_S:.0f} seconds")
            time.sleep(0.01)
    except BaseException:
        begun.terminate()
        process.wait()
        raise


def _ended_early(begun: Export, place: Place) -> Exception:
    if place.socket is not None and place.greets() is False:
        with contextlib.suppress(OSError):
            os.unlink(place.socket)
    told = _read(begun._log)
    for line in told.splitlines():
        if _MARK in line:
            failure = json.loads(line[line.index(_MARK) + len(_MARK) - 1 :])
            return typed(failure, begun._names)
    return StorageError(f"{begun.path}: nbdkit could not serve it: {told or 'it says nothing'}")


def _read(log: IO[bytes]) -> str:
    if log.closed:
        return ""
    raw = os.pread(log.fileno(), 1 << 16, 0)
    return raw.decode(errors="replace").strip().replace("nbdkit: error: ", "")
