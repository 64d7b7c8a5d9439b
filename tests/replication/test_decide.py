"""Which movement, and why: the whole table of the decision, a pure function of what is known."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from msgspec.structs import replace

from blockreplica.bitmap import Ended
from blockreplica.manifest import Cursor
from blockreplica.replication.decide import Decision, DiskView, Need, combined, decide
from blockreplica.tracking import Cut, EpochRecord

TRACKING, CHAIN, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
SIZE = 1 << 20
CUT = Cut(tracking_id=TRACKING, epoch=7, size=SIZE, time=0.0, chain=CHAIN)
CURSOR = Cursor(tracking_id=str(TRACKING), epoch=5, chain=str(OTHER))
LOG, DIRTY = Path("vm.img.000006.hrl"), Path("vm.img.000006.dirty")
WHOLE_RECORDS = (EpochRecord(6, LOG, DIRTY), EpochRecord(7, LOG, DIRTY))
VIEW = DiskView(name="vm.img", size=SIZE, cut=CUT, cursor=CURSOR, records=WHOLE_RECORDS)
NOTHING_LEFT = (EpochRecord(6, LOG, DIRTY), EpochRecord(7, None, None))
NO_CHAIN = (EpochRecord(6, None, DIRTY), EpochRecord(7, None, DIRTY))
NO_BITMAP = (EpochRecord(6, LOG, DIRTY), EpochRecord(7, LOG, None))


def told(previous: UUID, *epochs: int) -> tuple[EpochRecord, ...]:
    """Records of epochs that tell their chain, which begins behind `previous`; epoch 7 has the cut's."""
    chains = [previous, *(CHAIN if epoch == 7 else UUID(int=100 + epoch) for epoch in epochs)]
    return tuple(EpochRecord(epoch, LOG, DIRTY, chains[at + 1], chains[at]) for at, epoch in enumerate(epochs))


def ended(how: Ended, log: Path | None = None) -> tuple[EpochRecord, ...]:
    """The last epoch ended so."""
    return (EpochRecord(6, LOG, DIRTY), EpochRecord(7, log, DIRTY, ended=how))


SAME_EPOCH = Cursor(tracking_id=str(TRACKING), epoch=7, chain=str(CHAIN))

BAD = "bad log: 5 MiB of the disk are compared"
TABLE = [
    ("nothing tracks it", replace(VIEW, cut=None, records=()), Need.WHOLE, "nothing tracks vm.img"),
    ("it was not tracked before", replace(VIEW, cursor=None, records=()), Need.WHOLE, "not tracked at the last point"),
    (
        "tracking began anew",
        replace(VIEW, cursor=Cursor(tracking_id=str(OTHER), epoch=5, chain=str(OTHER)), records=()),
        Need.WHOLE, "started anew",
    ),
    (
        "the replica knows later epochs",
        replace(VIEW, cursor=Cursor(tracking_id=str(TRACKING), epoch=8, chain=str(OTHER)), records=()),
        Need.WHOLE, "another history",
    ),
    (
        "the same epoch with another chain",
        replace(VIEW, cursor=Cursor(tracking_id=str(TRACKING), epoch=7, chain=str(OTHER)), records=()),
        Need.WHOLE, "another history",
    ),
    ("the epochs follow the point", replace(VIEW, records=told(OTHER, 6, 7)), Need.DELTA, "epochs 6 to 7"),
    ("an epoch follows another chain", replace(VIEW, records=told(CHAIN, 6, 7)), Need.WHOLE, "another history"),
    ("… also where its log is gone", replace(VIEW, records=told(CHAIN, 7), damage="no log"), Need.WHOLE, "another"),
    ("the cut follows another chain", replace(VIEW, records=told(OTHER, 5, 6)), Need.WHOLE, "another history"),
    ("the chain can't be told", replace(VIEW, records=NO_CHAIN, damage="no log"), Need.PARTIAL, "no log"),
    ("nothing is left of an epoch", replace(VIEW, records=NOTHING_LEFT), Need.WHOLE, "no record of epoch 7"),
    (
        "nothing is left, and the image was changed",
        replace(VIEW, records=NOTHING_LEFT, was_changed=True), Need.WHOLE, "changed while nothing tracked it",
    ),
    ("a log is bad, bitmaps are there", replace(VIEW, damage="bad log", dirty_bytes=5 << 20), Need.PARTIAL, BAD),
    (
        "the machine went down",
        replace(VIEW, records=ended("power"), damage="no log", dirty_bytes=5 << 20, transit=True),
        Need.PARTIAL, "the machine went down while vm.img was tracked: 5 MiB of the disk are compared",
    ),
    (
        "the tracker died, and so did its log",
        replace(VIEW, records=ended("death"), damage="no log", dirty_bytes=5 << 20),
        Need.PARTIAL, "the tracker of vm.img died, and its log could not be finished: 5 MiB of the disk",
    ),
    (
        "the tracker died where there is no log anyway",
        replace(VIEW, records=ended("death"), damage="no log", transit=True), Need.PARTIAL, "in transit only",
    ),
    ("the tracker died, its log was finished", replace(VIEW, records=ended("death", LOG)), Need.DELTA, "epochs 6 to 7"),
    ("a log is bad, a bitmap is missing", replace(VIEW, records=NO_BITMAP, damage="bad log"), Need.WHOLE, "bad log"),
    ("a bitmap is missing, the logs are good", replace(VIEW, records=NO_BITMAP), Need.DELTA, "epochs 6 to 7"),
    ("logs over half of the disk", replace(VIEW, log_bytes=SIZE // 2 + 1), Need.WHOLE, "more than 50% of the disk"),
    ("logs of just half of the disk", replace(VIEW, log_bytes=SIZE // 2), Need.DELTA, "epochs 6 to 7"),
    ("one good log", replace(VIEW, records=WHOLE_RECORDS[:1]), Need.DELTA, "logs of epoch 6"),
    ("no epoch since", replace(VIEW, cursor=SAME_EPOCH, records=()), Need.DELTA, "unchanged"),
]  # fmt: skip


@pytest.mark.parametrize(("view", "need", "reason"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_each_row_of_the_table(view: DiskView, need: Need, reason: str) -> None:
    decision = decide(view)
    assert decision.need == need
    assert reason in decision.reason
    assert "vm.img" in decision.reason or decision.reason.startswith(view.damage)
    assert decision.tracked == (view.cut is not None)


DELTA, PARTIAL = Decision(Need.DELTA, "a delta"), Decision(Need.PARTIAL, "a partial one")
WHOLE, SCAN = Decision(Need.WHOLE, "the whole"), Decision(Need.WHOLE, "untracked", tracked=False)


@pytest.mark.parametrize(
    ("decisions", "action", "reason"),
    [
        ([DELTA], "delta", "a delta"),
        ([DELTA, DELTA], "delta", "a delta; a delta"),
        ([PARTIAL, DELTA], "partial-resync", "a partial one"),
        ([DELTA, PARTIAL, WHOLE], "resync", "the whole"),
        ([SCAN], "scan", "untracked"),
        ([SCAN, DELTA], "scan", "untracked"),
        ([SCAN, PARTIAL, SCAN], "scan", "untracked; untracked"),
        ([SCAN, WHOLE], "resync", "untracked; the whole"),
    ],
)
def test_the_disk_that_needs_most_decides_for_all(decisions: list[Decision], action: str, reason: str) -> None:
    assert combined(decisions) == (action, reason)
    assert combined(list(reversed(decisions)))[0] == action
