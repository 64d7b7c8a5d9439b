"""The plan of one batch of an apply: what the touched blocks become, and which granules of them really change.

Nothing is written here: `stores.disk` does that after it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from .. import kernels
from ..arrays import Array, Bools, np
from ..checksums import ENTRY_SIZE
from .layout import GRANULE

#: Rows of a batch: disk offset, length, where its data stands in the buffer.
EXTENT = [("offset", "<u8"), ("length", "<u8"), ("buffer", "<u8")]
BATCH_BYTES = 2 << 20  # larger ones cost more in fresh memory than they save in calls
_CHANGED, _OLD_ZERO, _NEW_ZERO = 1, 2, 4  # marks of `blend_blocks`


class Blend(msgspec.Struct, frozen=True):
    """What a batch changes. Arrays run parallel: the first five, and `blocks` with `entries`."""

    granules: Array  # disk granule numbers, ascending
    old: Array  # (n, 4096) content before
    new: Array  # (n, 4096) content after
    old_zero: Bools
    new_zero: Bools
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


def batches(rows: Array, block_size: int, *, whole: bool = False) -> Iterator[Array]:
    """Cut sorted `rows` into runs that touch about BATCH_BYTES of granules (of `whole` blocks) each; a row is never
    cut, and two runs share a block only where one of them would be too long otherwise."""
    unit = block_size if whole else GRANULE
    ends = rows["offset"] + rows["length"] - 1
    first, last = (rows["offset"] // unit).astype(np.int64), (ends // unit).astype(np.int64)
    weights = np.cumsum(last - first + 1)
    breaks = np.flatnonzero(np.append(True, rows["offset"][1:] // block_size > ends[:-1] // block_size))
    limit, start = max(1, BATCH_BYTES // unit), 0
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


def touched_granules(rows: Array, blocks: Array, block_size: int, size: int, *, whole: bool) -> Array:
    """The granules that `rows` touch; of `whole` blocks, all that the disk of `size` bytes has of `blocks`."""
    if not whole:
        return touched_blocks(rows, GRANULE)
    each = block_size // GRANULE
    granules: Array = (blocks[:, None] * each + np.arange(each)).reshape(-1)
    return granules[granules * GRANULE < size]


def blend(
    fd: int, rows: Array, data: memoryview, blocks: Array, granules: Array, old: memoryview, new: memoryview, *,
    block_size: int, size: int, seed: int, again: bool = False,
) -> Blend:  # fmt: skip
    """Lay `rows` of `data` over `blocks` of the disk image `fd`, of `size` bytes.

    `old` and `new` are room for `granules`. Where all of them change, the result lies in both; else in neither. With
    `again` every granule counts as changed.
    """
    marks, before, after = bytearray(len(granules)), bytearray(16 * len(blocks)), bytearray(16 * len(blocks))
    changed_bytes = kernels.blend_blocks(
        fd, size, block_size, blocks, np.ascontiguousarray(rows), data, granules, old, new, marks, before, after,
        seed=seed, again=again,
    )  # fmt: skip
    each = np.frombuffer(marks, np.uint8)
    changed = (each & _CHANGED) != 0
    granules, each = granules[changed], each[changed]
    changing = np.isin(blocks, distinct(granules // (block_size // GRANULE)), assume_unique=True)
    return Blend(
        granules=granules,
        old=picked(np.frombuffer(old, np.uint8).reshape(-1, GRANULE), changed),
        new=picked(np.frombuffer(new, np.uint8).reshape(-1, GRANULE), changed),
        old_zero=(each & _OLD_ZERO) != 0,
        new_zero=(each & _NEW_ZERO) != 0,
        blocks=blocks[changing],
        entries=np.frombuffer(after, np.uint8).reshape(-1, ENTRY_SIZE)[changing],
        old_entries=np.frombuffer(before, np.uint8).reshape(-1, ENTRY_SIZE),
        changed_bytes=changed_bytes,
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


def granule_rows(granules: Array) -> Array:
    """Rows over `granules`, which stand one behind the other in a buffer, runs of neighbours as one row."""
    return block_rows(granules, GRANULE)


def picked(content: Array, which: Bools) -> Array:
    """The rows of `content` that `which` names; where those are all, `content` itself, for copies cost memory."""
    return content if which.all() else content[which]


def zero_mask(content: Array) -> Bools:
    """Which of the (n, 4096) granules are all zero."""
    bits = bytearray(len(content) // 8 + 1)
    kernels.find_zeros(np.ascontiguousarray(content), GRANULE, bits)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=len(content), bitorder="little").astype(np.bool_)
