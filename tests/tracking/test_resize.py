"""An image that grows or shrinks: the epoch ends at the old size, and what is lost was zeroed."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest

from blockreplica.errors import StorageError
from blockreplica.tracking import Cut, ImageSource, track

from .helpers import GRANULE, MIB, HookedFiles, die, dirty_granules, failing, make_image, replay


def check_points(image: Path, cuts: list[Cut], before: bytes) -> None:
    """Every point, by logs, has the size of its cut; the last is the image."""
    content, epoch = bytearray(before), 0
    for cut in cuts:
        logs = [record.log for record in ImageSource.open(image).records(epoch, cut.epoch)]
        content, epoch = replay(logs, content), cut.epoch
        content.extend(bytes(max(0, cut.size - len(content))))
        del content[cut.size :]
    assert bytes(content) == image.read_bytes()


def test_a_grown_and_shrunk_image_is_whole_at_each_of_its_sizes(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    before = make_image(image, 4 * MIB, seed=7)
    with track(image, log_limit=1 << 30) as tracked:
        cuts = []
        for size in (3 * MIB, 5 * MIB, 5 * MIB + 1, 777, 0, 2 * MIB, 2 * MIB):
            tracked.resize(size)
            assert tracked.size == image.stat().st_size == size
            if size:
                tracked.pwrite(b"last", size - 4)
            cuts.append(tracked.cut())
            assert cuts[-1].size == size
    check_points(image, cuts, before)


def test_the_epoch_ends_at_the_old_size(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    make_image(image, MIB)
    with track(image) as tracked:
        tracked.pwrite(b"x", 0)
        tracked.resize(2 * MIB)
    source = ImageSource.open(image)
    cut = source.cut()
    assert cut is not None
    assert (cut.epoch, cut.size) == (2, 2 * MIB), "growing alone is worth an epoch"
    assert all(record.log and record.dirty for record in source.records(0, 2))


def test_the_bitmap_of_a_shrunk_epoch_names_the_lost_tail(tmp_path: Path) -> None:
    """The log is given up; the image grows again: only the bitmap knows that the tail became zero."""
    image = tmp_path / "vm.img"
    make_image(image, 4 * MIB, seed=1)
    files = HookedFiles()
    with track(image, files=files) as tracked:
        files.hook = failing(errno.ENOSPC, "pwrite", "vm.img.hrl.next")  # the name it was opened by
        tracked.resize(3 * MIB)
        tracked.pwrite(b"x", 0)
        files.hook = lambda *_: None
        tracked.resize(4 * MIB)
        cut = tracked.cut()
    records = ImageSource.open(image).records(1, cut.epoch)
    assert records[0].log is None
    assert dirty_granules(records, 4 * MIB) == {0} | set(range(3 * MIB // GRANULE, 4 * MIB // GRANULE))


def test_a_tracker_that_dies_after_a_resize_leaves_its_log_and_bitmap(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    make_image(image, MIB)
    tracked = track(image)
    tracked.resize(3 * GRANULE)
    tracked.resize(MIB + 1)
    tracked.pwrite(b"x", MIB)
    die(tracked)
    with track(image) as again:
        assert again.size == MIB + 1
    records = ImageSource.open(image).records(0, 3)
    assert [record.log is not None for record in records] == [True, True, True]
    assert dirty_granules(records[2:], MIB + 1) == {MIB // GRANULE}


def test_an_image_that_can_not_be_resized_stays_as_it_was(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    before = make_image(image, MIB, seed=3)
    files = HookedFiles()
    with track(image, files=files, log_limit=1 << 30) as tracked:
        files.hook = failing(errno.EIO, "truncate", "vm.img")
        for size in (MIB // 2, 2 * MIB):
            with pytest.raises(StorageError):
                tracked.resize(size)
            assert tracked.size == MIB
        files.hook = lambda *_: None
        tracked.pwrite(b"x", MIB - 1)
        cut = tracked.cut()
    check_points(image, [cut], before)


def test_writers_go_on_after_a_resize_in_their_midst(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    image = tmp_path / "vm.img"
    before = make_image(image, MIB)
    with track(image, log_limit=1 << 30) as tracked:

        def scribble(number: int) -> None:
            rng = random.Random(seed + number)
            for _ in range(1500):
                tracked.pwrite(rng.randbytes(100), rng.randrange(MIB // 2 - 100))

        threads = [threading.Thread(target=scribble, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for size in (MIB // 2, 3 * MIB, MIB):
            tracked.resize(size)
        for thread in threads:
            thread.join()
        cut = tracked.cut()
    check_points(image, [cut], before)


def test_an_image_over_two_gib_has_several_pages_of_bits(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    gib = 1 << 30
    image.touch()
    os.truncate(image, gib)
    with track(image) as tracked:
        tracked.pwrite(b"a", 0)
        tracked.resize(7 * gib)
        tracked.pwrite(b"b", 7 * gib - 1)
        tracked.pwrite(b"c" * 10, 4 * gib - 5)
        tracked.zero(2 * gib - 1, 2)
        status = tracked.status()
        cut = tracked.cut()
    assert status.dirty_bytes == 5 * GRANULE
    last = dirty_granules(ImageSource.open(image).records(1, cut.epoch), 7 * gib)
    assert last == {at // GRANULE for at in (7 * gib - 1, 4 * gib - 5, 4 * gib, 2 * gib - 1, 2 * gib)}
