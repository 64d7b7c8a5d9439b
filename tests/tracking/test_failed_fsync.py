"""Rule 2: after an fsync of the image that failed, what it reads as may not be on the disk, and may be gone tomorrow.

No later fsync that succeeds proves anything; only what is written once more does. The power is cut on a simulated disk
that loses what waited for the fsync that failed, as a real one does.
"""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica import kernels
from blockreplica.errors import StorageError
from blockreplica.tracking import ImageSource
from crash.power import PowerCut
from crash.recording import Op, RecordingFiles, Unsynced

from .helpers import HookedFiles, failing, make_image
from .test_power import NEXT_BOOT, REGION, SEED, lost_in

SIZE = 12 * REGION
NARROW = 6  # hot regions of a record that can't name all of the image


class BrokenDisk(RecordingFiles):
    """Fails the next fsync of the image once `broken`; what waited for it is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def note(self, op: Op) -> None:
        if op.what == "sync" and self.broken and op.path.endswith("vm.img"):
            self.broken = False
            super().note(Op("lost", op.inode, op.path))
            raise OSError(errno.EIO, "broken")
        super().note(op)


def new_image(folder: Path) -> Path:
    folder.mkdir()
    image = folder / "vm.img"
    image.touch()
    os.truncate(image, SIZE)
    return image


def opened(image: Path, files: Any, **options: Any) -> kernels.Tracker:
    return kernels.Tracker(image.parent, image.name, files=files, log_limit=1 << 30, **options)


def failed_life(image: Path, files: BrokenDisk, regions: int, *, more: int = 0) -> None:
    """Writes of which some are durable, some are lost by an fsync that fails, and `more` regions behind that."""
    tracker = opened(image, files, hot_regions=regions)
    tracker.pwrite(b"durable" * 1000, 0)
    tracker.flush()
    tracker.cut()
    tracker.pwrite(b"lost" * 1000, 0)
    tracker.pwrite(b"lost" * 1000, 2 * REGION + 5)
    files.broken = True
    with pytest.raises(OSError, match="Input/output"):
        tracker.flush()
    for number in range(more):
        tracker.pwrite(b"behind it" * 100, (number + 3) * REGION)
    tracker.drop()


def state_of(tracker: kernels.Tracker) -> str:
    return str(json.loads(tracker.status())["state"])


def artifacts(image: Path, after: int, upto: int) -> list[tuple[bool, bool]]:
    records = ImageSource.open(image, files=Unsynced()).records(after, upto)
    return [(record.log is not None, record.dirty is not None) for record in records]


def judge_at_every_step(disk: PowerCut, files: BrokenDisk, image: Path, begun: int, replica: bytes, epoch: int) -> None:
    """Cut the power at every step from `begun` on: what differs from the replica is named."""
    rng, inode, target = random.Random(SEED), image.stat(), image.parent.with_name("built")
    for step, op in enumerate(files.ops):
        disk.feed(op)
        if step < begun:
            continue
        disk.build(target, rng)
        lost = lost_in(target, inode, replica, epoch)
        assert not lost, f"seed {SEED}, step {step} of {len(files.ops)}: {sorted(lost)} differ and nobody knows"


@pytest.mark.parametrize("more", [0, 2])
def test_what_an_fsync_lost_is_written_again_before_anything_is_compared(tmp_path: Path, more: int) -> None:
    """Sync, power cut: without the writing again the replica has what the disk lacks, and nobody knows."""
    print(f"seed {SEED}")
    image, files = new_image(tmp_path / "live"), BrokenDisk()
    disk = PowerCut(image.parent)
    failed_life(image, files, NARROW, more=more)
    second = opened(image, files, hot_regions=NARROW)
    epoch = json.loads(second.cut())["epoch"]
    assert state_of(second) == "tracking"
    begun, replica = len(files.ops), image.read_bytes()
    second.pwrite(b"and on" * 1000, 9 * REGION)
    second.cut()
    second.drop()
    assert artifacts(image, epoch, epoch + 1) == [(True, True)], "deltas again"
    judge_at_every_step(disk, files, image, begun, replica, epoch)


def test_only_what_was_hot_is_written_again(tmp_path: Path) -> None:
    image, files = new_image(tmp_path / "live"), BrokenDisk()
    failed_life(image, files, NARROW)
    begun = len(files.ops)
    opened(image, files, hot_regions=NARROW).drop()
    again = {op.offset // REGION for op in files.ops[begun:] if op.what == "write" and op.path == str(image)}
    assert again == {0, 2}


def doubted(image: Path) -> bool:
    return ImageSource.open(image, files=Unsynced()).doubted()


@pytest.mark.parametrize("why", ["its record is full", "it can't be written"])
def test_what_can_not_be_written_again_is_in_doubt_until_the_next_boot(tmp_path: Path, why: str) -> None:
    """Logs go on, so that a sync comes to an end, and the guest's flush works; but each sync compares all of it."""
    image, files = new_image(tmp_path / "live"), BrokenDisk()
    full = why == "its record is full"
    failed_life(image, files, NARROW, more=8 if full else 0)
    hooked = HookedFiles()
    if not full:
        hooked.hook = failing(errno.EIO, "pwrite", "vm.img")
    for _ in range(2):
        tracker = opened(image, hooked, hot_regions=NARROW)
        hooked.hook = lambda *_: None
        assert state_of(tracker) == "whole image"
        first = json.loads(tracker.cut())["epoch"]
        tracker.pwrite(b"later" * 100, 10 * REGION)
        tracker.flush()
        last = json.loads(tracker.cut())["epoch"]
        assert doubted(image)
        tracker.close()
        assert artifacts(image, first, last) == [(True, True)]
        cuts = [cut.epoch for _ in range(2) if (cut := ImageSource.open(image).cut())]
        assert cuts == [last] * 2, "nobody wrote it"
        assert doubted(image)
    tracker = opened(image, hooked, hot_regions=NARROW, boot_id=NEXT_BOOT)
    found = json.loads(tracker.status())
    assert (found["state"], found["found"]) == ("tracking", "suspect")
    assert not doubted(image)
    assert artifacts(image, found["epoch"] - 2, found["epoch"] - 1) == [(False, False)]
    tracker.close()


def test_an_image_in_doubt_that_nobody_opens_is_compared_once_more_in_the_next_boot(tmp_path: Path) -> None:
    image, files = new_image(tmp_path / "live"), BrokenDisk()
    failed_life(image, files, NARROW, more=8)
    opened(image, Unsynced(), hot_regions=NARROW).close()
    before = ImageSource.open(image).cut()
    assert before is not None
    kernels.Tracker(image.parent, image.name, settle_only=True, boot_id=NEXT_BOOT).close()
    after = ImageSource.open(image).cut()
    assert after is not None
    assert artifacts(image, before.epoch, after.epoch) == [(False, False)]
    assert not doubted(image)


def test_a_small_image_is_written_again_whole_where_the_record_does_not_say_what(tmp_path: Path) -> None:
    image, files = new_image(tmp_path / "live"), BrokenDisk()
    with files.open(image, write=True) as file:
        file.pwrite(b"foreign", 7 * REGION)
    failed_life(image, files, NARROW, more=8)
    begun = len(files.ops)
    tracker = opened(image, files)  # a record of 2,048 regions has room for all of it
    assert state_of(tracker) == "tracking"
    tracker.drop()
    again = {op.offset // REGION for op in files.ops[begun:] if op.what == "write" and op.path == str(image)}
    assert again >= set(range(11))


@pytest.fixture
def failed_relationship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, br.Relationship]:
    """A closed image whose fsync failed since its only point."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    image = tmp_path / "vm.img"
    make_image(image, 1 << 20, seed=1)
    br.track(image).close()
    vm = br.protect(image, tmp_path / "store", name="vm")
    with pytest.raises(StorageError):
        ImageSource.open(image, files=HookedFiles(failing(errno.EIO, "sync", "vm.img"))).sync_image()
    return image, vm


def test_a_sync_compares_until_a_tracker_has_written_the_image_again(
    failed_relationship: tuple[Path, br.Relationship],
) -> None:
    image, vm = failed_relationship
    for _ in range(3):
        result = vm.sync()
        assert result.action == "resync"
        assert "an fsync of vm.img failed" in result.reason
    heard: list[tuple[str, str]] = []
    files = HookedFiles(lambda what, name, *_: heard.append((what, name)))
    with br.track(image, files=files) as tracked:
        assert tracked.status().state == "tracking"
    assert ("sync", "vm.img") in heard[heard.index(("pwrite", "vm.img")) :]
    assert [vm.sync().action for _ in range(2)] == ["resync", "delta"]


def test_a_tracker_in_doubt_says_so_and_a_sync_of_it_comes_to_an_end(
    failed_relationship: tuple[Path, br.Relationship],
) -> None:
    image, vm = failed_relationship
    with br.track(image, files=HookedFiles(failing(errno.EIO, "pwrite", "vm.img"))) as tracked:
        assert any("may not be on its disk" in warning for warning in tracked.warnings)
        results = [vm.sync() for _ in range(2)]
    assert [result.action for result in results] == ["resync", "resync"]
    assert all("an fsync of vm.img failed" in result.reason for result in results)
    assert vm.status().disks[0].tracking == "unclean"
