"""A relationship: images on the primary side, their replica in a store, and what can be asked of the two.

Not named after it: a module `relationship` would hide the public function of that name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import msgspec

from .errors import BlockReplicaError, NoSpaceError, RefusedError, UsageError, translated
from .files import FILES, Files
from .manifest import BLOCK_SIZES, PointRecord, ReplicaDisk, ReplicaRecord, check_name
from .primaries import DiskState, Kind, addresses, kind_of
from .primaries.files import room_of
from .progress import SILENT, Progress
from .recovery.retention import Decision, Policy, decide, retire
from .recovery.view import ReplicaView
from .replication import NO_HOOKS, HookSettings, Settings, SyncResult, sync
from .stores import DirectoryStore, Replica
from .tracking import LogMode

if TYPE_CHECKING:  # a sync loads none of it
    from .recovery.repair import RepairReport
    from .recovery.serving import Served
    from .recovery.verify import Scope, VerifyReport

DEFAULT_BLOCK_SIZE = 65536
DEFAULT_KEEP = 24


class Definition(msgspec.Struct, frozen=True):
    """What a relationship is made of; what the catalog keeps of it.

    Without a `policy` the newest `keep` points stay. `tracking_dir`: where the trackers of its images have their files,
    if not beside them; `log`: when they keep a log;
    `ignore_ctime`: whether one whose ctime alone changed is unchanged, None: as its tracking file says.
    """

    id: UUID
    name: str
    images: tuple[Path, ...]  #: addresses: see `primaries`
    store: Path
    keep: int = DEFAULT_KEEP
    seed: Path | None = None
    policy: Policy | None = None
    tracking_dir: Path | None = None
    hooks: HookSettings = NO_HOOKS
    log: LogMode = "always"
    ignore_ctime: bool | None = None

    @property
    def retention(self) -> Policy:
        """Which points are kept."""
        return self.policy or Policy(last=self.keep)


class DiskStatus(msgspec.Struct, frozen=True):
    """A disk of a relationship. `tracking` is tracking, closed, changed, unclean, untracked, missing or unreadable.

    `state` is the tracker's that has it open: tracking, bitmap only, whole disk or critical; "not tracked" when none
    has. Only then are the rest not None: the age of the last cut, and writes a second if they were measured.
    """

    index: int
    path: Path
    size: int
    tracking: str
    dirty_bytes: int | None
    log_bytes: int | None
    log_failed: bool
    state: str = "not tracked"
    pid: int | None = None
    cut_age_seconds: float | None = None
    writes_per_second: float | None = None


class Status(msgspec.Struct, frozen=True):
    """How a relationship stands. `lag_seconds` is the age of the newest point, `block_size` what a checksum covers,
    `served` which points this host is serving, pivots among them."""

    name: str
    state: str
    store: Path
    points: int
    newest: PointRecord | None
    lag_seconds: float | None
    incomplete: bool
    disks: list[DiskStatus]
    block_size: int | None = None
    served: list[Served] = msgspec.field(default_factory=list)


class Relationship:
    """Made by `protect`, or by the catalog for one that exists. `last` is what the latest sync did, if any here."""

    def __init__(self, definition: Definition, *, files: Files = FILES) -> None:
        self.definition = definition
        self._files = files
        self.last: SyncResult | None = None

    @property
    def name(self) -> str:
        """Its name, also of the replica in the store."""
        return self.definition.name

    @property
    def images(self) -> list[Path]:
        """The primary's images, disk 0 first."""
        return list(self.definition.images)

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.definition.store

    @property
    def replica(self) -> ReplicaView:
        """The replica's side of it."""
        replica = DirectoryStore(self.store, files=self._files).replica(self.name)
        if replica.record.relationship != str(self.definition.id):
            raise RefusedError(f"{replica.layout.folder}: belongs to another relationship of that name; "
                               "unprotect this one, or put its own replica back")  # fmt: skip
        return ReplicaView(replica, self._files)

    def sync(self, *, progress: Progress = SILENT) -> SyncResult:
        """Make a new recovery point: by a delta where the logs allow it, else by comparing; says which and why."""
        held = self.definition
        return self._sync(Settings(seed=held.seed, retire=self._retire, hooks=held.hooks), progress)

    def resync(self, *, deep: bool = False, block_size: int | None = None, progress: Progress = SILENT) -> SyncResult:
        """Compare image and replica by checksum, send what differs, make a new point. `deep` reads both sides.

        With a `block_size` the replica goes on with checksums of blocks of that size; its points keep theirs.
        """
        if block_size is not None and block_size not in BLOCK_SIZES:
            raise UsageError(f"block size {block_size}: wanted a power of two from 4 KiB to 4 MiB")
        held = self.definition
        settings = Settings(resync=True, deep=deep, retire=self._retire, hooks=held.hooks, block_size=block_size)
        return self._sync(settings, progress)

    def points(self) -> list[PointRecord]:
        """The recovery points, oldest first."""
        return self.replica.points()

    def decisions(self) -> list[Decision]:
        """Which points the policy keeps and which not, and why; nothing is done."""
        return decide(self.replica.base, self.definition.retention)

    def prune(self) -> tuple[list[Decision], list[str]]:
        """Take out the points that the policy does not keep; the decisions, and what was put off."""
        replica = self.replica.base
        with replica.locked():
            decisions, put_off = retire(replica, self.definition.retention)
        return decisions or self.decisions(), put_off

    def pin(self, point_id: str, *, pinned: bool = True) -> str:
        """Keep a point whatever the policy says, or no longer; returns its id. A lost point, too, can be let go."""
        replica = self.replica.base
        with replica.locked():
            marks = replica.marks()
            lost = next((epoch for epoch in marks.pinned if point_id == f"{replica.state().generation}.{epoch}"), None)
            epoch = lost if lost is not None and not pinned else replica.find(point_id).epoch
            epochs = {*marks.pinned, epoch} if pinned else {*marks.pinned} - {epoch}
            replica.mark(msgspec.structs.replace(marks, pinned=sorted(epochs)))
        return point_id

    def verify(self, scope: Scope | None = None, *, progress: Progress = SILENT) -> VerifyReport:
        """Read the replica, or what `scope` says of it, and check it; marks the points that are damaged."""
        from .recovery.verify import EVERYTHING, note_marks, verify

        replica, scope = self.replica.base, scope or EVERYTHING
        report = verify(replica, scope, progress=progress, files=self._files)
        note_marks(replica, scope, report)
        return report

    def repair(self, *, progress: Progress = SILENT) -> RepairReport:
        """Put damaged blocks back that the primary, or the newest content, still has; marks what stays damaged."""
        from .recovery.repair import repair
        from .recovery.verify import EVERYTHING, note_marks

        replica, images = self.replica.base, self.definition.images
        with ExitStack() as stack:
            stack.enter_context(replica.locked())
            group = stack.enter_context(closing(kind_of(images).open(images, self.definition.id, self._files)))
            primaries = [stack.enter_context(source.open()) for source in group.sources]
            report = repair(replica, primaries, progress=progress, files=self._files)
        note_marks(replica, EVERYTHING, report.after, anew=True)
        return report

    def status(self, *, rate_over_s: float = 0.0) -> Status:
        """How things stand on both sides; a side that can't be read says so in `state`.

        `rate_over_s`: look twice at the disks that a tracker has open, so many seconds apart, to tell how fast they are
        written.
        """
        from .recovery.serving import served_points

        points: list[PointRecord] = []
        incomplete, state, damage, block_size = False, "", "", None
        try:
            replica = self.replica.base
            points, incomplete, block_size = replica.points(), replica.incomplete, replica.record.block_size
            damage = "damaged points" if replica.marks().damaged else ""
        except BlockReplicaError as error:
            state = f"store: {error}"
        disks = self._disks(rate_over_s)
        for trouble in ("missing", "unreadable"):
            if not state and any(disk.tracking == trouble for disk in disks):
                state = f"image {trouble}"
        if not state:
            state = "incomplete" if incomplete else damage or ("ok" if points else "no point yet")
        newest = points[-1] if points else None
        return Status(
            name=self.name, state=state, store=self.store, points=len(points), newest=newest,
            lag_seconds=max(0.0, time.time() - newest.time) if newest else None, incomplete=incomplete, disks=disks,
            block_size=block_size, served=served_points(self.definition.id),
        )  # fmt: skip

    def forget(self, *, delete_replica: bool = False) -> None:
        """Let the primary forget the relationship; the replica stays unless told otherwise."""
        mine = self.replica if delete_replica else None  # refused for another relationship's, before anything goes
        definition = self.definition
        self._kind().forget(definition.images, definition.id, self._files)
        if mine is not None:
            DirectoryStore(self.store, files=self._files).remove_replica(self.name)

    def _retire(self, replica: Replica) -> list[str]:
        retire(replica, self.definition.retention)
        return []  # what a reader holds is taken out by a later sync

    def _sync(self, settings: Settings, progress: Progress) -> SyncResult:
        replica = self.replica.base
        definition = self.definition
        with closing(self._kind().open(definition.images, definition.id, self._files)) as group:
            self.last = sync(replica, group, settings, progress=progress, files=self._files)
        return self.last

    def _kind(self) -> Kind:
        held = self.definition
        return kind_of(held.images, held.tracking_dir, held.log, ignore_ctime=held.ignore_ctime)

    def _states(self) -> list[DiskState]:
        return self._kind().states(self.definition.images, self.definition.id, self._files)

    def _disks(self, rate_over_s: float) -> list[DiskStatus]:
        states, begun, rates = self._states(), time.monotonic(), None
        if rate_over_s > 0 and any(state.writes is not None for state in states):
            time.sleep(rate_over_s)
            later, seconds = self._states(), time.monotonic() - begun
            rates = [_rate(one, other, seconds) for one, other in zip(states, later, strict=True)]
        return [
            DiskStatus(
                index,
                path,
                state.size,
                state.tracking,
                state.dirty_bytes,
                state.log_bytes,
                state.log_failed,
                state.tracker or "not tracked",
                state.pid,
                None if state.last_cut is None else max(0.0, time.time() - state.last_cut),
                rates[index] if rates else None,
            )
            for index, (path, state) in enumerate(zip(self.definition.images, states, strict=True))
        ]


def _rate(one: DiskState, other: DiskState, seconds: float) -> float | None:
    if one.writes is None or other.writes is None:
        return None
    return round(max(0, other.writes - one.writes) / seconds, 1)


def define(
    images: Sequence[str | os.PathLike[str]], store: str | os.PathLike[str], *, name: str,
    keep: int = DEFAULT_KEEP, seed: str | os.PathLike[str] | None = None, policy: Policy | None = None,
    tracking_dir: str | os.PathLike[str] | None = None, log: LogMode = "always",
    hooks: HookSettings = NO_HOOKS, ignore_ctime: bool | None = None,
) -> Definition:  # fmt: skip
    """A new relationship's definition; UsageError or RefusedError for what can't be one."""
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not images or keep < 1:
        raise UsageError("wanted at least one image and at least one point to keep")
    if seed is not None and len(images) > 1:
        raise UsageError("a seed is for a relationship of one image")
    paths = tuple(addresses(images))
    kind_of(paths, Path(tracking_dir) if tracking_dir is not None else None, log, ignore_ctime=ignore_ctime)
    if len(set(paths)) != len(paths):
        raise UsageError("the same image is named twice")
    return Definition(
        id=uuid4(), name=name, images=paths, store=Path(store).resolve(), keep=keep,
        seed=Path(seed).resolve() if seed is not None else None, policy=policy,
        tracking_dir=Path(tracking_dir).resolve() if tracking_dir is not None else None,
        hooks=hooks, log=log, ignore_ctime=ignore_ctime,
    )  # fmt: skip


def check(definition: Definition, progress: Progress, *, files: Files = FILES) -> None:
    """The checks before a first replication: readable images, a store that is none of them, room."""
    kind = kind_of(definition.images, definition.tracking_dir)
    needed = kind.weigh(definition.images, definition.id, files)
    local = [path for address in definition.images if (path := kind.local(address)) is not None]
    if definition.seed is not None:
        needed += room_of(definition.seed, files)
    for path in (*local, *([definition.seed] if definition.seed else [])):
        if path.is_relative_to(definition.store):
            raise RefusedError(f"{path}: lies inside the store {definition.store}; choose a store elsewhere")
    _check_room(definition, needed, local, progress)


def new_replica(definition: Definition, block_size: int) -> ReplicaRecord:
    """The record of the replica that `definition` is going to have; UsageError for a block size that can't be."""
    kind = kind_of(definition.images, definition.tracking_dir)
    record = ReplicaRecord(
        relationship=str(definition.id), name=definition.name, block_size=block_size,
        seed=int.from_bytes(os.urandom(8), "little"), created=time.time(),
        disks=[ReplicaDisk(index=index, name=kind.name(path)) for index, path in enumerate(definition.images)],
    )  # fmt: skip
    try:
        record.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    return record


def _check_room(definition: Definition, needed: int, local: Sequence[Path], progress: Progress) -> None:
    there = definition.store
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise RefusedError(f"{there}: is no folder; name a folder for the replica store")
    with translated(there, "measuring the free space"):
        space = os.statvfs(there)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise NoSpaceError(f"{there}: has room for {free} bytes; the images hold {needed}; choose a larger store")
    if any(os.stat(path).st_dev == os.stat(there).st_dev for path in local):
        progress.note(f"{there}: is on the same file system as an image: one broken disk would take both")
