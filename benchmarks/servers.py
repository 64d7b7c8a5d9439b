"""The contestants of the write path: NBD servers on Unix sockets, each with an image of its own, made the same way."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import blockreplica as br
from blockreplica.tracking.control import Control
from blockreplica.tracking.group import cut_together
from blockreplica.tracking.names import Names
from blockreplica.tracking.source import ImageSource
from blockreplica.tracking.types import LogMode

#: Of an epoch's log: more than any load writes, so that it is the path of a log that is measured and not its loss.
LOG_LIMIT = 64 << 30
PLAIN, QEMU = "nbdkit file", "qemu-nbd"
MODES: tuple[LogMode, ...] = ("always", "transit")


@dataclass(slots=True)
class Server:
    """Somebody who serves an image. `export` is set when it is ours."""

    name: str
    image: Path
    uri: str
    pid: int
    export: br.Export | None = None
    mode: LogMode = "always"
    cursor: UUID = field(default_factory=uuid4)

    def ready(self) -> None:
        """Before a run: what a sync leaves, so that the logs of the run before it are free to be used again."""
        if self.export is None:
            return
        release([self])
        if self.name == tracked("transit"):
            # As a sync does after its acknowledgement: what a cut begins has a log, and between syncs there is none.
            control = Control.connect(Names.of(self.image, None))
            assert control is not None
            with control:
                control.log("transit")

    def require_tracking(self) -> None:
        """After a run: it counts only if it was tracked to its end."""
        if self.export is None:
            return
        status = self.export.status()
        if status.state != "tracking":
            sys.exit(f"{self.name}: the run does not count, its state is {status.state}: {status.log_error}")


def release(servers: list[Server]) -> None:
    """Cut the images together and let the logs go, as a sync does once its replica has acknowledged."""
    sources = [ImageSource.open(server.image) for server in servers]
    for server, source, cut in zip(servers, sources, cut_together(sources), strict=True):
        if cut is None:
            sys.exit(f"{server.name}: {server.image} is not tracked")
        source.set_cursor(server.cursor, cut.epoch, log=server.mode)


@contextmanager
def process(*command: str | Path, socket: Path) -> Iterator[int]:
    """Run a server until the end of the block; it is up when its socket is."""
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not socket.exists():
            if running.poll() is not None or time.monotonic() > until:
                sys.exit(f"{command[0]} does not serve {socket}")
            time.sleep(0.01)
        yield running.pid
    finally:
        running.terminate()
        running.wait()
        socket.unlink(missing_ok=True)


def address(socket: Path) -> str:
    """As NBD clients take it."""
    return f"nbd+unix:///?socket={socket}"


@contextmanager
def nbdkit(folder: Path, image: Path) -> Iterator[Server]:
    """nbdkit's own plugin for files."""
    socket = folder / "file.nbd"
    with process("nbdkit", "-f", "-U", socket, "file", image, socket=socket) as pid:
        yield Server(PLAIN, image, address(socket), pid)


@contextmanager
def qemu_nbd(folder: Path, image: Path) -> Iterator[Server]:
    """QEMU's server, with the cache that the others have."""
    socket = folder / "qemu.nbd"
    options = ["--persistent", "--shared=16", "--format=raw", "--cache=writeback"]
    with process("qemu-nbd", *options, f"--socket={socket}", image, socket=socket) as pid:
        yield Server(QEMU, image, address(socket), pid)


@contextmanager
def ours(folder: Path, image: Path, mode: LogMode = "always") -> Iterator[Server]:
    """`blockreplica export`, and a relationship's cursor: without one, no log would ever be let go."""
    socket = folder / f"{image.name}.nbd"
    with br.export(image, socket=socket, log=mode, log_limit=LOG_LIMIT) as export:
        server = Server(tracked(mode), image, export.uri, export.pid, export, mode)
        ImageSource.open(image).begin_cursor(server.cursor, 0)
        yield server


def tracked(mode: LogMode) -> str:
    """Our name in the tables."""
    return f"export --log {mode}"


@contextmanager
def all_of_them(folder: Path, size: int) -> Iterator[list[Server]]:
    """Every contestant, at work."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = ["file", "qemu", *MODES]
    paths = {name: filled(folder / f"{name}.img", size) for name in names}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(nbdkit(folder, paths["file"])),
            stack.enter_context(qemu_nbd(folder, paths["qemu"])),
            *(stack.enter_context(ours(folder, paths[mode], mode)) for mode in MODES),
        ]
        yield servers
    shutil.rmtree(folder)


def filled(path: Path, size: int) -> Path:
    """An image without holes, in the page cache.

    It is written in pieces of 4 KiB, and not dropped and read again, as the images of the other races are: read ahead,
    it would sit in large folios, whose size is a matter of luck, and half of the time of every 4 KiB write, whoever
    makes it, would be spent in the kernel's walk through one.
    """
    noise = random.Random(7).randbytes(4 << 20)
    pieces = [noise[at : at + 4096] for at in range(0, len(noise), 4096)]
    with path.open("wb", buffering=0) as file:
        for number in range(size // 4096):
            file.write(pieces[number % len(pieces)])
        os.fsync(file.fileno())
    return path
