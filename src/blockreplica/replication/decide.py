"""Which movement brings a disk up to date, and why: a pure function of what is known on both sides.

A failed check never ends in "assume clean" (invariant 11): whatever is not proved to be a delta is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ..manifest import Cursor
from ..tracking import Cut, EpochRecord

LOG_SHARE = 0.5  # logs over this share of the disk cost more than comparing it


class Need(IntEnum):
    """How much of a disk must be looked at; the largest of all disks names the movement."""

    DELTA = 0
    PARTIAL = 1
    WHOLE = 2


@dataclass(frozen=True, slots=True)
class DiskView:
    """What is known of one disk. `damage` says why its logs can't be used as they are, when they can't."""

    name: str
    size: int
    cut: Cut | None
    cursor: Cursor | None
    records: Sequence[EpochRecord] = ()
    damage: str = ""
    log_bytes: int = 0
    was_changed: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one disk."""

    need: Need
    reason: str
    tracked: bool = True


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
    if not _follows(cursor, view.records, cut):
        return Decision(Need.WHOLE, f"the tracking of {view.name} tells another history than the last point")
    for record in view.records:
        if record.log is None and record.dirty is None:
            missing = f"has no record of epoch {record.epoch}"
            why = "was changed while nothing tracked it" if view.was_changed else missing
            return Decision(Need.WHOLE, f"{view.name} {why}")
    if view.damage:
        whole = any(record.dirty is None for record in view.records)
        return Decision(Need.WHOLE if whole else Need.PARTIAL, view.damage)
    if view.log_bytes > LOG_SHARE * view.size:
        return Decision(Need.WHOLE, f"the logs of {view.name} hold more than {LOG_SHARE:.0%} of the disk")
    if not view.records:
        return Decision(Need.DELTA, f"{view.name} is unchanged")
    return Decision(Need.DELTA, f"{view.name} has logs of {_epochs(view.records)}")


def _follows(cursor: Cursor, records: Sequence[EpochRecord], cut: Cut) -> bool:
    """Whether the epochs since the point are its successors, as far as they tell. They aren't where an image was put
    back to an older state together with its tracking, and then written: the epochs that it lost are in the replica."""
    chain: str | None = cursor.chain
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


def _epochs(records: Sequence[EpochRecord]) -> str:
    first, last = records[0].epoch, records[-1].epoch
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"
