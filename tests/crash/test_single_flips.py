"""One bit flipped, anywhere in a store: a point is read right, or not at all, and verify finds it.

Not guarded, because nothing is believed of it: the lock file (the pid in it is for a message alone). Of a movement that
was interrupted verify does not look at INCOMPLETE (damaged, it makes the next sync compare everything), nor at what the
movement had overwritten in `disk.img` (every point has its before-image).
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from blockreplica.errors import BlockReplicaError
from blockreplica.manifest import MarksRecord
from blockreplica.recovery.recover import recover
from blockreplica.recovery.verify import verify
from blockreplica.recovery.view import ReplicaView
from blockreplica.stores import Replica
from crash.recording import Unsynced
from stores.model import RECORD, changed, commit, move, new_replica, open_replica, put

SIZE = 9 * 4096 + 700
UNGUARDED = {"lock"}
UNVERIFIED = {"lock", "INCOMPLETE"}
#: Flips a file and test; 0: every bit of every file.
FLIPS = int(os.environ.get("BLOCKREPLICA_FLIPS", "12"))
#: "3/40": of them the third of forty parts (from 0), so that all can be gone through in pieces.
PART, PARTS = map(int, os.environ.get("BLOCKREPLICA_FLIPS_PART", "0/1").split("/"))
FILES = Unsynced()


def history(folder: Path, seed: int) -> dict[str, bytes]:
    """A replica with three points, and what each holds."""
    rng, model, models = random.Random(seed), bytes(SIZE), {}
    replica = new_replica(folder, record=msgspec.structs.replace(RECORD, block_size=4096), files=FILES)
    for epoch in (1, 2, 3):
        model, writes = changed(rng, model, writes=5, most=9000)
        move(replica, SIZE, writes)
        models[f"1.{epoch}"] = model
    return models


def thinned(folder: Path, seed: int) -> dict[str, bytes]:
    """The same with a point in the middle pruned, its undo log merged, and the oldest one pinned."""
    models = history(folder, seed)
    replica = open_replica(folder, files=FILES)
    with replica.locked():
        replica.remove_points([2])
        replica.mark(MarksRecord(pinned=[1]))
    del models["1.2"]
    return models


def eras(folder: Path, seed: int) -> dict[str, bytes]:
    """The same with blocks of another size from the third point on, and of a third one after the last."""
    models = history(folder, seed)
    replica, model = open_replica(folder, files=FILES), models["1.3"]
    for block_size in (16384, 8192):
        with replica.locked():
            replica.change_block_size(block_size)
        if block_size == 16384:
            model, writes = changed(random.Random(seed + 1), model, writes=5, most=9000)
            move(replica, SIZE, writes)
            models["1.4"] = model
    return models


def interrupted(folder: Path, seed: int) -> dict[str, bytes]:
    """The same with a movement that ended in the middle: a growing undo index, blocks half new, half old."""
    models = history(folder, seed)
    replica = open_replica(folder, files=FILES)
    _, writes = changed(random.Random(seed + 1), models["1.3"], writes=5, most=9000)
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        put(session, writes[:2])
        session.disks[0].flush()
        put(session, writes[2:])
        session.disks[0].flush()
        session.close()
    return models


def flips(path: Path, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Bytes and bits of a file: some, or all."""
    bits = path.stat().st_size * 8
    chosen = range(bits) if FLIPS == 0 else sorted(rng.sample(range(bits), min(FLIPS, bits)))
    for bit in chosen[PART::PARTS]:
        yield bit // 8, bit % 8


def read_points(replica: Replica, models: dict[str, bytes], scratch: Path) -> int:
    """Read and recover each point; what comes must be right. Returns how many did not come."""
    refused, view = 0, ReplicaView(replica, FILES)
    for point, model in models.items():
        for way in ("read", "recover"):
            try:
                if way == "read":
                    got = view.read(point, 0, len(model))
                else:
                    recover(replica, point, scratch, force=True, files=FILES)
                    got = scratch.read_bytes()
            except BlockReplicaError:
                refused += 1
            else:
                assert got == model, f"{way} of point {point} gave wrong bytes"
    return refused


def judge(folder: Path, models: dict[str, bytes], scratch: Path) -> tuple[int, bool]:
    """How many points did not come, and whether verify found something."""
    try:
        replica = open_replica(folder, files=FILES)
        refused = read_points(replica, models, scratch)
        return refused, bool(verify(replica, files=FILES).damage)
    except BlockReplicaError:
        return 2 * len(models), True


def test_without_a_flip_all_is_well(tmp_path: Path) -> None:
    for make in (history, thinned, eras, interrupted):
        models = make(tmp_path / make.__name__, 5)
        assert judge(tmp_path / make.__name__, models, tmp_path / "scratch") == (0, False)


@pytest.mark.parametrize("make", [history, thinned, eras, interrupted])
def test_a_flipped_bit_is_never_served_and_is_found_by_verify(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    seed = int(os.environ.get("BLOCKREPLICA_SEED", "5"))
    print("seed", seed)
    store, scratch, rng = tmp_path / "store", tmp_path / "scratch", random.Random(seed)
    models = make(store, seed)
    unseen, tried = [], 0
    for path in sorted(file for file in store.rglob("*") if file.is_file()):
        content = path.read_bytes()
        for at, bit in flips(path, rng):
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), bytes([content[at] ^ 1 << bit]), at)
                refused, found = judge(store, models, scratch)
                os.pwrite(file.fileno(), content[at : at + 1], at)
            assert not (refused and path.name in UNGUARDED)
            if not found and path.name not in UNVERIFIED and (refused or make is not interrupted):
                unseen.append(f"{path.relative_to(store)} byte {at} bit {bit}: {refused} refused")
            tried += 1
    assert not unseen, "\n".join(unseen[:40])
    assert tried > 100 or PARTS > 1


def take_up(folder: Path, writes: list[tuple[int, bytes]]) -> bool:
    """Finish the interrupted movement, as the next sync would; False for a typed error."""
    replica = open_replica(folder, files=FILES)
    try:
        with replica.locked(), closing(replica.session()) as session:
            session.start("delta", heal=False)
            put(session, writes)
            commit(session)
    except BlockReplicaError:
        return False
    return True


def test_an_interrupted_movement_is_never_finished_on_top_of_a_flipped_bit(tmp_path: Path) -> None:
    seed = int(os.environ.get("BLOCKREPLICA_SEED", "5"))
    print("seed", seed)
    store, scratch, rng = tmp_path / "store", tmp_path / "scratch", random.Random(seed)
    models = interrupted(store, seed)
    model, writes = changed(random.Random(seed + 1), models["1.3"], writes=5, most=9000)
    finished = 0
    for path in sorted(file for file in store.rglob("*") if file.is_file()):
        for at, bit in flips(path, rng):
            copied = tmp_path / "copied"
            shutil.copytree(store, copied)
            with (copied / path.relative_to(store)).open("r+b") as file:
                os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, at)[0] ^ 1 << bit]), at)
            try:
                done = take_up(copied, writes)
                finished += done
                read_points(open_replica(copied, files=FILES), models | ({"1.4": model} if done else {}), scratch)
            except BlockReplicaError:
                pass
            except AssertionError as error:
                raise AssertionError(f"{path.relative_to(store)} byte {at} bit {bit}: {error}") from error
            shutil.rmtree(copied)
    assert finished > 20 or PARTS > 1
