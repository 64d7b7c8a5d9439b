"""Bringing a guest to rest and letting it go on: the guest agent, or the user's own commands.

The guest must not stay frozen, whatever happens to us: a guard, a process of its own, is started before the freeze,
and thaws when we die or take too long. Nor whatever happens to the guest: an agent that is slow may freeze long after
we gave up waiting. So where it was told to freeze and did not say that it thawed, the guard goes on telling it to.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import BlockReplicaError, BusyError, StorageError, from_os_error
from .hooks import Hooks, failure
from .settings import HookSettings

FREEZE_S, THAW_S, COMMAND_S = 30.0, 10.0, 60.0
GUARD_S = 120.0
INSIST_S, _AGAIN_S = 900.0, 2.0  # how long a guard goes on telling a guest to thaw that does not answer, and how often
_SENTINEL = b"\xff"
_LOOK_S, _SAID_LIMIT = 0.02, 1 << 20


def hooks_of(settings: HookSettings) -> Hooks:
    """What settings mean that name an agent or commands."""
    return Agent(settings.agent) if settings.agent is not None else Commands(settings.pre_cut, settings.post_cut)


class Agent:
    """qemu-ga, over the socket of its virtio-serial port (or any other of its)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._may_freeze = False  # told to, and did not say since that it thawed

    def freeze(self) -> None:
        """guest-fsfreeze-freeze."""
        if self._ask("guest-fsfreeze-freeze", FREEZE_S) == 0:
            raise StorageError(f"{self._path}: the guest has no file system that can be frozen")

    def thaw(self) -> str:
        """guest-fsfreeze-thaw; a guest that had nothing to thaw has thawed before the time."""
        thawed = self._ask("guest-fsfreeze-thaw", THAW_S)
        self._may_freeze = False  # it does one thing after the other: a late freeze stands before this
        return "" if thawed else "the guest had thawed by itself before the cut was over"

    def listens(self) -> bool:
        """Whether the machine is there at all: its QEMU holds the socket, whatever the guest does."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(THAW_S)
                link.connect(str(self._path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            pass
        return True

    def guarded(self) -> AbstractContextManager[None]:
        """The same, from a process of its own, for as long as the guest does not say that it did."""
        return _guarded("agent", str(self._path), lambda: not self._may_freeze)

    def _ask(self, command: str, timeout: float) -> Any:
        until, where = time.monotonic() + timeout, str(self._path)
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(min(timeout, 5.0))
                link.connect(where)
                number = int.from_bytes(os.urandom(4), "little")
                # What others have left in the channel ends at the sentinel, in both directions.
                link.sendall(_SENTINEL + _line("guest-sync-delimited", id=number))
                while _reply(link, until, _SENTINEL).get("return") != number:
                    pass
                self._may_freeze |= command == "guest-fsfreeze-freeze"
                link.sendall(_line(command))
                answer = _reply(link, until)
        except TimeoutError:
            raise BusyError(f"{where}: {command}: the guest agent did not answer within {timeout:.0f} s") from None
        except OSError as error:
            raise from_os_error(error, where, command) from None
        except ValueError as error:
            raise StorageError(f"{where}: {command}: the guest agent talks nonsense: {error}") from None
        if "error" in answer:
            self._may_freeze &= command != "guest-fsfreeze-freeze"  # a freeze that fails is undone by the agent itself
            said = answer["error"].get("desc", answer["error"])
            raise StorageError(f"{where}: {command}: the guest agent says: {said}")
        return answer.get("return")


class Commands:
    """Commands of the user's, run by a shell."""

    def __init__(self, pre_cut: str, post_cut: str) -> None:
        self._pre, self._post = pre_cut, post_cut

    def freeze(self) -> None:
        """The command before the cut."""
        _run(self._pre)

    def thaw(self) -> str:
        """The command after it, also where the one before has failed."""
        _run(self._post)
        return ""

    def guarded(self) -> AbstractContextManager[None]:
        """The command after it, from a process of its own."""
        return _guarded("command", self._post, lambda: True)


@contextmanager
def _guarded(kind: str, what: str, is_over: Callable[[], bool]) -> Iterator[None]:
    command = [sys.executable, "-m", __name__, kind, what]
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        guard.stdout.readline()  # from here on it would notice our end
        yield
    finally:
        over = is_over()
        with contextlib.suppress(OSError):
            guard.stdin.write(b"done\n" if over else b"")
            guard.stdin.close()
        guard.stdout.close()
        if over:
            guard.wait()
        else:  # it goes on without us
            threading.Thread(target=guard.wait, name="guard", daemon=True).start()


def _line(command: str, **arguments: object) -> bytes:
    request: dict[str, object] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    return json.dumps(request).encode() + b"\n"


def _reply(link: socket.socket, until: float, sentinel: bytes = b"") -> dict[str, Any]:
    """The next line; with a sentinel, the first that stands behind one."""
    line = b""
    while not line.endswith(b"\n"):
        link.settimeout(max(0.01, until - time.monotonic()))
        piece = link.recv(1)
        if not piece:
            raise ConnectionResetError(104, "closed")
        line = b"" if sentinel and piece == sentinel else line + piece
        if len(line) > 1 << 16:
            raise ValueError("a line without an end")
    found = json.loads(line.replace(_SENTINEL, b"") or b"{}")
    if not isinstance(found, dict):
        raise ValueError(f"{found!r} is no object")
    return found


def _run(command: str) -> None:
    """Run it to its end. What takes too long ends with all that it began: it could freeze when we have thawed."""
    if not command:
        return
    # A file, not a pipe: what the command leaves running (a service) may keep it open, and is not waited for.
    with tempfile.TemporaryFile() as said:
        fcntl.fcntl(said, fcntl.F_SETFL, os.O_APPEND)  # what is written after it was cut short begins at its start
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait(process, said)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise BusyError(f"{command!r}: did not end within {COMMAND_S:.0f} s") from None
        if process.returncode:
            last = _end_of(said).decode(errors="replace").strip().rpartition("\n")[2]
            raise StorageError(f"{command!r}: exit code {process.returncode}{f': {last}' if last else ''}")


def _wait(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """TimeoutExpired when it does not end in time. Whoever says too much must not fill the disk meanwhile."""
    until = time.monotonic() + COMMAND_S
    while True:
        try:
            process.wait(_LOOK_S)
            return
        except subprocess.TimeoutExpired:
            if time.monotonic() >= until:
                raise
        if os.fstat(said.fileno()).st_size > _SAID_LIMIT:
            os.ftruncate(said.fileno(), 0)


def _end_of(said: IO[bytes]) -> bytes:
    return os.pread(said.fileno(), 4096, max(0, os.fstat(said.fileno()).st_size - 4096))


def stand_guard(kind: str, what: str) -> None:
    """The guard's whole life: wait for `done` from the one who freezes; thaw when it ends or hangs instead."""
    print("on guard", flush=True)
    ready, _, _ = select.select([sys.stdin], [], [], GUARD_S)
    if ready and sys.stdin.readline() == "done\n":
        return
    if kind == "agent":
        insist(Agent(Path(what)))
        return
    for _ in range(3):
        if not failure(Commands("", what).thaw):
            return
        time.sleep(1)


def insist(agent: Agent) -> None:
    """Tell a guest to thaw until it says that it did: it may still be busy with the freeze, or with one who died."""
    until = time.monotonic() + INSIST_S
    while time.monotonic() < until:
        with contextlib.suppress(BlockReplicaError):
            agent.thaw()
            return
        if not agent.listens():
            return
        time.sleep(_AGAIN_S)


if __name__ == "__main__":
    stand_guard(*sys.argv[1:3])
