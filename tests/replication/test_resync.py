"""Resync: only what differs is sent, whatever the replica's table says; old points live through it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockreplica import kernels, track
from blockreplica.checksums import ChecksumTable
from blockreplica.errors import StorageError
from blockreplica.files import FILES
from blockreplica.progress import Progress
from blockreplica.stores.layout import table_key

from .world import BLOCK, MIB, Interrupting, World, artifacts, flip, foreign_write, make_image, write
from .writers import counts, in_time, writing

WINDOW = 255 * BLOCK


def protected(folder: Path, *, size: int = 3 * WINDOW - 777, rounds: int = 3) -> World:
    """A tracked image with some points."""
    world = World.make(folder, sizes=(size,), seed=6)
    write(world.image, (0, b"begin"))
    world.protect()
    for round_ in range(1, rounds):
        write(world.image, (round_ * 100_001, bytes([round_]) * 20_000), (round_ * 50_000, bytes(5000)))
        world.sync()
    return world


def table_of(world: World) -> tuple[ChecksumTable, Any]:
    """The replica's checksum table, open for writing, and its file."""
    file = FILES.open(world.disk() / "checksums", write=True)
    return ChecksumTable(file, table_key(str(world.vm.definition.id), 0, 0)), file


@pytest.mark.parametrize("deep", [False, True])
def test_with_nothing_different_nothing_is_sent(tmp_path: Path, deep: bool) -> None:
    world = protected(tmp_path)
    result = world.resync(deep=deep)
    assert (result.action, result.kind, result.bytes_dirty, result.bytes_sent) == ("resync", "crash-consistent", 0, 0)
    assert ("both sides" in result.reason) == deep
    world.check()


def test_by_table_the_primary_alone_is_read_and_deep_reads_both(tmp_path: Path) -> None:
    world = protected(tmp_path)
    data = sum(length for _, length in data_runs(world.image))
    replica = sum(length for _, length in data_runs(world.disk() / "disk.img"))
    assert data < world.image.stat().st_size
    assert data > replica, "written zeros should be no data in the replica"
    assert world.resync().bytes_scanned == data
    assert world.resync(deep=True).bytes_scanned == data + replica


def data_runs(path: Path) -> list[tuple[int, int]]:
    """Offset and length of what is not a hole."""
    runs, at = [], 0
    with path.open("rb") as file:
        size = path.stat().st_size
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            runs.append((start, at - start))
    return runs


@pytest.mark.parametrize(("deep", "dirty"), [(False, 2 * BLOCK), (True, 3 * 4096)])
def test_an_image_changed_behind_its_tracker_is_found_and_only_the_changed_blocks_sent(
    tmp_path: Path, deep: bool, dirty: int
) -> None:
    world = protected(tmp_path)
    foreign_write(world.image, 40 * BLOCK + 4000, b"x" * 200)
    foreign_write(world.image, 2 * WINDOW + 5000, b"y")
    result = world.resync(deep=deep)
    assert (result.bytes_dirty, result.bytes_sent) == (dirty, 3 * 4096)
    world.check()


def test_a_sync_notices_that_the_image_was_changed_and_says_so(tmp_path: Path) -> None:
    world = protected(tmp_path)
    foreign_write(world.image, 40 * BLOCK, b"x")
    result = world.sync()
    assert (result.action, result.bytes_dirty) == ("resync", BLOCK)
    assert "changed while nothing tracked it" in result.reason
    world.check()
    assert world.sync().action == "delta"


def test_a_block_of_the_replica_that_rotted_is_found_and_repaired_by_a_deep_resync_alone(tmp_path: Path) -> None:
    world = protected(tmp_path)
    at, _ = data_runs(world.image)[0]
    flip(world.disk() / "disk.img", at + 5)
    assert world.vm.verify().damage != []
    assert world.vm.resync().bytes_sent == 0, "by the table alone the damage can't be seen"
    assert world.vm.verify().damage != []
    result = world.vm.resync(deep=True)
    assert (result.bytes_dirty, result.bytes_sent) == (4096, 4096)
    assert (world.disk() / "disk.img").read_bytes() == world.image.read_bytes()
    assert world.recovered(result.point) == world.image.read_bytes()


def test_points_that_the_rot_has_reached_are_refused_and_those_it_has_not_are_served(tmp_path: Path) -> None:
    world = protected(tmp_path, rounds=1)
    at, _ = data_runs(world.image)[0]
    write(world.image, (at, b"new" * 4000))
    world.sync()
    flip(world.disk() / "disk.img", at + 5)
    write(world.image, (at, b"and now nobody has it" * 500))
    world.vm.resync(deep=True)
    assert world.recovered("1.1") == world.models["1.1"][0], "its before-image was saved before the rot"
    assert {tuple(damage.points) for damage in world.vm.verify().damage} == {("1.2",)}
    with pytest.raises(Exception, match="does not match"):
        world.recovered("1.2")


def test_a_table_entry_that_lies_is_mended_by_a_deep_resync_and_points_stay(tmp_path: Path) -> None:
    world = protected(tmp_path)
    table, file = table_of(world)
    with file:
        right = table.get(7)
        table.put(7, b"L" * 16)
        table.flush()
    assert world.vm.verify().damage != []
    result = world.resync(deep=True)
    assert (result.bytes_dirty, result.bytes_sent) == (0, 0)
    table, file = table_of(world)
    with file:
        assert table.get(7) == right
    world.check()


def test_a_table_entry_that_lies_costs_a_shallow_resync_one_block_and_no_point(tmp_path: Path) -> None:
    world = protected(tmp_path)
    table, file = table_of(world)
    with file:
        table.put(7, b"L" * 16)
        table.flush()
    result = world.resync()
    assert (result.bytes_dirty, result.bytes_sent) == (BLOCK, 0)
    for point in world.vm.points():
        assert world.read(point) == world.models[point.id][0]


def test_writes_to_a_mended_block_during_the_resync_leave_old_points_checkable(tmp_path: Path) -> None:
    world = protected(tmp_path)
    table, file = table_of(world)
    with file:
        table.put(7, b"L" * 16)
        table.flush()
    with track(world.image) as image:

        class Writing(Progress):
            def advance(self, count: int) -> None:
                image.pwrite(b"w" * 100, 7 * BLOCK)
                image.pwrite(b"w" * 100, 9 * BLOCK)

        result = world.vm.resync(deep=True, progress=Writing())
    world.note(result)
    world.check()


def test_a_bad_page_of_the_table_turns_a_delta_into_a_resync(tmp_path: Path) -> None:
    world = protected(tmp_path)
    flip(world.disk() / "checksums", 4096 + 100)
    write(world.image, (WINDOW + 10, b"z"))
    result = world.sync()
    assert result.action == "resync"
    assert "checksum page" in result.reason
    world.check()
    assert world.sync().action == "delta"


@pytest.mark.usefixtures("small_windows")
def test_interrupted_it_resumes_and_old_points_stay(tmp_path: Path) -> None:
    world = protected(tmp_path)
    make_image(world.image, 3 * WINDOW - 777, 77)
    whole = data_runs(world.image)
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(2))
    for point in world.vm.points():
        assert world.recovered(point.id) == world.models[point.id][0]
    result = world.sync()
    assert result.action == "resync"
    assert 0 < result.bytes_scanned < sum(length for _, length in whole) / 2
    world.check()


@pytest.mark.usefixtures("small_windows")
def test_a_deep_resync_trusts_nothing_that_an_interrupted_shallow_one_has_gone_through(tmp_path: Path) -> None:
    world = protected(tmp_path)
    at, _ = data_runs(world.image)[0]
    flip(world.disk() / "disk.img", at + 5)
    with pytest.raises(KeyboardInterrupt):
        world.vm.resync(progress=Interrupting(2))
    result = world.vm.resync(deep=True)
    assert result.bytes_sent == 4096
    assert world.recovered(result.point) == world.image.read_bytes()


@pytest.mark.usefixtures("small_windows")
def test_a_deep_resync_that_was_interrupted_is_taken_up_deep(tmp_path: Path) -> None:
    world = protected(tmp_path)
    at = next(at for at, _ in data_runs(world.image) if at > 2 * WINDOW)
    flip(world.disk() / "disk.img", at + 5)
    with pytest.raises(KeyboardInterrupt):
        world.vm.resync(deep=True, progress=Interrupting(1))
    result = world.vm.sync()
    assert (result.action, result.bytes_sent) == ("resync", 4096)
    assert "taken up again" in result.reason
    assert world.recovered(result.point) == world.image.read_bytes()


@pytest.mark.usefixtures("small_windows")
def test_while_threads_write_each_point_is_one_instant(tmp_path: Path) -> None:
    world = protected(tmp_path)
    with track(world.image, log_limit=64 * MIB) as image, writing(image, world.image) as writers:
        for deep in (False, True):
            before, _ = counts(writers)
            result = world.vm.resync(deep=deep)
            _, after = counts(writers)
            in_time(writers, world.recovered(result.point), before, after)
    world.models |= {point.id: (world.recovered(point.id),) for point in world.vm.points()[3:]}
    world.check()


class TestPartial:
    """Where the log is lost and the dirty bitmap is not."""

    def make(self, folder: Path) -> World:
        world = protected(folder, size=8 * MIB)
        with track(world.image) as image:
            image.pwrite(b"one" * 10, 3 * MIB)
            image.cut()
            image.pwrite(b"two" * 10, 6 * MIB)
        return world

    def test_only_what_the_bitmap_names_is_read(self, tmp_path: Path) -> None:
        world = self.make(tmp_path)
        flip(world.names().log(4), 4096 + 5)
        result = world.sync()
        assert (result.action, result.bytes_dirty) == ("partial-resync", 2 * BLOCK)
        assert 0 < result.bytes_scanned <= 2 * 65536
        assert "can't be used" in result.reason
        world.check()
        assert artifacts(world.image) == []

    def test_the_log_is_gone(self, tmp_path: Path) -> None:
        world = self.make(tmp_path)
        world.names().log(5).unlink()
        assert world.sync().action == "partial-resync"
        world.check()

    def test_the_bitmap_is_gone_too(self, tmp_path: Path) -> None:
        world = self.make(tmp_path)
        world.names().log(5).unlink()
        flip(world.names().dirty(5), 4096 + 6 * MIB // 65536 // 8)
        assert world.sync().action == "resync"
        world.check()

    def test_the_bitmap_alone_is_gone(self, tmp_path: Path) -> None:
        world = self.make(tmp_path)
        world.names().dirty(5).unlink()
        assert world.sync().action == "delta"
        world.check()

    def test_the_tracker_died(self, tmp_path: Path) -> None:
        world = protected(tmp_path, size=8 * MIB)
        image = track(world.image)
        image.pwrite(b"one" * 10, 3 * MIB)
        image._tracker.drop()
        image.close()
        assert world.sync().action == "delta", "rule 1: its log is finished"
        world.check()

    def test_the_machine_went_down(self, tmp_path: Path) -> None:
        """Rule 2: what was hot is compared, and the result says how much that was."""
        world = protected(tmp_path, size=16 * MIB)
        image = track(world.image)
        image.pwrite(b"one" * 10, 3 * MIB)
        image._tracker.drop()
        image.close()
        kernels.Tracker(world.image.parent, world.image.name, settle_only=True, boot_id=b"another boot....").close()
        result = world.sync()
        assert result.action == "partial-resync"
        assert 0 < result.bytes_scanned <= 4 * MIB
        assert (
            result.reason
            == f"the machine went down while {world.image.name} was tracked: 4 MiB of the disk are compared"
        )
        world.check()

    @pytest.mark.usefixtures("small_windows")
    def test_interrupted_and_taken_up_again_after_more_was_written(self, tmp_path: Path) -> None:
        world = self.make(tmp_path)
        world.names().log(5).unlink()
        with pytest.raises(KeyboardInterrupt):
            world.vm.sync(progress=Interrupting(1))
        write(world.image, (3 * MIB + 5, b"three"), (1 * MIB, b"four"), (7 * MIB, b"five"))
        result = world.sync()
        assert result.action == "partial-resync"
        assert result.bytes_scanned <= 4 * 65536
        world.check()

    def test_resync_asked_for_while_a_partial_one_is_pending_goes_through_all(self, tmp_path: Path) -> None:
        world = self.make(tmp_path)
        world.names().log(5).unlink()
        with pytest.raises(KeyboardInterrupt):
            world.vm.sync(progress=Interrupting(1))
        result = world.resync()
        assert result.bytes_scanned == sum(length for _, length in data_runs(world.image))
        world.check()


def test_a_damaged_record_of_the_newest_point_is_replaced_by_a_resync(tmp_path: Path) -> None:
    world = protected(tmp_path)
    flip(world.store / "vm/points/000003", -5)
    del world.models["1.3"]
    write(world.image, (10, b"later"))
    result = world.sync()
    assert (result.action, result.point) == ("resync", "1.4")
    assert "000003" in result.reason
    world.check(recover=False)
    for point in world.vm.points():
        assert world.recovered(point.id) == world.models[point.id][0]
    assert world.sync().action == "delta"


@pytest.mark.parametrize("kernel", ["checksum_file", "compare_files"])
def test_a_read_error_says_which_file_and_leaves_all_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    world = protected(tmp_path)

    def failing(*_: Any, **__: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(kernels, kernel, failing)
        with pytest.raises(StorageError, match=r"vm0\.img.*EIO"):
            world.vm.resync(deep=kernel == "compare_files")
    assert world.resync().bytes_sent == 0
    world.check()


def test_numbers_of_table_entries_and_blocks_agree_at_the_end_of_the_disk(tmp_path: Path) -> None:
    world = protected(tmp_path, size=255 * BLOCK + 1)
    table, file = table_of(world)
    with file:
        entries, unknown = table.read(0, 256)
    assert unknown == []
    content = (world.disk() / "disk.img").read_bytes()
    wanted = bytearray(256 * 16)
    kernels.checksum_buffer(content, BLOCK, wanted, seed=world.vm.replica.base.record.seed)
    assert np.array_equal(np.frombuffer(entries, np.uint8), np.frombuffer(wanted, np.uint8))
