"""Extents against sets of bytes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from blockreplica.extents import Extent, merged, neighbours, total, windows, within

extents = st.builds(Extent, st.integers(0, 200), st.integers(1, 60))


def painted(*some: Extent) -> set[int]:
    """The bytes in them."""
    return {at for extent in some for at in range(extent.offset, extent.end)}


@given(extents, st.integers(0, 250), st.integers(0, 250))
def test_clipping_is_cutting_off_what_lies_outside(extent: Extent, start: int, end: int) -> None:
    part = extent.clip(start, end)
    assert (painted(part) if part else set()) == painted(extent) & set(range(start, end))


@given(extents, st.integers(1, 40))
def test_aligned_is_the_smallest_of_whole_units_around_it(extent: Extent, unit: int) -> None:
    around = extent.aligned(unit, 10_000)
    assert around.offset % unit == around.end % unit == 0
    assert painted(extent) <= painted(around)
    assert extent.offset - around.offset < unit
    assert around.end - extent.end < unit


@given(extents, st.integers(1, 40), st.integers(0, 100))
def test_aligned_ends_at_the_limit(extent: Extent, unit: int, more: int) -> None:
    limit = extent.end + more
    assert extent.aligned(unit, limit).end <= limit


@given(st.lists(extents))
def test_merged_are_the_same_bytes_in_extents_that_never_touch(some: list[Extent]) -> None:
    result = list(merged(sorted(some)))
    assert painted(*result) == painted(*some)
    assert all(one.end < other.offset for one, other in pairwise(result))
    assert total(result) == len(painted(*some))


@given(st.integers(0, 500), st.integers(1, 70), st.integers(0, 500))
def test_windows_tile_what_they_are_asked_for(size: int, step: int, start: int) -> None:
    pieces = list(windows(size, step, start))
    assert [at for piece in pieces for at in range(piece.offset, piece.end)] == list(range(start, size))
    assert all(piece.length == step for piece in pieces[:-1])
    assert all(0 < piece.length <= step for piece in pieces)


@given(st.lists(extents), st.integers(0, 60), st.integers(1, 300))
def test_neighbours_are_near_one_another_and_nobody_is_left_out(some: list[Extent], gap: int, most: int) -> None:
    ascending = list(merged(sorted(some)))
    groups = list(neighbours(ascending, gap=gap, most=most))
    assert [extent for group in groups for extent in group] == ascending
    assert all(two.offset - one.end <= gap for group in groups for one, two in pairwise(group))
    assert all(len(group) == 1 or group[-1].end - group[0].offset <= most for group in groups)


@given(st.lists(extents), st.lists(st.integers(1, 90), min_size=1))
def test_within_gives_every_wanted_byte_the_word_for_its_place(some: list[Extent], steps: list[int]) -> None:
    wanted = [extent for extent in merged(sorted(some)) if extent.length]
    ends = [sum(steps[: at + 1]) for at in range(len(steps))]
    ends.append(max([*ends, *(extent.end for extent in wanted)]) + 1)
    told = [(Extent(start, end - start), start) for start, end in pairwise([0, *ends])]
    parts = list(within(wanted, told))
    assert [at for part, _ in parts for at in range(part.offset, part.end)] == sorted(painted(*wanted))
    assert all(start <= part.offset < part.end <= end for part, word in parts for start, end in pairwise([0, *ends])
               if start == word)  # fmt: skip
