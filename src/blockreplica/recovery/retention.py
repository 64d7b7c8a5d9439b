"""Which recovery points are kept, and why: a pure plan, which `points prune --dry-run` prints and `retire` carries out.

Points are ordered by epoch, never by time. Rules by count and by calendar say what is kept; whatever a rule wants gone,
nothing younger than `min_age` goes, by the store's running time (rule 21), and after a jump of a clock nothing goes at
all (invariant 10). The point that a warning names stays with it for a while. In each hour, day, week, month and year an
application-consistent point wins over the others, then the newest; fuzzy and damaged ones come last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec

from ..errors import UsageError
from ..manifest import MarksRecord, PointRecord
from ..stores import Replica
from ..stores.clock import BACK_S, DAY, HOLD_S
from ..units import format_duration

WARNED_S = 30 * DAY  # of running time: so long the warning of an unusual point stands
_RANK = {"application-consistent": 3, "crash-consistent": 2, "fuzzy": 1}
_KEYS: dict[str, Callable[[datetime], str]] = {
    "hourly": lambda time: time.strftime("%Y-%m-%d %H"),
    "daily": lambda time: time.strftime("%Y-%m-%d"),
    "weekly": lambda time: time.strftime("%G week %V"),
    "monthly": lambda time: time.strftime("%Y-%m"),
    "yearly": lambda time: time.strftime("%Y"),
}


class Policy(msgspec.Struct, frozen=True):
    """How many points are kept by each rule; `within` and `min_age` in seconds of the store's running time.

    `application` counts application-consistent points alone. A policy without any rule keeps everything.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    application: int = 0
    within: float = 0.0
    min_age: float = 0.0

    def __post_init__(self) -> None:
        for name, value in msgspec.structs.asdict(self).items():
            if not 0 <= value < 1 << 40:
                raise UsageError(f"{name} {value}: wanted a number from 0 on")

    @classmethod
    def parse(cls, plain: dict[str, Any]) -> Policy:
        """The reverse of `asdict`; ValueError for what is none."""
        types = {name: (float, int) if name in ("within", "min_age") else (int,) for name in cls.__struct_fields__}
        if any(name not in types or type(value) not in types[name] for name, value in plain.items()):
            raise ValueError(f"policy {plain!r}: wanted {', '.join(types)}")
        return cls(**plain)

    @property
    def keeps_all(self) -> bool:
        """Whether there is no rule to go by."""
        return not any(value for name, value in msgspec.structs.asdict(self).items() if name != "min_age")


class Decision(msgspec.Struct, frozen=True):
    """What becomes of a point, and why."""

    point: PointRecord
    keep: bool
    reasons: list[str]


def plan(
    points: Sequence[PointRecord], policy: Policy, *, marks: MarksRecord, ran: float, held: str = ""
) -> list[Decision]:
    """A decision for each of the `points`, in their order (oldest first). `ran`: the store's running time now;
    `held`: why nothing may go at present, if so."""
    why: dict[int, list[str]] = {point.epoch: [] for point in points}
    if points:
        why[points[-1].epoch].append("the newest")
    for epoch in set(marks.pinned) & why.keys():
        why[epoch].append("pinned")
    damaged = {mark.epoch for mark in marks.damaged}
    _count(points, policy, why)
    for name, key in _KEYS.items():
        _buckets(points, getattr(policy, name), name, key, damaged, why)
    _warned(points, ran, why)
    held, keeps_all = held or _jumped(points, ran), policy.keeps_all
    for point in points:
        reasons, age = why[point.epoch], ran - point.ran
        if policy.within and age <= policy.within:
            reasons.append(f"within {format_duration(policy.within)} of running time")
        if keeps_all:
            reasons.append("no rule wants it gone")
        elif not reasons and age < policy.min_age:
            reasons.append(f"its age of {format_duration(max(age, 0.0))} is below {format_duration(policy.min_age)}")
        elif not reasons and held:
            reasons.append(held)
    return [Decision(point, bool(why[point.epoch]), why[point.epoch] or ["no rule keeps it"]) for point in points]


def decide(replica: Replica, policy: Policy) -> list[Decision]:
    """The plan for a replica as it stands."""
    clock = replica.clock()
    held = f"{clock.why}: nothing goes for a day" if clock.ran < clock.held_until else ""
    return plan(replica.points(), policy, marks=replica.marks(), ran=clock.ran, held=held)


def retire(replica: Replica, policy: Policy) -> tuple[list[Decision], list[str]]:
    """Take out what the policy does not keep; the caller holds the lock. Returns the decisions as they were carried
    out, and sentences about what was put off."""
    listed = replica.epochs()
    if len(listed) <= policy.last:  # thousands of records need not be read to know that all stay
        return [], replica.remove_points([], listed=listed).put_off
    decisions = decide(replica, policy)
    going = [decision.point.epoch for decision in decisions if not decision.keep]
    done = replica.remove_points(going, listed=listed)
    gone = set(done.gone)
    return [
        decision if decision.keep or decision.point.epoch in gone
        else Decision(decision.point, True, ["no rule keeps it, but it or an older one is being read"])
        for decision in decisions
    ], done.put_off  # fmt: skip


def _count(points: Sequence[PointRecord], policy: Policy, why: dict[int, list[str]]) -> None:
    for at, point in enumerate(reversed(points)):
        if at < policy.last:
            why[point.epoch].append(f"last {at + 1} of {policy.last}")
    consistent = [point for point in reversed(points) if point.kind == "application-consistent"]
    for at, point in enumerate(consistent[: policy.application]):
        why[point.epoch].append(f"application-consistent {at + 1} of {policy.application}")


def _warned(points: Sequence[PointRecord], ran: float, why: dict[int, list[str]]) -> None:
    """The last point before unusual ones stays while their warning stands, and so does the newest that says it: a
    night of syncs is no reason to lose what the warning names before anybody has read it."""
    epochs = {point.id: point.epoch for point in points}
    newest = {point.calm: point for point in points if point.unusual and ran - point.ran <= WARNED_S}
    for calm, point in newest.items():
        if calm in epochs:
            why[epochs[calm]].append(f"the last before unusual point {point.id}, whose warning stands for 30 days")
            why[point.epoch].append(f"unusual: its warning stands for 30 days and names point {calm}")


def _buckets(
    points: Sequence[PointRecord], count: int, name: str, key: Callable[[datetime], str], damaged: set[int],
    why: dict[int, list[str]],
) -> None:  # fmt: skip
    winners: dict[str, PointRecord] = {}
    for point in reversed(points) if count else ():
        bucket = key(datetime.fromtimestamp(point.time, UTC))
        held = winners.get(bucket)
        if held is None and len(winners) == count:
            continue
        if held is None or _rank(point, damaged) > _rank(held, damaged):
            winners[bucket] = point
    for at, (bucket, point) in enumerate(winners.items()):
        why[point.epoch].append(f"{name} {at + 1} of {count}: {bucket}")


def _rank(point: PointRecord, damaged: set[int]) -> int:
    return 0 if point.epoch in damaged else _RANK[point.kind]


def _jumped(points: Sequence[PointRecord], ran: float) -> str:
    """Why nothing goes, when the time between two neighbours is not that which passed, and that was not long ago."""
    for older, newer in pairwise(points):
        leap = newer.time - older.time - (newer.ran - older.ran)
        if ran - newer.ran < HOLD_S and (leap > DAY or newer.time - older.time < -BACK_S):
            return f"the clock jumped between points {older.id} and {newer.id}: nothing goes for a day"
    return ""
