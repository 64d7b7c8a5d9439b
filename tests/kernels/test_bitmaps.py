"""Bitmaps, against integers of any length."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@st.composite
def bitmaps(draw: st.DrawFn) -> bytes:
    """Mostly long runs, as real ones have."""
    pieces = st.one_of(st.binary(max_size=9), st.integers(0, 90).map(bytes), st.integers(0, 90).map(b"\xff".__mul__))
    return b"".join(draw(st.lists(pieces, max_size=5)))


@st.composite
def stretches(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """A bitmap and a stretch (start, limit) of it."""
    bitmap = draw(bitmaps())
    start = draw(st.integers(0, 8 * len(bitmap)))
    return bitmap, start, draw(st.integers(start, 8 * len(bitmap)))


def runs_of(bitmap: bytes, start: int, limit: int) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for bit in range(start, limit):
        if not bitmap[bit // 8] >> bit % 8 & 1:
            continue
        if runs and sum(runs[-1]) == bit:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((bit, 1))
    return runs


@relaxed
@given(case=stretches())
def test_set_clear_and_count_touch_these_bits_and_no_other(
    kernel: SimpleNamespace, case: tuple[bytes, int, int]
) -> None:
    bitmap, start, limit = case
    number, mask = int.from_bytes(bitmap, "little"), (1 << limit) - (1 << start)
    assert kernel.bitmap_count(bitmap, start, limit - start) == (number & mask).bit_count()
    changed = bytearray(bitmap)
    kernel.bitmap_set(changed, start, limit - start)
    assert int.from_bytes(changed, "little") == number | mask
    changed = bytearray(bitmap)
    kernel.bitmap_clear(changed, start, limit - start)
    assert int.from_bytes(changed, "little") == number & ~mask


@relaxed
@given(case=stretches())
def test_runs_are_found_one_by_one_and_all_at_once(kernel: SimpleNamespace, case: tuple[bytes, int, int]) -> None:
    bitmap, start, limit = case
    wanted = runs_of(bitmap, start, limit)
    found, at = [], start
    while (run := kernel.bitmap_next(bitmap, at, limit)) is not None:
        found.append(run)
        at = sum(run)
    assert found == wanted
    assert list(struct.iter_unpack("<QQ", kernel.bitmap_runs(bitmap, start, limit))) == wanted


@relaxed
@given(data=st.data())
def test_merge_sets_what_either_has(kernel: SimpleNamespace, data: st.DataObject) -> None:
    a = data.draw(bitmaps())
    b = data.draw(st.binary(min_size=len(a), max_size=len(a)))
    target = bytearray(a)
    kernel.bitmap_merge(target, b)
    assert target == bytes(x | y for x, y in zip(a, b, strict=True))


def test_every_alignment_of_a_run_is_found(kernel: SimpleNamespace) -> None:
    room = bytearray(40)
    for shift in (0, 1, 5):
        bitmap = memoryview(room)[shift : shift + 32]
        for first in range(140):
            for count in (1, 2, 7, 8, 9, 63, 64, 65, 115):
                bitmap[:] = bytes(32)
                kernel.bitmap_set(bitmap, first, count)
                assert kernel.bitmap_next(bitmap, 0, 256) == (first, count)
                assert kernel.bitmap_next(bitmap, first + count, 256) is None
                assert kernel.bitmap_count(bitmap, 0, 256) == count


def test_a_long_bitmap_is_searched_to_its_end(kernel: SimpleNamespace) -> None:
    bitmap = bytearray(100_003)
    assert kernel.bitmap_next(bitmap, 0, 800_024) is None
    kernel.bitmap_set(bitmap, 800_023, 1)
    assert kernel.bitmap_next(bitmap, 0, 800_024) == (800_023, 1)
    assert kernel.bitmap_next(bitmap, 0, 800_023) is None
    kernel.bitmap_set(bitmap, 0, 800_024)
    assert kernel.bitmap_next(bitmap, 3, 800_020) == (3, 800_017)


@pytest.mark.parametrize(("first", "count"), [(0, 81), (80, 1), (81, 0), (2**64 - 1, 2), (1, 2**64 - 1), (-1, 1)])
def test_bits_outside_are_refused_and_nothing_changes(kernel: SimpleNamespace, first: int, count: int) -> None:
    bitmap = bytearray(10)
    for function in (kernel.bitmap_set, kernel.bitmap_clear, kernel.bitmap_count):
        with pytest.raises(ValueError, match=r"bits|must be from 0"):
            function(bitmap, first, count)
    assert bitmap == bytes(10)


@pytest.mark.parametrize(("start", "limit"), [(0, 81), (5, 4), (-1, 3), (0, 2**64)])
def test_stretches_outside_are_refused(kernel: SimpleNamespace, start: int, limit: int) -> None:
    for function in (kernel.bitmap_next, kernel.bitmap_runs):
        with pytest.raises(ValueError, match=r"bits|must be from 0"):
            function(bytes(10), start, limit)


def test_merging_bitmaps_of_different_lengths_is_refused(kernel: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="one length"):
        kernel.bitmap_merge(bytearray(3), bytes(2))
