"""What ended epochs may have changed, by their dirty bitmaps: the extents that a partial resync compares.

A TiB with every other granule dirty has eight million of them: they are made as they are asked for, each time anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge

import msgspec

from ..arrays import Array, np
from ..bitmap import DirtyBitmap
from ..errors import LogError
from ..extents import Extent, merged
from ..files import Files
from ..hrl import LogReader
from ..tracking import EpochRecord

ROWS_A_STEP = 4096


class DirtyExtents(msgspec.Struct, frozen=True):
    """Sorted extents that can be gone through again and again. `found` yields what may have changed, sorted."""

    found: Callable[[], Iterator[Extent]]
    size: int
    block_size: int
    largest: int

    def __iter__(self) -> Iterator[Extent]:
        clipped = (
            part.aligned(self.block_size, self.size) for extent in self.found() if (part := extent.clip(0, self.size))
        )
        for extent in merged(clipped):
            for at in range(extent.offset, extent.end, self.largest):
                yield Extent(at, min(self.largest, extent.end - at))


def dirty_extents(
    records: Sequence[EpochRecord], size: int, block_size: int, largest: int, files: Files
) -> DirtyExtents:
    """Sorted extents of whole blocks, none over `largest` bytes, that `records` may have changed on a disk of `size`.

    An epoch of which nothing is left makes it the whole disk.
    """
    sources = [_extents(record, files) for record in records]
    known = [source for source in sources if source is not None]

    def found() -> Iterator[Extent]:
        return merge(*(source() for source in known)) if len(known) == len(sources) else iter([Extent(0, size)])

    return DirtyExtents(found, size, block_size, largest)


def _extents(record: EpochRecord, files: Files) -> Callable[[], Iterator[Extent]] | None:
    if record.dirty is not None:
        bitmap = DirtyBitmap.open(record.dirty, files=files)
        return lambda: bitmap.extents(files=files)
    if record.log is None:
        return None
    try:
        with LogReader.open(record.log, files=files) as log:
            log.check()
            rows = np.concatenate([np.zeros((0, 2), np.uint64), *(_places(chunk) for chunk in log.entries())])
    except LogError:
        return None
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return lambda: (
        Extent(*row) for at in range(0, len(rows), ROWS_A_STEP) for row in rows[at : at + ROWS_A_STEP].tolist()
    )


def _places(chunk: Array) -> Array:
    return np.stack([chunk["offset"].astype(np.uint64), chunk["length"].astype(np.uint64)], axis=1)
