"""Coalescing in windows of the disk: however small the windows, the same bytes end where the last write put them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockreplica.errors import LogError
from blockreplica.files import FILES
from blockreplica.hrl import ENTRY, LogWriter
from blockreplica.manifest import Cursor
from blockreplica.replication import logs as logs_module
from blockreplica.replication.logs import WRITE, DeltaLogs, clipped
from blockreplica.tracking import EpochRecord

from .world import MIB, flip

SIZE = 3 * MIB
NOWHERE = 2**64 - 1
Write = tuple[int, bytes | int]  # where, and the data or how many zeros

relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def make_log(path: Path, writes: list[Write], *, unique_id: UUID, previous_id: UUID, file_type: int = 0) -> Path:
    """A sealed log with these writes."""
    path.unlink(missing_ok=True)
    writer = LogWriter.create(path, unique_id=unique_id, previous_id=previous_id, file_type=file_type)
    for offset, what in writes:
        if isinstance(what, int):
            writer.append_zero(offset, what)
        else:
            writer.append(offset, what)
    writer.close()
    return path


def make_logs(folder: Path, epochs: list[list[Write]]) -> list[EpochRecord]:
    """Sealed logs of consecutive epochs, chained."""
    previous, records = UUID(int=0), []
    for epoch, writes in enumerate(epochs, start=1):
        unique = uuid4()
        path = make_log(folder / f"{epoch}.hrl", writes, unique_id=unique, previous_id=previous)
        records.append(EpochRecord(epoch, path, None, unique, previous))
        previous = unique
    return records


def painted(records: list[EpochRecord], size: int) -> tuple[bytes, bytes]:
    """The disk after a delta over a disk of 0xEE, and how often each byte was written (255 at the most)."""
    disk, times = bytearray(b"\xee" * size), np.zeros(size, np.uint8)
    with ExitStack() as stack:
        delta = DeltaLogs.open(records, None, stack, checked=set(), files=FILES)
        last = 0
        for rows in delta.coalesced(size):
            for offset, length, source, log, operation in rows.tolist():
                assert offset >= last, "not sorted, or overlapping"
                assert length > 0
                last = offset + length
                assert last <= size
                data = delta.logs[log].file.pread(length, source) if operation == WRITE else bytes(length)
                disk[offset:last] = data
                times[offset:last] += 1
    return bytes(disk), times.tobytes()


def model(epochs: list[list[Write]], size: int) -> bytes:
    """The same, byte by byte in the order written."""
    disk = bytearray(b"\xee" * size)
    for writes in epochs:
        for offset, what in writes:
            data = bytes(what) if isinstance(what, int) else what
            part = data[: max(0, size - offset)]
            disk[offset : offset + len(part)] = part
    return bytes(disk)


places = st.one_of(st.integers(0, SIZE), st.sampled_from([0, MIB - 1, MIB, MIB + 1, 2 * MIB - 600]))
contents = st.one_of(
    st.integers(1, 2 * MIB), st.tuples(st.integers(1, 250), st.integers(1, 9000)).map(lambda p: bytes([p[0]]) * p[1])
)
epochs_of_writes = st.lists(st.lists(st.tuples(places, contents), max_size=12), min_size=1, max_size=3)


@relaxed
@given(epochs=epochs_of_writes, limit=st.sampled_from([1, 3, 1 << 18]), size=st.sampled_from([SIZE, MIB + 77, 1]))
def test_windows_of_any_size_give_what_the_writes_gave_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: list[list[Write]], limit: int, size: int
) -> None:
    monkeypatch.setattr(logs_module, "ENTRY_LIMIT", limit)
    disk, times = painted(make_logs(tmp_path, epochs), size)
    assert disk == model(epochs, size)
    assert max(times) <= 1, "a byte was written twice"


def test_a_tiny_limit_really_makes_several_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "ENTRY_LIMIT", 4)
    writes: list[Write] = [(at * 100_000, bytes([at + 1]) * 50_000) for at in range(30)]
    records = make_logs(tmp_path, [writes, [(1_500_000, MIB)]])
    with ExitStack() as stack:
        delta = DeltaLogs.open(records, None, stack, checked=set(), files=FILES)
        parts = [len(rows) for rows in delta.coalesced(SIZE)]
    assert len(parts) == 3
    disk, _ = painted(records, SIZE)
    assert disk == model([writes, [(1_500_000, MIB)]], SIZE)


def test_nothing_is_left_of_a_delta_on_a_disk_of_no_bytes(tmp_path: Path) -> None:
    assert painted(make_logs(tmp_path, [[(0, b"x")]]), 0) == (b"", b"")


def rows_of(*rows: tuple[int, int, int, int, int]) -> np.ndarray:
    return np.array(list(rows), ENTRY)


def test_clipping_moves_the_source_of_data_and_leaves_that_of_zeros() -> None:
    rows = rows_of((100, 50, 7000, 0, 1), (100, 50, NOWHERE, 1, 2), (10, 20, 9000, 0, 1), (200, 10, 1, 0, 1))
    result = clipped(rows, 120, 140).tolist()
    assert result == [(120, 20, 7020, 0, 1), (120, 20, NOWHERE, 1, 2)]
    assert rows.tolist()[0] == (100, 50, 7000, 0, 1), "the rows that came in were changed"


def test_clipping_keeps_rows_that_lie_inside_and_drops_those_that_only_touch() -> None:
    rows = rows_of((0, 10, 1, 0, 1), (10, 10, 2, 0, 1), (20, 10, 3, 0, 1), (15, 0, 4, 0, 1))
    assert clipped(rows, 10, 20).tolist() == [(10, 10, 2, 0, 1)]
    inside = rows[1:2]
    assert clipped(inside, 0, 100) is inside


def test_the_log_in_the_middle_must_follow_the_one_before(tmp_path: Path) -> None:
    records = make_logs(tmp_path, [[(0, b"a")], [(0, b"b")], [(0, b"c")]])
    with ExitStack() as stack, pytest.raises(LogError, match="follows log"):
        DeltaLogs.open([records[0], records[2]], None, stack, checked=set(), files=FILES)


def test_the_first_log_must_follow_the_cursor(tmp_path: Path) -> None:
    records = make_logs(tmp_path, [[(0, b"a")]])
    right = Cursor(tracking_id=str(UUID(int=5)), epoch=0, chain=str(UUID(int=0)))
    wrong = Cursor(tracking_id=str(UUID(int=5)), epoch=0, chain=str(UUID(int=9)))
    with ExitStack() as stack:
        assert DeltaLogs.open(records, right, stack, checked=set(), files=FILES).data_bytes > 0
        with pytest.raises(LogError, match="follows log"):
            DeltaLogs.open(records, wrong, stack, checked=set(), files=FILES)


def test_a_flipped_bit_in_a_log_is_found_before_the_first_byte_is_used(tmp_path: Path) -> None:
    records = make_logs(tmp_path, [[(0, b"a" * 5000)], [(9000, b"b" * 5000)]])
    assert records[1].log is not None
    flip(records[1].log, 4096 + 2000)
    with ExitStack() as stack, pytest.raises(LogError):
        DeltaLogs.open(records, None, stack, checked=set(), files=FILES)


def test_an_undo_log_is_no_change_log(tmp_path: Path) -> None:
    path = make_log(tmp_path / "1.hrl", [(0, b"a")], unique_id=uuid4(), previous_id=UUID(int=0), file_type=1)
    with ExitStack() as stack, pytest.raises(LogError, match="undo log"):
        DeltaLogs.open([EpochRecord(1, path, None)], None, stack, checked=set(), files=FILES)


def test_an_epoch_whose_log_was_given_up_is_no_delta(tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(LogError, match="given up"):
        DeltaLogs.open([EpochRecord(4, None, tmp_path / "4.dirty")], None, stack, checked=set(), files=FILES)
