"""Reading a whole replica again and checking all of it: records, chain, content, undo logs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .. import kernels
from ..checksums import ENTRY_SIZE, block_count
from ..errors import BlockReplicaError, NotFoundError
from ..extents import Extent, windows
from ..files import FILES, Files
from ..hrl import LogReader
from ..manifest import PointRecord, chained
from ..progress import SILENT, Progress
from ..stores import PointReader, Replica
from ..stores.undo_index import KNOWN, UndoIndex
from .recover import RIGHT, UNKNOWN, WINDOW_BLOCKS, WRONG, judge, places


@dataclass(frozen=True, slots=True)
class Damage:
    """Something wrong: on which disk (None: in the records), where, what, and the points that it hurts."""

    disk: int | None
    offset: int | None
    length: int
    what: str
    points: list[str]


@dataclass(slots=True)
class VerifyReport:
    """What verify read and found. No damage: every point can be recovered."""

    points: int = 0
    bytes_read: int = 0
    blocks_checked: int = 0
    damage: list[Damage] = field(default_factory=list)

    def found(self, what: str, points: list[str], *, disk: int | None = None, at: Extent | None = None) -> None:
        """Note damage."""
        self.damage.append(Damage(disk, at.offset if at else None, at.length if at else 0, what, points))


def verify(replica: Replica, *, progress: Progress = SILENT, files: Files = FILES) -> VerifyReport:
    """Check every point of a replica; syncs may go on meanwhile, but prune none of the points that are checked."""
    report = VerifyReport()
    for error in replica.record_errors():
        report.found(str(error), [])
    with ExitStack() as stack:
        _check(replica, _leased(replica, stack), report, progress, files)
    return report


def _leased(replica: Replica, stack: ExitStack) -> list[PointRecord]:
    while points := replica.points():
        try:
            stack.enter_context(replica.lease(points[0]))
            break
        except NotFoundError:  # pruned since it was listed
            continue
    return points


def _check(replica: Replica, points: list[PointRecord], report: VerifyReport, progress: Progress, files: Files) -> None:
    report.points = len(points)
    for damaged in replica.damaged_points():
        report.found(str(damaged), [])
    _check_chain(points, report)
    if not points:
        return
    progress.start("verifying", sum(disk.size for disk in points[-1].disks))
    for disk in range(len(points[-1].disks)):
        _Disk(replica, disk, points, report, files).check(progress)


def _check_chain(points: list[PointRecord], report: VerifyReport) -> None:
    for older, newer in pairwise(points):
        if newer.epoch == older.epoch + 1 and chained(older.chain, newer) != newer.chain:
            report.found(f"point {newer.id} is not the successor of point {older.id}: its chain differs", [newer.id])


class _Disk:
    """One disk of a replica, all its points."""

    def __init__(
        self, replica: Replica, disk: int, points: list[PointRecord], report: VerifyReport, files: Files
    ) -> None:
        self._replica, self._disk, self._points, self._report, self._files = replica, disk, points, report, files

    def check(self, progress: Progress) -> None:
        """The newest content against its checksums, then each undo log."""
        with self._replica.reader(self._points[-1], self._disk) as reader:
            self._check_size(reader)
            for window in windows(reader.size, WINDOW_BLOCKS * reader.block_size):
                self._check_window(reader, window)
                progress.advance(window.length)
        for at in range(len(self._points) - 1):
            self._check_undo(at)

    def _found(self, what: str, points: list[str], at: Extent | None = None) -> None:
        self._report.found(what, points, disk=self._disk, at=at)

    def _check_size(self, reader: PointReader) -> None:
        size = reader.image.size()
        if size == reader.size or self._replica.incomplete or self._replica.state().epoch != self._points[-1].epoch:
            return
        self._found(f"{reader.image.path.name} has {size} bytes: wanted the {reader.size} of the newest point", [])

    def _check_window(self, reader: PointReader, window: Extent) -> None:
        for page in reader.bad_pages(window.offset // reader.block_size, block_count(window.length, reader.block_size)):
            self._found(f"page {page} of the checksum table does not match its CRC", [])
        table = self._computed(reader, window)
        self._report.blocks_checked += len(table) // ENTRY_SIZE
        verdict = judge(reader, window, table)
        for found, what in (
            (WRONG, "content does not match its checksum"),
            (UNKNOWN, "its checksum is lost: nothing proves the content"),
        ):
            for bad in places(reader, window, verdict == found):
                self._found(what, self._hurt(bad, self._points), bad)

    def _computed(self, reader: PointReader, window: Extent) -> bytearray:
        """The checksums of what a window holds."""
        block_size = reader.block_size
        table = bytearray(block_count(window.length, block_size) * ENTRY_SIZE)
        try:
            self._report.bytes_read += kernels.checksum_file(
                reader.image.fileno(), window.offset, window.length, block_size, table, seed=reader.seed
            )
            touched = reader.undone(window)
        except OSError:
            touched = [window]
        spans = (extent.aligned(block_size, reader.size) for extent in touched)
        for offset in sorted({at for span in spans for at in range(span.offset, span.end, block_size)}):
            at = (offset - window.offset) // block_size * ENTRY_SIZE
            table[at : at + ENTRY_SIZE] = _block_checksum(reader, offset)
        return table

    def _hurt(self, bad: Extent, points: list[PointRecord]) -> list[str]:
        """Those of `points` that have this block, and not as their checksum says."""
        hurt = []
        for point in points:
            if bad.offset >= point.disks[self._disk].size:
                continue
            try:
                with self._replica.reader(point, self._disk) as reader:
                    window = Extent(bad.offset, min(reader.block_size, reader.size - bad.offset))
                    right = judge(reader, window, bytearray(_block_checksum(reader, bad.offset)))[0] == RIGHT
            except BlockReplicaError:
                right = False
            if not right:
                hurt.append(point.id)
        return hurt

    def _check_undo(self, at: int) -> None:
        """The undo log that follows a point: whole, and giving back each block of it that it names."""
        older = self._points[at]
        layout = self._replica.layout.disk(self._disk)
        try:
            with self._replica.reader(older, self._disk) as reader:
                index = UndoIndex(layout.undo_index(older.epoch + 1), files=self._files)
                rows = index.checksums(0, 1 << 62)
                path = index.log_path
                if len(index.extents(0, 1 << 62)) or self._files.exists(path):
                    with LogReader.open(path, files=self._files) as log:
                        log.check()
                        self._report.bytes_read += log.file.size()
                index.close()
                for row in rows:
                    self._check_block(reader, int(row["block"]), row, self._points[: at + 1])
        except BlockReplicaError as error:
            self._found(str(error), [point.id for point in self._points[: at + 1]])

    def _check_block(self, reader: PointReader, block: int, row: np.void, points: list[PointRecord]) -> None:
        offset = block * reader.block_size
        if offset >= reader.size:
            return
        self._report.blocks_checked += 1
        extent = Extent(offset, min(reader.block_size, reader.size - offset))
        if row["kind"] != KNOWN:
            self._found("its checksum is lost: nothing proves the before-image", self._hurt(extent, points), extent)
        elif _block_checksum(reader, offset) != row["checksum"].tobytes():
            self._found("before-image does not match its checksum", self._hurt(extent, points), extent)


def _block_checksum(reader: PointReader, offset: int) -> bytes:
    content = bytearray(min(reader.block_size, reader.size - offset))
    reader.pread_into(content, offset)
    entry = bytearray(ENTRY_SIZE)
    kernels.checksum_buffer(content, reader.block_size, entry, seed=reader.seed)
    return bytes(entry)
