"""Rule 1: the order of one write, and what is logged when a part of it fails."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from blockreplica.errors import NotFoundError, StorageError, UsageError
from blockreplica.files import File, Files
from blockreplica.hrl import LogReader
from blockreplica.tracking import ImageSource, TrackedImage, track

from .helpers import GRANULE, KIB, MIB, HookedFile, HookedFiles, dirty_granules, failing, make_image, replay


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    make_image(path, MIB, seed=1)
    return path


def entries(log: Path) -> list[tuple[int, int, int]]:
    with LogReader.open(log) as reader:
        return [
            (int(row["offset"]), int(row["length"]), int(row["operation"])) for rows in reader.entries() for row in rows
        ]


def test_every_kind_of_change_goes_into_image_and_log(image: Path) -> None:
    before = image.read_bytes()
    with track(image) as tracked:
        tracked.pwrite(b"abc", 10)
        tracked.pwrite(bytearray(b"def"), 12)
        tracked.zero(4096, 8192)
        tracked.discard(100_000, 5000)
        tracked.pwrite(memoryview(b"g" * 100_000), 500_000)
        tracked.flush()
        assert tracked.pread(6, 10) == b"abdef" + before[15:16]
        cut = tracked.cut()
    assert cut.epoch == 1
    assert cut.size == MIB
    log = image.with_name("vm.img.000001.hrl")
    assert entries(log) == [(10, 3, 1), (12, 3, 1), (4096, 8192, 2), (100_000, 5000, 2), (500_000, 100_000, 1)]
    assert replay([log], before) == image.read_bytes() != before


def test_a_sealed_log_names_the_cut_and_continues_the_chain(image: Path) -> None:
    with track(image) as tracked:
        cuts = []
        for byte in b"xyz":
            tracked.pwrite(bytes([byte]), byte)
            cuts.append(tracked.cut())
    previous = None
    for cut in cuts:
        with LogReader.open(image.with_name(f"vm.img.{cut.epoch:06d}.hrl")) as log:
            assert log.header.unique_id == cut.chain
            assert log.header.data_write_guid == cut.tracking_id
            assert previous in (None, log.header.previous_id)
            assert log.closed
        previous = cut.chain


def test_bits_and_entry_come_before_the_log_the_log_before_the_image_and_the_confirmation_last(image: Path) -> None:
    events: list[tuple[str, str]] = []

    def hook(what: str, name: str, _: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        if not (what == "pwrite" and name == "vm.img.tracking" and arguments[1] < 8192):  # stamps come by the clock
            events.append((what, name))

    files = HookedFiles()
    with track(image, files=files) as tracked:
        files.hook = hook
        tracked.pwrite(b"x" * 4096, 8192)
        tracked.pwrite(b"y" * 4096, 8192)  # the bit is set already
        tracked.zero(3 * GRANULE, 4096)
        files.hook = lambda *_: None
    write = [
        ("pwrite", "vm.img.tracking"),  # the entry, reserved
        ("pwrite", "vm.img.hrl"),
        ("pwrite", "vm.img"),
        ("pwrite", "vm.img.tracking"),  # confirmed
    ]
    bits = pending = done = reserved = confirmed = ("pwrite", "vm.img.tracking")
    hot = [("pwrite", "vm.img.tracking"), ("sync", "vm.img.tracking")]  # once for all writes into the region
    assert events == [*hot, bits, *write, *write, bits, pending, reserved, confirmed, ("zero", "vm.img"), done]


@pytest.mark.parametrize("kept", [0, 1000, 4096])
def test_a_write_that_the_image_fails_is_logged_as_what_the_image_holds(image: Path, kept: int) -> None:
    before = image.read_bytes()

    def tear(what: str, name: str, file: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        if (what, name) == ("pwrite", "vm.img"):
            assert file is not None
            file.write_past_the_hook(arguments[0][:kept], arguments[1])
            raise OSError(errno.EIO, "torn")

    files = HookedFiles(tear)
    with track(image, files=files) as tracked:
        with pytest.raises(StorageError, match="EIO"):
            tracked.pwrite(b"z" * 4096, 20_000)
        tracked.cut()
    log = image.with_name("vm.img.000001.hrl")
    after = image.read_bytes()
    assert after == before[:20_000] + b"z" * kept + before[20_000 + kept :]
    assert replay([log], before) == after


@pytest.mark.parametrize("kept", [0, 1000])
def test_rule_1_zeros_that_the_image_fails_are_logged_as_what_the_image_holds(image: Path, kept: int) -> None:
    before = image.read_bytes()

    def tear(what: str, name: str, file: HookedFile | None, arguments: tuple[Any, ...]) -> None:
        if (what, name) == ("zero", "vm.img"):
            assert file is not None
            file.write_past_the_hook(bytes(kept), arguments[0])
            raise OSError(errno.EIO, "torn")

    with track(image, files=HookedFiles(tear)) as tracked:
        with pytest.raises(StorageError, match="EIO"):
            tracked.zero(20_000, 4096)
        tracked.cut()
    after = image.read_bytes()
    assert after == before[:20_000] + bytes(kept) + before[20_000 + kept :]
    assert replay([image.with_name("vm.img.000001.hrl")], before) == after


def test_when_the_image_can_not_even_be_read_back_the_bitmap_stands_in_for_the_log(image: Path) -> None:
    def broken(what: str, name: str, _: HookedFile | None, __: tuple[Any, ...]) -> None:
        if name == "vm.img" and what in ("pwrite", "pread"):
            raise OSError(errno.EIO, "broken")

    files = HookedFiles(broken)
    with track(image, files=files) as tracked:
        with pytest.raises(StorageError):
            tracked.pwrite(b"z" * 4096, 20_000)
        assert tracked.status().log_failed
        assert tracked.status().state == "bitmap only"
        files.hook = lambda *_: None
        cut = tracked.cut()
        assert tracked.status().state == "tracking"
        [record] = ImageSource.open(image).records(0, cut.epoch)
        assert record.log is None
        assert dirty_granules([record], MIB) == {0}


class Trimming(HookedFiles):
    """An image whose discarded bytes become whatever they become."""

    class _Image(HookedFile):
        __slots__ = ()

        def discard(self, offset: int, length: int) -> bool:
            self.write_past_the_hook(b"\xa5" * (length // 2), offset)
            return False

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        if path.name != "vm.img":
            return super().open(path, write=write, create=create, exclusive=exclusive)
        with Files.open(self, path, write=write, create=create, exclusive=exclusive) as plain:
            return self._Image(path, os.dup(plain.fileno()), self.hook)


def test_a_discard_is_logged_as_zero_only_where_the_image_reads_zero(image: Path) -> None:
    before = image.read_bytes()
    with track(image, files=Trimming()) as tracked:
        tracked.discard(70_000, 10_000)
        tracked.cut()
    log = image.with_name("vm.img.000001.hrl")
    after = image.read_bytes()
    assert after[70_000:75_000] == b"\xa5" * 5000
    assert entries(log) == [(70_000, 10_000, 1)]
    assert replay([log], before) == after


def test_extents_outside_the_image_are_refused_and_change_nothing(image: Path) -> None:
    before = image.read_bytes()
    with track(image) as tracked:
        for offset, length in [(MIB, 1), (MIB - 1, 2), (0, MIB + 1), (2**63 - 1, 1)]:
            with pytest.raises(UsageError):
                tracked.pread(length, offset)
            with pytest.raises(UsageError):
                tracked.zero(offset, length)
            with pytest.raises(UsageError):
                tracked.discard(offset, length)
        with pytest.raises(UsageError):
            tracked.pwrite(b"ab", MIB - 1)
        with pytest.raises(ValueError):
            tracked.pwrite(b"ab", -1)
        with pytest.raises(UsageError):
            tracked.resize(-1)
        tracked.pwrite(b"", MIB)
        tracked.zero(MIB, 0)
        assert tracked.pread(0, MIB) == b""
        assert tracked.status().dirty_bytes == 0
    assert image.read_bytes() == before


def test_a_missing_image_is_not_found_and_nothing_is_created(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        track(tmp_path / "none.img")
    with pytest.raises(NotFoundError):
        ImageSource.open(tmp_path / "none.img")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_image_refuses_everything_and_closes_twice(image: Path) -> None:
    tracked = track(image)
    tracked.close()
    tracked.close()
    with pytest.raises(ValueError, match="closed"):
        tracked.pread(1, 0)
    with pytest.raises(ValueError, match="closed"):
        tracked.pwrite(b"a", 0)


def test_a_close_waits_for_the_writes_under_way(image: Path) -> None:
    reached, closing = threading.Event(), threading.Event()

    def slow(what: str, name: str, *_: object) -> None:
        if (what, name) == ("pwrite", "vm.img"):
            reached.set()
            assert closing.wait(30)

    tracked = track(image, files=HookedFiles(slow))
    writer = threading.Thread(target=tracked.pwrite, args=(b"late", 0))
    writer.start()
    assert reached.wait(30)
    closer = threading.Thread(target=tracked.close)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive(), "closed although a write is under way"
    closing.set()
    writer.join()
    closer.join()
    assert image.read_bytes()[:4] == b"late"
    assert ImageSource.open(image).state == "closed"


def test_one_large_write_is_one_change_in_pieces(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    before = make_image(image, 40 * MIB)
    data = random.Random(3).randbytes(37 * MIB)
    with track(image, log_limit=1 << 30) as tracked:
        tracked.pwrite(data, 12_345)
        tracked.cut()
    log = image.with_name("vm.img.000001.hrl")
    assert sum(length for _, length, _ in entries(log)) == len(data)
    assert replay([log], before) == image.read_bytes()


WRITE, ZERO, DISCARD = ("pwrite", b"w" * 8192, 8192), ("zero", 4096, 8192), ("discard", 4096, 8192)


@pytest.mark.parametrize(("first", "second"), [(WRITE, ZERO), (WRITE, DISCARD), (ZERO, WRITE)])
def test_rule_1_zeros_and_writes_that_overlap_wait_for_one_another(image: Path, first: Any, second: Any) -> None:
    """Else the one that comes later lies above in the log and below in the image."""
    before, reached, go_on = image.read_bytes(), threading.Event(), threading.Event()

    def slow(what: str, name: str, _: HookedFile | None, __: tuple[Any, ...]) -> None:
        if (what, name) == (first[0], "vm.img") and not reached.is_set():
            reached.set()
            assert go_on.wait(30)

    with track(image, files=HookedFiles(slow)) as tracked:
        threads = [threading.Thread(target=getattr(tracked, name), args=args) for name, *args in (first, second)]
        threads[0].start()
        assert reached.wait(30)
        threads[1].start()
        threads[1].join(0.3)
        go_on.set()
        for thread in threads:
            thread.join()
        tracked.cut()
    assert replay([image.with_name("vm.img.000001.hrl")], before) == image.read_bytes() != before


@pytest.mark.parametrize("through_python", [False, True])
def test_overlapping_writes_of_many_threads_land_in_the_same_order_in_image_and_log(
    tmp_path: Path, through_python: bool
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    image = tmp_path / "vm.img"
    before = make_image(image, 256 * KIB)
    rounds = 300 if through_python else 5000
    with track(image, files=HookedFiles() if through_python else Files(), log_limit=1 << 30) as tracked:
        threads = [threading.Thread(target=scribble, args=(tracked, seed + n, rounds)) for n in range(5)]
        for thread in threads:
            thread.start()
        cuts = [tracked.cut() for _ in range(6)]
        for thread in threads:
            thread.join()
        cuts.append(tracked.cut())
    logs = [record.log for record in ImageSource.open(image).records(0, cuts[-1].epoch)]
    assert replay(logs, before) == image.read_bytes()


def scribble(tracked: TrackedImage, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        length = rng.randint(1, 3000)
        offset = rng.randrange(tracked.size - length)
        if rng.random() < 0.1:
            tracked.zero(offset, length)
        else:
            tracked.pwrite(rng.randbytes(8) * (length // 8 + 1), offset % (tracked.size - length - 8))


class Overlay(HookedFiles):
    """An image that is more than one file: reads go to what was written over it, else to the base (rule 11)."""

    class _Image(HookedFile):
        __slots__ = ("base", "written")

        def pread(self, length: int, offset: int) -> bytes:
            over, under = super().pread(length, offset), self.base.pread(length, offset)
            return bytes(
                over[at] if offset + at in self.written else under[at] for at in range(min(length, len(under)))
            )

        def pwrite(self, data: Any, offset: int) -> None:
            super().pwrite(data, offset)
            self.written.update(range(offset, offset + len(data)))

        def zero(self, offset: int, length: int) -> None:
            self.pwrite(bytes(length), offset)

        def size(self) -> int:
            return self.base.size()

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        if path.name != "over.img":
            return super().open(path, write=write, create=create, exclusive=exclusive)
        with Files.open(self, path, write=write) as plain:
            image = self._Image(path, os.dup(plain.fileno()), lambda *event: self.hook(*event))
        image.base, image.written = Files.open(self, path.with_name("vm.img")), set()
        return image


def test_a_disk_over_an_overlay_is_tracked_and_its_base_is_never_written(image: Path) -> None:
    before, over = image.read_bytes(), image.with_name("over.img")
    over.touch()
    os.truncate(over, MIB)
    with track(over, files=Overlay()) as tracked:
        assert tracked.pread(100, 5000) == before[5000:5100]
        tracked.pwrite(b"new" * 100, 5050)
        tracked.zero(100_000, 100)
        tracked.discard(200_000, 100)
        assert tracked.pread(100, 5000) == before[5000:5050] + (b"new" * 100)[:50]
        tracked.cut()
        content = tracked.pread(MIB, 0)
    assert image.read_bytes() == before
    assert replay([over.with_name("over.img.000001.hrl")], before) == content != before


def test_rule_11_what_a_write_over_an_overlay_left_that_failed_is_read_as_the_tracker_reads(image: Path) -> None:
    """Rule 1's last step, too, goes through the operations: the overlay's file alone holds nothing there."""
    before, over, files = image.read_bytes(), image.with_name("over.img"), Overlay()
    over.touch()
    os.truncate(over, MIB)
    with track(over, files=files) as tracked:
        files.hook = failing(errno.EIO, "pwrite", over.name)
        with pytest.raises(StorageError):
            tracked.pwrite(b"new" * 100, 5050)
        files.hook = lambda *_: None
        tracked.cut()
        assert tracked.pread(MIB, 0) == before
    assert replay([over.with_name("over.img.000001.hrl")], before) == before
