"""Copying or comparing what is being written, closed by the delta of what was written meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from ..errors import BlockReplicaError, FormatError, NotConvergingError, NotFoundError
from ..extents import Extent
from ..manifest import Cursor, DiskProgress, PointRecord
from ..stores import Session
from ..tracking import Cut
from .bulk import Pass, run_passes, whole_windows, window_bytes
from .decide import SEEDED, Decision, Need, Plan
from .moving import Disk, Moving, cursor_of, is_past

ROUNDS = 3


class FullMovement:
    """An initial replication, a resync, whole or partial, or a scan: whatever reads the disks themselves.

    `decisions` say of each disk what it needs; there are none where all of it is read.
    """

    def __init__(self, moving: Moving, session: Session, plan: Plan, decisions: Sequence[Decision]) -> None:
        self._moving, self._session, self._plan, self._decisions = moving, session, plan, decisions
        self._disks = moving.disks

    def run(self) -> PointRecord:
        """Copy or compare, then close with the delta of what was written meanwhile."""
        plan, session = self._plan, self._session
        if plan.seeded and (session.pending is None or session.pending.movement != plan.movement):
            self._sow()
        session.start(plan.movement, heal=plan.action != "initial" or session.pending is not None)
        with ExitStack() as stack:
            self._keep_logs()
            passes = [
                self._pass(index, self._decisions[index] if plan.partial else None, stack)
                for index in range(len(self._disks))
            ]
            self._keep_logs()
            self._run_passes(passes, "dirty blocks" if plan.compares else plan.action)
            for _ in range(ROUNDS):
                again = self._close_gap(stack)
                if not again:
                    return self._moving.commit(session, plan.action, plan.reason)
                self._run_passes(again, "comparing again what was written meanwhile")
        why = "; ".join(f"{disk.source.name}: {disk.unusable}" for disk in self._disks if disk.unusable)
        raise NotConvergingError(f"no point in time was reached in {ROUNDS} rounds: {why}")

    def _pass(self, index: int, decision: Decision | None, stack: ExitStack) -> Pass:
        disk, writer, held = self._disks[index], self._session.disks[index], self._session.progress(index)
        plan = self._plan
        windows: Iterable[Extent] = whole_windows(disk.size, self._moving.replica.record.block_size)
        if decision is not None and decision.need == Need.DELTA:
            windows = []
        elif decision is not None and decision.need == Need.PARTIAL and disk.begin and disk.cut:
            windows = self._dirty(disk, disk.begin, disk.cut)
        disk.identity = disk.source.identity()  # before it is judged: a write in between must be seen
        proved = held.done > 0 and self._goes_on(disk, held)
        if decision is None or decision.need != Need.DELTA:
            disk.begin = held.begin if proved and held.begin else cursor_of(disk.cut)
        copies = plan.action == "initial" and not plan.seeded
        if copies and not proved:
            writer.reset()
        elif writer.image.size() != disk.size:
            writer.truth.heal()
        writer.resize(disk.size, doubted=plan.deep)
        # A seed that was taken over by a session that died is not known to be what the table says.
        deep = plan.deep or (plan.seeded and self._session.pending is not None)
        return Pass(
            source=stack.enter_context(disk.source.open()), disk=writer, windows=windows,
            deep=deep, copies=copies, done=held.done if proved and held.done <= writer.unsettled else 0,
        )  # fmt: skip

    def _dirty(self, disk: Disk, begin: Cursor, cut: Cut) -> Iterable[Extent]:
        block_size = self._moving.replica.record.block_size
        return disk.source.since(begin, cut).dirty(block_size, window_bytes(block_size))

    def _goes_on(self, disk: Disk, held: DiskProgress) -> bool:
        """Whether all that was written since an interrupted pass began is known, so that it may resume."""
        if held.begin is None or disk.cut is None:
            return disk.cut is None and held.identity == disk.identity
        if not is_past(held.begin, disk.cut):
            return False
        try:
            with ExitStack() as stack:
                disk.logs(held.begin, stack)
        except BlockReplicaError:
            return False
        return True

    def _sow(self) -> None:
        """Start from a copy that came by other means; what differs from the image is sent afterwards.

        Until all of it is there the movement has a name of its own: interrupted, it begins again.
        """
        moving, session = self._moving, self._session
        assert moving.settings.seed is not None
        session.start("sowing", heal=False)
        seed, writer = moving.settings.seed, session.disks[0]
        writer.reset()
        with moving.files.open(seed) as source:
            size = min(source.size(), self._disks[0].size)
            writer.resize(size)
            moving.progress.start(f"taking over {seed.name}", size)
            for window in whole_windows(size, moving.replica.record.block_size):
                writer.copy(source, window)
                moving.progress.advance(window.length)
        session.start(SEEDED, heal=False)
        session.checkpoint([DiskProgress()])

    def _keep_logs(self) -> None:
        """Rule 8: from here on what is read and what will close the gap stay, whatever other relationships let go of,
        and where our own cursor was lost."""
        for disk in self._disks:
            if disk.begin is None or disk.cut is None or not is_past(disk.begin, disk.cut):
                continue
            try:
                disk.source.keep(self._moving.id, disk.begin)
            except BlockReplicaError as error:
                self._moving.warnings.append(f"the logs may be let go of too early: {error}")

    def _run_passes(self, passes: list[Pass], what: str) -> None:
        moving = self._moving
        moving.progress.start(what, sum(window.length for one in passes for window in one.windows))

        def checkpoint() -> None:
            if len(passes) == len(self._disks):
                self._session.checkpoint(
                    [
                        DiskProgress(done=one.done, begin=disk.begin, identity=disk.identity)
                        for one, disk in zip(passes, self._disks, strict=True)
                    ]
                )

        run_passes(passes, moving.tally, moving.progress, checkpoint=checkpoint, clock=moving.clock)

    def _close_gap(self, stack: ExitStack) -> list[Pass]:
        """Cut again and apply what was written since each disk's begin; returns what must be compared once more.

        What is frozen was read as it was at its cut: nothing can have been written to it meanwhile.
        """
        cuts = [disk.cut for disk in self._disks] if self._moving.group.frozen else self._moving.cut()
        again = []
        for disk, writer, cut in zip(self._disks, self._session.disks, cuts, strict=True):
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
            disk.begin = cursor_of(cut)
            writer.flush()  # what is compared again must be compared with all that was sent
            writer.resize(cut.size)
            again.append(Pass(stack.enter_context(disk.source.open()), writer, windows))
        if not again:
            self._moving.apply(self._session)
        return again

    def _is_usable(self, disk: Disk) -> bool:
        """Whether its logs close the gap; why not is noted, for a person will ask if they never do (rule 10)."""
        try:
            with ExitStack() as stack:
                disk.logs(disk.begin, stack)
        except (FormatError, NotFoundError) as error:
            disk.unusable = str(error)
            return False
        return True
