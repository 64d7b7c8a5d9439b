"""Running nbdkit: where it listens, how it begins, how its death is told. What it serves is the plugin's affair.

nbdkit gives the protocol, TLS and parallelism. The process that serves is nbdkit alone: there is no Python in it, and
it may outlive the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket as sockets
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar
from urllib.parse import quote

import msgspec

from .errors import BusyError, NotFoundError, RefusedError, StorageError, UsageError, translated

_START_WAIT_S = 60.0
_STOP_WAIT_S = 120.0
_ADDRESS_LIMIT = 107  # bytes of a Unix socket's path

PathLike = str | os.PathLike[str]
Served = TypeVar("Served", bound="Server")


class Place(msgspec.Struct, frozen=True):
    """Where a server listens: a Unix socket, or a host and a port with TLS. `certificates`: a folder as nbdkit's
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

    def clear(self) -> None:
        """Remove the socket that a server left which died; BusyError when somebody listens on it."""
        if self.greets() is not False:
            raise BusyError(f"{self.uri}: somebody listens there already; end that first, or choose another place")
        if self.socket is None or not os.path.lexists(self.socket):
            return
        with translated(self.socket, "looking for an old socket"):
            if not stat.S_ISSOCK(os.lstat(self.socket).st_mode):
                raise RefusedError(f"{self.socket}: is there already, and is no socket; choose another path")
            os.unlink(self.socket)

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


def place_of(path: Path, tcp: str | None, tls: PathLike | None, *, given: bool) -> Place:
    """The place for a Unix socket at `path`, or `tcp` ("host:port") with `tls`, a folder of certificates.

    `given`: somebody asked for that very socket, so that it can't be TCP. UsageError, NotFoundError.
    """
    if tcp is None:
        if tls is not None:
            raise UsageError("certificates are for an export over TCP; a Unix socket is guarded by its folder")
        if len(os.fsencode(path)) > _ADDRESS_LIMIT:
            raise UsageError(f"{path}: is longer than the {_ADDRESS_LIMIT} bytes that a socket's path may have; "
                             "choose a shorter one for the socket")  # fmt: skip
        return Place(path)
    if given:
        raise UsageError("an export listens on a Unix socket or over TCP, not on both")
    if tls is None:
        raise UsageError("an export over TCP needs a folder of certificates: without them anybody could use the disk")
    host, _, port = tcp.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{tcp!r}: wanted HOST:PORT")
    if not Path(tls).is_dir():
        raise NotFoundError(f"{tls}: no such folder of certificates")
    return Place(None, host.strip("[]"), int(port), Path(tls).resolve())


def require_nbdkit(plugin: Path) -> str:
    """The path of nbdkit. NotFoundError says what of it, or of our plugin for it, is missing and how to get it."""
    program = shutil.which("nbdkit") or shutil.which("nbdkit", path="/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if program is None:
        raise NotFoundError("nbdkit is not installed, and it serves the image; on Debian: apt install nbdkit")
    if not plugin.exists():
        raise NotFoundError(
            f"{plugin}: the plugin for nbdkit was not built, because nbdkit's header was missing when blockreplica was "
            "installed; on Debian: apt install nbdkit nbdkit-plugin-dev, then install blockreplica again"
        )
    return program


def outliving(*, detach: bool) -> list[str]:
    """Arguments for our plugins, which nbdkit in the foreground otherwise ends with the process that began it."""
    # The system means by "parent" the thread that began it.
    return ["outlive=true"] if detach or threading.current_thread() is not threading.main_thread() else []


class Server:
    """An nbdkit that is serving. `uri` for NBD clients, `pid` of the process, `path` what is served.

    A context manager; `close` ends it: clients are cut off, the socket is removed.
    """

    def __init__(self, process: subprocess.Popen[bytes], place: Place, path: Path, log: IO[bytes]) -> None:
        self._process, self._place, self._log = process, place, log
        self.path = path

    @property
    def uri(self) -> str:
        """What NBD clients connect to."""
        return self._place.uri

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return when it has ended in order, or False when it has not after `timeout_s`; StorageError when it ended
        in another way."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        if code not in (0, -signal.SIGTERM):
            raise StorageError(f"{self.path}: its export ended with code {code}{self._told()}")
        return True

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

    def told(self) -> str:
        """What it has said so far."""
        return read_log(self._log)

    def _told(self) -> str:
        text = self.told()
        return f": {text}" if text else ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*([StorageError] if kind is not None else [])):  # what went wrong first is told
            self.close()


def start(
    command: Sequence[str], place: Place, made: Callable[[subprocess.Popen[bytes], IO[bytes]], Served], *,
    detach: bool, explain: Callable[[str], Exception | None] | None = None, inherited: Sequence[int] = (),
) -> Served:  # fmt: skip
    """Start nbdkit and wait until clients can connect. `explain` turns what it said before it died into an error;
    it keeps the descriptors `inherited`."""
    log = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with translated(command[0], "starting"):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=detach,
                pass_fds=inherited,
            )  # fmt: skip
        begun = made(process, log)
        _wait_until_ready(begun, process, place, log, explain)
        return begun
    except BaseException:
        log.close()
        raise


def noted(server: Served, note: Callable[[bytes], None] | None) -> Served:
    """The server, once `note` has written down the number of its process, if that is wanted. When it can't, the server
    is ended: detached, nobody would find it."""
    try:
        if note is not None:
            note(b"%d\n" % server.pid)
    except BaseException:
        server.close()
        raise
    return server


def _wait_until_ready(
    begun: Server, process: subprocess.Popen[bytes], place: Place, log: IO[bytes],
    explain: Callable[[str], Exception | None] | None,
) -> None:  # fmt: skip
    until = time.monotonic() + _START_WAIT_S
    try:
        while place.greets() is not True:
            if process.poll() is not None:
                _remove_dead(place)
                told = read_log(log)
                error = explain(told) if explain else None
                raise error or StorageError(f"{begun.path}: nbdkit could not serve it: {told or 'it says nothing'}")
            if time.monotonic() > until:
                raise StorageError(f"{begun.path}: nbdkit does not answer after {_START_WAIT_S:.0f} seconds")
            time.sleep(0.01)
    except BaseException:
        begun.terminate()
        process.wait()
        raise


def _remove_dead(place: Place) -> None:
    if place.socket is not None and place.greets() is False:
        with contextlib.suppress(OSError):
            os.unlink(place.socket)


def read_log(log: IO[bytes]) -> str:
    """What stands in a server's log."""
    if log.closed:
        return ""
    raw = os.pread(log.fileno(), 1 << 16, 0)
    return raw.decode(errors="replace").strip().replace("nbdkit: error: ", "")
