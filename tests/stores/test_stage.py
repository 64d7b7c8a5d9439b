"""Two stages of a disk in turn: one lands in a thread while the next gathers, and neither misses a change of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from blockreplica.ahead import Aside
from blockreplica.errors import StorageError
from blockreplica.files import Files
from blockreplica.stores import blend, stage
from crash.failing import NEVER, Failing
from crash.recording import RecordingFiles
from stores.model import commit, move, new_replica, open_replica, points_equal, put, table_is_true

BLOCK, SIZE = 16384, 16 * 16384


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is a batch, and each batch a stage."""
    monkeypatch.setattr(blend, "BATCH_BYTES", BLOCK)
    monkeypatch.setattr(stage, "STAGE_BYTES", 1)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A replica with one point, all ones."""
    move(new_replica(tmp_path / "store"), SIZE, [(0, b"1" * SIZE)])
    return tmp_path / "store"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("batches", [1, 2])
def test_rule_13_more_of_a_block_is_planned_only_when_its_last_change_has_landed(
    store: Path, late: bool, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "STAGE_BYTES", (batches - 1) * 12 * 1024 + 1)
    model = bytearray(b"1" * SIZE)
    replica = open_replica(store, files=RecordingFiles(late=late))
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        for number, offset in enumerate([0, BLOCK, 2 * BLOCK, 4096, 5 * BLOCK, 100, BLOCK + 8192, 5 * BLOCK]):
            data = bytes([50 + number]) * 5000
            put(session, [(offset, data)])
            model[offset : offset + len(data)] = data
        commit(session)
    points_equal(replica, {1: b"1" * SIZE, 2: bytes(model)}, required=[1, 2])
    assert all(table_is_true(replica, point) for point in replica.points())


class Slow(Files):
    """Takes its time aside."""

    def __init__(self) -> None:
        self.ended = 0

    def aside(self, work: Callable[[], None]) -> Aside:
        def slowly() -> None:
            time.sleep(0.05)
            work()
            self.ended += 1

        return super().aside(slowly)


def test_a_session_that_ends_leaves_no_thread_that_writes(store: Path) -> None:
    files = Slow()
    replica = open_replica(store, files=files)
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        put(session, [(0, b"2" * 3 * BLOCK)])
        assert files.ended < 3, "nothing is under way: this proves nothing"
        before = files.ended
        session.close()
        assert files.ended == before + 1, "the files were closed under a thread"
    points_equal(replica, {1: b"1" * SIZE}, required=[1])


class Held(Files):
    """Does nothing aside before it may."""

    def __init__(self) -> None:
        self.begun, self.may = 0, Event()

    def aside(self, work: Callable[[], None]) -> Aside:
        self.begun += 1

        def held() -> None:
            self.may.wait(60)
            work()

        return super().aside(held)


def test_hastening_lands_what_gathered_and_waits_for_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "STAGE_BYTES", 1 << 20)
    files = Held()
    replica = open_replica(store, files=files)
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        for number, byte in enumerate(b"234"):
            put(session, [(number * BLOCK, bytes([byte]) * BLOCK)])
            session.disks[0].hasten()
            assert files.begun == 1, "one stage lands at a time"
        assert (store / "vm/disk0/disk.img").read_bytes() == b"1" * SIZE
        files.may.set()
        commit(session)
    assert files.begun == 2
    model = b"".join(bytes([byte]) * BLOCK for byte in b"234") + b"1" * (SIZE - 3 * BLOCK)
    points_equal(replica, {1: b"1" * SIZE, 2: model}, required=[1, 2])


def test_what_fails_aside_fails_the_movement_and_the_next_one_goes_on(store: Path) -> None:
    whole = Failing(NEVER)
    move(open_replica(store, files=whole), SIZE, [(0, b"2" * 6 * BLOCK)])
    syncs = [at for at, op in enumerate(whole.ops) if op.what == "sync" and op.path.endswith(".hrl")]
    assert len(syncs) > 3
    failing = Failing(whole.calls // 2)
    with pytest.raises(StorageError):
        move(open_replica(store, files=failing), SIZE, [(0, b"3" * 6 * BLOCK)])
    replica = open_replica(store)
    points_equal(replica, {1: b"1" * SIZE, 2: b"2" * 6 * BLOCK + b"1" * 10 * BLOCK}, required=[1, 2])
    move(replica, SIZE, [(0, b"4" * BLOCK)])
    assert replica.state().epoch == 3
