"""The client of the control socket: how a sync asks the tracker in another process for a cut.

The server is in C (`native/control.h` tells the protocol), the same for a tracker of the library and for an export.
The socket stands among the tracker's files, whose path may be longer than a socket address: it is reached through a
descriptor of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import StorageError, UsageError
from ..files import FILES, Files
from .cursors import trim_after
from .names import Names
from .native import typed
from .types import Cut, LogMode, TrackingStatus, ctime_rule

LINE_LIMIT = 1 << 16
ANSWER_WAIT_S = 120.0  # how long a client waits; a tracker answers when its writes in flight are done


class GoneError(Exception):
    """The tracker went away while it was asked."""


class Control:
    """A connection to a tracker."""

    def __init__(self, connection: socket.socket, names: Names, files: Files = FILES) -> None:
        self._connection, self._names, self._files = connection, names, files
        self._stream = connection.makefile("rwb")

    @classmethod
    def connect(cls, names: Names, files: Files = FILES) -> Control | None:
        """Reach the tracker of an image; None when nobody has it open."""
        path = names.control
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(ANSWER_WAIT_S)
        try:
            _reach(connection, f"/proc/self/fd/{fd}")
        except ConnectionError:
            connection.close()
            return None
        except OSError as error:
            connection.close()
            raise errors.from_os_error(error, path, "asking the tracker") from error
        finally:
            os.close(fd)
        return cls(connection, names, files)

    def cut(self) -> Cut:
        """Cut the image."""
        return self._ended(self._ask("cut"))

    def prepare(self, word: Path) -> None:
        """Get the tracker ready to be cut by the word in this file."""
        self._ask(f"prepare {word}")

    def finish(self) -> Cut:
        """End what was cut."""
        return self._ended(self._ask("finish"))

    def sync(self) -> None:
        """Make the image's writes durable."""
        self._ask("sync")

    def log(self, mode: LogMode) -> None:
        """Have that log mode; a log that transit needs no more goes at once."""
        self._ask(f"log {mode}")

    def ignore_ctime(self, *, ignore: bool) -> None:
        """Take a ctime of the image that alone changed for a change of its owner, or for a change of it."""
        self._ask(f"ctime {ctime_rule(ignore)}")

    def status(self) -> TrackingStatus:
        """How the tracker is."""
        return TrackingStatus.from_native(self._ask("status")["status"])

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._connection.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self, answer: dict[str, Any]) -> Cut:
        cut = Cut.from_native(answer["cut"])
        trim_after(self._names, cut, self._files, limit=answer["log_limit"] or None)
        return cut

    def _ask(self, line: str) -> dict[str, Any]:
        if "\n" in line:
            raise errors.UsageError(f"{line!r}: a path with a line break can't be sent to a tracker")
        try:
            self._stream.write(line.encode("utf-8", "surrogateescape") + b"\n")
            self._stream.flush()
            raw = self._stream.readline(LINE_LIMIT)
        except TimeoutError:
            raise StorageError(f"{self._names.control}: the tracker does not answer; look at its process") from None
        except OSError:
            raise GoneError from None
        if not raw.endswith(b"\n"):
            raise GoneError
        answer = json.loads(raw)
        if "error" in answer:
            raise _error(answer["error"], self._names)
        return dict(answer)


def _reach(connection: socket.socket, address: str) -> None:
    until = time.monotonic() + ANSWER_WAIT_S
    while True:
        try:
            return connection.connect(address)
        except BlockingIOError:  # so many are waiting that there is no place in the queue
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _error(told: dict[str, Any], names: Names) -> errors.BlockReplicaError:
    return UsageError(str(told["message"])) if told["kind"] == "usage" else typed(told, names)
