"""Reading a replica again and checking it: records, chain, content, undo logs. Syncs go on meanwhile.

All of it, or the content of one point as it would be recovered, or a sample, at no more than so many bytes a second.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import msgspec

from .. import kernels
from ..arrays import Rows, np
from ..checksums import ENTRY_SIZE, PAGE_ENTRIES, block_count
from ..errors import BlockReplicaError, BusyError, NotFoundError
from ..extents import Extent, merged, windows
from ..files import FILES, Files
from ..hrl import LogReader
from ..hrl.reader import BLOCKS_A_CHECK
from ..manifest import Mark, MarksRecord, PointRecord, chained
from ..progress import SILENT, Progress
from ..stores import PointReader, Replica
from ..stores.eras import bad_pages
from ..stores.point_reader import runs_of
from ..stores.undo_index import KNOWN, UndoIndex
from .recover import RIGHT, UNKNOWN, WINDOW_BLOCKS, WRONG, judge, places

RUN_BYTES = 8 << 20
DEEP_CHAIN = 64  # behind so many logs a block is not put together again: the logs' own checksums have proved it
ENOUGH_RIGHT = 8
LOCK_TRIES, LOCK_PAUSE_S = 40, 0.25


class Damage(msgspec.Struct, frozen=True):
    """Something wrong: on which disk (None: in the records), where, what, and the points that it hurts."""

    disk: int | None
    offset: int | None
    length: int
    what: str
    points: list[str]


class VerifyReport(msgspec.Struct):
    """What verify read and found. No damage: every point can be recovered, as far as it was looked at."""

    points: int = 0
    bytes_read: int = 0
    blocks_checked: int = 0
    damage: list[Damage] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)

    def found(self, what: str, points: list[str], *, disk: int | None = None, at: Extent | None = None) -> None:
        """Note damage."""
        self.damage.append(Damage(disk, at.offset if at else None, at.length if at else 0, what, points))


class Scope(msgspec.Struct, frozen=True):
    """What is looked at: the content of one `point`, else everything; a `sample` of it (0 to 1), chosen by `rng`;
    at most `bandwidth` bytes a second (0: as fast as it goes)."""

    point: str | None = None
    sample: float = 1.0
    bandwidth: int = 0
    rng: random.Random = msgspec.field(default_factory=random.Random)

    def window_blocks(self) -> int:
        """Blocks looked at in one go."""
        return WINDOW_BLOCKS if self.sample >= 1 and not self.bandwidth else PAGE_ENTRIES

    def chosen(self) -> bool:
        """Whether the next piece is looked at."""
        return self.sample >= 1 or self.rng.random() < self.sample


class Pace:
    """Keeps to the bandwidth, and tells the progress."""

    def __init__(
        self, bandwidth: int, progress: Progress, *,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._bandwidth, self._progress, self._clock, self._sleep = bandwidth, progress, clock, sleep
        self._began, self._done = clock(), 0

    def done(self, read: int, covered: int) -> None:
        """So much was read, and so much is covered by that."""
        self._done += read
        self._progress.advance(covered)
        if self._bandwidth:
            ahead = self._done / self._bandwidth - (self._clock() - self._began)
            if ahead > 0:
                self._sleep(ahead)


class _Paced(Progress):
    """What hears how far a log is read, piece by piece: a large one is no reason to read faster for a while."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def advance(self, count: int) -> None:
        """So much more was read."""
        self._pace.done(count, count)


EVERYTHING = Scope()


def verify(
    replica: Replica, scope: Scope = EVERYTHING, *, progress: Progress = SILENT, files: Files = FILES
) -> VerifyReport:
    """Check a replica; syncs may go on meanwhile, but prune none of the points that are checked."""
    report, pace = VerifyReport(), Pace(scope.bandwidth, progress)
    for error in replica.record_errors():
        report.found(str(error), [])
    with ExitStack() as stack:
        points = _leased(replica, stack)
        report.points = len(points)
        for damaged in replica.damaged_points():
            report.found(str(damaged), [])
        _check_chain(points, report)
        if scope.point is not None:
            points = [replica.find(scope.point)]
            stack.enter_context(replica.lease(points[0]))
        if points:
            disks = range(len(points[-1].disks))
            progress.start("verifying", _amount(replica, points, files))
            for disk in disks:
                _Disk(replica, disk, points, scope, report, pace, files).check()
    return report


def note_marks(replica: Replica, scope: Scope, report: VerifyReport, *, anew: bool = False) -> None:
    """Mark the points that were found damaged, and unmark those that were found whole; what hinders that is noted.
    `anew`: also when the marks read so already, which an fsync that failed may have left in memory alone."""
    found: dict[str, str] = {}
    for damage in report.damage:
        for point_id in damage.points:
            found.setdefault(point_id, damage.what)
    try:
        points = {point.id: point.epoch for point in replica.points()}
        damaged = {points[point_id]: what for point_id, what in found.items() if point_id in points}
        whole = scope.sample >= 1 and scope.point is None
        held = replica.marks()
        if _marked(held, damaged, whole=whole) == held and not anew:
            return
        with _lock(replica):
            replica.mark(_marked(replica.marks(), damaged, whole=whole))
    except BlockReplicaError as error:
        report.notes.append(f"the points are not marked: {error}")


def _marked(marks: MarksRecord, damaged: dict[int, str], *, whole: bool) -> MarksRecord:
    kept = {} if whole else {mark.epoch: mark.what for mark in marks.damaged}
    both = sorted({**kept, **damaged}.items())
    return msgspec.structs.replace(marks, damaged=[Mark(epoch=epoch, what=what) for epoch, what in both])


def _lock(replica: Replica) -> ExitStack:
    with ExitStack() as stack:
        for _ in range(LOCK_TRIES):
            try:
                stack.enter_context(replica.locked())
                return stack.pop_all()
            except BusyError:
                time.sleep(LOCK_PAUSE_S)
        stack.enter_context(replica.locked())
        return stack.pop_all()


def _leased(replica: Replica, stack: ExitStack) -> list[PointRecord]:
    while points := replica.points():
        try:
            stack.enter_context(replica.lease(points[0]))
            break
        except NotFoundError:  # pruned since it was listed
            continue
    return points


def _amount(replica: Replica, points: Sequence[PointRecord], files: Files) -> int:
    """Bytes to go through: the disks, and the undo logs between the points."""
    size = sum(disk.size for disk in points[-1].disks)
    if len(points) > 1:
        for disk in range(len(points[-1].disks)):
            for path in _logs(replica, disk, points, files):
                with files.open(path) as log:
                    size += log.size()
    return size


def _logs(replica: Replica, disk: int, points: Sequence[PointRecord], files: Files) -> Iterator[Path]:
    folder = replica.layout.disk(disk).undo
    for name in files.names(folder):
        first = name.split(".")[0].split("-")[0]
        if name.endswith(".hrl") and first.isdigit() and points[0].epoch < int(first) <= points[-1].epoch:
            yield folder / name


def _check_chain(points: list[PointRecord], report: VerifyReport) -> None:
    for older, newer in pairwise(points):
        if newer.epoch == older.epoch + 1 and chained(older.chain, newer) != newer.chain:
            report.found(f"point {newer.id} is not the successor of point {older.id}: its chain differs", [newer.id])


class _Disk:
    """One disk of a replica, at all `points`; one alone is read as it would be recovered."""

    def __init__(
        self, replica: Replica, disk: int, points: list[PointRecord], scope: Scope, report: VerifyReport, pace: Pace,
        files: Files,
    ) -> None:  # fmt: skip
        self._replica, self._disk, self._points, self._files = replica, disk, points, files
        self._scope, self._report, self._pace = scope, report, pace
        self._unopened = set[str]()  # why points can't be read at all, as was said already

    def check(self) -> None:
        """The newest content against its checksums, then each undo log."""
        try:
            with self._replica.reader(self._points[-1], self._disk) as reader:
                self._check_size(reader)
                for window in windows(reader.size, self._scope.window_blocks() * reader.block_size):
                    before = self._report.bytes_read
                    if self._scope.chosen():
                        self._check_window(reader, window)
                    self._pace.done(self._report.bytes_read - before, window.length)
        except BlockReplicaError as error:
            if self._scope.point is None and error.recoverable:
                raise
            self._unopened.add(str(error))
            self._found(str(error), [point.id for point in self._points if not self._opens(point)])
        if self._scope.point is None:
            self._check_tables()
        for at in range(len(self._points) - 1):
            self._check_links(at)

    def _found(self, what: str, points: list[str], at: Extent | None = None) -> None:
        self._report.found(what, points, disk=self._disk, at=at)

    def _opens(self, point: PointRecord) -> bool:
        try:
            self._replica.reader(point, self._disk).close()
        except BlockReplicaError:
            return False
        return True

    def _check_size(self, reader: PointReader) -> None:
        size = reader.image.size()
        if size == reader.size or self._replica.incomplete or self._replica.state().epoch != self._points[-1].epoch:
            return
        self._found(f"{reader.image.path.name} has {size} bytes: wanted the {reader.size} of the newest point", [])

    def _check_tables(self) -> None:
        """The checksum tables that nothing was compared with: whole. What they say of content, undo logs show."""
        record = self._replica.record
        eras = {record.era(point.epoch) for point in self._points} | {len(record.frozen)}
        for era in sorted(eras - {record.era(self._points[-1].epoch)}):
            hurt = [point.id for point in self._points if record.era(point.epoch) == era]
            layout, name = self._replica.layout.disk(self._disk), self._replica.layout.disk(self._disk).table(era).name
            try:
                for page in bad_pages(layout, record, self._disk, era, files=self._files):
                    self._found(f"page {page} of {name} does not match its CRC", hurt)
            except BlockReplicaError as error:
                self._found(str(error), hurt)

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
        for span in merged(sorted(spans)):
            for run in windows(span.end, max(RUN_BYTES, block_size), start=span.offset):
                at = (run.offset - window.offset) // block_size * ENTRY_SIZE
                entries = _checksums(reader, run)
                table[at : at + len(entries)] = entries
                self._report.bytes_read += run.length
        return table

    def _hurt(self, bad: Extent, points: list[PointRecord]) -> list[str]:
        """Those of `points` that have this block, and not as their checksum says: the newest of them and those before,
        up to where it is right again."""
        hurt, right_ones = [], 0
        for point in reversed(points):
            if bad.offset >= point.disks[self._disk].size:
                continue
            try:
                with self._replica.reader(point, self._disk) as reader:
                    window = Extent(bad.offset, min(bad.length, reader.size - bad.offset)).aligned(
                        reader.block_size, reader.size
                    )
                    right = bool((judge(reader, window, bytearray(_checksums(reader, window))) == RIGHT).all())
            except BlockReplicaError:
                right = False
            right_ones = right_ones + 1 if right else 0
            if not right:
                hurt.append(point.id)
            elif right_ones == ENOUGH_RIGHT:
                break
        return hurt[::-1]

    def _check_links(self, at: int) -> None:
        """The undo logs between a point and the next: whole, and giving back each block that they name."""
        older, epoch = self._points[at], self._points[at].epoch
        try:
            while epoch < self._points[at + 1].epoch:
                index = UndoIndex(self._replica.layout.disk(self._disk).undo_index(epoch + 1), files=self._files)
                index.close()
                if self._scope.chosen():
                    self._check_undo(index, at, older)
                epoch = index.last
        except BlockReplicaError as error:
            self._found(str(error), [point.id for point in self._points[: at + 1]])

    def _check_undo(self, index: UndoIndex, at: int, older: PointRecord) -> None:
        rows = index.checksums(0, 1 << 62)
        if len(index.extents(0, 1 << 62)) or self._files.exists(index.log_path):
            with LogReader.open(index.log_path, files=self._files) as log:
                log.check(most=1 if self._scope.bandwidth else BLOCKS_A_CHECK, progress=_Paced(self._pace))
                self._report.bytes_read += log.file.size()
        if index.first != older.epoch + 1:
            return  # what it leads to is no point: a record was lost, or pruning is not done with it
        crosses = self._replica.record.crosses(older.epoch, index.last)
        if len(self._points) - at > DEEP_CHAIN:
            rows, crosses = rows[rows["kind"] != KNOWN], False
        if not len(rows) and not crosses:
            return
        try:
            opened = self._replica.reader(older, self._disk)
        except BlockReplicaError as error:  # a missing table: points of other eras do not need it
            if str(error) not in self._unopened:
                self._found(str(error), [older.id])
            return
        with opened as reader:
            rows = reader.proofs(index) if crosses else rows
            rows = rows[rows["block"] * np.uint64(reader.block_size) < reader.size]
            most = max(1, RUN_BYTES // reader.block_size)
            for low, high in runs_of(rows["block"], most):
                self._check_blocks(reader, rows[low:high], self._points[: at + 1])

    def _check_blocks(self, reader: PointReader, rows: Rows, points: list[PointRecord]) -> None:
        """A run of blocks, put together as they were at the older point."""
        self._report.blocks_checked += len(rows)
        offset = int(rows["block"][0]) * reader.block_size
        run = Extent(offset, min(len(rows) * reader.block_size, reader.size - offset))
        got = np.frombuffer(_checksums(reader, run), rows["checksum"].dtype)
        self._pace.done(run.length, 0)
        wrong = (got != rows["checksum"]) | (rows["kind"] != KNOWN)
        for place, lost in zip(np.flatnonzero(wrong).tolist(), (rows["kind"] != KNOWN)[wrong].tolist(), strict=True):
            start = offset + place * reader.block_size
            extent = Extent(start, min(reader.block_size, reader.size - start))
            what = (
                "its checksum is lost: nothing proves the before-image"
                if lost
                else ("before-image does not match its checksum")
            )
            self._found(what, self._hurt(extent, points), extent)


def _checksums(reader: PointReader, extent: Extent) -> bytearray:
    """The checksums of an extent of whole blocks of a point, put together in memory."""
    content = bytearray(extent.length)
    reader.pread_into(content, extent.offset)
    table = bytearray(block_count(extent.length, reader.block_size) * ENTRY_SIZE)
    kernels.checksum_buffer(content, reader.block_size, table, seed=reader.seed)
    return table
