"""Rule 1 across the death of the process: the open group is finished, and what follows is a delta, not a resync.

The tracker runs in a child of the test, which is killed between two of its operations on files: there without a
mapping, so that each store into the tracking file is an operation, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica import kernels
from blockreplica.errors import BlockReplicaError
from blockreplica.files import FILES
from blockreplica.manifest import Cursor
from blockreplica.replication.decide import follows
from blockreplica.tracking import Cut, ImageSource, TrackedImage, track
from blockreplica.tracking.state import SLOTS_AT, read_state

from .helpers import GRANULE, HookedFiles, make_image, replay

SIZE = 8 * GRANULE
Life = Callable[[TrackedImage], None]


def die_at(image: Path, step: int, live: Life) -> bool:
    """Live in a child that kills itself before its change number `step`; False when it came to its end alive."""
    child = os.fork()
    if child == 0:
        left = step

        def hook(what: str, *_: object) -> None:
            nonlocal left
            left -= what != "pread"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with contextlib.suppress(BlockReplicaError):
                tracked = track(image, files=HookedFiles(hook, durable=False), log_limit=1 << 30)
                live(tracked)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def a_life(tracked: TrackedImage) -> None:
    """More entries than one group has, of every kind, over one another; two cuts."""
    rng = random.Random(1)
    for number in range(160):
        offset = rng.randrange(SIZE - 5000)
        if number % 40 == 7:
            tracked.zero(offset, 5000)
        elif number % 40 == 27:
            tracked.discard(offset, 5000)
        else:
            tracked.pwrite(bytes([number + 1]) * rng.randrange(1, 5000), offset)
        if number in (20, 150):
            tracked.cut()


def judge(image: Path, begin: bytes, what: str) -> None:
    """All that the logs say, applied, is the image."""
    source = ImageSource.open(image)
    cut = source.cut()
    if cut is None:
        assert image.read_bytes() == begin, what
        return
    records = source.records(0, cut.epoch)
    assert all(record.log and record.dirty for record in records), what
    assert replay([record.log for record in records], begin) == image.read_bytes(), what


def die_everywhere(tmp_path: Path, steps: list[int]) -> bool:
    image = tmp_path / "vm.img"
    for step in steps:
        for path in tmp_path.iterdir():
            path.unlink()
        begin = make_image(image, SIZE, seed=5)
        died = die_at(image, step, a_life)
        judge(image, begin, f"step {step}")
        if not died:
            return True
    return False


def test_death_between_any_two_operations_leaves_logs_that_are_the_image(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    steps = [*range(20), *sorted(random.Random(seed).sample(range(20, 900), 70))]
    die_everywhere(tmp_path, steps)


@pytest.mark.campaign
def test_death_between_each_two_operations_leaves_logs_that_are_the_image(tmp_path: Path) -> None:
    assert die_everywhere(tmp_path, list(range(5000)))


def test_the_sync_after_a_killed_writer_is_a_delta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    image = tmp_path / "vm.img"
    make_image(image, SIZE, seed=5)
    with track(image):
        pass
    vm = br.protect(image, tmp_path / "store", name="vm")
    assert die_at(image, 300, a_life)
    assert vm.sync().action == "delta"
    vm.replica.recover(None, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


def test_an_image_write_cut_in_two_by_death_is_logged_as_the_image_has_it(tmp_path: Path) -> None:
    """Log first alone gives the replica more than the image has."""
    image = tmp_path / "vm.img"
    begin = make_image(image, SIZE, seed=5)
    child = os.fork()
    if child == 0:

        def tear(what: str, name: str, file: object, arguments: tuple[bytes, int]) -> None:
            if (what, name) == ("pwrite", "vm.img"):
                file.write_past_the_hook(arguments[0][:1000], arguments[1])  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGKILL)

        track(image, files=HookedFiles(tear)).pwrite(b"z" * 4096, 20_000)
        os._exit(0)
    os.waitpid(child, 0)
    assert image.read_bytes() == begin[:20_000] + b"z" * 1000 + begin[21_000:]
    judge(image, begin, "torn")


def test_a_half_done_zero_is_logged_as_the_image_has_it(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    begin = make_image(image, SIZE, seed=5)
    child = os.fork()
    if child == 0:

        def tear(what: str, name: str, file: object, arguments: tuple[int, int]) -> None:
            if (what, name) == ("zero", "vm.img"):
                file.write_past_the_hook(bytes(1000), arguments[0])  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGKILL)

        track(image, files=HookedFiles(tear)).zero(20_000, 100_000)
        os._exit(0)
    os.waitpid(child, 0)
    assert image.read_bytes() == begin[:20_000] + bytes(1000) + begin[21_000:]
    judge(image, begin, "torn")


@pytest.mark.parametrize("at", [8192, 8200, 8208, 8224, 8228, 12288, 12304, 12544, 12550, 12574, SLOTS_AT - 1])
def test_a_damaged_open_record_costs_the_log_at_the_most(tmp_path: Path, at: int) -> None:
    image = tmp_path / "vm.img"
    begin = make_image(image, SIZE, seed=5)
    assert die_at(image, 60, a_life)
    with image.with_name("vm.img.tracking").open("r+b") as file:
        raw = file.read()
        file.seek(at)
        file.write(bytes([raw[at] ^ 0x41]))
    source = ImageSource.open(image)
    cut = source.cut()
    assert cut is not None
    [record] = source.records(0, cut.epoch)
    assert record.dirty is not None
    if record.log is not None:
        assert replay([record.log], begin) == image.read_bytes()


def test_a_recovery_that_dies_is_begun_again(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    for step in range(200):
        for path in tmp_path.iterdir():
            path.unlink()
        begin = make_image(image, SIZE, seed=5)
        assert die_at(image, 700, a_life)
        died = die_at(image, step, lambda _: None)
        judge(image, begin, f"step {step}")
        if not died:
            assert step > 10
            return
    raise AssertionError("an opening has no end")


def test_an_epoch_that_was_put_back_and_finished_is_not_the_one_that_a_target_has(tmp_path: Path) -> None:
    """A file system put back to a snapshot of a running tracker, in the same boot: image and tracking fit each other,
    and what the target got of that epoch afterwards is missing in both."""
    image = tmp_path / "vm.img"
    make_image(image, SIZE)
    tracker = kernels.Tracker(tmp_path, "vm.img", log_limit=1 << 30)
    tracker.pwrite(b"a" * 5000, 0)
    snapshot = {path: path.read_bytes() for path in tmp_path.iterdir()}
    tracker.pwrite(b"b" * 5000, 2 * GRANULE)
    cut = Cut.from_native(json.loads(tracker.cut()))
    tracker.drop()
    for path in tmp_path.iterdir():
        path.unlink() if path not in snapshot else path.write_bytes(snapshot[path])
    raw = snapshot[image.with_name("vm.img.tracking")]
    [clock] = struct.unpack_from("<q", raw, 4096 + 8 if raw[4096:4104] == raw[152:160] else 4608 + 8)
    [generation] = struct.unpack_from("<Q", raw, 136)
    identity = (image.stat().st_ino, SIZE, clock, clock, generation)
    kernels.Tracker(tmp_path, "vm.img", identity=identity, settle_only=True).close()
    with FILES.open(image.with_name("vm.img.tracking")) as file:
        state = read_state(file, file.path)
    assert state is not None
    assert state.cut(0).epoch == cut.epoch == 1
    [record] = ImageSource.open(image).records(0, 1)
    assert record.log is not None, "it ends with its log"
    assert replay([record.log], bytes(SIZE)) == image.read_bytes()
    cursor = Cursor(tracking_id=str(cut.tracking_id), epoch=cut.epoch, chain=str(cut.chain))
    assert not follows(cursor, [], state.cut(0)), "what the target has of it is told to be all"
