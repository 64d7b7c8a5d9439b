"""The store's own running time, which no clock that jumps can move far: what `--min-age` counts by.

A store is opened for moments, hours apart, and must still grow older. So each commit notes the wall clock, the boot and
how long the system has been up (a clock that nobody can set). Within one boot the running time advances by the uptime's
difference, exactly, whatever the wall clock does. Across boots it advances by the wall clock's difference, never
backwards, never by more than this boot's uptime, never by more than a day: a clock that jumps by years and reboots at
that adds a day at the most.

Where the wall clock and the running time disagree by more than they can in good order, the clock has jumped: for a day
of running time nothing is pruned at all, so that somebody may notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..manifest import ClockRecord

DAY = 86400.0
LEAP_S = 3600.0  # within one boot: steps of NTP and changed time zones are smaller
BACK_S = 60.0
HOLD_S = DAY
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Instant(msgspec.Struct, frozen=True):
    """A moment by every clock there is. `up`: seconds since the boot, sleep included."""

    wall: float
    boot: str
    up: float


def this_instant() -> Instant:
    """Now."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = ""  # no boot is known: as if each reading were in another one
    return Instant(time.time(), boot, time.clock_gettime(time.CLOCK_BOOTTIME))


Clock = Callable[[], Instant]


def advanced(held: ClockRecord, now: Instant) -> ClockRecord:
    """The store's clock at `now`, when `held` was its last reading."""
    if not held.wall:
        return ClockRecord(ran=held.ran, wall=now.wall, boot=now.boot, up=now.up)
    wall, same = now.wall - held.wall, bool(now.boot) and now.boot == held.boot and now.up >= held.up
    passed = now.up - held.up if same else max(0.0, min(wall, now.up, DAY))
    leap, slack = wall - passed, LEAP_S if same else DAY
    ran, until, why = held.ran + passed, held.held_until, held.why
    if leap > slack or leap < -BACK_S:
        until = ran + HOLD_S
        why = f"the clock went {'forwards' if leap > 0 else 'back'} by {abs(leap):.0f} s more than time has passed"
    return ClockRecord(ran=ran, wall=now.wall, boot=now.boot, up=now.up, held_until=until, why=why)
