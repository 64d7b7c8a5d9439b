"""kill -9 at any point of any movement: no point is lost, none is wrong, and the next sync goes on.

Each seed is a life of one relationship: rounds of writes, each followed by movements that are killed at changes that
the seed chooses, and by one that is let live. After every death each point that the replica lists is byte-equal to its
model, recovered through the front door, and no file of a recovery that died is there under the name that was asked for.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.errors import BlockReplicaError
from crash.mortal import Mortals, Outcome

KEEP = 4
SIZE = 3 << 20
SEEDS = int(os.environ.get("BLOCKREPLICA_KILL_SEEDS", "2"))
TIMED = int(os.environ.get("BLOCKREPLICA_KILL_TIMED", "4"))
FIRST = int(os.environ.get("BLOCKREPLICA_SEED", "1"))


@dataclass
class Life:
    """A relationship under fire, and what its points must hold."""

    folder: Path
    mortals: Mortals
    rng: random.Random
    tracked: bool
    disks: int
    models: dict[str, list[bytes]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    kills: int = 0

    @property
    def images(self) -> list[Path]:
        return [self.folder / f"vm{index}.img" for index in range(self.disks)]

    def begin(self) -> None:
        """Images with holes and data."""
        for path in self.images:
            with path.open("wb") as file:
                file.truncate(SIZE + self.rng.randrange(3) * 1000)
                for _ in range(6):
                    file.seek(self.rng.randrange(SIZE - 200_000))
                    file.write(self.rng.randbytes(self.rng.randrange(200_000)))
        self.write()

    def write(self) -> None:
        """Change the images; sometimes the writer is killed, and then the images hold what they hold."""
        if not self.tracked:
            for path in self.images:
                with path.open("r+b") as file:
                    for _ in range(4):
                        file.seek(self.rng.randrange(path.stat().st_size - 50_000))
                        file.write(self.rng.randbytes(self.rng.randrange(50_000)))
            return
        order: dict[str, Any] = {
            "images": self.images, "seed": self.rng.randrange(1 << 30), "rounds": 8,
            "resize": self.rng.random() < 0.2, "ops": self.rng.random() < 0.5,
        }  # fmt: skip
        if order["ops"] and self.rng.random() < 0.5:
            self.kill("write", **order)
        else:
            self.live("write", **order)

    def live(self, job: str, **arguments: Any) -> Outcome:
        """Let a job come to its end."""
        done = self.mortals.run(job, **arguments)
        assert not done.killed
        assert not done.error, f"{job} failed: {done.error}: {done.message}"
        self.counts[job] = max(done.changes, 2)
        return done

    def kill(self, job: str, **arguments: Any) -> Outcome:
        """Kill a job at some change; now and then it is done before."""
        at = self.rng.randint(1, self.counts.get(job, 60) * 5 // 4)
        torn = self.rng.random() < 0.5
        done = self.mortals.run(job, die_at=at, torn=torn, **arguments)
        print(f"{job}: {'killed' if done.killed else 'lived'} at {at}{' torn' if torn else ''} {done.result}")
        assert done.killed or not done.error, f"{job} failed: {done.error}: {done.message}"
        self.kills += done.killed
        return done

    def judge(self) -> None:
        """Every point equals its model. A point that is new equals the images, which nobody writes meanwhile."""
        try:
            vm = br.relationship("vm")
            points = vm.points()
        except BlockReplicaError:
            assert not self.models, "the replica is gone"
            return
        known = [*self.models]
        for point in points:
            self.models.setdefault(point.id, [path.read_bytes() for path in self.images])
        listed = [point.id for point in points]
        missing = set(known[len(known) - KEEP + 1 :]) - set(listed)
        assert not missing, f"points {sorted(missing)} are gone, there are {listed}"
        self.models = {point: self.models[point] for point in listed}
        for point in listed:
            for disk, model in enumerate(self.models[point]):
                recovered = self.folder / "recovered"
                vm.replica.recover(point, recovered, disk=disk, force=True)
                assert recovered.read_bytes() == model, f"disk {disk} of point {point} is wrong"

    def heal(self, job: str, **arguments: Any) -> None:
        """What was killed works when it is done again, and nothing is damaged."""
        done = self.live(job, **arguments)
        assert done.result["kind"] == "crash-consistent"
        self.judge()
        assert self.models[done.result["point"]] == [path.read_bytes() for path in self.images]
        assert self.live("verify", name="vm").result == {"damage": []}
        assert not br.relationship("vm").status().incomplete


def first_replication(life: Life, times: int) -> None:
    order = {"images": life.images, "store": life.folder / "store", "name": "vm", "keep": KEEP}
    for _ in range(times):
        life.kill("protect", **order)
        life.judge()
        if life.models:
            break
        if life.rng.random() < 0.3:
            life.write()
    life.heal("sync" if life.models else "protect", **({"name": "vm"} if life.models else order))


def later_movement(life: Life, times: int) -> None:
    order: dict[str, Any] = {"name": "vm"}
    if life.rng.random() < 0.5:
        order |= {"resync": True, "deep": life.rng.random() < 0.5, "block_size": life.rng.choice([None, 4096, 1 << 17])}
    for _ in range(times):
        life.kill("sync", **order)
        life.judge()
        if life.rng.random() < 0.3:
            life.write()
            life.judge()
        if life.rng.random() < 0.2:
            order = {"name": "vm"}
    life.heal("sync", **order)


def recovery(life: Life) -> None:
    target, disk = life.folder / "wanted.img", life.rng.randrange(life.disks)
    point = life.rng.choice([*life.models])
    order = {"name": "vm", "point": point, "to": target, "disk": disk}
    done = life.kill("recover", **order)
    if target.exists():
        assert target.read_bytes() == life.models[point][disk], "a partial file stands where a recovered one should"
        target.unlink()
    elif not done.killed:
        raise AssertionError("recover lived and left no file")
    life.live("recover", **order)
    assert target.read_bytes() == life.models[point][disk]
    target.unlink()


@pytest.mark.parametrize("disks", [1, 2])
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
def test_a_kill_at_any_change_leaves_every_point_and_the_next_sync_goes_on(
    tmp_path: Path, state: Path, tracked: bool, disks: int
) -> None:
    kills = 0
    for seed in range(FIRST, FIRST + SEEDS):
        print("seed", seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        with Mortals(state) as mortals:
            life = Life(folder, mortals, random.Random(seed), tracked, disks)
            life.begin()
            first_replication(life, 3)
            for _ in range(3):
                life.write()
                later_movement(life, 2)
                recovery(life)
        kills += life.kills
        br.unprotect("vm")
    assert kills >= 4 * SEEDS
