"""Checksums, comparison and zeros of what is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .arguments import ENTRY_SIZE, check, check_bits, count_of, number, readable, writable

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .arguments import Bytes


def checksum_buffer(data: Buffer, block_size: int, out: Buffer, *, seed: int = 0, threads: int = 1) -> None:
    """Build the checksum table of `data` in `out`, 16 bytes for each block of `block_size` bytes.

    An entry is XXH3-128 with `seed`, as canonical (big-endian) bytes: `xxhash.xxh3_128_digest(block, seed)`; that
    of a block of zeros is sixteen zero bytes. The last block may be short and is hashed over its own length.
    `threads=0` is one for each CPU (at most 8). ValueError where `out` is too small.
    """
    block_size, seed = number("checksum_buffer", "block_size", block_size), number("checksum_buffer", "seed", seed)
    number("checksum_buffer", "threads", threads)
    source, table = readable(data), writable(out)
    check(block_size > 0, "checksum_buffer", "block_size must be at least 1")
    room = len(table) // ENTRY_SIZE
    check(room >= count_of(len(source), block_size), "checksum_buffer", "out must have 16 bytes for each block")
    checksum_blocks(source, block_size, seed, table)


def checksum_blocks(source: Bytes, block_size: int, seed: int, table: Bytes) -> None:
    """`checksum_buffer` without its checks."""
    from xxhash import xxh3_128_digest

    view, entries = memoryview(source), memoryview(table)
    for index, start in enumerate(range(0, len(source), block_size)):
        block = view[start : start + block_size]
        entry = xxh3_128_digest(block, seed) if source[start : start + block_size].any() else bytes(ENTRY_SIZE)
        entries[ENTRY_SIZE * index : ENTRY_SIZE * (index + 1)] = entry


def compare_tables(a: Buffer, b: Buffer, dirty: Buffer) -> int:
    """Set bit i of `dirty` where entry i (16 bytes) of the tables differs; returns how many do.

    Bits that are set already stay. ValueError unless both are of one length, in whole entries, and `dirty` has a
    bit for each.
    """
    first, second, bits = readable(a), readable(b), writable(dirty)
    sound = len(first) == len(second) and len(first) % ENTRY_SIZE == 0
    check(sound, "compare_tables", "a and b must be of one length, 16 bytes an entry")
    check_bits("compare_tables", bits, len(first) // ENTRY_SIZE, "dirty must have a bit for each entry")
    return _mark((first != second).reshape(-1, ENTRY_SIZE).any(axis=1), bits)


def compare_buffers(a: Buffer, b: Buffer, granule: int, dirty: Buffer) -> int:
    """Set bit i of `dirty` where granule i (`granule` bytes; the last may be short) differs; returns how many do.

    Bits that are set already stay. ValueError unless both are of one length and `dirty` has a bit for each granule.
    """
    granule, first, second = number("compare_buffers", "granule", granule), readable(a), readable(b)
    bits = writable(dirty)
    check(len(first) == len(second), "compare_buffers", "a and b must be of one length")
    check(granule > 0, "compare_buffers", "granule must be at least 1")
    check_bits("compare_buffers", bits, count_of(len(first), granule), "dirty must have a bit for each granule")
    return _mark(_any(first != second, granule), bits)


def find_zeros(data: Buffer, granule: int, zeros: Buffer) -> int:
    """Set bit i of `zeros` where granule i (`granule` bytes; the last may be short) is all zero; returns how many are.

    Bits that are set already stay. ValueError unless `zeros` has a bit for each granule.
    """
    granule, source, bits = number("find_zeros", "granule", granule), readable(data), writable(zeros)
    check(granule > 0, "find_zeros", "granule must be at least 1")
    check_bits("find_zeros", bits, count_of(len(source), granule), "zeros must have a bit for each granule")
    return _mark(~_any(source != 0, granule), bits)


def _any(flags: Bytes, granule: int) -> Bytes:
    """For each granule of a boolean array, whether any is true."""
    import numpy as np

    if len(flags) == 0:
        return flags
    return np.logical_or.reduceat(flags, np.arange(0, len(flags), min(granule, len(flags))))


def _mark(flags: Bytes, bits: Bytes) -> int:
    """Set the bits that `flags` names; returns how many it names."""
    import numpy as np

    packed = np.packbits(flags, bitorder="little")
    bits[: len(packed)] |= packed
    return int(np.count_nonzero(flags))
