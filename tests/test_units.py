"""Sizes, durations and times: what is written is read back, and nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockreplica.errors import UsageError
from blockreplica.units import GIB, KIB, MIB, TIB, format_duration, format_size, format_time, parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0), ("512", 512), ("512B", 512), ("64KiB", 64 * KIB), ("64k", 64 * KIB), ("64K", 64 * KIB),
        ("64KB", 64_000), ("4M", 4 * MIB), ("4MB", 4_000_000), ("1.5 GiB", 3 * GIB // 2), ("  2TiB ", 2 * TIB),
        ("0.5k", 512), ("1TB", 10**12),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "k", "-1", "1,5G", "64 KiB x", "1e3", "0x10", "64QiB", "1 2", "NaN", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_size(text)


@given(st.integers(0, 1 << 62))
def test_a_size_written_and_read_back_is_the_same_to_a_twentieth_of_its_unit(count: int) -> None:
    unit = max(u for u in (1, KIB, MIB, GIB, TIB) if count >= u or u == 1)
    assert abs(parse_size(format_size(count)) - count) <= unit * 0.0501 + 1


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (10 * TIB, "10 TiB")]
)
def test_sizes_as_they_are_shown(count: int, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"), (0.416, "0.42 s"), (12.4, "12 s"), (59.9, "60 s"), (60, "1 min 0 s"), (190, "3 min 10 s"),
        (7500, "2 h 5 min"), (273_600, "3 d 4 h"),
    ],
)  # fmt: skip
def test_durations_as_they_are_shown(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 4_000_000_000_000_000))
def test_times_are_read_back_to_the_microsecond(microseconds: int) -> None:
    text = format_time(microseconds / 1e6)
    assert text.endswith("Z")
    assert abs(parse_time(text) - microseconds / 1e6) < 2e-6


def test_times_sort_as_their_texts_do() -> None:
    times = [0.0, 0.000001, 1.0, 59.999999, 1_700_000_000.5, 1_700_000_001.0]
    assert sorted(map(format_time, times)) == [format_time(time) for time in times]


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z", "12:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="time"):
        parse_time(text)
