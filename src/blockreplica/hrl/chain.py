"""The positions of a log's metadata blocks: found by walking back, handed out going forward, in bounded memory.

A block knows only the distance to the one before it. The walk is done in pieces; of all but the oldest only the newest
position is kept, and the piece is walked once more when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import kernels
from ..arrays import Array, np
from ..errors import translated
from ..files import File
from .format import raise_fault

PIECE = 65536


class Chain:
    """The blocks from the first to the one at `last`; `last` 0 means that there is none."""

    __slots__ = ("_file", "_newest", "_oldest", "_raw", "entries")

    def __init__(self, file: File, raw: bytes, last: int) -> None:
        self._file, self._raw = file, raw
        #: The newest position of each piece but the oldest, newest piece first.
        self._newest: list[int] = []
        self._oldest: Array = np.zeros(0, "<u8")
        #: How many entries the blocks say they hold, in all.
        self.entries = 0
        while last:
            found, entries, before = self._walk(last)
            self.entries += entries
            if before:
                self._newest.append(last)
            else:
                self._oldest = found
            last = before

    def forward(self) -> Iterator[Array]:
        """The positions, ascending, in arrays of at most PIECE."""
        if len(self._oldest):
            yield self._oldest
        for newest in reversed(self._newest):
            yield self._walk(newest)[0]

    def _walk(self, position: int) -> tuple[Array, int, int]:
        """A piece from `position` back, ascending; the entries in it; the position before it, 0 for none."""
        positions = np.empty(PIECE, "<u8")
        with translated(self._file.path, f"reading at offset {position}"):
            count, entries, before, fault = kernels.hrl_walk(self._file.fileno(), self._raw, position, positions.data)
        raise_fault(self._file.path, fault)
        return positions[:count][::-1].copy(), entries, before
