"""How many points are kept: the newest, and whatever a reader holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockreplica.errors import NotFoundError, UsageError
from blockreplica.protection import define

from .world import World, write


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A relationship that keeps three."""
    made = World.make(tmp_path, keep=3)
    write(made.image, (0, b"begin"))
    made.protect()
    return made


def grow(world: World, count: int) -> None:
    for _ in range(count):
        number = len(world.models) + 1
        write(world.image, (number * 5000, bytes([number]) * 9000))
        world.sync()


def test_the_newest_are_kept_and_stay_what_they_were(world: World) -> None:
    grow(world, 6)
    assert [point.id for point in world.check()] == ["1.5", "1.6", "1.7"]
    with pytest.raises(NotFoundError):
        world.recovered("1.4")


def test_what_only_pruned_points_needed_is_removed(world: World) -> None:
    grow(world, 6)
    epochs = {path.name.split(".")[0] for path in (world.disk() / "undo").iterdir()}
    assert epochs == {"000006", "000007"}


def test_keeping_fewer_takes_effect_at_the_next_sync_and_more_lets_them_gather(world: World) -> None:
    grow(world, 3)
    world.keep_only(1)
    grow(world, 1)
    assert [point.id for point in world.check()] == ["1.5"]
    world.keep_only(5)
    grow(world, 2)
    assert [point.id for point in world.vm.points()] == ["1.5", "1.6", "1.7"]
    for point in world.vm.points():
        assert world.recovered(point.id) == world.models[point.id][0]


def test_a_point_that_is_read_is_spared_with_all_behind_it_until_the_reader_is_done(world: World) -> None:
    base = world.vm.replica.base
    with base.reader(base.find("1.1"), 0) as reader:
        grow(world, 5)
        assert world.vm.points()[0].id == "1.1"
        content = bytearray(reader.size)
        reader.pread_into(content, 0)
        assert content == world.models["1.1"][0]
        assert world.recovered("1.2") == world.models["1.2"][0]
    grow(world, 1)
    assert [point.id for point in world.check()] == ["1.5", "1.6", "1.7"]


def test_to_keep_none_is_no_choice(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        define([tmp_path / "vm.img"], tmp_path / "store", name="vm", keep=0)
