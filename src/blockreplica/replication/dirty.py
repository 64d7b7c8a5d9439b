"""What ended epochs may have changed, by their dirty bitmaps: the extents that a partial resync compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge

from ..bitmap import DirtyBitmap
from ..errors import LogError
from ..extents import Extent, merged
from ..files import Files
from ..hrl import LogReader
from ..tracking import EpochRecord


def dirty_extents(
    records: Sequence[EpochRecord], size: int, block_size: int, largest: int, files: Files
) -> list[Extent]:
    """Sorted extents of whole blocks, none over `largest` bytes, that `records` may have changed on a disk of `size`.

    An epoch of which nothing is left makes it the whole disk.
    """
    sources = [_extents(record, files) for record in records]
    if any(source is None for source in sources):
        found: Iterator[Extent] = iter([Extent(0, size)])
    else:
        found = merge(*(source for source in sources if source is not None))
    clipped = (part.aligned(block_size, size) for extent in found if (part := extent.clip(0, size)))
    return [piece for extent in merged(clipped) for piece in _pieces(extent, largest)]


def _pieces(extent: Extent, largest: int) -> Iterator[Extent]:
    for at in range(extent.offset, extent.end, largest):
        yield Extent(at, min(largest, extent.end - at))


def _extents(record: EpochRecord, files: Files) -> Iterator[Extent] | None:
    if record.dirty is not None:
        return DirtyBitmap.open(record.dirty, files=files).extents(files=files)
    if record.log is None:
        return None
    try:
        with LogReader.open(record.log, files=files) as log:
            log.check()
            rows = [row for chunk in log.entries() for row in chunk[["offset", "length"]].tolist()]
    except LogError:
        return None
    return iter(sorted(Extent(offset, length) for offset, length in rows))
