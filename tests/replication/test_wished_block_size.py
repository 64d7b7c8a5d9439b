"""A resync that was to change the block size and was interrupted: the next sync goes on with it, or says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockreplica.errors import NoSpaceError
from blockreplica.stores import DirectoryStore, Replica

from .world import BLOCK, MIB, Interrupting, World, flip, write

WISHED = 4 * BLOCK


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two points of blocks of another size, the second pinned."""
    made = World.make(tmp_path, sizes=(3 * MIB + 500,))
    write(made.image, (0, b"begin"))
    made.protect()
    write(made.image, (100_000, b"more" * 5000))
    made.vm.pin(made.sync().point)
    return made


def interrupt(world: World, after: int, block_size: int = WISHED) -> bool:
    """Ctrl-C after so many steps of the change; whether it came before the end."""
    before = len(world.vm.points())
    try:
        world.resync(block_size=block_size, progress=Interrupting(after))
    except KeyboardInterrupt:
        for point in world.vm.points()[before:]:
            world.models[point.id] = (world.image.read_bytes(),)
        return True
    return False


def wish(world: World) -> int:
    """What the replica remembers."""
    return DirectoryStore(world.store).replica(world.name).marks().block_size


@pytest.mark.parametrize("movement", ["sync", "resync"])
@pytest.mark.parametrize("after", range(4))
def test_the_next_sync_goes_on_to_the_block_size_of_an_interrupted_resync(
    world: World, after: int, movement: str
) -> None:
    if interrupt(world, after):
        assert wish(world) == WISHED
        assert world.vm.status().block_size == BLOCK
    write(world.image, (5000, b"meanwhile"))
    result = world.sync() if movement == "sync" else world.resync()
    assert result.warnings == []
    assert (world.vm.status().block_size, wish(world)) == (WISHED, 0)
    world.check()
    assert world.sync().action == "delta"
    assert world.vm.status().block_size == WISHED


def test_a_verify_and_a_pin_in_between_forget_nothing(world: World) -> None:
    assert interrupt(world, 0)
    flip(world.disk() / "disk.img", 1_000_000)
    assert world.vm.verify().damage
    world.vm.pin("1.1")
    assert wish(world) == WISHED
    assert DirectoryStore(world.store).replica(world.name).marks().pinned == [1, 2]


def test_the_last_wish_counts_and_the_size_that_is_there_takes_it_back(world: World) -> None:
    assert interrupt(world, 0)
    assert interrupt(world, 0, 2 * BLOCK)
    assert wish(world) == 2 * BLOCK
    world.resync(block_size=BLOCK)
    assert (world.vm.status().block_size, wish(world)) == (BLOCK, 0)


def test_damage_takes_a_remembered_wish_back_and_the_sync_says_how_to_repeat_it(world: World) -> None:
    assert interrupt(world, 0)
    flip(world.disk() / "disk.img", 2_000_000)
    [warning] = world.sync().warnings
    assert "resync --deep --block-size" in warning
    assert (world.vm.status().block_size, wish(world)) == (BLOCK, 0)
    assert world.sync().warnings == []
    world.resync(deep=True, block_size=WISHED)
    assert world.vm.status().block_size == WISHED
    assert world.recovered(None) == world.image.read_bytes()


def test_a_full_disk_leaves_the_wish_and_the_point(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interrupt(world, 0)

    def full(*_: object, **__: object) -> None:
        raise NoSpaceError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "change_block_size", full)
        [warning] = world.sync().warnings
    assert "the next sync tries again" in warning
    assert wish(world) == WISHED
    world.sync()
    assert world.vm.status().block_size == WISHED
    world.check()
