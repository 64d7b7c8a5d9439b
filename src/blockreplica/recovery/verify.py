"""Reading a whole replica again and checking all of it: records, chain, content, undo logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .. import kernels
from ..checksums import ENTRY_SIZE, block_count
from ..errors import BlockReplicaError
from ..extents import Extent, windows
from ..files import FILES, Files
from ..hrl import LogReader
from ..manifest import PointRecord, chained
from ..progress import SILENT, Progress
from ..stores import PointReader, Replica
from ..stores.undo_index import KNOWN, UndoIndex
from .recover import WINDOW_BLOCKS, mismatches


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
    """Check every point of a replica; syncs may go on meanwhile."""
    report = VerifyReport()
    error = replica.state_error()
    if error is not None:
        report.found(str(error), [])
    points = replica.points()
    report.points = len(points)
    for damaged in replica.damaged_points():
        report.found(str(damaged), [])
    _check_chain(points, report)
    if not points:
        return report
    progress.start("verifying", sum(disk.size for disk in points[-1].disks))
    for disk in range(len(points[-1].disks)):
        with replica.reader(points[-1], disk) as reader:
            for window in windows(reader.size, WINDOW_BLOCKS * reader.block_size):
                _check_window(reader, window, points, disk, report)
                progress.advance(window.length)
        for older in points[:-1]:
            _check_undo(replica, disk, older, points, report, files)
    return report


def _check_chain(points: list[PointRecord], report: VerifyReport) -> None:
    for older, newer in pairwise(points):
        if newer.epoch == older.epoch + 1 and chained(older.chain, newer) != newer.chain:
            report.found(f"point {newer.id} is not the successor of point {older.id}: its chain differs", [newer.id])


def _check_window(
    reader: PointReader, window: Extent, points: list[PointRecord], disk: int, report: VerifyReport
) -> None:
    block_size = reader.block_size
    table = bytearray(block_count(window.length, block_size) * ENTRY_SIZE)
    try:
        report.bytes_read += kernels.checksum_file(
            reader.image.fileno(), window.offset, window.length, block_size, table, seed=reader.seed
        )
        touched = reader.undone(window)
    except OSError:
        touched = [window]
    spans = (extent.aligned(block_size, reader.size) for extent in touched)
    for offset in sorted({at for span in spans for at in range(span.offset, span.end, block_size)}):
        content = bytearray(min(block_size, reader.size - offset))
        reader.pread_into(content, offset)
        at = (offset - window.offset) // block_size * ENTRY_SIZE
        kernels.checksum_buffer(content, block_size, memoryview(table)[at : at + ENTRY_SIZE], seed=reader.seed)
    report.blocks_checked += len(table) // ENTRY_SIZE
    for bad in mismatches(reader, window, table, unchecked=False):
        report.found("content does not match its checksum", _hurt(points, disk, bad), disk=disk, at=bad)


def _hurt(points: list[PointRecord], disk: int, bad: Extent) -> list[str]:
    return [point.id for point in points if bad.offset < point.disks[disk].size]


def _check_undo(
    replica: Replica, disk: int, older: PointRecord, points: list[PointRecord], report: VerifyReport, files: Files
) -> None:
    """The undo log that follows `older`: whole, and giving back each block of it that it names."""
    layout = replica.layout.disk(disk)
    hurt = [point.id for point in points if point.epoch <= older.epoch]
    try:
        with replica.reader(older, disk) as reader:
            index = UndoIndex(layout.undo_index(older.epoch + 1), files=files)
            rows = index.checksums(0, 1 << 62)
            if len(index.extents(0, 1 << 62)):
                with LogReader.open(layout.undo_log(older.epoch + 1), files=files) as log:
                    log.check()
                    report.bytes_read += log.file.size()
            index.close()
            for row in rows[rows["kind"] == KNOWN]:
                _check_block(reader, int(row["block"]), row["checksum"].tobytes(), disk, hurt, report)
    except BlockReplicaError as error:
        report.found(str(error), hurt, disk=disk)


def _check_block(
    reader: PointReader, block: int, wanted: bytes, disk: int, hurt: list[str], report: VerifyReport
) -> None:
    offset = block * reader.block_size
    if offset >= reader.size:
        return
    content = bytearray(min(reader.block_size, reader.size - offset))
    reader.pread_into(content, offset)
    entry = bytearray(ENTRY_SIZE)
    kernels.checksum_buffer(content, reader.block_size, entry, seed=reader.seed)
    report.blocks_checked += 1
    if not np.array_equal(np.frombuffer(entry, "u1"), np.frombuffer(wanted, "u1")):
        report.found("before-image does not match its checksum", hurt, disk=disk, at=Extent(offset, len(content)))
