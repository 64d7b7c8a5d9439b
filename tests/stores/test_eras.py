"""Another block size begins another era: points of those before are proved by their own checksums, for ever."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from blockreplica.errors import DamageError, StorageError
from blockreplica.files import FILES, Files
from blockreplica.recovery.recover import read_checked
from blockreplica.recovery.repair import repair
from blockreplica.recovery.verify import verify
from blockreplica.stores import Replica
from stores.model import (
    RECORD,
    changed,
    commit,
    content,
    move,
    new_replica,
    open_replica,
    points_equal,
    put,
    table_is_true,
)
from stores.test_overlay import opened, same, whole

SIZE = 30 * 16384 + 5000


def moved(replica: Replica, models: dict[int, bytes], rng: random.Random, rounds: int = 1, size: int = SIZE) -> None:
    """More points."""
    for _ in range(rounds):
        model = (models[max(models)] if models else b"") + bytes(size)
        model, writes = changed(rng, model[:size])
        models[move(replica, size, writes).epoch] = model


def change(replica: Replica, block_size: int) -> None:
    """Change the block size."""
    with replica.locked():
        replica.change_block_size(block_size)


def history(folder: Path, seed: int = 1) -> tuple[Replica, dict[int, bytes]]:
    """Nine points of three eras: 1 to 3 of 16 KiB, 4 to 6 of 64 KiB, 7 to 9 of 4 KiB."""
    print("seed", seed)
    replica, models, rng = new_replica(folder), dict[int, bytes](), random.Random(seed)
    for block_size in (RECORD.block_size, 65536, 4096):
        if models:
            change(replica, block_size)
        moved(replica, models, rng, 3)
    return replica, models


def flipped(path: Path, at: int) -> None:
    """Flip a bit."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(raw)


@pytest.mark.parametrize("seed", range(6))
def test_rule_15_both_overlays_read_every_point_of_every_era(tmp_path: Path, seed: int) -> None:
    _, models = history(tmp_path, seed)
    replica = open_replica(tmp_path)
    assert [table.last for table in replica.record.frozen] == [3, 6]
    points_equal(replica, models, required=range(1, 10))
    same(replica, models, random.Random(seed))
    assert verify(replica).damage == []


@pytest.mark.parametrize("back", [65536, RECORD.block_size])
def test_rule_15_a_reader_that_was_open_before_the_change_is_never_wrong(tmp_path: Path, back: int) -> None:
    replica, models, rng = new_replica(tmp_path), dict[int, bytes](), random.Random(3)
    moved(replica, models, rng, 3)
    other = open_replica(tmp_path)
    points = replica.points()
    readers = [other.reader(point, 0) for point in points]
    overlays = [opened(other, point) for point in points]
    for block_size in (4096, back):
        change(replica, block_size)
        moved(replica, models, rng, 2)
        for point, reader, overlay in zip(points, readers, overlays, strict=True):
            buffer = bytearray(SIZE)
            reader.pread_into(buffer, 0)
            assert whole(overlay, SIZE) == buffer == models[point.epoch]
            assert read_checked(reader, 0, SIZE) == models[point.epoch]
    for reader in readers:
        reader.close()
    for overlay in overlays:
        overlay.close()
    points_equal(other, models, required=range(1, 8))  # it sees the new eras, too


def test_nothing_writes_a_table_whose_era_has_ended(tmp_path: Path) -> None:
    replica, models = history(tmp_path)
    first = replica.layout.disk(0).table(0)
    held = first.read_bytes()
    moved(replica, models, random.Random(9), 3, SIZE + 90_000)
    assert first.read_bytes() == held


@pytest.mark.parametrize("seed", range(6))
def test_rule_16_logs_are_merged_over_the_end_of_an_era(tmp_path: Path, seed: int) -> None:
    _, models = history(tmp_path, seed)
    replica, rng = open_replica(tmp_path), random.Random(seed)
    tables = replica.layout.disk(0)
    while len(models) > 1:
        going = set(rng.sample(sorted(models)[:-1], min(len(models) - 1, rng.randint(1, 2))))
        with replica.locked():
            assert set(replica.remove_points(going).gone) == going
        models = {epoch: model for epoch, model in models.items() if epoch not in going}
        points_equal(replica, models, required=models)
        same(replica, models, rng)
        assert verify(replica).damage == []
        living = {min(2, (epoch - 1) // 3) for epoch in models} | {2}
        assert {era for era in range(3) if tables.table(era).exists()} == living
    moved(replica, models, rng)
    points_equal(replica, models, required=models)


def test_disks_that_shrink_and_grow_in_another_era(tmp_path: Path) -> None:
    replica, models, rng = new_replica(tmp_path), dict[int, bytes](), random.Random(5)
    for size, block_size in ((SIZE, 0), (5000, 4 << 20), (3 * SIZE, 0), (SIZE, 4096), (0, 0), (0, 8192), (9000, 4096)):
        if block_size:
            change(replica, block_size)
        if size:
            moved(replica, models, rng, 2, size)
        else:
            models[move(replica, 0, []).epoch] = b""
    points_equal(replica, models, required=models)
    same(replica, models, rng)
    assert verify(replica).damage == []


def test_eras_without_a_point(tmp_path: Path) -> None:
    replica, models, rng = new_replica(tmp_path), dict[int, bytes](), random.Random(5)
    moved(replica, models, rng, 2)
    for block_size in (4096, 65536, RECORD.block_size, RECORD.block_size):
        change(replica, block_size)
        assert verify(replica).damage == []
    moved(replica, models, rng, 2)
    points_equal(replica, models, required=models)
    assert len(replica.record.frozen) == 3


def test_a_table_that_is_damaged_or_cut_is_found_in_every_era(tmp_path: Path) -> None:
    replica, _ = history(tmp_path)
    change(replica, 8192)
    for era, points in ((0, ["1.1", "1.2", "1.3"]), (1, ["1.4", "1.5", "1.6"]), (2, []), (3, [])):
        path = replica.layout.disk(0).table(era)
        held = path.read_bytes()
        for damage in (lambda path: flipped(path, 40), lambda path: os.truncate(path, 100), os.unlink):
            damage(path)
            found = verify(replica).damage
            assert found, f"era {era}"
            assert not points or {point for each in found for point in each.points} == set(points)
            if era == 2 and damage is os.unlink:  # it proves the newest point
                assert ("is missing" in found[0].what, found[0].points) == (True, ["1.7", "1.8", "1.9"])
            path.write_bytes(held)
    assert verify(replica).damage == []


def test_invariant_11_damaged_content_gets_no_checksum_that_calls_it_right(tmp_path: Path) -> None:
    replica, models = history(tmp_path)
    place = replica.layout.disk(0)
    for path, at in ((place.image, 70_000), (place.table(2), 50)):
        flipped(path, at)
        with replica.locked(), pytest.raises(DamageError, match="the block size stays"):
            replica.change_block_size(65536)
        flipped(path, at)
        assert replica.record.block_size == 4096
    os.truncate(place.image, SIZE - 4096)
    with replica.locked(), pytest.raises(DamageError, match="the block size stays"):
        replica.change_block_size(65536)
    assert open_replica(tmp_path).record.block_size == 4096
    assert len(models) == 9


def test_a_flipped_bit_hurts_points_of_every_era_and_is_put_back(tmp_path: Path) -> None:
    replica, models = history(tmp_path)
    primary = tmp_path / "primary"
    primary.write_bytes(models[9])
    quiet = next(at for at in range(0, SIZE, 4096) if len({model[at : at + 4096] for model in models.values()}) == 1)
    flipped(replica.layout.disk(0).image, quiet)
    found = verify(replica).damage
    assert {point for each in found for point in each.points} == {f"1.{epoch}" for epoch in models}
    with replica.locked(), FILES.open(primary) as file:
        report = repair(replica, [file])
    assert len(report.repaired) == 1
    assert report.after.damage == []


def test_a_before_image_of_the_epoch_that_began_an_era_is_proved_and_put_back(tmp_path: Path) -> None:
    replica, models, rng = new_replica(tmp_path), dict[int, bytes](), random.Random(5)
    moved(replica, models, rng, 2)
    move(replica, SIZE, [(0, b"\7" * SIZE)])
    models[3] = b"\7" * SIZE
    change(replica, 4096)
    move(replica, SIZE, [(32768, b"\1" * 20_000)])
    move(replica, SIZE, [(32768, b"\7" * 20_000)])
    log = replica.layout.disk(0).undo_log(4)
    flipped(log, log.read_bytes().index(b"\7" * 4096) + 100)
    damage = verify(replica).damage
    assert damage
    with replica.locked():
        report = repair(replica, [None])
    assert report.repaired
    assert report.after.damage == []
    assert content(replica, replica.find("1.3")) == models[3]


class Stopping(Files):
    """Fails when a record is replaced, the `after`-th."""

    after = 0

    def write_durably(self, path: Path, data: bytes) -> None:
        if self.after == 0:
            raise StorageError(f"{path}: no")
        self.after -= 1
        super().write_durably(path, data)


@pytest.mark.parametrize("after", [0, 1])
def test_a_change_that_was_stopped_before_the_record_has_not_been(tmp_path: Path, after: int) -> None:
    replica, models, rng = new_replica(tmp_path), dict[int, bytes](), random.Random(5)
    moved(replica, models, rng, 2)
    files = Stopping()
    files.after = after
    with replica.locked(), pytest.raises(StorageError):
        open_replica(tmp_path, files=files).change_block_size(4096)
    replica = open_replica(tmp_path)
    assert replica.record.block_size == RECORD.block_size
    points_equal(replica, models, required=models)
    moved(replica, models, rng)
    copy = replica.layout.record.with_name("replica.copy")
    assert copy.read_bytes() == replica.layout.record.read_bytes(), "the copy would take new points for another era's"
    change(replica, 4096)
    moved(replica, models, rng)
    points_equal(replica, models, required=models)


def test_with_the_copy_of_the_record_alone_the_era_is_the_same(tmp_path: Path) -> None:
    replica, models = history(tmp_path)
    flipped(replica.layout.record, 300)
    points_equal(open_replica(tmp_path), models, required=models)


def test_two_disks_change_together(tmp_path: Path) -> None:
    disks = [msgspec.structs.replace(RECORD.disks[0], index=at) for at in (0, 1)]
    replica = new_replica(tmp_path, record=msgspec.structs.replace(RECORD, disks=disks))
    for fill in (b"\1", b"\2", b"\3"):
        with replica.locked():
            session = replica.session()
            session.start("delta", heal=False)
            for disk, size in enumerate((50_000, 400_000)):
                session.disks[disk].resize(size)
                put(session, [(5000, fill * 40_000)], disk=disk)
            commit(session)
            replica.change_block_size(4096 << fill[0])
    for epoch, point in enumerate(replica.points(), start=1):
        for disk, size in enumerate((50_000, 400_000)):
            assert content(replica, point, disk) == bytes(5000) + bytes([epoch]) * 40_000 + bytes(size - 45_000)
            assert table_is_true(replica, point, disk)
