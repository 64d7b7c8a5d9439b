"""A set of block or granule numbers, kept in a scratch file: memory does not grow with the disk.

It answers "is there a before-image of this granule already?" (rule 16). Nothing of it needs to be durable: the undo
index says the same, and the set is filled from there when an interrupted movement goes on.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import Files

_PAGE = 4096
_SHIFT = 15  # numbers a page: 4096 bytes of 8 bits
_HELD = 256  # pages in memory: 1 MiB


class SeenSet:
    """The set; `add` is all there is to it."""

    def __init__(self, path: Path, *, files: Files) -> None:
        self._path = path
        self._files = files
        self._file = files.open(path, write=True, create=True)
        self._file.truncate(0)
        self._pages: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def add(self, numbers: NDArray[Any]) -> NDArray[np.bool_]:
        """Add ascending `numbers`; tells for each whether it is new."""
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

    def add_run(self, first: int, count: int) -> None:
        """Add consecutive numbers."""
        step = 1 << _SHIFT
        for start in range(first, first + count, step):
            self.add(np.arange(start, min(start + step, first + count), dtype=np.int64))

    def discard(self) -> None:
        """Remove the scratch file."""
        self._file.close()
        self._files.unlink(self._path)

    def _page(self, number: int) -> NDArray[Any]:
        page = self._pages.get(number)
        if page is None:
            raw = bytearray(_PAGE)
            self._file.pread_into(raw, number * _PAGE)
            page = self._pages[number] = np.frombuffer(raw, np.uint8)
            if len(self._pages) > _HELD:
                old, content = self._pages.popitem(last=False)
                self._file.pwrite(content.tobytes(), old * _PAGE)
        self._pages.move_to_end(number)
        return page
