"""Holes stay holes, in the replica, in its table, and in what is recovered."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockreplica import track

from .world import KIB, MIB, World, write

SIZE = 64 * MIB


def allocated(path: Path) -> int:
    """Bytes that a file takes on its disk."""
    return path.stat().st_blocks * 512


@pytest.fixture
def world(tmp_path: Path) -> World:
    """64 MiB with a little data at the begin, in the middle and at the end."""
    made = World.make(tmp_path, sizes=(0,), block_size=65536)
    with made.image.open("wb") as file:
        file.truncate(SIZE)
        for at in (0, SIZE // 2, SIZE - 100_000):
            file.seek(at)
            file.write(b"\7" * 100_000)
    return made


def test_through_first_copy_delta_scan_and_recovery(world: World) -> None:
    world.protect()
    write(world.image, (10 * MIB, b"a" * 4096), (11 * MIB, bytes(8 * MIB)))
    world.sync()
    write(world.image, (12 * MIB, b"b" * 4096))
    world.sync()
    image = world.disk() / "disk.img"
    assert allocated(image) <= 3 * 108 * KIB + 2 * 4096 + 64 * KIB
    assert allocated(world.disk() / "checksums") <= 64 * KIB
    for point in world.vm.points():
        assert world.recovered(point.id) == world.models[point.id][0]
        assert allocated(world.folder / "recovered.img") <= 3 * 108 * KIB + 2 * 4096 + 64 * KIB


def test_what_becomes_zero_becomes_a_hole_and_old_points_keep_it(world: World) -> None:
    write(world.image, (40 * MIB, b"c" * 4 * MIB))
    world.protect()
    image = world.disk() / "disk.img"
    assert allocated(image) > 4 * MIB
    with track(world.image) as tracked:
        tracked.discard(40 * MIB, 2 * MIB)
        tracked.pwrite(bytes(2 * MIB), 42 * MIB)
    world.sync()
    assert allocated(image) < MIB
    assert world.recovered("1.1") == world.models["1.1"][0]
    assert world.recovered("1.2") == world.models["1.2"][0]


def test_a_resync_makes_holes_too(world: World) -> None:
    write(world.image, (40 * MIB, b"c" * 4 * MIB))
    world.protect()
    with world.image.open("r+b") as file:
        file.seek(40 * MIB)
        file.write(bytes(4 * MIB))
    world.sync()
    assert allocated(world.disk() / "disk.img") < MIB
    assert world.recovered("1.1") == world.models["1.1"][0]


def test_a_delta_costs_its_size_in_the_undo_logs_and_no_more(world: World) -> None:
    world.protect()
    for at in range(5):
        write(world.image, (at * 10 * MIB + 5 * MIB, b"d" * 4096))
        world.sync()
    assert sum(allocated(path) for path in (world.disk() / "undo").iterdir()) <= 5 * 40 * KIB


def test_an_image_of_nothing_but_hole(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(0,), block_size=65536)
    with world.image.open("wb") as file:
        file.truncate(SIZE)
    result = world.protect()
    assert (result.bytes_scanned, result.bytes_sent) == (0, 0)
    assert allocated(world.disk() / "disk.img") == 0
    assert world.sync().bytes_scanned == 0
    world.recovered("1.1")
    assert allocated(world.folder / "recovered.img") == 0
