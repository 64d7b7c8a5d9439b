"""A file system that is really full: the guest's writes go on for as long as its image has room (invariant 13)."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from blockreplica.errors import NoSpaceError
from blockreplica.tracking import ImageSource, cut_together, track

from .helpers import MIB, beside, unexplained


@contextlib.contextmanager
def a_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with a_disk(tmp_path / "small", "14m") as folder:
        yield folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with a_disk(tmp_path / "disk", "64m") as folder:
        yield folder


def sparse(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def free(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def test_a_log_leaves_a_sparse_image_on_its_disk_what_it_may_still_need(disk: Path) -> None:
    """Rule 3: at most the free space, less what the image may grow by, less a reserve (a 64th: 1 MiB)."""
    image = sparse(disk / "vm.img", 24 * MIB)
    largest = 0
    with track(image, log_limit=1 << 30) as tracked:
        while tracked.status().state == "tracking":
            tracked.pwrite(b"x" * 65536, 0)
            largest = max(largest, tracked.status().log_bytes)
            assert free(disk) >= 24 * MIB - image.stat().st_blocks * 512 + MIB
        assert 32 * MIB < largest < 38 * MIB


def test_an_image_that_shares_no_disk_with_its_log_takes_nothing_from_it(disk: Path, tmp_path: Path) -> None:
    image = sparse(tmp_path / "vm.img", 1 << 40)
    with track(image, log_limit=1 << 30, tracking_dir=disk) as tracked:
        for _ in range(40 * 16):
            tracked.pwrite(b"x" * 65536, 0)
        assert tracked.status().state == "tracking"


def test_an_image_that_may_outgrow_its_disk_has_a_small_log_all_the_same(disk: Path) -> None:
    """Rule 3, where the letter of it would leave no log ever: a sixteenth of what is free."""
    image = sparse(disk / "vm.img", 1 << 34)
    with track(image) as tracked:
        for _ in range(3 * 16):
            tracked.pwrite(b"x" * 65536, 0)
        assert tracked.status().state == "tracking"
        for _ in range(2 * 16):
            tracked.pwrite(b"x" * 65536, 0)
        assert tracked.status().state == "bitmap only"


def test_spares_leave_a_sparse_image_what_it_may_still_need(disk: Path) -> None:
    """Rule 3: they are a sixteenth of what logs may take, and older ones go when that gets less."""
    image = sparse(disk / "vm.img", 8 * MIB)
    source, relationship = ImageSource.open(image), uuid4()
    with track(image) as tracked:
        for at in range(2 * MIB // 65536):
            tracked.pwrite(b"x" * 65536, at * 65536)
        source.set_cursor(relationship, tracked.cut().epoch)
        assert ".spare.000001" in beside(image)
        disk.joinpath("filler").write_bytes(b"x" * (50 * MIB))
        source.set_cursor(relationship, 1)
        assert not any(".spare" in name for name in beside(image))


def test_on_a_disk_that_logs_would_fill_no_write_fails(small_disk: Path) -> None:
    """14 MiB for an image of 8, a tracking file of 2, and logs that alone would need 14."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    image = sparse(small_disk / "vm.img", 8 * MIB)
    states = set()
    with track(image, log_limit=1 << 30) as tracked:
        for _ in range(6):
            for _ in range(300):
                tracked.pwrite(rng.randbytes(8000), rng.randrange(8 * MIB - 8000))
            states.add(tracked.status().state)
            tracked.cut()
    source = ImageSource.open(image)
    cut = source.cut()
    assert cut is not None
    assert states == {"tracking", "bitmap only"}
    assert not unexplained(source.records(0, cut.epoch), bytes(8 * MIB), image.read_bytes())


def test_a_disk_filled_by_others_costs_the_log_and_not_the_tracker(small_disk: Path) -> None:
    """Bits of parts that were never written before find room: it was taken at open."""
    image = sparse(small_disk / "vm.img", 1 << 37)
    with track(image) as tracked:
        image.with_name("filler").write_bytes(b"x" * (10 * MIB))
        written = 0
        for number in range(64):
            with contextlib.suppress(NoSpaceError):
                tracked.pwrite(b"y" * (1 << 17), number << 31)
                written += 1
        assert 0 < written < 64
        assert tracked.status().state == "bitmap only"
        image.with_name("filler").unlink()
        assert tracked.cut().epoch == 1
        assert tracked.status().state == "tracking"
    [record] = ImageSource.open(image).records(0, 1)
    assert record.dirty is not None


def test_a_cut_of_a_group_on_a_full_disk_kills_no_tracker(small_disk: Path) -> None:
    """Invariant 13: the epoch word of rule 4 is mapped; where a page of a mapping finds no room, its process dies."""
    images = [small_disk / "a.img", small_disk / "b.img"]
    for image in images:
        image.touch()
        os.truncate(image, MIB)
    child = os.fork()
    if child == 0:
        try:
            with track(images[0]) as first, track(images[1]) as second:
                first.pwrite(b"a" * 4096, 0)
                second.pwrite(b"b" * 4096, 0)
                with contextlib.suppress(OSError), small_disk.joinpath("filler").open("wb", buffering=0) as filler:
                    while filler.write(bytes(4096)):
                        pass
                cuts = cut_together([ImageSource.open(image) for image in images])
                first.pwrite(b"c" * 4096, 0)
                assert all(cut is not None and cut.epoch == 1 for cut in cuts)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_epoch_word_without_room_is_refused(small_disk: Path) -> None:
    """Also when somebody else made it."""
    image, word = small_disk / "vm.img", small_disk / "word"
    image.touch()
    os.truncate(image, MIB)
    word.touch()
    os.truncate(word, 8)
    child = os.fork()
    if child == 0:
        with track(image) as tracked:
            with contextlib.suppress(OSError), small_disk.joinpath("filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(4096)):
                    pass
            with contextlib.suppress(NoSpaceError):
                tracked.prepare(word)
            small_disk.joinpath("filler").unlink()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
