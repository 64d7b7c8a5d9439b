"""A file system that is really full: the guest's writes go on for as long as its image has room (invariant 13)."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockreplica.errors import NoSpaceError
from blockreplica.tracking import ImageSource, cut_together, track

from .helpers import MIB, unexplained


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=14m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_disk_that_logs_would_fill_no_write_fails(small_disk: Path) -> None:
    """14 MiB for an image of 8, a tracking file of 2, and logs that alone would need 14."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    image = small_disk / "vm.img"
    image.touch()
    os.truncate(image, 8 * MIB)
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
    image = small_disk / "vm.img"
    image.touch()
    os.truncate(image, 1 << 37)
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
