"""Bitmaps: bit i is bit i % 8 (the lowest is 0) of byte i // 8. Bits outside the bitmap are a ValueError."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from .arguments import check, number, readable, writable

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .arguments import Bytes

_PAIR = struct.Struct("<QQ")
_STRETCH = 512  # bytes looked at together


def bitmap_set(bitmap: Buffer, first: int, count: int) -> None:
    """Set `count` bits from `first` on."""
    _fill("bitmap_set", writable(bitmap), first, count, value=True)


def bitmap_clear(bitmap: Buffer, first: int, count: int) -> None:
    """Clear `count` bits from `first` on."""
    _fill("bitmap_clear", writable(bitmap), first, count, value=False)


def _fill(kernel: str, bitmap: Bytes, first: int, count: int, *, value: bool) -> None:
    first, count = _bits(kernel, bitmap, first, count)
    low, high = first // 8, -(-(first + count) // 8)
    if count == 0:
        return
    mask = (1 << count) - 1 << first % 8
    word = int.from_bytes(bitmap[low:high].tobytes(), "little")
    word = word | mask if value else word & ~mask
    memoryview(bitmap)[low:high] = word.to_bytes(high - low, "little")


def bitmap_count(bitmap: Buffer, first: int, count: int) -> int:
    """How many of `count` bits from `first` on are set."""
    view = readable(bitmap)
    first, count = _bits("bitmap_count", view, first, count)
    word = int.from_bytes(view[first // 8 : -(-(first + count) // 8)].tobytes(), "little")
    return (word >> first % 8 & (1 << count) - 1).bit_count()


def bitmap_merge(target: Buffer, source: Buffer) -> None:
    """Set in `target` every bit that is set in `source`; ValueError unless they are of one length."""
    into, more = writable(target), readable(source)
    check(len(into) == len(more), "bitmap_merge", "target and source must be of one length")
    into |= more


def bitmap_next(bitmap: Buffer, start: int, limit: int) -> tuple[int, int] | None:
    """The next run (first, count) of set bits within [start, limit), cut at `limit`; None where all are clear."""
    view = readable(bitmap)
    start, limit = _stretch("bitmap_next", view, start, limit)
    first = _find(view, start, limit, value=True)
    return None if first == limit else (first, _find(view, first, limit, value=False) - first)


def bitmap_runs(bitmap: Buffer, start: int, limit: int) -> bytes:
    """All runs of set bits within [start, limit), cut there, as pairs of u64 (first, count)."""
    view = readable(bitmap)
    at, limit = _stretch("bitmap_runs", view, start, limit)
    runs = []
    while (first := _find(view, at, limit, value=True)) < limit:
        at = _find(view, first, limit, value=False)
        runs.append(_PAIR.pack(first, at - first))
    return b"".join(runs)


def _find(bitmap: Bytes, at: int, limit: int, *, value: bool) -> int:
    """The first bit at or behind `at` that is `value`, or `limit`."""
    while at < limit:
        low = at // 8
        piece = bitmap[low : low + _STRETCH].tobytes()
        word = int.from_bytes(piece, "little")
        if not value:
            word ^= (1 << 8 * len(piece)) - 1
        word >>= at % 8
        if word:
            return min(at + (word & -word).bit_length() - 1, limit)
        at = 8 * (low + _STRETCH)
    return limit


def _bits(kernel: str, bitmap: Bytes, first: int, count: int) -> tuple[int, int]:
    first, count = number(kernel, "first", first), number(kernel, "count", count)
    check(first + count <= 8 * len(bitmap), kernel, "the bits lie outside the bitmap")
    return first, count


def _stretch(kernel: str, bitmap: Bytes, start: int, limit: int) -> tuple[int, int]:
    start, limit = number(kernel, "start", start), number(kernel, "limit", limit)
    check(start <= limit <= 8 * len(bitmap), kernel, "the bits lie outside the bitmap")
    return start, limit
