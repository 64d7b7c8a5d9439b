"""Anything that may happen between two syncs, in any order: every recovery point stays what its image was.

A primary that is written through a tracker and behind its back, resized, whose tracker dies, whose logs rot, is
replicated to two stores, by syncs that are interrupted now and then. The model is one `bytes` a point.

BLOCKREPLICA_MACHINE_EXAMPLES=2000 makes a campaign of it, BLOCKREPLICA_SEED chooses another run, and with
BLOCKREPLICA_MACHINE_SHRINK what fails is made small, which takes minutes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from blockreplica import Scope, track
from blockreplica.replication import bulk, delta
from blockreplica.replication.result import SyncResult
from blockreplica.stores import stage
from blockreplica.tracking import TrackedImage

from .world import Interrupting, World, artifacts, flip, foreign_write, make_image

EXAMPLES = int(os.environ.get("BLOCKREPLICA_MACHINE_EXAMPLES", "18"))
SEED = int(os.environ.get("BLOCKREPLICA_SEED", "2024"))
SHRINK = bool(os.environ.get("BLOCKREPLICA_MACHINE_SHRINK"))
MEMORY = "/dev/shm"  # nothing here hangs on what a disk does, and fsync costs nothing there
UNIT = 1 << 9
UNITS = 4000  # of 512 bytes: two windows and a bit

offsets = st.integers(0, UNITS - 1).map(lambda unit: unit * UNIT)
lengths = st.one_of(st.integers(1, 20_000), st.sampled_from([4096, 8192, 300_000]))
stores = st.sampled_from(["a", "b"])


class Replication(RuleBasedStateMachine):
    """The primary, two worlds over it, and whether the logs can still tell all since each one's newest point."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        self.image = make_image(self.folder / "vm.img", UNITS * UNIT + 77, 5)
        self.worlds = {
            name: World(self.folder, [self.image], name=name, keep=keep, block_size=block)
            for name, keep, block in (("a", 4, 4096), ("b", 2, 16384))
        }
        self.tracked: TrackedImage | None = None
        self.trusted = dict.fromkeys(self.worlds, False)
        self.fill = 0
        self.died, self.past = False, 1_000_000_000

    def teardown(self) -> None:
        if self.tracked is not None:
            self.tracked.close()
        for world in self.worlds.values():
            if world.held is not None and world.models:
                world.check()
        shutil.rmtree(self.folder)

    @initialize(tracked=st.booleans())
    def begin(self, tracked: bool) -> None:
        for world in self.worlds.values():
            world.begin()
        if tracked:
            self.open_tracker()

    @precondition(lambda self: self.tracked is None)
    @rule()
    def open_tracker(self) -> None:
        self.tracked = track(self.image, log_limit=1 << 20)
        self.died = False

    @precondition(lambda self: self.tracked is not None)
    @rule()
    def close_tracker(self) -> None:
        assert self.tracked is not None
        self.tracked.close()
        self.tracked = None

    @precondition(lambda self: self.tracked is not None)
    @rule()
    def kill_tracker(self) -> None:
        assert self.tracked is not None
        self.tracked._tracker.drop()
        self.close_tracker()
        self.died = True

    @precondition(lambda self: self.tracked is not None)
    @rule(offset=offsets, length=lengths, noise=st.booleans())
    def write(self, offset: int, length: int, noise: bool) -> None:
        assert self.tracked is not None
        offset, length = self.inside(offset, length)
        self.fill += 1
        data = bytes([self.fill % 251 + 1]) * length
        self.tracked.pwrite(data if noise else self.tracked.pread(length, offset), offset)

    @precondition(lambda self: self.tracked is not None)
    @rule(offset=offsets, length=st.integers(1, 400_000), discard=st.booleans())
    def zero(self, offset: int, length: int, discard: bool) -> None:
        assert self.tracked is not None
        offset, length = self.inside(offset, length)
        (self.tracked.discard if discard else self.tracked.zero)(offset, length)

    @precondition(lambda self: self.tracked is not None)
    @rule()
    def cut(self) -> None:
        assert self.tracked is not None
        self.tracked.cut()

    @precondition(lambda self: self.tracked is not None)
    @rule(size=st.integers(0, UNITS * UNIT + 400_000))
    def resize(self, size: int) -> None:
        assert self.tracked is not None
        self.tracked.resize(size)

    @precondition(lambda self: self.tracked is None)
    @rule(offset=offsets, length=lengths)
    def write_behind_its_back(self, offset: int, length: int) -> None:
        offset, length = self.inside(offset, length)
        self.fill += 1
        if length:
            foreign_write(self.image, offset, bytes([self.fill % 251 + 1]) * length)
            self.changed_behind_its_back()

    @precondition(lambda self: self.tracked is None)
    @rule(size=st.integers(0, UNITS * UNIT + 400_000))
    def resize_behind_its_back(self, size: int) -> None:
        if size != self.image.stat().st_size:  # the system takes no note of a truncation to the same size
            os.truncate(self.image, size)
            self.changed_behind_its_back()

    @rule(which=st.integers(0, 30), at=st.integers(-5000, 5000), bit=st.integers(0, 7))
    def damage_a_log_or_bitmap(self, which: int, at: int, bit: int) -> None:
        there = artifacts(self.image)
        if there:
            path = self.image.with_name(f"{self.image.name}.{there[-1 - which % len(there)]}")
            flip(path, at % path.stat().st_size, bit)

    @rule(which=st.integers(0, 30))
    def lose_a_log_or_bitmap(self, which: int) -> None:
        there = artifacts(self.image)
        if there:
            self.image.with_name(f"{self.image.name}.{there[-1 - which % len(there)]}").unlink()

    @rule(name=stores)
    def sync(self, name: str) -> None:
        self.judge(name, self.worlds[name].sync())

    @rule(name=stores, deep=st.booleans())
    def resync(self, name: str, deep: bool) -> None:
        result = self.worlds[name].resync(deep=deep)
        assert result.action == ("resync" if len(self.worlds[name].models) > 1 else "initial")
        self.judge(name, result)

    @rule(name=stores, deep=st.booleans(), shift=st.integers(0, 10))
    def change_the_block_size(self, name: str, deep: bool, shift: int) -> None:
        self.judge(name, self.worlds[name].resync(deep=deep, block_size=4096 << shift))
        assert self.worlds[name].vm.status().block_size == 4096 << shift

    @rule(name=stores, after=st.integers(0, 12), shift=st.integers(0, 10))
    def interrupted_change_of_the_block_size(self, name: str, after: int, shift: int) -> None:
        world, progress = self.worlds[name], Interrupting(after)
        before = [point.id for point in world.vm.points()]
        try:
            result = world.resync(block_size=4096 << shift, progress=progress)
        except KeyboardInterrupt:
            self.after_interruption(name, before)
            return
        self.judge(name, result)

    def after_interruption(self, name: str, before: list[str]) -> None:
        """The point may have been made, and the block size that was wished for not be there yet."""
        world = self.worlds[name]
        newest = world.vm.points()[-1:]
        for point in newest if newest and newest[0].id not in before else []:
            world.models[point.id] = (self.image.read_bytes(),)
            world.models = dict(list(world.models.items())[-world.keep :])
            self.trusted[name] = self.image.with_name("vm.img.tracking").exists()

    @rule(name=stores, after=st.integers(0, 12), resync=st.booleans(), deep=st.booleans())
    def interrupted(self, name: str, after: int, resync: bool, deep: bool) -> None:
        world, progress = self.worlds[name], Interrupting(after)
        before = [point.id for point in world.vm.points()]
        try:
            result = world.resync(deep=deep, progress=progress) if resync else world.sync(progress=progress)
        except KeyboardInterrupt:
            self.after_interruption(name, before)
            return
        self.judge(name, result)

    @rule(name=stores, which=st.integers(0, 5), more=st.booleans())
    def prune_any(self, name: str, which: int, more: bool) -> None:
        world = self.worlds[name]
        if len(world.models) < 3:
            return
        points = world.vm.points()[:-1]
        going = {points[which % len(points)].epoch} | ({points[0].epoch} if more else set())
        base = world.vm.replica.base
        with base.locked():
            done = base.remove_points(going)
        assert (set(done.gone), done.put_off) == (going, [])
        world.models = {point.id: world.models[point.id] for point in world.vm.points()}
        assert base.damaged_points() == []

    @rule(name=stores, at=st.integers(0, 1 << 30), bit=st.integers(0, 7))
    def damage_and_repair(self, name: str, at: int, bit: int) -> None:
        """A flipped bit in the newest content: found, and put back where the primary still has the block."""
        world = self.worlds[name]
        path = world.disk() / "disk.img"
        if not world.models or world.vm.replica.base.incomplete or not path.stat().st_size:
            return
        at %= path.stat().st_size
        flip(path, at, bit)
        report = world.vm.repair()
        assert any(damage.offset is not None and damage.offset <= at for damage in report.found)
        if report.after.damage:
            assert world.image.read_bytes() != world.models[world.vm.points()[-1].id][0]
            flip(path, at, bit)
        assert world.vm.verify().damage == []

    @rule(name=stores, sample=st.sampled_from([0.3, 1.0]))
    def verify(self, name: str, sample: float) -> None:
        world = self.worlds[name]
        if world.models:
            assert world.vm.verify(Scope(sample=sample)).damage == []

    @rule(name=stores, which=st.integers(0, 30))
    def recover(self, name: str, which: int) -> None:
        world = self.worlds[name]
        if world.models:
            point = sorted(world.models)[which % len(world.models)]
            assert world.recovered(point) == world.models[point][0]

    @invariant()
    def every_point_equals_its_model(self) -> None:
        for world in self.worlds.values():
            if world.models:
                world.check(recover=False)

    def judge(self, name: str, result: SyncResult) -> None:
        world = self.worlds[name]
        assert result.kind == "crash-consistent"
        assert not result.warnings
        if result.action in ("delta", "partial-resync"):
            assert self.trusted[name], f"{result.action} although the image was changed behind the tracker's back"
        self.trusted[name] = self.image.with_name("vm.img.tracking").exists()
        world.models = dict(list(world.models.items())[-world.keep :])

    def changed_behind_its_back(self) -> None:
        self.trusted = dict.fromkeys(self.worlds, False)
        if self.died:  # within a second of the last stamp it could not be told from the tracker's last write
            self.past -= 1
            os.utime(self.image, (self.past, self.past))

    def inside(self, offset: int, length: int) -> tuple[int, int]:
        size = self.image.stat().st_size
        offset = min(offset, size)
        return offset, min(length, size - offset)


def test_every_point_stays_what_its_image_was_whatever_happens_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    print("seed", SEED)
    monkeypatch.setattr(bulk, "WINDOW_PAGES", 0)
    monkeypatch.setattr(bulk, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(stage, "STAGE_BYTES", 1 << 16)
    monkeypatch.setattr(delta.data_batches, "__defaults__", (1 << 15,))
    profile = settings(
        max_examples=EXAMPLES, stateful_step_count=40, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck), phases=list(Phase) if SHRINK else [Phase.generate],
    )  # fmt: skip
    machine: Any = seed(SEED)(Replication)
    run_state_machine_as_test(machine, settings=profile)
