"""Extents: runs of bytes, half-open, the common word of every module that speaks of places on a disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

Word = TypeVar("Word")


class Extent(msgspec.Struct, frozen=True, order=True):
    """`length` bytes from byte `offset` on."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length

    def clip(self, start: int, end: int) -> Extent | None:
        """The part within [start, end), or None."""
        low, high = max(self.offset, start), min(self.end, end)
        return Extent(low, high - low) if low < high else None

    def aligned(self, unit: int, limit: int) -> Extent:
        """The smallest extent of whole units around it, cut at `limit`."""
        low = self.offset // unit * unit
        return Extent(low, min(-(-self.end // unit) * unit, limit) - low)


def merged(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same bytes as `extents`, which come sorted by offset, with touching and overlapping ones joined."""
    held: Extent | None = None
    for extent in extents:
        if held is None:
            held = extent
        elif extent.offset <= held.end:
            held = Extent(held.offset, max(held.end, extent.end) - held.offset)
        else:
            yield held
            held = extent
    if held is not None:
        yield held


def neighbours(extents: Iterable[Extent], *, gap: int, most: int) -> Iterator[list[Extent]]:
    """Ascending extents in groups: each begins at most `gap` behind the one before it, and none of several is longer
    than `most` from end to end."""
    group: list[Extent] = []
    for extent in extents:
        if group and (extent.offset - group[-1].end > gap or extent.end - group[0].offset > most):
            yield group
            group = []
        group.append(extent)
    if group:
        yield group


def within(wanted: Iterable[Extent], told: Iterable[tuple[Extent, Word]]) -> Iterator[tuple[Extent, Word]]:
    """The parts of ascending extents that do not overlap, each with the word for the one of `told` that it lies in.
    What is told is ascending, too, and leaves out nothing that is wanted."""
    asked = iter(wanted)
    extent = next(asked, None)
    for part, word in told:
        while extent is not None and (inside := extent.clip(part.offset, part.end)):
            yield inside, word
            if extent.end > part.end:
                break
            extent = next(asked, None)


def windows(size: int, step: int, start: int = 0) -> Iterator[Extent]:
    """The disk from `start` to `size` in pieces of `step` bytes, the last one shorter."""
    for offset in range(start, size, step):
        yield Extent(offset, min(step, size - offset))


def total(extents: Iterable[Extent]) -> int:
    """Bytes in all of them."""
    return sum(extent.length for extent in extents)
