"""A file system that remembers every change, so that a test can build what a power cut may leave of it (`power.py`).

`RecordingFiles` does everything for real below a folder and notes it, before it is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from blockreplica import kernels
from blockreplica.ahead import Aside
from blockreplica.files import File, Files


@dataclass(slots=True)
class Op:
    """One change: `what` is write, zero, truncate, sync, forget, lost, create, rename, unlink, mkdir or syncdir."""

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
        self, source: File, offset: int, length: int, block_size: int, table: Any, *,
        seed: int, punch: bool, lazy: bool = False,
    ) -> int:  # fmt: skip
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

    def clone_from(self, source: File) -> bool:
        if self._files.clones:
            self.truncate(0)
            self.pwrite(source.pread(source.size(), 0), 0)
        return self._files.clones

    def sync(self) -> None:
        if not self._files.lies(self.path):
            self._files.note(Op("sync", self.inode, str(self.path)))

    def forget_cache(self) -> None:
        self.sync()
        self._files.note(Op("forget", self.inode, str(self.path)))
        self._files.forgotten(self)


class Deferred(Aside):
    """What a thread may do at any moment, done at the first moment or at the last, so that a run can be repeated."""

    def __init__(self, work: Callable[[], None], *, late: bool) -> None:
        self._work: Callable[[], None] | None = work
        self._error, self._done = None, Event()
        if not late:
            self.end()

    def wait(self) -> None:
        self.end()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            self._run(work)


class RecordingFiles(Files):
    """`lies` tells of which paths an fsync is a lie: done for nobody, to see a test go red. `clones`: whether files can
    share blocks. `late`: whether work aside is done as late as may be, or at once."""

    def __init__(
        self, lies: Callable[[Path], bool] = lambda _: False, *, clones: bool = False, late: bool = False
    ) -> None:
        self.ops: list[Op] = []
        self.lies, self.clones, self._late = lies, clones, late

    def aside(self, work: Callable[[], None]) -> Aside:
        return Deferred(work, late=self._late)

    def note(self, op: Op) -> None:
        """Remember a change, before it is made; tests override to fail it."""
        self.ops.append(op)

    def forgotten(self, file: RecordingFile) -> None:
        """Memory forgets a file; tests override to let what the disk did not get go."""

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        new = not path.exists()
        with super().open(path, write=write, create=create, exclusive=exclusive) as plain:
            file = RecordingFile(path, os.dup(plain.fileno()), self)
        if new:
            try:
                self.note(Op("create", file.inode, str(path)))
            except BaseException:
                path.unlink()
                raise
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
        plain = super().open(path, write=write, create=create, exclusive=exclusive)
        file = _UnsyncedFile(path, plain.fileno())
        plain._fd = -1  # handed over
        return file

    def sync_folder(self, path: Path) -> None:
        pass


class _UnsyncedFile(File):
    __slots__ = ()

    def sync(self) -> None:
        pass

    def forget_cache(self) -> None:
        pass
