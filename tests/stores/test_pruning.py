"""Points are taken out from anywhere, and every other one stays what it was (rules 15, 16; invariant 10)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from blockreplica.errors import NoSpaceError
from blockreplica.files import FILES, Files
from blockreplica.stores import Replica
from blockreplica.stores import merge as merging
from blockreplica.stores.undo_index import UndoIndex

from .model import changed, content, move, new_replica, open_replica, points_equal

SIZE = 30 * 16384 + 5000


def filled(replica: Replica, rounds: int, seed: int = 1) -> dict[int, bytes]:
    print("seed", seed)
    rng, model, models = random.Random(seed), bytes(SIZE), {}
    for epoch in range(1, rounds + 1):
        model, writes = changed(rng, model)
        move(replica, SIZE, writes)
        models[epoch] = model
    return models


def removed(replica: Replica, *epochs: int) -> list[int]:
    with replica.locked():
        return replica.remove_points(epochs).gone


@pytest.mark.parametrize("seed", range(6))
def test_any_points_go_in_any_order_and_the_others_stay_what_they_were(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "ROWS_A_WINDOW", 40)
    monkeypatch.setattr(merging, "BATCH_BYTES", 9000)
    replica, rng = new_replica(tmp_path), random.Random(seed)
    models = filled(replica, 9, seed)
    left = set(models)
    while len(left) > 1:
        going = set(rng.sample(sorted(left), min(len(left), rng.randint(1, 3)))) - {max(left)}
        assert set(removed(replica, *going)) == going
        left -= going
        points_equal(open_replica(tmp_path), models, required=left)
        assert {point.epoch for point in replica.points()} == left
        assert replica.damaged_points() == []
        if rng.random() < 0.3:
            model, writes = changed(rng, models[max(models)])
            epoch = move(replica, SIZE, writes).epoch
            models[epoch], left = model, left | {epoch}
    assert os.listdir(replica.layout.disk(0).undo) == []


def test_a_merged_log_holds_one_before_image_a_granule_the_oldest(tmp_path: Path) -> None:
    replica = new_replica(tmp_path)
    for fill in (b"\1", b"\2", b"\3", b"\4"):
        move(replica, SIZE, [(8192, fill * 40_000)])
    sizes = [path.stat().st_size for path in replica.layout.disk(0).undo.glob("*.hrl")]
    removed(replica, 2, 3)
    (log,) = replica.layout.disk(0).undo.glob("*.hrl")
    assert log.stat().st_size <= max(sizes)
    rows = UndoIndex(replica.layout.disk(0).undo_index(2), files=FILES).all_rows()
    assert rows[rows["kind"] <= 2]["length"].sum() <= 49_152
    assert content(replica, replica.find("1.1"))[8192:48_192] == b"\1" * 40_000


def test_the_logs_that_lead_to_a_point_that_is_read_stay_until_it_is_let_go(tmp_path: Path) -> None:
    replica = new_replica(tmp_path)
    models = filled(replica, 5)
    with replica.reader(replica.find("1.2"), 0) as reader:
        assert removed(replica, 2, 3, 4) == []
        assert removed(replica, 1) == [1]
        buffer = bytearray(SIZE)
        reader.pread_into(buffer, 0)
        assert buffer == models[2]
    assert removed(replica, 3, 4) == [3, 4]
    points_equal(replica, models, required=[2, 5])


def test_a_reader_that_comes_while_logs_are_merged_puts_the_switch_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = new_replica(tmp_path)
    models, readers, merge = filled(replica, 5), [], merging.merge

    def with_a_reader(*args: object, **rest: object) -> None:
        readers.append(replica.reader(replica.find("1.1"), 0))
        merge(*args, **rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("blockreplica.stores.pruning.merge", with_a_reader)
        with replica.locked():
            done = replica.remove_points([3])
    assert done.gone == [3]
    assert "being read" in done.put_off[0]
    buffer = bytearray(SIZE)
    readers[0].pread_into(buffer, 0)
    assert buffer == models[1]
    readers[0].close()
    points_equal(replica, models, required=[1, 2, 4, 5])
    assert replica.damaged_points() == []
    removed(replica)
    assert replica.layout.disk(0).merged_log(3, 4).exists()
    assert not replica.layout.pruning.exists()
    points_equal(replica, models, required=[1, 2, 4, 5])


def test_a_damaged_log_is_not_laundered_by_merging_and_no_point_is_lost_for_it(tmp_path: Path) -> None:
    replica = new_replica(tmp_path)
    move(replica, SIZE, [(0, b"\7" * SIZE)])
    for fill in (b"\1", b"\2", b"\3"):
        move(replica, SIZE, [(0, fill * 40_000)])
    log = replica.layout.disk(0).undo_log(3)
    with log.open("r+b") as file:
        file.seek(9000)
        byte = file.read(1)[0]
        file.seek(9000)
        file.write(bytes([byte ^ 4]))
    with replica.locked():
        done = replica.remove_points([3])
    assert done.gone == [3]
    assert "000003.hrl" in done.put_off[0]
    assert [point.epoch for point in replica.points()] == [1, 2, 4]
    assert content(replica, replica.find("1.1")) == b"\7" * SIZE
    assert replica.damaged_points() == []


def test_a_record_that_is_lost_is_told_from_one_that_was_pruned(tmp_path: Path) -> None:
    replica = new_replica(tmp_path)
    filled(replica, 6)
    removed(replica, 2)
    replica.layout.point(4).unlink()
    assert ["000004" in str(error) for error in replica.damaged_points()] == [True]
    removed(replica, 5)
    assert ["000004" in str(error) for error in replica.damaged_points()] == [True]


class Full(Files):
    """No room for merged logs."""

    def open(self, path: Path, **how: bool) -> object:  # type: ignore[override]
        if "-" in path.name and path.suffix == ".hrl":
            raise NoSpaceError(f"{path}: no room")
        return super().open(path, **how)


def test_without_room_to_merge_the_points_stay_whole_and_the_next_prune_goes_on(tmp_path: Path) -> None:
    replica = new_replica(tmp_path)
    models = filled(replica, 5)
    with pytest.raises(NoSpaceError):
        removed(open_replica(tmp_path, files=Full()), 2, 3)
    points_equal(replica, models, required=[1, 4, 5])
    assert replica.damaged_points() == []
    removed(replica)
    assert replica.layout.disk(0).merged_log(2, 4).exists()
    points_equal(replica, models, required=[1, 4, 5])


def test_the_newest_point_never_goes_whoever_asks(tmp_path: Path) -> None:
    replica = new_replica(tmp_path)
    models = filled(replica, 3)
    assert removed(replica, 1, 2, 3) == [1, 2]
    points_equal(replica, models, required=[3])
    assert removed(replica, 3) == []
