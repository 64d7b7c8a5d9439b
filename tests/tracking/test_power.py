"""Rules 2 and 3: a region is durably hot before its first write, and cools only once image and bits are durable.

Power is cut on a simulated disk, which loses, tears and reorders what was not fsynced, at every step of a short life
with few regions, so that they come and go. After it every granule in which the image differs from the cut is dirty.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from blockreplica import kernels
from blockreplica.tracking import ImageSource
from crash.power import PowerCut
from crash.recording import Op, RecordingFiles, Unsynced

from .helpers import GRANULE, MIB, HookedFiles, differing_granules, dirty_granules, unexplained

REGION = 4 * MIB
SIZE = 24 * REGION
SEED = int(os.environ.get("BLOCKREPLICA_SEED", "0")) or random.randrange(2**32)
NEXT_BOOT = b"another boot...."


def a_life(tracker: kernels.Tracker, image: Path) -> bytes:
    """Writes into all regions, again and again, with a cut between; returns the image at that cut."""
    rng = random.Random(3)
    content = b""
    for number in range(60):
        region = rng.randrange(SIZE // REGION)
        offset = region * REGION + rng.randrange(REGION - 5000)
        if number % 9 == 4:
            tracker.zero(offset, 5000)
        else:
            tracker.pwrite(bytes([number + 1]) * rng.randrange(1, 5000), offset)
        if number == 20:
            tracker.cut()
            content = image.read_bytes()
        if number == 40:
            tracker.flush()
    return content


def after_reboot(image: Path, live: os.stat_result) -> None:
    """Settle what the disk has, as the inode that it was: a built folder has new ones."""
    clock = stamps(image)
    identity = (live.st_ino, image.stat().st_size, clock, clock, generation(image))
    kernels.Tracker(
        image.parent, image.name, files=Unsynced(), settle_only=True, boot_id=NEXT_BOOT, identity=identity
    ).close()


def generation(image: Path) -> int:
    raw = image.with_name("vm.img.tracking").read_bytes()
    return int(struct.unpack_from("<Q", raw, 136)[0])


def stamps(image: Path) -> int:
    """The clock of the stamps that are the state's session's; as if the image had been written just then."""
    raw = image.with_name("vm.img.tracking").read_bytes()
    session = raw[152:160]
    at = 4096 if raw[4096:4104] == session else 4608
    return int(struct.unpack_from("<q", raw, at + 8)[0])


def cut_the_power(tmp_path: Path, *, lies: Callable[[Path], bool] = lambda _: False, share: float = 0.08) -> set[str]:
    """Judges the disk after a share of all steps; returns which kinds of ending there were."""
    live = tmp_path / "live"
    live.mkdir()
    image = live / "vm.img"
    image.touch()
    os.truncate(image, SIZE)
    disk, files, rng, found = PowerCut(live), RecordingFiles(lies), random.Random(SEED), set[str]()
    tracker = kernels.Tracker(live, "vm.img", files=files, log_limit=1 << 30, hot_regions=6)
    content = a_life(tracker, image)
    known, inode = last_cut(files.ops), image.stat()
    tracker.drop()
    for step, op in enumerate(files.ops):
        disk.feed(op)
        if step < known or rng.random() > share:
            continue
        target = tmp_path / "built"
        disk.build(target, rng)
        found.add(judge(target / "vm.img", inode, content, f"seed {SEED}, step {step} of {len(files.ops)}: {op.what}"))
        shutil.rmtree(target)
    return found


def last_cut(ops: list[Op]) -> int:
    """The step after which the cut was durable: the second record of a state with another epoch."""
    saved = [at for at, op in enumerate(ops) if op.what == "write" and op.path.endswith(".tracking") and op.offset == 0]
    return next(at for at, op in enumerate(ops) if at > saved[1] and op.what == "sync")


def judge(image: Path, live: os.stat_result, content: bytes, what: str) -> str:
    after_reboot(image, live)
    source = ImageSource.open(image, files=Unsynced())
    cut = source.cut()
    assert cut is not None, what
    records = source.records(1, cut.epoch)
    dirty = dirty_granules(records, SIZE)
    differing = differing_granules(image.read_bytes(), content)
    assert differing <= dirty, f"{what}: {sorted(differing - dirty)} differ and nobody knows"
    return "whole" if len(dirty) == SIZE // GRANULE else "partial"


def test_after_a_power_cut_at_any_step_all_that_differs_is_known_and_it_is_not_the_whole_image(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    assert cut_the_power(tmp_path) == {"partial"}


@pytest.mark.campaign
@pytest.mark.parametrize("round_", range(10))
def test_after_many_power_cuts_all_that_differs_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, round_: int
) -> None:
    monkeypatch.setattr("tracking.test_power.SEED", SEED + round_, raising=False)
    assert cut_the_power(tmp_path, share=1.0) == {"partial"}


@pytest.mark.parametrize("what", ["vm.img.tracking", "vm.img"])
def test_without_one_of_its_fsyncs_a_power_cut_would_lose_a_change(tmp_path: Path, what: str) -> None:
    """The fsync before a first write into a region; the fsync of the image before a region cools."""
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        opened = False

        def lies(path: Path) -> bool:
            nonlocal opened
            opened = opened or path.name.endswith(".dirty.new")  # the cut is true, what follows is not
            return opened and path.name == what

        try:
            cut_the_power(folder, lies=lies, share=0.5)
        except AssertionError:
            return
    pytest.fail("nothing was lost")


def die_then_lose_power(
    tmp_path: Path, *, lies: Callable[[Path], bool] = lambda _: False, meddle: Callable[[Path], object] = lambda _: None
) -> None:
    """A tracker is killed, another takes over in the same boot; then the power goes, at any step of its life.

    `meddle` with its files in between: what makes the image suspect as a whole is compared, and then forgotten too.
    """
    live = tmp_path / "live"
    live.mkdir()
    image = live / "vm.img"
    image.touch()
    os.truncate(image, SIZE)
    disk, files, rng = PowerCut(live), RecordingFiles(), random.Random(SEED)
    first = kernels.Tracker(live, "vm.img", files=files, log_limit=1 << 30)
    for number in range(8):
        first.pwrite(b"first" * 1000, number * REGION)
    first.drop()
    meddle(live)
    files.lies = lies
    second = kernels.Tracker(live, "vm.img", files=files, log_limit=1 << 30)
    second.cut()
    begun, replica = len(files.ops), image.read_bytes()
    second.pwrite(b"second" * 1000, 9 * REGION)
    inode, epoch = image.stat(), last_epoch(live)
    second.drop()
    for step, op in enumerate(files.ops):
        disk.feed(op)
        if step < begun or (rng.random() > 0.3 and step < len(files.ops) - 4):
            continue
        disk.build(tmp_path / "built", rng)
        lost = lost_in(tmp_path / "built", inode, replica, epoch)
        assert not lost, f"seed {SEED}, step {step} of {len(files.ops)}: {sorted(lost)}"


def lost_in(built: Path, live: os.stat_result, replica: bytes, epoch: int) -> set[int]:
    """What differs from a replica of that epoch, and nobody knows, on the disk as it is found; which then goes."""
    image = built / "vm.img"
    after_reboot(image, live)
    source = ImageSource.open(image, files=Unsynced())
    cut = source.cut()
    assert cut is not None
    lost = unexplained(source.records(epoch, cut.epoch), replica, image.read_bytes())
    shutil.rmtree(built)
    return lost


def last_epoch(folder: Path) -> int:
    return max(int(path.name.split(".")[2]) for path in folder.glob("vm.img.*.dirty"))


def another_owner(folder: Path) -> None:
    """A doubt that costs a resync: the time of the last stamp."""
    raw = bytearray((folder / "vm.img.tracking").read_bytes())
    raw[4096 + 8 : 4096 + 16] = raw[4608 + 8 : 4608 + 16] = bytes(8)
    (folder / "vm.img.tracking").write_bytes(raw)


def damaged_state(folder: Path) -> None:
    raw = bytearray((folder / "vm.img.tracking").read_bytes())
    raw[20] ^= 1
    (folder / "vm.img.tracking").write_bytes(raw)


@pytest.mark.parametrize("meddle", [lambda _: None, another_owner, damaged_state])
def test_power_lost_after_a_killed_tracker_was_taken_over_loses_no_change(
    tmp_path: Path, meddle: Callable[[Path], object]
) -> None:
    """Its log is whole, or the image was compared, its content is in memory alone, and its hot regions are forgotten:
    unless the image is fsynced. Rule 2: a replica may have what it had then before the acknowledgement fsyncs it."""
    print(f"seed {SEED}")
    die_then_lose_power(tmp_path, meddle=meddle)


def test_without_the_fsync_at_the_take_over_a_change_would_be_lost(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    with pytest.raises(AssertionError):
        die_then_lose_power(tmp_path, lies=lambda path: path.name == "vm.img")


def open_hooked(tmp_path: Path, files: HookedFiles, regions: int = 4) -> kernels.Tracker:
    image = tmp_path / "vm.img"
    image.touch()
    os.truncate(image, SIZE)
    return kernels.Tracker(tmp_path, "vm.img", files=files, hot_regions=regions)


def test_a_cooling_region_costs_an_fsync_of_the_image_then_of_its_bits_and_a_batch_shares_them(tmp_path: Path) -> None:
    events: list[tuple[str, str]] = []
    files = HookedFiles()
    tracker = open_hooked(tmp_path, files, regions=16)
    for region in range(16):
        tracker.pwrite(b"x", region * REGION)
    files.hook = lambda what, name, *_: events.append((what, name)) if what == "sync" else None
    for region in range(16, 18):
        tracker.pwrite(b"x", region * REGION)
    files.hook = lambda *_: None
    hot = ("sync", "vm.img.tracking")
    assert events == [("sync", "vm.img"), hot, hot]  # the second one was made hot along with the first
    tracker.drop()


def test_activations_at_once_share_an_fsync_and_hot_regions_wait_for_none(tmp_path: Path) -> None:
    files, syncing, go_on = HookedFiles(), threading.Event(), threading.Event()
    tracker = open_hooked(tmp_path, files, regions=20)
    tracker.pwrite(b"hot", 0)
    syncs = 0

    def slow(what: str, name: str, *_: object) -> None:
        nonlocal syncs
        if (what, name) == ("sync", "vm.img.tracking"):
            syncs += 1
            syncing.set()
            assert go_on.wait(30)

    files.hook = slow
    threads = [threading.Thread(target=tracker.pwrite, args=(b"cold", n * REGION)) for n in range(1, 9)]
    threads[0].start()
    assert syncing.wait(30)
    for thread in threads[1:]:
        thread.start()
    for number in range(50):
        tracker.pwrite(bytes([number]), number)  # hot: no fsync, no waiting
    assert tracker.pread(4, REGION) == bytes(4), "written before its region was durably hot"
    go_on.set()
    for thread in threads:
        thread.join()
    assert syncs <= 3
    tracker.drop()


def test_when_the_hot_record_can_not_be_made_durable_a_mark_beside_the_image_is(tmp_path: Path) -> None:
    files = HookedFiles()
    tracker = open_hooked(tmp_path, files)

    def broken(what: str, name: str, *_: object) -> None:
        if name == "vm.img.tracking" and what in ("sync", "pwrite"):
            raise OSError(5, "broken")

    files.hook = broken
    tracker.pwrite(b"x", 5 * REGION)
    assert (tmp_path / "vm.img.whole").exists()
    assert '"state": "whole image"' in tracker.status()
    files.hook = lambda *_: None
    tracker.drop()
    source = ImageSource.open(tmp_path / "vm.img")
    cut = source.cut()
    assert cut is not None
    [record] = source.records(0, cut.epoch)
    assert (record.log, record.dirty) == (None, None)
    assert not (tmp_path / "vm.img.whole").exists()


def test_rule_3_where_only_the_fsync_of_the_hot_record_fails_the_mark_is_durable_before_the_write(
    tmp_path: Path,
) -> None:
    files, events = HookedFiles(), list[tuple[str, str]]()
    tracker = open_hooked(tmp_path, files)

    def broken(what: str, name: str, *_: object) -> None:
        if (what, name) == ("sync", "vm.img.tracking"):
            raise OSError(5, "broken")
        if name != "vm.img.tracking":
            events.append((what, name))

    files.hook = broken
    tracker.pwrite(b"x", 5 * REGION)
    files.hook = lambda *_: None
    tracker.drop()
    mark = "vm.img.whole"
    assert [one for one in events if one[1] != "vm.img.hrl"] == [
        ("create", mark), ("sync", mark), ("sync folder", tmp_path.name), ("pwrite", "vm.img")
    ]  # fmt: skip


def test_more_regions_than_there_are_slots_are_the_whole_image(tmp_path: Path) -> None:
    files = HookedFiles()
    tracker = open_hooked(tmp_path, files)
    tracker.zero(0, 10 * REGION)
    tracker.pwrite(b"x", 20 * REGION)
    tracker.drop()
    kernels.Tracker(tmp_path, "vm.img", settle_only=True, boot_id=NEXT_BOOT).close()
    source = ImageSource.open(tmp_path / "vm.img")
    cut = source.cut()
    assert cut is not None
    assert dirty_granules(source.records(0, cut.epoch), SIZE) == set(range(SIZE // GRANULE))


def test_many_writers_over_few_regions_come_to_an_end(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    image = tmp_path / "vm.img"
    image.touch()
    os.truncate(image, SIZE)
    tracker = kernels.Tracker(tmp_path, "vm.img", hot_regions=4, log_limit=1 << 30)

    def write(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            tracker.pwrite(b"y" * 4096, rng.randrange(SIZE - 2 * REGION))
            if rng.random() < 0.1:
                tracker.zero(rng.randrange(SIZE // REGION - 2) * REGION + REGION // 2, REGION)

    threads = [threading.Thread(target=write, args=(SEED + n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracker.drop()
