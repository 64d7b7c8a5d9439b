"""Syncs of images that exports serve: the delta of a cut under load is the image at that cut (rules 4 and 5)."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

import blockreplica as br
from blockreplica import kernels
from blockreplica.errors import NotFoundError, RefusedError, UsageError
from blockreplica.files import FILES
from blockreplica.tracking import ImageSource
from blockreplica.tracking.state import read_state
from tracking.helpers import replay

from .conftest import MIB, SIZE
from .tools import need, qemu_io

Serve = Callable[..., br.Export]


@contextmanager
def _load(uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """fio writes until it is told to end, however long that takes; so slowly that between two syncs of a busy machine
    it does not write half of the disk, because then a resync is cheaper."""
    command = ["fio", "--ioengine=nbd", f"--uri={uri}", "--size=64M", "--name=load", "--rw=randwrite", "--bs=4k"]
    command += ["--iodepth=8", "--rate_iops=1000", "--time_based", "--runtime=600"]
    writer = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield writer
        writer.send_signal(signal.SIGINT)
        writer.wait(60)
    finally:
        writer.kill()
        writer.wait()


def test_a_point_is_the_image_at_the_cut_while_fio_goes_on_writing(image: Path, tmp_path: Path, serve: Serve) -> None:
    """The logs that the sync replays are kept by another target's cursor, and say what the image was at each cut."""
    need("fio")
    served = serve(image, log_limit=1 << 30)
    vm = br.protect(image, tmp_path / "store", name="vm")
    first = ImageSource.open(image).cut()
    assert first is not None
    ImageSource.open(image).begin_cursor(UUID(int=1), first.epoch)
    done = []
    with _load(served.uri) as writer:
        for _ in range(3):
            before = served.status().writes
            while served.status().writes < before + 100 and writer.poll() is None:
                threading.Event().wait(0.01)
            done.append(vm.sync())
        assert writer.poll() is None, "the cuts were not made under load"
    assert served.status().state == "tracking"
    served.close()
    done.append(vm.sync())
    assert [one.action for one in done] == ["delta"] * 4, [one.reason for one in done]
    content = bytearray(SIZE)
    epoch = first.epoch
    records = ImageSource.open(image).records(epoch, epoch + 4)
    for one, record in zip(done, records, strict=True):
        content = replay([record.log], content)
        vm.replica.recover(one.point, tmp_path / "out.img", force=True)
        assert (tmp_path / "out.img").read_bytes() == content
    assert content == image.read_bytes()


COUNTER = """
import ctypes, struct, sys
lib = ctypes.CDLL("libnbd.so.0")
lib.nbd_create.restype = ctypes.c_void_p
def connect(uri):
    nbd = ctypes.c_void_p(lib.nbd_create())
    assert lib.nbd_connect_uri(nbd, uri.encode()) == 0
    return nbd
disks = [connect(uri) for uri in sys.argv[1:]]
print("ready", flush=True)
import select
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    number += 1
    for nbd in disks:
        data = struct.pack("<Q", number)
        assert lib.nbd_pwrite(nbd, data, ctypes.c_size_t(8), ctypes.c_uint64(0), ctypes.c_uint32(0)) == 0
print(number, flush=True)
"""


def test_no_point_of_two_disks_shows_the_second_ahead_of_the_first(tmp_path: Path, serve: Serve) -> None:
    """Rule 4: a guest writes a counter to disk A, then to disk B; each disk has an export process of its own."""
    if subprocess.run([sys.executable, "-c", "import ctypes; ctypes.CDLL('libnbd.so.0')"]).returncode:
        pytest.skip("libnbd.so.0 is missing")
    images = [tmp_path / "a.img", tmp_path / "b.img"]
    for path in images:
        path.write_bytes(bytes(MIB))
    served = [serve(path, log_limit=1 << 30) for path in images]
    vm = br.protect(images, tmp_path / "store", name="vm")
    guest = subprocess.Popen([sys.executable, "-c", COUNTER, *(one.uri for one in served)], stdin=-1, stdout=-1)
    assert guest.stdout is not None
    try:
        assert guest.stdout.readline() == b"ready\n"
        points = [vm.sync() for _ in range(10)]
    finally:
        out, _ = guest.communicate(b"\n", timeout=60)
    points.append(vm.sync())
    assert {one.action for one in points} == {"delta"}
    seen = []
    for one in points:
        pair = [struct.unpack("<Q", vm.replica.read(one.point, 0, 8, disk=disk))[0] for disk in (0, 1)]
        assert pair[1] <= pair[0] <= pair[1] + 1
        seen.append(pair[0])
    print(seen)
    assert seen == sorted(seen)
    assert seen[-1] == int(out)
    assert len(set(seen)) > 3, "the counter stood still: nothing was proved"


def test_a_tracking_folder_has_all_that_a_tracker_writes(image: Path, tmp_path: Path, serve: Serve) -> None:
    folder = tmp_path / "tracking"
    folder.mkdir()
    served = serve(image, tracking_dir=folder)
    vm = br.protect(image, tmp_path / "store", name="vm", tracking_dir=folder)
    qemu_io(served.uri, "write -P 5 1M 1M")
    assert {path.name for path in folder.iterdir()} >= {"vm.img.hrl", "vm.img.nbd", "vm.img.control", "vm.img.tracking"}
    assert br.relationship("vm").sync().action == "delta"
    status = vm.status(rate_over_s=0.01).disks[0]
    assert (status.state, status.pid, status.tracking) == ("tracking", served.pid, "tracking")
    assert status.writes_per_second == 0
    assert status.cut_age_seconds is not None
    served.close()
    with br.track(image, tracking_dir=folder) as tracked:
        assert tracked.status().found == "closed"
        tracked.pwrite(b"x", 0)
    assert br.relationship("vm").sync().action == "delta"
    assert br.relationship("vm").status().disks[0].state == "not tracked"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("vm.img")] == ["vm.img"]
    vm.replica.recover(None, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
    br.unprotect("vm")


def test_two_images_of_one_name_do_not_share_a_tracking_folder(image: Path, tmp_path: Path, serve: Serve) -> None:
    """Or the logs of one would be applied to the replica of the other."""
    folder, other = tmp_path / "tracking", tmp_path / "other" / "vm.img"
    folder.mkdir()
    other.parent.mkdir()
    other.write_bytes(bytes(MIB))
    serve(image, tracking_dir=folder).close()
    for use in (
        lambda: serve(other, tracking_dir=folder),
        lambda: br.track(other, tracking_dir=folder),
        lambda: ImageSource.open(other, tracking_dir=folder),
    ):
        with pytest.raises(RefusedError, match=str(image)):
            use()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device over a file of 16 MiB."""
    need("losetup")
    if os.geteuid() != 0:
        pytest.skip("needs root for a loop device")
    backing = tmp_path / "backing"
    backing.touch()
    os.truncate(backing, 16 * MIB)
    made = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def test_a_block_device_is_served_cut_and_synced_and_its_growth_noticed(
    device: Path, tmp_path: Path, serve: Serve
) -> None:
    """Rule 7. After a reopen nothing proves that nobody wrote a device: the sync compares."""
    folder = tmp_path / "tracking"
    folder.mkdir()
    served = serve(device, tracking_dir=folder)
    vm = br.protect(device, tmp_path / "store", name="vm", tracking_dir=folder)
    qemu_io(served.uri, "write -P 5 1M 1M", "discard 1M 64k", "write -z 1200k 64k", "write -P 6 15M 1M")
    assert vm.sync().action == "delta"
    served.close()
    os.truncate(tmp_path / "backing", 20 * MIB)
    subprocess.run(["losetup", "--set-capacity", device], check=True)
    served = serve(device, tracking_dir=folder)
    assert served.status().size == 20 * MIB
    qemu_io(served.uri, "write -P 7 19M 1M")
    done = vm.sync()
    assert done.action in ("resync", "partial-resync")
    qemu_io(served.uri, "write -P 8 0 64k")
    assert vm.sync().action == "delta"
    served.close()
    vm.replica.recover(None, tmp_path / "out.img")
    with open(device, "rb") as file:
        assert (tmp_path / "out.img").read_bytes() == file.read()
    assert vm.points()[-1].disks[0].size == 20 * MIB


def epoch_of(folder: Path, device: Path) -> int:
    path = folder / f"{device.name}.tracking"
    with FILES.open(path) as file:
        state = read_state(file, path)
    assert state is not None
    return state.epoch


def test_rule_6_a_device_that_was_written_while_nothing_tracked_it_is_compared(
    device: Path, tmp_path: Path, serve: Serve
) -> None:
    """Nothing proves who a device is: whatever state its tracker left it in, a sync takes nothing for unchanged."""
    folder = tmp_path / "tracking"
    folder.mkdir()
    served = serve(device, tracking_dir=folder)
    vm = br.protect(device, tmp_path / "store", name="vm", tracking_dir=folder)
    qemu_io(served.uri, "write -P 5 1M 64k")
    assert vm.sync().action == "delta"
    served.close()
    for number in (1, 2):
        with open(device, "r+b") as file:
            file.seek(number << 20)
            file.write(b"foreign" * number)
        assert vm.sync().action == "scan"
        assert vm.replica.read(vm.points()[-1].id, number << 20, 7) == b"foreign"
    settled = ended = epoch_of(folder, device)
    for _ in range(2):  # what sets the log mode of an image that nobody has open
        kernels.Tracker(device.parent, device.name, tracking_folder=folder, settle_only=True, log="transit").close()
        ended, settled = settled, epoch_of(folder, device)
        assert settled > ended, "the epoch ended with nothing, durably"
    served = serve(device, tracking_dir=folder, log="always")
    assert vm.sync().action == "resync"
    qemu_io(served.uri, "write -P 6 2M 64k")
    assert vm.sync().action == "delta"
    assert vm.verify().damage == []


def test_rule_7_a_device_is_tracked_in_a_folder_that_was_named_alone(device: Path, serve: Serve) -> None:
    """/dev is in memory: a tracking file there would be gone at the next boot, and logs would fill it."""
    for use in (lambda: serve(device), lambda: br.track(device)):
        with pytest.raises(UsageError, match="tracking"):
            use()
    assert not list(device.parent.glob(f"{device.name}.*"))


def test_a_device_without_a_medium_is_no_empty_disk(device: Path, tmp_path: Path) -> None:
    vm = br.protect(device, tmp_path / "store", name="vm")
    subprocess.run(["losetup", "--detach", device], check=True)
    try:
        with pytest.raises(NotFoundError, match="no medium"):
            vm.sync()
    finally:
        subprocess.run(["losetup", device, tmp_path / "backing"], check=True)
    assert len(vm.points()) == 1


def test_an_export_that_ignores_ctime_leaves_an_image_that_libvirt_may_take_back(image: Path, serve: Serve) -> None:
    """Rule 6: the plugin keeps it in the tracking file, for exports and syncs to come."""
    for told, state in ((True, "closed"), (None, "closed"), (False, "changed")):
        served = serve(image, ignore_ctime=told)
        qemu_io(served.uri, "write -P 7 0 64k")
        served.close()
        os.chmod(image, image.stat().st_mode ^ 0o020)
        assert ImageSource.open(image).state == state
