"""A disk that is being encrypted marks its point; much data alone, or data that does not pack alone, does not."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from blockreplica.manifest import Churn, PointRecord
from blockreplica.stores import churn as churning
from blockreplica.stores.churn import unusual

from .model import move, new_replica

MIB = 1 << 20


def history(count: int, changed: int, ratio: float) -> list[PointRecord]:
    churn = Churn(changed=changed, sampled=1000, packed=int(1000 * ratio))
    return [
        PointRecord(id=f"1.{at}", generation=1, epoch=at, time=0.0, kind="crash-consistent", action="delta",
                    reason="test", disks=[], churn=churn)
        for at in range(1, count + 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "ratio", "marked"),
    [(400 * MIB, 1.0, True), (400 * MIB, 0.4, False), (11 * MIB, 1.0, False), (30 * MIB, 1.0, False)],
)
def test_only_a_jump_of_both_is_unusual(changed: int, ratio: float, marked: bool) -> None:
    now = Churn(changed=changed, sampled=1000, packed=int(1000 * ratio))
    why, calm = unusual(now, history(10, 10 * MIB, 0.4))
    assert (bool(why), calm) == (marked, "1.10" if marked else "")


def test_a_disk_whose_data_never_packed_is_not_marked_for_it() -> None:
    assert unusual(Churn(changed=900 * MIB, sampled=1000, packed=1000), history(10, MIB, 0.98)) == ("", "")


def test_with_too_little_history_nothing_is_unusual() -> None:
    assert unusual(Churn(changed=900 * MIB, sampled=1000, packed=1000), history(3, MIB, 0.2)) == ("", "")


def test_points_that_follow_an_unusual_one_name_the_same_last_calm_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(churning, "LEAST_BYTES", 100_000)
    replica, size, rng = new_replica(tmp_path), 4 * MIB, random.Random(1)
    for at in range(7):
        point = move(replica, size, [(at * 40_000, bytes([at + 1]) * 20_000)])
        assert point.unusual == ""
        assert point.churn is not None
        assert 20_000 <= point.churn.changed <= 40_000
    for at in range(2):
        point = move(replica, size, [(at * MIB, os.urandom(1000) + rng.randbytes(MIB - 1000))])
        assert "packs to" in point.unusual
        assert point.calm == "1.7"
    assert replica.find("1.9").unusual
