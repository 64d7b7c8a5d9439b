"""What the tests of tracking have in common: images, replayed logs, and file systems that fail when told to."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from blockreplica.bitmap import DirtyBitmap
from blockreplica.errors import translated
from blockreplica.files import File, Files
from blockreplica.hrl import LogReader
from blockreplica.tracking import EpochRecord, ImageSource, TrackedImage

GRANULE = 65536
KIB, MIB = 1 << 10, 1 << 20


def make_image(path: Path, size: int, *, seed: int | None = None) -> bytes:
    """An image of zeros, or of noise; returns its content."""
    content = bytes(size) if seed is None else random.Random(seed).randbytes(size)
    path.write_bytes(content)
    return content


def replay(logs: Iterable[Path | None], content: bytes | bytearray) -> bytearray:
    """The image after these sealed logs, each checked whole first. It grows where entries lie behind its end."""
    image = bytearray(content)
    for path in logs:
        assert path is not None, "an epoch has no log"
        with LogReader.open(path) as log:
            assert log.check().data == "checked"
            for rows in log.entries():
                for row in rows:
                    _apply(log, image, int(row["offset"]), int(row["length"]), int(row["source"]), row["operation"])
    return image


def _apply(log: LogReader, image: bytearray, offset: int, length: int, source: int, operation: int) -> None:
    data = bytes(length) if operation == 2 else log.file.pread(length, source)
    image.extend(bytes(max(0, offset + length - len(image))))
    image[offset : offset + length] = data


def dirty_granules(records: Iterable[EpochRecord], size: int) -> set[int]:
    """The granules that the bitmaps of these epochs name; all of them where an epoch has neither log nor bitmap."""
    found: set[int] = set()
    for record in records:
        if record.dirty is None:
            assert record.log is None
            return set(range(-(-size // GRANULE)))
        for extent in DirtyBitmap.open(record.dirty).extents():
            found.update(range(extent.offset // GRANULE, -(-extent.end // GRANULE)))
    return found


def differing_granules(one: bytes | bytearray, other: bytes | bytearray) -> set[int]:
    """The granules in which two contents differ."""
    return {
        at // GRANULE
        for at in range(0, max(len(one), len(other)), GRANULE)
        if one[at : at + GRANULE] != other[at : at + GRANULE]
    }


def unexplained(records: Iterable[EpochRecord], replica: bytes | bytearray, image: bytes) -> set[int]:
    """Granules in which a replica differs from the image although the epochs since then do not say so.

    An epoch with a log is applied; one with a bitmap alone has its granules compared and sent.
    """
    content, suspect = bytearray(replica), set()
    for record in records:
        if record.log is not None:
            content = replay([record.log], content)
        else:
            suspect |= dirty_granules([record], max(len(image), len(content)))
    return differing_granules(bytes(content[: len(image)]).ljust(len(image), b"\0"), image) - suspect


def last_record(image: Path, epoch: int) -> tuple[bool, bool]:
    """Whether the epoch has a log, a bitmap."""
    [record] = ImageSource.open(image).records(epoch - 1, epoch)
    return record.log is not None, record.dirty is not None


def overwrite(image: Path) -> None:
    """Behind the tracker's back."""
    with image.open("r+b") as file:
        file.write(b"changed")


def replace_by_a_copy(image: Path) -> None:
    """Of the same content and times."""
    other = image.with_name("other")
    shutil.copy2(image, other)
    other.rename(image)


def grow(image: Path) -> None:
    """To twice a MiB."""
    os.truncate(image, 2 * MIB)


def beside(image: Path) -> set[str]:
    """What follows the image's name in the names of its tracker's files."""
    return {path.name.removeprefix(image.name) for path in image.parent.iterdir() if path != image}


def die(tracked: TrackedImage) -> None:
    """As kill -9 would, but for the socket, which nobody would answer either."""
    tracked._tracker.drop()
    tracked.close()


#: Called before each change: what is done, the file's name, the file (if one is open), and the arguments. It may raise.
Hook = Callable[[str, str, "HookedFile | None", tuple[Any, ...]], None]


class HookedFile(File):
    """The real file; a hook hears of every change first."""

    __slots__ = ("_durable", "_hook")

    def __init__(self, path: Path, fd: int, hook: Hook, *, durable: bool = True) -> None:
        super().__init__(path, fd)
        self._hook, self._durable = hook, durable

    def pwrite(self, data: Any, offset: int) -> None:
        with translated(self.path, "pwrite"):
            self._hook("pwrite", self.path.name, self, (data, offset))
        super().pwrite(data, offset)

    def pread(self, length: int, offset: int) -> bytes:
        with translated(self.path, "pread"):
            self._hook("pread", self.path.name, self, (length, offset))
        return super().pread(length, offset)

    def zero(self, offset: int, length: int) -> None:
        with translated(self.path, "zero"):
            self._hook("zero", self.path.name, self, (offset, length))
        super().zero(offset, length)

    def truncate(self, size: int) -> None:
        with translated(self.path, "truncate"):
            self._hook("truncate", self.path.name, self, (size,))
        super().truncate(size)

    def sync(self) -> None:
        with translated(self.path, "sync"):
            self._hook("sync", self.path.name, self, ())
        if self._durable:
            super().sync()

    def write_past_the_hook(self, data: bytes, offset: int) -> None:
        """For a hook that does a part of a write before it fails it."""
        super().pwrite(data, offset)


class HookedFiles(Files):
    """The real file system; a hook hears of every change first. Not `durable`: an fsync is heard of, not done."""

    def __init__(self, hook: Hook | None = None, *, durable: bool = True) -> None:
        self.hook: Hook = hook or (lambda *_: None)
        self.durable = durable

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        if create:
            self.hook("create", path.name, None, ())
        with super().open(path, write=write, create=create, exclusive=exclusive) as plain:
            return HookedFile(path, os.dup(plain.fileno()), lambda *event: self.hook(*event), durable=self.durable)

    def rename(self, source: Path, target: Path) -> None:
        self.hook("rename", source.name, None, (target.name,))
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.hook("unlink", path.name, None, ())
        super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        self.hook("sync folder", path.name, None, ())
        if self.durable:
            super().sync_folder(path)


def failing(number: int, what: str, name: str) -> Hook:
    """A hook that fails every `what` of file `name` with this errno."""

    def hook(event: str, file: str, _: HookedFile | None, __: tuple[Any, ...]) -> None:
        if event == what and file == name:
            raise OSError(number, os.strerror(number))

    return hook
