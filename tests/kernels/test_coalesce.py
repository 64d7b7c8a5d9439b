"""Coalescing, against a disk that is painted byte by byte."""

from __future__ import annotations

import random
import struct
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROW = struct.Struct("<QQQII")
Row = tuple[int, int, int, int, int]
NOWHERE = 2**64 - 1
WRITE, ZERO = 1, 2

relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def coalesced(kernel: SimpleNamespace, rows: list[Row]) -> list[Row]:
    out = bytearray(2 * ROW.size * len(rows))
    count = kernel.coalesce(b"".join(ROW.pack(*row) for row in rows), out)
    assert out[count * ROW.size :] == bytes(len(out) - count * ROW.size), "wrote behind the rows"
    return [ROW.unpack_from(out, index * ROW.size) for index in range(count)]


def painted(rows: list[Row]) -> dict[int, tuple[int, int, int]]:
    """For each byte of the disk: where it comes from."""
    disk = {}
    for offset, length, source, log, operation in rows:
        for at in range(length):
            disk[offset + at] = (source + at if operation == WRITE else source, log, operation)
    return disk


def check(kernel: SimpleNamespace, rows: list[Row]) -> None:
    result = coalesced(kernel, rows)
    assert painted(result) == painted(rows)
    for before, after in pairwise(result):
        assert before[0] + before[1] <= after[0], "overlapping or not sorted"
        moves = before[1] if before[4] == WRITE else 0
        joins = before[0] + before[1] == after[0] and (before[2] + moves, *before[3:]) == after[2:]
        assert not joins, f"{before} and {after} are one"
    assert all(row[1] for row in result)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    operation = draw(st.sampled_from([WRITE, WRITE, ZERO]))
    source = NOWHERE if operation == ZERO else draw(st.sampled_from([0, 7, 4096, 10**12]))
    return draw(st.integers(0, 60)), draw(st.integers(0, 40)), source, draw(st.integers(0, 1)), operation


@relaxed
@given(entries=st.lists(rows(), max_size=40))
def test_the_last_write_of_every_byte_wins(kernel: SimpleNamespace, entries: list[Row]) -> None:
    check(kernel, entries)


@relaxed
@given(entries=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=30))
def test_a_log_written_in_one_stream_keeps_its_sources(kernel: SimpleNamespace, entries: list[tuple[int, int]]) -> None:
    stream, source = [], 4096
    for offset, length in entries:
        stream.append((offset, length, source, 0, WRITE))
        source += length
    check(kernel, stream)


def test_a_write_in_the_middle_cuts_the_older_one_in_two(kernel: SimpleNamespace) -> None:
    assert coalesced(kernel, [(0, 100, 1000, 0, WRITE), (40, 20, 5000, 0, WRITE)]) == [
        (0, 40, 1000, 0, WRITE),
        (40, 20, 5000, 0, WRITE),
        (60, 40, 1060, 0, WRITE),
    ]


def test_pieces_that_go_on_in_the_same_log_are_joined(kernel: SimpleNamespace) -> None:
    rows: list[Row] = [(10, 10, 110, 3, WRITE), (0, 10, 100, 3, WRITE), (20, 10, 120, 4, WRITE)]
    assert coalesced(kernel, rows) == [(0, 20, 100, 3, WRITE), (20, 10, 120, 4, WRITE)]


def test_zeros_are_joined_and_keep_their_source(kernel: SimpleNamespace) -> None:
    rows: list[Row] = [(0, 2**40, NOWHERE, 0, ZERO), (2**40, 5, NOWHERE, 0, ZERO), (8, 8, 0, 0, WRITE)]
    assert coalesced(kernel, rows) == [
        (0, 8, NOWHERE, 0, ZERO),
        (8, 8, 0, 0, WRITE),
        (16, 2**40 - 11, NOWHERE, 0, ZERO),
    ]


def test_nothing_and_empty_rows_leave_nothing(kernel: SimpleNamespace) -> None:
    assert coalesced(kernel, []) == []
    assert coalesced(kernel, [(5, 0, 0, 0, WRITE), (2**64 - 1, 0, NOWHERE, 0, ZERO)]) == []


def test_the_ends_of_the_number_space_are_reached(kernel: SimpleNamespace) -> None:
    last: Row = (2**64 - 2, 1, 2**64 - 2, 2**32 - 1, WRITE)
    whole: Row = (0, 2**64 - 1, NOWHERE, 0, ZERO)
    assert coalesced(kernel, [whole, last]) == [(0, 2**64 - 2, NOWHERE, 0, ZERO), last]


@pytest.mark.parametrize(
    "bad",
    [
        (0, 1, 0, 0, 0),
        (0, 1, 0, 0, 3),
        (0, 1, 0, 0, 2**32 - 1),
        (1, 2**64 - 1, 0, 0, ZERO),
        (0, 2, 2**64 - 1, 0, WRITE),
        (2**64 - 1, 1, 0, 0, WRITE),
    ],
)
def test_a_row_that_cannot_be_is_refused_and_nothing_is_written(kernel: SimpleNamespace, bad: Row) -> None:
    out = bytearray(b"\xa5" * 128)
    with pytest.raises(ValueError, match="unknown operation"):
        kernel.coalesce(ROW.pack(0, 1, 0, 0, WRITE) + ROW.pack(*bad), out)
    assert out == b"\xa5" * 128


def test_too_little_room_and_torn_rows_are_refused(kernel: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="room"):
        kernel.coalesce(bytes(64), bytearray(127))
    with pytest.raises(ValueError, match="rows of 32 bytes"):
        kernel.coalesce(bytes(33), bytearray(1000))


def nested(count: int) -> list[Row]:
    """Each write lies inside the one before: every step finds all older ones still open."""
    return [(index, 2 * (count - index), index * 10**7, 0, WRITE) for index in range(count)]


def inside_out(count: int) -> list[Row]:
    """Each write covers all before it: all but the last are dead, and all stay in the heap until the end."""
    return [(count - index, 2 * index + 1, index * 10**7, 0, WRITE) for index in range(count)]


def staircase(count: int) -> list[Row]:
    """Each write covers the second half of the one before and goes on."""
    return [(index * 5, 10, index * 10**7, 0, WRITE) for index in range(count)]


def shuffled(rows: list[Row]) -> list[Row]:
    random.Random(9).shuffle(rows)
    return rows


CASES = {
    "nested": lambda count: (nested(count), 2 * count - 1),
    "inside out": lambda count: (inside_out(count), 1),
    "staircase": lambda count: (staircase(count), count),
    "staircase down": lambda count: (staircase(count)[::-1], count),
    "all at one place": lambda count: ([(7, index + 1, index * 10**7, 0, WRITE) for index in range(count)], 1),
    "shuffled stream": lambda count: (shuffled([(5 * i, 5, 5 * i, 0, WRITE) for i in range(count)]), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_many_overlapping_writes_leave_as_many_rows_as_they_must(kernel: SimpleNamespace, case: str) -> None:
    check(kernel, CASES[case](60)[0])
    count = 100_000 if kernel.native else 2_000
    entries, wanted = CASES[case](count)
    assert len(coalesced(kernel, entries)) == wanted


def test_offsets_of_every_magnitude_are_sorted(kernel: SimpleNamespace) -> None:
    randomness = random.Random(10)
    entries = [(randomness.getrandbits(randomness.randrange(1, 63)), 1, 0, 0, ZERO) for _ in range(3000)]
    result = coalesced(kernel, [(offset, length, NOWHERE, log, ZERO) for offset, length, _, log, _ in entries])
    covered = {at for offset, length, *_ in result for at in range(offset, offset + length)}
    assert covered == {offset for offset, *_ in entries}
    assert [row[0] for row in result] == sorted(row[0] for row in result)
