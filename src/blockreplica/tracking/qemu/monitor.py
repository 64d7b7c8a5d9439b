"""QMP, blocking: the commands of one QEMU, from a thread that runs qemu.qmp's event loop."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ...errors import (
    BlockReplicaError,
    BusyError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    StorageError,
    from_os_error,
)

Value = TypeVar("Value")
CONNECT_S, ANSWER_S, JOB_S = 10.0, 60.0, 3600.0
_PAUSE_S = 0.002
_COPYING = re.compile(r"'br[0-9a-f]{12}-\d+-cbw'")  # a filter of ours, of whichever relationship: see `fleece`


class Monitor:
    """A connection. QEMU serves one at a time at a socket, so that whoever has it is alone."""

    def __init__(self, path: Path) -> None:
        try:
            from qemu.qmp import QMPClient
        except ImportError as error:
            raise RefusedError(f"{path}: the package qemu.qmp is missing: {error}; pip install qemu.qmp") from None
        self.path = path
        self._client = QMPClient("blockreplica")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        try:
            self.pid, *self.owner = self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> tuple[int, int, int]:
        """Connect; returns pid, user and group of the QEMU process."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.path))
            except OSError as error:
                if isinstance(error, ConnectionRefusedError):
                    raise NotFoundError(
                        f"{self.path}: no QEMU listens there any more; is the machine running?"
                    ) from None
                raise from_os_error(error, self.path, "connecting to QMP") from None
            sock = probe.dup()
        pid, user, group = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        from qemu.qmp import QMPError

        try:
            sock.setblocking(False)
            self._run(self._client.connect(sock), CONNECT_S)
        except FutureTimeout:
            raise BusyError(
                f"{self.path}: no greeting within {CONNECT_S:.0f} s: somebody else has this monitor (libvirt keeps its "
                "own); give QEMU another: -qmp unix:PATH,server=on,wait=off"
            ) from None
        except (QMPError, OSError) as error:
            raise StorageError(f"{self.path}: QMP does not answer as it should: {error}") from None
        return pid, user, group

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Execute a command (underscores in the arguments' names stand for dashes); returns what QEMU returned."""
        from qemu.qmp import ExecuteError, QMPError

        named = {key.replace("_", "-"): value for key, value in arguments.items() if value is not None}
        try:
            return self._run(self._client.execute(command, named), ANSWER_S)
        except ExecuteError as error:
            raise refused(f"{self.path}: {command}", str(error)) from None
        except FutureTimeout:
            raise StorageError(f"{self.path}: {command}: no answer within {ANSWER_S:.0f} s") from None
        except (QMPError, OSError, EOFError) as error:
            raise StorageError(f"{self.path}: {command}: the connection is lost ({error}): did QEMU end? sync again "
                               "when it runs") from None  # fmt: skip

    def opened(self, name: str) -> Path | None:
        """The file that QEMU has open under a name relative to its folder; None where that can't be seen."""
        process = f"/proc/{self.pid}"
        try:
            path = os.path.realpath(os.path.join(os.readlink(f"{process}/cwd"), name))
            held = {os.readlink(each.path) for each in os.scandir(f"{process}/fd")}
        except OSError:
            return None
        return Path(path) if path in held else None

    def job(self, command: str, job_id: str, **arguments: Any) -> None:
        """Execute a command that is a job, to its end."""
        self(command, job_id=job_id, **arguments)
        until = time.monotonic() + JOB_S
        while time.monotonic() < until:
            [job] = [job for job in self("query-jobs") if job["id"] == job_id]
            if job["status"] == "concluded":
                self("job-dismiss", id=job_id)
                if "error" in job:
                    raise refused(f"{self.path}: {command}", job["error"])
                return
            time.sleep(_PAUSE_S)
        raise StorageError(f"{self.path}: {command}: not done within {JOB_S:.0f} s")

    def close(self) -> None:
        """Disconnect."""
        with suppress(Exception):  # it may have gone by itself, in whatever way
            self._run(self._client.disconnect(), CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Value], timeout: float) -> Value:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except FutureTimeout:
            future.cancel()
            raise


def refused(what: str, said: str) -> BlockReplicaError:
    """The typed error for a command that QEMU refused: it gives words only."""
    if "No space left" in said or "Disk quota exceeded" in said:
        return NoSpaceError(f"{what}: {said}; make room in the scratch folder (as much as the disks have), or choose "
                            "another by &scratch=DIR")  # fmt: skip
    if "Permission denied" in said or "Read-only file system" in said:
        return RefusedError(f"{what}: {said}; QEMU's user must be allowed there: choose a folder by &scratch=DIR")
    if "Permission conflict" in said and _COPYING.search(said):
        return BusyError(f"{what}: another sync begins or ends copying the same disk just now; sync again")
    return StorageError(f"{what}: QEMU says: {said}")
