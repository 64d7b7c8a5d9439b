"""Exports of images in formats that QEMU reads: rules 6 and 7 for a container, whose content a daemon shows."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

import blockreplica as br
from blockreplica.errors import BusyError, RefusedError, StorageError
from blockreplica.files import FILES
from blockreplica.primaries.files import ImageFiles
from blockreplica.tracking import ImageSource, export
from images.test_formats import change, compare, daemons, made, mounts

from .conftest import MIB
from .test_faults import injected
from .tools import qemu_io, run

Serve = Callable[..., br.Export]
TOOLS = ("qemu-storage-daemon", "qemu-img", "qemu-io")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None] + (["/dev/fuse"] * (not os.path.exists("/dev/fuse")))
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (qemu-system-common, qemu-utils)")

KIB = 1 << 10
NAMES = {"vm.qcow2": "qcow2", "vm.vhdx": "vhdx", "vm.vhd": "vpc", "vm.vmdk": "vmdk", "vm.vdi": "vdi"}
BOTH = pytest.mark.parametrize("name", ["vm.qcow2", "vm.vhdx"])


def same(vm: br.Relationship, image: Path, tmp_path: Path) -> None:
    """The newest point is what qemu-img reads of the image, and that is clean."""
    vm.replica.recover(None, tmp_path / "out.raw", force=True)
    compare(image, NAMES[image.name], tmp_path / "out.raw")
    if image.suffix in (".qcow2", ".vhdx", ".vdi", ".vmdk"):
        done = subprocess.run(["qemu-img", "check", "-f", NAMES[image.name], image], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def nothing_left(image: Path) -> None:
    """Neither daemon nor mount nor place for it; they may take a moment to end."""
    until = time.monotonic() + 20
    while (mounts(image) or daemons(image)) and time.monotonic() < until:
        time.sleep(0.01)
    assert mounts(image) == []
    assert daemons(image) == []


@pytest.mark.parametrize("name", list(NAMES))
def test_writes_to_an_exported_image_of_any_format_are_a_delta(tmp_path: Path, serve: Serve, name: str) -> None:
    image = made(tmp_path / name, NAMES[name])
    served = serve(image)
    vm = br.protect(image, tmp_path / "store", name="vm")
    assert served.status().state == "tracking"
    qemu_io(served.uri, "write -P 7 1M 64k", "write -P 8 20M 4k", "write -z 10M 64k", "discard 2M 64k")
    done = vm.sync()
    assert done.action == "delta", done
    assert done.bytes_scanned == 0
    assert done.bytes_sent <= 256 * KIB
    qemu_io(served.uri, "write -P 9 3M 64k")
    served.close()
    nothing_left(image)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"store", "state"}
    done = vm.sync()
    assert (done.action, done.bytes_sent) == ("delta", 64 * KIB), "the end in order was proved by the container"
    same(vm, image, tmp_path)
    assert vm.sync().bytes_dirty == 0
    with serve(image) as again:
        assert again.status().found == "closed"
        qemu_io(again.uri, "write -P 5 4M 64k")
        assert vm.sync().action == "delta"
    same(vm, image, tmp_path)


@BOTH
def test_a_write_behind_the_trackers_back_is_noticed(tmp_path: Path, serve: Serve, name: str) -> None:
    """Rule 6: both without an export, and by the next one, also within the same second."""
    image = made(tmp_path / name, NAMES[name])
    served = serve(image)
    vm = br.protect(image, tmp_path / "store", name="vm")
    served.close()
    change(image, NAMES[name], "write -P 3 6M 64k")
    assert ImageSource.open(image).state != "closed"
    served = serve(image)
    assert served.status().found == "suspect"
    done = vm.sync()
    assert done.action == "resync", done
    qemu_io(served.uri, "write -P 4 7M 64k")
    assert vm.sync().action == "delta"
    served.close()
    change(image, NAMES[name], "write -P 5 8M 64k")
    done = vm.sync()
    assert (done.action, done.bytes_sent) == ("scan", 64 * KIB)
    same(vm, image, tmp_path)


def test_a_resize_between_exports_is_noticed(tmp_path: Path, serve: Serve) -> None:
    image = made(tmp_path / "vm.qcow2", "qcow2")
    with serve(image):
        vm = br.protect(image, tmp_path / "store", name="vm")
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", image, "40M"], check=True)
    assert vm.sync().action == "scan"
    same(vm, image, tmp_path)
    with serve(image) as served:
        assert served.status().size == 40 * MIB
        qemu_io(served.uri, "write -P 6 39M 1M")
        assert vm.sync().action == "resync"
        qemu_io(served.uri, "write -P 6 38M 64k")
        assert vm.sync().action == "delta"
    same(vm, image, tmp_path)


def data_of(path: Path) -> list[tuple[int, int]]:
    """Where a file has data; the rest are holes."""
    found, at, size = list[tuple[int, int]](), 0, path.stat().st_size
    with path.open("rb") as file, contextlib.suppress(OSError):
        while at < size:
            start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))
    return found


def test_a_container_that_is_written_again_keeps_its_size_its_holes_and_every_byte(
    tmp_path: Path, serve: Serve
) -> None:
    """Rule 2, where most of the container is a hole: what is written again must not fill the disk (rule 3)."""
    image = tmp_path / "vm.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, "40M")
    served = serve(image)
    [daemon] = daemons(image)
    with injected(daemon, "fdatasync:error=EIO"):
        run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "write -P 0 20M 64k", "-c", "flush", served.uri,
            wanted=1)  # fmt: skip
    with pytest.raises(StorageError):
        served.close()
    nothing_left(image)
    info, content, data = image.stat(), image.read_bytes(), data_of(image)
    assert len(data) > 3, "nothing to keep"
    with serve(image) as again:
        assert image.stat().st_mtime_ns > info.st_mtime_ns, "nothing was written again"
        assert data_of(image) == data
        assert (image.stat().st_size, image.stat().st_blocks) == (info.st_size, info.st_blocks)
        assert image.read_bytes() == content
        assert again.status().state == "tracking"


@BOTH
def test_rule_2_a_container_whose_fsync_failed_is_written_again_in_the_same_boot(
    tmp_path: Path, serve: Serve, name: str
) -> None:
    """As for a raw image; but all of the container's own bytes: the format's are not in any hot region."""
    image = made(tmp_path / name, NAMES[name])
    served = serve(image)
    vm = br.protect(image, tmp_path / "store", name="vm")
    [daemon] = daemons(image)
    with injected(daemon, "fdatasync:error=EIO"):
        run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "flush", served.uri, wanted=1)
    assert served.status().state == "whole image"
    with pytest.raises(StorageError):
        served.close()
    nothing_left(image)
    before = image.stat().st_mtime_ns
    with serve(image) as again:
        assert again.status().state == "tracking"
        assert image.stat().st_mtime_ns > before, "nothing was written again"
        assert vm.sync().action == "resync"
        qemu_io(again.uri, "write -P 9 3M 64k", "flush")
        assert vm.sync().action == "delta"
    same(vm, image, tmp_path)


@BOTH
@pytest.mark.parametrize("victim", ["nbdkit", "daemon"])
def test_kill_9_of_nbdkit_or_the_daemon_loses_nothing(tmp_path: Path, serve: Serve, name: str, victim: str) -> None:
    """What was answered is in the image; of a killed daemon, what was flushed. All else ends, and the sync compares."""
    image = made(tmp_path / name, NAMES[name])
    served = serve(image)
    vm = br.protect(image, tmp_path / "store", name="vm")
    qemu_io(served.uri, "write -P 7 1M 1M", "flush", "write -P 8 2M 64k")
    [daemon] = daemons(image)
    os.kill(served.pid if victim == "nbdkit" else daemon, signal.SIGKILL)
    with pytest.raises(StorageError):
        served.wait()
    nothing_left(image)
    done = vm.sync()
    assert done.action == "scan", done
    assert done.bytes_sent >= MIB
    if victim == "nbdkit":
        assert vm.replica.read(done.point, 2 * MIB, 64 * KIB) == b"\x08" * (64 * KIB)
    assert vm.replica.read(done.point, MIB, MIB) == b"\x07" * MIB
    with serve(image) as again:
        assert again.status().found == "suspect"
        assert vm.sync().action == "resync"
        qemu_io(again.uri, "write -P 9 3M 64k")
        assert vm.sync().action == "delta"
    same(vm, image, tmp_path)


def test_kill_9_of_the_program_that_exports_ends_all_in_order(tmp_path: Path) -> None:
    image = made(tmp_path / "vm.qcow2", "qcow2")
    command = [sys.executable, "-m", "blockreplica", "export", str(image), "--json"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        vm = br.protect(image, tmp_path / "store", name="vm")
        qemu_io(f"nbd+unix:///?socket={image}.nbd", "write -P 7 1M 64k")
    finally:
        parent.kill()
        parent.communicate()
    nothing_left(image)
    until = time.monotonic() + 20
    while ImageSource.open(image).status() is not None and time.monotonic() < until:
        time.sleep(0.01)
    done = vm.sync()
    assert (done.action, done.bytes_sent) == ("delta", 64 * KIB)
    same(vm, image, tmp_path)


def test_an_export_that_nobody_waits_for_ends_by_a_signal_in_order(tmp_path: Path, serve: Serve) -> None:
    image = made(tmp_path / "vm.vmdk", "vmdk")
    served = serve(image, detach=True)
    vm = br.protect(image, tmp_path / "store", name="vm")
    qemu_io(served.uri, "write -P 7 1M 64k")
    os.kill(served.pid, signal.SIGTERM)
    served._process.wait()
    assert not image.with_name("vm.vmdk.raw").exists()
    nothing_left(image)
    assert vm.sync().action == "delta"
    same(vm, image, tmp_path)


def test_a_discard_that_the_format_ignores_is_logged_as_what_the_image_holds(tmp_path: Path, serve: Serve) -> None:
    """Rule 1: QEMU's FUSE export answers every punched hole with success; zeros that were asked for are zeros."""
    image = made(tmp_path / "vm.vhdx", "vhdx")
    with serve(image) as served:
        vm = br.protect(image, tmp_path / "store", name="vm")
        qemu_io(served.uri, "discard 0 64k", "write -z -u 1M 100k", "write -z 2M 4k", "discard 2000k 4k")
        done = vm.sync()
        assert done.action == "delta"
        content = bytearray(random.Random(1).randbytes(3 * MIB))
        content[MIB : MIB + 100 * KIB] = bytes(100 * KIB)
        content[2 * MIB : 2 * MIB + 4 * KIB] = bytes(4 * KIB)
        assert vm.replica.read(done.point, 0, 3 * MIB) == content
    same(vm, image, tmp_path)


def test_content_and_name_must_agree_and_what_a_machine_has_is_refused(tmp_path: Path, serve: Serve) -> None:
    image = made(tmp_path / "vm.img", "qcow2")
    with pytest.raises(RefusedError, match="--format"):
        serve(image)
    with serve(image, format="qcow2") as served:
        assert served.status().size == 24 * MIB
        with pytest.raises(BusyError, match=str(served.pid)):
            serve(image, format="qcow2")
        assert subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read 0 1", image], capture_output=True).returncode
    holder = subprocess.Popen(["qemu-io", "-f", "qcow2", image], stdin=-1, stdout=-1, text=True)
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("write 0 4k\n")
        holder.stdin.flush()
        assert "wrote" in holder.stdout.readline()
        with pytest.raises(BusyError, match="qmp:"):
            serve(image, format="qcow2")
    finally:
        holder.communicate("quit\n")
    assert not image.with_name("vm.img.raw").exists()


def test_a_container_and_its_content_are_never_taken_for_one_another(tmp_path: Path, serve: Serve) -> None:
    """Offsets in the one mean nothing in the other: tracking begins anew."""
    image = made(tmp_path / "vm.img", "qcow2")
    serve(image, format="qcow2").close()
    with serve(image, format="raw") as served:
        assert served.status().found == "damaged"
    with serve(image, format="qcow2") as served:
        assert served.status().found == "damaged"
    with serve(image, format="qcow2") as served:
        assert served.status().found == "closed"


def test_an_image_read_while_its_export_ends_is_never_taken_for_an_empty_one(tmp_path: Path, serve: Serve) -> None:
    image = made(tmp_path / "vm.qcow2", "qcow2")
    vm = br.protect(image, tmp_path / "store", name="vm")
    source = ImageSource.open(image)
    served = serve(image)
    group = ImageFiles().open([Path(f"qcow2:{image}")], UUID(int=1), FILES)
    served.close()
    source.names.shown.parent.mkdir()
    source.names.shown.touch()
    with pytest.raises(BusyError, match="sync again"):
        group.sources[0].size()
    group.close()
    assert vm.sync().action == "resync"
    same(vm, image, tmp_path)


def test_the_empty_file_beneath_a_daemon_that_has_just_ended_is_not_tracked_as_the_image(tmp_path: Path) -> None:
    """A cut of it would make a point of no bytes."""
    image, empty = made(tmp_path / "vm.qcow2", "qcow2"), tmp_path / "vm.raw"
    empty.touch()
    words = f"-f -U {tmp_path / 's'} {export.PLUGIN} image={empty} container={image} tracking-dir={tmp_path}"
    begun = f"sleep 60 >/dev/null 2>&1 & echo $! >{tmp_path / 'pid'}; exec nbdkit {words} served-by=$!"
    try:
        done = subprocess.run(["sh", "-c", begun], capture_output=True, text=True, timeout=20)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert done.returncode != 0
    assert "opening what a process shows" in done.stderr
    assert empty.stat().st_size == 0
    assert not (tmp_path / "vm.raw.tracking").exists()
