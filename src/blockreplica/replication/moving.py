"""What all movements of one sync share: the disks on their way, the delta by logs, the commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from uuid import UUID

import msgspec

from ..errors import FormatError, NotFoundError, StorageError
from ..files import FILES, Files
from ..manifest import Cursor, DiskProgress, PointDisk, PointRecord, point_id
from ..progress import SILENT, Progress
from ..stores import Replica, Session
from ..tracking import ConsistentCut, Cut
from .decide import Decision, DiskView, Need, decide
from .delta import apply_delta
from .hooks import CONSISTENT, Rest
from .kept import KeptCuts
from .logs import DeltaLogs
from .result import Tally
from .settings import NO_HOOKS, HookSettings, Settings
from .source import Delta, Group, Source


class Disk(msgspec.Struct):
    """A disk on its way: where its delta begins, and whether it changed under our eyes."""

    source: Source
    begin: Cursor | None
    cut: Cut | None
    identity: list[int] = msgspec.field(default_factory=list)
    fuzzy: bool = False
    unusable: str = ""  # why the logs that were to close the gap could not, when they last could not

    @property
    def size(self) -> int:
        """Bytes at the cut."""
        return self.cut.size if self.cut is not None else self.source.size()

    def decision(self) -> Decision:
        """What it needs to get from its begin to its cut."""
        if self.cut is None or self.begin is None:
            return decide(DiskView(name=self.source.name, size=self.size, cut=self.cut, cursor=self.begin))
        return self.source.since(self.begin, self.cut).decide()

    def logs(self, begin: Cursor | None, stack: ExitStack) -> Delta:
        """What changed from `begin` to the cut, checked; nothing where nothing tracked it all the time."""
        if begin is None or self.cut is None or self.fuzzy:
            return DeltaLogs([])
        return self.source.since(begin, self.cut).delta(stack)

    def strayed(self, held: Cursor | None) -> bool:
        """Whether a delta to `held`, which was interrupted, has put there what may be missing at the cut."""
        if held is None:
            return False
        return self.cut is None or self.source.since(held, self.cut).decide().need == Need.WHOLE


class Moving:
    """Made under the replica's lock; cuts. `last` is the newest point, `lost` why its record can't be read."""

    def __init__(
        self, replica: Replica, group: Group, settings: Settings, *, progress: Progress = SILENT,
        files: Files = FILES, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.replica, self.group, self.settings = replica, group, settings
        self.progress, self.files, self.clock, self._now = progress, files, clock, now
        self.tally = Tally()
        self.id = UUID(replica.record.relationship)
        self.last, self.lost = _newest(replica)
        cursors = [disk.cursor for disk in self.last.disks] if self.last else [None] * len(group.sources)
        self.warnings = group.prepare([self._known(index, cursor) for index, cursor in enumerate(cursors)])
        self.kept = KeptCuts(group, self.last)
        self.rest = _rest(settings.hooks)
        # Hooks stand around the cut that becomes the point: what is copied or compared live needs a second one.
        point = group.frozen or (group.one_cut() and not settings.resync and self.last is not None)
        cuts = self.cut() if point else group.cut()
        self.disks = [Disk(*each) for each in zip(group.sources, cursors, cuts, strict=True)]

    def cut(self) -> list[Cut | None]:
        """Make the cut that is to become the point. One that the guest was at rest for is noted before it travels."""
        cuts: list[Cut | None] = self.rest.around(self.group.cut)
        if self.rest.kind == CONSISTENT:
            unnoted = self.kept.note(cuts, self.settings.hooks.by)
            if unnoted:
                self.progress.note(f"if this sync is interrupted, its application-consistent cut is lost: {unnoted}")
        return cuts

    def decisions(self) -> list[Decision]:
        """What each disk needs; nothing where nothing is known of the replica."""
        return [disk.decision() for disk in self.disks] if self.last else []

    def resized(self, session: Session) -> str:
        """Why the replica's images can't be trusted, when they are not of the newest point's sizes."""
        if session.pending is not None or self.last is None:
            return ""
        for disk, writer in zip(self.last.disks, session.disks, strict=True):
            size = writer.image.size()
            if size != disk.size:
                return f"{writer.image.path} has {size} bytes, the newest point {disk.size}: the replica was damaged"
        return ""

    def strayed(self, session: Session) -> str:
        """Why a delta that was interrupted can't be made good by one to the cuts, if it can't: what it has brought
        may be of a history that the primary has lost, or of after the cuts."""
        if session.pending is None or session.pending.movement != "delta":
            return ""
        for disk, held in zip(self.disks, session.pending.disks, strict=False):
            if disk.strayed(held.begin):
                return f"an interrupted delta has brought changes of {disk.source.name} that are not in its history"
        return ""

    def delta(self, session: Session, reason: str, kept: ConsistentCut | None = None) -> PointRecord:
        """Move to the cuts by logs alone, and commit. `kept`: the noted cut that they are of, if not this sync's."""
        towards = [] if self.group.frozen else [DiskProgress(begin=cursor_of(disk.cut)) for disk in self.disks]
        session.start("delta", heal=False, towards=towards)
        self.apply(session)
        return self.commit(session, "delta", reason, kept)

    def apply(self, session: Session) -> None:
        """Apply each disk's logs from its begin to its cut; the disks' begins then stand at their cuts."""
        with ExitStack() as stack:
            deltas = [disk.logs(disk.begin, stack) for disk in self.disks]
            self.progress.start("delta", sum(delta.data_bytes for delta in deltas))
            for disk, delta, writer in zip(self.disks, deltas, session.disks, strict=True):
                writer.resize(disk.size)
                apply_delta(delta, writer, disk.size, self.tally, self.progress)
                if disk.begin is not None and not disk.fuzzy:
                    disk.begin = cursor_of(disk.cut)

    def commit(self, session: Session, action: str, reason: str, kept: ConsistentCut | None = None) -> PointRecord:
        """Make the point of the disks' cuts appear."""
        self.group.check()
        kind = CONSISTENT if kept else self.rest.kind
        if kept is None:
            reason += self._not_consistent()
        state = self.replica.state()
        times = [disk.cut.time for disk in self.disks if disk.cut is not None]
        disks = [
            PointDisk(index=index, name=disk.source.name, size=writer.image.size(), cursor=disk.begin)
            for index, (disk, writer) in enumerate(zip(self.disks, session.disks, strict=True))
        ]
        return session.commit(
            PointRecord(
                id=point_id(state.generation, session.epoch), generation=state.generation, epoch=session.epoch,
                time=max(times, default=self._now()), action=action, reason=reason, disks=disks,
                kind="fuzzy" if any(disk.fuzzy for disk in self.disks) else kind,
            )
        )  # fmt: skip

    def _not_consistent(self) -> str:
        """What the reason of this sync's own point adds of guests at rest, which is also warned of."""
        said = ""
        if self.rest.why:
            said += f"; not application-consistent: {self.rest.why}"
            self.warnings.append(f"the point is not application-consistent: {self.rest.why}")
        if self.kept.lost:
            said += f"; {self.kept.lost}"
            self.warnings.append(self.kept.lost)
        return said

    def _known(self, index: int, cursor: Cursor | None) -> list[Cursor]:
        pending = self.replica.pending()
        begins = [disk.begin for disk in pending.disks[index : index + 1]] if pending else []
        return [each for each in (cursor, *begins) if each is not None]


def cursor_of(cut: Cut | None) -> Cursor | None:
    """What a point keeps of a cut."""
    if cut is None:
        return None
    return Cursor(tracking_id=str(cut.tracking_id), epoch=cut.epoch, chain=str(cut.chain), token=cut.token)


def is_past(cursor: Cursor, cut: Cut) -> bool:
    """Whether the cut is not before it, in the same tracking."""
    return cursor.tracking_id == str(cut.tracking_id) and cursor.epoch <= cut.epoch


def why_not_by_logs(decisions: Sequence[Decision]) -> str:
    """Why disks can't be brought to their cuts by logs alone; empty when they can."""
    return next((one.reason for one in decisions if one.need != Need.DELTA), "")


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
