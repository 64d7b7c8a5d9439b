"""Rule 6: a ctime that alone changed (libvirt's chown) means compare, unless it was said that it means nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from blockreplica import kernels
from blockreplica.tracking import ImageSource, TrackedImage, track

from .helpers import MIB, HookedFiles, die, grow, last_record, make_image, overwrite, replace_by_a_copy

SECOND_NS = 10**9
CLOCK_REALTIME_COARSE = 5


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    make_image(path, MIB)
    return path


def change_the_owner(image: Path) -> None:
    """What libvirt's chown leaves, also for those who may not chown."""
    os.chmod(image, 0o640)


def written(image: Path, *, ignore_ctime: bool | None = None) -> TrackedImage:
    tracked = track(image, ignore_ctime=ignore_ctime)
    tracked.pwrite(b"a" * 4096, 0)
    return tracked


def test_a_chown_of_a_closed_image_means_nothing_where_that_was_said_once(image: Path) -> None:
    with written(image, ignore_ctime=True):
        pass
    with written(image):
        pass
    change_the_owner(image)
    assert ImageSource.open(image).state == "closed"
    with written(image) as tracked:
        assert (tracked.status().found, tracked.warnings) == ("closed", [])
    assert last_record(image, 3) == (True, True)


def test_who_says_it_at_the_opening_is_believed_for_what_happened_before(image: Path) -> None:
    with written(image):
        pass
    change_the_owner(image)
    assert ImageSource.open(image).state == "changed"
    with track(image, ignore_ctime=True) as tracked:
        assert tracked.status().found == "closed"


def test_it_is_taken_back_the_same_way(image: Path) -> None:
    with written(image, ignore_ctime=True):
        pass
    change_the_owner(image)
    with track(image, ignore_ctime=False) as tracked:
        assert tracked.status().found == "suspect"
    change_the_owner(image)
    assert ImageSource.open(image).state == "changed"


@pytest.mark.parametrize("meddle", [overwrite, replace_by_a_copy, grow], ids=lambda one: one.__name__)
def test_a_change_that_shows_in_mtime_inode_or_size_is_noticed_all_the_same(image: Path, meddle: object) -> None:
    with written(image, ignore_ctime=True):
        pass
    assert callable(meddle)
    meddle(image)
    assert ImageSource.open(image).state == "changed"
    with track(image) as tracked:
        assert tracked.status().found == "suspect"
    assert last_record(image, 2) == (False, False)


def reopened(image: Path, *, ctime_ns: int, **named: bytes) -> tuple[bool, bool]:
    """What is left of epoch 1, in which the tracker died, where the image has that ctime now."""
    found = ImageSource.open(image).identity()
    identity = (found.ino, found.size, found.mtime_ns, ctime_ns, found.generation)
    kernels.Tracker(image.parent, image.name, identity=identity, **named).close()  # type: ignore[arg-type]
    return last_record(image, 1)


@pytest.mark.parametrize(
    ("ignore", "named", "left"),
    [
        (False, {}, (False, False)),
        (True, {}, (True, True)),
        (False, {"boot_id": b"another boot...."}, (False, False)),
        (True, {"boot_id": b"another boot...."}, (False, True)),
    ],
)
def test_a_chown_after_the_death_of_a_tracker_or_of_the_machine(
    image: Path,
    ignore: bool,
    named: dict[str, bytes],
    left: tuple[bool, bool],
) -> None:
    """libvirt takes the image back long after the last stamp."""
    die(written(image, ignore_ctime=ignore))
    assert reopened(image, ctime_ns=time.time_ns() + 60 * SECOND_NS, **named) == left


def test_a_tracker_that_has_the_image_open_is_told_by_its_socket(image: Path) -> None:
    with written(image):
        for ignore in (True, True, False, True):
            source = ImageSource.open(image)
            source.ignore_ctime(ignore=ignore)
            state = source._state()
            assert state is not None
            assert state.ignore_ctime == ignore
    change_the_owner(image)
    assert ImageSource.open(image).state == "closed"


def test_rule_6_a_close_waits_until_a_later_write_has_a_later_time(image: Path) -> None:
    """Times are stamped by a clock of some milliseconds a tick: what somebody writes in that of our last write would
    leave the identity that was recorded. Five times: a machine that is busy may wait by itself."""
    for _ in range(5):
        with track(image, files=HookedFiles(durable=False)) as tracked:
            tracked.pwrite(b"a", 0)
            ahead = time.clock_gettime_ns(CLOCK_REALTIME_COARSE) + 40_000_000
            os.utime(image, ns=(ahead, ahead))
        assert time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > ahead


def test_an_image_that_nobody_tracks_is_not_told_anything(image: Path) -> None:
    ImageSource.open(image).ignore_ctime(ignore=True)
    assert list(image.parent.iterdir()) == [image]
