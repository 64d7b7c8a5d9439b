"""The disks of a running QEMU, replicated by dirty bitmaps: correctness.md (12), invariants 1, 4, 8 and 13."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

import blockreplica as br
from blockreplica.errors import NoSpaceError, StorageError
from blockreplica.images.nbd import NbdFile
from blockreplica.progress import Progress
from blockreplica.replication import bulk
from blockreplica.stores import Session
from blockreplica.tracking.qemu import fleece, machine

from . import mortal
from .daemon import Daemon, needs_qemu
from .guest import BLOCK, Counting, GuestDisk, newest

KIB, MIB = 1 << 10, 1 << 20
pytestmark = needs_qemu
Start = Callable[..., Daemon]


def held(vm: br.Relationship, point: str, disk: int = 0) -> bytes:
    """A disk at a point."""
    record = vm.replica.base.find(point)
    return vm.replica.read(point, 0, record.disks[disk].size, disk=disk)


def bitmaps(qemu: Daemon, node: str = "d0") -> list[str]:
    """The names of a disk's dirty bitmaps."""
    with qemu.monitor() as qmp:
        [found] = [each for each in qmp("query-named-block-nodes", flat=True) if each["node-name"] == node]
    return [each["name"] for each in found.get("dirty-bitmaps", []) if "name" in each]


def left_behind(qemu: Daemon) -> list[str]:
    """What is in the daemon and in its folder that a finished sync must have taken away."""
    with qemu.monitor() as qmp:
        names = [each["id"] for each in qmp("query-jobs")]
        names += [each["id"] for each in qmp("query-block-exports") if not each["id"].startswith("guest")]
        names += [each["node-name"] for each in qmp("query-named-block-nodes", flat=True)]
    files = [path.name for path in qemu.folder.iterdir() if "blockreplica" in path.name or path.name.endswith(".nbd")]
    return [name for name in names if not name.startswith("d")] + files


def protected(qemu: Daemon, tmp_path: Path, more: str = "") -> br.Relationship:
    """Protected, with one point."""
    return br.protect(qemu.address(more), tmp_path / "store", name="vm")


def same(vm: br.Relationship, qemu: Daemon) -> br.SyncResult:
    """Sync; the new point is what the disks hold, and nothing else is left in the daemon than a bitmap a disk."""
    result = vm.sync()
    for disk in range(len(qemu.images)):
        assert held(vm, result.point, disk) == qemu.content(disk), f"disk {disk} of point {result.point}"
        assert len(bitmaps(qemu, f"d{disk}")) == 1
    assert left_behind(qemu) == []
    assert vm.verify().damage == []
    return result


def test_rule_8_a_lost_consistent_cut_is_told_of_also_when_qemu_was_restarted_before_it(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU without bitmaps must not count from 1 again: the cut would look older than the newest point."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    qemu = daemon("raw")
    vm = br.protect(qemu.address(), tmp_path / "store", name="vm", pre_cut="true")
    same(vm, qemu)
    same(vm, qemu)
    qemu.stop()
    qemu.start()
    with monkeypatch.context() as patch:
        patch.setattr(Session, "_before", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        qemu.io("write -P 2 1M 64k")
        with pytest.raises(KeyboardInterrupt):
            vm.sync()
    assert "could not be kept: QEMU's bitmaps" in same(vm, qemu).reason


def test_a_delta_sends_only_what_the_guest_wrote(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("raw")
    qemu.io("write -P 1 0 1M", "write -P 2 4M 64k")
    vm = protected(qemu, tmp_path)
    assert vm.last is not None
    assert (vm.last.action, vm.last.kind) == ("initial", "crash-consistent")
    first = qemu.content()
    assert held(vm, vm.last.point) == first
    qemu.io("write -P 3 2M 64k", "write -z 4M 64k", "discard 128k 64k")
    result = same(vm, qemu)
    assert (result.action, result.kind) == ("delta", "crash-consistent"), result
    assert result.bytes_dirty == result.bytes_sent == 192 * KIB
    assert held(vm, vm.points()[0].id) == first
    nothing = same(vm, qemu)
    assert (nothing.action, nothing.bytes_dirty) == ("delta", 0)
    assert (tmp_path / "store" / "vm" / "disk0" / "disk.img").stat().st_blocks * 512 < 2 * MIB, "holes stay holes"


def test_rule_8_a_consistent_cut_that_no_content_is_left_of_is_told_of(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    qemu = daemon("raw")
    qemu.io("write -P 1 0 1M")
    vm = br.protect(qemu.address(), tmp_path / "store", name="vm", pre_cut="true")
    qemu.io("write -P 2 1M 64k")
    with monkeypatch.context() as patch:
        patch.setattr(Session, "_before", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            vm.sync()
    qemu.io("write -P 3 1M 128k")
    result = same(vm, qemu)
    assert result.points == [result.point]
    assert "could not be kept: QEMU's bitmaps" in result.reason
    assert "kept" not in same(vm, qemu).reason
    assert list((tmp_path / "state" / "consistent").iterdir()) == []


def test_every_point_is_one_instant_of_all_disks_while_the_guest_writes(daemon: Start, tmp_path: Path) -> None:
    qemu, blocks = daemon("raw", "qcow2", size=4 * MIB), 64
    disks = [GuestDisk(qemu.nbd, f"guest{index}") for index in range(2)]
    with Counting(disks, blocks) as writer:
        while writer.written < blocks and writer.failure is None:
            pass
        vm = protected(qemu, tmp_path)
        actions = [vm.sync().action for _ in range(6)]
        resync = vm.resync()
    for disk in disks:
        disk.close()
    assert actions == ["delta"] * 6
    assert resync.action == "resync"
    seen = []
    for point in vm.points():
        first, second = (newest(held(vm, point.id, disk)[: blocks * BLOCK], blocks) for disk in range(2))
        assert second <= first <= second + 1, f"point {point.id}: disk 0 holds {first}, disk 1 {second}"
        seen.append(first)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0], "nothing was written meanwhile: the test shows nothing"
    same(vm, qemu)


@pytest.mark.parametrize("step", mortal.STEPS)
def test_a_sync_killed_at_any_step_loses_no_change(daemon: Start, tmp_path: Path, step: str) -> None:
    qemu = daemon("raw", "qcow2")
    qemu.io("write -P 1 0 1M")
    vm = protected(qemu, tmp_path)
    for round_, pattern in enumerate((2, 3)):
        qemu.io(f"write -P {pattern} {round_ * 2 + 1}M 128k")
        qemu.io(f"write -P {pattern} {round_}M 64k", index=1)
        died = subprocess.run([sys.executable, mortal.__file__, "vm", step])
        assert died.returncode == -SIGKILL
        qemu.io(f"write -P 9 {round_ * 64}k 64k")
    result = same(vm, qemu)
    assert result.action == "delta", result
    assert result.bytes_dirty <= 512 * KIB


def test_syncs_that_die_again_and_again_leave_three_bitmaps_at_the_most(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("raw")
    vm = protected(qemu, tmp_path)
    for number in range(5):
        qemu.io(f"write -P {number + 1} {number}M 64k")
        subprocess.run([sys.executable, mortal.__file__, "vm", "while reading"])
        assert len([name for name in bitmaps(qemu) if "merged" not in name]) <= 3
    result = same(vm, qemu)
    assert (result.action, result.bytes_sent) == ("delta", 5 * 64 * KIB)


def test_a_raw_disk_whose_daemon_was_restarted_is_compared(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("raw")
    vm = protected(qemu, tmp_path)
    qemu.io("write -P 1 0 64k")
    qemu.stop()
    qemu.start()
    result = same(vm, qemu)
    assert (result.action, result.bytes_sent) == ("resync", 64 * KIB)
    assert "no dirty bitmap of the last point" in result.reason


def test_a_qcow2_keeps_its_bitmap_over_a_clean_restart(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("qcow2")
    vm = protected(qemu, tmp_path)
    qemu.io("write -P 1 0 64k")
    qemu.stop()
    qemu.start()
    qemu.io("write -P 2 1M 64k")
    result = same(vm, qemu)
    assert (result.action, result.bytes_dirty) == ("delta", 128 * KIB)


def test_after_a_crash_of_qemu_an_inconsistent_bitmap_is_not_believed(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("qcow2")
    vm = protected(qemu, tmp_path)
    qemu.stop()
    qemu.start()  # the bitmap is in the file now, marked as in use
    qemu.io("write -P 1 0 64k", "flush")
    qemu.stop(SIGKILL)
    qemu.start()
    result = same(vm, qemu)
    assert result.action == "resync"
    assert "inconsistent" in result.reason
    qemu.io("write -P 2 0 64k")
    assert same(vm, qemu).action == "delta"


@pytest.mark.parametrize(
    ("meddling", "reason"),
    [
        ("block-dirty-bitmap-remove", "no dirty bitmap of the last point"),
        ("block-dirty-bitmap-disable", "somebody disabled"),
    ],
)
def test_a_bitmap_that_somebody_meddled_with_is_not_believed(
    daemon: Start, tmp_path: Path, meddling: str, reason: str
) -> None:
    qemu = daemon("raw")
    vm = protected(qemu, tmp_path)
    [name] = bitmaps(qemu)
    with qemu.monitor() as qmp:
        qmp(meddling, node="d0", name=name)
    qemu.io("write -P 1 0 64k")
    result = same(vm, qemu)
    assert (result.action, result.bytes_sent) == ("resync", 64 * KIB)
    assert reason in result.reason


def test_bitmaps_of_others_are_left_alone(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("raw")
    with qemu.monitor() as qmp:
        qmp("block-dirty-bitmap-add", node="d0", name="of-another-program")
    vm = protected(qemu, tmp_path)
    vm.sync()
    br.unprotect("vm")
    assert bitmaps(qemu) == ["of-another-program"]
    assert left_behind(qemu) == []


def test_without_room_for_the_scratch_images_the_sync_fails_and_no_write_of_the_guest(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    qemu = daemon("raw")
    vm = protected(qemu, tmp_path, f"&scratch={small_disk}")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(small_disk_free(small_disk) - 4 * MIB))
    qemu.io("write -P 1 0 64k")
    with pytest.raises(NoSpaceError, match="scratch"):
        vm.sync()
    monkeypatch.setattr(fleece.Fleece, "_require_room", lambda _: None)  # now QEMU itself meets ENOSPC
    with pytest.raises(NoSpaceError, match="No space left"):
        vm.sync()
    qemu.io("write -P 2 1M 1M")
    assert left_behind(qemu) == []
    filler.unlink()
    assert same(vm, qemu).action == "delta"


def test_a_scratch_folder_that_fills_up_after_the_cut_hurts_neither_the_guest_nor_the_point(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    qemu = daemon("raw")
    qemu.io("write -P 1 0 8M")
    vm = protected(qemu, tmp_path, f"&scratch={small_disk}")
    qemu.io("write -P 2 1M 64k")
    before, cut = qemu.content(), machine.Machine.cut

    def cut_then_full(self: machine.Machine) -> Any:
        cuts = cut(self)
        fill(small_disk / "filler")
        qemu.io("write -P 3 0 8M")  # everything is overwritten: all old content must have found room
        return cuts

    monkeypatch.setattr(machine.Machine, "cut", cut_then_full)
    result = vm.sync()
    monkeypatch.undo()
    assert held(vm, result.point) == before
    (small_disk / "filler").unlink()


def fill(path: Path) -> None:
    """Write into a file until nothing fits any more."""
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(64 * KIB)):
            pass
    assert small_disk_free(path.parent) == 0


def small_disk_free(folder: Path) -> int:
    """Bytes that fit into a folder."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


@pytest.mark.parametrize("relative", [False, True])
def test_the_room_that_sparse_disks_may_still_need_is_not_taken_for_scratch(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    qemu = daemon("raw", relative=relative)
    vm = protected(qemu, tmp_path)
    monkeypatch.setattr(fleece, "RESERVE", small_disk_free(qemu.folder) - 12 * MIB)  # the disk may grow by 8 MiB
    with pytest.raises(NoSpaceError, match="still grow"):
        vm.sync()
    assert left_behind(qemu) == []


def test_a_point_is_not_made_when_qemu_stopped_keeping_old_content(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = daemon("raw")
    vm = protected(qemu, tmp_path)
    qemu.io("write -P 1 0 64k")
    cut = machine.Machine.cut

    def cut_then_cancelled(self: machine.Machine) -> Any:
        cuts = cut(self)
        with qemu.monitor() as qmp:
            [job] = qmp("query-jobs")
            qmp("job-cancel", id=job["id"])
        return cuts

    monkeypatch.setattr(machine.Machine, "cut", cut_then_cancelled)
    with pytest.raises(StorageError, match="no longer keeps"):
        vm.sync()
    monkeypatch.undo()
    assert len(vm.points()) == 1
    assert same(vm, qemu).action == "delta"


class Interrupting(Progress):
    """Ctrl-C after so many windows."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, count: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_delta_asks_about_neighbouring_extents_together(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 3, speed: a question for each dirty extent took longer than reading them. Zeros stay zeros."""
    qemu = daemon("raw", size=40 * MIB)
    qemu.io("write -P 1 0 40M")
    vm = protected(qemu, tmp_path)
    qemu.io(*(f"write -P {at + 2} {at * 256}k 64k" for at in range(100)), "discard 30M 1M", "write -P 9 31M 64k")
    asked, real = list[str](), NbdFile._status

    def asking(file: NbdFile, context: str, offset: int, length: int) -> list[tuple[int, int]]:
        asked.append(context)
        return real(file, context, offset, length)

    monkeypatch.setattr(NbdFile, "_status", asking)
    result = same(vm, qemu)
    assert (result.action, result.bytes_dirty) == ("delta", 101 * 64 * KIB + MIB)
    assert len(asked) < 20


def test_an_interrupted_first_copy_goes_on_where_it_was(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "WINDOW_PAGES", 0)
    monkeypatch.setattr(bulk, "CHECKPOINT_SECONDS", -1.0)
    qemu = daemon("raw", size=40 * MIB)
    qemu.io("write -P 1 0 40M")
    with pytest.raises(KeyboardInterrupt):
        br.protect(qemu.address(), tmp_path / "store", name="vm", progress=Interrupting(1))
    assert left_behind(qemu) == []
    qemu.io("write -P 2 0 64k", "write -P 3 30M 64k")
    vm = br.protect(qemu.address(), tmp_path / "store", name="vm")
    assert vm.last is not None
    assert vm.last.action == "initial"
    assert vm.last.bytes_scanned < 40 * MIB, "it began again"
    assert held(vm, vm.last.point) == qemu.content()
    assert same(vm, qemu).action == "delta"


def test_status_tells_what_is_dirty(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("raw", "raw")
    vm = protected(qemu, tmp_path)
    qemu.io("write -P 1 0 128k", index=1)
    first, second = vm.status().disks
    assert (first.tracking, first.dirty_bytes, second.dirty_bytes) == ("tracking", 0, 128 * KIB)
    qemu.stop()
    assert [disk.tracking for disk in vm.status().disks] == ["missing", "missing"]
    assert vm.status().state == "image missing"
