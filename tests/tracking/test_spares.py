"""Rule 9: logs that nobody needs are written over, and what an earlier life left in them is never taken for new."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from blockreplica.hrl import LogReader
from blockreplica.hrl.apply import apply
from blockreplica.hrl.convert import convert
from blockreplica.tracking import ImageSource, track
from blockreplica.tracking.cursors import release
from blockreplica.tracking.names import Names

from .helpers import KIB, MIB, HookedFile, HookedFiles, beside, make_image, replay


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    make_image(path, MIB, seed=1)
    return path


def with_a_spare(image: Path, size: int = 300 * KIB) -> None:
    """A life whose log has become a spare."""
    with track(image, log_limit=1 << 30) as tracked:
        for at in range(0, size, 4096):
            tracked.pwrite(b"old!" * 1024, at)
        tracked.cut()
    source = ImageSource.open(image)
    source.set_cursor(uuid4(), 1)
    assert beside(image) == {".tracking", ".cursors", ".spare.000001"}


def test_a_log_that_every_cursor_has_passed_is_written_over_without_being_truncated(image: Path) -> None:
    with_a_spare(image)
    inode = image.with_name("vm.img.spare.000001").stat()
    events: list[tuple[str, str]] = []
    before = image.read_bytes()
    files = HookedFiles(lambda what, name, *_: events.append((what, name)))
    with track(image, files=files) as tracked:
        tracked.pwrite(b"new" * 1000, 5000)
        tracked.cut()
    assert ("truncate", "vm.img.hrl") not in events
    log = image.with_name("vm.img.000002.hrl")
    assert (log.stat().st_ino, log.stat().st_size) == (inode.st_ino, inode.st_size)
    assert replay([log], before) == image.read_bytes() != before


def test_readers_take_a_sealed_log_that_goes_on_behind_its_end(image: Path, tmp_path: Path) -> None:
    with_a_spare(image)
    before = image.read_bytes()
    with track(image) as tracked:
        tracked.pwrite(b"new" * 1000, 5000)
    log = image.with_name("vm.img.000002.hrl")
    with LogReader.open(log) as reader:
        assert reader.end < log.stat().st_size
        assert reader.check().entries == 1
    with LogReader.open(log, salvage=True) as reader:
        assert reader.total == 1
    copy = tmp_path / "copy"
    copy.write_bytes(before)
    assert apply(log, copy).entries == 1
    assert copy.read_bytes() == image.read_bytes()
    convert(log, tmp_path / "strict.hrl", strict=True)
    with LogReader.open(tmp_path / "strict.hrl") as reader:
        assert reader.check().entries == 1


def test_the_salvage_of_an_open_log_finds_nothing_of_its_earlier_life(image: Path, tmp_path: Path) -> None:
    """Its first group is written over what was a log of 75 entries, to the byte where those stood; what came later
    than its last 256 KiB may not be in the file yet."""
    with_a_spare(image, 600 * KIB)
    with track(image) as tracked:
        for at in range(200):
            tracked.pwrite(b"new!" * 1024, at % 130 * 4096)
        shutil.copy(image.with_name("vm.img.hrl"), tmp_path / "open.hrl")
    with LogReader.open(tmp_path / "open.hrl", salvage=True) as reader:
        assert reader.total == 127
        assert all((row["length"] == 4096) for rows in reader.entries() for row in rows)


def test_a_tracker_killed_over_a_recycled_log_still_leaves_a_log(image: Path) -> None:
    with_a_spare(image)
    before = image.read_bytes()
    child = os.fork()
    if child == 0:
        tracked = track(image)
        for at in range(20):
            tracked.pwrite(bytes([at]) * 3000, at * 3500)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    cut = ImageSource.open(image).cut()
    assert cut is not None
    assert (
        replay([record.log for record in ImageSource.open(image).records(1, cut.epoch)], before) == image.read_bytes()
    )


def test_a_spare_that_was_not_needed_stays_one(image: Path) -> None:
    with_a_spare(image)
    track(image).close()
    assert ".spare.000002" in beside(image)


def test_spares_above_their_limit_are_removed(image: Path) -> None:
    with track(image, log_limit=1 << 30) as tracked:
        for number in range(4):
            tracked.pwrite(bytes([number]) * 100_000, 0)
            tracked.cut()
    names, files = Names.of(image), HookedFiles()
    release(names, 2, files, spares=150_000)
    assert {path.name for path in names.spares(files)} == {"vm.img.spare.000001"}
    release(names, 4, files, spares=400_000)
    assert len(names.spares(files)) == 3


def test_logs_that_are_not_ours_to_write_over_are_removed(image: Path) -> None:
    with_a_spare(image)
    path = image.with_name("vm.img.000007.hrl")
    convert(image.with_name("vm.img.spare.000001"), path, strict=True)
    release(Names.of(image), 7, HookedFiles())
    assert not path.exists()
    assert not image.with_name("vm.img.spare.000007").exists()


def test_an_image_that_has_the_name_of_a_spare_is_left_alone(image: Path) -> None:
    other = image.with_name("vm.img.spare.000001")
    content = make_image(other, MIB, seed=9)
    with track(image) as tracked:
        tracked.pwrite(b"x", 0)
        tracked.cut()
    assert other.read_bytes() == content


def test_rule_9_a_strict_log_under_a_spares_name_is_not_written_over(image: Path) -> None:
    """Its blocks do not say which log they belong to: behind the new end they would pass for the new log's."""
    with_a_spare(image)
    spare, strict = image.with_name("vm.img.spare.000001"), image.with_name("strict.hrl")
    convert(spare, strict, strict=True)
    os.replace(strict, spare)
    held = spare.read_bytes()
    with track(image) as tracked:
        tracked.pwrite(b"new" * 1000, 5000)
        tracked.cut()
    assert spare.read_bytes() == held


def test_when_the_image_has_no_room_spares_go_before_the_log(image: Path) -> None:
    with_a_spare(image)
    shutil.copy(image.with_name("vm.img.spare.000001"), image.with_name("vm.img.spare.000009"))

    def full(what: str, name: str, _: HookedFile | None, __: object) -> None:
        if (what, name) == ("pwrite", "vm.img") and ".spare.000009" in beside(image):
            raise OSError(errno.ENOSPC, "full")

    with track(image, files=HookedFiles(full)) as tracked:
        tracked.pwrite(b"a" * 4096, 0)
        assert tracked.status().state == "tracking"
    assert ".spare.000009" not in beside(image)


def test_histories_over_recycled_logs_are_exact(image: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, content, cursor = random.Random(seed), bytearray(image.read_bytes()), uuid4()
    source = ImageSource.open(image)
    with track(image, log_limit=1 << 30) as tracked:
        for _ in range(12):
            for _ in range(rng.randrange(300)):
                tracked.pwrite(rng.randbytes(rng.randrange(1, 3000)), rng.randrange(MIB - 3000))
            cut = tracked.cut()
            content = replay([record.log for record in source.records(cut.epoch - 1, cut.epoch)], content)
            assert content == image.read_bytes()
            source.set_cursor(cursor, cut.epoch)
