"""A delta: only what was written, coalesced, and of that only what the replica does not have."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from blockreplica import track
from blockreplica.hrl import ENTRY
from blockreplica.replication import bulk, delta
from blockreplica.replication.delta import data_batches

from .world import BLOCK, KIB, MIB, World, artifacts, write


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A tracked image, replicated."""
    made = World.make(tmp_path, sizes=(MIB + 5000,))
    write(made.image, (0, b"begin"))
    made.protect()
    return made


def test_a_delta_sends_what_was_written_and_nothing_else(world: World) -> None:
    write(world.image, (100_000, b"a" * 4096), (700_001, b"b" * 9000))
    result = world.sync()
    assert (result.action, result.kind) == ("delta", "crash-consistent")
    assert (result.bytes_dirty, result.bytes_sent, result.bytes_scanned) == (13096, 13096, 0)
    world.check()


def test_overwrites_are_coalesced_before_they_are_counted(world: World) -> None:
    with track(world.image) as image:
        for byte in range(1, 40):
            image.pwrite(bytes([byte]) * 8192, 65536)
            image.pwrite(bytes([byte]) * 4096, 65536 + 6000)
    result = world.sync()
    assert result.bytes_dirty == 6000 + 4096
    world.check()


def test_an_identical_rewrite_sends_nothing(world: World) -> None:
    before = world.image.read_bytes()
    write(world.image, (0, before[:200_000]), (500_000, before[500_000:600_000]))
    result = world.sync()
    assert (result.action, result.bytes_dirty, result.bytes_sent) == ("delta", 300_000, 0)
    assert result.bytes_skipped == 300_000
    world.check()


def test_of_a_block_half_rewritten_alike_only_the_granules_that_changed_are_sent(world: World) -> None:
    at = 40 * BLOCK
    before = world.image.read_bytes()[at : at + BLOCK]
    write(world.image, (at, before[:4096] + bytes(256) + b"new" + before[4096 + 259 :]))
    result = world.sync()
    assert (result.bytes_dirty, result.bytes_sent, result.bytes_skipped) == (BLOCK, 4096, 4096)


def test_a_sync_with_nothing_changed_makes_a_point_of_zeros(world: World) -> None:
    first = world.vm.points()[-1]
    result = world.sync()
    assert (result.action, result.point) == ("delta", "1.2")
    assert (result.bytes_scanned, result.bytes_dirty, result.bytes_sent, result.bytes_skipped) == (0, 0, 0, 0)
    assert world.vm.points()[-1].time >= first.time
    world.check()


def test_zeros_and_discards_that_were_zero_already_send_nothing(world: World) -> None:
    with track(world.image) as image:
        image.zero(0, 300_000)
    assert world.sync().bytes_sent > 0
    with track(world.image) as image:
        image.zero(0, 200_000)
        image.discard(200_000, 100_000)
    result = world.sync()
    assert (result.bytes_dirty, result.bytes_sent) == (300_000, 0)
    world.check()


def test_a_backlog_of_epochs_becomes_one_point(world: World) -> None:
    with track(world.image) as image:
        for round_ in range(5):
            image.pwrite(bytes([round_ + 1]) * 5000, round_ * 3000)
            image.cut()
    result = world.sync()
    assert result.action == "delta"
    assert result.bytes_dirty == 4 * 3000 + 5000
    assert len(world.vm.points()) == 2
    world.check()


def test_what_every_relationship_has_is_let_go_of(world: World) -> None:
    write(world.image, (0, b"x"))
    assert artifacts(world.image) != []
    world.sync()
    assert artifacts(world.image) == []


def test_a_live_tracker_is_cut_and_writes_on(world: World) -> None:
    with track(world.image) as image:
        image.pwrite(b"one", 10)
        assert world.sync().bytes_dirty == 3
        image.pwrite(b"two", 20_000)
        assert world.sync().bytes_dirty == 3
    world.check()


def test_logs_over_half_of_the_disk_bring_a_resync(world: World) -> None:
    with track(world.image, log_limit=64 * MIB) as image:
        for _ in range(2):
            image.pwrite(random.Random(3).randbytes(600_000), 1000)
    result = world.sync()
    assert result.action == "resync"
    assert "50%" in result.reason
    world.check()


def test_small_batches_give_the_same_as_large_ones(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_batches, "__defaults__", (5000,))
    monkeypatch.setattr(delta, "BATCH_BYTES", 5000)
    monkeypatch.setattr(bulk, "BATCH_BYTES", 5000)
    rng = random.Random(8)
    print("seed 8")
    for _ in range(3):
        with track(world.image) as image:
            for _ in range(12):
                length = rng.choice([100, 4096, 30_000])
                image.pwrite(rng.randbytes(length), rng.randrange(MIB - length))
        assert world.sync().action == "delta"
    world.check()


def test_long_entries_are_cut_at_the_batch_and_keep_their_places() -> None:
    rows = np.array([(0, 2500, 10_000, 0, 1), (5000, 300, 50_000, 1, 1)], ENTRY)
    batches = [batch.tolist() for batch in data_batches(rows, 1000)]
    assert batches == [
        [(0, 1000, 10_000, 0, 1)],
        [(1000, 1000, 11_000, 0, 1)],
        [(2000, 500, 12_000, 0, 1), (5000, 300, 50_000, 1, 1)],
    ]
    assert list(data_batches(np.zeros(0, ENTRY), 1000)) == []


def test_the_tiniest_of_disks(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(1,))
    write(world.image, (0, b"a"))
    world.protect()
    write(world.image, (0, b"b"))
    assert (world.sync().bytes_dirty, world.recovered("1.2"), world.recovered("1.1")) == (1, b"b", b"a")
    world.check()


def test_a_disk_of_no_bytes(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(0,))
    write(world.image)
    assert world.protect().kind == "crash-consistent"
    assert world.sync().action == "delta"
    world.check()


@pytest.mark.parametrize("block_size", [4096, 65536, 4096 * KIB])
def test_every_block_size(tmp_path: Path, block_size: int) -> None:
    world = World.make(tmp_path, sizes=(9 * MIB + 1000,), block_size=block_size)
    write(world.image, (0, b"begin"))
    world.protect()
    write(world.image, (9 * MIB + 500, b"c" * 500), (5 * MIB - 10, b"d" * 20), (4095, b"ee"))
    assert world.sync().bytes_sent == 522
    world.check()


def test_batches_share_no_block_so_that_a_delta_is_made_durable_in_stages_not_in_batches() -> None:
    rng = np.random.default_rng(3)
    rows = np.zeros(3000, ENTRY)
    rows["offset"] = np.sort(rng.choice(20_000, 3000, replace=False)) * 4096
    rows["length"], rows["operation"] = 4096, 1
    found = list(data_batches(rows, 512 * 4096, unit=65536))
    assert np.concatenate(found).tolist() == rows.tolist()
    assert all(batch["length"].sum() <= 512 * 4096 for batch in found)
    for before, after in pairwise(found):
        assert int(before["offset"][-1]) // 65536 < int(after["offset"][0]) // 65536
