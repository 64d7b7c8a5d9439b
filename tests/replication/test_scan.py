"""Images that nothing tracks: all of them is looked at, and what can't be one instant is said to be fuzzy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.errors import BlockReplicaError, NotFoundError, StorageError
from blockreplica.progress import Progress

from .world import BLOCK, MIB, Interrupting, World, foreign_write, make_image

WINDOW = 255 * BLOCK


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An untracked image, replicated."""
    made = World.make(tmp_path, sizes=(2 * WINDOW + 999,))
    made.protect()
    return made


class Meddling(Progress):
    """Writes to the image when the movement goes on."""

    def __init__(self, path: Path, offset: int = 5000) -> None:
        self.path, self.offset = path, offset

    def advance(self, count: int) -> None:
        foreign_write(self.path, self.offset, b"while it is read")


def test_a_scan_finds_what_changed_and_sends_only_that(world: World) -> None:
    foreign_write(world.image, 3 * BLOCK, b"one")
    foreign_write(world.image, WINDOW + 7, b"two")
    result = world.sync()
    assert (result.action, result.kind, result.bytes_dirty, result.bytes_sent) == (
        "scan", "crash-consistent", 2 * BLOCK, 2 * 4096,
    )  # fmt: skip
    assert result.reason == "nothing tracks vm0.img"
    assert 0 < result.bytes_scanned <= world.image.stat().st_blocks * 512
    world.check()


def test_a_scan_that_finds_nothing_makes_a_point_of_zeros(world: World) -> None:
    result = world.sync()
    assert (result.action, result.point, result.bytes_dirty, result.bytes_sent) == ("scan", "1.2", 0, 0)
    world.check()


def test_it_leaves_nothing_beside_the_image(world: World) -> None:
    world.sync()
    assert sorted(os.listdir(world.folder)) == ["store-vm", "vm0.img"]


def test_an_image_that_changes_during_the_scan_makes_a_fuzzy_point_that_is_nobodys_default(world: World) -> None:
    result = world.vm.sync(progress=Meddling(world.image))
    assert (result.action, result.kind, result.point) == ("scan", "fuzzy", "1.2")
    assert len(result.warnings) == 1
    assert "vm0.img changed while being read" in result.warnings[0]
    assert [point.kind for point in world.vm.points()] == ["crash-consistent", "fuzzy"]
    assert world.vm.replica.base.find(None).id == "1.1"
    assert world.recovered(None) == world.models["1.1"][0]
    assert len(world.recovered("1.2")) == world.image.stat().st_size
    world.models["1.2"] = (world.recovered("1.2"),)
    assert world.sync().kind == "crash-consistent"
    assert world.vm.replica.base.find(None).id == "1.3"
    world.check()


def test_a_first_copy_that_is_fuzzy_is_the_default_only_while_there_is_no_other(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(WINDOW,))
    world.begin()
    assert world.vm.sync(progress=Meddling(world.image)).kind == "fuzzy"
    assert world.vm.replica.base.find(None).id == "1.1"
    world.models["1.1"] = (world.recovered("1.1"),)
    assert world.sync().kind == "crash-consistent"
    assert world.vm.replica.base.find(None).id == "1.2"
    world.check()


def test_an_image_that_grows_during_the_scan_makes_a_fuzzy_point(world: World) -> None:
    result = world.vm.sync(progress=Meddling(world.image, 3 * WINDOW))
    assert result.kind == "fuzzy"
    world.models[result.point] = (world.recovered(result.point),)
    world.sync()
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_an_image_that_shrinks_during_the_scan_is_a_typed_error_and_the_next_sync_is_right(world: World) -> None:
    class Shrinking(Progress):
        def advance(self, count: int) -> None:
            os.truncate(world.image, WINDOW + 10)

    with pytest.raises(StorageError, match=r"vm0\.img"):
        world.vm.sync(progress=Shrinking())
    world.sync()
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_an_image_that_shrinks_during_the_first_copy_is_a_typed_error_and_the_next_sync_is_right(
    tmp_path: Path,
) -> None:
    world = World.make(tmp_path, sizes=(2 * WINDOW + 999,))
    world.begin()

    class Shrinking(Progress):
        def advance(self, count: int) -> None:
            os.truncate(world.image, WINDOW + 10)

    with pytest.raises(BlockReplicaError, match=r"vm0\.img"):
        world.vm.sync(progress=Shrinking())
    world.sync()
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_a_scan_that_was_interrupted_resumes_where_the_image_is_as_it_was(world: World) -> None:
    make_image(world.image, 2 * WINDOW + 999, 50)
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(1))
    result = world.sync()
    assert result.action == "scan"
    assert result.bytes_scanned < world.image.stat().st_blocks * 512 * 2 // 3
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_a_scan_that_was_interrupted_begins_again_where_the_image_has_changed_since(world: World) -> None:
    make_image(world.image, 2 * WINDOW + 999, 50)
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(2))
    foreign_write(world.image, 10, b"in the part that was gone through")
    assert world.sync().action == "scan"
    world.check()


def test_once_it_is_tracked_one_resync_and_then_deltas(world: World) -> None:
    with track(world.image) as image:
        image.pwrite(b"tracked", 100)
    first, second = world.sync(), world.sync()
    assert (first.action, second.action) == ("resync", "delta")
    assert "not tracked at the last point" in first.reason
    world.check()


def test_once_its_tracking_is_removed_it_is_scanned_again(world: World) -> None:
    with track(world.image) as image:
        image.pwrite(b"tracked", 100)
    world.sync()
    for path in (world.names().tracking, world.names().cursors):
        path.unlink()
    foreign_write(world.image, 9000, b"untracked")
    assert world.sync().action == "scan"
    world.check()


def test_a_missing_image_is_named_and_all_points_stay(world: World) -> None:
    moved = world.image.rename(world.folder / "away.img")
    with pytest.raises(NotFoundError, match=r"vm0\.img"):
        world.vm.sync()
    assert world.vm.status().state == "image missing"
    assert world.recovered("1.1") == world.models["1.1"][0]
    moved.rename(world.image)
    world.sync()
    world.check()


def test_another_image_in_its_place_is_replicated_whole(world: World) -> None:
    make_image(world.folder / "other.img", MIB + 5, 99).replace(world.image)
    assert world.sync().action == "scan"
    world.check()
