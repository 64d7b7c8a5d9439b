"""Initial replication: while the image is written, interrupted and taken up again, from a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

import blockreplica as br
from blockreplica import track
from blockreplica.errors import NotFoundError
from blockreplica.progress import Progress
from blockreplica.replication import bulk

from .world import BLOCK, MIB, Interrupting, World, foreign_write, make_image, write
from .writers import counts, in_time, writing

WINDOW = 255 * BLOCK


def large(folder: Path, *, windows: int = 4, seed: int = 3) -> World:
    """A world whose image has so many windows."""
    return World.make(folder, sizes=(windows * WINDOW - 12_345,), seed=seed)


def test_the_public_way_protect_sync_points_recover(tmp_path: Path) -> None:
    image = make_image(tmp_path / "vm.img", MIB, 4)
    write(image, (0, b"first"))
    first = image.read_bytes()
    vm = br.protect(image, tmp_path / "store", name="vm")
    assert vm.last is not None
    assert (vm.last.action, vm.last.point) == ("initial", "1.1")
    write(image, (5000, b"second"))
    assert vm.sync().point == "1.2"
    assert [point.id for point in br.relationship("vm").points()] == ["1.1", "1.2"]
    assert br.relationship("vm").replica.recover("1.1", tmp_path / "out.img") == "1.1"
    assert (tmp_path / "out.img").read_bytes() == first
    assert [one.name for one in br.relationships()] == ["vm"]
    br.unprotect("vm")
    with pytest.raises(NotFoundError):
        br.relationship("vm")
    assert (tmp_path / "store/vm/disk0/disk.img").read_bytes() == image.read_bytes()


@pytest.mark.usefixtures("small_windows")
def test_while_threads_write_the_first_point_is_one_instant(tmp_path: Path) -> None:
    world = large(tmp_path)
    world.begin()
    with track(world.image, log_limit=64 * MIB) as image, writing(image, world.image) as writers:
        before, _ = counts(writers)
        result = world.vm.sync()
        _, after = counts(writers)
        second = world.vm.sync()
        third = world.vm.sync()
    assert (result.action, result.kind, second.kind) == ("initial", "crash-consistent", "crash-consistent")
    assert second.action == "delta" or "more than" in second.reason  # a busy machine: over half the disk was written
    in_time(writers, world.recovered("1.1"), before, after)
    for point in (second.point, third.point):
        in_time(writers, world.recovered(point), after, counts(writers)[1])
    world.sync()
    assert world.recovered("1.4") == world.image.read_bytes()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("tracked", [True, False])
def test_interrupted_it_resumes_behind_the_last_checkpoint(tmp_path: Path, tracked: bool) -> None:
    world = large(tmp_path)
    if tracked:
        write(world.image, (0, b"begin"))
    whole = large(tmp_path / "other")
    total = whole.protect().bytes_sent
    world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(2))  # two windows are checkpointed, the third is copied
    assert world.vm.points() == []
    assert world.vm.status().state == "incomplete"
    result = world.sync()
    assert (result.action, result.point) == ("initial", "1.1")
    assert 0 < result.bytes_sent < total * 3 // 4
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_interrupted_again_and_again_while_threads_write_it_ends_equal(tmp_path: Path) -> None:
    world = large(tmp_path)
    world.begin()
    with track(world.image, log_limit=64 * MIB) as image, writing(image, world.image) as writers:
        for after in (0, 1, 1, 2, 1, 0):
            with pytest.raises(KeyboardInterrupt):
                world.vm.sync(progress=Interrupting(after))
        before, _ = counts(writers)
        assert world.vm.sync().point == "1.1"
        _, after_ = counts(writers)
    in_time(writers, world.recovered("1.1"), before, after_)
    assert world.sync().action == "delta"
    world.models["1.1"] = (world.recovered("1.1"),)
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_what_was_written_between_interruption_and_resumption_is_not_forgotten(tmp_path: Path) -> None:
    world = large(tmp_path)
    write(world.image, (0, b"begin"))
    world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(2))
    write(world.image, (100, b"in the part that was copied"), (3 * WINDOW, b"in the part that was not"))
    world.sync()
    world.check()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("tracked", [True, False])
def test_an_image_changed_behind_its_tracker_between_the_two_is_copied_from_the_start(
    tmp_path: Path, tracked: bool
) -> None:
    world = large(tmp_path)
    if tracked:
        write(world.image, (0, b"begin"))
    world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(3))
    foreign_write(world.image, 100, b"in the part that was copied")
    world.sync()
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_an_image_that_was_replaced_by_a_smaller_one_between_the_two(tmp_path: Path) -> None:
    world = large(tmp_path)
    world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(3))
    make_image(world.image, WINDOW + 77, 99)
    world.sync()
    world.check()


def test_without_a_checkpoint_in_time_the_copy_starts_again_and_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "WINDOW_PAGES", 0)
    world = large(tmp_path)
    write(world.image, (0, b"begin"))
    world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(2))
    write(world.image, (100, bytes(50_000)))
    world.sync()
    world.check()


class Calls(Progress):
    """Remembers the stages."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []

    def start(self, what: str, total: int) -> None:
        self.stages.append((what, total, 0))

    def advance(self, count: int) -> None:
        what, total, done = self.stages[-1]
        self.stages[-1] = (what, total, done + count)


@pytest.mark.usefixtures("small_windows")
def test_progress_ends_where_it_said_it_would_also_when_resumed(tmp_path: Path) -> None:
    world = large(tmp_path)
    world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(2))
    calls = Calls()
    world.sync(progress=calls)
    assert calls.stages[0][0] == "initial"
    assert all(total == done for _, total, done in calls.stages if total)


def seeded(tmp_path: Path, change: str) -> tuple[World, Path]:
    world = large(tmp_path)
    write(world.image, (0, b"begin"))
    seed = tmp_path / "copy.img"
    raw = bytearray(world.image.read_bytes())
    raw[5000] ^= 1
    raw[2 * WINDOW + 5000] ^= 1
    if change == "smaller":
        del raw[WINDOW + 4321 :]
    elif change == "larger":
        raw += b"more" * 100_000
    seed.write_bytes({"garbage": b"#" * 100_000, "empty": b""}.get(change, bytes(raw)))
    return world, seed


def test_from_a_seed_only_the_differences_are_sent(tmp_path: Path) -> None:
    world, seed = seeded(tmp_path, "like")
    result = world.protect(seed=seed)
    assert (result.action, result.bytes_dirty, result.bytes_sent) == ("initial", 2 * BLOCK, 2 * 4096)
    world.check()
    write(world.image, (9000, b"and on"))
    assert world.sync().action == "delta"
    world.check()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("change", ["like", "smaller", "larger", "garbage", "empty"])
def test_any_seed_gives_the_image(tmp_path: Path, change: str) -> None:
    world, seed = seeded(tmp_path, change)
    world.protect(seed=seed)
    world.check()
    assert (world.disk() / "disk.img").stat().st_blocks <= world.image.stat().st_blocks + 256


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("after", [1, 3, 4, 5, 7])
def test_interrupted_on_its_way_from_a_seed_it_ends_equal(tmp_path: Path, after: int) -> None:
    world, seed = seeded(tmp_path, "like")
    with pytest.raises(KeyboardInterrupt):
        world.protect(seed=seed, progress=Interrupting(after))
    result = world.sync()
    assert result.bytes_sent <= 2 * 4096, "the seed was not used when the replication was taken up again"
    world.check()


def test_a_seed_that_is_missing_says_so_and_another_attempt_goes_without(tmp_path: Path) -> None:
    image = make_image(tmp_path / "vm.img", MIB, 4)
    with pytest.raises(NotFoundError, match=r"no-such\.img"):
        br.protect(image, tmp_path / "store", name="vm", seed=tmp_path / "no-such.img")
    assert br.protect(image, tmp_path / "store", name="vm").points()[-1].id == "1.1"


def test_protect_interrupted_goes_on_when_it_is_called_again(tmp_path: Path) -> None:
    image = make_image(tmp_path / "vm.img", MIB, 4)
    with pytest.raises(KeyboardInterrupt):
        br.protect(image, tmp_path / "store", name="vm", progress=Interrupting(0))
    vm = br.protect(image, tmp_path / "store", name="vm")
    assert [point.id for point in vm.points()] == ["1.1"]
    assert (tmp_path / "store/vm/disk0/disk.img").read_bytes() == image.read_bytes()
