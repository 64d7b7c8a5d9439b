"""What every replica store must do, whatever it keeps its replicas in; judged through the store's back door."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from blockreplica.errors import BusyError, NotFoundError, RefusedError, UsageError
from blockreplica.extents import Extent
from blockreplica.manifest import DiskProgress, ReplicaDisk, chained
from blockreplica.stores import Replica
from contracts.back_doors import STORES, BackDoor
from stores.model import RECORD, changed, commit, content, move, points_equal, put, table_is_true

SIZE = 30 * 16384 + 5000
TWO_DISKS = msgspec.structs.replace(
    RECORD, disks=[ReplicaDisk(index=0, name="a.img"), ReplicaDisk(index=1, name="b.img")]
)


@pytest.fixture(params=STORES)
def door(request: pytest.FixtureRequest, tmp_path: Path) -> BackDoor:
    """An empty store of each kind."""
    opened = STORES[request.param](tmp_path)
    opened.create()
    return opened


@pytest.fixture
def replica(door: BackDoor) -> Replica:
    """An empty replica."""
    return door.open().create_replica(RECORD)


def filled(replica: Replica, rounds: int = 4, seed: int = 1) -> dict[int, bytes]:
    """Make points; returns what each must hold."""
    print("seed", seed)
    rng, model, models = random.Random(seed), bytes(SIZE), {}
    for epoch in range(1, rounds + 1):
        model, writes = changed(rng, model)
        move(replica, SIZE, writes)
        models[epoch] = model
    return models


def test_a_new_store_holds_nothing_and_is_opened_again(door: BackDoor) -> None:
    assert door.open().names() == []
    assert door.create().names() == []


def test_a_replica_is_what_it_was_made_as(door: BackDoor) -> None:
    door.open().create_replica(TWO_DISKS)
    assert door.open().names() == ["vm"]
    assert door.open().replica("vm").record == TWO_DISKS


def test_a_name_is_given_once(door: BackDoor, replica: Replica) -> None:
    with pytest.raises(RefusedError):
        door.open().create_replica(RECORD)
    assert replica.points() == []


@pytest.mark.parametrize("name", ["", ".", "..", "../vm", "a/b", "/etc", ".hidden", "-x", "a" * 101, "vm\n", "vm\0"])
def test_no_name_leads_out_of_the_store(door: BackDoor, name: str) -> None:
    with pytest.raises((ValueError, NotFoundError)):
        door.open().create_replica(msgspec.structs.replace(RECORD, name=name))
    with pytest.raises(NotFoundError):
        door.open().replica(name)


def test_what_is_not_there_is_not_found(door: BackDoor, replica: Replica) -> None:
    with pytest.raises(NotFoundError):
        door.open().replica("other")
    with pytest.raises(NotFoundError):
        replica.find(None)
    with pytest.raises(NotFoundError):
        replica.find("1.1")
    assert replica.newest() is None


def test_a_point_appears_with_the_commit_and_not_before(door: BackDoor, replica: Replica) -> None:
    with replica.locked():
        session = replica.session()
        session.start("initial", heal=False)
        session.disks[0].resize(SIZE)
        put(session, [(5000, b"x" * 9000)])
        session.disks[0].sync()
        assert door.epochs("vm") == []
        assert replica.points() == []
        assert replica.incomplete
        point = commit(session)
    assert door.epochs("vm") == [1]
    assert replica.points() == [point]
    assert not replica.incomplete
    assert door.newest("vm", 0) == bytes(5000) + b"x" * 9000 + bytes(SIZE - 14000)


def test_every_point_stays_what_it_was(door: BackDoor, replica: Replica) -> None:
    models = filled(replica, 6)
    points_equal(door.open().replica("vm"), models, required=range(1, 7))
    assert door.newest("vm", 0) == models[6]


@pytest.mark.parametrize("block_size", [4096 << shift for shift in range(11)])
def test_points_of_any_block_size_stay_what_they_were(door: BackDoor, block_size: int) -> None:
    replica = door.open().create_replica(msgspec.structs.replace(RECORD, block_size=block_size))
    rng, size, models, model = random.Random(block_size), 2 * block_size + 70_001, {}, b""
    for epoch in range(1, 5):
        model = (model + bytes(size + epoch))[: size + epoch]
        model, writes = changed(rng, model)
        move(replica, size + epoch, writes)
        models[epoch] = model
    points_equal(door.open().replica("vm"), models, required=range(1, 5))
    assert door.newest("vm", 0) == models[4]


@pytest.mark.parametrize("seed", range(4))
def test_the_block_size_changes_and_every_point_stays_what_it_was(door: BackDoor, replica: Replica, seed: int) -> None:
    rng, models = random.Random(seed), filled(replica, 2, seed)
    for block_size in rng.sample([4096 << shift for shift in range(11)], 4):
        with replica.locked():
            replica.change_block_size(block_size)
        replica = door.open().replica("vm")
        assert replica.record.block_size == block_size
        points_equal(replica, models, required=models)
        size = SIZE + rng.choice([0, 0, 100_001, -50_000])
        model = (models[max(models)] + bytes(size))[:size]
        for _ in range(rng.randint(1, 2)):
            model, writes = changed(rng, model)
            models[move(replica, size, writes).epoch] = model
            points_equal(replica, models, required=models)
    assert door.newest("vm", 0) == models[max(models)]
    while len(models) > 1:
        going = rng.choice(sorted(models)[:-1])
        with replica.locked():
            assert replica.remove_points([going]).gone == [going]
        del models[going]
        points_equal(door.open().replica("vm"), models, required=models)


def test_the_block_size_does_not_change_before_there_is_a_whole_newest_point(replica: Replica) -> None:
    with replica.locked(), pytest.raises(RefusedError, match="sync first"):
        replica.change_block_size(4096)
    models = filled(replica, 2)
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        put(session, [(0, b"y" * 5000)])
        session.disks[0].flush()
        session.close()
        with pytest.raises(RefusedError, match="sync first"):
            replica.change_block_size(4096)
    points_equal(replica, models, required=range(1, 3))


@pytest.mark.parametrize("block_size", [0, 1, 512, 2048, 4097, 12288, 8 << 20, -4096])
def test_a_block_size_that_can_not_be_is_refused(replica: Replica, block_size: int) -> None:
    filled(replica, 1)
    with replica.locked(), pytest.raises(UsageError):
        replica.change_block_size(block_size)
    assert replica.record == RECORD


def test_the_points_are_chained(replica: Replica) -> None:
    filled(replica, 3)
    chain = ""
    for point in replica.points():
        assert chained(chain, point) == point.chain
        chain = point.chain
    assert replica.state().chain == chain


def test_a_session_that_ends_without_commit_changes_no_point_and_the_next_goes_on(
    door: BackDoor, replica: Replica
) -> None:
    models = filled(replica, 3)
    for attempt in range(3):
        with replica.locked():
            session = replica.session()
            session.start("delta", heal=False)
            put(session, [(attempt * 20_000, bytes([attempt + 1]) * 30_000)])
            session.disks[0].flush()
            session.close()
        points_equal(replica, models, required=range(1, 4))
        assert door.epochs("vm") == [1, 2, 3]
    _, writes = changed(random.Random(9), models[3])
    move(replica, SIZE, [(0, models[3][:90_000]), *((at, data) for at, data in writes if at >= 90_000)])
    wanted = bytearray(models[3])
    for at, data in writes:
        if at >= 90_000:
            wanted[at : at + len(data)] = data
    points_equal(replica, {**models, 4: bytes(wanted)}, required=range(1, 5))


def test_applying_twice_is_applying_once_and_sends_nothing_the_second_time(replica: Replica) -> None:
    models = filled(replica, 2)
    model, writes = changed(random.Random(4), models[2])
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        first = put(session, writes)
        session.disks[0].flush()
        assert put(session, writes) == 0
        point = commit(session)
    assert first > 0
    assert content(replica, point) == model
    points_equal(replica, {**models, 3: model}, required=range(1, 4))


def test_progress_is_found_by_the_next_session_of_the_same_movement_alone(replica: Replica) -> None:
    filled(replica, 2)
    with replica.locked():
        session = replica.session()
        session.start("resync", heal=True)
        put(session, [(0, b"y" * 5000)])
        session.checkpoint([DiskProgress(done=12345)])
        session.close()
        session = replica.session()
        assert session.pending is not None
        assert session.pending.movement == "resync"
        session.start("resync", heal=True)
        assert session.progress(0).done == 12345
        session.close()
        session = replica.session()
        session.start("partial-resync", heal=True)
        assert session.progress(0).done == 0
        session.close()


def test_progress_of_a_movement_does_not_outlive_a_change_of_another(replica: Replica) -> None:
    filled(replica, 2)
    with replica.locked():
        session = replica.session()
        session.start("resync", heal=True)
        put(session, [(0, b"y" * 5000)])
        session.checkpoint([DiskProgress(done=12345)])
        session.close()
        session = replica.session()
        session.start("deep-resync", heal=True)
        put(session, [(40_000, b"z" * 5000)])
        session.disks[0].flush()
        session.close()
        session = replica.session()
        session.start("resync", heal=True)
        assert session.progress(0).done == 0
        session.close()


def test_zeros_take_no_room_and_are_undone_like_all_else(door: BackDoor, replica: Replica) -> None:
    move(replica, SIZE, [(0, b"\7" * SIZE)])
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        assert session.disks[0].zero(Extent(4096, 100_000)) == 100_000
        assert session.disks[0].zero(Extent(4096, 100_000)) == 0
        commit(session)
    assert door.newest("vm", 0) == b"\7" * 4096 + bytes(100_000) + b"\7" * (SIZE - 104_096)
    assert content(replica, replica.find("1.1")) == b"\7" * SIZE


@pytest.mark.parametrize("size", [0, 1, 4096, SIZE - 1, SIZE + 1, 3 * SIZE])
def test_a_disk_takes_any_size_and_older_points_keep_theirs(door: BackDoor, replica: Replica, size: int) -> None:
    models = filled(replica, 2)
    move(replica, size, [])
    move(replica, SIZE, [])
    cut = models[2][:size]
    models[3] = cut + bytes(size - len(cut))
    models[4] = (models[3] + bytes(max(0, SIZE - size)))[:SIZE]
    points_equal(replica, models, required=range(1, 5))
    assert door.newest("vm", 0) == models[4]


def test_disks_of_one_replica_commit_together(door: BackDoor) -> None:
    replica = door.open().create_replica(TWO_DISKS)
    for fill in (b"\1", b"\2"):
        with replica.locked():
            session = replica.session()
            session.start("delta", heal=False)
            for disk in (0, 1):
                session.disks[disk].resize(50_000 * (disk + 1))
                put(session, [(disk, fill * 40_000)], disk=disk)
            session.disks[0].sync()
            session.close()
            session = replica.session()
            session.start("delta", heal=False)
            for disk in (0, 1):
                put(session, [(disk, fill * 40_000)], disk=disk)
            commit(session)
    for epoch, fill in ((1, b"\1"), (2, b"\2")):
        point = replica.find(f"1.{epoch}")
        assert content(replica, point, 0) == fill * 40_000 + bytes(10_000)
        assert content(replica, point, 1) == b"\0" + fill * 40_000 + bytes(59_999)
    assert door.newest("vm", 1) == content(replica, replica.find("1.2"), 1)


def test_one_writer_at_a_time(door: BackDoor, replica: Replica) -> None:
    with replica.locked():
        with pytest.raises(BusyError, match=str(os.getpid())):
            door.open().replica("vm").locked()
        with pytest.raises(BusyError):
            door.open().remove_replica("vm")
    replica.locked().close()


def test_the_oldest_points_are_pruned_and_the_newest_never(door: BackDoor, replica: Replica) -> None:
    models = filled(replica, 6)
    with replica.locked():
        assert len(replica.prune(4)) == 2
        assert door.epochs("vm") == [3, 4, 5, 6]
        replica.prune(0)
    assert door.epochs("vm") == [6]
    points_equal(replica, models, required=range(6, 7))


def test_what_is_read_is_not_pruned(door: BackDoor, replica: Replica) -> None:
    models = filled(replica, 5)
    with replica.reader(replica.find("1.2"), 0) as reader, replica.locked():
        replica.prune(1)
        assert door.epochs("vm") == [2, 3, 4, 5]
        buffer = bytearray(SIZE)
        reader.pread_into(buffer, 0)
        assert buffer == models[2]
    with replica.locked():
        replica.prune(1)
    assert door.epochs("vm") == [5]


def test_a_flipped_bit_does_not_match_the_points_checksums(door: BackDoor, replica: Replica) -> None:
    move(replica, SIZE, [(0, b"\7" * SIZE)])
    point = replica.find("1.1")
    assert table_is_true(replica, point)
    door.flip("vm", 0, SIZE - 1)
    assert not table_is_true(replica, point)


def test_a_replica_that_was_removed_is_gone_and_its_name_is_free(door: BackDoor, replica: Replica) -> None:
    filled(replica, 2)
    door.open().remove_replica("vm")
    assert door.open().names() == []
    again = door.open().create_replica(RECORD)
    assert again.points() == []
    move(again, 5000, [(0, b"new")])
    assert door.newest("vm", 0) == b"new" + bytes(4997)
