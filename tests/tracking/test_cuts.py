"""Rules 4 and 5: a cut is an epoch word, not a drain; every tracker can be asked for one."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from blockreplica.errors import StorageError
from blockreplica.tracking import Cut, ImageSource, track
from blockreplica.tracking.names import Names

from .helpers import MIB, HookedFile, HookedFiles, beside, die, dirty_granules, make_image, replay

COUNTER = struct.Struct("<Q")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.img", tmp_path / "b.img"]
    for path in paths:
        make_image(path, MIB)
    return paths


def test_cuts_under_load_are_prefixes_of_what_was_written(tmp_path: Path) -> None:
    """One writer, a journal: at each cut exactly the first so many of its records are there."""
    image = tmp_path / "vm.img"
    make_image(image, MIB)
    with track(image, log_limit=1 << 30) as tracked:
        done = threading.Event()

        def journal() -> None:
            number = 0
            while not done.is_set():
                number += 1
                tracked.pwrite(COUNTER.pack(number), number * 8 % (MIB // 8) * 8)

        writer = threading.Thread(target=journal)
        writer.start()
        cuts = [tracked.cut() for _ in range(15)]
        done.set()
        writer.join()
    content, epoch, records = bytearray(MIB), 0, 0
    for cut in cuts:
        logs = [record.log for record in ImageSource.open(image).records(epoch, cut.epoch)]
        content, epoch = replay(logs, content), cut.epoch
        values = sorted(value for (value,) in COUNTER.iter_unpack(content) if value)
        assert values == list(range(values[0], values[-1] + 1)) if values else True
        assert len(values) >= min(records, MIB // 64)
        records = len(values)


def test_a_write_in_flight_keeps_its_epoch_and_stops_nobody(tmp_path: Path) -> None:
    """Logs N and N+1 stand open together until no write of N is in flight."""
    image = tmp_path / "vm.img"
    make_image(image, MIB)
    reached, go_on = threading.Event(), threading.Event()

    def slow(what: str, name: str, _: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        if (what, name) == ("pwrite", "vm.img.hrl") and arguments[0] == b"old" * 100:
            reached.set()
            assert go_on.wait(30)

    word = tmp_path / "word"
    word.write_bytes(bytes(8))
    with track(image, files=HookedFiles(slow)) as tracked:
        writer = threading.Thread(target=tracked.pwrite, args=(b"old" * 100, 8192))
        writer.start()
        assert reached.wait(30)
        tracked.prepare(word)
        word.write_bytes(b"\1".ljust(8, b"\0"))
        tracked.pwrite(b"new", 100_000)  # of the next epoch, while the old one still has a write in flight
        assert {".hrl", ".hrl.next"} <= beside(image)
        cuts: list[Cut] = []
        cutter = threading.Thread(target=lambda: cuts.append(tracked.finish()))
        cutter.start()
        tracked.pwrite(b"newer", 200_000)
        cutter.join(0.3)
        assert not cuts, "ended although a write of it is in flight"
        go_on.set()
        cutter.join()
        writer.join()
        tracked.cut()
    first, second = (record.log for record in ImageSource.open(image).records(0, 2))
    assert replay([first], bytes(MIB)) == bytes(8192) + b"old" * 100 + bytes(MIB - 8192 - 300)
    assert replay([first, second], bytes(MIB)) == image.read_bytes()


def test_an_overlapping_write_waits_for_the_one_in_flight_and_only_that(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    make_image(image, MIB)
    reached, go_on, order = threading.Event(), threading.Event(), []

    def slow(what: str, name: str, _: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        if (what, name) == ("pwrite", "vm.img"):
            order.append(bytes(arguments[0][:1]))
            if arguments[0][:1] == b"1":
                reached.set()
                assert go_on.wait(30)

    with track(image, files=HookedFiles(slow)) as tracked:
        first = threading.Thread(target=tracked.pwrite, args=(b"1" * 4096, 0))
        first.start()
        assert reached.wait(30)
        second = threading.Thread(target=tracked.pwrite, args=(b"2" * 4096, 4095))
        second.start()
        tracked.pwrite(b"3" * 4096, 8192)
        assert order == [b"1", b"3"]
        go_on.set()
        first.join()
        second.join()
    assert order == [b"1", b"3", b"2"]
    assert image.read_bytes()[:8192] == b"1" * 4095 + b"2" * 4096 + b"\0"


def test_a_cutter_that_dies_before_the_instant_leaves_nothing_behind(images: list[Path], tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_bytes(bytes(8))
    with track(images[0]) as tracked:
        tracked.pwrite(b"a", 0)
        control = ImageSource.open(images[0]).ask()
        assert control is not None
        control.prepare(word)
        control.close()
        cut = tracked.cut()
        assert cut.epoch == 1
        word.write_bytes(b"\1" * 8)  # too late: nobody looks any more
        tracked.pwrite(b"b", 1)
        assert tracked.status().epoch == 2
    assert replay([Names.of(images[0]).log(1)], bytes(MIB))[:2] == b"a\0"


def test_a_cutter_that_dies_after_the_instant_leaves_a_finished_cut(images: list[Path], tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_bytes(bytes(8))
    with track(images[0]) as tracked:
        tracked.pwrite(b"a", 0)
        control = ImageSource.open(images[0]).ask()
        assert control is not None
        control.prepare(word)
        word.write_bytes(b"\1".ljust(8, b"\0"))
        tracked.pwrite(b"b", 1)
        control.close()
        assert tracked.cut().epoch == 2
    first, second = (record.log for record in ImageSource.open(images[0]).records(0, 2))
    assert replay([first], bytes(MIB))[:2] == b"a\0"
    assert replay([first, second], bytes(MIB))[:2] == b"ab"


def test_rule_4_a_tracker_that_dies_in_a_cut_leaves_a_log_of_either_epoch(tmp_path: Path) -> None:
    image, word = tmp_path / "vm.img", tmp_path / "word"
    before = make_image(image, MIB, seed=2)
    word.write_bytes(bytes(8))
    tracked = track(image)
    tracked.pwrite(b"old" * 100, 8192)
    tracked.prepare(word)
    word.write_bytes(b"\1".ljust(8, b"\0"))
    tracked.pwrite(b"new" * 100, 8200)
    die(tracked)
    source = ImageSource.open(image)
    cut = source.cut()
    assert cut is not None
    logs = [record.log for record in source.records(0, cut.epoch)]
    assert replay(logs[:1], before) == before[:8192] + b"old" * 100 + before[8492:]
    assert replay(logs, before) == image.read_bytes()


def test_a_cut_that_can_not_be_recorded_is_finished_by_the_next_one(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    make_image(image, MIB)
    files = HookedFiles()

    def broken(what: str, name: str, _: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        if (what, name) == ("pwrite", "vm.img.tracking") and arguments[1] == 0:
            raise OSError(5, "broken")

    with track(image, files=files) as tracked:
        tracked.pwrite(b"a", 0)
        files.hook = broken
        with pytest.raises(StorageError):
            tracked.cut()
        tracked.pwrite(b"b", 1)
        with pytest.raises(StorageError):
            tracked.cut()
        files.hook = lambda *_: None
        assert tracked.cut().epoch == 2
    records = ImageSource.open(image).records(0, 2)
    assert replay([record.log for record in records], bytes(MIB))[:2] == b"ab"


def test_every_file_that_fails_in_a_cut_costs_no_change(tmp_path: Path) -> None:
    """Each change of a file that a cut makes fails in turn; what is left names every granule that differs."""
    image = tmp_path / "vm.img"
    for step in range(100):
        make_image(image, MIB)
        left = step

        def hook(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(28, "full")

        files = HookedFiles()
        with track(image, files=files) as tracked:
            tracked.pwrite(b"a", 5 * 65536)
            files.hook = hook
            with contextlib.suppress(StorageError):
                tracked.cut()
            files.hook = lambda *_: None
            tracked.pwrite(b"b", 7 * 65536)
            cut = tracked.cut()
        records = ImageSource.open(image).records(0, cut.epoch)
        print(step, [(one.epoch, one.log is not None, one.dirty is not None) for one in records])
        known: set[int] = set()
        for record in records:
            if record.dirty is None and record.log is not None:
                changed = replay([record.log], bytes(MIB))
                known |= {at for at in (5, 7) if changed[at * 65536]}
            else:
                known |= dirty_granules([record], MIB)
        assert {5, 7} <= known, f"step {step}"
        for path in tmp_path.glob("vm.img.*"):
            path.unlink()
        if left >= 0:
            assert step > 5
            return
    raise AssertionError("a cut has no end")


def test_a_path_longer_than_a_socket_address_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40) / ("longer" * 30)
    folder.mkdir(parents=True)
    image = folder / ("n" * 200)
    make_image(image, MIB)
    assert len(os.fsencode(image)) > 400
    with track(image) as tracked:
        assert tracked.warnings == []
        tracked.pwrite(b"x", 0)
        cut = ImageSource.open(image).cut()
        assert cut is not None
        assert cut.epoch == 1
    assert not Names.of(image).control.exists()


def test_the_socket_of_a_dead_tracker_is_replaced(images: list[Path]) -> None:
    path = Names.of(images[0]).control
    tracked = track(images[0])
    stale = path.with_name("stale")
    os.link(path, stale)
    tracked.close()
    os.rename(stale, path)
    assert ImageSource.open(images[0]).state == "closed"
    with track(images[0]):
        cut = ImageSource.open(images[0]).cut()
        assert cut is not None
        assert cut.epoch == 1


@pytest.mark.parametrize(
    "line", [b"", b"x" * 100_000, b"nonsense", b"prepare", b"finish", b"prepare /no/such", b"\xff"]
)
def test_nonsense_on_the_control_socket_disturbs_nobody(images: list[Path], line: bytes) -> None:
    with track(images[0]) as tracked:
        control = ImageSource.open(images[0]).ask()
        assert control is not None
        with control:
            control._stream.write(line + b"\n")
            control._stream.flush()
            answer = control._stream.readline()
        assert b'"error"' in answer
        tracked.pwrite(b"x", 0)
        assert tracked.cut().epoch == 1


def test_status_tells_another_process_how_the_tracker_is(images: list[Path]) -> None:
    with track(images[0]) as tracked:
        tracked.pwrite(b"x" * 70_000, 0)
        status = ImageSource.open(images[0]).status()
        assert status == tracked.status()
        assert status is not None
        assert (status.state, status.pid, status.epoch, status.writes) == ("tracking", os.getpid(), 1, 1)
        assert status.dirty_bytes == 131072
        assert status.log_bytes > 70_000
    assert ImageSource.open(images[0]).status() is None


def test_on_a_full_disk_the_log_gives_way_to_the_bitmap(tmp_path: Path) -> None:
    """Neither has room; once the log is gone the bitmap has."""
    image = tmp_path / "vm.img"
    make_image(image, MIB)
    full = False

    def hook(what: str, name: str, *_: object) -> None:
        needs_room = what in ("create", "pwrite") and name != "vm.img.tracking"
        if full and needs_room and image.with_name("vm.img.hrl").exists():
            raise OSError(28, "full")

    files = HookedFiles(hook)
    with track(image, files=files) as tracked:
        tracked.pwrite(b"a", 5 * 65536)
        full = True
        cut = tracked.cut()
        full = False
    [record] = ImageSource.open(image).records(0, cut.epoch)
    assert record.log is None
    assert dirty_granules([record], MIB) == {5}
