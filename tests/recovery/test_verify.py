"""Verify finds every flipped bit in anything that a store keeps, says where, and blames only the points it hurts."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from blockreplica import track
from blockreplica.errors import BlockReplicaError, NotFoundError
from blockreplica.manifest import PointRecord, decode, encode
from blockreplica.protection import Relationship
from replication.world import BLOCK, World, flip, write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four points on a small disk."""
    world = World.make(tmp_path_factory.mktemp("verify"), sizes=(60 * BLOCK + 777,))
    write(world.image, (0, b"begin"))
    world.protect()
    for round_ in (1, 2, 3):
        with track(world.image) as image:
            image.pwrite(bytes([round_]) * 9000, round_ * 40_000)
            image.zero(round_ * 100_000, 20_000)
        world.sync()
    return world


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy of it, to be damaged."""
    shutil.copytree(made.store, tmp_path / "store-vm")
    copy = World(tmp_path, made.images, models=dict(made.models))
    copy.held = Relationship(replace(made.vm.definition, store=tmp_path / "store-vm"))
    return copy


def test_a_whole_replica_has_no_damage_and_all_of_it_was_read(world: World) -> None:
    report = world.vm.verify()
    assert (report.points, report.damage) == (4, [])
    assert report.blocks_checked >= 61
    assert report.bytes_read >= (world.disk() / "disk.img").stat().st_blocks * 512


def damage_of(world: World) -> list[tuple[int | None, list[str], str]]:
    """What verify found."""
    return [(damage.offset, damage.points, damage.what) for damage in world.vm.verify().damage]


def test_newest_content_hurts_the_points_that_have_it_and_those_without_are_not_blamed(world: World) -> None:
    flip(world.disk() / "disk.img", 3 * 40_000 + 4500)
    found = damage_of(world)
    assert [(offset, points) for offset, points, _ in found] == [((3 * 40_000 + 4500) // BLOCK * BLOCK, ["1.4"])]
    for point in ("1.1", "1.2", "1.3"):
        assert world.recovered(point) == world.models[point][0]


def test_a_before_image_hurts_the_points_before_it(world: World) -> None:
    flip(world.disk() / "undo/000003.hrl", 4096 + 100)
    hurt = {point for _, points, _ in damage_of(world) for point in points}
    assert hurt
    assert hurt <= {"1.1", "1.2"}
    for point in ("1.3", "1.4"):
        assert world.recovered(point) == world.models[point][0]


def test_a_page_of_the_checksum_table_hurts_nothing_and_is_named(world: World) -> None:
    flip(world.disk() / "checksums", 100)
    assert damage_of(world) == [(None, [], "page 0 of the checksum table does not match its CRC")]


def test_a_point_that_is_no_successor_is_named(world: World) -> None:
    path = world.store / "vm/points/000003"
    point = decode("point", PointRecord, path.read_bytes(), path)
    path.write_bytes(encode("point", msgspec.structs.replace(point, reason="forged")))
    assert [points for _, points, _ in damage_of(world)] == [["1.3"]]


@pytest.mark.parametrize("name", ["state", "state.copy", "points/000002", "points/000004"])
def test_a_damaged_record_is_named(world: World, name: str) -> None:
    flip(world.store / "vm" / name, -7)
    found = damage_of(world)
    assert any(name.split("/")[-1] in what for _, _, what in found), found


KEPT = [
    "vm/replica", "vm/state", "vm/state.copy", "vm/points/000001", "vm/points/000004", "vm/disk0/disk.img",
    "vm/disk0/checksums", "vm/disk0/undo/000002.hrl", "vm/disk0/undo/000003.index", "vm/disk0/undo/000004.hrl",
    "blockreplica-store",
]  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_any_flipped_bit_in_anything_that_is_kept_is_found(world: World, name: str) -> None:
    path = world.store / name
    size = path.stat().st_size
    rng = random.Random(name)
    for _ in range(12):
        at, bit = rng.randrange(size), rng.randrange(8)
        flip(path, at, bit)
        try:
            found = bool(world.vm.verify().damage)
        except BlockReplicaError as error:
            found = path.name in str(error)
        assert found, f"byte {at}, bit {bit} of {name}"
        flip(path, at, bit)
    assert world.vm.verify().damage == []


@pytest.mark.parametrize("name", ["disk0/undo/000003.hrl", "disk0/undo/000003.index", "points/000003", "state.copy"])
def test_a_file_that_is_gone_is_found(world: World, name: str) -> None:
    (world.store / "vm" / name).unlink()
    assert world.vm.verify().damage != []


@pytest.mark.parametrize("name", ["disk.img", "checksums"])
def test_a_disk_that_is_gone_hurts_all_points_and_the_rest_is_looked_at(world: World, name: str) -> None:
    (world.disk() / name).unlink()
    flip(world.disk() / "undo/000003.hrl", 5000)
    report = world.vm.verify()
    assert next(each.points for each in report.damage if name in each.what) == ["1.1", "1.2", "1.3", "1.4"]
    assert any("000003" in each.what for each in report.damage)
    assert sum(name in each.what for each in report.damage) == 1, "once, not at every log"
    assert len(world.vm.replica.base.marks().damaged) == 4


def test_a_pinned_point_whose_record_is_gone_is_found_until_it_is_unpinned(world: World) -> None:
    """The oldest one: no undo log tells of it, and only its pin says that nobody pruned it."""
    world.vm.pin("1.1")
    (world.store / "vm/points/000001").unlink()
    assert "000001" in world.vm.verify().damage[0].what
    assert world.vm.pin("1.1", pinned=False) == "1.1"
    assert world.vm.verify().damage == []
    with pytest.raises(NotFoundError):
        world.vm.pin("1.1")


def test_a_shorter_disk_image_is_found(world: World) -> None:
    path = world.disk() / "disk.img"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5000)
    assert world.vm.verify().damage != []
