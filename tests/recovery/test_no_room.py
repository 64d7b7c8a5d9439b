"""A recovery that finds no room: the disk is not kept full, and what is said is what the next call does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from blockreplica.errors import NoSpaceError
from blockreplica.recovery.recover import recover
from replication.world import MIB, World, write
from tracking.helpers import HookedFiles, failing


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One point."""
    made = World.make(tmp_path, sizes=(MIB + 700,))
    write(made.image, (0, b"begin"))
    made.protect()
    return made


@pytest.mark.parametrize("call", ["truncate", "sync"])
def test_without_room_nothing_is_left_and_that_it_begins_anew_is_said(world: World, call: str) -> None:
    to, replica = world.folder / "out.img", world.vm.replica.base
    files = HookedFiles(failing(errno.ENOSPC, call, "out.img.blockreplica-partial"))
    with pytest.raises(NoSpaceError, match="what was written is removed, so it begins anew") as raised:
        recover(replica, None, to, files=files)
    assert "goes on where it was" not in str(raised.value)
    assert not [name for name in os.listdir(world.folder) if name.startswith("out.img")]
    assert recover(replica, None, to) == "1.1"
    assert to.read_bytes() == world.models["1.1"][0]


def test_without_room_in_place_it_goes_on_and_says_so(world: World) -> None:
    """What was written there stays: the next call writes only what still differs."""
    to, replica = world.folder / "out.img", world.vm.replica.base
    to.touch()
    with pytest.raises(NoSpaceError, match="it goes on where it was"):
        recover(replica, None, to, in_place=True, files=HookedFiles(failing(errno.ENOSPC, "sync", "out.img")))
    assert recover(replica, None, to, in_place=True) == "1.1"
    assert to.read_bytes() == world.models["1.1"][0]
