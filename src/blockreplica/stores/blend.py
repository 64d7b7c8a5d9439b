"""The plan of one batch of an apply: what the touched blocks become, and which granules of them really change.

Pure: bytes in, arrays out. `stores.disk` reads before it and writes after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..checksums import ENTRY_SIZE
from .layout import GRANULE

#: Rows of a batch: disk offset, length, where its data stands in the buffer.
EXTENT = np.dtype([("offset", "<u8"), ("length", "<u8"), ("buffer", "<u8")])
BATCH_BYTES = 2 << 20  # of touched blocks: larger ones cost more in fresh memory than they save in calls
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Blend:
    """What a batch changes. Arrays run parallel: `granules` with `old` and `new`, `blocks` with `entries`."""

    granules: Array  # disk granule numbers, ascending
    old: Array  # (n, 4096) content before
    new: Array  # (n, 4096) content after
    blocks: Array  # numbers of the blocks that change
    entries: Array  # (m, 16) their new checksums
    old_entries: Array  # (touched blocks, 16) the checksums of their old content
    changed_bytes: int  # of the rows, those that lie in changed granules


def touched_blocks(rows: Array, block_size: int) -> Array:
    """The numbers of all blocks that `rows` touch, ascending."""
    first = (rows["offset"] // block_size).astype(np.int64)
    last = ((rows["offset"] + rows["length"] - 1) // block_size).astype(np.int64)
    counts = last - first + 1
    at = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return distinct(np.repeat(first, counts) + at)


def distinct(ascending: Array) -> Array:
    """The numbers of an ascending array, each once."""
    once: Array = ascending[np.diff(ascending, prepend=-1) != 0]
    return once


def batches(rows: Array, block_size: int) -> Iterator[Array]:
    """Cut sorted `rows` into runs that touch about BATCH_BYTES of blocks each; a row is never cut, and two runs share
    a block only where one of them would be too long otherwise."""
    first = (rows["offset"] // block_size).astype(np.int64)
    last = ((rows["offset"] + rows["length"] - 1) // block_size).astype(np.int64)
    fresh = np.ones(len(rows), np.bool_)
    fresh[1:] = first[1:] > last[:-1]
    weights = np.cumsum(last - first + fresh)
    breaks = np.flatnonzero(fresh)
    limit, start = max(1, BATCH_BYTES // block_size), 0
    while start < len(rows):
        base = int(weights[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(weights, base + limit, side="right")))
        if stop < len(rows):
            at = int(breaks[np.searchsorted(breaks, stop, side="right") - 1])
            stop = at if at > start else stop
        yield rows[start:stop]
        start = stop


def split_long(rows: Array, block_size: int) -> Array:
    """`rows` with those longer than half a batch cut at multiples of the block size."""
    step = max(block_size, BATCH_BYTES // 2 // block_size * block_size)
    if not len(rows) or int(rows["length"].max()) <= step:
        return rows
    out: list[tuple[int, int, int]] = []
    for offset, length, buffer in rows.tolist():
        end = offset + length
        while offset < end:
            stop = min(end, (offset // step + 1) * step)
            out.append((offset, stop - offset, buffer))
            offset, buffer = stop, buffer + stop - offset
    return np.array(out, EXTENT)


def block_rows(blocks: Array, block_size: int) -> Array:
    """Rows that read `blocks` one behind the other into a buffer, runs of neighbours as one row."""
    starts = np.flatnonzero(np.diff(blocks, prepend=-2) != 1)
    ends = np.append(starts[1:], len(blocks))
    rows = np.zeros(len(starts), EXTENT)
    rows["offset"] = blocks[starts] * block_size
    rows["length"] = (ends - starts) * block_size
    rows["buffer"] = starts * block_size
    return rows


def blend(
    rows: Array, data: memoryview, blocks: Array, old: memoryview, new: memoryview, *,
    block_size: int, size: int, seed: int, again: bool = False,
) -> Blend:  # fmt: skip
    """Lay `rows` of `data` over the `old` content of `blocks` (whole blocks, zeros behind the disk's `size`).

    `new` is room for as much again. Where all granules change, the result lies in `old` and `new`; else in neither.
    With `again` every granule counts as changed.
    """
    if int(rows["length"].sum()) < len(new):
        new[:] = old
    at = np.searchsorted(blocks, (rows["offset"] // block_size).astype(np.int64)) * block_size
    at = at + (rows["offset"] % block_size).astype(np.int64)
    for target, length, source in zip(at.tolist(), rows["length"].tolist(), rows["buffer"].tolist(), strict=True):
        new[target : target + length] = data[source : source + length]
    granule_count = len(old) // GRANULE
    bits = bytearray(-(-granule_count // 8))
    kernels.compare_buffers(old, new, GRANULE, bits)
    dirty = np.unpackbits(np.frombuffer(bits, np.uint8), count=granule_count, bitorder="little")
    each = block_size // GRANULE
    if again:
        dirty = ((blocks[:, None] * each + np.arange(each)).reshape(-1) * GRANULE < size).astype(np.uint8)
    where = np.flatnonzero(dirty)
    owners = distinct(where // each)
    return Blend(
        granules=blocks[where // each] * each + where % each,
        old=picked(np.frombuffer(old, np.uint8).reshape(-1, GRANULE), dirty != 0),
        new=picked(np.frombuffer(new, np.uint8).reshape(-1, GRANULE), dirty != 0),
        blocks=blocks[owners],
        entries=checksums_of(new, blocks, block_size=block_size, size=size, seed=seed)[owners],
        old_entries=checksums_of(old, blocks, block_size=block_size, size=size, seed=seed),
        changed_bytes=_covered(rows, at, dirty),
    )


def checksums_of(content: memoryview, blocks: Array, *, block_size: int, size: int, seed: int) -> Array:
    """The (n, 16) checksums of `blocks`, which stand one behind the other in `content`.

    A last block that the disk's end cuts short is summed over its own length.
    """
    table = bytearray(len(blocks) * ENTRY_SIZE)
    end = len(content)
    if len(blocks) and (int(blocks[-1]) + 1) * block_size > size:
        end -= (int(blocks[-1]) + 1) * block_size - size
    kernels.checksum_buffer(content[:end], block_size, table, seed=seed, threads=2)
    return np.frombuffer(table, np.uint8).reshape(-1, ENTRY_SIZE)


def _covered(rows: Array, at: Array, dirty: Array) -> int:
    """How many bytes of the rows, which stand `at` these places, lie in dirty granules."""
    ends = at + rows["length"].astype(np.int64)
    first, last = at // GRANULE, (ends - 1) // GRANULE
    sums = np.concatenate([[0], np.cumsum(dirty, dtype=np.int64)])
    whole = (sums[last + 1] - sums[first]) * GRANULE
    front = dirty[first].astype(np.int64) * (at % GRANULE)
    back = dirty[last].astype(np.int64) * ((last + 1) * GRANULE - ends)
    return int((whole - front - back).sum())


def granule_rows(granules: Array) -> Array:
    """Rows over `granules`, which stand one behind the other in a buffer, runs of neighbours as one row."""
    return block_rows(granules, GRANULE)


def picked(content: Array, which: NDArray[np.bool_]) -> Array:
    """The rows of `content` that `which` names; where those are all, `content` itself, for copies cost memory."""
    return content if which.all() else content[which]


def zero_mask(content: Array) -> NDArray[np.bool_]:
    """Which of the (n, 4096) granules are all zero."""
    bits = bytearray(len(content) // 8 + 1)
    kernels.find_zeros(np.ascontiguousarray(content), GRANULE, bits)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=len(content), bitorder="little").astype(np.bool_)
