"""An image whose name comes to mean another file while a tracker has the old one open: no point is a mixture of both.

Invariant 11: what can't be proved to be a delta is compared, or the sync ends with an error; rule 6 says when.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.errors import BusyError
from blockreplica.kernels import crc32c
from blockreplica.progress import Progress

from .world import MIB, World, write


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A relationship with a point."""
    made = World.make(tmp_path, sizes=(MIB,))
    write(made.image, (0, b"begin"))
    made.protect()
    return made


def replace(image: Path) -> bytes:
    """Another file takes the image's name."""
    other = image.with_name("other.img")
    other.write_bytes(b"another disk" * 80_000)
    other.rename(image)
    return image.read_bytes()


def test_a_sync_of_a_replaced_image_is_refused_until_its_tracker_is_closed(world: World) -> None:
    with track(world.image) as image:
        image.pwrite(b"into the old file", 5000)
        new = replace(world.image)
        for movement in (world.vm.sync, world.vm.resync):
            with pytest.raises(BusyError, match="replaced by another file"):
                movement()
    assert len(world.vm.points()) == 1
    assert world.vm.sync().action == "resync"
    assert world.recovered(None) == new


def test_an_image_that_is_replaced_while_it_is_compared_makes_no_point(world: World) -> None:
    class Replacing(Progress):
        def start(self, what: str, total: int) -> None:
            if what == "delta":
                replace(world.image)

    with track(world.image) as image:
        image.pwrite(b"old", 5000)
        with pytest.raises(BusyError, match="replaced by another file"):
            world.vm.resync(progress=Replacing())
    assert len(world.vm.points()) == 1
    assert world.vm.sync().action == "resync"
    assert world.recovered(None) == world.image.read_bytes()


@pytest.mark.parametrize("to", [3 * MIB, MIB // 2])
def test_rule_6_an_image_that_somebody_resizes_under_its_tracker_is_compared_once_that_is_closed(
    world: World, to: int
) -> None:
    """The tracker can't tell what else was done; taken for unchanged, its later points would keep the old size."""
    with track(world.image) as image:
        image.pwrite(b"before", 5000)
        os.truncate(world.image, to)
    assert world.vm.sync().action == "resync"
    assert world.recovered(None) == world.image.read_bytes()
    with track(world.image) as image:
        image.pwrite(b"after", to - 5000)
        assert world.vm.sync().action == "delta"
    assert world.recovered(None) == world.image.read_bytes()


def test_rule_6_one_that_an_earlier_version_recorded_as_closed_with_two_sizes_is_compared(world: World) -> None:
    with track(world.image):
        pass
    tracking = world.image.with_name(world.image.name + ".tracking")
    state = bytearray(tracking.read_bytes()[:512])
    state[40:48] = (MIB // 2).to_bytes(8, "little")  # the size of the image, and not that of its identity
    state[508:512] = crc32c(bytes(state[:508])).to_bytes(4, "little")
    with open(tracking, "r+b") as file:
        file.write(state)
    assert world.vm.sync().action == "resync"
    assert world.recovered(None) == world.image.read_bytes()
