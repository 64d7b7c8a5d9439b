"""A set of block or granule numbers whose memory does not grow with the disk.

It answers "is there a before-image of this granule already?" (rule 16). A small set is an array; a large one moves to
bits in a scratch file. Nothing of it needs to be durable: the undo index says the same, and the set is filled from
there when an interrupted movement goes on.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

from ..arrays import Array, Bools, np
from ..files import Files

MOST_HELD = 1 << 18  # numbers in the array: 2 MiB
_PAGE = 4096
_SHIFT = 15  # numbers a page: 4096 bytes of 8 bits
_PAGES_HELD = 256  # in memory: 1 MiB


class SeenSet:
    """The set. `add` is all there is to it."""

    def __init__(self, path: Path, *, files: Files) -> None:
        self._path, self._files = path, files
        self._held: Array = np.zeros(0, np.int64)
        self._bits: _BitFile | None = None
        files.unlink(path)

    def add(self, numbers: Array) -> Bools:
        """Add ascending `numbers`; tells for each whether it is new."""
        if self._bits is not None:
            return self._bits.add(numbers)
        at = np.searchsorted(self._held, numbers)
        inside = at < len(self._held)
        fresh = np.ones(len(numbers), np.bool_)
        fresh[inside] = self._held[at[inside]] != numbers[inside]
        self._held = np.insert(self._held, at[fresh], numbers[fresh])
        if len(self._held) > MOST_HELD:
            self._bits = _BitFile(self._path, files=self._files)
            self._bits.add(self._held)
            self._held = self._held[:0]
        return fresh

    def add_run(self, first: int, count: int) -> None:
        """Add consecutive numbers."""
        step = 1 << _SHIFT
        for start in range(first, first + count, step):
            self.add(np.arange(start, min(start + step, first + count), dtype=np.int64))

    def discard(self) -> None:
        """Remove the scratch file, if there is one."""
        if self._bits is not None:
            self._bits.close()
            self._files.unlink(self._path)
            self._bits = None


class _BitFile:
    """A bit a number, the pages in use held in memory."""

    def __init__(self, path: Path, *, files: Files) -> None:
        self._file = files.open(path, write=True, create=True)
        self._pages: OrderedDict[int, Array] = OrderedDict()

    def add(self, numbers: Array) -> Bools:
        fresh = np.ones(len(numbers), np.bool_)
        pages = numbers >> _SHIFT
        starts = np.flatnonzero(np.diff(pages, prepend=-1))
        for low, high in pairwise([*starts.tolist(), len(numbers)]):
            page = self._page(int(pages[low]))
            at = (numbers[low:high] >> 3) & (_PAGE - 1)
            mask = np.left_shift(1, numbers[low:high] & 7).astype(np.uint8)
            fresh[low:high] = (page[at] & mask) == 0
            np.bitwise_or.at(page, at, mask)
        return fresh

    def close(self) -> None:
        self._file.close()

    def _page(self, number: int) -> Array:
        page = self._pages.get(number)
        if page is None:
            raw = bytearray(_PAGE)
            self._file.pread_into(raw, number * _PAGE)
            page = self._pages[number] = np.frombuffer(raw, np.uint8)
            if len(self._pages) > _PAGES_HELD:
                old, content = self._pages.popitem(last=False)
                self._file.pwrite(content.tobytes(), old * _PAGE)
        self._pages.move_to_end(number)
        return page
