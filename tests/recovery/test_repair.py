"""What is damaged is put back from where it still is, byte for byte; what is nowhere stays marked and unserved."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blockreplica import Scope, track
from blockreplica.errors import BlockReplicaError, RefusedError, StorageError
from blockreplica.files import File
from blockreplica.recovery.verify import Pace
from replication.world import BLOCK, World, flip, write

if TYPE_CHECKING:
    from typing_extensions import Buffer


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three points; blocks 3 and 9 change and change back."""
    world = World.make(tmp_path, sizes=(60 * BLOCK + 777,))
    write(world.image, (0, b"begin"), (2 * BLOCK, random.Random(8).randbytes(10 * BLOCK)))
    world.protect()
    first = world.image.read_bytes()
    with track(world.image) as image:
        image.pwrite(b"\1" * 9000, 3 * BLOCK)
        image.pwrite(b"\2" * 9000, 9 * BLOCK)
    world.sync()
    write(world.image, (3 * BLOCK, first[3 * BLOCK : 3 * BLOCK + 9000]))
    world.sync()
    return world


def damaged_points(world: World) -> list[str]:
    return [f"1.{mark.epoch}" for mark in world.vm.replica.base.marks().damaged]


def test_a_block_of_the_newest_content_comes_back_from_the_primary(world: World) -> None:
    flip(world.disk() / "disk.img", 20 * BLOCK + 5)
    assert world.vm.verify().damage
    assert damaged_points(world) == ["1.1", "1.2", "1.3"]
    assert world.vm.status().state == "damaged points"
    report = world.vm.repair()
    assert [(each.offset, each.length) for each in report.repaired] == [(20 * BLOCK, BLOCK)]
    assert report.after.damage == []
    assert damaged_points(world) == []
    assert world.vm.status().state == "ok"
    world.check()


def test_a_block_that_the_primary_has_changed_stays_damaged_marked_and_unserved(world: World) -> None:
    flip(world.disk() / "disk.img", 20 * BLOCK + 5)
    write(world.image, (20 * BLOCK, b"other"))
    report = world.vm.repair()
    assert report.repaired == []
    assert report.after.damage[0].offset == 20 * BLOCK
    assert damaged_points(world) == ["1.1", "1.2", "1.3"]
    for point in damaged_points(world):
        with pytest.raises(BlockReplicaError):
            world.recovered(point)


def test_a_before_image_comes_back_where_the_block_is_again_what_it_was(world: World) -> None:
    log = world.disk() / "undo/000002.hrl"
    before = log.read_bytes()
    for at in range(9000, len(before), 7001):
        flip(log, at)
    assert world.vm.verify().damage
    assert damaged_points(world) == ["1.1"]
    report = world.vm.repair()
    assert 3 * BLOCK in {each.offset for each in report.repaired}
    for place in report.after.damage:  # of block 9 nobody has the old content any more
        assert place.points == ["1.1"]
    assert damaged_points(world) == ["1.1"]
    assert world.recovered("1.2") == world.models["1.2"][0]


def test_a_before_image_that_the_newest_content_has_comes_back_whole(world: World) -> None:
    log = world.disk() / "undo/000003.hrl"
    before = log.read_bytes()
    flip(log, len(before) // 2)
    write(world.image, (3 * BLOCK, world.models["1.2"][0][3 * BLOCK : 3 * BLOCK + 9000]))
    report = world.vm.repair()
    assert report.repaired
    assert report.after.damage == []
    assert log.read_bytes() == before


def test_a_torn_index_hinders_no_other_repair(world: World) -> None:
    """Older points can't be read then; the newest content and other disks are put right, and the rest is told."""
    flip(world.disk() / "disk.img", 20 * BLOCK + 5)
    with (world.disk() / "undo/000003.index").open("r+b") as file:
        file.truncate(100)
    report = world.vm.repair()
    assert [each.offset for each in report.repaired] == [20 * BLOCK]
    assert {point for each in report.after.damage for point in each.points} == {"1.1", "1.2"}
    assert damaged_points(world) == ["1.1", "1.2"]
    (world.disk() / "disk.img").unlink()
    assert world.vm.repair().repaired == []
    assert damaged_points(world) == ["1.1", "1.2", "1.3"]


def test_while_a_movement_is_not_finished_nothing_is_repaired(world: World) -> None:
    base = world.vm.replica.base
    with base.locked():
        session = base.session()
        session.start("delta", heal=False)
        session.checkpoint([])
        session.close()
    with pytest.raises(RefusedError, match="sync first"):
        world.vm.repair()


@pytest.mark.parametrize("point", ["1.1", "1.2", "1.3"])
def test_one_point_alone_is_verified_as_it_would_be_recovered(world: World, point: str) -> None:
    assert world.vm.verify(Scope(point=point)).damage == []
    flip(world.disk() / "disk.img", 9 * BLOCK + 5000)  # which the first point has a before-image of
    found = world.vm.verify(Scope(point=point)).damage
    assert [each.points for each in found] == ([] if point == "1.1" else [[point]])
    assert damaged_points(world) == ([] if point == "1.1" else [point])


def test_a_sample_reads_a_part_and_never_calls_what_it_did_not_see_whole(world: World) -> None:
    flip(world.disk() / "disk.img", 20 * BLOCK + 5)
    assert world.vm.verify().damage
    nothing = Scope(sample=1e-9, rng=random.Random(1))
    report = world.vm.verify(nothing)
    assert (report.blocks_checked, report.damage) == (0, [])
    assert damaged_points(world) == ["1.1", "1.2", "1.3"]


def test_a_large_undo_log_is_read_no_faster_than_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, with a pause after each; not as fast as it goes, with the pause after all of it."""
    world, waits = World.make(tmp_path, sizes=(400 * BLOCK,)), list[int]()
    write(world.image, (0, random.Random(9).randbytes(400 * BLOCK)))
    world.protect()
    write(world.image, *((block * BLOCK, b"other") for block in range(400)))
    world.sync()
    monkeypatch.setattr(Pace, "done", lambda _self, read, _covered: waits.append(read))
    assert world.vm.verify(Scope(bandwidth=1 << 40)).damage == []
    size = sum(path.stat().st_size for path in world.disk().glob("undo/*.hrl"))
    assert size > 400 * 4096
    assert sum(read for read in waits if read < size // 2) > size // 2, waits


def test_reading_keeps_to_the_bandwidth() -> None:
    now, told = [0.0], []

    class Counting:
        def advance(self, count: int) -> None:
            told.append(count)

    pace = Pace(1000, Counting(), clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))  # type: ignore[arg-type]
    for _ in range(10):
        pace.done(500, 800)
    assert now[0] == pytest.approx(5.0)
    assert sum(told) == 8000


@pytest.mark.parametrize("rot", ["flipped", "zeroed"])
def test_a_deep_resync_over_rot_gives_older_points_back_what_they_had(tmp_path: Path, rot: str) -> None:
    """The image has what the checksum wants: no before-image is the rot, and nothing is left to repair."""
    world = World.make(tmp_path, sizes=(60 * BLOCK + 777,))
    write(world.image, (0, random.Random(8).randbytes(60 * BLOCK)))
    world.protect()
    write(world.image, (50 * BLOCK, b"later"))
    world.sync()
    if rot == "flipped":
        flip(world.disk() / "disk.img", 20 * BLOCK + 5)
    else:
        with (world.disk() / "disk.img").open("r+b") as file:
            file.seek(20 * BLOCK)
            file.write(bytes(BLOCK))
    assert world.vm.verify().damage
    assert damaged_points(world) == ["1.1", "1.2"]
    write(world.image, (21 * BLOCK, b"another block changes as ever"))
    world.note(world.vm.resync(deep=True))
    assert world.vm.verify().damage == []
    assert damaged_points(world) == []
    world.check()


def test_invariant_12_what_a_failed_fsync_was_to_make_right_is_made_right_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads right from memory for as long as that lasts; what is read after the failure is what the disk has."""
    world = World.make(tmp_path, sizes=(60 * BLOCK + 777,))
    write(world.image, (0, random.Random(8).randbytes(60 * BLOCK)))
    world.protect()
    disk, rot = world.disk() / "disk.img", bytes(BLOCK)
    whole = disk.read_bytes()
    disk.write_bytes(whole[: 20 * BLOCK] + rot + whole[21 * BLOCK :])
    sync, forget, write_extents, written = File.sync, File.forget_cache, File.write_extents, set[int]()

    def fails(self: File) -> None:
        if self.path == disk:
            raise StorageError(f"{disk}: fsync: input/output error")
        sync(self)

    def forgets(self: File) -> None:
        forget(self)
        if self.path == disk:  # what the disk never got
            self.pwrite(rot, 20 * BLOCK)

    def notes(self: File, extents: Buffer, buffer: Buffer) -> None:
        if self.path == disk:
            written.update(offset // BLOCK for offset in memoryview(extents).cast("B").cast("Q")[::3])
        write_extents(self, extents, buffer)

    monkeypatch.setattr(File, "sync", fails)
    with pytest.raises(StorageError, match="input/output"):
        world.vm.resync(deep=True)
    assert disk.read_bytes() == whole, "memory has it"
    monkeypatch.setattr(File, "sync", sync)
    monkeypatch.setattr(File, "forget_cache", forgets)
    monkeypatch.setattr(File, "write_extents", notes)
    world.note(world.vm.resync(deep=True))
    assert written == {20}, "only what is written again is on the disk"
    assert disk.read_bytes() == whole
    assert world.vm.verify().damage == []
