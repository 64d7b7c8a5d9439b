"""The C overlay reads every point as its Python twin does, hands out nothing damaged, and never waits for a writer."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from blockreplica.kernels import Overlay
from blockreplica.manifest import PointRecord
from blockreplica.stores import Replica
from stores.model import changed, commit, content, move, new_replica, open_replica, put
from stores.test_directory import SIZE, history

BLOCK = 16384


def whole(overlay: Overlay, size: int) -> bytes:
    """All of a point."""
    buffer = bytearray(size)
    overlay.pread_into(buffer, 0)
    return bytes(buffer)


def opened(replica: Replica, point: PointRecord, **more: int) -> Overlay:
    """The overlay of disk 0."""
    return replica.place(point, 0).overlay(**more)


def same(replica: Replica, models: dict[int, bytes], rng: random.Random) -> None:
    """Every point equals its model, in one piece and in random pieces, and holes are zeros."""
    for point in replica.points():
        model, overlay = models[point.epoch], opened(replica, point, most_open=3)
        assert whole(overlay, len(model)) == model == content(replica, point), f"point {point.id}"
        for _ in range(40 if model else 0):
            offset = rng.randrange(len(model))
            length = min(rng.choice([1, 512, 4096, 20_000, 300_000]), len(model) - offset)
            piece = bytearray(length)
            overlay.pread_into(piece, offset)
            assert piece == model[offset : offset + length], f"point {point.id}, offset {offset}, length {length}"
        holes_are_zeros(overlay, model)
        overlay.close()


def holes_are_zeros(overlay: Overlay, model: bytes) -> int:
    """Bytes in holes; each of them reads as zero, and the runs cover the disk."""
    at = holes = 0
    while at < len(model):
        hole, run = overlay.extent(at, len(model) - at)
        assert 0 < run <= len(model) - at
        if hole:
            assert not any(model[at : at + run]), f"a hole at {at} of {run} bytes has data"
            holes += run
        at += run
    return holes


@pytest.mark.parametrize("seed", range(8))
def test_rule_15_every_point_reads_as_its_twin_reads_it(tmp_path: Path, seed: int) -> None:
    models = history(tmp_path / "store", 9, seed)
    same(open_replica(tmp_path / "store"), models, random.Random(seed))


def test_points_of_disks_that_grew_and_shrank(tmp_path: Path) -> None:
    rng = random.Random(5)
    replica, models, model = new_replica(tmp_path / "store"), {}, b""
    for epoch, size in enumerate([SIZE, SIZE + 1_500_000, 70_001, 4096, 0, 50_000, 50_001, SIZE], start=1):
        model = model[:size] + bytes(max(0, size - len(model)))
        writes: list[tuple[int, bytes]] = []
        if size:
            model, writes = changed(rng, model)
        move(replica, size, writes)
        models[epoch] = model
    same(open_replica(tmp_path / "store"), models, rng)


@pytest.mark.parametrize("seed", range(4))
def test_a_half_applied_epoch_is_part_of_what_is_read(tmp_path: Path, seed: int) -> None:
    models = history(tmp_path / "store", 5, seed)
    replica, rng = open_replica(tmp_path / "store"), random.Random(seed)
    overlays = {point.epoch: opened(replica, point) for point in replica.points()}
    for attempt in range(3):
        _, writes = changed(rng, models[5])
        with replica.locked():
            session = replica.session()
            session.start("delta" if attempt == 0 else "resync", heal=False)
            put(session, writes)
            for epoch, overlay in overlays.items():
                assert whole(overlay, len(models[epoch])) == models[epoch], f"point {epoch}, attempt {attempt}"
                holes_are_zeros(overlay, models[epoch])
            same(replica, models, rng)
            session.close()
        same(open_replica(tmp_path / "store"), models, rng)


def apply_deltas(replica: Replica, model: bytes, count: int) -> None:
    """Deltas of thirty writes each."""
    rng = random.Random(3)
    for _ in range(count):
        model, writes = changed(rng, model, writes=30)
        with replica.locked():
            session = replica.session()
            session.start("delta", heal=False)
            for one in writes:
                put(session, [one])
            commit(session)
            session.close()


@pytest.mark.parametrize("deltas", [12, pytest.param(25, marks=pytest.mark.campaign)])
def test_points_read_the_same_while_deltas_are_applied(tmp_path: Path, deltas: int) -> None:
    models = history(tmp_path / "store", 4, 11)
    replica, done = open_replica(tmp_path / "store"), threading.Event()
    failures: list[str] = []
    reads = 0

    def reading(point: PointRecord, seed: int) -> None:
        nonlocal reads
        rng, overlay, model = random.Random(seed), opened(replica, point), models[point.epoch]
        while not done.is_set() and not failures:
            offset = rng.randrange(len(model))
            piece = bytearray(min(rng.choice([4096, 100_000]), len(model) - offset))
            try:
                overlay.pread_into(piece, offset)
            except OSError as error:
                failures.append(f"point {point.id}: {error}")
            if piece != model[offset : offset + len(piece)]:
                failures.append(f"point {point.id}: offset {offset}, length {len(piece)}")
            reads += 1
        overlay.close()

    points = replica.points()  # each has a reader, as each would have a server
    readers = [threading.Thread(target=reading, args=(point, at)) for at, point in enumerate(points)]
    for reader in readers:
        reader.start()
    try:
        apply_deltas(replica, models[4], deltas)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not failures, failures
    assert reads > 100


def test_a_flipped_bit_anywhere_is_never_served(tmp_path: Path) -> None:
    """Invariant 11: what is read is the point, or an error; whichever bit of whichever file is wrong."""
    rng = random.Random(7)
    models, refused = history(tmp_path / "store", 4, 21), 0
    replica = open_replica(tmp_path / "store")
    folder = replica.layout.disk(0).folder
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        for _ in range(40):
            at, bit = rng.randrange(path.stat().st_size), 1 << rng.randrange(8)
            with path.open("r+b") as file:
                file.seek(at)
                was = file.read(1)[0]
                file.seek(at)
                file.write(bytes([was ^ bit]))
                file.flush()
                refused += refuses_or_right(replica, models)
                file.seek(at)
                file.write(bytes([was]))
    assert refused > 100, "hardly any flip was noticed: is anything checked?"
    same(replica, models, rng)


def refuses_or_right(replica: Replica, models: dict[int, bytes]) -> bool:
    """Whether some block of some point is refused; every other one is right, holes included."""
    refused = False
    for point in replica.points():
        model = models[point.epoch]
        try:
            overlay = opened(replica, point)
        except OSError:
            refused = True
            continue
        for at in range(0, len(model), BLOCK):
            piece = bytearray(len(model[at : at + BLOCK]))
            try:
                overlay.pread_into(piece, at)
                assert piece == model[at : at + BLOCK], f"point {point.id}: a wrong block at {at}"
                hole, run = overlay.extent(at, len(piece))
                assert not hole or not any(model[at : at + run])
            except OSError:
                refused = True
        overlay.close()
    return refused


def test_files_that_are_missing_or_cut_are_refused_not_guessed(tmp_path: Path) -> None:
    models = history(tmp_path / "store", 4, 2)
    replica = open_replica(tmp_path / "store")
    folder = replica.layout.disk(0).folder
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        held = path.read_bytes()
        for cut in (None, len(held) // 2, 10):
            path.unlink() if cut is None else os.truncate(path, cut)
            refuses_or_right(replica, models)
            path.write_bytes(held)


def test_a_torn_row_of_an_unfinished_epoch_is_made_good_from_the_log(tmp_path: Path) -> None:
    """What a power cut leaves: rows that were never published are torn, the log holds all that was overwritten."""
    models = history(tmp_path / "store", 3, 9)
    replica = open_replica(tmp_path / "store")
    _, writes = changed(random.Random(4), models[3])
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        put(session, writes)
        session.close()
    index = replica.layout.disk(0).undo_index(4)
    with index.open("ab") as file:
        file.write(b"torn" * 16)
    for point in replica.points():
        overlay = opened(replica, point)
        assert whole(overlay, SIZE) == models[point.epoch] == content(replica, point)


def test_descriptors_are_opened_on_demand(tmp_path: Path) -> None:
    """Rule 17: a point far back has more logs than a process may have files."""
    replica, models, model = new_replica(tmp_path / "store"), {}, bytes(SIZE)
    rng = random.Random(1)
    for epoch in range(1, 60):
        model, writes = changed(rng, model, writes=2, most=5000)
        move(replica, SIZE, writes)
        models[epoch] = model
    first = replica.points()[0]
    before = set(os.listdir("/proc/self/fd"))
    overlay = opened(replica, first, most_open=8)
    assert whole(overlay, SIZE) == models[1]
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 8 + 4
    overlay.close()
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1
