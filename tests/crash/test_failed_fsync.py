"""An fsync that failed is never retried as if it had worked.

After a failed fsync the system calls its pages clean: they read as what was written, are not on the disk, and no later
fsync brings them there. Whoever goes on with what reads right would acknowledge what power loss takes away.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from blockreplica.errors import BlockReplicaError, StorageError
from blockreplica.manifest import DiskProgress
from crash.power import PowerCut
from crash.recording import Op, RecordingFiles, Unsynced
from crash.test_power_cut import SIZE, Scene, redo, scene_of
from stores.model import changed, commit, new_replica, open_replica, points_equal, put


class FailingOnce(RecordingFiles):
    """Fails the n-th fsync of a file for which `which` says so; what it should have made durable is lost."""

    def __init__(self, which: Callable[[Path], bool], nth: int) -> None:
        super().__init__()
        self.which, self.left, self.failed = which, nth, False

    def note(self, op: Op) -> None:
        if op.what == "sync" and not self.failed and self.which(Path(op.path)):
            self.left -= 1
            if self.left == 0:
                self.failed = True
                super().note(Op("lost", op.inode, op.path))
                raise StorageError(f"{op.path}: fsync failed")
        super().note(op)


FILES: dict[str, Callable[[Path], bool]] = {
    "the undo log": lambda path: path.suffix == ".hrl",
    "the undo index": lambda path: path.name.startswith("000004.index"),
    "disk.img": lambda path: path.name == "disk.img",
    "the checksum table": lambda path: path.name == "checksums",
    "the point record": lambda path: path.name.startswith("000004.new"),
    "the state record": lambda path: path.name.startswith("state"),
    "INCOMPLETE": lambda path: path.name == "INCOMPLETE.new",
}


def acknowledged(scene: Scene, files: FailingOnce, movement: str) -> bool:
    """The movement, and when its fsync fails, the next sync, in another process, on the same system."""
    replica = open_replica(scene.folder / "store", files=files)
    try:
        getattr(scene, movement)(replica)
    except BlockReplicaError:
        assert files.failed
        redo(open_replica(scene.folder / "store", files=files), scene, scene.folder / "scratch")
    return files.failed


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("movement", ["delta", "resync"])
def test_what_a_failed_fsync_left_in_memory_is_written_again_before_it_is_acknowledged(
    tmp_path: Path, movement: str, what: str
) -> None:
    nth, seed = 1, 17
    while True:
        scene = scene_of(movement, tmp_path / "scene", seed)
        cut, files = PowerCut(scene.folder / "store"), FailingOnce(FILES[what], nth)
        failed = acknowledged(scene, files, movement)
        scene.models[4] = scene.target
        for op in files.ops:
            cut.feed(op)
        for variant in range(4):
            cut.build(tmp_path / "cut", random.Random(variant))
            points_equal(open_replica(tmp_path / "cut", files=Unsynced()), scene.models, required=range(1, 5))
            shutil.rmtree(tmp_path / "cut")
        shutil.rmtree(scene.folder)
        if not failed:
            break
        nth += 1
    assert nth > 1


def test_a_first_copy_writes_its_closing_delta_again_after_a_failed_fsync(tmp_path: Path) -> None:
    rng = random.Random(5)
    base, first = changed(rng, bytes(SIZE), writes=12)
    model, delta = changed(rng, base)
    for nth in (1, 2):
        store = tmp_path / f"store{nth}"
        cut, files = PowerCut(tmp_path), FailingOnce(FILES["disk.img"], nth)
        replica = new_replica(store, files=files)
        for _ in range(2):
            with replica.locked(), closing(replica.session()) as session, suppress(StorageError):
                session.start("initial", heal=False)
                session.disks[0].resize(SIZE)
                if session.progress(0).done == 0:
                    put(session, first)
                    session.checkpoint([DiskProgress(done=SIZE)])
                put(session, delta)
                commit(session)
                break
        assert files.failed
        for op in files.ops:
            cut.feed(op)
        cut.build(tmp_path / "cut", random.Random(1))
        points_equal(open_replica(tmp_path / "cut" / store.name, files=Unsynced()), {1: model}, required=range(1, 2))
        shutil.rmtree(tmp_path / "cut")
        shutil.rmtree(store)
