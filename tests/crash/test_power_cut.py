"""Power cuts at every step of every movement of a store, on a disk that loses, reorders and tears what was not fsynced.

After each: the store opens, every acknowledged point is byte-equal to its model with true checksums, `disk.img` alone
is the newest point unless INCOMPLETE says otherwise, and the next sync works. With an fsync taken out it goes red.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blockreplica.errors import BlockReplicaError, TableError
from blockreplica.extents import Extent
from blockreplica.files import FILES
from blockreplica.manifest import DiskProgress
from blockreplica.recovery.verify import verify
from blockreplica.stores import Replica
from crash.power import PowerCut, contents
from crash.recording import RecordingFiles, Unsynced
from stores.model import changed, commit, move, new_replica, open_replica, points_equal, put

SIZE = 20 * 16384 + 5000
#: States that are judged, at least, a movement; each differs from all others of its scene.
STATES = int(os.environ.get("BLOCKREPLICA_CRASH_STATES", "60"))
DRAWS = 6
Writes = list[tuple[int, bytes]]


class Scene:
    """A replica with three points, and the movement towards the fourth that the power cut meets."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder, self.models, model = folder, {}, bytes(SIZE)
        replica = new_replica(folder / "store", files=Unsynced())
        for epoch in (1, 2, 3):
            model, writes = changed(self.rng, model)
            move(replica, SIZE, writes)
            self.models[epoch] = model
        self.size, self.thins, self.late = SIZE, False, seed % 2 == 1
        self.target, self.writes = changed(self.rng, model)

    def delta(self, replica: Replica) -> None:
        """A plain delta."""
        move(replica, self.size, self.writes)

    def grown(self, replica: Replica) -> None:
        """A delta on a disk that grew."""
        move(replica, self.size, self.writes)

    def shrunk(self, replica: Replica) -> None:
        """A delta on a disk that shrank."""
        move(replica, self.size, self.writes)

    def resync(self, replica: Replica) -> None:
        """A resync in two halves with a checkpoint between, closed by a delta over some of the same blocks."""
        with replica.locked():
            session = replica.session()
            session.start("resync", heal=True)
            middle = len(self.writes) // 2
            put(session, self.writes[:middle])
            session.checkpoint([DiskProgress(done=SIZE // 2)])
            noise = [(offset, bytes(len(data)) if len(data) % 2 else data) for offset, data in self.writes[middle:]]
            put(session, noise[: len(noise) // 2])
            session.disks[0].hasten()
            put(session, noise[len(noise) // 2 :])
            session.disks[0].flush()
            put(session, self.writes)
            commit(session)

    def pruned(self, replica: Replica) -> None:
        """A delta, then all but two points pruned."""
        move(replica, self.size, self.writes)
        with replica.locked():
            replica.prune(2)

    def era(self, replica: Replica) -> None:
        """Another block size, then a delta."""
        with replica.locked():
            replica.change_block_size(4096)
        move(replica, self.size, self.writes)

    def thinned(self, replica: Replica) -> None:
        """Two deltas, then points in the middle pruned, one after the other: logs merged, and merged again."""
        move(replica, self.size, self.writes)
        self.models[4] = self.target
        with replica.locked():
            assert replica.remove_points([2]).gone == [2]
            assert replica.remove_points([3]).gone == [3]


def resized(scene: Scene, size: int) -> None:
    model = (scene.models[3] + bytes(max(0, size - SIZE)))[:size]
    scene.size = size
    scene.target, scene.writes = changed(scene.rng, model)


def scene_of(name: str, folder: Path, seed: int) -> Scene:
    scene = Scene(folder, seed)
    scene.thins = name == "thinned"
    if name in ("grown", "shrunk"):
        resized(scene, SIZE + 50_001 if name == "grown" else SIZE - 70_003)
    return scene


def run(scene: Scene, name: str, lies: Callable[[Path], bool] = lambda _: False) -> tuple[RecordingFiles, PowerCut]:
    """Run the movement on a recording file system; returns the notes and the disk as it was before."""
    cut, files = PowerCut(scene.folder / "store"), RecordingFiles(lies, late=scene.late)
    getattr(scene, name)(open_replica(scene.folder / "store", files=files))
    scene.models[4] = scene.target
    return files, cut


def redo(replica: Replica, scene: Scene, scratch: Path) -> None:
    """The next sync: the same delta again, or a resync where a table page is bad."""
    state = replica.state()
    if state.epoch == 4:
        with replica.locked():
            replica.session().close()
        return
    try:
        move(replica, scene.size, scene.writes)
    except TableError:
        scratch.write_bytes(scene.target)
        with replica.locked(), FILES.open(scratch) as source:
            session = replica.session()
            session.start("resync", heal=True)
            session.disks[0].resize(scene.size)
            rows = session.disks[0].differing(session.disks[0].scan(source, Extent(0, scene.size), deep=False))
            put(session, [(at, source.pread(length, at)) for at, length, _ in rows.tolist()])
            commit(session)


def judge(folder: Path, scene: Scene, acknowledged: int, oldest: int, scratch: Path, *, verified: bool = True) -> None:
    """All that must hold after the cut."""
    replica = open_replica(folder, files=Unsynced())
    state = replica.state()
    thinned = scene.thins and state.epoch == 4
    points_equal(replica, scene.models, required=[1, 4] if thinned else range(oldest, acknowledged + 1))
    assert acknowledged <= state.epoch <= 4
    if not replica.incomplete:
        assert (folder / "vm/disk0/disk.img").read_bytes() == scene.models[state.epoch], "disk.img alone is a mixture"
    redo(replica, scene, scratch)
    points_equal(replica, scene.models, required=[1, 4] if scene.thins else range(oldest, 5))
    assert not replica.incomplete
    if scene.thins:
        thin_again(replica, scene)
    if verified:
        assert verify(replica, files=Unsynced()).damage == []


def thin_again(replica: Replica, scene: Scene) -> None:
    """The next prune finishes, and leaves nothing behind."""
    assert replica.damaged_points() == []
    with replica.locked():
        assert replica.remove_points([2, 3]).put_off == []
    points_equal(replica, scene.models, required=[1, 4])
    assert [point.epoch for point in replica.points()] == [1, 4]
    undo = replica.layout.disk(0).undo
    assert sorted(os.listdir(undo)) == ["000002-000004.hrl", "000002.index"]
    assert not replica.layout.pruning.exists()


def cuts(scene: Scene, files: RecordingFiles, cut: PowerCut, tmp_path: Path, draws: int, oldest: int = 1) -> int:
    """Judge the disk before every change; several possible contents each. Returns how many there were."""
    count, seed = 0, scene.rng.randrange(1 << 30)
    for at, op, content in contents(cut, files.ops, draws, seed):
        folder = tmp_path / "cut"
        content.build(folder)
        try:
            judge(folder, scene, 3, oldest, tmp_path / "scratch", verified=count % 5 == 0)
        except (AssertionError, BlockReplicaError) as error:
            raise AssertionError(f"cut before change {at} ({op.what} {Path(op.path).name}): {error}") from error
        shutil.rmtree(folder)
        count += 1
    cut.build(tmp_path / "end", None)
    judge(tmp_path / "end", scene, 4, oldest, tmp_path / "scratch")
    shutil.rmtree(tmp_path / "end")
    return count


@pytest.mark.parametrize("name", ["delta", "grown", "shrunk", "resync", "pruned", "era", "thinned"])
def test_a_power_cut_at_any_step_leaves_every_acknowledged_point(tmp_path: Path, name: str) -> None:
    first, judged = 1000 * int(os.environ.get("BLOCKREPLICA_SEED", "11")), 0
    for seed in itertools.count(first):
        scene = scene_of(name, tmp_path / "scene", seed)
        files, cut = run(scene, name)
        try:
            judged += cuts(scene, files, cut, tmp_path, DRAWS, 3 if name == "pruned" else 1)
        except AssertionError as error:
            raise AssertionError(f"scene {seed}: {error}") from error
        shutil.rmtree(scene.folder)
        if judged >= STATES:
            break
    print(f"seed {first // 1000}: {judged} states of {seed - first + 1} scenes")


LIES: dict[str, Callable[[Path], bool]] = {
    "the undo log": lambda path: path.suffix == ".hrl",
    "the undo index": lambda path: path.name.startswith("000004.index"),
    "the folder of undo logs": lambda path: path.name == "undo",
    "disk.img": lambda path: path.name == "disk.img",
    "the checksum table": lambda path: path.name == "checksums",
    "the table of a new era": lambda path: path.name == "checksums.1",
    "the folder of a new era's table": lambda path: path.name == "disk0",
    "the replica's record": lambda path: path.name.startswith("replica"),
    "the point record": lambda path: path.name.startswith("000004.new") or path.name == "000004.new",
    "the state record": lambda path: path.name.startswith("state"),
    "INCOMPLETE": lambda path: path.name == "INCOMPLETE.new",
    "the replica's folder": lambda path: path.name == "vm",
}


@pytest.mark.parametrize("what", LIES)
def test_with_the_fsync_of_one_file_taken_out_a_power_cut_is_seen_to_lose_data(tmp_path: Path, what: str) -> None:
    name = "era" if "era" in what or "record" in what else "delta"
    for seed in range(8):
        print("seed", seed)
        scene = scene_of(name, tmp_path / f"scene{seed}", seed)
        files, cut = run(scene, name, LIES[what])
        try:
            cuts(scene, files, cut, tmp_path / f"cuts{seed}", 4)
        except AssertionError:
            return
    pytest.fail(f"no power cut was seen to hurt although {what} was never fsynced")


class FullDisk(RecordingFiles):
    """Fails every change from the n-th on for want of room, until `room` is true."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.room = after, False

    def note(self, op: object) -> None:
        super().note(op)  # type: ignore[arg-type]
        if not self.room and len(self.ops) > self.after and op.what in ("write", "create", "mkdir", "truncate"):  # type: ignore[attr-defined]
            from blockreplica.errors import NoSpaceError

            raise NoSpaceError(f"change {len(self.ops)}: no room")


def test_a_full_disk_at_any_step_keeps_the_points_and_the_next_sync_goes_on(tmp_path: Path) -> None:
    after, done = 0, False
    while not done:
        scene = scene_of("delta", tmp_path / f"scene{after}", 21)
        scene.models[4] = scene.target
        files = FullDisk(after)
        replica = open_replica(scene.folder / "store", files=files)
        try:
            scene.delta(replica)
            done = True
        except BlockReplicaError as error:
            if not error.recoverable:
                raise
            points_equal(replica, scene.models, required=range(1, 4))
        files.room = True
        redo(open_replica(scene.folder / "store", files=files), scene, tmp_path / "scratch")
        points_equal(replica, scene.models, required=range(1, 5))
        shutil.rmtree(scene.folder)
        after += 3
    assert after > 15
