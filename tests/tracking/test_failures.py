"""Rule 3: the guest before all. What fails costs the log, then the bitmap, and never a write."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from blockreplica.errors import NoSpaceError, StorageError
from blockreplica.tracking import ImageSource, track
from blockreplica.tracking.state import SLOTS_AT

from .helpers import (
    GRANULE,
    KIB,
    MIB,
    HookedFile,
    HookedFiles,
    beside,
    die,
    differing_granules,
    dirty_granules,
    failing,
    make_image,
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    make_image(path, MIB, seed=1)
    return path


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_log_that_can_not_be_written_never_fails_the_write(image: Path, number: int) -> None:
    before = image.read_bytes()
    files = HookedFiles(failing(number, "pwrite", "vm.img.hrl"))
    with track(image, files=files) as tracked:
        tracked.pwrite(b"a" * 4096, 0)
        tracked.pwrite(b"b" * 4096, 5 * GRANULE)
        status = tracked.status()
        assert status.state == "bitmap only"
        assert status.log_error == os.strerror(number)
        assert status.dirty_bytes == 2 * GRANULE
        files.hook = lambda *_: None
        first = tracked.cut()
        tracked.pwrite(b"c" * 4096, 9 * GRANULE)
        second = tracked.cut()
    records = ImageSource.open(image).records(0, second.epoch)
    assert first.epoch == 1
    assert [(record.log is None, record.dirty is None) for record in records] == [(True, False), (False, False)]
    assert dirty_granules(records, MIB) == differing_granules(before, image.read_bytes())


def test_a_log_that_can_not_be_created_never_fails_the_opening_or_the_cut(image: Path) -> None:
    def full(what: str, name: str, _: HookedFile | None, __: tuple[Any, ...]) -> None:
        if what == "create" and ".hrl" in name:
            raise OSError(errno.ENOSPC, "full")

    files = HookedFiles(full)
    with track(image, files=files) as tracked:
        tracked.pwrite(b"a", 0)
        assert tracked.cut().epoch == 1
        tracked.pwrite(b"b", 0)
        assert tracked.status().state == "bitmap only"
        files.hook = lambda *_: None
        tracked.cut()
        assert tracked.status().state == "tracking"
    assert ".000001.hrl" not in beside(image)
    assert {".000001.dirty", ".000002.dirty"} <= beside(image)


def test_an_image_without_room_gets_that_of_the_log(image: Path) -> None:
    room = 1

    def full(what: str, name: str, _: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        nonlocal room
        if (what, name) == ("pwrite", "vm.img") and room <= 0:
            raise OSError(errno.ENOSPC, "full")
        if (what, name, arguments) == ("truncate", "vm.img.hrl", (0,)):
            room += 1
        if (what, name) == ("pwrite", "vm.img"):
            room -= 1

    files = HookedFiles()
    with track(image, files=files) as tracked:
        files.hook = full
        tracked.pwrite(b"a" * 4096, 0)
        tracked.pwrite(b"b" * 4096, 4096)  # fits once the log is gone
        assert tracked.status().state == "bitmap only"
        assert image.with_name("vm.img.hrl").stat().st_size == 0
        with pytest.raises(NoSpaceError):
            tracked.pwrite(b"c" * 4096, 8192)
        files.hook = lambda *_: None
    assert image.read_bytes()[:8192] == b"a" * 4096 + b"b" * 4096


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("change", ["pwrite", "zero"])
def test_rule_3_no_change_fails_for_the_room_that_the_log_has(image: Path, change: str, number: int) -> None:
    full = True

    def hook(what: str, name: str, _: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        nonlocal full
        if full and (what, name) == (change, "vm.img"):
            raise OSError(number, "full")
        if (what, name, arguments) == ("truncate", "vm.img.hrl", (0,)):
            full = False

    files = HookedFiles()
    with track(image, files=files) as tracked:
        files.hook = hook
        tracked.pwrite(bytes(4096), 0) if change == "pwrite" else tracked.zero(0, 4096)
        files.hook = lambda *_: None
        assert tracked.status().state == "bitmap only"
    assert image.read_bytes()[:4096] == bytes(4096)


def test_an_image_without_room_gets_that_of_sealed_logs_too(image: Path) -> None:
    """Their bitmaps stand in for them; the newest goes last."""
    full = False

    def hook(what: str, name: str, *_: object) -> None:
        if full and (what, name) == ("pwrite", "vm.img") and {".000001.hrl", ".000002.hrl"} & beside(image):
            raise OSError(errno.ENOSPC, "full")

    files = HookedFiles(hook)
    with track(image, files=files) as tracked:
        for number in range(4):
            tracked.pwrite(bytes([number]) * 4096, number * GRANULE)
            tracked.cut()
        full = True
        tracked.pwrite(b"x" * 4096, 9 * GRANULE)
        full = False
        assert tracked.status().state == "bitmap only"
    records = ImageSource.open(image).records(0, 5)
    assert [record.log is not None for record in records] == [False, False, True, True, False]
    assert dirty_granules(records, MIB) == {0, 1, 2, 3, 9}


def test_a_log_over_its_limit_gives_way_to_the_bitmap_until_the_next_cut(image: Path) -> None:
    with track(image, log_limit=100 * KIB) as tracked:
        for at in range(40):
            tracked.pwrite(b"a" * 4096, at * 8192)
        assert tracked.status().state == "bitmap only"
        assert tracked.status().log_bytes == 0
        tracked.cut()
        tracked.pwrite(b"b", 0)
        assert tracked.status().state == "tracking"
        tracked.cut()
    assert beside(image) >= {".000001.dirty", ".000002.dirty", ".000002.hrl"}
    assert ".000001.hrl" not in beside(image)


def test_the_limit_is_half_of_the_image_unless_given(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    make_image(image, 8 * MIB)
    with track(image) as tracked:
        for at in range(3):
            tracked.pwrite(b"a" * MIB, at * MIB)
        assert tracked.status().state == "tracking"
        tracked.pwrite(b"a" * MIB, 3 * MIB)
        assert tracked.status().state == "bitmap only"


def test_rule_2_a_flush_waits_for_an_fsync_that_begins_after_the_writes_before_it(image: Path) -> None:
    """One that was under way already may have passed by what was written since."""
    reached, go_on, syncs = threading.Event(), threading.Event(), 0

    def slow(what: str, name: str, _: HookedFile | None, __: tuple[Any, ...]) -> None:
        nonlocal syncs
        if (what, name) == ("sync", "vm.img"):
            syncs += 1
            reached.set()
            assert go_on.wait(30)

    files = HookedFiles()
    with track(image, files=files) as tracked:
        files.hook = slow
        first = threading.Thread(target=tracked.flush)
        first.start()
        assert reached.wait(30)
        tracked.pwrite(b"a" * 4096, 0)
        second = threading.Thread(target=tracked.flush)
        second.start()
        second.join(0.3)
        go_on.set()
        first.join()
        second.join()
        files.hook = lambda *_: None
    assert syncs == 2


def test_a_failed_fsync_of_the_image_is_never_taken_back(image: Path) -> None:
    files = HookedFiles()
    tracked = track(image, files=files)
    tracked.pwrite(b"a" * 4096, 0)
    files.hook = failing(errno.EIO, "sync", "vm.img")
    with pytest.raises(StorageError, match="EIO"):
        tracked.flush()
    files.hook = lambda *_: None
    with pytest.raises(StorageError):
        tracked.flush()
    with pytest.raises(StorageError):
        ImageSource.open(image).sync_image()
    assert tracked.status().state == "whole image"
    cut = tracked.cut()
    [record] = ImageSource.open(image).records(0, cut.epoch)
    assert (record.log, record.dirty) == (None, None)
    with pytest.raises(StorageError):
        tracked.close()
    source = ImageSource.open(image)
    assert source.state == "unclean"
    settled = source.cut()
    assert settled is not None
    assert all(one.log is None and one.dirty is None for one in source.records(cut.epoch, settled.epoch))


def test_after_a_failed_fsync_a_killed_tracker_leaves_nothing_to_trust(image: Path) -> None:
    files = HookedFiles()
    tracked = track(image, files=files)
    tracked.pwrite(b"a" * 4096, 0)
    files.hook = failing(errno.EIO, "sync", "vm.img")
    with pytest.raises(StorageError):
        tracked.flush()
    files.hook = lambda *_: None
    die(tracked)
    with track(image):
        pass
    [record] = ImageSource.open(image).records(0, 1)
    assert (record.log, record.dirty) == (None, None)


def test_bits_that_can_not_stand_in_the_file_make_a_crash_suspect_but_not_a_cut(image: Path) -> None:
    def broken(what: str, name: str, _: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        if (what, name) == ("pwrite", "vm.img.tracking") and arguments[1] >= SLOTS_AT:
            raise OSError(errno.EIO, "broken")

    files = HookedFiles()
    tracked = track(image, files=files)
    files.hook = broken
    tracked.pwrite(b"a" * 4096, 0)
    assert tracked.status().state == "tracking"
    files.hook = lambda *_: None
    tracked.cut()
    [record] = ImageSource.open(image).records(0, 1)
    assert record.log is not None
    assert dirty_granules([record], MIB) == {0}
    files.hook = broken
    tracked.pwrite(b"b" * 4096, GRANULE)
    files.hook = lambda *_: None
    die(tracked)
    with track(image):
        pass
    [record] = ImageSource.open(image).records(1, 2)
    assert (record.log, record.dirty) == (None, None)


def test_when_neither_tracking_file_nor_mark_can_be_written_the_write_goes_on_and_the_state_is_critical(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "no" / "such"))

    def broken(what: str, name: str, *_: object) -> None:
        if what in ("pwrite", "create") and name in ("vm.img.tracking", "vm.img.whole"):
            raise OSError(errno.EIO, "broken")

    files = HookedFiles()
    with track(image, files=files) as tracked:
        files.hook = broken
        tracked.pwrite(b"a" * 4096, 0)
        assert tracked.pread(1, 0) == b"a"
        assert tracked.status().state == "critical"
        files.hook = lambda *_: None


def test_a_growth_that_the_tracking_file_can_not_follow_leaves_the_tracker_as_it_was(image: Path) -> None:
    before = image.read_bytes()
    files = HookedFiles(lambda *_: None)
    with track(image, files=files) as tracked:
        tracked.pwrite(b"a" * 4096, 0)
        files.hook = failing(errno.EIO, "pread", "vm.img.tracking")
        with pytest.raises(StorageError):
            tracked.resize(1 << 40)  # far more bits than there is room for now
        tracked.pwrite(b"b" * 4096, 5 * GRANULE)
        files.hook = lambda *_: None
        last = tracked.cut()
    records = ImageSource.open(image).records(0, last.epoch)
    assert dirty_granules(records, MIB) >= differing_granules(before, image.read_bytes()[:MIB])


def refusing(*names: str) -> Any:
    """A disk on which none of these files can be written any more."""

    def broken(what: str, name: str, *_: object) -> None:
        if what in ("pwrite", "create") and name in names:
            raise OSError(errno.EROFS, "read-only")

    return broken


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the host keeps marks; nothing is there yet, not even the folder."""
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(state))
    return state / "suspect"


def test_rule_3_a_mark_that_finds_no_place_beside_the_image_is_made_in_the_state_folder(
    image: Path, marks: Path
) -> None:
    files = HookedFiles()
    tracked = track(image, files=files)
    files.hook = refusing("vm.img.tracking", "vm.img.whole")
    tracked.pwrite(b"a" * 4096, 0)
    assert tracked.status().state == "whole image"
    [mark] = marks.iterdir()
    files.hook = lambda *_: None
    die(tracked)
    other = image.with_name("other.img")
    make_image(other, MIB, seed=2)
    track(other).close()
    assert mark.exists(), "that of another image"
    with track(image) as again:
        assert again.status().found == "suspect"
    assert not mark.exists()
    [record] = ImageSource.open(image).records(0, 1)
    assert (record.log, record.dirty) == (None, None)


def test_rule_3_only_where_no_place_takes_the_mark_the_state_is_critical(image: Path, marks: Path) -> None:
    marks.write_bytes(b"no folder")
    files = HookedFiles()
    with track(image, files=files) as tracked:
        files.hook = refusing("vm.img.tracking", "vm.img.whole")
        tracked.pwrite(b"a" * 4096, 0)
        assert tracked.status().state == "critical"
        files.hook = lambda *_: None
