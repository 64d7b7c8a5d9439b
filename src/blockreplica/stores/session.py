"""One movement of a replica towards its next recovery point, over all its disks.

    INCOMPLETE, fsync ── before-images, fsync ── blocks and table, fsync ── seal ── point, fsync ── state, fsync ── gone

Until `state` is replaced the point does not exist (invariant 5); from then on it does, whatever else is missing. A
session that ends without `commit` leaves its undo log: readers read through it, and the next session goes on on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from ..errors import FormatError, NotFoundError, StateError, StorageError
from ..files import Files
from ..manifest import LIMIT as RECORD_LIMIT
from ..manifest import (
    Churn,
    DiskProgress,
    PendingRecord,
    PointRecord,
    ReplicaRecord,
    StateRecord,
    chained,
    decode,
    encode,
)
from .churn import HISTORY, is_much, total, unusual
from .clock import Clock, advanced, this_instant
from .disk import DiskWriter
from .layout import ReplicaLayout
from .records import write_record


def read_pending(layout: ReplicaLayout, state: StateRecord, files: Files) -> PendingRecord | None:
    """The interrupted movement that INCOMPLETE tells of, or None; a damaged one counts as one without progress."""
    if not files.exists(layout.incomplete):
        return None
    try:
        data = files.read(layout.incomplete, limit=RECORD_LIMIT)
        pending = decode("incomplete", PendingRecord, data, layout.incomplete)
    except StateError:
        return PendingRecord(epoch=state.epoch + 1, movement="unknown", disks=[])
    return pending if pending.epoch == state.epoch + 1 else None


class Session:
    """Made by `Replica.session`, under the replica's lock. `pending` is what an interrupted one had reached."""

    def __init__(
        self, layout: ReplicaLayout, record: ReplicaRecord, state: StateRecord, *,
        files: Files, clock: Clock = this_instant,
    ) -> None:  # fmt: skip
        self._layout, self._record, self._state, self._files = layout, record, state, files
        self._clock = clock
        self.epoch = state.epoch + 1
        self.pending = read_pending(layout, state, files)
        self._movement = self.pending.movement if self.pending else ""
        self._marked = self.pending is not None
        self._towards: list[DiskProgress] = []
        if not self._marked:  # a crash between the commit and its last step may have left the mark
            self._unmark()
        self.disks: list[DiskWriter] = []
        try:
            for disk in record.disks:
                self.disks.append(
                    DiskWriter(layout.disk(disk.index), record, disk.index, self.epoch, begin=self._mark, files=files)
                )
        except BaseException:
            self.close()
            raise

    @property
    def first(self) -> bool:
        """Whether the replica has no recovery point yet."""
        return self.epoch == 1

    def progress(self, disk: int) -> DiskProgress:
        """How far the interrupted movement had come on a disk, durably."""
        if self.pending is None or disk >= len(self.pending.disks):
            return DiskProgress()
        return self.pending.disks[disk]

    def start(self, movement: str, *, heal: bool, towards: Sequence[DiskProgress] = ()) -> None:
        """Begin (or take up) a movement; `heal` computes bad table pages anew, for movements that then compare them.

        A movement of another name starts from what is there, but without the earlier one's progress. `towards`: the
        cuts that it leads to, which the mark then says, so that nobody takes what is half done for something earlier.
        """
        self._towards = list(towards)
        self._movement, resumed = movement, self.pending is not None
        if self.pending is not None and self.pending.movement != movement:
            self.pending, self._marked = None, False  # the mark is made again: it must name what is half done
        elif self.pending is not None and self._towards and self.pending.disks != self._towards:
            self._marked = False
        sizes = self._sizes() if resumed else {}
        for index, disk in enumerate(self.disks):
            if heal:
                disk.truth.heal()
            disk.settle(resumed=resumed, compared=heal, size=sizes.get(index))

    def checkpoint(self, progress: list[DiskProgress]) -> None:
        """Make everything so far durable, then note how far it is, so that an interruption resumes here."""
        for disk in self.disks:
            disk.sync()
        self._write_pending(progress)

    def commit(self, point: PointRecord) -> PointRecord:
        """Make the point appear; returns it with its chain digest. Durable on return, also its acknowledgement."""
        for disk in self.disks:
            disk.sync()
        for disk in self.disks:
            disk.seal()
        clock = advanced(self._state.clock, self._clock())
        churn = self._churn()
        why, calm = unusual(churn, self._before()) if not self.first else ("", "")
        point = msgspec.structs.replace(point, ran=clock.ran, churn=churn, unusual=why, calm=calm)
        point = msgspec.structs.replace(point, chain=chained(self._state.chain, point))
        self._files.make_folder(self._layout.points)
        self._files.write_durably(self._layout.point(point.epoch), encode("point", point))
        state = StateRecord(generation=point.generation, epoch=point.epoch, chain=point.chain, clock=clock)
        write_state(self._layout, state, self._files)
        self._unmark()
        self.close()
        return point

    def close(self) -> None:
        """Let go of the disks. Without a commit before, the movement stays pending."""
        with ExitStack() as stack:
            for disk in self.disks:
                stack.callback(disk.close)
        self.disks = []

    def _churn(self) -> Churn:
        return total([disk.churn for disk in self.disks])

    def _before(self) -> list[PointRecord]:
        """The last points that can be read, oldest first; none are read where too little changed to be unusual."""
        if not is_much(self._churn()):
            return []
        names = [name for name in self._files.names(self._layout.points) if name.isdigit()]
        found = []
        for epoch in sorted(int(name) for name in names)[-2 * HISTORY :]:
            path = self._layout.point(epoch)
            try:
                found.append(decode("point", PointRecord, self._files.read(path, limit=RECORD_LIMIT), path))
            except (FormatError, NotFoundError, StorageError):
                continue
        return [point for point in found if point.epoch < self.epoch]

    def _sizes(self) -> dict[int, int]:
        """The sizes of the disks at the newest point; none when its record is damaged."""
        path = self._layout.point(self._state.epoch)
        try:
            point = decode("point", PointRecord, self._files.read(path, limit=RECORD_LIMIT), path)
        except (FormatError, NotFoundError):
            return {}
        return {disk.index: disk.size for disk in point.disks}

    def _mark(self) -> None:
        if not self._marked:
            self._write_pending(self._towards)

    def _unmark(self) -> None:
        if self._files.exists(self._layout.incomplete):
            self._files.unlink(self._layout.incomplete)
            self._files.sync_folder(self._layout.folder)

    def _write_pending(self, disks: list[DiskProgress]) -> None:
        record = PendingRecord(epoch=self.epoch, movement=self._movement, disks=disks)
        self._files.write_durably(self._layout.incomplete, encode("incomplete", record))
        self._marked = True


def write_state(layout: ReplicaLayout, state: StateRecord, files: Files) -> None:
    """Replace the state record (the commit), then its copy."""
    write_record("state", state, layout.state, files, copy_first=False)
