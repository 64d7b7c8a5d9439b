"""Writing one disk of a replica: every change is planned, its before-image saved, and only then made.

What must hold (rules 13 to 16): `disk.img` is overwritten only where the undo log, durable and published, has the old
content and the old checksum. Changes therefore gather in stages (`stage.py`), of which one is published and written
while the next gathers. Where the replica has no recovery point yet, nothing can be lost and no undo log is kept.

After a crash the image may hold any mixture of old and new granules, and the table anything about the blocks that the
undo log names. `settle` computes those entries again from what the image holds; then the movement goes on on top.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

import msgspec

from .. import kernels
from ..arrays import Array, Bools, np
from ..checksums import ENTRY_SIZE, PAGE_ENTRIES, ChecksumTable, block_count
from ..errors import translated
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
    granule_rows,
    picked,
    split_long,
    touched_blocks,
    touched_granules,
    zero_mask,
)
from .churn import Sampler
from .layout import GRANULE, DiskLayout, table_key
from .stage import Stages
from .truth import TableTruth
from .undo import UndoWriter

ZERO_WINDOW = 8 << 20
TABLE_PAGES = 1024  # held at most: 4 MiB


class Scan(msgspec.Struct):
    """What was read of an extent: the checksums of its blocks, and after a deep scan a bit for each granule that
    differed from the replica."""

    extent: Extent
    deep: bool
    sums: bytearray
    bits: bytearray = msgspec.field(default_factory=bytearray)
    bytes_read: int = 0


class DiskWriter:
    """One disk of a session. `begin` is called before the first byte of the replica changes."""

    def __init__(
        self, layout: DiskLayout, record: ReplicaRecord, index: int, epoch: int, *,
        begin: Callable[[], None], files: Files,
    ) -> None:  # fmt: skip
        self._layout, self._epoch, self._files, self._begin = layout, epoch, files, begin
        self._block_size, self._seed = record.block_size, record.seed
        self._history, self._era = epoch > 1, len(record.frozen)
        files.make_folder(layout.undo)
        table = layout.table(self._era)
        fresh = not (files.exists(layout.image) and files.exists(table))
        self.image = files.open(layout.image, write=True, create=True)
        self._table_file = files.open(table, write=True, create=True)
        if fresh:
            files.sync_folder(layout.folder)
        self.table = ChecksumTable(self._table_file, table_key(record.relationship, index, self._era))
        self.truth = TableTruth(self.image, self.table, block_size=record.block_size, seed=record.seed, begin=begin)
        self.churn = Sampler()
        self._undo: UndoWriter | None = None
        self._stale, self.unsettled = self.image.size() > 0, sys.maxsize
        self._again = False  # nothing tells what an interrupted first copy has written: all is written again
        self._stages = Stages(
            files, publishing=self._publishing, write=self._write_plan, landed=self._landed, sync=self.image.sync
        )
        self._old = bytearray()  # kept: fresh memory for each batch costs more than the work in it

    @property
    def block_size(self) -> int:
        """What one checksum covers."""
        return self._block_size

    def settle(self, *, resumed: bool, compared: bool, size: int | None) -> None:
        """Take up what an interrupted movement left: the undo log, and true table entries for all that it names.

        For all, whatever was made durable since: a block that was overwritten twice has left no second row. What it
        wrote is written again: an fsync may have failed, and then it only reads as if it were on the disk.
        TableError when a page of them is bad, or the table ends too early: `truth.heal` first, and resynchronize.

        A half-written block becomes again what it was at the newest point, where the disk had `size` bytes, and must
        then match the checksum that it had there: DamageError. But for a movement that will have `compared` it all from
        byte `unsettled` on: it stays as it is.
        """
        self._again = resumed and not self._history
        if resumed:  # an fsync may have failed: from here on what is read is what the disk has
            self.image.forget_cache()
        if self._history:
            self.truth.require_whole()
        if not self._history or not self._files.exists(self._layout.undo_index(self._epoch)):
            return
        for granules in self._open_undo().overwritten():
            self._write_again(granules)
        blocks, count = self._open_undo().touched(), self.truth.blocks()
        for some, entries in self.truth.sums(blocks[blocks < count]):
            wrong = np.flatnonzero(self.truth.wrong(some, entries))
            for at, block in zip(wrong.tolist(), some[wrong].tolist(), strict=True):
                self.unsettled = min(self.unsettled, block * self._block_size)
                if not compared and size is not None:
                    entries[at] = self._roll_back(block, size, entries[at])
            self.truth.set(some, entries)
        self.table.resize(count)

    def write(self, rows: Array, data: memoryview, *, proved: bool = False, doubted: bool = False) -> int:
        """Bring EXTENT `rows` of `data` (sorted, within the disk) into the replica; returns the bytes that were new.

        What stays of a touched block must be what its checksum says, or a damaged block would get a checksum that
        calls it right: DamageError, unless the caller has `proved` that the blocks are right afterwards, or is going
        to (`doubted`): then older points keep the checksum that such a block does not have, unless the block gets the
        content that has it: that is theirs too.
        """
        changed = 0
        for batch in batches(split_long(rows, self._block_size), self._block_size, whole=self._again):
            blocks = touched_blocks(batch, self._block_size)
            self._stages.make_way(blocks)
            plan = self._plan(batch, data, blocks)
            self._check(blocks, plan, proved=proved, doubted=doubted)
            if len(plan.granules):
                self._save_old(plan)
                self.churn.add(plan.new)
                self._stages.add(plan)
                changed += plan.changed_bytes
        return changed

    def zero(self, extent: Extent, *, doubted: bool = False) -> int:
        """Make an extent zero; returns the bytes that were not. Holes cost nothing. `doubted` as in `write`."""
        self.flush()
        at, end, changed = extent.offset, min(extent.end, self.image.size()), 0
        nothing = memoryview(bytes(min(ZERO_WINDOW, max(0, end - at))))
        while at < end:
            data = self.image.next_data(at)
            if data is None or data >= end:
                break
            at = max(at, data)
            length = min(end - at, ZERO_WINDOW)
            changed += self.write(np.array([(at, length, 0)], EXTENT), nothing, doubted=doubted)
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

    def scan(self, source: File, extent: Extent, *, deep: bool) -> Scan:
        """Read an extent of a file, and where it is to be compared `deep` the replica's too.

        In any thread, while other extents are written: the table is left to `differing`.
        """
        count = block_count(extent.length, self._block_size)
        scan, where = Scan(extent, deep, bytearray(count * ENTRY_SIZE)), (extent.offset, extent.length)
        size, seed = self._block_size, self._seed
        with (
            translated(source.path, f"comparing {extent.length} bytes from offset {extent.offset}"),
            source.window(*where) as fd,
        ):
            if deep:
                both, scan.bits = (fd, self.image.fileno()), bytearray(extent.length // GRANULE // 8 + 1)
                kernels.compare_files(*both, *where, size, GRANULE, scan.sums, scan.bits, seed=seed)
                scan.bytes_read = sum(data_bytes(each, extent.offset, extent.end) for each in both)
            else:
                scan.bytes_read = kernels.checksum_file(fd, *where, size, scan.sums, seed=seed)
        return scan

    def differing(self, scan: Scan) -> Array:
        """EXTENT rows (no buffer places) where what was scanned differs from the replica.

        By the checksum table; after a deep scan by the content, which also mends table entries that do not tell the
        truth about the image. What is staged meanwhile is not seen: windows come once, in order.
        """
        extent, unit, bits = scan.extent, GRANULE if scan.deep else self._block_size, scan.bits
        first, count = extent.offset // self._block_size, block_count(extent.length, self._block_size)
        ours = self.truth.known_entries(first, count)
        if scan.deep:
            self.truth.mend(first, ours, scan.sums, bits)
        else:
            bits = bytearray(count // 8 + 1)
            kernels.compare_tables(ours, scan.sums, bits)
        runs = np.frombuffer(kernels.bitmap_runs(bits, 0, -(-extent.length // unit)), "<u8").reshape(-1, 2)
        rows = np.zeros(len(runs), EXTENT)
        rows["offset"] = runs[:, 0] * unit + extent.offset
        rows["length"] = np.minimum(runs[:, 1] * unit, extent.end - rows["offset"])
        return rows

    def resize(self, size: int, *, doubted: bool = False) -> None:
        """Let the disk be `size` bytes; a tail that goes is saved first, grown space reads as zeros.

        DamageError, and `doubted`, as in `write`.
        """
        old = self.image.size()
        if size == old:
            return
        blocks = block_count(size, self._block_size)
        edges = np.array(sorted({max(0, min(size, old) - 1) // self._block_size, max(0, old - 1) // self._block_size}))
        edges = edges[edges < block_count(old, self._block_size)]
        self.flush()
        if self._history:
            self._keep_entries(edges, doubted=doubted)
        self.zero(Extent(size, max(0, old - size)), doubted=doubted)
        self.flush()
        if self._history:
            for tail in self.truth.nonzero(blocks, block_count(old, self._block_size)):  # and it is all zero by now
                self._keep_entries(tail, doubted=doubted)
            self._begin()
            self._open_undo().publish()
        else:
            self._begin()
        if size > old:  # the table never ends before the image: where it does, it is damaged
            self.table.resize(blocks)
        self.image.truncate(size)
        self.table.resize(blocks)
        self.truth.sum_again(edges[edges < blocks])
        self.table.flush()

    def hasten(self) -> None:
        """Let what was written begin to become durable, and go on meanwhile."""
        self._stages.hasten()

    def flush(self) -> None:
        """Publish the before-images of the stage, then write it into image and table."""
        self._stages.flush()
        self.table.flush()

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
            self._files.write_durably(self._layout.undo_index(self._epoch), undo.empty_index(self._era))

    def close(self) -> None:
        """Let go of the files; what was staged and not flushed is dropped."""
        with ExitStack() as stack:
            stack.callback(self._table_file.close)
            stack.callback(self.image.close)
            if self._undo is not None:
                stack.callback(self._undo.close)
            self._stages.end()

    def _plan(self, rows: Array, data: memoryview, blocks: Array) -> Blend:
        size, end = self.image.size(), (int(blocks[-1]) + 1) * self._block_size
        granules = touched_granules(rows, blocks, self._block_size, size, whole=self._again)
        length = len(granules) * GRANULE
        new, start = self._stages.room(length), int(blocks[0]) * self._block_size
        if len(self._old) < length:
            self._old = bytearray(max(length, BATCH_BYTES))
        with self.image.window(start, end - start) as fd, translated(self.image.path, f"reading from offset {start}"):
            return blend(
                fd, rows, data, blocks, granules, memoryview(self._old)[:length], new,
                block_size=self._block_size, size=size, seed=self._seed, again=self._again,
            )  # fmt: skip

    def _publishing(self) -> Callable[[], None]:
        self._begin()
        return self._open_undo().publishing() if self._history else lambda: None

    def _write_plan(self, plan: Blend) -> None:
        self._write_granules(plan.granules, plan.new, plan.new_zero)

    def _landed(self, plan: Blend) -> None:
        self.truth.set(plan.blocks, plan.entries)

    def _first_only(self) -> None:
        if self._history:
            raise AssertionError("this would overwrite what recovery points need")

    def _open_undo(self) -> UndoWriter:
        if self._undo is None:
            self._undo = UndoWriter(self._layout, self._epoch, self._block_size, era=self._era, files=self._files)
        return self._undo

    def _check(self, blocks: Array, plan: Blend, *, proved: bool, doubted: bool) -> None:
        """Compare what `blocks` held with the table, before `plan` changes them."""
        wrong = self.truth.wrong(blocks, plan.old_entries)
        if wrong.any():
            if self._history and not (proved or doubted):
                raise self.truth.damage(int(blocks[wrong][0]))
            if doubted:
                self._save_entries(blocks[wrong])
            mended = wrong & ~np.isin(blocks, plan.blocks)  # those that change get a new entry anyway
            self._begin()
            self.truth.set(blocks[mended], plan.old_entries[mended])
        if self.table.held > TABLE_PAGES:
            self.table.flush()

    def _keep_entries(self, blocks: Array, *, doubted: bool) -> None:
        """Save the checksums of `blocks`, which are going to be cut off, or to be summed over another length."""
        for some, entries in self.truth.sums(blocks):
            wrong = self.truth.wrong(some, entries)
            if wrong.any() and not doubted:
                raise self.truth.damage(int(some[wrong][0]))
        self._save_entries(blocks)

    def _save_before(self, granules: Array, old: Array, blocks: Array, zero: Bools) -> None:
        if self._history:
            entries = self.table.entries(blocks)
            self._open_undo().save(granules, old, zero, blocks, entries, self.truth.known(blocks))

    def _save_old(self, plan: Blend) -> None:
        """Keep what a plan overwrites; not of a damaged block that becomes what its checksum says: older points want
        that, not the rot."""
        healed, old = ~self.truth.wrong(plan.blocks, plan.entries), plan.old
        kept = ~np.isin(plan.granules // (self._block_size // GRANULE), plan.blocks[healed])
        if healed.any():
            old = picked(old, kept)
        self._save_before(plan.granules[kept], old, plan.blocks[~healed], plan.old_zero[kept])

    def _save_entries(self, blocks: Array) -> None:
        """Save checksums alone."""
        self._save_before(np.zeros(0, np.int64), np.zeros((0, GRANULE), np.uint8), blocks, np.zeros(0, np.bool_))

    def _roll_back(self, block: int, size: int, entry: Array) -> Array:
        """Give a block its content of the newest point back; returns the checksum of what it holds then."""
        start, content = block * self._block_size, bytearray(self._block_size)
        self.image.read_extents(block_rows(np.array([block]), self._block_size), content)
        wanted = self._open_undo().restore(block, content)
        if wanted is None or start >= size:
            return entry
        if self._sum(content, size - start) != wanted:
            raise self.truth.damage(block)
        left = self.image.size() - start
        granules = np.arange(start // GRANULE, -(-(start + min(left, self._block_size)) // GRANULE), dtype=np.int64)
        held = np.frombuffer(content, np.uint8).reshape(-1, GRANULE)[: len(granules)]
        self._write_granules(granules, held, zero_mask(held))
        return np.frombuffer(self._sum(content, left), np.uint8)

    def _sum(self, content: bytearray, length: int) -> bytes:
        entry = bytearray(ENTRY_SIZE)
        kernels.checksum_buffer(memoryview(content)[:length], self._block_size, entry, seed=self._seed)
        return bytes(entry)

    def _write_again(self, granules: Array) -> None:
        granules = granules[granules * GRANULE < self.image.size()]
        if not len(granules):
            return
        self._begin()
        content = bytearray(len(granules) * GRANULE)
        self.image.read_extents(granule_rows(granules), content)
        held = np.frombuffer(content, np.uint8).reshape(-1, GRANULE)
        self._write_granules(granules, held, zero_mask(held))

    def _write_granules(self, granules: Array, content: Array, zero: Bools) -> None:
        size = self.image.size()
        rows = granule_rows(granules[~zero])
        rows["length"] = np.minimum(rows["length"], size - rows["offset"])
        self.image.write_extents(rows, np.ascontiguousarray(picked(content, ~zero)))
        for offset, length, _ in granule_rows(granules[zero]).tolist():
            self.image.zero(offset, min(length, size - offset))
