"""Power cuts and failing calls at every step of a recovery: fresh, cloned, taken up, over an image, in part.

After each, a file under the name that was asked for is whole, or what it was before; the same command, repeated, ends;
what it then calls complete, a second power cut leaves as it is. The store is only read.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockreplica.errors import BlockReplicaError
from blockreplica.extents import Extent
from blockreplica.files import File, Files
from blockreplica.recovery import recover as module
from blockreplica.recovery.recover import PARTIAL, recover
from crash.failing import NEVER, Failing
from crash.power import PowerCut, contents
from crash.recording import RecordingFiles, Unsynced
from crash.test_failing_calls import FAULTS
from crash.test_power_cut import DRAWS, SIZE, STATES, Scene
from stores.model import open_replica

WAYS = ("fresh", "newest", "cloned", "taken up", "forced", "in place", "part")
PART = Extent(30_000, 150_001)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows, several reads in each."""
    monkeypatch.setattr(module, "WINDOW_BLOCKS", 6)
    monkeypatch.setattr(module, "READ_BYTES", 32768)


class Recovery:
    """A store with three points, and the recovery of one of them into the folder `out` beside it."""

    def __init__(self, folder: Path, seed: int, way: str) -> None:
        self.way, self.scene, self.rng = way, Scene(folder, seed), random.Random(seed)
        self.replica, self.out = open_replica(folder / "store", files=Unsynced()), folder / "out"
        epoch = 3 if way in ("newest", "part") else 1 + seed % 3
        self.point, model = f"1.{epoch}", self.scene.models[epoch]
        self.wanted = model[PART.offset : PART.end] if way == "part" else model
        self.before: bytes | None = None
        self.out.mkdir()
        if way in ("forced", "in place"):
            self.before = self.other()
            (self.out / "x").write_bytes(self.before)
        if way == "taken up":
            (self.out / f"x{PARTIAL}").write_bytes(self.other())

    def other(self) -> bytes:
        """Something between two points, of another size, with noise in it."""
        data = bytearray(self.scene.models[1][: SIZE // 2] + self.scene.models[3][SIZE // 2 :])
        for _ in range(4):
            at = self.rng.randrange(SIZE)
            data[at : at + 5000] = self.rng.randbytes(5000)
        return bytes(data[: self.rng.randrange(SIZE // 2, SIZE)]) + bytes(self.rng.choice([0, SIZE]))

    def run(self, out: Path, files: Files, *, force: bool = False) -> None:
        """The recovery, below `out`."""
        recover(
            self.replica, self.point, out / "x", force=force or self.way == "forced",
            part=PART if self.way == "part" else None, in_place=self.way == "in place", files=files,
        )  # fmt: skip

    def judge(self, out: Path) -> None:
        """What stands under the name is whole, or was there before; in place it may be a mixture, but it is there."""
        path = out / "x"
        if self.way == "in place":
            assert path.exists(), "the image is gone"
            return
        got = path.read_bytes() if path.exists() else None
        assert got in (self.before, self.wanted), "a file that is not whole has the name of a whole one"

    def repeat(self, out: Path, files: Files) -> None:
        """The same command again, which must end; where the file is there already, with --force."""
        self.run(out, files, force=(out / "x").exists())
        assert (out / "x").read_bytes() == self.wanted
        assert os.listdir(out) == ["x"]

    def store(self) -> dict[Path, bytes]:
        """All that the store holds, and nobody may change."""
        return {path: path.read_bytes() for path in self.replica.layout.folder.rglob("*") if path.is_file()}


def recorded(recovery: Recovery) -> RecordingFiles:
    return RecordingFiles(clones=recovery.way == "cloned")


def complete(recovery: Recovery, cut: PowerCut) -> None:
    """What was called complete stays so, whatever the disk did not get."""
    for variant in range(3):
        files = cut.possible(random.Random(variant)).files
        assert files.get("x") == recovery.wanted, "the recovery was called complete and was not durable"


def repeated_and_cut_again(recovery: Recovery, folder: Path, rng: random.Random) -> None:
    """Repeat the command in `folder`, cut the power in the middle of that, and at its end; repeat it once more."""
    second, files = PowerCut(folder), recorded(recovery)
    recovery.repeat(folder, files)
    at = rng.randrange(len(files.ops) + 1)
    for op in files.ops[:at]:
        second.feed(op)
    again = folder.with_name("again")
    second.build(again, rng)
    recovery.judge(again)
    recovery.repeat(again, Unsynced())
    shutil.rmtree(again)
    for op in files.ops[at:]:
        second.feed(op)
    complete(recovery, second)


def cuts(recovery: Recovery, tmp_path: Path, files: RecordingFiles) -> int:
    cut, count = PowerCut(recovery.out), 0
    recovery.run(recovery.out, files)
    for at, op, content in contents(cut, files.ops, DRAWS, recovery.rng.randrange(1 << 30)):
        folder = tmp_path / "cut"
        content.build(folder)
        try:
            recovery.judge(folder)
            repeated_and_cut_again(recovery, folder, random.Random(at))
        except (AssertionError, BlockReplicaError) as error:
            raise AssertionError(f"cut before change {at} ({op.what} {Path(op.path).name}): {error}") from error
        shutil.rmtree(folder)
        count += 1
    complete(recovery, cut)
    return count


@pytest.mark.parametrize("way", WAYS)
def test_a_power_cut_at_any_step_of_a_recovery_leaves_nothing_half_done(tmp_path: Path, way: str) -> None:
    first, judged = 1000 * int(os.environ.get("BLOCKREPLICA_SEED", "11")), 0
    for seed in itertools.count(first):
        recovery = Recovery(tmp_path / "scene", seed, way)
        store = recovery.store()
        try:
            judged += cuts(recovery, tmp_path, recorded(recovery))
        except AssertionError as error:
            raise AssertionError(f"scene {seed}: {error}") from error
        assert recovery.store() == store
        shutil.rmtree(tmp_path / "scene")
        if judged >= STATES // 2:
            break
    print(f"seed {first // 1000}: {judged} states of {seed - first + 1} scenes")


@pytest.mark.parametrize("what", ["the file", "the folder"])
def test_with_an_fsync_of_a_recovery_taken_out_a_power_cut_is_seen_to_hurt(tmp_path: Path, what: str) -> None:
    for seed in range(5):
        recovery = Recovery(tmp_path / f"scene{seed}", seed, "fresh")
        files = RecordingFiles(lambda path: (path.name == "out") == (what == "the folder"))
        try:
            cuts(recovery, tmp_path / f"cuts{seed}", files)
        except AssertionError:
            return
    pytest.fail(f"no power cut was seen to hurt although {what} was never fsynced")


def faults(seed: int, calls: int) -> Iterator[int]:
    yield from range(calls) if FAULTS == 0 else sorted(random.Random(seed).sample(range(calls), min(FAULTS, calls)))


def failed(recovery: Recovery, files: Failing, *, once: bool) -> None:
    """The recovery whose calls fail, then, once they work again, the same one."""
    try:
        recovery.run(recovery.out, files)
    except BlockReplicaError as error:
        if not error.recoverable:
            raise
        recovery.judge(recovery.out)
        if once and recovery.before is None:  # so that the same command, without --force, can be repeated
            assert not (recovery.out / "x").exists(), "what was refused to be complete has its name"
    files.well = True
    recovery.repeat(recovery.out, files)
    disk = files.after()
    assert disk is not None
    complete(recovery, disk)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_failing_call_in_a_recovery_is_told_and_the_repeated_command_ends_durably(
    tmp_path: Path, way: str, forever: bool, full: bool
) -> None:
    seed = int(os.environ.get("BLOCKREPLICA_SEED", "21"))
    print("seed", seed)
    recovery, files = Recovery(tmp_path / "scene", seed, way), Failing(NEVER)
    files.clones = way == "cloned"
    recovery.run(recovery.out, files)
    for at in faults(seed, files.calls):
        shutil.rmtree(tmp_path / "scene")
        recovery = Recovery(tmp_path / "scene", seed, way)
        files = Failing(at, forever=forever, full=full, cut=PowerCut(recovery.out))
        files.clones = way == "cloned"
        try:
            failed(recovery, files, once=not forever)
        except (AssertionError, BlockReplicaError) as error:
            raise AssertionError(f"change {at} failed: {error}") from error


def test_who_waited_for_the_name_of_a_recovery_that_ended_meanwhile_does_not_write_to_its_file(
    tmp_path: Path,
) -> None:
    recovery = Recovery(tmp_path / "scene", 12, "fresh")

    class Late(Unsynced):
        """Between the opening of the partial file and its lock, another recovery ends."""

        def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
            file = super().open(path, write=write, create=create, exclusive=exclusive)
            if path.name.endswith(PARTIAL):
                path.rename(recovery.out / "x")
            return file

    with pytest.raises(BlockReplicaError, match="another recovery"):
        recovery.run(recovery.out, Late())
    assert (recovery.out / "x").read_bytes() == b""
