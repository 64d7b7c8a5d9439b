"""Getting damaged blocks back: from the primary, or from the newest content, where they still are the same.

What a block must be is known by its checksum, so nothing is written that does not match it: a block is put back byte
for byte, in its own place, in `disk.img` or in an undo log. That rewrites no history: whoever reads meanwhile finds the
damage or what was there before it. Of an undo log the old place is filled again, never another (rule 15). What can't be
had stays damaged, and its points stay marked.

What it begins with is what the disk holds, not what memory does: a repair whose fsync failed left blocks that read
right and are not there, and its next try must not call them whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

import msgspec

from .. import kernels
from ..checksums import ENTRY_SIZE
from ..errors import BlockReplicaError, RefusedError
from ..extents import Extent
from ..files import FILES, File, Files
from ..manifest import PointRecord
from ..progress import SILENT, Progress
from ..stores import PointReader, Replica
from ..stores.point_reader import LOST
from ..stores.pruning import chain
from ..stores.undo_index import DATA, KNOWN, UndoIndex
from .verify import Damage, VerifyReport, verify


class RepairReport(msgspec.Struct):
    """What was found, what of it was put back (disk, offset, length, from where), and what verify finds afterwards."""

    found: list[Damage] = msgspec.field(default_factory=list)
    repaired: list[Damage] = msgspec.field(default_factory=list)
    after: VerifyReport = msgspec.field(default_factory=VerifyReport)


def repair(
    replica: Replica, primaries: Sequence[File | None], *, progress: Progress = SILENT, files: Files = FILES
) -> RepairReport:
    """Put back what can be, then verify again. `primaries`: the disks' images as they are now, None where one is not
    to be had. The caller holds the lock. RefusedError while a movement is not finished: the next sync finishes it.
    """
    if replica.incomplete:
        raise RefusedError(f"{replica.layout.folder}: a sync was interrupted; run sync first, then repair")
    _forget_cache(replica, files)
    report = RepairReport(found=verify(replica, progress=progress, files=files).damage)
    with suppress(BlockReplicaError):  # where both a record and its copy are bad, verify says so
        replica.mend_records()
    points = replica.points()
    damaged = {damage.disk for damage in report.found if damage.disk is not None}
    for disk in sorted(damaged):
        with _beyond_repair(), _Repair(replica, disk, primaries[disk], points, files) as one:
            places = [damage for damage in report.found if damage.disk == disk and damage.offset is not None]
            report.repaired += [Damage(disk, at.offset, at.length, source, []) for at, source in one.run(places)]
    report.after = verify(replica, progress=progress, files=files)
    return report


@contextmanager
def _beyond_repair() -> Iterator[None]:
    """What is gone or torn hinders nothing else; the verify behind a repair tells of it."""
    try:
        yield
    except BlockReplicaError as error:
        if error.recoverable:
            raise


def _forget_cache(replica: Replica, files: Files) -> None:
    """Have all that a repair writes to read from the disk; of a file that can't be opened, verify tells."""
    for disk in replica.record.disks:
        layout = replica.layout.disk(disk.index)
        logs = [layout.undo / name for name in files.names(layout.undo) if name.endswith(".hrl")]
        for path in [layout.image, *logs]:
            try:
                file = files.open(path, write=True)
            except BlockReplicaError:
                continue
            with file:
                file.forget_cache()


class _Repair:
    """One disk."""

    def __init__(
        self, replica: Replica, disk: int, primary: File | None, points: list[PointRecord], files: Files
    ) -> None:
        self._replica, self._disk, self._primary, self._points, self._files = replica, disk, primary, points, files
        self._layout = replica.layout.disk(disk)
        self._stack = ExitStack()

    def __enter__(self) -> _Repair:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, places: list[Damage]) -> list[tuple[Extent, str]]:
        """Put back the newest content first, for it may be what undo logs need."""
        done = []
        offsets = sorted({damage.offset for damage in places if damage.offset is not None})
        with self._files.open(self._layout.image, write=True) as image:
            for offset in offsets:
                found = self._newest(image, offset)
                if found:
                    done.append(found)
            image.sync()
        for older, newer in pairwise(self._points):
            try:
                links = chain(self._layout, older.epoch, newer.epoch, self._files)
            except BlockReplicaError:
                continue
            with _beyond_repair():  # by another index that leads to it, say
                for found in self._log(links[0], older) if len(links) == 1 else ():
                    done.append(found)
        return done

    def _newest(self, image: File, offset: int) -> tuple[Extent, str] | None:
        with self._replica.reader(self._points[-1], self._disk) as reader:
            if offset >= min(reader.size, image.size()):
                return None
            extent = Extent(offset, 1).aligned(reader.block_size, reader.size)
            entries, trust = reader.checksums(offset // reader.block_size, 1)
            held = image.pread(extent.length, extent.offset)
            if trust[0] == LOST or _sum(reader, held) == entries:
                return None
            content = self._content(reader, extent, bytes(entries), [self._primary])
        if content is None:
            return None
        image.pwrite(content, extent.offset)
        return extent, "the primary"

    def _log(self, link: UndoIndex, older: PointRecord) -> Iterator[tuple[Extent, str]]:
        """Fill in the before-images of a log in blocks that are not what the older point had."""
        with self._replica.reader(older, self._disk) as reader, self._files.open(self._layout.image) as image:
            crosses = self._replica.record.crosses(older.epoch, link.last)
            rows = reader.proofs(link) if crosses else link.checksums(0, 1 << 62)
            for row in rows[rows["kind"] == KNOWN]:
                offset, wanted = int(row["block"]) * reader.block_size, row["checksum"].tobytes()
                if offset >= reader.size:
                    continue
                extent = Extent(offset, min(reader.block_size, reader.size - offset))
                held = bytearray(extent.length)
                reader.pread_into(held, offset)
                if _sum(reader, held) == wanted:
                    continue
                content = self._content(reader, extent, wanted, [self._primary, image])
                if content is not None and self._fill(link, extent, content):
                    yield extent, "the primary or the newest content"

    def _fill(self, link: UndoIndex, extent: Extent, content: bytes) -> bool:
        rows = link.extents(extent.offset, extent.end)
        rows = rows[rows["kind"] == DATA]
        with self._files.open(link.log_path, write=True) as log:
            for offset, source, length in rows[["offset", "log_offset", "length"]].tolist():
                low, high = max(offset, extent.offset), min(offset + length, extent.end)
                log.pwrite(content[low - extent.offset : high - extent.offset], source + low - offset)
            log.sync()
        return bool(len(rows))

    def _content(
        self, reader: PointReader, extent: Extent, wanted: bytes, sources: Sequence[File | None]
    ) -> bytes | None:
        """What a block was, from the first source that still has it."""
        for source in sources:
            try:
                content = source.pread(extent.length, extent.offset) if source is not None else b""
            except BlockReplicaError:
                continue
            if len(content) == extent.length and _sum(reader, content) == wanted:
                return content
        return None


def _sum(reader: PointReader, content: bytes | bytearray) -> bytes:
    entry = bytearray(ENTRY_SIZE)
    kernels.checksum_buffer(content, reader.block_size, entry, seed=reader.seed)
    return bytes(entry)
