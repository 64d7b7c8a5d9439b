"""Another block size for a replica that has points: the era of one checksum table ends, that of the next begins.

What must hold: points of an era are proved by its own checksums for ever. So its table is not converted: nothing writes
it any more, and later undo logs say of which era their checksums are. A new table, of the newest content, is made
beside it, each block proved by the old one first: damage must not get a checksum that calls it right.

    new table, fsync, folder fsynced ── copy of the record, fsync ── record, fsync: the new era

Until the record is replaced the new table is a leftover that the next change begins anew; whatever is killed, the
replica goes on in one era or in the other.
"""

from __future__ import annotations

import msgspec

from .. import kernels
from ..checksums import ENTRY_SIZE, PAGE_ENTRIES, ChecksumTable, block_count
from ..errors import DamageError, RefusedError, UsageError, translated
from ..extents import Extent, windows
from ..files import File, Files
from ..manifest import FrozenTable, PointRecord, ReplicaRecord
from ..progress import Progress
from .layout import DiskLayout, ReplicaLayout, table_key
from .records import write_record

WINDOW_BYTES = 64 << 20
CHECKED_BLOCKS = PAGE_ENTRIES * 1024
TRIES = 8


def begin_era(
    layout: ReplicaLayout, record: ReplicaRecord, newest: PointRecord | None, block_size: int, *,
    pending: bool, progress: Progress, files: Files,
) -> ReplicaRecord:  # fmt: skip
    """End the era at the `newest` point; returns the record of the next. Under the replica's lock.

    UsageError: no block size; RefusedError: no point yet, or a movement is not finished; DamageError, and nothing
    changes: `disk.img` is not what its checksums say.
    """
    if newest is None or pending:
        raise RefusedError(f"{layout.folder}: has no whole newest point; run sync first, then change the block size")
    ended = FrozenTable(
        last=newest.epoch, block_size=record.block_size, sizes=[disk.size for disk in newest.disks]
    )  # fmt: skip
    changed = msgspec.structs.replace(record, block_size=block_size, frozen=[*record.frozen, ended])
    try:
        changed.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    progress.start("computing checksums", sum(ended.sizes))
    for index, size in enumerate(ended.sizes):
        _Disk(layout.disk(index), record, changed, index, size, files).convert(progress)
    write_record("replica", changed, layout.record, files, copy_first=True)
    return changed


def bad_pages(layout: DiskLayout, record: ReplicaRecord, index: int, era: int, *, files: Files) -> list[int]:
    """The pages of the table of an era that has ended, or has no point yet, that are damaged or missing."""
    ended = min(era, len(record.frozen) - 1)
    blocks = block_count(record.frozen[ended].sizes[index], record.block_size_of(era))
    with files.open(layout.table(era)) as file:
        table = ChecksumTable(file, table_key(record.relationship, index, era))
        bad = set(table.missing(blocks))
        for first in range(0, blocks, CHECKED_BLOCKS):
            for _ in range(TRIES):  # the newest one may be being written
                unknown = table.read(first, min(CHECKED_BLOCKS, blocks - first))[1]
                if not unknown:
                    break
            bad |= {some.start // PAGE_ENTRIES for some in unknown}
    return sorted(bad)


class _Disk:
    """One disk, from the table of `old` to a new one for `new`."""

    def __init__(
        self, layout: DiskLayout, old: ReplicaRecord, new: ReplicaRecord, index: int, size: int, files: Files
    ) -> None:
        self._layout, self._old, self._new, self._size, self._files = layout, old, new, size, files
        self._index = index

    def convert(self, progress: Progress) -> None:
        """Write the new table, durably, its name included."""
        era = len(self._new.frozen)
        with (
            self._files.open(self._layout.image) as image,
            self._files.open(self._layout.table(era - 1)) as held,
            self._files.open(self._layout.table(era), write=True, create=True) as file,
        ):
            if image.size() != self._size:
                raise self._damage(f"has {image.size()} bytes: wanted the {self._size} of the newest point")
            file.truncate(0)
            old = ChecksumTable(held, table_key(self._old.relationship, self._index, era - 1))
            new = ChecksumTable(file, table_key(self._new.relationship, self._index, era))
            for window in windows(self._size, self._window()):
                self._prove(image, old, window)
                entries = self._sums(image, window, self._new.block_size)
                new.write(window.offset // self._new.block_size, entries)
                progress.advance(window.length)
            new.resize(block_count(self._size, self._new.block_size))
            file.sync()
        self._files.sync_folder(self._layout.folder)

    def _window(self) -> int:
        """Whole pages of both tables."""
        page = PAGE_ENTRIES * max(self._old.block_size, self._new.block_size)
        return page * max(1, WINDOW_BYTES // page)

    def _prove(self, image: File, table: ChecksumTable, window: Extent) -> None:
        each = self._old.block_size
        first, count = window.offset // each, block_count(window.length, each)
        entries, unknown = table.read(first, count)
        missing = table.missing(block_count(self._size, each))
        if unknown or missing:
            page = unknown[0].start // PAGE_ENTRIES if unknown else missing.start
            raise self._damage(f"page {page} of its checksum table is damaged or missing")
        computed = self._sums(image, window, each)
        wrong = bytearray(count // 8 + 1)
        if kernels.compare_tables(entries, computed, wrong):
            run = kernels.bitmap_next(wrong, 0, count)
            offset = window.offset + (run[0] if run else 0) * each
            raise self._damage(f"block at offset {offset} does not match its checksum")

    def _sums(self, image: File, window: Extent, block_size: int) -> bytearray:
        entries = bytearray(block_count(window.length, block_size) * ENTRY_SIZE)
        where = window.offset, window.length
        with translated(image.path, f"reading {window.length} bytes from offset {window.offset}"):
            kernels.checksum_file(image.fileno(), *where, block_size, entries, seed=self._old.seed)
        return entries

    def _damage(self, what: str) -> DamageError:
        return DamageError(f"{self._layout.image}: {what}; the block size stays: run `resync --deep`, or repair, first")
