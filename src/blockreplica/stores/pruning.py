"""Taking points out of a replica, any of them, so that every other one stays what it is, whatever happens on the way.

    `pruning`, fsync ── point records gone, fsync ── undo logs merged beside the old ones, fsync ── index renamed, fsync
    ── old logs gone ── `pruning` gone

A point's undo log also leads to all older points, so it is merged into its neighbour; only what leads to the oldest
point's past goes unmerged. Until the merged index has its name the old chain is whole, and from then on the new one is;
the record `pruning` lets the next prune finish what a crash or a reader has put off (invariant 10).

Readers hold shared locks on their points' records, taken under a shared lock of the folder of points (the gate). A
point that is held, and all newer ones, stay, and so do the logs that lead to it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import msgspec

from ..errors import BlockReplicaError, BusyError, DamageError, FormatError, NotFoundError
from ..files import File, Files
from ..manifest import LIMIT, PruningRecord, ReplicaRecord, decode, encode
from .layout import DiskLayout, ReplicaLayout
from .merge import merge
from .undo_index import OPEN, UndoIndex

GATE_TRIES, GATE_PAUSE_S = 100, 0.05
MERGING = ".merging"
EPOCHS_IN_ORDER = 999_999  # below it, names of six digits are sorted as their epochs are


class Pruned(msgspec.Struct):
    """Epochs whose points are gone, and sentences about what could not be done now."""

    gone: list[int] = msgspec.field(default_factory=list)
    put_off: list[str] = msgspec.field(default_factory=list)


def gate(layout: ReplicaLayout, files: Files, *, shared: bool) -> File:
    """The lock that a reader holds while it takes a lease, and pruning while it relies on there being none."""
    lock = files.open(layout.points)
    for _ in range(GATE_TRIES):
        if lock.lock(shared=shared):
            return lock
        time.sleep(GATE_PAUSE_S)
    lock.close()
    raise BusyError(f"{layout.points}: is being pruned; try again")


def read_pruning(layout: ReplicaLayout, files: Files) -> list[int]:
    """The epochs that an earlier prune has taken out and not finished with; a damaged record counts as none."""
    try:
        return decode("pruning", PruningRecord, files.read(layout.pruning, limit=LIMIT), layout.pruning).epochs
    except (FormatError, NotFoundError):
        return []


def chain(layout: DiskLayout, older: int, newer: int, files: Files) -> list[UndoIndex]:
    """The indexes that lead from point `newer` back to `older`, oldest first; DamageError where one is missing."""
    found: list[UndoIndex] = []
    at = older
    while at < newer:
        index = UndoIndex.probe(layout.undo_index(at + 1), files=files)
        if index is None or index.last > newer:
            raise DamageError(f"{layout.undo_index(at + 1)}: is missing, or leads behind point {newer}")
        found.append(index)
        at = index.last
    return found


class Pruner:
    """Made under the replica's lock."""

    def __init__(self, layout: ReplicaLayout, record: ReplicaRecord, *, files: Files) -> None:
        self._layout, self._record, self._files = layout, record, files

    def prune(self, remove: Iterable[int], listed: Sequence[int]) -> Pruned:
        """Take out those of the `listed` epochs that are in `remove` and not held; finish what was put off before."""
        done, unfinished = Pruned(), read_pruning(self._layout, self._files)
        wanted = sorted(set(remove) & set(listed[:-1]))
        left = list(listed)
        if wanted:
            done.gone = self._remove(wanted, listed, unfinished)
            left = [epoch for epoch in listed if epoch not in set(done.gone)]
            if len(done.gone) < len(wanted):
                done.put_off.append("points that are being read, and all newer ones, are kept for now")
        if left:
            self._drop_before(left[0])
            if self._record.frozen:
                self._drop_tables({self._record.era(epoch) for epoch in left})
        there = set(left)
        pending = sorted(epoch for epoch in {*unfinished, *done.gone} - there if left and epoch > left[0])
        if pending:
            pending = self._merge_all(pending, left, done)
        if pending:
            self._write(pending)
        elif self._files.exists(self._layout.pruning):
            self._files.unlink(self._layout.pruning)
            self._files.sync_folder(self._layout.folder)
        return done

    def _remove(self, wanted: list[int], listed: Sequence[int], unfinished: list[int]) -> list[int]:
        with gate(self._layout, self._files, shared=False):
            held = self._first_held([epoch for epoch in listed if epoch <= wanted[-1]])
            going = [epoch for epoch in wanted if epoch < held]
            if not going:
                return []
            if len(going) > 1 or going[0] != listed[0]:  # the oldest leaves no log that must be merged
                self._write(sorted({*going, *unfinished}))
            for epoch in going:
                self._files.unlink(self._layout.point(epoch))
            self._files.sync_folder(self._layout.points)
        return going

    def _first_held(self, epochs: Iterable[int]) -> int:
        """The oldest of these points that a reader holds; the caller has the gate."""
        for epoch in epochs:
            with self._files.open(self._layout.point(epoch)) as lease:
                if not lease.lock():
                    return epoch
        return OPEN

    def _drop_before(self, oldest: int) -> None:
        """Remove the undo logs that lead to what was before the oldest point."""
        for disk in self._record.disks:
            layout = self._layout.disk(disk.index)
            self._sweep(layout, 0, oldest, set())

    def _drop_tables(self, living: set[int]) -> None:
        """Remove the frozen checksum tables that prove no point any more."""
        for disk in self._record.disks:
            layout = self._layout.disk(disk.index)
            for era in set(range(len(self._record.frozen))) - living:
                if self._files.exists(layout.table(era)):
                    self._files.unlink(layout.table(era))

    def _merge_all(self, pending: list[int], left: Sequence[int], done: Pruned) -> list[int]:
        """Merge the logs around all epochs of `pending`; returns those for which that was put off."""
        later, going = [], set(pending)
        for older, newer in pairwise(left):
            inside = [epoch for epoch in pending if older < epoch < newer]
            if not inside:
                continue
            try:
                for disk in self._record.disks:
                    self._merge_between(self._layout.disk(disk.index), older, newer, going, left)
            except (BlockReplicaError, FileNotFoundError) as error:
                if isinstance(error, BlockReplicaError) and error.recoverable and not isinstance(error, BusyError):
                    raise
                later += inside
                done.put_off.append(f"the undo logs behind point {older} are not merged: {error}")
        return later

    def _merge_between(self, layout: DiskLayout, older: int, newer: int, going: set[int], left: Sequence[int]) -> None:
        """Have one log from each boundary that stays to the next, between two points."""
        links, keep, run = chain(layout, older, newer, self._files), set[Path](), list[UndoIndex]()
        for link in links:
            run.append(link)
            if link.last in going and link.last < newer:
                continue
            if len(run) > 1:
                keep |= self._merge_run(layout, run, left)
            else:
                keep |= {link.path, link.log_path}
            run = []
        self._files.sync_folder(layout.undo)  # the new chain's names, before the old one's go
        self._sweep(layout, older, newer, keep)
        self._files.sync_folder(layout.undo)  # before `pruning` goes, which is all that tells of leftovers

    def _merge_run(self, layout: DiskLayout, run: list[UndoIndex], left: Sequence[int]) -> set[Path]:
        first, last = run[0].first, run[-1].last
        index, log = layout.undo_index(first), layout.merged_log(first, last)
        ready = index.with_name(index.name + MERGING)
        try:
            merge(run, log, ready, files=self._files)
            with gate(self._layout, self._files, shared=False):
                if self._first_held(epoch for epoch in left if epoch < first) != OPEN:
                    raise BusyError("a point that they lead to is being read")
                self._files.rename(ready, index)
                self._files.sync_folder(layout.undo)
        except BaseException:
            self._files.unlink(ready)
            if not _leads_to(index, log, self._files):  # the rename may have been done, and its fsync have failed
                self._files.unlink(log)
            raise
        return {index, log}

    def _sweep(self, layout: DiskLayout, older: int, newer: int, keep: set[Path]) -> None:
        """Remove what stands in the folder for epochs in (older, newer] but `keep`."""
        folder = layout.undo
        for name in names_from(self._files.names(folder), older + 1, newer):
            first = name.split(".")[0].split("-")[0]
            if first.isdigit() and older < int(first) <= newer and (path := folder / name) not in keep:
                self._files.unlink(path)

    def _write(self, epochs: list[int]) -> None:
        self._files.write_durably(self._layout.pruning, encode("pruning", PruningRecord(epochs=epochs)))


def names_from(names: list[str], first: int, last: int) -> list[str]:
    """Of sorted names that begin with an epoch, those that may be of `first` to `last`, and a few others. There are
    thousands, and each sync asks: only those few are worth a closer look."""
    if last >= EPOCHS_IN_ORDER:
        return names
    return names[bisect_left(names, f"{first:06d}") : bisect_left(names, f"{last + 1:06d}")]


def _leads_to(index: Path, log: Path, files: Files) -> bool:
    with ExitStack() as stack:
        try:
            found = UndoIndex(index, files=files)
        except BlockReplicaError:
            return True  # in doubt nothing is removed
        stack.callback(found.close)
        return found.log_path == log
