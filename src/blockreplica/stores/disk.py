"""Writing one disk of a replica: every change is planned, its before-image saved, and only then made.

What must hold (rules 13 to 16): `disk.img` is overwritten only where the undo log, durable and published, has the old
content and the old checksum. Changes therefore gather in a stage; `flush` publishes the undo log, then writes image
and table. Where the replica has no recovery point yet, nothing can be lost and no undo log is kept.

After a crash the image may hold any mixture of old and new granules, and the table anything about the blocks that the
undo log names. `settle` computes those entries again from what the image holds; then the movement goes on on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..checksums import ENTRY_SIZE, PAGE_ENTRIES, PAGE_SIZE, ChecksumTable, block_count, proved
from ..errors import DamageError, TableError, translated
from ..extents import Extent
from ..files import File, Files, data_bytes
from ..manifest import ReplicaRecord
from . import undo
from .blend import (
    BATCH_BYTES,
    EXTENT,
    Blend,
    batches,
    blend,
    block_rows,
    checksums_of,
    granule_rows,
    split_long,
    touched_blocks,
    zero_mask,
)
from .layout import GRANULE, DiskLayout, table_key
from .undo import UndoWriter

STAGE_BYTES = 16 << 20
HEAL_PAGES = 1024
ZERO_WINDOW = 8 << 20
TABLE_PAGES = 1024  # held at most: 4 MiB
Array = NDArray[Any]


class DiskWriter:
    """One disk of a session. `begin` is called before the first byte of the replica changes."""

    def __init__(
        self, layout: DiskLayout, record: ReplicaRecord, index: int, epoch: int, *,
        begin: Callable[[], None], files: Files,
    ) -> None:  # fmt: skip
        self._layout, self._epoch, self._files, self._begin = layout, epoch, files, begin
        self._block_size, self._seed = record.block_size, record.seed
        self._history = epoch > 1
        files.make_folder(layout.folder)
        fresh = not (files.exists(layout.image) and files.exists(layout.table))
        self.image = files.open(layout.image, write=True, create=True)
        self._table_file = files.open(layout.table, write=True, create=True)
        if fresh:
            files.sync_folder(layout.folder)
        self.table = ChecksumTable(self._table_file, table_key(record.relationship, index))
        self._undo: UndoWriter | None = None
        self._stale = self.image.size() > 0
        self._doubtful: dict[int, NDArray[np.bool_]] = {}  # by page: entries that were computed and not proved
        self._rooms = [bytearray(), bytearray()]
        self._stage: list[Blend] = []
        self._staged_blocks: set[int] = set()
        self._staged_bytes = 0

    def heal(self) -> None:
        """Compute table pages that are bad anew from the image, as a resync wants it: it then compares them."""
        pages, at = -(-self._table_file.size() // PAGE_SIZE), 0
        while at < pages and (data := self._table_file.next_data(at * PAGE_SIZE)) is not None:
            at = data // PAGE_SIZE
            self._known_entries(at * PAGE_ENTRIES, min(HEAL_PAGES, pages - at) * PAGE_ENTRIES)
            at += HEAL_PAGES

    def settle(self) -> None:
        """Take up what an interrupted movement left: the undo log, and true table entries for all that it names.

        For all, whatever was made durable since: a block that was overwritten twice has left no second row.
        TableError when a page of them is bad: `heal` first, and resynchronize.
        """
        if not self._history or not self._files.exists(self._layout.undo_index(self._epoch)):
            return
        blocks, count = self._open_undo().touched(), block_count(self.image.size(), self._block_size)
        self._sum_again(blocks[blocks < count])
        self.table.resize(count)

    def write(self, rows: Array, data: memoryview, *, proved: bool = False) -> int:
        """Bring EXTENT `rows` of `data` (sorted, within the disk) into the replica; returns the bytes that were new.

        What stays of a touched block must be what its checksum says, or a damaged block would get a checksum that
        calls it right: DamageError, unless the caller has `proved` that the blocks are right afterwards.
        """
        changed = 0
        for batch in batches(split_long(rows, self._block_size), self._block_size):
            blocks = touched_blocks(batch, self._block_size)
            if self._staged_bytes >= STAGE_BYTES or not self._staged_blocks.isdisjoint(blocks.tolist()):
                self.flush()
            plan = blend(
                batch, data, blocks, self._content(blocks), self._room(1, len(blocks)),
                block_size=self._block_size, size=self.image.size(), seed=self._seed,
            )  # fmt: skip
            self._check(blocks, plan.old_entries, plan.blocks, proved=proved)
            if len(plan.granules):
                self._save_before(plan.granules, plan.old, plan.blocks)
                self._stage.append(replace(plan, old=plan.old[:0]))
                self._staged_blocks.update(plan.blocks.tolist())
                self._staged_bytes += plan.new.nbytes
                changed += plan.changed_bytes
        return changed

    def zero(self, extent: Extent, *, proved: bool = False) -> int:
        """Make an extent zero; returns the bytes that were not. Holes cost nothing. `proved` as in `write`."""
        self.flush()
        at, end, changed = extent.offset, min(extent.end, self.image.size()), 0
        nothing = memoryview(bytes(min(ZERO_WINDOW, max(0, end - at))))
        while at < end:
            data = self.image.next_data(at)
            if data is None or data >= end:
                break
            at = max(at, data)
            length = min(end - at, ZERO_WINDOW)
            changed += self.write(np.array([(at, length, 0)], EXTENT), nothing, proved=proved)
            at += length
        return changed

    def reset(self) -> None:
        """Forget all content: for a replica that has no point yet, whose interrupted copy can't be trusted."""
        if self.image.size():
            self._first_only()
            self._begin()
            self.image.truncate(0)
            self.table.resize(0)
            self._stale = False

    def copy(self, source: File, extent: Extent) -> int:
        """Copy an extent, of whole table pages, from a file: for a replica that has no point yet."""
        self._first_only()
        self._begin()
        blocks = block_count(extent.length, self._block_size)
        entries = bytearray(-(-blocks // PAGE_ENTRIES) * PAGE_ENTRIES * ENTRY_SIZE)
        written = self.image.copy_from(
            source, extent.offset, extent.length, self._block_size,
            memoryview(entries)[: blocks * ENTRY_SIZE], seed=self._seed, punch=self._stale,
        )  # fmt: skip
        self.table.write(extent.offset // self._block_size, entries)
        return written

    def differing(self, source: File, extent: Extent, *, deep: bool) -> tuple[Array, int]:
        """EXTENT rows (no buffer places) where an extent of a file differs from the replica; and bytes read.

        By the checksum table, reading the source only; or `deep`, reading both, which also mends table entries that
        do not tell the truth about the image. What is staged meanwhile is not seen: windows come once, in order.
        """
        first, count = extent.offset // self._block_size, block_count(extent.length, self._block_size)
        theirs = bytearray(count * ENTRY_SIZE)
        ours = self._known_entries(first, count)
        unit = GRANULE if deep else self._block_size
        bits = bytearray(-(-extent.length // unit) // 8 + 1)
        with translated(source.path, f"comparing {extent.length} bytes from offset {extent.offset}"):
            scanned = self._compare(source, extent, theirs, ours, bits, deep=deep)
        if deep:
            self._mend(first, ours, theirs, bits)
        runs = np.frombuffer(kernels.bitmap_runs(bits, 0, -(-extent.length // unit)), "<u8").reshape(-1, 2)
        rows = np.zeros(len(runs), EXTENT)
        rows["offset"] = runs[:, 0] * unit + extent.offset
        rows["length"] = np.minimum(runs[:, 1] * unit, extent.offset + extent.length - rows["offset"])
        return rows, scanned

    def resize(self, size: int, *, proved: bool = False) -> None:
        """Let the disk be `size` bytes; a tail that goes is saved first, grown space reads as zeros.

        The blocks at its ends get new checksums; `proved` as in `write`.
        """
        old = self.image.size()
        if size == old:
            return
        if size < old:
            self.zero(Extent(size, old - size), proved=proved)
        self.flush()
        edges = np.array(sorted({max(0, min(size, old) - 1) // self._block_size, max(0, old - 1) // self._block_size}))
        edges = edges[edges < block_count(old, self._block_size)]
        for some, entries in self._sums(edges):
            self._check(some, entries, some, proved=proved)
        if self._history:
            self._save_before(np.zeros(0, np.int64), np.zeros((0, GRANULE), np.uint8), edges)
            self._begin()
            self._open_undo().publish()
        else:
            self._begin()
        self.image.truncate(size)
        self.table.resize(block_count(size, self._block_size))
        edges = edges[edges < block_count(size, self._block_size)]
        self._sum_again(edges)
        self.table.flush()

    def flush(self) -> None:
        """Publish the before-images of the stage, then write it into image and table."""
        if not self._stage:
            self.table.flush()
            return
        self._begin()
        if self._history:
            self._open_undo().publish()
        for plan in self._stage:
            self._write_granules(plan.granules, plan.new)
            self.table.load(plan.blocks.tolist())
            for block, entry in zip(plan.blocks.tolist(), plan.entries, strict=True):
                self.table.put(block, entry.tobytes())
        self.table.flush()
        self._stage.clear()
        self._staged_blocks.clear()
        self._staged_bytes = 0

    def sync(self) -> None:
        """Flush, then fsync image and table."""
        self.flush()
        self.image.sync()
        self._table_file.sync()

    def seal(self) -> None:
        """Close the epoch's undo log for good; an epoch that overwrote nothing gets an empty index."""
        if not self._history:
            return
        if self._undo is not None:
            self._undo.finish()
            self._undo = None
        else:
            self._files.make_folder(self._layout.undo)
            self._files.write_durably(self._layout.undo_index(self._epoch), undo.empty_index())

    def close(self) -> None:
        """Let go of the files; what was staged and not flushed is dropped."""
        if self._undo is not None:
            self._undo.close()
        self.image.close()
        self._table_file.close()

    def _first_only(self) -> None:
        if self._history:
            raise AssertionError("this would overwrite what recovery points need")

    def _open_undo(self) -> UndoWriter:
        if self._undo is None:
            self._undo = UndoWriter(self._layout, self._epoch, self._block_size, files=self._files)
        return self._undo

    def _check(self, blocks: Array, entries: Array, changing: Array, *, proved: bool) -> None:
        """Compare the checksums of what `blocks` hold with the table, before some of them change."""
        wrong = (self.table.entries(blocks.tolist()) != entries).any(axis=1)
        if wrong.any():
            if self._history and not proved:
                raise DamageError(f"{self._layout.image}: block at offset {int(blocks[wrong][0]) * self._block_size} "
                                  "does not match its checksum")  # fmt: skip
            mended = wrong & ~np.isin(blocks, changing)  # those get new entries anyway
            self._begin()
            for block, entry in zip(blocks[mended].tolist(), entries[mended], strict=True):
                self.table.put(block, entry.tobytes())
        if self.table.held > TABLE_PAGES:
            self.table.flush()

    def _save_before(self, granules: Array, old: Array, blocks: Array) -> None:
        if not self._history:
            return
        numbers = blocks.tolist()
        self.table.load(numbers)
        entries = b"".join(map(self.table.get, numbers))
        known = np.ones(len(blocks), np.bool_)
        pages = blocks // PAGE_ENTRIES
        for page in self._doubtful.keys() & set(pages.tolist()):
            known[pages == page] = ~self._doubtful[page][blocks[pages == page] % PAGE_ENTRIES]
        checksums = np.frombuffer(entries, np.uint8).reshape(-1, ENTRY_SIZE)
        self._open_undo().save(granules, old, blocks, checksums, known)

    def _write_granules(self, granules: Array, content: Array) -> None:
        zero, size = zero_mask(content), self.image.size()
        rows = granule_rows(granules[~zero])
        rows["length"] = np.minimum(rows["length"], size - rows["offset"])
        self.image.write_extents(rows, np.ascontiguousarray(content[~zero]))
        for offset, length, _ in granule_rows(granules[zero]).tolist():
            self.image.zero(offset, min(length, size - offset))

    def _content(self, blocks: Array) -> memoryview:
        """What `blocks` hold, until the next call."""
        content = self._room(0, len(blocks))
        self.image.read_extents(block_rows(blocks, self._block_size), content)
        return content

    def _room(self, which: int, blocks: int) -> memoryview:
        """One of two buffers, kept: fresh memory for each batch costs more than the work in it."""
        needed = blocks * self._block_size
        if len(self._rooms[which]) < needed:
            self._rooms[which] = bytearray(needed)
        return memoryview(self._rooms[which])[:needed]

    def _sum_again(self, blocks: Array) -> None:
        """Let the table say what the image holds of `blocks`."""
        for some, entries in self._sums(blocks):
            self.table.load(some.tolist())
            for block, entry in zip(some.tolist(), entries, strict=True):
                self.table.put(block, entry.tobytes())

    def _sums(self, blocks: Array) -> Iterator[tuple[Array, Array]]:
        """The checksums of what the image holds of `blocks`, in batches of them."""
        step = max(1, BATCH_BYTES // self._block_size)
        for start in range(0, len(blocks), step):
            some = blocks[start : start + step]
            yield (
                some,
                checksums_of(
                    self._content(some), some, block_size=self._block_size, size=self.image.size(), seed=self._seed
                ),
            )

    def _known_entries(self, first: int, count: int) -> bytearray:
        """The table's entries; those of bad pages computed from the image, which is what a resync compares with."""
        entries, unknown = self.table.read(first, count)
        if not unknown:
            return entries
        self._begin()
        for bad in unknown:
            self._heal_page(bad.start // PAGE_ENTRIES)
        entries, unknown = self.table.read(first, count)
        if unknown:
            raise TableError(f"{self._layout.table}: page {unknown[0].start // PAGE_ENTRIES} is bad again once written")
        return entries

    def _heal_page(self, page: int) -> None:
        blocks = block_count(self.image.size(), self._block_size)
        whole = np.arange(page * PAGE_ENTRIES, min((page + 1) * PAGE_ENTRIES, blocks), dtype=np.int64)
        computed = bytearray(PAGE_ENTRIES * ENTRY_SIZE)
        for some, entries in self._sums(whole):
            at = int(some[0]) % PAGE_ENTRIES * ENTRY_SIZE
            computed[at : at + entries.nbytes] = entries.tobytes()
        doubtful = ~proved(self.table.raw(page), page, self.table.key, computed)
        if doubtful.any():
            self._doubtful[page] = doubtful
        self.table.write(page * PAGE_ENTRIES, computed)

    def _compare(
        self, source: File, extent: Extent, theirs: bytearray, ours: bytearray, bits: bytearray, *, deep: bool
    ) -> int:
        """Fill `theirs` with the source's checksums and `bits` with what differs; returns the bytes read."""
        where, size, seed = (extent.offset, extent.length), self._block_size, self._seed
        if deep:
            both = source.fileno(), self.image.fileno()
            kernels.compare_files(*both, *where, size, GRANULE, theirs, bits, seed=seed)
            return sum(data_bytes(fd, extent.offset, extent.end) for fd in both)
        scanned = kernels.checksum_file(source.fileno(), *where, size, theirs, seed=seed)
        kernels.compare_tables(ours, theirs, bits)
        return scanned

    def _mend(self, first: int, ours: bytearray, theirs: bytearray, bits: bytearray) -> None:
        each, wrong = self._block_size // GRANULE, bytearray(len(ours) // ENTRY_SIZE // 8 + 1)
        if not kernels.compare_tables(ours, theirs, wrong):
            return
        at = 0
        while (run := kernels.bitmap_next(wrong, at, len(ours) // ENTRY_SIZE)) is not None:
            for block in range(run[0], run[0] + run[1]):
                if not kernels.bitmap_count(bits, block * each, min(each, len(bits) * 8 - block * each)):
                    self._begin()
                    self.table.put(first + block, bytes(theirs[block * ENTRY_SIZE : (block + 1) * ENTRY_SIZE]))
            at = run[0] + run[1]
        self.table.flush()
