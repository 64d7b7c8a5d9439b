"""A served point becomes a plain image while it is used, and needs the replica no more; whatever interrupts it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from blockreplica import ServedPoint
from blockreplica.errors import BusyError, DamageError, RefusedError, UsageError
from blockreplica.recovery.pivot import Pivot, read_pivot
from blockreplica.recovery.serve import PLUGIN, serve_complete
from replication.world import BLOCK, World, flip, write

pytestmark = [
    pytest.mark.skipif(not PLUGIN.exists(), reason="the plugin was not built: nbdkit-plugin-dev is missing"),
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed"),
    pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils is not installed"),
]
SIZE = 200 * BLOCK + 1024
SLOW = 200_000  # bytes a second: some seconds for all
SEED = int(os.environ.get("BLOCKREPLICA_SEED", "0")) or random.randrange(2**32)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three points."""
    made = World.make(tmp_path, sizes=(SIZE,))
    made.protect()
    for round_ in (1, 2):
        write(made.image, (round_ * 50_000, bytes([round_]) * 90_000), (SIZE - 3, b"end"))
        made.sync()
    return made


def io(uri: str, *commands: str) -> subprocess.CompletedProcess[str]:
    """qemu-io on a served disk, over one connection, which writes through to the server."""
    said = [word for command in commands for word in ("-c", command)]
    command = ["qemu-io", "-t", "none", "-f", "raw", *said, uri]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def read(uri: str, folder: Path) -> bytes:
    """All of it."""
    target = folder / "read.img"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(target)], check=True)
    return target.read_bytes()


def until(served: ServedPoint, *states: str) -> Pivot:
    """Wait until the pivot is in one of these states."""
    for _ in range(3000):
        now = served.pivot()
        assert now is not None
        if now.state in states:
            return now
        assert not served.wait(0.02), served.told()
    raise AssertionError(f"still {now}: {served.told()}")


def changes(rng: random.Random, model: bytearray, count: int) -> list[str]:
    """Writes and zeros of any place and size for qemu-io, done to the model, too."""
    said = []
    for _ in range(count):
        offset, kind = rng.randrange(SIZE), rng.random()
        length, byte = min(rng.randrange(1, 20_000), SIZE - offset), rng.randrange(1, 256)
        if kind < 0.7:
            said.append(f"write -P {byte} {offset} {length}")
            model[offset : offset + length] = bytes([byte]) * length
        else:
            said.append(f"write -z {'-u ' if kind < 0.85 else ''}{offset} {length}")
            model[offset : offset + length] = bytes(length)
    return said


def use(served: ServedPoint, rng: random.Random, model: bytearray, count: int = 20) -> None:
    """Change the served disk."""
    done = io(served.uri, *changes(rng, model, count))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "failed" not in done.stdout + done.stderr


def kill(served: ServedPoint) -> None:
    """kill -9."""
    os.kill(served.pid, signal.SIGKILL)
    with pytest.raises(Exception, match="ended with code -9"):
        served.wait()
    Path(served.uri.partition("socket=")[2]).unlink()


def test_a_point_that_is_changed_becomes_an_image_and_the_store_may_go(world: World) -> None:
    """Nothing of the server is left in the store, which is removed; what is served goes on, and so does the image."""
    rng, target, model = random.Random(SEED), world.folder / "new.img", bytearray(world.models["1.2"][0])
    with world.vm.replica.serve("1.2", pivot=target, rate=SLOW) as served:
        assert read(served.uri, world.folder) == model
        use(served, rng, model)
        assert read(served.uri, world.folder) == model
        until(served, "complete")
        held = [os.readlink(f"/proc/{served.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{served.pid}/fd")]
        assert not [path for path in held if path.startswith(str(world.store))]
        relationship = world.vm.replica.base.record.relationship
        shutil.rmtree(world.store)
        use(served, rng, model)
        assert read(served.uri, world.folder) == model
    assert target.read_bytes() == model
    with serve_complete(target, relationship) as again:
        assert read(again.uri, world.folder) == model
        assert again.point_id == "1.2"


def test_invariant_10_the_point_is_spared_until_the_pivot_is_complete(world: World) -> None:
    with world.vm.replica.serve("1.1", pivot=world.folder / "new.img", rate=SLOW) as served:
        world.keep_only(1)
        world.sync()
        assert "1.1" in [point.id for point in world.vm.points()]
        until(served, "complete")
        world.sync()
        assert "1.1" not in [point.id for point in world.vm.points()]


@pytest.mark.parametrize("round_", range(3))
def test_killed_at_any_moment_no_answered_write_is_lost_and_it_goes_on(world: World, round_: int) -> None:
    """Invariant 3, and more: the page cache keeps what was answered."""
    print("seed", SEED + round_)
    rng, target = random.Random(SEED + round_), world.folder / "new.img"
    model, owned = bytearray(world.models["1.2"][0]), 0
    for _ in range(3):
        served = world.vm.replica.serve("1.2", pivot=target, rate=SLOW)
        now = served.pivot()
        assert now is not None
        assert now.owned >= owned, "it copies again what is there"
        use(served, rng, model)
        time.sleep(rng.random() * 0.5)
        owned = 0 if (now := served.pivot()) is None else now.owned
        kill(served)
    with world.vm.replica.serve(pivot=target) as served:  # it knows its point
        until(served, "complete")
        assert read(served.uri, world.folder) == model
    assert target.read_bytes() == model


def test_told_to_end_it_goes_on_where_it_was(world: World) -> None:
    rng, target, model = random.Random(SEED), world.folder / "new.img", bytearray(world.models["1.3"][0])
    with world.vm.replica.serve("1.3", pivot=target, rate=SLOW) as served:
        use(served, rng, model)
    before = read_pivot(target)
    assert not before.complete
    with world.vm.replica.serve("1.3", pivot=target) as served:
        now = until(served, "complete")
        assert now.copied <= SIZE - before.owned
    assert target.read_bytes() == model


def test_a_damaged_block_never_gets_into_the_image_and_heals_when_it_is_written(world: World) -> None:
    """Invariant 11."""
    target, model = world.folder / "new.img", bytearray(world.models["1.3"][0])
    flip(world.disk() / "disk.img", 160_000)
    block = 160_000 // BLOCK * BLOCK
    with world.vm.replica.serve("1.3", pivot=target) as served:
        assert until(served, "damaged").damaged == BLOCK
        assert io(served.uri, f"read {block} 512").returncode != 0
    assert not any(target.read_bytes()[block : block + BLOCK])
    model[block : block + BLOCK] = b"\x77" * BLOCK
    with world.vm.replica.serve("1.3", pivot=target, rate=1) as served:
        assert io(served.uri, f"write -P 0x77 {block} {BLOCK}").returncode == 0
    with world.vm.replica.serve("1.3", pivot=target) as served:
        until(served, "complete")
    assert target.read_bytes() == model


def test_without_room_it_waits_and_goes_on(world: World, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small]).returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        with world.vm.replica.serve("1.3", pivot=small / "new.img") as served:
            assert "space" in until(served, "waiting").error
            failed = io(served.uri, f"write -P 1 {SIZE - 200_000} 200000")
            assert "No space left" in failed.stdout + failed.stderr
            subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
            until(served, "complete")
            assert read(served.uri, world.folder)[: SIZE - 204_800] == world.models["1.3"][0][: SIZE - 204_800]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_several_at_once(world: World) -> None:
    targets = [world.folder / f"new{number}.img" for number in range(2)]
    with (
        world.vm.replica.serve("1.1", pivot=targets[0]) as one,
        world.vm.replica.serve("1.2", pivot=targets[1]) as two,
    ):
        until(one, "complete")
        until(two, "complete")
    assert [target.read_bytes() for target in targets] == [world.models["1.1"][0], world.models["1.2"][0]]


def test_what_is_not_ours_is_refused(world: World) -> None:
    other, target = world.folder / "other.img", world.folder / "new.img"
    other.write_bytes(b"mine")
    with pytest.raises(RefusedError):
        world.vm.replica.serve(pivot=other)
    assert other.read_bytes() == b"mine"
    with pytest.raises(UsageError):
        world.vm.replica.serve(pivot=target, writable=True)
    with pytest.raises(RefusedError):
        world.vm.replica.serve(pivot=world.disk() / "new.img")
    with world.vm.replica.serve("1.2", pivot=target, rate=SLOW):
        with pytest.raises(BusyError):
            world.vm.replica.serve("1.2", pivot=target)
        with pytest.raises(RefusedError):
            world.vm.replica.serve("1.1", pivot=target)
    target.unlink()
    with pytest.raises(RefusedError):
        world.vm.replica.serve("1.2", pivot=target)


def test_damage_that_keeps_a_point_from_being_served_is_named(world: World) -> None:
    """Invariant 11: a missing undo index is damage, of this disk."""
    next(iter(sorted((world.disk() / "undo").glob("*.index")))).unlink()
    with pytest.raises(DamageError, match=r"disk 0: .*undo/"):
        world.vm.replica.serve("1.1")
