"""Which points are kept, and why: rules, pins, ages, clocks (invariant 10, rule 21). The plan is read, not run."""

from __future__ import annotations

import random

import pytest

from blockreplica.errors import UsageError
from blockreplica.manifest import Mark, MarksRecord, PointDisk, PointRecord
from blockreplica.recovery.retention import Policy, plan
from blockreplica.units import parse_time

HOUR, DAY = 3600.0, 86400.0
BEGIN = parse_time("2026-01-01T00:30:00Z")
NOBODY = MarksRecord()


def point(
    epoch: int, *, time: float, ran: float, kind: str = "crash-consistent", unusual: str = "", calm: str = ""
) -> PointRecord:
    return PointRecord(
        id=f"1.{epoch}", generation=1, epoch=epoch, time=time, kind=kind, action="delta", reason="test", ran=ran,
        disks=[PointDisk(index=0, name="vm.img", size=0)], unusual=unusual, calm=calm,
    )  # fmt: skip


def hourly(count: int, *, consistent: int = 0) -> list[PointRecord]:
    """A point an hour; each `consistent`-th is application-consistent."""
    return [
        point(at + 1, time=BEGIN + at * HOUR, ran=at * HOUR,
              kind="application-consistent" if consistent and at % consistent == 0 else "crash-consistent")
        for at in range(count)
    ]  # fmt: skip


def kept(points: list[PointRecord], policy: Policy, *, marks: MarksRecord = NOBODY, ran: float | None = None,
         held: str = "") -> list[int]:  # fmt: skip
    decisions = plan(points, policy, marks=marks, ran=points[-1].ran if ran is None else ran, held=held)
    assert [each.point for each in decisions] == points
    assert all(each.reasons for each in decisions)
    return [each.point.epoch for each in decisions if each.keep]


def test_the_last_ones_are_kept() -> None:
    assert kept(hourly(30), Policy(last=4)) == [27, 28, 29, 30]


def test_what_a_warning_names_stays_while_it_stands() -> None:
    """The last good point and the newest warning that names it, each time that it began, for 30 days."""
    calm = {3: "1.2", 4: "1.2", 6: "1.5", 9: "1.1"}
    points = [
        point(at, time=BEGIN + at * HOUR, ran=at * HOUR, unusual="noise" if at in calm else "", calm=calm.get(at, ""))
        for at in range(2, 40)
    ]
    assert kept(points, Policy(last=1)) == [2, 4, 5, 6, 39], "1.1 is gone already: nothing to keep for it"
    assert kept(points, Policy(last=1), ran=4 * HOUR + 30 * DAY) == [2, 4, 5, 6, 39]
    assert kept(points, Policy(last=1), ran=5 * HOUR + 30 * DAY) == [5, 6, 39]
    assert kept(points, Policy(last=1), ran=7 * HOUR + 30 * DAY) == [39]


def test_one_an_hour_a_day_a_week_a_month_a_year_the_newest_of_each() -> None:
    points = hourly(24 * 800)
    assert kept(points, Policy(daily=3)) == [24 * 798, 24 * 799, 24 * 800]
    found = {each.point.epoch: each.reasons for each in plan(points, Policy(hourly=2, weekly=2, monthly=2, yearly=3),
             marks=NOBODY, ran=points[-1].ran) if each.keep}  # fmt: skip
    assert len(found) == 6
    assert any("yearly 3 of 3: 2026" in reasons for reasons in found.values())
    assert "the newest" in found[24 * 800]


def test_an_application_consistent_point_wins_its_bucket_and_has_a_count_of_its_own() -> None:
    points = hourly(72, consistent=10)
    assert kept(points, Policy(daily=2)) == [41, 71, 72]
    assert kept(points, Policy(last=2, application=3)) == [51, 61, 71, 72]


def test_a_damaged_point_does_not_take_the_place_of_a_whole_one() -> None:
    marks = MarksRecord(damaged=[Mark(epoch=48, what="rot")])
    assert kept(hourly(72), Policy(daily=2), marks=marks) == [47, 72]


def test_pins_and_the_newest_stay_whatever_the_rules_say() -> None:
    assert kept(hourly(30), Policy(last=1), marks=MarksRecord(pinned=[3, 9])) == [3, 9, 30]


def test_within_counts_by_running_time() -> None:
    assert kept(hourly(30), Policy(within=3 * HOUR)) == [27, 28, 29, 30]
    assert kept(hourly(30), Policy(within=3 * HOUR), ran=31 * HOUR) == [29, 30]


def test_rule_21_nothing_younger_than_the_least_age_goes_however_many_points_arrive() -> None:
    points = [point(at + 1, time=BEGIN + at, ran=float(at)) for at in range(5000)]
    assert len(kept(points, Policy(last=3, min_age=DAY))) == 5000
    assert len(kept(points, Policy(last=3, min_age=100))) == 100


def test_rule_21_an_age_is_what_the_store_has_run_not_what_the_wall_clock_says() -> None:
    """A clock that gains an hour a point is no jump: by it all but a day's points would be old."""
    points = [point(at + 1, time=BEGIN + at * HOUR, ran=float(at)) for at in range(500)]
    assert len(kept(points, Policy(last=3, min_age=DAY))) == 500
    points = [point(at + 1, time=BEGIN + at, ran=at * HOUR) for at in range(500)]
    assert len(kept(points, Policy(last=3, min_age=DAY))) == 24


@pytest.mark.parametrize("jump", [10 * 365 * DAY, -10 * 365 * DAY])
def test_a_clock_that_jumps_by_years_deletes_nothing(jump: float) -> None:
    points = hourly(100)
    points += [point(101 + at, time=BEGIN + jump + at * HOUR, ran=(100 + at) * HOUR) for at in range(5)]
    policy = Policy(last=2, hourly=3, daily=4, yearly=1, within=HOUR)
    assert kept(points, policy) == [each.epoch for each in points]
    assert kept(points[:100], policy, held="the clock jumped") == [each.epoch for each in points[:100]]


def test_a_jump_that_is_days_of_running_time_ago_stops_nothing_any_more() -> None:
    points = hourly(10) + [point(11 + at, time=BEGIN + 1e9 + at * HOUR, ran=(10 + at) * HOUR) for at in range(40)]
    assert kept(points, Policy(last=3)) == [48, 49, 50]


def test_without_a_rule_everything_is_kept() -> None:
    assert len(kept(hourly(50), Policy())) == 50
    assert len(kept(hourly(50), Policy(min_age=1))) == 50


def test_what_a_rule_keeps_now_it_kept_before_when_points_only_arrive() -> None:
    """Pruned as one goes along, the buckets hold what they would hold if nothing had ever been pruned."""
    rng, policy = random.Random(2), Policy(last=3, hourly=4, daily=3, weekly=2)
    every, held = [], []
    for at in range(600):
        every.append(point(at + 1, time=BEGIN + at * 1700, ran=at * 1700.0))
        held.append(every[-1])
        if rng.random() < 0.5:
            epochs = kept(held, policy)
            held = [each for each in held if each.epoch in epochs]
    days, wanted = {int(each.time // DAY) for each in held}, set(kept(every, policy))
    assert {int(each.time // DAY) for each in every if each.epoch in wanted} <= days


@pytest.mark.parametrize("plain", [{"last": -1}, {"last": True}, {"other": 1}, {"last": "3"}, {"within": -1.0}])
def test_what_is_no_policy_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises((ValueError, UsageError)):
        Policy.parse(plain)
