"""The directory store: points are what was written, whatever came after them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from blockreplica.errors import BusyError, NotFoundError, RefusedError, StateError, TableError
from blockreplica.files import File, Files
from blockreplica.stores import DirectoryStore, Session
from stores.model import changed, commit, content, move, new_replica, open_replica, points_equal

SIZE = 40 * 16384 + 5000
BLOCKS = 41


def history(folder: Path, rounds: int, seed: int) -> dict[int, bytes]:
    """A replica with that many points, and what each must hold."""
    print("seed", seed)
    rng, model, models = random.Random(seed), bytes(SIZE), {}
    replica = new_replica(folder)
    for epoch in range(1, rounds + 1):
        model, writes = changed(rng, model)
        move(replica, SIZE, writes)
        models[epoch] = model
    return models


@pytest.mark.parametrize("seed", range(6))
def test_every_point_reads_as_what_was_written_up_to_it(tmp_path: Path, seed: int) -> None:
    models = history(tmp_path / "store", 8, seed)
    points_equal(open_replica(tmp_path / "store"), models, required=range(1, 9))


def test_disk_img_alone_is_the_newest_point_and_sparse(tmp_path: Path) -> None:
    models = history(tmp_path / "store", 5, 1)
    image = tmp_path / "store/vm/disk0/disk.img"
    assert image.read_bytes() == models[5]
    replica = open_replica(tmp_path / "store")
    move(replica, SIZE, [(0, bytes(SIZE))])
    assert image.stat().st_blocks == 0
    assert content(replica, replica.find("1.5")) == models[5]


def test_growing_and_shrinking_keeps_every_point(tmp_path: Path) -> None:
    rng = random.Random(5)
    replica, models, model = new_replica(tmp_path / "store"), {}, b""
    for epoch, size in enumerate([SIZE, SIZE + 100_000, 70_001, 4096, 0, 50_000, SIZE], start=1):
        model = model[:size] + bytes(max(0, size - len(model)))
        writes: list[tuple[int, bytes]] = []
        if size:
            model, writes = changed(rng, model)
        move(replica, size, writes)
        models[epoch] = model
    points_equal(open_replica(tmp_path / "store"), models, required=range(1, 8))


def test_rule_16_an_undo_log_holds_one_before_image_a_granule_across_resumed_sessions(tmp_path: Path) -> None:
    replica = new_replica(tmp_path / "store")
    move(replica, SIZE, [(0, b"\1" * SIZE)])
    for byte in (b"\2", b"\3", b"\4"):
        with replica.locked():
            session = replica.session()
            session.start("resync", heal=True)
            session.disks[0].write(*one_row(8192, byte * 30000))
            session.disks[0].flush()
            session.close()
    point = move(replica, SIZE, [(8192, b"\5" * 30000)], movement="resync")
    assert content(replica, replica.find("1.1")) == b"\1" * SIZE
    assert content(replica, point)[8192:38192] == b"\5" * 30000
    log = tmp_path / "store/vm/disk0/undo/000002.hrl"
    from blockreplica.hrl import LogReader

    with LogReader.open(log) as reader:
        rows = [row for rows in reader.entries() for row in rows.tolist()]
    granules = [at for offset, length, *_ in rows for at in range(offset, offset + length, 4096)]
    assert sorted(granules) == sorted(set(granules))


def one_row(offset: int, data: bytes):  # type: ignore[no-untyped-def]
    import numpy as np

    from blockreplica.stores.blend import EXTENT

    return np.array([(offset, len(data), 0)], EXTENT), memoryview(data)


def test_rule_15_a_reader_opened_before_a_sync_reads_its_point_while_and_after(tmp_path: Path) -> None:
    models = history(tmp_path / "store", 3, 9)
    replica = open_replica(tmp_path / "store")
    rng = random.Random(10)
    with replica.reader(replica.find("1.2"), 0) as reader, replica.reader(replica.find("1.3"), 0) as newest:
        model = models[3]
        for _ in range(4):
            model, writes = changed(rng, model)
            with replica.locked():
                session = replica.session()
                session.start("delta", heal=False)
                for write in writes:
                    session.disks[0].write(*one_row(*write))
                    session.disks[0].flush()
                    for held, wanted in ((reader, models[2]), (newest, models[3])):
                        buffer = bytearray(SIZE)
                        held.pread_into(buffer, 0)
                        assert buffer == wanted
                session.close()
            move(replica, SIZE, writes)
        buffer = bytearray(SIZE)
        newest.pread_into(buffer, 0)
        assert buffer == models[3]


class Interleaved(Files):
    """A writer takes a step each time that a reader looks for one of these files, is about to read it, and has."""

    def __init__(self, *watched: str) -> None:
        self.watched = watched
        self.step: Callable[[], None] = lambda: None

    class _Read(File):
        __slots__ = ("step",)
        step: Callable[[], None]

        def pread_into(self, buffer: Any, offset: int) -> int:
            self.step()
            got = super().pread_into(buffer, offset)
            self.step()
            return got

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        if path.name in self.watched:
            self.step()
        plain = super().open(path, write=write, create=create, exclusive=exclusive)
        if path.name not in self.watched:
            return plain
        with plain:
            file = self._Read(path, os.dup(plain.fileno()))
        file.step = lambda: self.step()
        return file


@pytest.mark.parametrize("name", ["disk.img", "checksums"])
def test_rule_15_what_is_overwritten_between_two_steps_of_a_read_is_undone(tmp_path: Path, name: str) -> None:
    """The image and the table are read first, the undo index after them; the other way round this reads the future."""
    models, files, rng = history(tmp_path / "store", 3, 9), Interleaved(name), random.Random(11)
    writer, points = open_replica(tmp_path / "store"), open_replica(tmp_path / "store", files=files)
    with ExitStack() as stack:
        readers = {epoch: stack.enter_context(points.reader(points.find(f"1.{epoch}"), 0)) for epoch in (2, 3)}
        entries = {epoch: reader.checksums(0, BLOCKS)[0] for epoch, reader in readers.items()}
        stack.enter_context(writer.locked())
        session = stack.enter_context(closing(writer.session()))
        session.start("delta", heal=False)
        places = iter(range(0, SIZE - 5000, 16384))

        def step() -> None:
            at = next(places, None)
            if at is not None:
                session.disks[0].write(*one_row(at, rng.randbytes(5000)))
                session.disks[0].flush()

        files.step = step
        for _ in range(4):
            for epoch, reader in readers.items():
                buffer = bytearray(SIZE)
                reader.pread_into(buffer, 0)
                assert buffer == models[epoch]
                assert reader.checksums(0, BLOCKS)[0] == entries[epoch]
        assert next(places, None) is not None, "the delta was over before the last read"


def test_rule_15_an_epoch_that_ends_while_a_reader_looks_for_the_next_is_seen_whole(tmp_path: Path) -> None:
    """Only the last index is looked at again: what comes to one before its end must be seen before the next counts."""
    models, files, rng = history(tmp_path / "store", 3, 9), Interleaved("000005.index"), random.Random(12)
    writer, points = open_replica(tmp_path / "store"), open_replica(tmp_path / "store", files=files)
    with ExitStack() as stack:
        reader = stack.enter_context(points.reader(points.find("1.3"), 0))
        entries = reader.checksums(0, BLOCKS)[0]
        stack.enter_context(writer.locked())

        def begun(block: int) -> Session:
            session = stack.enter_context(closing(writer.session()))
            session.start("delta", heal=False)
            go_on(session, block)
            return session

        def go_on(session: Session, block: int) -> None:
            session.disks[0].write(*one_row(block * 16384, rng.randbytes(5000)))
            session.disks[0].flush()

        def end_and_begin() -> None:
            files.step = lambda: None
            go_on(session, 5)
            commit(session)
            session.close()
            begun(9)

        def look() -> None:
            buffer = bytearray(SIZE)
            reader.pread_into(buffer, 0)
            assert buffer == models[3]
            assert reader.checksums(0, BLOCKS)[0] == entries

        session = begun(1)
        look()
        files.step = end_and_begin
        look()
        look()
        assert len(writer.points()) == 4


def test_pruning_keeps_the_newest_and_spares_what_a_reader_holds(tmp_path: Path) -> None:
    models = history(tmp_path / "store", 8, 3)
    replica = open_replica(tmp_path / "store")
    with replica.locked(), replica.reader(replica.find("1.3"), 0) as reader:
        assert replica.prune(2) == ["000001", "000002"]
        buffer = bytearray(SIZE)
        reader.pread_into(buffer, 0)
        assert buffer == models[3]
    with replica.locked():
        replica.prune(2)
    points_equal(replica, models, required=range(7, 9))
    assert sorted(os.listdir(tmp_path / "store/vm/disk0/undo")) == ["000008.hrl", "000008.index"]
    with pytest.raises(NotFoundError):
        replica.find("1.6")


def test_a_second_writer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    replica = new_replica(tmp_path / "store")
    with replica.locked(), pytest.raises(BusyError, match=str(os.getpid())):
        replica.locked()


def test_a_folder_with_other_things_is_not_taken_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(RefusedError):
        DirectoryStore.create(tmp_path / "mine")
    with pytest.raises(RefusedError):
        DirectoryStore(tmp_path / "mine")


def test_a_bad_table_page_stops_a_delta_and_is_healed_for_a_resync(tmp_path: Path) -> None:
    models = history(tmp_path / "store", 3, 4)
    table = tmp_path / "store/vm/disk0/checksums"
    raw = bytearray(table.read_bytes())
    raw[100] ^= 1
    table.write_bytes(raw)
    replica = open_replica(tmp_path / "store")
    with pytest.raises(TableError):
        move(replica, SIZE, [(0, b"x" * 100)])
    with replica.locked():
        session = replica.session()
        session.start("resync", heal=True)
        session.close()
    move(replica, SIZE, [], movement="delta")
    points_equal(replica, {**models, 4: models[3]}, required=range(1, 5))


def test_a_damaged_state_record_is_read_from_its_copy_and_mended(tmp_path: Path) -> None:
    models = history(tmp_path / "store", 3, 6)
    state = tmp_path / "store/vm/state"
    raw = bytearray(state.read_bytes())
    raw[-5] ^= 4
    state.write_bytes(raw)
    replica = open_replica(tmp_path / "store")
    assert replica.record_errors()
    points_equal(replica, models, required=range(1, 4))
    move(replica, SIZE, [])
    assert not replica.record_errors()
    state.write_bytes(b"")
    (tmp_path / "store/vm/state.copy").write_bytes(b"rubbish")
    with pytest.raises(StateError):
        replica.points()


def test_the_names_of_image_and_table_are_durable_before_the_first_point(tmp_path: Path) -> None:
    class Noting(Files):
        def __init__(self) -> None:
            self.synced: list[tuple[Path, list[str]]] = []

        def sync_folder(self, path: Path) -> None:
            super().sync_folder(path)
            self.synced.append((path, os.listdir(path)))

    files, store = Noting(), tmp_path / "store"
    move(new_replica(store, files=files), SIZE, [(0, b"first")])
    assert any(path == store / "vm/disk0" and {"disk.img", "checksums"} <= set(names) for path, names in files.synced)
