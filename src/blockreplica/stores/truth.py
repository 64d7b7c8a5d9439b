"""What the checksum table says of a replica's disk, against what the disk holds: compared, computed anew, mended.

The two may differ in four ways: a page fails its CRC, the file ends before its last page, an interrupted movement left
one of them written, or the disk was damaged. The first two are computed anew from content, the third is named by the
undo log; the last must never be: a damaged block must not get a checksum that fits it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .. import kernels
from ..arrays import Array, Bools, np
from ..checksums import ENTRY_SIZE, PAGE_ENTRIES, PAGE_SIZE, ChecksumTable, block_count, proved
from ..errors import DamageError, TableError
from ..files import File
from .blend import BATCH_BYTES, block_rows, checksums_of
from .layout import GRANULE

HEAL_PAGES = 1024


class TableTruth:
    """Table and image of one disk. `begin` is called before the first entry changes."""

    def __init__(
        self, image: File, table: ChecksumTable, *, block_size: int, seed: int, begin: Callable[[], None]
    ) -> None:
        self._image, self._table, self._begin = image, table, begin
        self._block_size, self._seed = block_size, seed
        self._doubtful: dict[int, Bools] = {}  # by page: entries that were computed and not proved
        self._held = bytearray()

    def blocks(self) -> int:
        """Blocks that the image has now."""
        return block_count(self._image.size(), self._block_size)

    def require_whole(self) -> None:
        """TableError when the table ends before the image does."""
        missing = self._table.missing(self.blocks())
        if missing:
            raise TableError(f"{self._table.file.path}: ends before page {missing.start}; a resync computes it anew")

    def damage(self, block: int) -> DamageError:
        """The error for a block that is not what the table says."""
        at = block * self._block_size
        return DamageError(f"{self._image.path}: block at offset {at} does not match its checksum")

    def wrong(self, blocks: Array, entries: Array) -> Bools:
        """Of which `blocks` the table has other entries than these."""
        wrong: Bools = (self._table.entries(blocks) != entries).any(axis=1)
        return wrong

    def set(self, blocks: Array, entries: Array) -> None:
        """Let the table have these entries."""
        self._table.put_many(blocks, entries)

    def nonzero(self, first: int, end: int) -> Iterator[Array]:
        """Those of blocks [first, end) whose entries are not a zero block's, in batches."""
        step = HEAL_PAGES * PAGE_ENTRIES
        for start in range(first, end, step):
            entries, _ = self._table.read(start, min(step, end - start))
            yield np.flatnonzero(np.frombuffer(entries, np.uint64).reshape(-1, 2).any(axis=1)) + start

    def known(self, blocks: Array) -> Bools:
        """Which of `blocks` have the entry that they always had, or one that was proved."""
        known, pages = np.ones(len(blocks), np.bool_), blocks // PAGE_ENTRIES
        for page in self._doubtful.keys() & set(pages.tolist()):
            known[pages == page] = ~self._doubtful[page][blocks[pages == page] % PAGE_ENTRIES]
        return known

    def heal(self) -> None:
        """Compute table pages that are bad anew from the image, as a resync wants it: it then compares them."""
        for page in self._table.missing(self.blocks()):
            self._begin()
            self._heal_page(page)
        pages, at = -(-self._table.file.size() // PAGE_SIZE), 0
        while at < pages and (data := self._table.file.next_data(at * PAGE_SIZE)) is not None:
            at = data // PAGE_SIZE
            self.known_entries(at * PAGE_ENTRIES, min(HEAL_PAGES, pages - at) * PAGE_ENTRIES)
            at += HEAL_PAGES

    def content(self, blocks: Array) -> memoryview:
        """What `blocks` hold, until the next call."""
        needed = len(blocks) * self._block_size
        if len(self._held) < needed:
            self._held = bytearray(needed)  # kept: fresh memory for each batch costs more than the work in it
        content = memoryview(self._held)[:needed]
        self._image.read_extents(block_rows(blocks, self._block_size), content)
        return content

    def sum_again(self, blocks: Array) -> None:
        """Let the table say what the image holds of `blocks`."""
        for some, entries in self.sums(blocks):
            self.set(some, entries)

    def sums(self, blocks: Array) -> Iterator[tuple[Array, Array]]:
        """The checksums of what the image holds of `blocks`, in batches of them."""
        step, size, seed = max(1, BATCH_BYTES // self._block_size), self._image.size(), self._seed
        for start in range(0, len(blocks), step):
            some = blocks[start : start + step]
            yield some, checksums_of(self.content(some), some, block_size=self._block_size, size=size, seed=seed)

    def known_entries(self, first: int, count: int) -> bytearray:
        """The table's entries; those of bad pages computed from the image, which is what a resync compares with."""
        entries, unknown = self._table.read(first, count)
        if not unknown:
            return entries
        self._begin()
        for bad in unknown:
            self._heal_page(bad.start // PAGE_ENTRIES)
        entries, unknown = self._table.read(first, count)
        if unknown:
            page = unknown[0].start // PAGE_ENTRIES
            raise TableError(f"{self._table.file.path}: page {page} is bad again once written")
        return entries

    def mend(self, first: int, ours: bytearray, theirs: bytearray, bits: bytearray) -> None:
        """Set the entries right of blocks that both sides have alike: no granule of theirs is set in `bits`."""
        each, wrong = self._block_size // GRANULE, bytearray(len(ours) // ENTRY_SIZE // 8 + 1)
        if not kernels.compare_tables(ours, theirs, wrong):
            return
        at = 0
        while (run := kernels.bitmap_next(wrong, at, len(ours) // ENTRY_SIZE)) is not None:
            for block in range(run[0], run[0] + run[1]):
                if not kernels.bitmap_count(bits, block * each, min(each, len(bits) * 8 - block * each)):
                    self._begin()
                    self._table.put(first + block, bytes(theirs[block * ENTRY_SIZE : (block + 1) * ENTRY_SIZE]))
            at = run[0] + run[1]
        self._table.flush()

    def _heal_page(self, page: int) -> None:
        whole = np.arange(page * PAGE_ENTRIES, min((page + 1) * PAGE_ENTRIES, self.blocks()), dtype=np.int64)
        computed = bytearray(PAGE_ENTRIES * ENTRY_SIZE)
        for some, entries in self.sums(whole):
            at = int(some[0]) % PAGE_ENTRIES * ENTRY_SIZE
            computed[at : at + entries.nbytes] = entries.tobytes()
        doubtful = ~proved(self._table.raw(page), page, self._table.key, computed)
        if doubtful.any():
            self._doubtful[page] = doubtful
        self._table.write(page * PAGE_ENTRIES, computed)
