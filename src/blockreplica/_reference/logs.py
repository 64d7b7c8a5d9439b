"""Coalescing: many log entries into the extents that remain."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .arguments import check, readable, writable

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ROW = struct.Struct("<QQQII")
assert _ROW.size == 32
_WRITE, _ZERO = 1, 2


class _Row(NamedTuple):
    offset: int
    length: int
    source: int
    log: int
    operation: int

    @property
    def end(self) -> int:
        return self.offset + self.length

    def source_at(self, offset: int) -> int:
        """Where byte `offset` of the disk stands in the log; a zero stands nowhere and keeps its mark."""
        return self.source + offset - self.offset if self.operation == _WRITE else self.source

    def continues(self, last: _Row) -> bool:
        """Whether it is more of the same: behind `last` on the disk and in the log."""
        same = (last.log, last.operation) == (self.log, self.operation)
        return same and last.end == self.offset and last.source_at(self.offset) == self.source


def coalesce(entries: Buffer, out: Buffer) -> int:
    """Rows as kernels.ENTRIES, in the order written, into those that remain: the last write wins.

    What remains is sorted by offset, no row overlaps another, and those that continue one another on the disk and
    in the same log are one. The source of a write that loses its beginning moves with it; operation 2 (zero) keeps
    its own. Empty rows are ignored. Returns the number of rows in `out`, which must have room for twice the rows
    that came in; ValueError where it has not, for an unknown operation, and for a row that reaches beyond 2**64.
    O(n log n) time and O(n) memory whatever overlaps.
    """
    source, target = readable(entries), writable(out)
    check(len(source) % _ROW.size == 0, "coalesce", "entries must be rows of 32 bytes")
    rows = [_Row(*fields) for fields in _ROW.iter_unpack(source.tobytes())]
    check(len(target) // _ROW.size // 2 >= len(rows), "coalesce", "out must have room for twice the rows")
    for row in rows:
        sound = row.end < 1 << 64 and row.operation in (_WRITE, _ZERO) and row.source_at(row.end) < 1 << 64
        check(sound, "coalesce", "an entry has an unknown operation, or reaches beyond 2**64")
    count, view = 0, memoryview(target)
    for count, row in enumerate(_joined(_pieces(rows)), 1):
        _ROW.pack_into(view, (count - 1) * _ROW.size, *row)
    return count


def _pieces(rows: list[_Row]) -> Iterator[_Row]:
    """Sweep over the disk; of the rows that cover a place, held in a heap, the last written wins."""
    order = sorted((row.offset, index) for index, row in enumerate(rows) if row.length)
    order.reverse()
    covering: list[int] = []  # negated indexes: the newest is the smallest
    at = 0
    while order or covering:
        if not covering:
            at = order[-1][0]
        while order and order[-1][0] == at:
            heapq.heappush(covering, -order.pop()[1])
        while covering and rows[-covering[0]].end <= at:
            heapq.heappop(covering)
        if not covering:
            continue
        row = rows[-covering[0]]
        end = min(row.end, order[-1][0]) if order else row.end
        yield row._replace(offset=at, length=end - at, source=row.source_at(at))
        at = end


def _joined(pieces: Iterator[_Row]) -> Iterator[_Row]:
    held: _Row | None = None
    for piece in pieces:
        if held is not None and piece.continues(held):
            held = held._replace(length=held.length + piece.length)
            continue
        if held is not None:
            yield held
        held = piece
    if held is not None:
        yield held
