"""Death at any step: what is left names every granule in which image and replica may differ (invariant 1)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from blockreplica import kernels
from blockreplica.errors import BlockReplicaError
from blockreplica.files import Files
from blockreplica.tracking import Cut, ImageSource, TrackedImage, track
from crash.power import PowerCut
from crash.recording import RecordingFiles, Unsynced

from .helpers import GRANULE, MIB, HookedFiles, make_image, replay, unexplained

SIZE = 8 * GRANULE
Acknowledged = list[tuple[Cut, bytes]]


def scenario(image: Path, files: Files, acknowledged: Acknowledged) -> None:
    """A short life with everything in it. What a cut returned, a replica has."""

    def cut(tracked: TrackedImage) -> None:
        acknowledged.append((tracked.cut(), image.read_bytes()))

    with contextlib.suppress(BlockReplicaError), track(image, files=files, log_limit=MIB) as tracked:
        tracked.pwrite(b"a" * 5000, GRANULE - 2500)
        tracked.zero(3 * GRANULE, 4096)
        cut(tracked)
        tracked.pwrite(b"b" * 5000, 5 * GRANULE)
        tracked.flush()
        cut(tracked)
        tracked.pwrite(b"c" * 5000, 0)
        tracked.resize(SIZE - GRANULE)
        tracked.pwrite(b"d" * 5000, 2 * GRANULE)
        tracked.resize(SIZE + GRANULE)
        tracked.pwrite(b"e" * 5000, SIZE)
        cut(tracked)
        tracked.pwrite(b"f" * 5000, 6 * GRANULE)
    with contextlib.suppress(BlockReplicaError), track(image, files=files, log_limit=MIB) as tracked:
        tracked.pwrite(b"g" * 100, 4 * GRANULE)


def check_left(image: Path, acknowledged: Acknowledged, begin: bytes, what: str) -> None:
    source = ImageSource.open(image, files=Unsynced())
    now = source.cut()
    content = image.read_bytes()
    for cut, replica in acknowledged:
        assert now is not None, what
        assert now.tracking_id == cut.tracking_id, what
        assert now.epoch >= cut.epoch, what
        assert not unexplained(source.records(cut.epoch, now.epoch), replica, content), f"{what}, since {cut.epoch}"
    if acknowledged:
        logs = [record.log for record in source.records(0, acknowledged[0][0].epoch)]
        assert replay(logs, begin) == acknowledged[0][1], what


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.campaign)])
def test_a_tracker_that_dies_at_any_step_loses_no_change(tmp_path: Path, stride: int) -> None:
    """From step n on nothing that the tracker does reaches a file: so a killed process looks from outside."""
    image, first = tmp_path / "vm.img", random.randrange(stride)
    print(f"every {stride}th step from {first} on")
    for step in range(first, 1000, stride):
        for path in tmp_path.iterdir():
            path.unlink()
        begin, left = make_image(image, SIZE, seed=5), step

        def hook(what: str, *_: object) -> None:
            nonlocal left
            left -= what != "pread"
            if left < 0:
                raise OSError(5, "dead")

        acknowledged: Acknowledged = []
        files = HookedFiles(hook, durable=False)  # no power is cut here
        scenario(image, files, acknowledged)
        check_left(image, acknowledged, begin, f"step {step}")
        if left >= 0:
            assert step > 100
            assert len(acknowledged) == 3
            return
    raise AssertionError("the scenario has no end")


def power_cuts(tmp_path: Path, seed: int, lies: Callable[[Path], bool]) -> None:
    """Cut the power at every step; after a reboot each epoch that a cut had returned is there, whole."""
    live, rng = tmp_path / "live", random.Random(seed)
    live.mkdir()
    image = live / "vm.img"
    begin = make_image(image, SIZE, seed=5)
    disk, files = PowerCut(live), RecordingFiles(lies)
    acknowledged: Acknowledged = []
    known: list[tuple[int, int]] = []

    class Watched(list):  # type: ignore[type-arg]
        def append(self, one: tuple[Cut, bytes]) -> None:
            known.append((len(files.ops), len(acknowledged) + 1))
            acknowledged.append(one)

    scenario(image, files, Watched())
    assert len(acknowledged) == 3
    for step, op in enumerate(files.ops):
        disk.feed(op)
        if rng.random() < 0.3 or step > len(files.ops) - 30:
            target = tmp_path / f"built-{step}"
            disk.build(target, rng)
            count = max((count for at, count in known if at <= step), default=0)
            check_after_reboot(target / "vm.img", acknowledged[:count], begin, f"step {step} of {len(files.ops)}: {op}")


def check_after_reboot(image: Path, acknowledged: Acknowledged, begin: bytes, what: str) -> None:
    if not acknowledged:
        return
    kernels.Tracker(image.parent, image.name, files=Unsynced(), settle_only=True, boot_id=b"another boot....").close()
    source = ImageSource.open(image, files=Unsynced())
    now = source.cut()
    assert now is not None, what
    last, content = acknowledged[-1]
    assert now.tracking_id == last.tracking_id, what
    assert now.epoch > last.epoch, what
    for (cut, wanted), record in zip(acknowledged, source.records(0, last.epoch), strict=False):
        if cut.epoch <= 2:
            assert record.log is not None, what
            assert replay([one.log for one in source.records(0, cut.epoch)], begin) == wanted, what
    assert not unexplained(source.records(last.epoch, now.epoch), content, image.read_bytes()), what


@pytest.mark.parametrize("round_", range(3))
def test_power_cut_at_any_step_loses_no_epoch_that_a_cut_returned(tmp_path: Path, round_: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}, round {round_}")
    power_cuts(tmp_path, seed, lambda _: False)


@pytest.mark.parametrize("suffix", [".tracking", ".hrl", "live"])
def test_without_one_of_its_fsyncs_a_power_cut_would_lose_an_epoch(tmp_path: Path, suffix: str) -> None:
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            power_cuts(folder, number, lambda path: path.name.endswith((suffix, f"{suffix}.next")))
        except (AssertionError, BlockReplicaError):
            return
    pytest.fail("nothing was lost")


def test_a_close_records_the_identity_only_after_everything_is_durable(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    make_image(image, SIZE)
    events: list[tuple[str, str]] = []
    files = HookedFiles()
    with track(image, files=files) as tracked:
        tracked.pwrite(b"x", 0)
        files.hook = lambda what, name, *_: events.append((what, name))
    files.hook = lambda *_: None
    interesting = [one for one in events if one[0] in ("sync", "rename", "sync folder")]
    assert interesting == [
        ("sync", "vm.img"),
        ("sync", "vm.img.000001.dirty.new"),
        ("rename", "vm.img.000001.dirty.new"),
        ("sync", "vm.img.hrl"),
        ("sync", "vm.img.hrl"),
        ("rename", "vm.img.hrl"),
        ("sync folder", tmp_path.name),
        ("sync", "vm.img.tracking"),  # the epoch has ended
        ("sync", "vm.img.tracking"),  # the identity
    ]


def test_the_mark_that_an_image_is_being_written_is_durable_before_the_first_write(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    make_image(image, SIZE)
    events: list[tuple[str, str]] = []
    files = HookedFiles(lambda what, name, *_: events.append((what, name)))
    with track(image, files=files) as tracked:
        tracked.pwrite(b"x", 0)
        files.hook = lambda *_: None
    first = events.index(("pwrite", "vm.img"))
    assert events.index(("sync", "vm.img.tracking")) < events.index(("sync folder", tmp_path.name)) < first


WRITER = """
import random, sys, threading
from blockreplica.tracking import track
image, rng = track(sys.argv[1], log_limit=1 << 30), random.Random(int(sys.argv[2]))
def write(rng):
    while True:
        length = rng.choice([100, 4096, 70000])
        what = rng.choice([image.zero, image.discard, None, None, None, None])
        if what:
            what(rng.randrange(image.size - length), length)
        else:
            image.pwrite(rng.randbytes(8) * (length // 8), rng.randrange(image.size - length))
for _ in range(3):
    threading.Thread(target=write, args=(random.Random(rng.random()),), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def kill_a_writer(tmp_path: Path, seed: int) -> None:
    """kill -9 while three threads write and another process cuts; what was acknowledged stays true."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    image = tmp_path / "vm.img"
    begin = make_image(image, 2 * MIB, seed=5)
    acknowledged: list[Cut] = []
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", WRITER, image, str(seed)], stdin=-1, stdout=-1) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            source, until = ImageSource.open(image), time.monotonic() + rng.random() * 0.15
            killer = subprocess.Popen(["/bin/sh", "-c", f"sleep {rng.random() * 0.15}; kill -9 {child.pid}"])
            while time.monotonic() < until and child.poll() is None:
                if source.state != "tracking":
                    break
                with contextlib.suppress(BlockReplicaError):
                    cut = source.cut()
                    assert cut is not None
                    acknowledged.append(cut)
            killer.wait()
            assert child.wait() == -signal.SIGKILL
        found = ImageSource.open(image).cut()
        assert found is not None
        acknowledged.append(found)
    check_killed(image, begin, acknowledged)


def check_killed(image: Path, begin: bytes, acknowledged: list[Cut]) -> None:
    source, content = ImageSource.open(image), image.read_bytes()
    records = source.records(0, acknowledged[-1].epoch)
    assert all(record.log or record.dirty for record in records), "this boot, this inode: something can be known"
    assert all(record.log for record in records), "an open group was lost: rule 1 would have it finished"
    assert replay([record.log for record in records], begin) == content
    replica = bytearray(begin)
    for record in records:
        replica = replay([record.log], replica)
        assert not unexplained(records[record.epoch :], replica, content)


@pytest.mark.parametrize("round_", range(6))
def test_kill_9_of_a_writer_loses_no_change(tmp_path: Path, round_: int) -> None:
    kill_a_writer(tmp_path, random.randrange(2**32) + round_)


@pytest.mark.campaign
@pytest.mark.parametrize("round_", range(300))
def test_kill_9_of_a_writer_loses_no_change_however_often(tmp_path: Path, round_: int) -> None:
    kill_a_writer(tmp_path, random.randrange(2**32) + round_)


@pytest.mark.skipif(not os.access("/usr/bin/strace", os.X_OK), reason="strace is not installed")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync", "rename,renameat,renameat2", "ftruncate"])
def test_kill_9_at_the_nth_system_call_loses_no_change(tmp_path: Path, call: str) -> None:
    """The real table of operations, killed by strace at a random call of each kind."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    image = tmp_path / "vm.img"
    begin = make_image(image, SIZE, seed=5)
    code = (
        "import sys, blockreplica.tracking as t\n"
        "with t.track(sys.argv[1], log_limit=1 << 30) as i:\n"
        "    for n in range(40):\n"
        "        i.pwrite(bytes([n + 1]) * 5000, n * 7919 % 400000)\n"
        "        if n % 8 == 7: i.cut(); print(n, flush=True)\n"
    )
    nth = random.Random(seed).randint(1, 12)
    inject = ["strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={nth}"]
    subprocess.run([*inject, sys.executable, "-c", code, image], stdout=subprocess.DEVNULL, check=False)
    source = ImageSource.open(image)
    found = source.cut()
    content = image.read_bytes()
    if found is None:
        assert content == begin
        return
    records = source.records(0, found.epoch)
    assert not unexplained(records, begin, content), f"when={nth}"
    assert all(record.log or record.dirty for record in records), f"when={nth}"
