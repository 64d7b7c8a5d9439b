"""A log that fails while the gap is being closed: no point from it, another round, and in the end an honest error.

Rule 10: until the acknowledgement everything that was dirty stays dirty, so each round begins where the last one ended.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.errors import NotConvergingError
from blockreplica.progress import Progress
from blockreplica.tracking import TrackedImage

from .world import BLOCK, MIB, World, foreign_write, write

LIMIT = 256 << 10


class Flooding(Progress):
    """Writes more than the log may hold at the beginning of the first so many stages."""

    def __init__(self, image: TrackedImage, rounds: int) -> None:
        self.image, self.rounds = image, rounds

    def start(self, what: str, total: int) -> None:
        if self.rounds == 0:
            return
        self.rounds -= 1
        for at in range(8):
            self.image.pwrite(bytes([self.rounds + 1]) * 65536, at * 65536 + self.rounds * 1000)
        assert self.image.status().log_failed


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An image, not yet replicated."""
    return World.make(tmp_path, sizes=(2 * MIB + 500,))


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("movement", ["initial", "resync"])
def test_a_log_that_fails_once_or_twice_still_gives_a_right_point(world: World, rounds: int, movement: str) -> None:
    with track(world.image, log_limit=LIMIT) as image:
        if movement == "resync":
            world.protect()
        else:
            world.begin()
        result = world.note(world.vm.resync(progress=Flooding(image, rounds)))
        assert (result.action, result.kind) == (movement, "crash-consistent")
        world.check()
        assert world.sync().action == "delta"


@pytest.mark.parametrize("movement", ["initial", "resync"])
def test_a_log_that_fails_in_every_round_gives_no_point_and_says_why(world: World, movement: str) -> None:
    with track(world.image, log_limit=LIMIT) as image:
        if movement == "resync":
            world.protect()
        else:
            world.begin()
        before = [point.id for point in world.vm.points()]
        with pytest.raises(NotConvergingError, match="3 rounds") as raised:
            world.vm.resync(progress=Flooding(image, 99))
        assert raised.value.recoverable
        assert [point.id for point in world.vm.points()] == before
        for point in before:
            assert world.recovered(point) == world.models[point][0]
        result = world.sync()
        assert result.action == movement
        world.check()


def test_what_is_dirty_is_compared_again_and_nothing_else(world: World) -> None:
    with track(world.image, log_limit=LIMIT) as image:
        world.protect()
        result = world.note(world.vm.resync(progress=Flooding(image, 1)))
        twice = world.resync()
    assert result.bytes_scanned - twice.bytes_scanned <= 9 * 65536


class Rewriting(Progress):
    """Changes a block while it is being compared, floods the log, and changes it back before the next round."""

    def __init__(self, image: TrackedImage, old: bytes) -> None:
        self.image, self.old, self.stage = image, old, 0

    def advance(self, count: int) -> None:
        if self.stage == 1:
            self.image.pwrite(self.old, 3 * BLOCK)
            for at in range(8):
                self.image.pwrite(b"f" * 65536, MIB + at * 65536)
            self.stage = 2

    def start(self, what: str, total: int) -> None:
        if self.stage == 0:
            self.image.pwrite(b"meanwhile" * 100, 3 * BLOCK)
            self.stage = 1


def test_a_block_changed_in_one_round_and_changed_back_before_the_next_ends_as_it_is(world: World) -> None:
    old = world.image.read_bytes()[3 * BLOCK : 3 * BLOCK + 900]
    with track(world.image, log_limit=LIMIT) as image:
        world.protect()
        world.note(world.vm.resync(progress=Rewriting(image, old)))
        world.check()


def test_a_tracker_that_dies_during_the_copy_leaves_a_right_point(world: World) -> None:
    image = track(world.image)
    world.begin()

    class Dying(Progress):
        def start(self, what: str, total: int) -> None:
            if what == "initial":
                image.pwrite(b"last words", 5000)
                image._tracker.drop()
                image.close()

    result = world.note(world.vm.sync(progress=Dying()))
    assert result.kind == "crash-consistent"
    world.check()
    assert world.sync().action == "delta"


def test_an_image_changed_behind_its_tracker_during_a_resync_makes_a_fuzzy_point_and_the_next_sync_looks_again(
    world: World,
) -> None:
    write(world.image, (0, b"begin"))
    world.protect()

    class Meddling(Progress):
        def advance(self, count: int) -> None:
            foreign_write(world.image, 7000, b"behind its back")

    result = world.vm.resync(progress=Meddling())
    assert result.kind == "fuzzy"
    assert "fuzzy" in result.warnings[0]
    result = world.sync()
    assert (result.action, result.kind) == ("resync", "crash-consistent")
    assert world.recovered(None) == world.image.read_bytes()
