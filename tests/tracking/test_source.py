"""Rule 2: when dirt is let go; rule 8: one image, several targets; and what a source says of an image."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from blockreplica.errors import BusyError, StorageError, TrackingError
from blockreplica.tracking import ImageSource, TrackedImage, track
from blockreplica.tracking.cursors import read_cursors, trim
from blockreplica.tracking.names import Names
from blockreplica.tracking.native import open_tracker
from blockreplica.tracking.source import EPOCHS

from .helpers import GRANULE, MIB, HookedFiles, beside, die, dirty_granules, failing, make_image, replay


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    make_image(path, MIB)
    return path


def write_epochs(image: Path, count: int) -> None:
    with track(image) as tracked:
        for number in range(count):
            tracked.pwrite(bytes([number + 1]) * 4096, number * 65536)
            tracked.cut()


def epochs_left(image: Path) -> set[int]:
    return {epoch for epoch, _ in Names.of(image).artifacts(HookedFiles())}


def cursors(image: Path) -> dict[UUID, int]:
    cut = ImageSource.open(image).cut()
    assert cut is not None
    return read_cursors(Names.of(image), cut.tracking_id, HookedFiles())


def test_an_image_that_nothing_ever_tracked_has_no_cut(image: Path) -> None:
    source = ImageSource.open(image)
    assert (source.state, source.cut(), source.status(), source.size()) == ("untracked", None, None, MIB)
    source.set_cursor(uuid4(), 1)
    source.drop_cursor(uuid4())
    source.sync_image()
    assert beside(image) == set()


def test_an_epoch_goes_when_every_relationship_has_it_and_not_before(image: Path) -> None:
    write_epochs(image, 4)
    one, two = uuid4(), uuid4()
    source = ImageSource.open(image)
    source.set_cursor(one, 0)
    source.set_cursor(two, 0)
    source.set_cursor(one, 3)
    assert epochs_left(image) == {1, 2, 3, 4}
    source.set_cursor(two, 2)
    assert epochs_left(image) == {3, 4}
    assert source.records(0, 2)[0].log is None
    source.set_cursor(two, 4)
    assert epochs_left(image) == {4}
    source.drop_cursor(one)
    assert epochs_left(image) == set()
    assert cursors(image) == {two: 4}


def test_without_a_relationship_every_log_stays(image: Path) -> None:
    write_epochs(image, 3)
    assert epochs_left(image) == {1, 2, 3}


def test_the_last_relationship_that_goes_takes_the_logs_with_it(image: Path) -> None:
    write_epochs(image, 3)
    one = uuid4()
    source = ImageSource.open(image)
    source.set_cursor(one, 1)
    source.drop_cursor(one)
    assert epochs_left(image) == set()


def test_a_cursor_is_durable_before_anything_is_removed(image: Path) -> None:
    write_epochs(image, 2)
    events: list[tuple[str, str]] = []
    files = HookedFiles(lambda what, name, *_: events.append((what, name)))
    ImageSource.open(image, files=files).set_cursor(uuid4(), 2)
    renamed = events.index(("rename", "vm.img.cursors.new"))
    removed = min(at for at, (what, _) in enumerate(events) if what == "unlink")
    assert events.index(("sync", "vm.img.cursors.new")) < renamed
    assert renamed < events.index(("sync folder", image.parent.name)) < removed


def test_cursors_set_by_many_at_once_are_all_there(image: Path) -> None:
    write_epochs(image, 1)
    wanted = {uuid4(): number for number in range(12)}
    threads = [threading.Thread(target=ImageSource.open(image).set_cursor, args=one) for one in wanted.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cursors(image) == wanted


def test_cursors_of_an_earlier_tracking_mean_nothing(image: Path) -> None:
    write_epochs(image, 2)
    ImageSource.open(image).set_cursor(uuid4(), 1)
    Names.of(image).tracking.write_bytes(b"damaged")
    assert cursors(image) == {}
    two = uuid4()
    ImageSource.open(image).set_cursor(two, 1)
    assert cursors(image) == {two: 1}


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 0}', b"\xff", b"null"])
def test_damaged_cursors_are_replaced(image: Path, raw: bytes) -> None:
    write_epochs(image, 1)
    Names.of(image).cursors.write_bytes(raw)
    one = uuid4()
    ImageSource.open(image).set_cursor(one, 1)
    assert cursors(image) == {one: 1}
    assert json.loads(Names.of(image).cursors.read_text())["version"] == 1


def test_cursors_of_a_newer_version_are_left_as_they_are(image: Path) -> None:
    write_epochs(image, 1)
    Names.of(image).cursors.write_bytes(b'{"version": 9}')
    with pytest.raises(TrackingError, match="newer"):
        ImageSource.open(image).set_cursor(uuid4(), 1)
    assert Names.of(image).cursors.read_bytes() == b'{"version": 9}'


def test_a_target_that_stays_away_does_not_fill_the_disk(image: Path) -> None:
    """Logs that together grow beyond the limit of one go, oldest first; the bitmaps stay."""
    with track(image, log_limit=300_000) as tracked:
        ImageSource.open(image).set_cursor(uuid4(), 0)
        for number in range(8):
            tracked.pwrite(bytes([number + 1]) * 60_000, number * 65536)
            tracked.cut()
        records = ImageSource.open(image).records(0, 8)
        total = sum(path.stat().st_size for path in image.parent.glob("*.hrl"))
    assert all(record.dirty for record in records)
    assert records[-1].log is not None
    assert records[0].log is None
    assert total <= 300_000 + 80_000
    assert dirty_granules(records, MIB) == set(range(8))


def test_rule_8_a_log_whose_bitmap_is_lost_stays_whatever_it_takes(image: Path) -> None:
    """Nothing would stand in for it: what it alone tells would be compared nowhere."""
    write_epochs(image, 5)
    source, names = ImageSource.open(image), Names.of(image)
    source.set_cursor(uuid4(), 0)
    cut = source.cut()
    assert cut is not None
    names.dirty(2).unlink()
    trim(names, cut.tracking_id, 1, HookedFiles())
    assert [record.log is not None for record in source.records(0, 5)] == [False, True, False, False, True]
    assert [record.dirty is not None for record in source.records(0, 5)] == [True, False, True, True, True]


def test_records_name_only_what_belongs_to_this_tracking(image: Path, tmp_path: Path) -> None:
    write_epochs(image, 2)
    other = tmp_path / "other.img"
    make_image(other, MIB)
    write_epochs(other, 2)
    names, foreign = Names.of(image), Names.of(other)
    os.replace(foreign.log(1), names.log(1))
    os.replace(foreign.dirty(2), names.dirty(2))
    first, second = ImageSource.open(image).records(0, 2)
    assert (first.log, first.dirty) == (None, names.dirty(1))
    assert (second.log, second.dirty) == (names.log(2), None)
    names.log(1).write_bytes(names.log(2).read_bytes())
    assert ImageSource.open(image).records(0, 1)[0].log is None, "the log of another epoch"


def test_a_damaged_bitmap_is_not_named_and_a_damaged_log_is_the_readers_to_find(image: Path) -> None:
    write_epochs(image, 1)
    names = Names.of(image)
    for path, at in ((names.dirty(1), 4096), (names.log(1), 44)):
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1
        path.write_bytes(raw)
    [record] = ImageSource.open(image).records(0, 1)
    assert (record.log, record.dirty) == (names.log(1), None)


def test_an_absurd_backlog_is_the_whole_image(image: Path) -> None:
    write_epochs(image, 1)
    [record] = ImageSource.open(image).records(0, EPOCHS + 1)
    assert (record.log, record.dirty) == (None, None)


def test_a_failed_fsync_of_a_closed_image_makes_it_suspect(image: Path) -> None:
    write_epochs(image, 1)
    files = HookedFiles(failing(errno.EIO, "sync", "vm.img"))
    before = ImageSource.open(image).cut()
    with pytest.raises(StorageError):
        ImageSource.open(image, files=files).sync_image()
    after = ImageSource.open(image).cut()
    assert before is not None
    assert after is not None
    assert after.epoch > before.epoch
    records = ImageSource.open(image).records(before.epoch, after.epoch)
    assert [(one.log, one.dirty) for one in records] == [(None, None)]


def test_the_identity_of_an_image_changes_with_every_write_to_it(image: Path) -> None:
    source = ImageSource.open(image)
    for _ in range(30):
        before = source.identity()
        with image.open("r+b", buffering=0) as file:
            file.write(b"x")
        assert source.identity() != before


def test_a_cut_of_a_closed_image_has_the_time_it_is_asked_at(image: Path) -> None:
    write_epochs(image, 1)
    before = time.time()
    cut = ImageSource.open(image).cut()
    assert cut is not None
    assert before <= cut.time <= time.time()


def test_a_changed_image_is_settled_once(image: Path) -> None:
    write_epochs(image, 1)
    with image.open("r+b") as file:
        file.write(b"x")
    source = ImageSource.open(image)
    first = source.cut()
    assert source.state == "changed"
    second = ImageSource.open(image).cut()
    assert first is not None
    assert second is not None
    assert (first.epoch, first.chain) == (second.epoch, second.chain) == (2, second.chain)
    assert ImageSource.open(image).state == "closed"


def test_a_tracker_without_a_socket_is_busy_not_closed(image: Path) -> None:
    with track(image):
        Names.of(image).control.unlink()
        source = ImageSource.open(image)
        assert source.state == "tracking"
        with pytest.raises(BusyError, match=f"process {os.getpid()}"):
            source.cut()


def test_a_dead_trackers_image_is_unclean_until_it_is_settled(image: Path) -> None:
    tracked = track(image)
    tracked.pwrite(b"a" * 10, 65536)
    die(tracked)
    source = ImageSource.open(image)
    assert source.state == "unclean"
    cut = source.cut()
    assert cut is not None
    assert (cut.epoch, source.state) == (1, "unclean")
    assert dirty_granules(source.records(0, 1), MIB) == {1}
    with track(image) as again:
        again.pwrite(b"b", 0)
    assert replay([source.records(1, 2)[0].log], b"\0" * 65536 + b"a" * 10 + bytes(MIB - 65546)) == image.read_bytes()


@pytest.mark.parametrize("dead", [True, False])
def test_rule_6_a_write_while_an_image_is_settled_is_noticed(image: Path, *, dead: bool) -> None:
    """A machine is started from the very file, in the instant between judging it and recording what it is."""
    tracked = track(image)
    tracked.pwrite(b"a" * 10, 65536)
    (die if dead else TrackedImage.close)(tracked)
    syncs = 0

    def hook(what: str, name: str, *_: object) -> None:
        nonlocal syncs
        syncs += (what, name) == ("sync", "vm.img")
        if (what, name) == ("sync", "vm.img") and syncs == (2 if dead else 1):
            with image.open("r+b") as file:
                file.write(b"x")

    open_tracker(Names.of(image), files=HookedFiles(hook), settle_only=True, log="transit").close()
    assert image.read_bytes()[:1] == b"x"
    cut = ImageSource.open(image).cut()
    assert cut is not None
    assert cut.epoch == 2
    assert dirty_granules(ImageSource.open(image).records(1, cut.epoch), MIB) == set(range(MIB // GRANULE))


def test_an_image_that_was_replaced_under_its_tracker_is_refused_until_that_is_closed(
    image: Path, tmp_path: Path
) -> None:
    """Rule 6: was anything else here? What the tracker tells is of the file that it has open, not of the new one."""
    with track(image) as tracked:
        tracked.pwrite(b"old file", 0)
        other = tmp_path / "other.img"
        make_image(other, MIB)
        other.rename(image)
        with pytest.raises(BusyError, match=f"replaced .* process {os.getpid()}"):
            ImageSource.open(image).cut()
    source = ImageSource.open(image)
    assert source.state == "changed"
    assert source.cut() is not None
