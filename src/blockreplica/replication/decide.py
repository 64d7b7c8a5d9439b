"""Which movement brings a disk up to date, and why: a pure function of what is known on both sides.

A failed check never ends in "assume clean" (invariant 11): whatever is not proved to be a delta is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import msgspec

from ..manifest import Cursor
from ..tracking import Cut, EpochRecord
from ..units import format_size

DEEP, SEEDED = "deep-resync", "seeded"  # movements that are more than their action says
TAKEN_UP = "an interrupted movement is taken up again"
LOG_SHARE = 0.5  # logs over this share of the disk cost more than comparing it


class Need(IntEnum):
    """How much of a disk must be looked at; the largest of all disks names the movement."""

    DELTA = 0
    PARTIAL = 1
    WHOLE = 2


class DiskView(msgspec.Struct, frozen=True):
    """What is known of one disk. `damage` says why its logs can't be used as they are, when they can't."""

    name: str
    size: int
    cut: Cut | None
    cursor: Cursor | None
    records: Sequence[EpochRecord] = ()
    damage: str = ""
    dirty_bytes: int = 0  # what is dirty by the bitmaps alone
    log_bytes: int = 0
    was_changed: bool = False
    put_back: bool = False  # to a state before the cursor, with its tracking
    doubted: bool = False  # an fsync of it failed, and it could not be written again
    transit: bool = False  # logs are kept only while a sync is under way


class Decision(msgspec.Struct, frozen=True):
    """What to do with one disk."""

    need: Need
    reason: str
    tracked: bool = True
    usual: bool = False  # what is dirty is compared, because in this log mode nothing else tells of it


def decide(view: DiskView) -> Decision:
    """The movement that one disk of a replica with points needs."""
    cut, cursor = view.cut, view.cursor
    if cut is None:
        return Decision(Need.WHOLE, f"nothing tracks {view.name}", tracked=False)
    if cursor is None:
        return Decision(Need.WHOLE, f"{view.name} was not tracked at the last point")
    if cursor.tracking_id != str(cut.tracking_id):
        return Decision(Need.WHOLE, f"the tracking of {view.name} was started anew since the last point")
    if cursor.epoch > cut.epoch or (cursor.epoch == cut.epoch and cursor.chain != str(cut.chain)):
        return Decision(Need.WHOLE, f"the tracking of {view.name} tells another history than the last point")
    if view.put_back or not follows(cursor, view.records, cut):
        return Decision(Need.WHOLE, f"the tracking of {view.name} tells another history than the last point")
    if view.doubted:
        return Decision(Need.WHOLE, f"an fsync of {view.name} failed: what it reads as may not be on its disk")
    for record in view.records:
        if record.log is None and record.dirty is None:
            missing = f"has no record of epoch {record.epoch}"
            why = "was changed while nothing tracked it" if view.was_changed else missing
            return Decision(Need.WHOLE, f"{view.name} {why}")
    if view.damage:
        return _without_logs(view)
    if view.log_bytes > LOG_SHARE * view.size:
        return Decision(Need.WHOLE, f"the logs of {view.name} hold more than {LOG_SHARE:.0%} of the disk")
    if not view.records:
        return Decision(Need.DELTA, f"{view.name} is unchanged")
    return Decision(Need.DELTA, f"{view.name} has logs of {_epochs(view.records)}")


class Plan(msgspec.Struct, frozen=True):
    """What a sync does, and why. `deep` reads both sides, `seeded` starts from a copy that came by other means."""

    action: str
    reason: str
    deep: bool = False
    seeded: bool = False
    compares: bool = False  # a delta of what dirty bitmaps name

    @property
    def partial(self) -> bool:
        """Whether only what dirty bitmaps name is compared."""
        return self.compares or self.action == "partial-resync"

    @property
    def movement(self) -> str:
        """Its name in the replica: the progress of an interrupted movement counts for one of the same name alone."""
        return DEEP if self.deep else SEEDED if self.seeded else "partial-resync" if self.partial else self.action


def planned(decisions: Sequence[Decision], pending: str) -> Plan:
    """The plan for a replica with points; `pending` names the movement that was interrupted there, if one was.

    Only a delta is made good by a delta: whoever began to compare had a reason that may have gone by now.
    """
    action, reason = combined(decisions)
    if (
        pending in ("", "delta", "partial-resync")
        and action == "partial-resync"
        and all(one.usual for one in decisions if one.need == Need.PARTIAL)
    ):
        return Plan("delta", reason, compares=True)
    if pending in ("", "delta"):
        return Plan(action, reason)
    if pending == "partial-resync":
        return Plan(pending, TAKEN_UP) if action == "delta" else Plan(action, reason)
    if action in ("delta", "partial-resync"):
        return Plan("resync", TAKEN_UP, deep=pending == DEEP)
    return Plan(action, reason, deep=pending == DEEP)


def asked_for(*, deep: bool) -> Plan:
    """The plan of a resync that somebody asked for."""
    return Plan("resync", "asked for" + (", reading both sides" if deep else ""), deep=deep)


def follows(cursor: Cursor, records: Sequence[EpochRecord], cut: Cut) -> bool:
    """Whether the epochs since the point are its successors, as far as they tell. They aren't where an image was put
    back to an older state together with its tracking, and then written: the epochs that it lost are in the replica."""
    chain: str | None = cursor.chain
    if cursor.tracking_id != str(cut.tracking_id) or cursor.epoch > cut.epoch:
        return False
    for record in records:
        if chain is not None and record.previous is not None and str(record.previous) != chain:
            return False
        chain = str(record.chain) if record.chain is not None else None
    return chain is None or chain == str(cut.chain)


def combined(decisions: Sequence[Decision]) -> tuple[str, str]:
    """The action word and the reason for a relationship whose disks need these."""
    worst = max(decision.need for decision in decisions)
    reason = "; ".join(decision.reason for decision in decisions if decision.need == worst)
    if worst == Need.WHOLE and all(not one.tracked for one in decisions if one.need == Need.WHOLE):
        return "scan", reason
    return {Need.DELTA: "delta", Need.PARTIAL: "partial-resync", Need.WHOLE: "resync"}[worst], reason


def _without_logs(view: DiskView) -> Decision:
    """What the bitmaps name is compared, if they are all there."""
    if any(record.dirty is None for record in view.records):
        return Decision(Need.WHOLE, view.damage)
    lost = {record.ended for record in view.records if record.log is None}
    why = view.damage
    if "power" in lost:
        why = f"the machine went down while {view.name} was tracked"
    elif view.transit:
        return Decision(Need.PARTIAL, f"{view.name} is dirty; its log is kept in transit only", usual=True)
    elif "death" in lost:
        why = f"the tracker of {view.name} died, and its log could not be finished"
    return Decision(Need.PARTIAL, f"{why}: {format_size(view.dirty_bytes)} of the disk are compared")


def _epochs(records: Sequence[EpochRecord]) -> str:
    first, last = records[0].epoch, records[-1].epoch
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"
