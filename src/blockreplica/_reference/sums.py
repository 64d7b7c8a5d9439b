"""Sums of small records, and the pages that a checksum table is stored in."""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING

from .arguments import check, number, readable, writable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer

    from .arguments import Bytes

PAGE_SIZE = 4096
PAGE_BYTES = 255 * 16  # of entries
_TRAILER = struct.Struct("<QII")  # number, zero, CRC
assert PAGE_BYTES + _TRAILER.size == PAGE_SIZE


def byte_sum(data: Buffer) -> int:
    """The sum of all bytes modulo 2**32. [MS-HRL] stores its complement."""
    return int(readable(data).sum(dtype="u8")) & 0xFFFFFFFF


def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, standing behind bytes whose CRC is `value`."""
    crc, table = number("crc32c", "value", value, 32) ^ 0xFFFFFFFF, _table().tolist()
    for byte in readable(data).tobytes():
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def crc32c_rows(data: Buffer, row_size: int, length: int, out: Buffer, *, value: int = 0) -> None:
    """CRC-32C of the first `length` bytes of each row of `row_size` bytes, as little-endian u32 into `out`.

    ValueError unless `data` is whole rows, `length` at most `row_size`, and `out` has four bytes for each row.
    """
    import numpy as np

    row_size, length = number("crc32c_rows", "row_size", row_size), number("crc32c_rows", "length", length)
    source, target = readable(data), writable(out)
    check(row_size > 0 and len(source) % row_size == 0, "crc32c_rows", "data must be whole rows")
    check(length <= row_size, "crc32c_rows", "length must be at most row_size")
    rows = source.reshape(-1, row_size)
    check(len(target) // 4 >= len(rows), "crc32c_rows", "out must have 4 bytes for each row")
    start = number("crc32c_rows", "value", value, 32) ^ 0xFFFFFFFF
    crc, table = np.full(len(rows), start, np.uint32), _table()
    for column in rows[:, :length].T:
        crc = crc >> np.uint32(8) ^ table[(crc ^ column) & np.uint32(255)]
    target[: 4 * len(rows)] = (crc ^ np.uint32(0xFFFFFFFF)).astype("<u4").view(np.uint8)


@cache
def _table() -> npt.NDArray[np.uint32]:
    """What each byte does to the register."""
    import numpy as np

    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = crc >> np.uint32(1) ^ np.where(crc & np.uint32(1), np.uint32(0x82F63B78), np.uint32(0))
    return crc


def pack_table(entries: Buffer, first_page: int, key: int, pages: Buffer) -> None:
    """Put checksum entries into pages of 4096 bytes, numbered from `first_page` on.

    A page: 255 entries of 16 bytes, its number u64, four zero bytes, CRC-32C u32 of all before it behind the value
    `key`; all little-endian. A page whose entries are all zero is 4096 zero bytes. ValueError unless `entries` has
    4080 bytes for each page of `pages`.
    """
    first_page = number("pack_table", "first_page", first_page)
    source, target = readable(entries), writable(pages)
    _check_table("pack_table", target, source, key)
    view = memoryview(target)
    for index in range(len(target) // PAGE_SIZE):
        body = source[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
        page = body.tobytes() + _TRAILER.pack((first_page + index) % 2**64, 0, 0)
        crc = struct.pack("<I", crc32c(page[:-4], key))
        view[index * PAGE_SIZE : (index + 1) * PAGE_SIZE] = page[:-4] + crc if body.any() else bytes(PAGE_SIZE)


def unpack_table(pages: Buffer, first_page: int, key: int, entries: Buffer) -> list[int]:
    """The reverse of `pack_table`; returns the indexes of bad pages, from 0 on in `pages`; their entries are zero.

    Bad is a page whose CRC or number is wrong; one of zeros is good.
    """
    first_page = number("unpack_table", "first_page", first_page)
    source, target = readable(pages), writable(entries)
    _check_table("unpack_table", source, target, key)
    bad = []
    for index in range(len(source) // PAGE_SIZE):
        page = source[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
        wanted = _TRAILER.pack((first_page + index) % 2**64, 0, crc32c(page[:-4], key))
        good = not page.any() or page[PAGE_BYTES:].tobytes() == wanted
        target[index * PAGE_BYTES : (index + 1) * PAGE_BYTES] = page[:PAGE_BYTES] if good else 0
        if not good:
            bad.append(index)
    return bad


def _check_table(kernel: str, pages: Bytes, entries: Bytes, key: int) -> None:
    number(kernel, "key", key, 32)
    check(len(pages) % PAGE_SIZE == 0, kernel, "pages must be whole pages of 4096 bytes")
    sound = len(entries) == len(pages) // PAGE_SIZE * PAGE_BYTES
    check(sound, kernel, "entries must have 4080 bytes for each page")
