"""Rules 6 and 7: whether anything else was here, told by identity, stamps and boot; a lock; a version."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blockreplica import kernels
from blockreplica.errors import BlockReplicaError, BusyError, TrackingError
from blockreplica.files import FILES
from blockreplica.tracking import ImageSource, TrackedImage, track
from blockreplica.tracking.names import Names
from blockreplica.tracking.native import open_tracker
from blockreplica.tracking.state import VERSION, read_state

from .helpers import (
    GRANULE,
    MIB,
    HookedFiles,
    beside,
    die,
    dirty_granules,
    grow,
    last_record,
    make_image,
    overwrite,
    replace_by_a_copy,
)

SECOND_NS = 10**9


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    make_image(path, MIB)
    return path


def written(image: Path) -> TrackedImage:
    tracked = track(image)
    tracked.pwrite(b"a" * 4096, 3 * GRANULE)
    return tracked


def test_a_clean_close_ends_the_epoch_and_the_next_open_continues_the_chain(image: Path) -> None:
    with written(image):
        pass
    assert beside(image) == {".000001.hrl", ".000001.dirty", ".tracking"}
    source = ImageSource.open(image)
    assert source.state == "closed"
    first = source.cut()
    assert first is not None
    assert first.epoch == 1
    with written(image) as tracked:
        second = tracked.cut()
    assert (second.epoch, second.tracking_id) == (2, first.tracking_id)
    assert last_record(image, 2) == (True, True)


def test_an_open_that_writes_nothing_ends_no_epoch(image: Path) -> None:
    with written(image):
        pass
    before = ImageSource.open(image).cut()
    with track(image) as tracked:
        assert tracked.pread(1, 3 * GRANULE) == b"a"
    after = ImageSource.open(image).cut()
    assert before is not None
    assert after is not None
    assert (before.epoch, before.chain) == (after.epoch, after.chain)


def test_what_an_open_found_is_said(image: Path) -> None:
    with track(image) as tracked:
        assert tracked.warnings == []
    tracked = written(image)
    assert tracked.warnings == []
    die(tracked)
    with track(image) as tracked:
        assert "its last tracker died" in tracked.warnings[0]
    overwrite(image)
    with track(image) as tracked:
        assert "while nothing tracked it" in tracked.warnings[0]


def put_back_the_time(image: Path) -> None:
    info = image.stat()
    overwrite(image)
    os.utime(image, ns=(info.st_atime_ns, info.st_mtime_ns))


def change_the_owner(image: Path) -> None:
    os.chmod(image, 0o640)


@pytest.mark.parametrize(
    "meddle", [overwrite, replace_by_a_copy, grow, put_back_the_time, change_the_owner], ids=lambda one: one.__name__
)
def test_an_image_changed_while_nothing_tracked_it_is_suspect_as_a_whole(image: Path, meddle: object) -> None:
    with written(image):
        pass
    assert callable(meddle)
    meddle(image)
    assert ImageSource.open(image).state == "changed"
    with track(image) as tracked:
        cut = tracked.cut()
    assert cut.epoch == 3
    assert last_record(image, 2) == (False, False)
    assert last_record(image, 3) == (True, True)


def test_a_write_in_the_same_tick_as_the_close_is_noticed(image: Path) -> None:
    for _ in range(20):
        with written(image):
            pass
        with image.open("r+b", buffering=0) as file:
            file.write(os.urandom(8))
        source = ImageSource.open(image)
        assert source.state == "changed"
        source.cut()


def test_a_tracker_that_died_in_this_boot_leaves_the_log_and_the_bitmap_of_its_epoch(image: Path) -> None:
    tracked = written(image)
    tracked.cut()
    tracked.pwrite(b"b" * 4096, 7 * GRANULE - 1)
    die(tracked)
    assert ImageSource.open(image).state == "unclean"
    with track(image):
        pass
    records = ImageSource.open(image).records(0, 2)
    assert [(record.log is not None, record.dirty is not None) for record in records] == [(True, True), (True, True)]
    assert dirty_granules(records[1:], MIB) == {6, 7}
    assert not {".hrl", ".hrl.next"} & beside(image)


def test_a_tracker_that_died_in_another_boot_leaves_hot_regions_and_no_log(image: Path) -> None:
    die(written(image))
    kernels.Tracker(image.parent, image.name, boot_id=b"another boot....").close()
    assert last_record(image, 1) == (False, True)
    assert ".000001.hrl" not in beside(image)


def test_an_image_touched_after_the_loss_of_power_is_suspect_as_a_whole(image: Path) -> None:
    die(written(image))
    late = time.time_ns() + 5 * SECOND_NS
    os.utime(image, ns=(late, late))
    kernels.Tracker(image.parent, image.name, boot_id=b"another boot....").close()
    assert last_record(image, 1) == (False, False)


def test_an_image_touched_under_a_clock_that_was_set_back_after_the_loss_of_power_is_suspect_too(image: Path) -> None:
    """A host without a battery for its clock begins in 1970, and starts the VM straight from the file."""
    die(written(image))
    early = 1000 * SECOND_NS
    os.utime(image, ns=(early, early))
    kernels.Tracker(image.parent, image.name, boot_id=b"another boot....").close()
    assert last_record(image, 1) == (False, False)


def test_a_write_past_the_stamps_of_a_dead_tracker_makes_the_image_suspect(image: Path) -> None:
    """Export killed, someone boots the VM straight from the file, the export restarts in the same boot."""
    die(written(image))
    late = time.time_ns() + 5 * SECOND_NS
    os.utime(image, ns=(late, late))
    with track(image):
        pass
    assert last_record(image, 1) == (False, False)


def test_a_time_before_the_stamps_makes_the_image_suspect_too(image: Path) -> None:
    """The clock was set back, and then someone wrote."""
    die(written(image))
    early = time.time_ns() - 1000 * SECOND_NS
    os.utime(image, ns=(early, early))
    with track(image):
        pass
    assert last_record(image, 1) == (False, False)


@pytest.mark.parametrize("meddle", [replace_by_a_copy, grow], ids=lambda one: one.__name__)
def test_another_file_or_size_after_a_dead_tracker_makes_the_image_suspect(image: Path, meddle: object) -> None:
    die(written(image))
    assert callable(meddle)
    meddle(image)
    with track(image):
        pass
    assert last_record(image, 1) == (False, False)


def test_stamps_follow_the_writes_so_that_a_long_life_stays_provable(image: Path) -> None:
    tracked = track(image)
    tracked.pwrite(b"a", 0)
    time.sleep(1.2)  # longer than a stamp holds
    tracked.pwrite(b"b", 5 * GRANULE)
    die(tracked)
    with track(image):
        pass
    assert dirty_granules(ImageSource.open(image).records(0, 1), MIB) == {0, 5}


def test_stamps_of_an_earlier_session_prove_nothing(image: Path) -> None:
    """Rule 6. The third takes the place of the first; then what the second left stands where any is looked for."""
    die(written(image))
    tracked, path = written(image), Names.of(image).tracking
    stamps = path.read_bytes()[4096:5120]
    die(tracked)
    die(written(image))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(stamps)
    with track(image):
        pass
    assert last_record(image, 3) == (False, False)


def test_a_second_tracker_is_refused_with_the_pid_of_the_first(image: Path) -> None:
    code = "import sys, blockreplica.tracking as t; i = t.track(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, image], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        with pytest.raises(BusyError, match=f"process {child.pid} has it"):
            track(image)
        assert ImageSource.open(image).state == "tracking"
        child.stdin.close()
        assert child.wait() == 0
    track(image).close()


def test_another_name_of_the_same_image_meets_the_same_lock(image: Path) -> None:
    link = image.with_name("link.img")
    link.symlink_to(image)
    hard = image.with_name("hard.img")
    with track(image):
        with pytest.raises(BusyError):
            track(link)
        os.link(image, hard)
        with pytest.raises(BusyError, match="QEMU"):
            track(hard)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_qemu_refuses_a_tracked_image_and_takes_it_again_afterwards(image: Path) -> None:
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "raw", str(image), str(image.with_name("out"))]
    with track(image):
        refused = subprocess.run(convert, capture_output=True, text=True)
        assert refused.returncode != 0
        assert "lock" in refused.stderr
    assert subprocess.run(convert).returncode == 0


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")
def test_an_image_that_qemu_has_open_is_refused(image: Path) -> None:
    command = ["qemu-io", "-f", "raw", str(image)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write("read 0 512\n")
        qemu.stdin.flush()
        while "ops" not in qemu.stdout.readline():
            pass
        with pytest.raises(BusyError, match="QEMU"):
            track(image)
        qemu.stdin.write("quit\n")
        qemu.stdin.close()
    track(image).close()


def test_a_newer_tracking_file_is_refused_and_left_alone(image: Path) -> None:
    with written(image):
        pass
    path = Names.of(image).tracking
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, 8, VERSION + 1)
    struct.pack_into("<I", raw, 508, kernels.crc32c(raw[:508]))
    path.write_bytes(raw)
    with pytest.raises(TrackingError, match="version"):
        track(image)
    with pytest.raises(TrackingError, match=f"wanted at most {VERSION}"):
        open_tracker(Names.of(image), files=FILES)
    with pytest.raises(TrackingError, match="version"):
        ImageSource.open(image)
    assert path.read_bytes() == raw


def tracking_id(image: Path) -> object:
    cut = ImageSource.open(image).cut()
    assert cut is not None
    return cut.tracking_id


@pytest.mark.parametrize("at", [0, 7, 8, 12, 16, 33, 41, 57, 90, 92, 96, 105, 121, 153, 300, 508, 511])
def test_a_flipped_byte_of_the_state_starts_tracking_anew(image: Path, at: int) -> None:
    with written(image):
        pass
    before = tracking_id(image)
    path = Names.of(image).tracking
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x40
    path.write_bytes(raw)
    with track(image) as tracked:
        assert "damaged" in tracked.warnings[0]
        tracked.pwrite(b"x", 0)
        cut = tracked.cut()
    assert cut.tracking_id != before
    assert cut.epoch > 1, "an epoch of the new tracking must not be taken for one of the old"
    assert last_record(image, 1) == (False, False)


@pytest.mark.parametrize("length", [1, 100, 511, 512, 4096, 8192, 12288, 16383])
def test_a_cut_off_tracking_file_starts_tracking_anew(image: Path, length: int) -> None:
    with written(image):
        pass
    before = tracking_id(image)
    os.truncate(Names.of(image).tracking, length)
    assert tracking_id(image) != before


def test_a_dead_tracker_with_a_damaged_state_is_never_assumed_clean(image: Path) -> None:
    tracked = written(image)
    before = tracked.cut()
    tracked.pwrite(b"z", 0)
    die(tracked)
    path = Names.of(image).tracking
    raw = bytearray(path.read_bytes())
    raw[40] ^= 1
    path.write_bytes(raw)
    found = ImageSource.open(image).cut()
    assert found is not None
    assert found.tracking_id != before.tracking_id


def test_what_python_reads_of_the_state_is_what_the_tracker_wrote(image: Path) -> None:
    files = HookedFiles()
    with written(image) as tracked:
        cut = tracked.cut()
        with files.open(Names.of(image).tracking) as file:
            state = read_state(file, image)
        assert state is not None
        assert (state.epoch, state.size, state.clean, state.pid) == (2, MIB, False, os.getpid())
        assert (state.chain, state.tracking_id) == (cut.chain, cut.tracking_id)
    with files.open(Names.of(image).tracking) as file:
        state = read_state(file, image)
    assert state is not None
    assert (state.clean, state.pid) == (True, 0)
    assert state.identity == ImageSource.open(image).identity()


def test_the_death_of_an_opening_at_any_step_leaves_a_superset(image: Path, tmp_path: Path) -> None:
    """Every change to the tracker's files fails in turn, and with it all that follows."""
    die(written(image))
    saved = tmp_path / "saved"
    shutil.copytree(tmp_path, saved, copy_function=shutil.copy2)

    class DiedError(OSError):
        pass

    for step in range(100):
        left = step

        def hook(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise DiedError(5, "died")

        for path in tmp_path.glob("vm.img.*"):
            path.unlink()
        for path in saved.glob("vm.img.*"):
            shutil.copy2(path, tmp_path)
        files = HookedFiles(hook)
        with contextlib.suppress(BlockReplicaError):
            die(track(image, files=files))
        survived = left >= 0
        with track(image):
            pass
        cut = ImageSource.open(image).cut()
        assert cut is not None
        assert 3 in dirty_granules(ImageSource.open(image).records(0, cut.epoch), MIB), f"step {step}"
        if survived:
            assert step > 5
            return
    raise AssertionError("an opening has no end")
