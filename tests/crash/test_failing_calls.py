"""A call that fails, any of them, once or from then on: EIO or ENOSPC, in a write, an fsync, a rename.

The points stay what they were meanwhile, and once the storage works again the next sync, or prune, goes on.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from blockreplica.errors import BlockReplicaError
from blockreplica.recovery.verify import verify
from crash.failing import NEVER, Failing
from crash.test_power_cut import Scene, redo, scene_of
from stores.model import open_replica, points_equal

#: Calls that fail, a movement and way of failing; 0: every call.
FAULTS = int(os.environ.get("BLOCKREPLICA_FAULTS", "10"))


def attempt(scene: Scene, name: str, files: Failing) -> None:
    """The movement, which may fail with an error that says it is worth another try."""
    try:
        getattr(scene, name)(open_replica(scene.folder / "store", files=files))
    except BlockReplicaError as error:
        if not error.recoverable:
            raise


def judged(scene: Scene, thins: bool, files: Failing, scratch: Path) -> None:
    replica = open_replica(scene.folder / "store", files=files)
    made = replica.state().epoch == 4
    scene.models[4] = scene.target
    points_equal(replica, scene.models, required=[1, 4] if thins and made else [3] if thins else [1, 2, 3][2 * made :])
    files.well = True
    redo(replica, scene, scratch)
    with replica.locked():
        replica.remove_points([2, 3] if thins else [])
    points_equal(replica, scene.models, required=[1, 4] if thins else [3, 4])
    assert verify(replica, files=files).damage == []
    assert not replica.incomplete
    assert not replica.layout.pruning.exists()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("name", ["delta", "shrunk", "resync", "pruned", "thinned"])
def test_a_failing_call_costs_no_point_and_the_next_sync_goes_on(
    tmp_path: Path, name: str, forever: bool, full: bool
) -> None:
    seed = int(os.environ.get("BLOCKREPLICA_SEED", "21"))
    print("seed", seed)
    scene = scene_of(name, tmp_path / "scene", seed)
    files = Failing(NEVER)
    attempt(scene, name, files)
    calls = range(len(files.ops))
    chosen = calls if FAULTS == 0 else sorted(random.Random(seed).sample(calls, min(FAULTS, len(calls))))
    for at in chosen:
        shutil.rmtree(scene.folder)
        scene = scene_of(name, tmp_path / "scene", seed)
        files = Failing(at, forever=forever, full=full)
        try:
            attempt(scene, name, files)
            judged(scene, name == "thinned", files, tmp_path / "scratch")
        except (AssertionError, BlockReplicaError) as error:
            raise AssertionError(f"change {at} failed: {error}") from error
