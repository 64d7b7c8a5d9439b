"""The directory store: replicas in a folder, each disk a plain file that any hypervisor boots."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

from ..errors import (
    BusyError,
    DamageError,
    FormatError,
    NotFoundError,
    RefusedError,
    StateError,
    StorageError,
    translated,
)
from ..files import FILES, File, Files
from ..manifest import (
    LIMIT,
    ClockRecord,
    MarksRecord,
    PendingRecord,
    PointRecord,
    ReplicaRecord,
    StateRecord,
    StoreRecord,
    check_name,
    decode,
)
from ..progress import SILENT, Progress
from .clock import Clock, advanced, this_instant
from .eras import begin_era
from .layout import STORE_MARK, ReplicaLayout, table_key
from .point_reader import PointPlace, PointReader
from .pruning import Pruned, Pruner, chain, gate, read_pruning
from .records import copy_of, read_record, record_errors, write_record
from .session import Session, read_pending, write_state

FIRST_STATE = StateRecord(generation=1, epoch=0, chain="")


class DirectoryStore:
    """A folder of replicas."""

    def __init__(self, folder: Path, *, files: Files = FILES) -> None:
        """Open the store in `folder`; RefusedError when that is not a store."""
        self.folder = folder
        self._files = files
        mark = folder / STORE_MARK
        if not files.exists(mark):
            raise RefusedError(
                f"{folder}: not a replica store: it has no {STORE_MARK}; "
                "is it mounted, was it moved? Else name a store, or a new folder"
            )
        read_record("store", StoreRecord, mark, files)

    @classmethod
    def create(cls, folder: Path, *, files: Files = FILES) -> DirectoryStore:
        """The store in `folder`, made there when the folder is missing or empty; RefusedError when it is neither."""
        mark = folder / STORE_MARK
        if not files.exists(mark):
            if folder.exists() and not folder.is_dir():
                raise RefusedError(f"{folder}: is no folder; name a folder for the replica store")
            begun = {f"{STORE_MARK}.new", f"{STORE_MARK}.copy", f"{STORE_MARK}.copy.new"}
            if set(files.names(folder)) - begun - {"lost+found"}:
                raise RefusedError(f"{folder}: holds other things and is not a replica store; name an empty folder")
            files.make_folder(folder)
            write_record("store", StoreRecord(store_id=str(uuid4())), mark, files, copy_first=True)
        return cls(folder, files=files)

    def names(self) -> list[str]:
        """The names of the replicas in it."""
        return [name for name in self._files.names(self.folder) if (self.folder / name / "replica").exists()]

    def create_replica(self, record: ReplicaRecord) -> Replica:
        """Make an empty replica; RefusedError when there is one of that name, or something else."""
        record.check()
        layout = ReplicaLayout(self.folder / record.name)
        if self._files.exists(layout.record):
            raise RefusedError(f"{layout.folder}: there is a replica of that name; choose another --name or store")
        names = ("state", "state.copy", "replica.copy")
        begun = {*names, *(f"{name}.new" for name in (*names, "replica"))}
        if set(self._files.names(layout.folder)) - begun:
            raise RefusedError(f"{layout.folder}: holds other things; choose another --name")
        self._files.make_folder(layout.folder)
        write_state(layout, FIRST_STATE, self._files)
        write_record("replica", record, layout.record, self._files, copy_first=True)
        return Replica(layout, files=self._files)

    def replica(self, name: str) -> Replica:
        """The replica of that name; NotFoundError when there is none."""
        try:
            check_name(name)
        except ValueError as error:
            raise NotFoundError(str(error)) from None
        layout = ReplicaLayout(self.folder / name)
        if not self._files.exists(layout.record):
            raise NotFoundError(f"{self.folder}: has no replica {name!r}; it has: {', '.join(self.names()) or 'none'}")
        return Replica(layout, files=self._files)

    def remove_replica(self, name: str) -> None:
        """Delete a replica with all its points. The record goes first: what is left is no replica."""
        replica = self.replica(name)
        with replica.locked():
            self._files.unlink(replica.layout.record)
            self._files.sync_folder(replica.layout.folder)
            with translated(replica.layout.folder, "removing"):
                import shutil

                shutil.rmtree(replica.layout.folder)
        self._files.sync_folder(self.folder)


class Replica:
    """One replica: its points, sessions that move it on, readers of any point."""

    def __init__(self, layout: ReplicaLayout, *, files: Files = FILES, clock: Clock = this_instant) -> None:
        self.layout = layout
        self._files, self._clock = files, clock
        self.record = read_record("replica", ReplicaRecord, layout.record, files)

    def state(self) -> StateRecord:
        """The newest point's place. When the record is damaged, that of its copy: one point older at the most."""
        return read_record("state", StateRecord, self.layout.state, self._files)

    def record_errors(self) -> list[StateError]:
        """What is wrong with the records of replica, state and marks, and of the store, and with their copies."""
        mark = self.layout.folder.parent / STORE_MARK
        return [
            *record_errors("store", StoreRecord, mark, self._files),
            *record_errors("replica", ReplicaRecord, self.layout.record, self._files),
            *record_errors("state", StateRecord, self.layout.state, self._files),
            *(record_errors("marks", MarksRecord, self.layout.marks, self._files) if self._has_marks else []),
        ]

    def points(self) -> list[PointRecord]:
        """The recovery points, oldest first; those with a damaged record are left out (see `damaged_points`)."""
        return [point for point in map(self._try_point, self.epochs()) if isinstance(point, PointRecord)]

    def epochs(self) -> list[int]:
        """The epochs of the recovery points, oldest first; their records are not read."""
        newest = self.state().epoch
        found = sorted(map(int, filter(str.isdigit, self._files.names(self.layout.points))))
        return found[: bisect_right(found, newest)]

    def damaged_points(self) -> list[StateError]:
        """What is wrong with the records of points that can't be read; one that is missing between others is one."""
        pinned, newest, epochs = self._pinned(), self.state().epoch, self.epochs()
        wanted = {*epochs, *self._lost(epochs), *([newest] if newest else []), *pinned}
        tried = [(epoch, self._try_point(epoch)) for epoch in sorted(wanted)]
        oldest = min(self.epochs(), default=newest)  # whatever was pruned meanwhile is not missed
        return [found for epoch, found in tried if isinstance(found, StateError)
                and (epoch >= oldest or epoch in self._pinned())]  # fmt: skip

    def _pinned(self) -> set[int]:
        """The epochs whose points nothing but damage takes; none where the marks can't be read."""
        try:
            return {*self.marks().pinned}
        except (FormatError, NotFoundError, StorageError):
            return set()

    def _lost(self, epochs: list[int]) -> set[int]:
        """Epochs that undo logs lead to and that nobody pruned: their points had records."""
        lost, pruned = set(), {*read_pruning(self.layout, self._files)}
        for older, newer in pairwise(epochs):
            if newer == older + 1:
                continue
            try:
                links = chain(self.layout.disk(0), older, newer, self._files)
            except (FormatError, NotFoundError, StorageError, DamageError):
                continue  # readers of the older points, and verify, say so themselves
            lost |= {link.last for link in links} - {newer} - pruned
        pruned |= {*read_pruning(self.layout, self._files)}  # by a sync, meanwhile
        return lost - pruned

    def newest(self) -> PointRecord | None:
        """The newest point, or None before the first; StateError when its record is damaged."""
        state = self.state()
        if state.epoch == 0:
            return None
        return self._read_point(state.epoch)

    def find(self, point_id: str | None) -> PointRecord:
        """A point by id; without one the newest that is not fuzzy (else the newest). NotFoundError when missing."""
        if point_id is None:
            points = self.points()
            if not points:
                raise NotFoundError(f"{self.layout.folder}: has no recovery point yet; run sync")
            return next((point for point in reversed(points) if point.kind != "fuzzy"), points[-1])
        for epoch in self.epochs():
            if point_id.endswith(f".{epoch}"):
                point = self._read_point(epoch)
                if point.id == point_id:
                    return point
        raise NotFoundError(f"{self.layout.folder}: has no recovery point {point_id!r}; `points` lists what it has")

    def reader(self, point: PointRecord, disk: int) -> PointReader:
        """A reader of one disk of a point, which pruning spares until it is closed."""
        if not 0 <= disk < len(point.disks):
            raise NotFoundError(f"point {point.id}: has no disk {disk}; it has 0 to {len(point.disks) - 1}")
        lease = self.lease(point)
        try:
            return PointReader(
                self.layout.disk(disk), self._read_again(), point, disk, newest=self.state().epoch, lease=lease,
                files=self._files,
            )  # fmt: skip
        except BaseException:
            lease.close()
            raise

    def place(self, point: PointRecord, disk: int) -> PointPlace:
        """Where one disk of a point is and what proves it, for the C overlay; the caller holds a lease."""
        if not 0 <= disk < len(point.disks):
            raise NotFoundError(f"point {point.id}: has no disk {disk}; it has 0 to {len(point.disks) - 1}")
        record = self._read_again()
        era = record.era(point.epoch)
        return PointPlace(
            folder=self.layout.disk(disk).folder, epoch=point.epoch, newest=self.state().epoch,
            size=point.disks[disk].size, block_size=record.block_size_of(era), seed=record.seed,
            table_key=table_key(record.relationship, disk, era), era=era,
        )  # fmt: skip

    def lease(self, point: PointRecord) -> File:
        """Keep a point, and all newer ones, from being pruned until this is closed; NotFoundError: it is pruned."""
        with gate(self.layout, self._files, shared=True):
            lease = self._files.open(self.layout.point(point.epoch))
            if not lease.lock(shared=True) or os.fstat(lease.fileno()).st_nlink == 0:
                lease.close()
                raise NotFoundError(f"point {point.id}: is being pruned; choose a newer one")
            return lease

    def locked(self) -> File:
        """The writer's lock, held until closed; BusyError when another process has it."""
        lock = self._files.open(self.layout.lock, write=True, create=True)
        if not lock.lock():
            holder = lock.pread(32, 0).decode("ascii", "replace").strip() or "unknown"
            lock.close()
            raise BusyError(f"{self.layout.folder}: process {holder} is writing to this replica; wait for it")
        try:
            lock.pwrite(f"{os.getpid():<31}\n".encode(), 0)
        except BaseException:
            lock.close()
            raise
        return lock

    def session(self) -> Session:
        """A movement towards the next point; the caller holds the lock."""
        self._read_again()
        self.mend_records()
        return Session(self.layout, self.record, self.state(), files=self._files, clock=self._clock)

    def pending(self) -> PendingRecord | None:
        """The movement that was interrupted, if one was."""
        return read_pending(self.layout, self.state(), self._files)

    @property
    def incomplete(self) -> bool:
        """Whether a movement has begun and not ended, so that `disk.img` alone must not be copied."""
        return self._files.exists(self.layout.incomplete)

    def prune(self, keep: int) -> list[str]:
        """Delete the oldest points beyond `keep`; the caller holds the lock. Returns their names."""
        epochs = self.epochs()
        going = epochs[: max(0, len(epochs) - max(keep, 1))]
        return [self.layout.point(epoch).name for epoch in self.remove_points(going).gone]

    def remove_points(self, epochs: Iterable[int], *, listed: Sequence[int] | None = None) -> Pruned:
        """Delete points, never the newest, and none that a reader holds or that is newer than one; the caller holds
        the lock, and may hand in what `epochs()` has `listed` under it. Their undo logs are merged into those behind
        them; what a reader puts off is done by a later call."""
        listed = self.epochs() if listed is None else listed
        return Pruner(self.layout, self._read_again(), files=self._files).prune(epochs, listed)

    def change_block_size(self, block_size: int, *, progress: Progress = SILENT) -> None:
        """Let checksums be of blocks of another size, from the next point on; the points there are keep theirs. The
        caller holds the lock. RefusedError and DamageError: not now, see `stores.eras`."""
        self._read_again()
        self.mend_records()
        if block_size != self.record.block_size:
            self.record = begin_era(
                self.layout, self.record, self.newest(), block_size,
                pending=self.pending() is not None, progress=progress, files=self._files,
            )  # fmt: skip

    def clock(self) -> ClockRecord:
        """The store's running time, now."""
        return advanced(self.state().clock, self._clock())

    def marks(self) -> MarksRecord:
        """What people and verify say of points; StateError when that can't be read: nothing is pruned then."""
        return read_record("marks", MarksRecord, self.layout.marks, self._files) if self._has_marks else MarksRecord()

    @property
    def _has_marks(self) -> bool:
        return self._files.exists(self.layout.marks) or self._files.exists(copy_of(self.layout.marks))

    def mark(self, marks: MarksRecord) -> None:
        """Replace the marks; the caller holds the lock."""
        write_record("marks", marks, self.layout.marks, self._files, copy_first=True)

    def _read_again(self) -> ReplicaRecord:
        """The record as it is now: another process may have begun another era since."""
        self.record = read_record("replica", ReplicaRecord, self.layout.record, self._files)
        return self.record

    def _copy_is_another(self) -> bool:
        """Whether a change of the record got no farther than its copy: no point may follow before that is mended."""
        first, second = (self._files.read(path, limit=LIMIT) for path in self._twins)
        return first != second

    @property
    def _twins(self) -> tuple[Path, Path]:
        return self.layout.record, copy_of(self.layout.record)

    def mend_records(self) -> None:
        """Write records and copies again from those that are whole, if some are not; the caller holds the lock."""
        if not self.record_errors() and not self._copy_is_another():
            return
        mark = self.layout.folder.parent / STORE_MARK
        write_record("store", read_record("store", StoreRecord, mark, self._files), mark, self._files, copy_first=True)
        write_record("replica", self.record, self.layout.record, self._files, copy_first=True)
        write_state(self.layout, self.state(), self._files)
        if self._has_marks:
            self.mark(self.marks())

    def _read_point(self, epoch: int) -> PointRecord:
        path = self.layout.point(epoch)
        point = decode("point", PointRecord, self._files.read(path, limit=LIMIT), path)
        if point.epoch != epoch or len(point.disks) != len(self.record.disks):
            raise StateError.at(path, 0, "point record", wanted=f"epoch {epoch}", got=f"epoch {point.epoch}")
        return point

    def _try_point(self, epoch: int) -> PointRecord | StateError:
        try:
            return self._read_point(epoch)
        except (FormatError, NotFoundError, StorageError) as error:
            return StateError(str(error))
