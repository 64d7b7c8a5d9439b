"""One sync from cut to acknowledgement: decide, move, commit, and only then let the primary forget what was dirty.

cut ─ earlier cuts ─ decide ─┬─ delta: apply the logs since the last point ───────────────────┬─ commit ─ fsync images
                             └─ copy or compare, cut again, apply the logs of what was written ┘         ─ cursors
                                meanwhile; while those logs fail, what is dirty is compared again (rule 10)

Earlier cuts: those that a guest was at rest for, and whose sync did not reach its end. Each is moved to by logs and has
its point first (rule 8). From there on all is decided anew, so killed in between, nothing of what stands is undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from msgspec.structs import replace

from ..errors import BlockReplicaError, DamageError, TableError
from ..files import FILES, Files
from ..manifest import PointRecord
from ..progress import SILENT, Progress
from ..stores import Replica, Session
from ..tracking import ConsistentCut
from ..units import format_time
from .decide import Decision, Plan, asked_for, planned
from .full import FullMovement
from .moving import Moving, why_not_by_logs
from .result import SyncResult
from .settings import Settings
from .source import Group
from .wish import fulfil_wish, note_wish


def sync(
    replica: Replica, group: Group, settings: Settings, *,
    progress: Progress = SILENT, files: Files = FILES, clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> SyncResult:  # fmt: skip
    """Bring the replica to a new recovery point of all disks of `group`, cut together; returns what was done."""
    started = clock()
    with replica.locked():
        wished = note_wish(replica, settings.block_size)
        moving = Moving(replica, group, settings, progress=progress, files=files, clock=clock, now=now)
        movement = _Movement(moving)
        earlier = movement.catch_up()
        point = movement.run()
        warnings = movement.acknowledge(point, earlier)
        warnings += fulfil_wish(replica, wished, asked=settings.block_size is not None, progress=progress)
    tally = moving.tally
    return SyncResult(
        action=point.action, reason=point.reason, point=point.id, kind=point.kind, bytes_scanned=tally.scanned,
        bytes_dirty=tally.dirty, bytes_sent=tally.sent, bytes_skipped=tally.dirty - tally.sent,
        seconds=clock() - started, warnings=warnings, points=[each.id for each in (*earlier, point)],
    )  # fmt: skip


class _Movement:
    def __init__(self, moving: Moving) -> None:
        self._moving = moving

    def catch_up(self) -> list[PointRecord]:
        """Make the points of earlier application-consistent cuts, as long as logs lead to them; returns them."""
        moving, mine = self._moving, [disk.cut for disk in self._moving.disks]
        waiting = moving.kept.waiting(mine, moving.rest.kind)
        made: list[PointRecord] = []
        try:
            while waiting:
                for disk, cut, own in zip(moving.disks, waiting[0].cuts, mine, strict=True):
                    disk.cut = replace(cut, token=own.token if own else "")  # of this sync: that is known here
                point, why = self._try_kept(waiting[0])
                if point is None:
                    moving.kept.give_up(waiting, why)
                    break
                moving.kept.stands(waiting.pop(0))
                made.append(point)
        finally:
            for disk, own in zip(moving.disks, mine, strict=True):
                disk.cut = own
        return made

    def _try_kept(self, kept: ConsistentCut) -> tuple[PointRecord | None, str]:
        """Its point; or None, and why there can be none."""
        moving, begins = self._moving, [disk.begin for disk in self._moving.disks]
        with closing(moving.replica.session()) as session:
            why = self._unreachable(session)
            if why:
                return None, why
            reason = f"the cut of {format_time(kept.time)}, consistent by {kept.by}, that an earlier sync had not sent"
            moving.progress.note(reason)
            try:
                moving.last = moving.delta(session, reason, kept)
            except (TableError, DamageError) as error:  # which the movement to this sync's own cut mends
                for disk, begin in zip(moving.disks, begins, strict=True):
                    disk.begin = begin
                return None, str(error)
        return moving.last, ""

    def _unreachable(self, session: Session) -> str:
        """Why logs alone can't lead the replica to the disks' cuts, if they can't."""
        moving = self._moving
        if session.first:
            return "the first replication had not ended"
        if moving.settings.resync:
            return "a resync was asked for"
        if moving.last is None:
            return f"nothing is known of the newest point: {moving.lost}"
        if moving.group.frozen:
            return "QEMU's bitmaps tell what has changed, not what it was then"
        if session.pending is not None and session.pending.movement != "delta":
            return f"an interrupted {session.pending.movement} has to be ended first"
        return moving.resized(session) or why_not_by_logs(moving.decisions()) or moving.strayed(session)

    def run(self) -> PointRecord:
        """Decide and move. A bad table page turns a delta into a resync, a damaged block anything into a deep one."""
        moving = self._moving
        decisions = moving.decisions()
        plan: Plan | None = None
        while True:
            with closing(moving.replica.session()) as session:
                plan = plan or self._plan(session, decisions)
                try:
                    if plan.movement == "delta":
                        return moving.delta(session, plan.reason)
                    return FullMovement(moving, session, plan, decisions).run()
                except TableError as error:
                    if plan.movement != "delta":
                        raise
                    plan = Plan("resync", str(error))
                except DamageError as error:
                    if plan.deep:
                        raise
                    plan = Plan("resync", f"{error}, reading both sides", deep=True)

    def acknowledge(self, point: PointRecord, earlier: Sequence[PointRecord]) -> list[str]:
        """Rule 2: dirt is let go of only after the commit *and* an fsync of the image begun after the cut."""
        moving = self._moving
        warnings = moving.warnings
        if point.kind == "fuzzy":
            names = ", ".join(disk.source.name for disk in moving.disks if disk.fuzzy)
            warnings.append(f"{names} changed while being read: point {point.id} is fuzzy, not one instant; "
                            "write through a tracker, or sync while nothing writes")  # fmt: skip
        for each in (*earlier, point):
            if each.unusual:
                warnings.append(f"point {each.id} is unusual: {each.unusual}; if nobody knows why, somebody may be "
                                f"encrypting the disk: point {each.calm}, the last one before, is kept for 30 days; "
                                "pin it to keep it longer")  # fmt: skip
        for disk in moving.disks:
            if disk.begin is None:
                continue
            try:
                disk.source.acknowledge(moving.id, disk.begin)
            except BlockReplicaError as error:
                warnings.append(f"the logs are kept: {error}")
        moving.kept.done()
        try:
            if moving.settings.retire is not None:
                warnings += moving.settings.retire(moving.replica)
            else:
                moving.replica.prune(moving.settings.keep)
        except BlockReplicaError as error:  # the point stands: nothing that follows may deny it
            warnings.append(f"older points are kept: {error}")
        return warnings

    def _plan(self, session: Session, decisions: Sequence[Decision]) -> Plan:
        moving = self._moving
        if session.first:
            return Plan("initial", "the first replication", seeded=moving.settings.seed is not None)
        resized = moving.resized(session)
        if moving.settings.resync:
            return asked_for(deep=moving.settings.deep or bool(resized))
        if resized:
            return Plan("resync", resized, deep=True)
        if moving.last is None:
            return Plan("resync", f"nothing is known of the newest point: {moving.lost}")
        plan = planned(decisions, session.pending.movement if session.pending else "")
        strayed = moving.strayed(session) if plan.action in ("delta", "partial-resync") else ""
        return Plan("resync", strayed) if strayed else plan
