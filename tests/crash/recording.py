"""A file system that remembers every change, so that a test can build what a power cut may leave of it.

`RecordingFiles` does everything for real below a folder and notes it. `PowerCut` takes the notes up to some call and
builds a folder as a disk might hold it then: what was fsynced is there; of the rest any part may be, in any order,
torn at sectors; names are durable only when their folder was fsynced, and appear in the order they were made.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockreplica import kernels
from blockreplica.files import File, Files

SECTOR = 512


@dataclass(slots=True)
class Op:
    """One change: `what` is write, zero, truncate, sync, lost, create, rename, unlink, mkdir, rmdir or syncdir."""

    what: str
    inode: int = 0
    path: str = ""
    target: str = ""
    offset: int = 0
    length: int = 0
    data: bytes = b""


class RecordingFile(File):
    """Notes every write; reads and locks as they are."""

    __slots__ = ("_files", "inode")

    def __init__(self, path: Path, fd: int, files: RecordingFiles) -> None:
        super().__init__(path, fd)
        self._files = files
        self.inode = os.fstat(fd).st_ino

    def pwrite(self, data: Any, offset: int) -> None:
        raw = bytes(memoryview(data).cast("B"))
        self._files.note(Op("write", self.inode, str(self.path), offset=offset, length=len(raw), data=raw))
        super().pwrite(raw, offset)

    def write_extents(self, extents: Any, buffer: Any) -> None:
        if not memoryview(extents).nbytes:
            return
        rows, view = memoryview(bytes(memoryview(extents).cast("B"))).cast("Q"), memoryview(buffer).cast("B")
        for at in range(0, len(rows), 3):
            offset, length, start = rows[at : at + 3]
            self.pwrite(view[start : start + length], offset)

    def copy_from(
        self, source: File, offset: int, length: int, block_size: int, table: Any, *, seed: int, punch: bool
    ) -> int:
        content = source.pread(length, offset)
        kernels.checksum_buffer(content, block_size, table, seed=seed)
        written = 0
        for at in range(0, length, 4096):
            piece = content[at : at + 4096]
            if any(piece):
                self.pwrite(piece, offset + at)
                written += len(piece)
            elif punch:
                self.zero(offset + at, len(piece))
        return written

    def zero(self, offset: int, length: int) -> None:
        self._files.note(Op("zero", self.inode, str(self.path), offset=offset, length=length))
        super().zero(offset, length)

    def truncate(self, size: int) -> None:
        self._files.note(Op("truncate", self.inode, str(self.path), length=size))
        super().truncate(size)

    def sync(self) -> None:
        if not self._files.lies(self.path):
            self._files.note(Op("sync", self.inode, str(self.path)))


class RecordingFiles(Files):
    """`lies` tells of which paths an fsync is a lie: done for nobody, to see a test go red."""

    def __init__(self, lies: Callable[[Path], bool] = lambda _: False) -> None:
        self.ops: list[Op] = []
        self.lies = lies

    def note(self, op: Op) -> None:
        """Remember a change, before it is made; tests override to fail it."""
        self.ops.append(op)

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        new = not path.exists()
        with super().open(path, write=write, create=create, exclusive=exclusive) as plain:
            file = RecordingFile(path, os.dup(plain.fileno()), self)
        if new:
            self.note(Op("create", file.inode, str(path)))
        return file

    def rename(self, source: Path, target: Path) -> None:
        self.note(Op("rename", path=str(source), target=str(target)))
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        if path.exists():
            self.note(Op("unlink", path=str(path)))
        super().unlink(path)

    def make_folder(self, path: Path) -> None:
        if path.is_dir():
            return
        self.make_folder(path.parent)
        self.note(Op("mkdir", path=str(path)))
        path.mkdir()
        self.sync_folder(path.parent)

    def sync_folder(self, path: Path) -> None:
        if not self.lies(path):
            self.note(Op("syncdir", path=str(path)))


class Unsynced(Files):
    """The real file system without its fsyncs, which only cost time where no power is cut any more."""

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        with super().open(path, write=write, create=create, exclusive=exclusive) as plain:
            return _UnsyncedFile(path, os.dup(plain.fileno()))

    def sync_folder(self, path: Path) -> None:
        pass


class _UnsyncedFile(File):
    __slots__ = ()

    def sync(self) -> None:
        pass


@dataclass(slots=True)
class _Inode:
    durable: bytearray
    waiting: list[Op] = field(default_factory=list)


class PowerCut:
    """What a disk may hold. Starts from a folder whose content is durable; `feed` it notes; `build` a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inodes: dict[int, _Inode] = {}
        self._names: dict[str, int] = {}
        self._folders: set[str] = set()
        self._moves: dict[str, list[Op]] = {}
        for folder, _, names in os.walk(root):
            self._folders.add(folder)
            for name in names:
                path = Path(folder) / name
                self._names[str(path)] = path.stat().st_ino
                self._inodes[path.stat().st_ino] = _Inode(bytearray(path.read_bytes()))

    def feed(self, op: Op) -> None:
        """Let one change reach the (volatile) system."""
        if op.what in ("write", "zero", "truncate"):
            self._inodes[op.inode].waiting.append(op)
        elif op.what == "sync":
            inode = self._inodes[op.inode]
            for waiting in inode.waiting:
                _do(inode.durable, waiting)
            inode.waiting.clear()
        elif op.what == "lost":  # a failed fsync: what waited reads as written for as long as the system runs
            self._inodes[op.inode].waiting.clear()
        elif op.what == "syncdir":
            for move in self._moves.pop(op.path, []):
                self._move(self._names, self._folders, move)
        else:
            if op.what == "create":
                self._inodes[op.inode] = _Inode(bytearray())
            self._moves.setdefault(str(Path(op.path).parent), []).append(op)

    def build(self, target: Path, rng: random.Random | None) -> None:
        """Write a possible content below `target`; without `rng` all that was written is there (a mere kill)."""
        names, folders = dict(self._names), set(self._folders)
        for moves in self._moves.values():
            for move in moves[: len(moves) if rng is None else rng.randint(0, len(moves))]:
                self._move(names, folders, move)
        for folder in sorted(folders):
            (target / os.path.relpath(folder, self._root)).mkdir(parents=True, exist_ok=True)
        for path, number in names.items():
            inode = self._inodes[number]
            content = bytearray(inode.durable)
            for op in _survivors(inode.waiting, rng):
                _do(content, op)
            place = target / os.path.relpath(path, self._root)
            if place.parent.is_dir():
                place.write_bytes(content)

    def _move(self, names: dict[str, int], folders: set[str], op: Op) -> None:
        if op.what == "create":
            names[op.path] = op.inode
        elif op.what == "rename":
            if op.path in names:
                names[op.target] = names.pop(op.path)
        elif op.what == "unlink":
            names.pop(op.path, None)
        elif op.what == "mkdir":
            folders.add(op.path)


def _survivors(waiting: list[Op], rng: random.Random | None) -> list[Op]:
    """Some of the writes that were not fsynced, shuffled, some of them torn."""
    if rng is None:
        return waiting
    keep = rng.random()
    chosen = [op for op in waiting if rng.random() < keep]
    if rng.random() < 0.5:
        rng.shuffle(chosen)
    return [_torn(op, rng) if op.what == "write" and rng.random() < 0.2 else op for op in chosen]


def _torn(op: Op, rng: random.Random) -> Op:
    sectors = -(-op.length // SECTOR)
    cut = rng.randint(0, sectors) * SECTOR
    if rng.random() < 0.5:
        return Op("write", op.inode, offset=op.offset, data=op.data[:cut])
    return Op("write", op.inode, offset=op.offset + min(cut, op.length), data=op.data[cut:])


def _do(content: bytearray, op: Op) -> None:
    if op.what == "truncate":
        del content[op.length :]
        content.extend(bytes(op.length - len(content)))
    elif op.what == "zero":
        end = min(op.offset + op.length, len(content))
        content[op.offset : end] = bytes(max(0, end - op.offset))
    elif op.data:
        end = op.offset + len(op.data)
        content.extend(bytes(max(0, end - len(content))))
        content[op.offset : end] = op.data
