"""The store's running time: it advances while time passes, and no clock that jumps moves it far (rule 21)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from blockreplica.manifest import ClockRecord
from blockreplica.stores.clock import DAY, Instant, advanced, this_instant

from .model import move, new_replica

YEAR = 365 * DAY


def test_hourly_commands_of_a_moment_let_it_advance_by_all_the_hours_between() -> None:
    clock = ClockRecord()
    for hour in range(49):
        clock = advanced(clock, Instant(1e9 + 3600 * hour, "a", 500 + 3600 * hour))
    assert clock.ran == pytest.approx(48 * 3600)
    assert not clock.held_until


@pytest.mark.parametrize("jump", [YEAR, 30 * YEAR, -YEAR, -30 * YEAR])
def test_a_jump_of_the_wall_clock_within_a_boot_moves_it_by_nothing_and_holds_pruning(jump: float) -> None:
    clock = advanced(ClockRecord(ran=5, wall=1e9, boot="a", up=100), Instant(1e9 + jump, "a", 160))
    assert clock.ran == 65
    assert clock.held_until == 65 + DAY
    assert "clock went" in clock.why


@pytest.mark.parametrize(
    ("wall", "up", "ran"),
    [(600, 300, 300), (300, 1e9, 300), (YEAR, 1e9, DAY), (YEAR, 120, 120), (-YEAR, 120, 0), (0, 120, 0)],
)
def test_over_a_reboot_it_advances_by_the_least_that_wall_clock_uptime_and_a_day_say(
    wall: float, up: float, ran: float
) -> None:
    clock = advanced(ClockRecord(ran=7, wall=1e9, boot="a", up=1e6), Instant(1e9 + wall, "b", up))
    assert clock.ran == 7 + ran
    assert bool(clock.held_until) == (abs(wall - ran) > DAY)


def test_it_never_goes_back_whatever_the_clocks_say() -> None:
    rng, clock = random.Random(4), ClockRecord()
    for _ in range(2000):
        before = clock.ran
        clock = advanced(clock, Instant(rng.uniform(0, 4e9), rng.choice("abc"), rng.uniform(0, 1e7)))
        assert clock.ran >= before


def test_a_machine_that_tells_no_boot_counts_each_reading_as_another() -> None:
    clock = advanced(ClockRecord(ran=1, wall=1e9, boot="", up=100), Instant(1e9 + YEAR, "", 100 + YEAR))
    assert clock.ran == 1 + DAY


def test_points_are_told_how_long_the_store_had_run(tmp_path: Path) -> None:
    replica = new_replica(tmp_path)
    first, second = move(replica, 5000, [(0, b"a")]), move(replica, 5000, [(0, b"b")])
    assert 0 <= first.ran <= second.ran < 100
    assert replica.clock().ran >= second.ran
    assert this_instant().boot
