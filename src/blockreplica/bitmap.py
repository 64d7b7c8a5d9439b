"""Saved dirty bitmaps, `vm.img.<epoch>.dirty`: which granules of an image an ended epoch may have changed.

The tracker writes them (`native/dirty_file.h` has the table of bytes); here they are read, checked whole before the
first bit is believed, in windows, so that memory does not grow with the disk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec

from . import kernels
from .errors import TrackingError
from .extents import Extent, merged
from .files import FILES, File, Files

VERSION = 1
HEADER_SIZE = 4096
WINDOW = 1 << 16  # bytes of bitmap read at a time; 32 GiB of image
_MAGIC = b"brdirty\0"
_FIELDS = struct.Struct("<8sII16sQQQQ16sI16sI")
assert _FIELDS.size == 104

#: How an epoch ended: by a cut or in order, by the death of its tracker, or as the machine went down.
Ended = Literal["cut", "death", "power"]
_ENDED: tuple[Ended, ...] = ("cut", "death", "power")


class DirtyBitmap(msgspec.Struct, frozen=True):
    """The header of a saved bitmap. `size` is the image's at the end of the epoch; `covered` what the bits stand
    for, more where the image shrank in that epoch; `marked` how many bits are set; `chain` the epoch's UUID,
    `previous` that of the epoch before it.
    """

    path: Path
    tracking_id: UUID
    epoch: int
    size: int
    covered: int
    granule: int
    marked: int
    chain: UUID
    previous: UUID
    ended: Ended = "cut"

    @classmethod
    def open(cls, path: Path, *, files: Files = FILES) -> DirtyBitmap:
        """Read the header and check every byte of the file; raises TrackingError, NotFoundError, StorageError."""
        with files.open(path) as file:
            bitmap, crc = _decode(path, file.pread(HEADER_SIZE, 0))
            _check(bitmap, file, crc)
        return bitmap

    @property
    def length(self) -> int:
        """Bytes of bitmap."""
        return (self._granules + 7) // 8

    @property
    def _granules(self) -> int:
        return -(-self.covered // self.granule)

    def extents(self, *, files: Files = FILES) -> Iterator[Extent]:
        """What may have changed, sorted and merged, cut at `covered`."""
        with files.open(self.path) as file:
            yield from merged(self._pieces(file))

    def _pieces(self, file: File) -> Iterator[Extent]:
        for first, bits in _windows(file, self.length):
            start = first * 8
            runs = kernels.bitmap_runs(bits, 0, min(len(bits) * 8, self._granules - start))
            for run, count in struct.iter_unpack("<QQ", runs):
                offset = (start + run) * self.granule
                yield Extent(offset, min(count * self.granule, self.covered - offset))


def _windows(file: File, length: int) -> Iterator[tuple[int, bytes]]:
    for first in range(0, length, WINDOW):
        wanted = min(WINDOW, length - first)
        bits = file.pread(wanted, HEADER_SIZE + first)
        if len(bits) < wanted:
            raise TrackingError.at(file.path, HEADER_SIZE + first, "bitmap ends early", wanted=wanted, got=len(bits))
        yield first, bits


def _decode(path: Path, raw: bytes) -> tuple[DirtyBitmap, int]:
    if len(raw) < HEADER_SIZE:
        raise TrackingError.at(path, 0, "header ends early", wanted=HEADER_SIZE, got=len(raw))
    (
        magic, version, granule, tracking_id, epoch, size, marked, covered, chain, crc, previous, ended,
    ) = _FIELDS.unpack_from(raw)  # fmt: skip
    if magic != _MAGIC:
        raise TrackingError.at(path, 0, "magic", wanted=_MAGIC, got=magic)
    stored, computed = int.from_bytes(raw[-4:], "little"), kernels.crc32c(raw[:-4])
    if stored != computed:
        raise TrackingError.at(path, HEADER_SIZE - 4, "CRC of the header", wanted=computed, got=stored)
    if version != VERSION:
        hint = "a newer blockreplica wrote it" if version > VERSION else ""
        raise TrackingError.at(path, 8, "version", wanted=VERSION, got=version, hint=hint)
    if granule < 512 or size > covered:
        raise TrackingError.at(
            path, 12, "granule or size", wanted="a bitmap of its image", got=(granule, size, covered)
        )
    bitmap = DirtyBitmap(
        path, UUID(bytes_le=tracking_id), epoch, size, covered, granule, marked,
        UUID(bytes_le=chain), UUID(bytes_le=previous), _ENDED[ended] if ended < len(_ENDED) else "cut",
    )  # fmt: skip
    return bitmap, crc


def _check(bitmap: DirtyBitmap, file: File, crc: int) -> None:
    wanted = HEADER_SIZE + bitmap.length
    if file.size() != wanted:
        raise TrackingError.at(bitmap.path, HEADER_SIZE, "length of the file", wanted=wanted, got=file.size())
    computed, count = 0, 0
    for _, bits in _windows(file, bitmap.length):
        computed = kernels.crc32c(bits, computed)
        count += kernels.bitmap_count(bits, 0, len(bits) * 8)
    if computed != crc or count != bitmap.marked:
        raise TrackingError.at(bitmap.path, 80, "CRC of the bitmap", wanted=crc, got=computed)
