"""Power cuts and failing calls at every step of a repair: of newest content, of before-images, of what can't be had.

After each, the store opens, a listed point is byte-equal to its model or refused; the repair, repeated, puts back all
that can be had, durably; the next sync works.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from blockreplica.errors import BlockReplicaError, DamageError
from blockreplica.files import Files
from blockreplica.protection import ReplicaView
from blockreplica.recovery.repair import repair
from blockreplica.recovery.verify import EVERYTHING, note_marks, verify
from blockreplica.stores import Replica
from blockreplica.stores.undo_index import DATA, UndoIndex
from crash.failing import NEVER, Failing
from crash.power import PowerCut, contents
from crash.recording import RecordingFiles, Unsynced
from crash.test_failing_calls import FAULTS
from crash.test_power_cut import DRAWS, SIZE, STATES
from stores.model import changed, move, new_replica, open_replica, points_equal

BLOCK = 16384
FLIPPED = (2, 11, 14)  # blocks of the newest content, of which the primary still has two


class Damaged:
    """A replica with three points: block 5 changes and changes back, block 9 changes for good. Then bits are flipped in
    `disk.img`, in the before-images of block 5, and, when `lost`, in those of block 9, which nobody else has."""

    def __init__(self, folder: Path, seed: int, *, lost: bool) -> None:
        rng, self.lost, self.store = random.Random(seed), lost, folder / "store"
        first = rng.randbytes(SIZE)
        five = rng.randrange(5 * BLOCK, 6 * BLOCK - 9000)
        there = [(five, rng.randbytes(9000)), (9 * BLOCK, rng.randbytes(9000))]
        back = [(five, first[five : five + 9000]), (16 * BLOCK, rng.randbytes(5000))]
        self.models = dict(enumerate([first, with_writes(first, there)], 1))
        self.models[3] = with_writes(self.models[2], back)
        replica = new_replica(self.store, files=Unsynced())
        for writes in ([(0, first)], there, back):
            move(replica, SIZE, writes)
        self.target, self.writes = changed(rng, self.models[3])
        self.primary = folder / "primary"
        changed_since = [(FLIPPED[2] * BLOCK, b"other")] if lost else []
        self.primary.write_bytes(with_writes(self.models[3], changed_since))
        self._damage(replica, rng)

    def _damage(self, replica: Replica, rng: random.Random) -> None:
        layout = replica.layout.disk(0)
        for block in FLIPPED:
            flip(layout.image, block * BLOCK + rng.randrange(BLOCK), rng)
        with closing(UndoIndex(layout.undo_index(2), files=Unsynced())) as index:
            rows = index.extents(0, SIZE)
            for offset, at, length in rows[rows["kind"] == DATA][["offset", "log_offset", "length"]].tolist():
                if self.lost or offset < 9 * BLOCK:
                    flip(index.log_path, at + rng.randrange(length), rng)

    def run(self, store: Path, files: Files) -> bool:
        """The repair, as the command does it; whether all is whole then."""
        replica = open_replica(store, files=files)
        with replica.locked(), files.open(self.primary) as primary:
            report = repair(replica, [primary], files=files)
        note_marks(replica, EVERYTHING, report.after, anew=True)
        assert not report.after.notes
        return not report.after.damage

    def served(self, store: Path) -> list[int]:
        """The points that are read; each is right."""
        replica, read = open_replica(store, files=Unsynced()), []
        view = ReplicaView(replica, Unsynced())
        for point in replica.points():
            try:
                assert view.read(point, 0, SIZE) == self.models[point.epoch], f"point {point.epoch} is served wrong"
                read.append(point.epoch)
            except BlockReplicaError:
                continue
        return read

    def judge(self, store: Path) -> None:
        """Once repaired: what can be had is back, what can't is marked; and the next sync works."""
        replica = open_replica(store, files=Unsynced())
        read = self.served(store)
        assert {mark.epoch for mark in replica.marks().damaged} == {1, 2, 3} - {*read}
        assert read == ([] if self.lost else [1, 2, 3])
        models, self.models = self.models, {**self.models, 4: self.target}
        try:
            move(replica, SIZE, self.writes)
            if not self.lost:
                points_equal(replica, self.models, required=range(1, 5))
                assert verify(replica, files=Unsynced()).damage == []
        except DamageError:  # a delta over what is damaged is refused; a resync sends it
            assert self.lost
        self.served(store)
        self.models = models


def flip(path: Path, at: int, rng: random.Random) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, at)[0] ^ 1 << rng.randrange(8)]), at)


def with_writes(content: bytes, writes: list[tuple[int, bytes]]) -> bytes:
    data = bytearray(content)
    for offset, piece in writes:
        data[offset : offset + len(piece)] = piece
    return bytes(data)


def durable(scene: Damaged, cut: PowerCut, folder: Path) -> None:
    """What a repair says is back, a power cut leaves there."""
    for variant in range(2):
        cut.build(folder, random.Random(variant))
        scene.judge(folder)
        shutil.rmtree(folder)


def cuts(scene: Damaged, tmp_path: Path, files: RecordingFiles, seed: int) -> int:
    cut, count, folder = PowerCut(scene.store), 0, tmp_path / "cut"
    assert scene.run(scene.store, files) != scene.lost
    for at, op, content in contents(cut, files.ops, DRAWS, seed):
        content.build(folder)
        try:
            scene.served(folder)
            scene.run(folder, Unsynced())
            scene.judge(folder)
        except (AssertionError, BlockReplicaError) as error:
            raise AssertionError(f"cut before change {at} ({op.what} {Path(op.path).name}): {error}") from error
        shutil.rmtree(folder)
        count += 1
    durable(scene, cut, folder)
    return count


@pytest.mark.parametrize("lost", [False, True], ids=["all is to be had", "some is lost"])
def test_a_power_cut_at_any_step_of_a_repair_serves_nothing_wrong_and_it_ends_when_repeated(
    tmp_path: Path, lost: bool
) -> None:
    first, judged = 1000 * int(os.environ.get("BLOCKREPLICA_SEED", "11")), 0
    for seed in itertools.count(first):
        scene = Damaged(tmp_path / f"scene{seed}", seed, lost=lost)
        try:
            judged += cuts(scene, tmp_path, RecordingFiles(), seed)
        except AssertionError as error:
            raise AssertionError(f"scene {seed}: {error}") from error
        shutil.rmtree(tmp_path / f"scene{seed}")
        if judged >= STATES // 2:
            break
    print(f"seed {first // 1000}: {judged} states of {seed - first + 1} scenes")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("lost", [False, True], ids=["all is to be had", "some is lost"])
def test_a_failing_call_in_a_repair_serves_nothing_wrong_and_the_repeated_one_ends_durably(
    tmp_path: Path, lost: bool, forever: bool, full: bool
) -> None:
    seed = int(os.environ.get("BLOCKREPLICA_SEED", "21"))
    print("seed", seed)
    scene, counted = Damaged(tmp_path / "scene", seed, lost=lost), Failing(NEVER)
    scene.run(scene.store, counted)
    calls = range(counted.calls)
    for at in calls if FAULTS == 0 else sorted(random.Random(seed).sample(calls, min(FAULTS, len(calls)))):
        shutil.rmtree(tmp_path / "scene")
        scene = Damaged(tmp_path / "scene", seed, lost=lost)
        files = Failing(at, forever=forever, full=full, cut=PowerCut(scene.store))
        try:
            failed(scene, files, tmp_path / "cut")
        except (AssertionError, BlockReplicaError) as error:
            raise AssertionError(f"change {at} failed: {error}") from error


def failed(scene: Damaged, files: Failing, folder: Path) -> None:
    try:
        scene.run(scene.store, files)
    except BlockReplicaError as error:
        if not error.recoverable:
            raise
    except AssertionError:
        assert not files.well  # the marks could not be written, and the report says so
    scene.served(scene.store)
    files.well = True
    assert scene.run(scene.store, files) != scene.lost
    disk = files.after()
    assert disk is not None
    durable(scene, disk, folder)
