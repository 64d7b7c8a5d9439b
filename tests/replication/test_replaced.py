"""An image whose name comes to mean another file while a tracker has the old one open: no point is a mixture of both.

Invariant 11: what can't be proved to be a delta is compared, or the sync ends with an error; rule 6 says when.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.errors import BusyError
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
