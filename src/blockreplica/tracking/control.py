"""The control socket: how a sync in another process asks a tracker for a cut.

A request is one line of words, the answer one line of JSON: {"ok": true, ...} or {"error": class, "message": text}.

    status              how the tracker is
    cut                 cut this image now
    sync                make the image's writes durable
    prepare PATH        get ready to be cut by the epoch word in file PATH
    finish              end the epoch that the word cut

From `prepare` to `finish` the connection has the right to cut alone. One that ends in between, because its process
died, leaves a cut that was made finished and one that was not made forgotten.

The socket stands beside the image, whose path may be longer than a socket address: it is bound under a short name
through a descriptor of the folder and then renamed, and reached through a descriptor of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from .. import errors
from ..errors import BlockReplicaError, BusyError, StorageError
from ..files import FILES
from .types import Cut, TrackingStatus

LINE_LIMIT = 1 << 16
CUT_WAIT_S = 60.0  # how long a cut waits for another one
ANSWER_WAIT_S = 120.0  # how long a client waits; a tracker answers when its writes in flight are done


class Cuttable(Protocol):
    """What the server needs of a tracked image."""

    def cut(self) -> Cut: ...
    def prepare(self, word: Path) -> None: ...
    def finish(self) -> Cut: ...
    def flush(self) -> None: ...
    def status(self) -> TrackingStatus: ...


class ControlServer:
    """Answers for one tracked image, each connection in a thread of its own."""

    def __init__(self, path: Path, image: Cuttable, cutting: threading.RLock) -> None:
        self._path, self._image, self._cutting = path, image, cutting
        self._connections: set[socket.socket] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._listener = _bind(path)
        self._thread = threading.Thread(target=self._accept, name=f"control {path.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more. Returns once no request is being worked on."""
        with self._lock:
            self._closed = True
            connections = list(self._connections)
        FILES.unlink(self._path)
        for one in (self._listener, *connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        threads: list[threading.Thread] = []
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    break
                threading.Event().wait(0.05)  # out of descriptors: somebody will give one back
                continue
            with self._lock:
                self._connections.add(connection)
                if self._closed:
                    connection.shutdown(socket.SHUT_RDWR)
            threads = [one for one in threads if one.is_alive()]
            threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            threads[-1].start()
        for one in threads:
            one.join()

    def _serve(self, connection: socket.socket) -> None:
        session = _Session(self._image, self._cutting)
        try:
            with connection, connection.makefile("rwb") as stream:
                while line := stream.readline(LINE_LIMIT):
                    stream.write(json.dumps(session.answer(line)).encode() + b"\n")
                    stream.flush()
        except (OSError, ValueError):
            pass  # the other side is gone; what it left is settled below
        finally:
            session.close()
            with self._lock:
                self._connections.discard(connection)


class _Session:
    """What one connection has under way."""

    def __init__(self, image: Cuttable, cutting: threading.RLock) -> None:
        self._image, self._cutting, self._holds = image, cutting, False

    def answer(self, line: bytes) -> dict[str, Any]:
        word, _, rest = line.decode("utf-8", "surrogateescape").strip("\n").partition(" ")
        request: Callable[[str], dict[str, Any]] | None = getattr(self, f"_on_{word}", None)
        try:
            if request is None:
                raise errors.UsageError(f"control request {word!r}: wanted status, cut, sync, prepare or finish")
            return {"ok": True} | request(rest)
        except (BlockReplicaError, ValueError) as error:
            return {"error": type(error).__name__, "message": str(error)}

    def close(self) -> None:
        if self._holds:
            with contextlib.suppress(BlockReplicaError, ValueError):
                self._image.finish()  # a cut that was not made: prepared no more, and an error nobody hears
            self._let_go()

    def _on_status(self, _: str) -> dict[str, Any]:
        status = self._image.status()
        return {"status": {name: getattr(status, name) for name in TrackingStatus.__dataclass_fields__}}

    def _on_cut(self, _: str) -> dict[str, Any]:
        self._take()
        try:
            return {"cut": self._image.cut().as_dict()}
        finally:
            self._let_go()

    def _on_sync(self, _: str) -> dict[str, Any]:
        self._image.flush()
        return {}

    def _on_prepare(self, path: str) -> dict[str, Any]:
        self._take()
        try:
            self._image.prepare(Path(path))
        except BaseException:
            self._let_go()
            raise
        return {}

    def _on_finish(self, _: str) -> dict[str, Any]:
        if not self._holds:
            raise errors.UsageError("control request finish: nothing was prepared on this connection")
        try:
            return {"cut": self._image.finish().as_dict()}
        finally:
            self._let_go()

    def _take(self) -> None:
        if not self._holds and not self._cutting.acquire(timeout=CUT_WAIT_S):
            raise BusyError("another cut of this image is under way; try again")
        self._holds = True

    def _let_go(self) -> None:
        if self._holds:
            self._holds = False
            self._cutting.release()


class GoneError(Exception):
    """The tracker went away while it was asked."""


class Control:
    """A connection to a tracker."""

    def __init__(self, connection: socket.socket, path: Path) -> None:
        self._connection, self._path = connection, path
        self._stream = connection.makefile("rwb")

    @classmethod
    def connect(cls, path: Path) -> Control | None:
        """Reach the tracker behind a socket; None when nobody listens there."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(ANSWER_WAIT_S)
        try:
            connection.connect(f"/proc/self/fd/{fd}")
        except ConnectionError:
            connection.close()
            return None
        except OSError as error:
            connection.close()
            raise errors.from_os_error(error, path, "asking the tracker") from error
        finally:
            os.close(fd)
        return cls(connection, path)

    def cut(self) -> Cut:
        """Cut the image."""
        return Cut.from_dict(self._ask("cut")["cut"])

    def prepare(self, word: Path) -> None:
        """Get the tracker ready to be cut by the word in this file."""
        self._ask(f"prepare {word}")

    def finish(self) -> Cut:
        """End what was cut."""
        return Cut.from_dict(self._ask("finish")["cut"])

    def sync(self) -> None:
        """Make the image's writes durable."""
        self._ask("sync")

    def status(self) -> TrackingStatus:
        """How the tracker is."""
        return TrackingStatus(**self._ask("status")["status"])

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._connection.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, line: str) -> dict[str, Any]:
        if "\n" in line:
            raise errors.UsageError(f"{line!r}: a path with a line break can't be sent to a tracker")
        try:
            self._stream.write(line.encode("utf-8", "surrogateescape") + b"\n")
            self._stream.flush()
            raw = self._stream.readline(LINE_LIMIT)
        except TimeoutError:
            raise StorageError(f"{self._path}: the tracker does not answer; look at its process") from None
        except OSError:
            raise GoneError from None
        if not raw.endswith(b"\n"):
            raise GoneError
        answer = json.loads(raw)
        if "error" in answer:
            raise _error_class(answer["error"])(str(answer["message"]))
        return dict(answer)


def _error_class(name: str) -> type[BlockReplicaError]:
    found = getattr(errors, name, None)
    return found if isinstance(found, type) and issubclass(found, BlockReplicaError) else StorageError


def _bind(path: Path) -> socket.socket:
    """A listening socket that stands at `path`, instead of one that a dead tracker left there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = f".br-{os.getpid()}-{id(listener):x}"
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{temporary}")
        listener.listen(16)
        FILES.rename(path.with_name(temporary), path)
    except OSError as error:
        listener.close()
        raise errors.from_os_error(error, path, "opening the control socket") from error
    except BlockReplicaError:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener
