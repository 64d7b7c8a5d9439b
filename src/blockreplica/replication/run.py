"""One sync from cut to acknowledgement: decide, move, commit, and only then let the primary forget what was dirty.

cut ─ decide ─┬─ delta: apply the logs since the last point ───────────────────┬─ commit ─ fsync images ─ cursors
              └─ copy or compare, cut again, apply the logs of what was written ┘
                 meanwhile; while those logs fail, what is dirty is compared again (rule 10)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from uuid import UUID

from ..errors import (
    BlockReplicaError,
    DamageError,
    FormatError,
    NotConvergingError,
    NotFoundError,
    StorageError,
    TableError,
)
from ..extents import Extent
from ..files import FILES, Files
from ..manifest import Cursor, DiskProgress, PointDisk, PointRecord, point_id
from ..progress import SILENT, Progress
from ..stores import Replica, Session
from ..tracking import Cut
from .bulk import Pass, run_passes, whole_windows, window_bytes
from .decide import SEEDED, Decision, DiskView, Need, Plan, asked_for, decide, planned
from .delta import apply_delta
from .hooks import Rest
from .logs import DeltaLogs
from .result import SyncResult, Tally
from .settings import NO_HOOKS, HookSettings, Settings
from .source import Delta, Group, Source
from .wish import fulfil_wish, note_wish

ROUNDS = 3


@dataclass(slots=True)
class _Disk:
    """A disk on its way: where its delta begins, and whether it changed under our eyes."""

    source: Source
    begin: Cursor | None
    cut: Cut | None
    identity: list[int] = field(default_factory=list)
    fuzzy: bool = False
    unusable: str = ""  # why the logs that were to close the gap could not, when they last could not

    @property
    def size(self) -> int:
        return self.cut.size if self.cut is not None else self.source.size()


def sync(
    replica: Replica, group: Group, settings: Settings, *,
    progress: Progress = SILENT, files: Files = FILES, clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> SyncResult:  # fmt: skip
    """Bring the replica to a new recovery point of all disks of `group`, cut together; returns what was done."""
    started = clock()
    with replica.locked():
        wished = note_wish(replica, settings.block_size)
        movement = _Movement(replica, group, settings, progress, files, clock, now)
        point = movement.run()
        warnings = movement.acknowledge(point)
        warnings += fulfil_wish(replica, wished, asked=settings.block_size is not None, progress=progress)
    tally = movement.tally
    return SyncResult(
        action=point.action, reason=point.reason, point=point.id, kind=point.kind, bytes_scanned=tally.scanned,
        bytes_dirty=tally.dirty, bytes_sent=tally.sent, bytes_skipped=tally.dirty - tally.sent,
        seconds=clock() - started, warnings=warnings,
    )  # fmt: skip


class _Movement:
    def __init__(
        self, replica: Replica, group: Group, settings: Settings, progress: Progress,
        files: Files, clock: Callable[[], float], now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._replica, self._group, self._settings = replica, group, settings
        self._progress, self._files, self._clock, self._now = progress, files, clock, now
        self.tally = Tally()
        self._id = UUID(replica.record.relationship)
        self._warnings: list[str] = []
        self._last, self._lost = _newest(replica)
        cursors = [disk.cursor for disk in self._last.disks] if self._last else [None] * len(group.sources)
        group.prepare([self._known(index, cursor) for index, cursor in enumerate(cursors)])
        self._rest = _rest(settings.hooks)
        # Hooks stand around the cut that becomes the point: what is copied or compared live needs a second one.
        point = group.frozen or (group.one_cut() and not settings.resync and self._last is not None)
        cuts = self._rest.around(group.cut) if point else group.cut()
        self._disks = [_Disk(*each) for each in zip(group.sources, cursors, cuts, strict=True)]

    def _known(self, index: int, cursor: Cursor | None) -> list[Cursor]:
        pending = self._replica.pending()
        begins = [disk.begin for disk in pending.disks[index : index + 1]] if pending else []
        return [each for each in (cursor, *begins) if each is not None]

    def run(self) -> PointRecord:
        """Decide and move. A bad table page turns a delta into a resync, a damaged block anything into a deep one."""
        decisions = self._decisions()
        plan: Plan | None = None
        while True:
            with closing(self._replica.session()) as session:
                plan = plan or self._plan(session, decisions)
                try:
                    return (
                        self._delta(session, plan) if plan.movement == "delta" else self._full(session, plan, decisions)
                    )
                except TableError as error:
                    if plan.movement != "delta":
                        raise
                    plan = Plan("resync", str(error))
                except DamageError as error:
                    if plan.deep:
                        raise
                    plan = Plan("resync", f"{error}, reading both sides", deep=True)

    def acknowledge(self, point: PointRecord) -> list[str]:
        """Rule 2: dirt is let go of only after the commit *and* an fsync of the image begun after the cut."""
        warnings = self._warnings
        if point.kind == "fuzzy":
            names = ", ".join(disk.source.name for disk in self._disks if disk.fuzzy)
            warnings.append(f"{names} changed while being read: point {point.id} is fuzzy, not one instant; "
                            "write through a tracker, or sync while nothing writes")  # fmt: skip
        if point.unusual:
            warnings.append(f"point {point.id} is unusual: {point.unusual}; if nobody knows why, somebody may be "
                            f"encrypting the disk: pin point {point.calm}, the last one before")  # fmt: skip
        for disk in self._disks:
            if disk.begin is None:
                continue
            try:
                disk.source.acknowledge(self._id, disk.begin)
            except BlockReplicaError as error:
                warnings.append(f"the logs are kept: {error}")
        try:
            if self._settings.retire is not None:
                warnings += self._settings.retire(self._replica)
            else:
                self._replica.prune(self._settings.keep)
        except BlockReplicaError as error:  # the point stands: nothing that follows may deny it
            warnings.append(f"older points are kept: {error}")
        return warnings

    def _plan(self, session: Session, decisions: Sequence[Decision]) -> Plan:
        if session.first:
            return Plan("initial", "the first replication", seeded=self._settings.seed is not None)
        resized = self._resized(session)
        if self._settings.resync:
            return asked_for(deep=self._settings.deep or bool(resized))
        if resized:
            return Plan("resync", resized, deep=True)
        if self._last is None:
            return Plan("resync", f"nothing is known of the newest point: {self._lost}")
        return planned(decisions, session.pending.movement if session.pending else "")

    def _resized(self, session: Session) -> str:
        """Why the replica's images can't be trusted, when they are not of the newest point's sizes."""
        if session.pending is not None or self._last is None:
            return ""
        for disk, writer in zip(self._last.disks, session.disks, strict=True):
            size = writer.image.size()
            if size != disk.size:
                return f"{writer.image.path} has {size} bytes, the newest point {disk.size}: the replica was damaged"
        return ""

    def _decisions(self) -> list[Decision]:
        return [self._decision(disk) for disk in self._disks] if self._last else []

    def _decision(self, disk: _Disk) -> Decision:
        if disk.cut is None or disk.begin is None:
            return decide(DiskView(name=disk.source.name, size=disk.size, cut=disk.cut, cursor=disk.begin))
        return disk.source.since(disk.begin, disk.cut).decide()

    def _delta(self, session: Session, plan: Plan) -> PointRecord:
        session.start("delta", heal=False)
        self._apply(session)
        return self._commit(session, "delta", plan.reason)

    def _full(self, session: Session, plan: Plan, decisions: Sequence[Decision]) -> PointRecord:
        """Copy or compare, then close with the delta of what was written meanwhile."""
        if plan.seeded and (session.pending is None or session.pending.movement != plan.movement):
            self._sow(session)
        session.start(plan.movement, heal=plan.action != "initial" or session.pending is not None)
        with ExitStack() as stack:
            self._keep_logs()
            passes = [
                self._pass(session, index, plan, decisions[index] if plan.partial else None, stack)
                for index in range(len(self._disks))
            ]
            self._keep_logs()
            self._run_passes(session, passes, "dirty blocks" if plan.compares else plan.action)
            for _ in range(ROUNDS):
                again = self._close_gap(session, stack)
                if not again:
                    return self._commit(session, plan.action, plan.reason)
                self._run_passes(session, again, "comparing again what was written meanwhile")
        why = "; ".join(f"{disk.source.name}: {disk.unusable}" for disk in self._disks if disk.unusable)
        raise NotConvergingError(f"no point in time was reached in {ROUNDS} rounds: {why}")

    def _pass(self, session: Session, index: int, plan: Plan, decision: Decision | None, stack: ExitStack) -> Pass:
        disk, writer, held = self._disks[index], session.disks[index], session.progress(index)
        windows: Iterable[Extent] = whole_windows(disk.size, self._replica.record.block_size)
        if decision is not None and decision.need == Need.DELTA:
            windows = []
        elif decision is not None and decision.need == Need.PARTIAL and disk.begin and disk.cut:
            windows = self._dirty(disk, disk.begin, disk.cut)
        disk.identity = disk.source.identity()  # before it is judged: a write in between must be seen
        proved = held.done > 0 and self._goes_on(disk, held)
        if decision is None or decision.need != Need.DELTA:
            disk.begin = held.begin if proved and held.begin else _cursor(disk.cut)
        copies = plan.action == "initial" and not plan.seeded
        if copies and not proved:
            writer.reset()
        elif writer.image.size() != disk.size:
            writer.truth.heal()
        writer.resize(disk.size, doubted=plan.deep)
        # A seed that was taken over by a session that died is not known to be what the table says.
        deep = plan.deep or (plan.seeded and session.pending is not None)
        return Pass(
            source=stack.enter_context(disk.source.open()), disk=writer, windows=windows,
            deep=deep, copies=copies, done=held.done if proved and held.done <= writer.unsettled else 0,
        )  # fmt: skip

    def _dirty(self, disk: _Disk, begin: Cursor, cut: Cut) -> Iterable[Extent]:
        block_size = self._replica.record.block_size
        return disk.source.since(begin, cut).dirty(block_size, window_bytes(block_size))

    def _goes_on(self, disk: _Disk, held: DiskProgress) -> bool:
        """Whether all that was written since an interrupted pass began is known, so that it may resume."""
        if held.begin is None or disk.cut is None:
            return disk.cut is None and held.identity == disk.identity
        if held.begin.tracking_id != str(disk.cut.tracking_id) or held.begin.epoch > disk.cut.epoch:
            return False
        try:
            with ExitStack() as stack:
                self._logs(disk, held.begin, stack)
        except BlockReplicaError:
            return False
        return True

    def _sow(self, session: Session) -> None:
        """Start from a copy that came by other means; what differs from the image is sent afterwards.

        Until all of it is there the movement has a name of its own: interrupted, it begins again.
        """
        assert self._settings.seed is not None
        session.start("sowing", heal=False)
        seed, writer = self._settings.seed, session.disks[0]
        writer.reset()
        with self._files.open(seed) as source:
            size = min(source.size(), self._disks[0].size)
            writer.resize(size)
            self._progress.start(f"taking over {seed.name}", size)
            for window in whole_windows(size, self._replica.record.block_size):
                writer.copy(source, window)
                self._progress.advance(window.length)
        session.start(SEEDED, heal=False)
        session.checkpoint([DiskProgress()])

    def _keep_logs(self) -> None:
        """Rule 8: from here on what is read and what will close the gap stay, whatever other relationships let go of,
        and where our own cursor was lost."""
        for disk in self._disks:
            if disk.begin is None or disk.cut is None or not _is_past(disk.begin, disk.cut):
                continue
            try:
                disk.source.keep(self._id, disk.begin)
            except BlockReplicaError as error:
                self._warnings.append(f"the logs may be let go of too early: {error}")

    def _run_passes(self, session: Session, passes: list[Pass], what: str) -> None:
        self._progress.start(what, sum(window.length for one in passes for window in one.windows))

        def checkpoint() -> None:
            if len(passes) == len(self._disks):
                session.checkpoint(
                    [
                        DiskProgress(done=one.done, begin=disk.begin, identity=disk.identity)
                        for one, disk in zip(passes, self._disks, strict=True)
                    ]
                )

        run_passes(passes, self.tally, self._progress, checkpoint=checkpoint, clock=self._clock)

    def _close_gap(self, session: Session, stack: ExitStack) -> list[Pass]:
        """Cut again and apply what was written since each disk's begin; returns what must be compared once more.

        What is frozen was read as it was at its cut: nothing can have been written to it meanwhile.
        """
        cuts = [disk.cut for disk in self._disks] if self._group.frozen else self._rest.around(self._group.cut)
        again = []
        for disk, writer, cut in zip(self._disks, session.disks, cuts, strict=True):
            disk.cut = cut
            if cut is None or disk.begin is None:
                disk.fuzzy = disk.identity != disk.source.identity()
                continue
            if self._is_usable(disk):
                continue
            if disk.source.changed:
                disk.fuzzy = True
                continue
            windows = self._dirty(disk, disk.begin, cut)
            disk.begin = _cursor(cut)
            writer.flush()  # what is compared again must be compared with all that was sent
            writer.resize(cut.size)
            again.append(Pass(stack.enter_context(disk.source.open()), writer, windows))
        if not again:
            self._apply(session)
        return again

    def _logs(self, disk: _Disk, begin: Cursor | None, stack: ExitStack) -> Delta:
        """What changed from `begin` to the disk's cut, checked; nothing where nothing tracked it all the time."""
        if begin is None or disk.cut is None or disk.fuzzy:
            return DeltaLogs([])
        return disk.source.since(begin, disk.cut).delta(stack)

    def _is_usable(self, disk: _Disk) -> bool:
        """Whether its logs close the gap; why not is noted, for a person will ask if they never do (rule 10)."""
        try:
            with ExitStack() as stack:
                self._logs(disk, disk.begin, stack)
        except (FormatError, NotFoundError) as error:
            disk.unusable = str(error)
            return False
        return True

    def _apply(self, session: Session) -> None:
        """Apply each disk's logs from its begin to its cut; the disks' begins then stand at their cuts."""
        with ExitStack() as stack:
            deltas = [self._logs(disk, disk.begin, stack) for disk in self._disks]
            self._progress.start("delta", sum(delta.data_bytes for delta in deltas))
            for disk, delta, writer in zip(self._disks, deltas, session.disks, strict=True):
                writer.resize(disk.size)
                apply_delta(delta, writer, disk.size, self.tally, self._progress)
                if disk.begin is not None and not disk.fuzzy:
                    disk.begin = _cursor(disk.cut)

    def _commit(self, session: Session, action: str, reason: str) -> PointRecord:
        self._group.check()
        if self._rest.why:
            reason = f"{reason}; not application-consistent: {self._rest.why}"
            self._warnings.append(f"the point is not application-consistent: {self._rest.why}")
        state = self._replica.state()
        times = [disk.cut.time for disk in self._disks if disk.cut is not None]
        disks = [
            PointDisk(index=index, name=disk.source.name, size=writer.image.size(), cursor=disk.begin)
            for index, (disk, writer) in enumerate(zip(self._disks, session.disks, strict=True))
        ]
        return session.commit(
            PointRecord(
                id=point_id(state.generation, session.epoch), generation=state.generation, epoch=session.epoch,
                time=max(times, default=self._now()), action=action, reason=reason, disks=disks,
                kind="fuzzy" if any(disk.fuzzy for disk in self._disks) else self._rest.kind,
            )
        )  # fmt: skip


def _rest(hooks: HookSettings) -> Rest:
    if hooks == NO_HOOKS:
        return Rest(None)
    from .guests import hooks_of  # it takes its time to load

    return Rest(hooks_of(hooks))


def _newest(replica: Replica) -> tuple[PointRecord | None, str]:
    """The newest point; when its record is damaged, what is wrong with it."""
    try:
        return replica.newest(), ""
    except (FormatError, NotFoundError, StorageError) as error:
        return None, str(error)


def _is_past(cursor: Cursor, cut: Cut) -> bool:
    return cursor.tracking_id == str(cut.tracking_id) and cursor.epoch <= cut.epoch


def _cursor(cut: Cut | None) -> Cursor | None:
    if cut is None:
        return None
    return Cursor(tracking_id=str(cut.tracking_id), epoch=cut.epoch, chain=str(cut.chain), token=cut.token)
