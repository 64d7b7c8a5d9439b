"""Writing: what was appended comes back, in this order, under any reader; what fails leaves no log that looks whole."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockreplica.errors import LogOpenError, NoSpaceError, RefusedError, StorageError, UsageError
from blockreplica.files import FILES
from blockreplica.hrl import NO_SOURCE, UNDO_LOG, Header, LogReader, LogWriter
from hrl.ms_hrl import read_strict
from hrl.tools import LOG_ID, Fragile, Op, append, flat, ops_of, read, rows_of, some_groups, write

OPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 2**63 - 2**31), st.binary(max_size=600)),
        st.tuples(st.integers(0, 2**62), st.integers(1, 2**31)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(ops=OPS, metadata_size=st.sampled_from([512, 1024, 4096]))
def test_what_was_appended_comes_back(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Op], metadata_size: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.hrl"
    write(path, [ops[:20], ops[20:]], metadata_size=metadata_size)
    assert read(path) == ops


@settings(deadline=None)
@given(groups=st.lists(OPS.map(lambda ops: [op for op in ops if isinstance(op[1], bytes)]), max_size=3))
def test_strict_logs_are_right_for_another_reader(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[Op]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.hrl"
    write(path, groups, strict=True)
    found = read_strict(path)
    assert [(offset, data) for offset, _, data in found.entries] == flat(groups)
    assert found.blocks[0] == 4096
    assert read(path) == flat(groups)


def test_strict_logs_carry_zeros_as_data_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    write(path, [[(3, b"before"), (4096, (2 << 20) + 5), (1, b"behind")]], strict=True)
    entries = [(offset, data) for offset, _, data in read_strict(path).entries]
    assert entries == [
        (3, b"before"), (4096, bytes(1 << 20)), (4096 + (1 << 20), bytes(1 << 20)), (4096 + (2 << 20), bytes(5)),
        (1, b"behind"),
    ]  # fmt: skip
    assert path.stat().st_blocks * 512 < 1 << 20
    with LogReader.open(path) as reader:
        assert reader.check().data == "checked"


def test_a_long_zero_entry_comes_in_pieces_below_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    write(path, [[(0, 2**40)]])
    ops = read(path)
    assert sum(length for _, length in ops if isinstance(length, int)) == 2**40
    assert [offset for offset, _ in ops] == list(range(0, 2**40, 2**31))


def test_append_says_where_the_data_stands(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    with LogWriter.create(path, unique_id=LOG_ID, metadata_size=512) as writer:
        places = [writer.append(i, bytes([i]) * 10) for i in range(40)]
        for i, place in enumerate(places):
            assert FILES.read(path, limit=1 << 20)[place : place + 10] == bytes([i]) * 10
    with LogReader.open(path) as reader:
        assert np.concatenate(list(reader.entries()))["source"].tolist() == places


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("before", [0, 1, 14, 15, 16])
def test_many_entries_at_once_make_the_same_log_as_one_by_one(tmp_path: Path, strict: bool, before: int) -> None:
    data = os.urandom(5000)
    rows = [(i * 512, 37 * i % 101, 49 * i, 1) for i in range(100)]
    if not strict:
        rows[::7] = [(i * 10**9, 2**32 - 1 - i, NO_SOURCE, 2) for i in range(0, 100, 7)]
    one, many = tmp_path / "one.hrl", tmp_path / "many.hrl"
    for path in (one, many):
        writer = LogWriter.create(
            path, unique_id=LOG_ID, strict=strict, metadata_size=512, timestamp=1, clock=lambda: 0.0
        )
        for i in range(before):
            writer.append(i, b"lead")
        if path is many:
            places = writer.append_many(rows_of(rows), data).tolist()
        else:
            for offset, length, source, operation in rows:
                if operation == 1:
                    writer.append(offset, data[source : source + length])
                else:
                    writer._make_room()
                    writer._encode(offset, length, 2, b"", None)
                    writer._count, writer.total = writer._count + 1, writer.total + 1
        writer.close()
    assert many.read_bytes() == one.read_bytes()
    with LogReader.open(many) as reader:
        assert np.concatenate(list(reader.entries()))["source"].tolist()[before:] == places


def test_many_entries_keep_their_own_times(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    with LogWriter.create(path, unique_id=LOG_ID) as writer:
        writer.append_many(rows_of([(0, 1, 0, 1), (1, 1, 0, 1)]), b"x", stamps=np.array([5, 2**32 - 1]))
        writer.append(9, b"y", timestamp=7)
        writer.append_zero(9, 1, timestamp=8)
    with LogReader.open(path) as reader:
        ((_, stamps),) = reader.records()
    assert stamps.tolist() == [5, 2**32 - 1, 7, 8]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(
    "row",
    [(0, 2, 0, 1), (0, 1, 2, 1), (0, 1, 2**64 - 1, 1), (2**63, 1, 0, 1), (2**63 - 1, 1, 0, 1), (0, 1, 0, 3),
     (0, 1, 0, 0), (0, 2**32, 0, 2)],
)  # fmt: skip
def test_a_row_that_cannot_be_is_refused_and_nothing_is_logged(tmp_path: Path, row: tuple[int, int, int, int]) -> None:
    path = tmp_path / "log.hrl"
    with LogWriter.create(path, unique_id=LOG_ID) as writer, pytest.raises(UsageError):
        writer.append_many(rows_of([(0, 1, 0, 1), row]), b"x")
    with LogWriter.resume(path) as writer:
        writer.append(1, b"y")
    assert read(path) == [(1, b"y")]


def test_strict_logs_refuse_zero_rows_in_bulk(tmp_path: Path) -> None:
    with (
        LogWriter.create(tmp_path / "log.hrl", unique_id=LOG_ID, strict=True) as writer,
        pytest.raises(UsageError),
    ):
        writer.append_many(rows_of([(0, 1, NO_SOURCE, 2)]), b"")


@pytest.mark.parametrize("offset", [-1, 2**63, 2**64])
def test_an_offset_no_disk_has_is_refused(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "log.hrl"
    with LogWriter.create(path, unique_id=LOG_ID) as writer:
        with pytest.raises(UsageError):
            writer.append(offset, b"x")
        with pytest.raises(UsageError):
            writer.append_zero(offset, 1)
    assert read(path) == []


def test_header_fields_are_kept_and_the_seal_fills_the_rest(tmp_path: Path) -> None:
    path, previous, guid = tmp_path / "log.hrl", uuid4(), uuid4()
    now = iter([946684800 + 100.0, 946684800 + 200.0, 946684800 + 300.0])
    writer = LogWriter.create(
        path, unique_id=LOG_ID, previous_id=previous, data_write_guid=guid, file_type=UNDO_LOG, clock=lambda: next(now)
    )
    writer.append(5, b"abc")
    sealed = writer.close()
    header = Header.decode(path.read_bytes(), path)
    assert header == sealed
    assert (header.unique_id, header.previous_id, header.data_write_guid) == (LOG_ID, previous, guid)
    assert (header.timestamp, header.modified, header.file_type) == (100, 300, UNDO_LOG)
    assert (header.end, header.current_size, header.total_entries) == (path.stat().st_size, header.end, 1)
    assert (header.creator, header.error_code, header.flags) == (b"brep", 0, 0)


def test_uuids_stand_in_the_file_as_microsoft_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    write(path, [], log_id=UUID("00112233-4455-6677-8899-aabbccddeeff"))
    assert path.read_bytes()[60:76].hex() == "33221100554477668899aabbccddeeff"


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    path.write_bytes(b"precious")
    with pytest.raises(RefusedError):
        LogWriter.create(path, unique_id=LOG_ID)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("size", [0, -512, 511, 513, 2**20 + 512])
def test_a_metadata_size_that_cannot_be_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError):
        LogWriter.create(tmp_path / "log.hrl", unique_id=LOG_ID, metadata_size=size)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_body_leaves_the_log_unclosed(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    with pytest.raises(UsageError), LogWriter.create(path, unique_id=LOG_ID) as writer:
        writer.append(-1, b"x")
    with pytest.raises(LogOpenError):
        LogReader.open(path)


def test_a_closed_writer_takes_nothing_more(tmp_path: Path) -> None:
    writer = LogWriter.create(tmp_path / "log.hrl", unique_id=LOG_ID)
    writer.close()
    writer.close()
    for call in (lambda: writer.append(0, b"x"), lambda: writer.append_zero(0, 1), writer.sync):
        with pytest.raises(UsageError):
            call()


def test_the_end_is_written_only_after_all_else_is_durable(tmp_path: Path) -> None:
    files = Fragile()
    writer = LogWriter.create(tmp_path / "log.hrl", unique_id=LOG_ID, files=files)
    place = writer.append(0, b"x")
    files.calls.clear()
    writer.close()
    assert files.calls == [f"log.hrl: write {place + 1}", "log.hrl: sync", "log.hrl: write 0", "log.hrl: sync"]


def test_a_failed_fsync_is_final(tmp_path: Path) -> None:
    files, path = Fragile(), tmp_path / "log.hrl"
    writer = LogWriter.create(path, unique_id=LOG_ID, files=files)
    writer.append(0, b"x")
    files.fail.add("sync")
    with pytest.raises(StorageError):
        writer.sync()
    files.fail.clear()
    for call in (writer.sync, writer.close, lambda: writer.append(0, b"x")):
        with pytest.raises(StorageError, match="abandon"):
            call()
    writer.abandon()
    with pytest.raises(LogOpenError):
        LogReader.open(path)


def test_a_write_that_failed_for_want_of_room_can_be_tried_again(tmp_path: Path) -> None:
    files, path = Fragile(), tmp_path / "log.hrl"
    writer = LogWriter.create(path, unique_id=LOG_ID, metadata_size=512, files=files)
    ops: list[Op] = []
    for i in range(40):
        files.fail.add("write")
        with pytest.raises(NoSpaceError):
            writer.append(i, b"data")
        if i % 11 == 10:
            with pytest.raises(NoSpaceError):
                writer.flush()
        files.fail.clear()
        writer.append(i, b"data")
        ops.append((i, b"data"))
    files.fail.add("write")
    with pytest.raises(NoSpaceError):
        writer.close()
    files.fail.clear()
    writer.close()
    assert read(path) == ops


def test_a_failed_create_leaves_no_open_file(tmp_path: Path) -> None:
    files = Fragile()
    files.fail.add("write")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoSpaceError):
        LogWriter.create(tmp_path / "log.hrl", unique_id=LOG_ID, files=files)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_was_flushed_can_be_salvaged_and_what_was_not_is_not(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    writer = LogWriter.create(path, unique_id=LOG_ID)
    append(writer, [(0, b"flushed")])
    writer.flush()
    writer.flush()
    append(writer, [(1, b"not")])
    with LogReader.open(path, salvage=True) as reader:
        assert ops_of(reader) == [(0, b"flushed")]
    writer.abandon()


def test_a_full_block_is_written_without_being_asked(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    writer = LogWriter.create(path, unique_id=LOG_ID)
    append(writer, [(i, b"x") for i in range(128)])
    assert len(read(path, salvage=True)) == 127
    writer.abandon()


def test_seeded_logs_come_back(tmp_path: Path) -> None:
    for seed in range(30):
        path = tmp_path / f"{seed}.hrl"
        write(path, some_groups(seed))
        assert read(path) == flat(some_groups(seed)), f"seed {seed}"
