"""Reading a recovery point: the first undo log after it that has an extent, else `disk.img`.

A point is proved by the checksums of its own era (see `manifest.ReplicaRecord`), even where later ones have blocks of
another size: by the undo logs of that era, then by its table, which is frozen when the era ends.

Rule 15: readers never wait for writers and are never wrong. Each read takes `disk.img` (or the table) first and looks
into the undo indexes afterwards, those that appeared meanwhile included: a granule that was overwritten before we read
it had its before-image published earlier still. A half-applied undo log is simply the newest of them, so no rollback
is ever needed to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .. import kernels
from ..arrays import Array, Bytes, np
from ..checksums import ENTRY_SIZE, PAGE_ENTRIES, ChecksumTable, block_count, proved
from ..errors import DamageError, NotFoundError
from ..extents import Extent
from ..files import File, Files
from ..manifest import PointRecord, ReplicaRecord
from .blend import touched_blocks
from .layout import DiskLayout, table_key
from .undo_index import CHECKSUM, KNOWN, UNKNOWN, ZEROS, UndoIndex

if TYPE_CHECKING:
    from ..kernels import Overlay

_TABLE_TRIES = 8  # a page read while it is being written fails its CRC; the next read sees it whole
_OPEN_LOGS = 64
_PROOF_BLOCKS = 1 << 16
LOST, DAMAGED, TRUSTED = 0, 1, 2


class PointPlace(msgspec.Struct, frozen=True):
    """What finds and proves one disk of one point; all that the C overlay (native/overlay.h) needs to read it."""

    folder: Path
    epoch: int
    newest: int
    size: int
    block_size: int
    seed: int
    table_key: int
    era: int

    def overlay(self, *, most_open: int = 0) -> Overlay:
        """The C twin of PointReader, which hands out nothing that it has not proved. OSError where that can't be."""
        return kernels.Overlay(**msgspec.structs.asdict(self), most_open=most_open)


class PointReader:
    """One disk of one point. Offsets and lengths in bytes; reads past `size` are the caller's mistake.

    `newest` is the epoch of the newest point: up to there no undo index may be missing, for without it a later content
    would pass for the point's. `image` is the newest content, for copying ahead of `undone`. `lease` is the point's
    record, locked shared: pruning leaves the point alone until it is closed.
    """

    def __init__(
        self, layout: DiskLayout, record: ReplicaRecord, point: PointRecord, index: int, *,
        newest: int, lease: File, files: Files,
    ) -> None:  # fmt: skip
        self.size = point.disks[index].size
        self.era = record.era(point.epoch)
        self.block_size = record.block_size_of(self.era)
        self.seed = record.seed
        frozen = record.frozen[self.era] if self.era < len(record.frozen) else None
        self._covers = frozen.sizes[index] if frozen else None  # what the table covers; None: the image as it is
        self._layout, self._files, self._epoch, self._lease = layout, files, point.epoch, lease
        self.image = self._opened(layout.image)
        try:
            self._table_file = self._opened(layout.table(self.era))
        except BaseException:
            self.image.close()
            raise
        self._table = ChecksumTable(self._table_file, table_key(record.relationship, index, self.era))
        self._indexes: list[UndoIndex] = []
        self._logs: dict[int, File] = {}
        try:
            self._refresh()
            missing = self._next_epoch()
            if missing <= newest:
                raise DamageError(f"{layout.undo_index(missing)}: the undo index is missing; points before epoch "
                                  f"{missing} can't be read")  # fmt: skip
        except BaseException:
            self.close()
            raise

    def pread_into(self, buffer: bytearray | memoryview, offset: int) -> None:
        """Fill `buffer` with the point's content from `offset`."""
        view = memoryview(buffer).cast("B")
        got = self.image.pread_into(view, offset)
        view[got:] = bytes(len(view) - got)
        self.overlay(view, offset)

    def overlay(self, view: memoryview, offset: int) -> list[Extent]:
        """Lay before-images over what was read from `disk.img` at `offset` *before* this call; returns where."""
        self._refresh()
        end, touched = offset + len(view), []
        for at in reversed(range(len(self._indexes))):  # newest first, so that the oldest wins
            for row in self._indexes[at].extents(offset, end):
                start, stop = int(row["offset"]), int(row["offset"] + row["length"])
                low, high = max(start, offset), min(stop, end)
                piece = view[low - offset : high - offset]
                if row["kind"] == ZEROS:
                    piece[:] = bytes(len(piece))
                elif self._log(at).pread_into(piece, int(row["log_offset"]) + low - start) != len(piece):
                    raise DamageError(f"{self._log(at).path}: wanted {len(piece)} bytes of a before-image, got fewer")
                touched.append(Extent(low, high - low))
        return touched

    def undone(self, extent: Extent) -> list[Extent]:
        """Where undo logs have something to say about an extent, unsorted; after the image was read (rule 15)."""
        self._refresh()
        return [
            found
            for index in self._indexes
            for row in index.extents(extent.offset, extent.end)
            if (found := Extent(int(row["offset"]), int(row["length"])).clip(extent.offset, extent.end))
        ]

    def checksums(self, first: int, count: int) -> tuple[bytearray, Bytes]:
        """The entries that blocks [first, first + count) had at the point, and for each how far it can be trusted:
        TRUSTED; DAMAGED, it stands in a bad page, where it counts if content proves it; LOST, it is not the one."""
        entries, unknown = self._read_table(first, count)
        known = np.full(count, TRUSTED, np.uint8)
        for blocks in unknown:
            known[blocks.start - first : blocks.stop - first] = DAMAGED
            page = blocks.start // PAGE_ENTRIES
            low, high = (ENTRY_SIZE * (block - page * PAGE_ENTRIES) for block in (blocks.start, blocks.stop))
            place = ENTRY_SIZE * (blocks.start - first)
            entries[place : place + high - low] = self._table.raw(page)[low:high]
        self._refresh()
        table = np.frombuffer(entries, np.uint8).reshape(-1, ENTRY_SIZE)
        for index in reversed(self._indexes):
            if index.era != self.era:
                continue
            rows = index.checksums(first, first + count)
            if not len(rows):  # as of most, where there are thousands
                continue
            at = (rows["block"] - first).astype(np.int64)
            table[at] = np.ascontiguousarray(rows["checksum"]).view(np.uint8).reshape(-1, ENTRY_SIZE)
            known[at] = np.where(rows["kind"] == KNOWN, TRUSTED, LOST)
        return entries, known

    def proofs(self, index: UndoIndex) -> Array:
        """CHECKSUM rows, ascending, of what `index`, the one behind the point, touched, by all that proves the point:
        for one that goes on into a later era, where it says nothing itself of some blocks."""
        blocks = touched_blocks(index.extents(0, self.size), self.block_size)
        blocks = blocks[blocks < block_count(self.size, self.block_size)]
        rows = np.zeros(len(blocks), CHECKSUM)
        rows["block"] = blocks
        for low, high in runs_of(blocks, _PROOF_BLOCKS):
            entries, trust = self.checksums(int(blocks[low]), high - low)
            rows["checksum"][low:high] = np.frombuffer(entries, rows["checksum"].dtype)
            rows["kind"][low:high] = np.where(trust == TRUSTED, KNOWN, UNKNOWN)
        return rows

    def bad_pages(self, first: int, count: int) -> list[int]:
        """The pages of the table around blocks [first, first + count) that do not match their CRC."""
        return [blocks.start // PAGE_ENTRIES for blocks in self._read_table(first, count)[1]]

    def proves(self, page: int, computed: dict[int, bytes]) -> bool:
        """Whether a bad page of the table is whole once these entries, by block, stand in the place of its own."""
        raw = self._table.raw(page)
        entries = bytearray(raw[: PAGE_ENTRIES * ENTRY_SIZE])
        for block, entry in computed.items():
            at = block % PAGE_ENTRIES * ENTRY_SIZE
            entries[at : at + ENTRY_SIZE] = entry
        return bool(proved(raw, page, self._table.key, entries).all())

    def close(self) -> None:
        """Close all files."""
        for file in (self.image, self._table_file, self._lease, *self._logs.values()):
            file.close()
        for index in self._indexes:
            index.close()

    def __enter__(self) -> PointReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self, path: Path) -> File:
        try:
            return self._files.open(path)
        except NotFoundError:
            raise DamageError(f"{path}: is missing; only what undo logs hold of the replica is left") from None

    def _read_table(self, first: int, count: int) -> tuple[bytearray, list[range]]:
        """The table's entries, and the block ranges, each within one page, of which it is damaged or ends before."""
        entries, unknown = self._table.read(first, count)
        for _ in range(_TABLE_TRIES):
            if not unknown:
                break
            entries, unknown = self._table.read(first, count)
        bad = {blocks.start: blocks for blocks in unknown}
        covered = self.image.size() if self._covers is None else self._covers
        for page in self._table.missing(block_count(covered, self.block_size)):
            blocks = range(max(first, page * PAGE_ENTRIES), min(first + count, (page + 1) * PAGE_ENTRIES))
            if blocks:
                bad[blocks.start] = blocks
        return entries, [*bad.values()]

    def _refresh(self) -> None:
        """See every index there is by now: each tells which epoch comes after it, so the first gap is the end."""
        if self._indexes:
            self._indexes[-1].refresh()
        while True:
            path = self._layout.undo_index(self._next_epoch())
            index = UndoIndex.probe(path, files=self._files)
            if index is None:
                return
            if self._indexes:  # it grows no longer, and will not again, now that there is a next one
                self._indexes[-1].refresh()
            self._indexes.append(index)
            if index.growing:
                index.refresh()

    def _next_epoch(self) -> int:
        return (self._indexes[-1].last if self._indexes else self._epoch) + 1

    def _log(self, at: int) -> File:
        log = self._logs.get(at)
        if log is None:
            if len(self._logs) >= _OPEN_LOGS:
                self._logs.pop(next(iter(self._logs))).close()
            path = self._indexes[at].log_path
            try:
                log = self._logs[at] = self._files.open(path)
            except NotFoundError:
                raise DamageError(f"{path}: the undo log is missing; points before epoch {self._indexes[at].first} "
                                  "can't be read where it changed the disk") from None  # fmt: skip
        return log


def runs_of(blocks: Array, most: int) -> Iterator[tuple[int, int]]:
    """Where runs of consecutive blocks begin and end in an ascending array, none over `most`."""
    if not len(blocks):
        return
    edges = [0, *(np.flatnonzero(np.diff(blocks.astype(np.int64)) != 1) + 1).tolist(), len(blocks)]
    for low, high in pairwise(edges):
        for start in range(low, high, most):
            yield start, min(start + most, high)
