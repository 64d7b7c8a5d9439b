"""What a batch of writes makes of the blocks that it touches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .arguments import ENTRY_SIZE, MOST_BLOCK_SIZE, check, count_of, number, readable, writable
from .buffers import checksum_blocks
from .extents import read_at

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer

    from .arguments import Bytes

    Numbers = npt.NDArray[np.int64]

_GRANULE = 4096
_CHANGED, _OLD_ZERO, _NEW_ZERO = 1, 2, 4
_KERNEL = "blend_blocks"


def blend_blocks(
    fd: int, size: int, block_size: int, blocks: Buffer, rows: Buffer, data: Buffer, granules: Buffer,
    old: Buffer, new: Buffer, marks: Buffer, before: Buffer, after: Buffer, *,
    seed: int = 0, threads: int = 0, again: bool = False,
) -> int:  # fmt: skip
    """Lay `rows` of `data` over blocks of a disk of `size` bytes; returns the bytes of the rows that change it.

    That is, those in granules (of 4096 bytes) that change; nothing is written. `rows` as in `kernels.EXTENTS`, their
    file offsets being places on the disk: sorted, not empty, without overlap. `blocks` and `granules` are u64 numbers,
    ascending: at least all that the rows touch. Comes out: the content of each granule before in `old`; in `marks` 1
    where it changes, 2 where it was zero, 4 where it changes into zero; its content after in `new`, where it changes;
    checksums of each block before and after, as `checksum_buffer` makes them, where a last block that the disk's end
    cuts short is summed over its own length. With `again` every granule counts as changed.

    What the file does not have of the disk reads as zeros. ValueError for what does not fit.
    """
    size, seed = number(_KERNEL, "size", size, 63), number(_KERNEL, "seed", seed)
    number(_KERNEL, "threads", threads)
    numbers, places, granule_numbers = _numbers(blocks), _rows(rows), _numbers(granules)
    olds, news, flags, tables = writable(old), writable(new), writable(marks), (writable(before), writable(after))
    _check_room(olds, news, flags, tables, len(granule_numbers), len(numbers))
    _check_plan(size, block_size, numbers, places, len(readable(data)), granule_numbers)
    changed = 0
    for index, block in enumerate(numbers.tolist()):
        start, end = block * block_size, min((block + 1) * block_size, size)
        entry = slice(index * ENTRY_SIZE, (index + 1) * ENTRY_SIZE)
        content = _read(fd, start, end, block_size)
        then = _laid_over(places, readable(data), content, start, end)
        for held, table in zip((content, then), tables, strict=True):
            checksum_blocks(held[: end - start], block_size, seed, table[entry])
        for at, granule in enumerate(granule_numbers.tolist()):
            if start <= granule * _GRANULE < start + block_size:
                low = granule * _GRANULE - start
                flags[at] = _keep(at, content[low:][:_GRANULE], then[low:][:_GRANULE], olds, news, again=again)
                changed += _covered(places, start + low) if flags[at] & _CHANGED else 0
    return changed


def _keep(at: int, was: Bytes, now: Bytes, olds: Bytes, news: Bytes, *, again: bool) -> int:
    """One granule into its places; returns its mark."""
    place = slice(at * _GRANULE, (at + 1) * _GRANULE)
    olds[place] = was
    mark = 0 if was.any() else _OLD_ZERO
    if again or (now != was).any():
        news[place] = now
        mark |= _CHANGED | (0 if now.any() else _NEW_ZERO)
    return mark


def _numbers(data: Buffer) -> Numbers:
    raw = readable(data)
    check(len(raw) % 8 == 0, _KERNEL, "blocks and granules must be numbers of 8 bytes")
    return raw.view("<i8")


def _rows(data: Buffer) -> list[list[int]]:
    raw = readable(data)
    check(len(raw) % 24 == 0, _KERNEL, "rows must be of 24 bytes")
    rows: list[list[int]] = raw.view("<u8").reshape(-1, 3).tolist()
    return rows


def _check_room(old: Bytes, new: Bytes, marks: Bytes, tables: tuple[Bytes, Bytes], granules: int, blocks: int) -> None:
    room = min(len(old), len(new)) // _GRANULE
    check(room >= granules, _KERNEL, "old and new must have 4096 bytes for each granule")
    check(len(marks) >= granules, _KERNEL, "marks must have a byte for each granule")
    room = min(map(len, tables)) // ENTRY_SIZE
    check(room >= blocks, _KERNEL, "before and after must have 16 bytes for each block")


def _check_plan(
    size: int, block_size: int, blocks: Numbers, rows: list[list[int]], data: int, granules: Numbers
) -> None:
    check(size < (1 << 63) - MOST_BLOCK_SIZE, _KERNEL, "the disk must end below 2**63 - 2**26")
    sound = 0 < block_size <= MOST_BLOCK_SIZE and block_size % _GRANULE == 0
    check(sound, _KERNEL, "block_size must be a multiple of 4096 up to 64 MiB")
    sound = _ascending(blocks, count_of(size, block_size)) and _ascending(granules, count_of(size, _GRANULE))
    check(sound, _KERNEL, "blocks and granules must ascend, within the disk")
    end, touched = 0, set[int]()
    for offset, length, place in rows:
        sound = length > 0 and end <= offset and offset + length <= size and place + length <= data
        check(sound, _KERNEL, "rows must be sorted, without overlap, within the disk and the data")
        end = offset + length
        touched.update(range(offset // _GRANULE, (end - 1) // _GRANULE + 1))
    listed = set(granules.tolist())
    sound = touched <= listed and {granule // (block_size // _GRANULE) for granule in listed} <= set(blocks.tolist())
    check(sound, _KERNEL, "granules must have all that rows touch, blocks all that granules lie in")


def _ascending(numbers: Numbers, below: int) -> bool:
    if not len(numbers):
        return True
    return bool(numbers[0] >= 0 and numbers[-1] < below and (numbers[1:] > numbers[:-1]).all())


def _read(fd: int, start: int, end: int, block_size: int) -> Bytes:
    import numpy as np

    content = np.zeros(block_size, np.uint8)
    read_at(fd, memoryview(content)[: end - start], start)
    return content


def _laid_over(rows: list[list[int]], data: Bytes, content: Bytes, start: int, end: int) -> Bytes:
    then = content.copy()
    for offset, length, place in rows:
        low, high = max(offset, start), min(offset + length, end)
        if low < high:
            then[low - start : high - start] = data[place + low - offset : place + high - offset]
    return then


def _covered(rows: list[list[int]], start: int) -> int:
    """Bytes of the rows that lie in the granule that begins at `start`."""
    return sum(max(0, min(offset + length, start + _GRANULE) - max(offset, start)) for offset, length, _ in rows)
