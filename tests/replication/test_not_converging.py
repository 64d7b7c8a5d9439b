"""A log that fails while the gap is being closed: no point from it, another round, and in the end an honest error.

Rule 10: until the acknowledgement everything that was dirty stays dirty, so each round begins where the last one ended.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.errors import NotConvergingError, StorageError
from blockreplica.progress import Progress
from blockreplica.tracking import TrackedImage
from tracking.helpers import HookedFiles, failing

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
        assert re.search(r"vm0\.img: the log of epoch \d+ was given up: it grew to its limit", str(raised.value))
        assert [point.id for point in world.vm.points()] == before
        for point in before:
            assert world.recovered(point) == world.models[point][0]
        result = world.sync()
        assert result.action == movement
        world.check()


def test_of_several_disks_only_those_are_named_whose_logs_failed(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(MIB, MIB + 500, MIB))
    images = [track(path, log_limit=LIMIT) for path in world.images]
    try:
        world.protect()
        with pytest.raises(NotConvergingError, match=r"3 rounds: vm1\.img: [^:]*: it grew") as raised:
            world.vm.resync(progress=Flooding(images[1], 99))
        assert "vm0.img" not in str(raised.value)
        assert "vm2.img" not in str(raised.value)
    finally:
        for image in images:
            image.close()


def test_an_image_whose_fsync_failed_is_named_with_that(world: World) -> None:
    files = HookedFiles()
    image = TrackedImage(world.image, files=files)
    try:
        world.protect()
        files.hook = failing(errno.EIO, "sync", world.image.name)
        image.pwrite(b"never durable", 5000)
        with pytest.raises(StorageError):
            image.flush()
        files.hook = lambda *_: None
        with pytest.raises(NotConvergingError, match=r"vm0\.img: .*: an fsync of the image failed"):
            world.vm.resync()
    finally:
        with suppress(StorageError):  # it can't be closed as if nothing had happened
            image.close()
    assert len(world.vm.points()) == 1


def test_a_log_that_could_not_be_written_is_named_with_what_the_system_said(world: World) -> None:
    class Breaking(Progress):
        def start(self, what: str, total: int) -> None:
            image.pwrite(b"not in the log", 5000)

    files = HookedFiles()
    with TrackedImage(world.image, files=files) as image:
        world.protect()
        files.hook = lambda what, name, *_: fail_logs(what, name)
        with pytest.raises(NotConvergingError, match=rf"vm0\.img: .*could not be written: {os.strerror(errno.EIO)}"):
            world.vm.resync(progress=Breaking())
        files.hook = lambda *_: None
    assert len(world.vm.points()) == 1


def fail_logs(what: str, name: str) -> None:
    """Every log that is begun, or written."""
    if what in ("create", "pwrite") and ".hrl" in name:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


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
