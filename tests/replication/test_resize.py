"""Disks that grow and shrink between syncs: each point keeps the size it had."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.progress import Progress

from .world import BLOCK, World, write

WINDOW = 255 * BLOCK
SIZES = [
    WINDOW, WINDOW + 1, WINDOW - 1, 3 * WINDOW + 5000, 40 * BLOCK, 40 * BLOCK + 4095, 4096, 1, 0, 4097, 2 * WINDOW,
]  # fmt: skip


def scribble(world: World, rng: random.Random) -> list[tuple[int, bytes]]:
    """Some writes, one of them at the very end."""
    size = world.image.stat().st_size
    if size == 0:
        return []
    places = [rng.randrange(size) for _ in range(3)]
    return [(at, rng.randbytes(min(9000, size - at))) for at in [*places, max(0, size - 700)]]


@pytest.mark.parametrize("seed", [1, 2])
def test_tracked_every_point_keeps_its_size_and_deltas_do_it(tmp_path: Path, seed: int) -> None:
    world, rng = World.make(tmp_path, sizes=(2 * WINDOW,), seed=seed), random.Random(seed)
    write(world.image, (0, b"begin"))
    world.protect()
    for size in SIZES:
        with track(world.image, log_limit=1 << 30) as image:
            for offset, data in scribble(world, rng):
                image.pwrite(data, offset)
            image.resize(size)
            for offset, data in scribble(world, rng):
                image.pwrite(data, offset)
        assert world.sync().action in ("delta", "resync")  # a resync where the logs are large for so small a disk
    assert [point.disks[0].size for point in world.vm.points()] == [2 * WINDOW, *SIZES]
    world.check()


def test_shrunk_and_grown_again_within_one_delta_reads_as_zeros_in_between(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(2 * WINDOW,))
    write(world.image, (0, b"\1" * 2 * WINDOW))
    world.protect()
    with track(world.image) as image:
        image.resize(WINDOW + 333)
        image.pwrite(b"\2" * 100, WINDOW + 200)
        image.resize(2 * WINDOW - 5)
        image.pwrite(b"\3", 2 * WINDOW - 6)
    result = world.sync()
    assert result.action == "delta"
    world.check()


def test_grown_past_old_data_of_a_replica_that_was_larger_once(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(2 * WINDOW,))
    write(world.image, (2 * WINDOW - 5000, b"\1" * 5000))
    world.protect()
    for size in (WINDOW + 10, 2 * WINDOW):
        with track(world.image) as image:
            image.resize(size)
        assert world.sync().action == "delta"
    assert world.recovered(None)[-5000:] == bytes(5000)
    world.check()


@pytest.mark.parametrize("seed", [3, 4])
def test_untracked_scans_do_it(tmp_path: Path, seed: int) -> None:
    world, rng = World.make(tmp_path, sizes=(2 * WINDOW,), seed=seed), random.Random(seed)
    world.protect()
    for size in SIZES:
        os.truncate(world.image, size)
        with world.image.open("r+b") as file:
            for offset, data in scribble(world, rng):
                file.seek(offset)
                file.write(data)
        assert world.sync().action == "scan"
    assert [point.disks[0].size for point in world.vm.points()] == [2 * WINDOW, *SIZES]
    world.check()


def test_a_tracked_image_that_was_resized_behind_its_tracker_is_compared(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(2 * WINDOW,))
    write(world.image, (0, b"begin"))
    world.protect()
    os.truncate(world.image, 3 * WINDOW)
    assert world.sync().action == "resync"
    os.truncate(world.image, 100)
    assert world.sync().action == "resync"
    world.check()


def test_one_disk_of_several_is_resized(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(WINDOW, WINDOW))
    for path in world.images:
        write(path, (0, b"begin"))
    world.protect()
    with track(world.images[1]) as image:
        image.resize(WINDOW // 2 + 7)
    assert world.sync().action == "delta"
    assert [disk.size for disk in world.vm.points()[-1].disks] == [WINDOW, WINDOW // 2 + 7]
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_resized_by_its_tracker_while_a_resync_goes_through_it(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(3 * WINDOW,))
    with track(world.image) as image:
        world.protect()

        class Growing(Progress):
            def start(self, what: str, total: int) -> None:
                self.on = what != "delta"  # by then the cut that becomes the point is made

            def advance(self, count: int) -> None:
                if not self.on:
                    return
                image.resize(image.size + 5000)
                image.pwrite(b"grown", image.size - 5)

        world.note(world.vm.resync(progress=Growing()))
        world.check()
