"""Recovering a point to a file: whole and checked, or not there at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from blockreplica import protect, track
from blockreplica.checksums import PAGE_SIZE
from blockreplica.cli.recover import recover as command
from blockreplica.cli.recover import size_of
from blockreplica.errors import BusyError, DamageError, NotFoundError, RefusedError, UsageError
from blockreplica.extents import Extent
from blockreplica.files import File
from blockreplica.progress import Progress
from blockreplica.recovery import recover as module
from blockreplica.recovery.recover import copy_window, recover
from blockreplica.recovery.serve import PLUGIN
from blockreplica.replication import bulk
from blockreplica.stores import DirectoryStore
from replication.world import BLOCK, Interrupting, World, flip, foreign_write, write

SIZE = 3 * 255 * BLOCK + 1234


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Three points, in windows of one table page."""
    monkeypatch.setattr(bulk, "WINDOW_PAGES", 0)
    monkeypatch.setattr(module, "WINDOW_BLOCKS", 255)
    made = World.make(tmp_path, sizes=(SIZE,))
    write(made.image, (0, b"begin"))
    made.protect()
    for round_ in (1, 2):
        with track(made.image) as image:
            image.pwrite(bytes([round_]) * 200_000, round_ * 300_000)
            image.zero(255 * BLOCK - 5000, 70_000)
            image.pwrite(b"end", SIZE - 3)
        made.sync()
    return made


def left(world: World) -> list[str]:
    """What stands in the folder besides image and store."""
    return sorted(name for name in os.listdir(world.folder) if not name.startswith(("vm0.img", "store")))


def test_every_point_is_recovered_whole_and_sparse(world: World) -> None:
    for point in world.vm.points():
        assert world.vm.replica.recover(point, world.folder / "out.img", force=True) == point.id
        assert (world.folder / "out.img").read_bytes() == world.models[point.id][0]
        assert (world.folder / "out.img").stat().st_blocks * 512 < SIZE * 9 // 10
    assert left(world) == ["out.img"]


def test_without_a_point_the_newest(world: World) -> None:
    assert world.vm.replica.recover(None, world.folder / "out.img") == "1.3"


def test_it_reads_the_replica_and_leaves_it_as_it_was(world: World) -> None:
    before = {path: path.read_bytes() for path in sorted(world.store.rglob("*")) if path.is_file()}
    world.recovered("1.1")
    assert before == {path: path.read_bytes() for path in sorted(world.store.rglob("*")) if path.is_file()}


def test_a_file_that_is_there_is_replaced_only_by_force(world: World) -> None:
    target = world.folder / "out.img"
    target.write_bytes(b"precious")
    with pytest.raises(RefusedError, match="there already"):
        world.vm.replica.recover("1.1", target)
    assert target.read_bytes() == b"precious"
    world.vm.replica.recover("1.1", target, force=True)
    assert target.read_bytes() == world.models["1.1"][0]


@pytest.mark.parametrize("target", ["store-vm/vm/out.img", "store-vm/vm/disk0/disk.img", "no-such-folder/out.img", ""])
def test_a_place_that_can_not_be_meant_is_refused(world: World, target: str) -> None:
    with pytest.raises(RefusedError):
        world.vm.replica.recover("1.1", world.folder / target, force=True)
    assert world.vm.verify().damage == []


def test_no_place_in_any_store_is_recovered_into(world: World) -> None:
    """Another relationship's disk.img looks like any image: it is that one's points."""
    other = protection_of(world)
    for target, in_place in (("disk0/disk.img", True), ("disk0/disk.img", False), ("../new.img", False)):
        with pytest.raises(RefusedError, match="inside the replica store"):
            world.vm.replica.recover("1.1", other / target, force=True, in_place=in_place)
    with pytest.raises(RefusedError, match="inside the replica store"):
        world.vm.replica.serve("1.1", pivot=other.parent / "new.img")
    assert sorted(os.listdir(other.parent)) == ["blockreplica-store", "blockreplica-store.copy", "other"]
    assert (other / "disk0/disk.img").read_bytes() == b"other" * 20_000


def protection_of(world: World) -> Path:
    """The replica of somebody else, in a store of its own."""
    (world.folder / "other").mkdir()
    image = world.folder / "other/image.img"
    image.write_bytes(b"other" * 20_000)
    return protect(image, world.folder / "other/store", name="other").replica.base.layout.folder


def test_a_block_device_is_recovered_over_in_place(world: World, tmp_path: Path) -> None:
    """A device knows of no holes, and can't be cut to the point's size."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        pytest.skip("needs root and losetup for a loop device")
    size = -(-SIZE // 4096) * 4096 + 8192
    (tmp_path / "backing").write_bytes(b"x" * size)
    made = subprocess.run(["losetup", "--find", "--show", tmp_path / "backing"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    try:
        for point in ("1.1", "1.3", "1.2"):
            world.vm.replica.recover(point, device, in_place=True)
            assert device.read_bytes() == world.models[point][0] + b"x" * (size - SIZE)
        assert size_of(device) == size
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_point_or_disk_that_is_not_there_is_not_found(world: World) -> None:
    for point in ("1.4", "2.1", "1.0", "", "x", "../1.1"):
        with pytest.raises(NotFoundError):
            world.vm.replica.recover(point, world.folder / "out.img")
    with pytest.raises(NotFoundError):
        world.vm.replica.recover("1.1", world.folder / "out.img", disk=1)
    with pytest.raises(NotFoundError):
        world.vm.replica.recover("1.1", world.folder / "out.img", disk=-1)
    assert left(world) == []


def test_a_flipped_bit_in_the_newest_content_is_never_served(world: World) -> None:
    flip(world.disk() / "disk.img", 310_000)
    with pytest.raises(DamageError, match="does not match"):
        world.vm.replica.recover("1.3", world.folder / "out.img")
    assert left(world) == [], "nothing may be left of it"
    (world.folder / "in-place.img").touch()
    with pytest.raises(DamageError, match="a mixture now"):
        world.vm.replica.recover("1.3", world.folder / "in-place.img", in_place=True)
    assert world.recovered("1.1") == world.models["1.1"][0], "its before-image is whole"


def test_a_flipped_bit_in_a_before_image_is_never_served(world: World) -> None:
    log = world.disk() / "undo/000002.hrl"
    flip(log, 4096 + 50_000)
    with pytest.raises(DamageError):
        world.recovered("1.1")
    for point in ("1.2", "1.3"):
        assert world.recovered(point) == world.models[point][0]


def test_a_missing_undo_log_is_named(world: World) -> None:
    (world.disk() / "undo/000003.hrl").unlink()
    with pytest.raises(DamageError, match=r"000003\.hrl"):
        world.recovered("1.2")
    assert world.recovered("1.3") == world.models["1.3"][0]


@pytest.mark.parametrize("at", [0, 8 * 16 + 3, 254 * 16 + 15, PAGE_SIZE - 16, PAGE_SIZE - 1])
def test_a_flipped_bit_in_the_checksum_table_costs_no_point(world: World, at: int) -> None:
    flip(world.disk() / "checksums", PAGE_SIZE + at)
    for point in world.vm.points():
        assert world.recovered(point.id) == world.models[point.id][0]


def test_a_page_of_rubbish_in_the_checksum_table_is_no_proof_of_anything(world: World) -> None:
    with (world.disk() / "checksums").open("r+b") as file:
        file.seek(PAGE_SIZE)
        file.write(b"rubbish!" * 512)
    with pytest.raises(DamageError, match=r"lost.*--unchecked"):
        world.vm.replica.recover("1.3", world.folder / "out.img")
    assert "--unchecked" in {name for option in command.params for name in option.opts}, "what the error advises"
    with pytest.raises(UsageError, match="always checked"):
        world.vm.replica.recover("1.3", world.folder / "out.img", part=Extent(0, 1), unchecked=True)
    world.vm.replica.recover("1.3", world.folder / "out.img", unchecked=True)
    assert (world.folder / "out.img").read_bytes() == world.models["1.3"][0]


def test_a_bad_page_does_not_hide_damaged_content(world: World) -> None:
    flip(world.disk() / "checksums", PAGE_SIZE + 5)
    flip(world.disk() / "disk.img", 255 * BLOCK + 300_000)
    with pytest.raises(DamageError):
        world.recovered("1.3")


def test_interrupted_it_goes_on_where_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        world.vm.replica.recover("1.1", world.folder / "out.img", progress=Interrupting(1))
    assert left(world) == ["out.img.blockreplica-partial"]
    written = watch_writes(monkeypatch)
    copied = []
    monkeypatch.setattr(module, "copy_window", lambda *a: copied.append(a[2].offset) or copy_window(*a))  # type: ignore[func-returns-value]
    world.vm.replica.recover("1.1", world.folder / "out.img")
    assert (world.folder / "out.img").read_bytes() == world.models["1.1"][0]
    assert copied == [2 * 255 * BLOCK, 3 * 255 * BLOCK], "the first two windows were there"
    assert not [at for at in written if at < 2 * 255 * BLOCK]
    assert left(world) == ["out.img"]


def watch_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets of what is written from now on through File.pwrite."""
    offsets: list[int] = []
    pwrite = File.pwrite

    def watched(self: File, data: bytes, offset: int) -> None:
        offsets.append(offset)
        pwrite(self, data, offset)

    monkeypatch.setattr(File, "pwrite", watched)
    return offsets


def test_what_an_interrupted_recover_left_is_proved_not_believed(world: World) -> None:
    partial = world.folder / "out.img.blockreplica-partial"
    partial.write_bytes(bytearray(world.models["1.1"][0]))
    flip(partial, 310_000)
    os.truncate(partial, SIZE - 100)
    world.vm.replica.recover("1.1", world.folder / "out.img")
    assert (world.folder / "out.img").read_bytes() == world.models["1.1"][0]


def test_in_place_only_what_differs_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    target = world.folder / "out.img"
    target.write_bytes(world.models["1.3"][0])
    flip(target, 5 * BLOCK + 7)
    written = watch_writes(monkeypatch)
    inode = target.stat().st_ino
    world.vm.replica.recover("1.3", target, in_place=True)
    assert target.read_bytes() == world.models["1.3"][0]
    assert {at // BLOCK for at in written} <= {5}
    world.vm.replica.recover("1.1", target, in_place=True)
    assert target.read_bytes() == world.models["1.1"][0]
    assert target.stat().st_ino == inode
    os.truncate(target, SIZE + 50_000)
    world.vm.replica.recover("1.2", target, in_place=True)
    assert target.read_bytes() == world.models["1.2"][0]
    with pytest.raises(NotFoundError):
        world.vm.replica.recover("1.2", world.folder / "no.img", in_place=True)


def test_an_image_that_a_tracker_has_open_is_not_recovered_over(world: World) -> None:
    with track(world.image) as image:
        image.pwrite(b"newer", 0)
        before = world.image.read_bytes()
        for way in ({"force": True}, {"in_place": True}, {"force": True, "image_format": "qcow2"}):
            with pytest.raises(BusyError, match="has it open"):
                world.vm.replica.recover(None, world.image, **way)
        assert world.image.read_bytes() == before
    world.vm.replica.recover("1.1", world.image, force=True)
    assert world.image.read_bytes() == world.models["1.1"][0]


def test_what_is_no_regular_file_is_not_replaced_by_one(world: World) -> None:
    pipe = world.folder / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RefusedError, match="no regular file"):
        world.vm.replica.recover(None, pipe, force=True)
    assert pipe.is_fifo()


def test_a_part_of_a_point_is_a_file_of_that_part(world: World) -> None:
    whole, target = world.models["1.2"][0], world.folder / "part.img"
    for offset, length in ((0, SIZE), (299_999, 12_345), (SIZE - 3, 3), (10, 0)):
        world.vm.replica.recover("1.2", target, part=Extent(offset, length), force=True)
        assert target.read_bytes() == whole[offset : offset + length]
    with pytest.raises(UsageError):
        world.vm.replica.recover("1.2", target, part=Extent(SIZE, 1), force=True)
    assert left(world) == ["part.img"]


@pytest.mark.skipif(not PLUGIN.exists() or shutil.which("qemu-img") is None, reason="nbdkit or qemu-img is missing")
@pytest.mark.parametrize("image_format", ["qcow2", "vhdx", "vpc", "vmdk", "vdi"])
def test_a_point_in_another_format_holds_the_same(world: World, image_format: str) -> None:
    target = world.folder / f"out.{image_format}"
    world.vm.replica.recover("1.2", target, image_format=image_format)
    command = ["qemu-img", "convert", "-f", image_format, "-O", "raw", str(target), str(world.folder / "back.img")]
    subprocess.run(command, check=True)
    back, model = (world.folder / "back.img").read_bytes(), world.models["1.2"][0]
    assert back[:SIZE] == model  # the formats have sizes in sectors, and more
    assert not any(back[SIZE:])
    with pytest.raises(RefusedError, match="there already"):
        world.vm.replica.recover("1.2", target, image_format=image_format)


@pytest.mark.skipif(not PLUGIN.exists() or shutil.which("qemu-img") is None, reason="nbdkit or qemu-img is missing")
def test_a_damaged_point_is_in_no_format(world: World) -> None:
    flip(world.disk() / "disk.img", 310_000)
    with pytest.raises(DamageError):
        world.vm.replica.recover("1.3", world.folder / "out.qcow2", image_format="qcow2")
    with pytest.raises(UsageError):
        world.vm.replica.recover("1.1", world.folder / "out.xyz", image_format="xyz")
    assert left(world) == []


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None, reason="needs root and btrfs-progs")
def test_where_blocks_can_be_shared_they_are(world: World) -> None:
    """The store and the target on one btrfs: what the point has as the newest one takes no room."""
    device, mount = world.folder / "btrfs", world.folder / "mnt"
    mount.mkdir()
    device.touch()
    os.truncate(device, 512 << 20)
    subprocess.run(["mkfs.btrfs", "-q", str(device)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(device), str(mount)], check=False).returncode != 0:
        pytest.skip("can't mount a loop device here")
    try:
        shutil.copytree(world.store, mount / "store")
        replica = DirectoryStore(mount / "store").replica("vm")
        for point in ("1.1", "1.2", "1.3"):
            recover(replica, point, mount / f"{point}.img")
            assert (mount / f"{point}.img").read_bytes() == world.models[point][0]
        os.sync()
        command = ["btrfs", "filesystem", "du", "--raw", "-s", str(mount / "1.3.img")]
        used = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
        assert int(used[1]) == 0, f"exclusive bytes of a clone: {used}"
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_what_a_killed_recover_left_is_no_hindrance(world: World) -> None:
    (world.folder / "out.img.blockreplica-partial").write_bytes(b"half" * 5_000_000)
    world.vm.replica.recover("1.1", world.folder / "out.img")
    assert (world.folder / "out.img").read_bytes() == world.models["1.1"][0]
    assert left(world) == ["out.img"]


def test_while_a_delta_overwrites_what_is_being_read_each_point_is_itself(world: World) -> None:
    class Syncing(Progress):
        def __init__(self) -> None:
            self.round = 0

        def advance(self, count: int) -> None:
            self.round += 1
            foreign_write(world.image, (self.round % 3) * 255 * BLOCK + 90_000, os.urandom(70_000))
            world.note(world.vm.sync())

    for point in ("1.1", "1.2", "1.3"):
        world.vm.replica.recover(point, world.folder / "out.img", force=True, progress=Syncing())
        assert (world.folder / "out.img").read_bytes() == world.models[point][0]
    assert len(world.models) > 6
    world.check()


def test_read_gives_any_part_of_a_point_and_nothing_beyond_it(world: World) -> None:
    whole = world.models["1.2"][0]
    for offset, length in ((0, 10), (299_990, 20), (SIZE - 3, 3), (SIZE, 0), (0, SIZE)):
        assert world.vm.replica.read("1.2", offset, length) == whole[offset : offset + length]
    for offset, length in ((-1, 2), (0, SIZE + 1), (SIZE, 1), (1, -1)):
        with pytest.raises(UsageError):
            world.vm.replica.read("1.2", offset, length)


def test_ctrl_c_stays_ctrl_c_when_the_server_dies_of_it(world: World) -> None:
    """Nbdkit may end badly when its client is killed; whoever interrupted a recovery into a format is told 130."""
    if not PLUGIN.exists():
        pytest.skip("the nbdkit plugin is not built")

    def interrupted() -> None:
        with world.vm.replica.serve() as served:
            os.kill(served.pid, signal.SIGKILL)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_nobody_begins_to_write_a_file_that_is_being_replaced(world: World, tmp_path: Path) -> None:
    """He would go on with a file that has no name any more."""
    target, refused = tmp_path / "old.img", list[str]()
    target.write_bytes(b"old" * 4000)

    class Opening(Progress):
        def advance(self, count: int) -> None:
            try:
                track(target).close()
            except BusyError as error:
                refused.append(str(error))

    world.vm.replica.recover(None, target, force=True, progress=Opening())
    assert refused
    assert target.read_bytes() == world.image.read_bytes()
