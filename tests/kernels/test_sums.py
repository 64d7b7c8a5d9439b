"""Byte sums, CRC-32C, and the pages of a checksum table."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace

import pytest

#: Test vectors of RFC 3720, appendix B.4, and the usual check value.
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


def crc_bit_by_bit(data: bytes, value: int = 0) -> int:
    crc = value ^ 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(("data", "crc"), VECTORS)
def test_crc32c_gives_the_published_values(kernel: SimpleNamespace, data: bytes, crc: int) -> None:
    assert kernel.crc32c(data) == crc


def test_crc32c_is_right_at_every_length_and_alignment(kernel: SimpleNamespace) -> None:
    noise = memoryview(bytearray(random.Random(1).randbytes(320)))
    for length in range(301):
        piece = noise[length % 9 : length % 9 + length]
        assert kernel.crc32c(piece, length * 1234567) == crc_bit_by_bit(bytes(piece), length * 1234567)


@pytest.mark.parametrize("length", [503, 504, 505, 1009, 4079, 4080, 4081, 4092, 8160, 8664, 65536, 65543])
def test_crc32c_of_long_data_is_that_of_its_parts_chained(kernel: SimpleNamespace, length: int) -> None:
    data = random.Random(2).randbytes(length)
    wanted = 0
    for at in range(0, length, 200):
        wanted = kernel.crc32c(data[at : at + 200], wanted)
    assert kernel.crc32c(data) == wanted
    assert kernel.crc32c(data[1:], kernel.crc32c(data[:1])) == wanted


def test_one_flipped_bit_changes_the_crc(kernel: SimpleNamespace) -> None:
    data = bytearray(random.Random(3).randbytes(300))
    before = kernel.crc32c(data)
    for at in range(300):
        data[at] ^= 1 << at % 8
        assert kernel.crc32c(data) != before
        data[at] ^= 1 << at % 8


@pytest.mark.parametrize(("row_size", "length"), [(32, 28), (32, 32), (1, 1), (4096, 4092), (7, 0)])
def test_rows_have_the_crc_of_their_beginning(kernel: SimpleNamespace, row_size: int, length: int) -> None:
    data = random.Random(4).randbytes(row_size * 5)
    for rows in (0, 1, 5):
        out = bytearray(4 * rows)
        kernel.crc32c_rows(memoryview(data)[: rows * row_size], row_size, length, out, value=77)
        wanted = [kernel.crc32c(data[at : at + length], 77) for at in range(0, rows * row_size, row_size)]
        assert list(struct.unpack(f"<{rows}I", out)) == wanted


def test_byte_sum_adds_all_bytes_at_every_length_and_alignment(kernel: SimpleNamespace) -> None:
    noise = memoryview(bytearray(random.Random(5).randbytes(320)))
    for length in range(301):
        piece = noise[length % 17 : length % 17 + length]
        assert kernel.byte_sum(piece) == sum(piece)


def test_byte_sum_wraps_at_32_bits(kernel: SimpleNamespace) -> None:
    length = 2**32 // 255 + 2
    assert kernel.byte_sum(b"\xff" * length) == length * 255 % 2**32


def pages_of(kernel: SimpleNamespace, entries: bytes, first_page: int, key: int) -> bytearray:
    pages = bytearray(b"\x5a" * (len(entries) // 4080 * 4096))
    kernel.pack_table(entries, first_page, key, pages)
    return pages


def unpacked(kernel: SimpleNamespace, pages: bytes, first_page: int, key: int) -> tuple[bytes, list[int]]:
    entries = bytearray(b"\x5a" * (len(pages) // 4096 * 4080))
    bad = kernel.unpack_table(pages, first_page, key, entries)
    return bytes(entries), bad


def test_a_table_comes_back_from_its_pages(kernel: SimpleNamespace) -> None:
    noise = random.Random(6).randbytes(4080)
    entries = noise + bytes(4080) + bytes(4079) + b"\x01"
    pages = pages_of(kernel, entries, 2**64 - 1, 0xFFFFFFFF)
    assert pages[4080:4088] == b"\xff" * 8
    assert pages[4088:4092] == bytes(4)
    assert struct.unpack("<I", pages[4092:4096])[0] == crc_bit_by_bit(pages[:4092], 0xFFFFFFFF)
    assert pages[4096:8192] == bytes(4096)
    assert pages[8192 + 4080 : 8192 + 4088] == b"\x01" + bytes(7)
    assert unpacked(kernel, pages, 2**64 - 1, 0xFFFFFFFF) == (entries, [])
    assert unpacked(kernel, b"", 0, 0) == (b"", [])


def test_any_flipped_bit_makes_its_page_bad_and_no_other(kernel: SimpleNamespace) -> None:
    entries = random.Random(7).randbytes(3 * 4080)
    pages = pages_of(kernel, entries, 5, 99)
    for at in [*range(4096, 4096 + 40), *range(8192 - 40, 8192)]:
        for bit in (0, 7):
            pages[at] ^= 1 << bit
            wanted = entries[:4080] + bytes(4080) + entries[8160:]
            assert unpacked(kernel, pages, 5, 99) == (wanted, [1])
            pages[at] ^= 1 << bit


def test_a_page_of_another_place_or_another_table_is_bad(kernel: SimpleNamespace) -> None:
    pages = pages_of(kernel, random.Random(8).randbytes(2 * 4080), 5, 99)
    assert unpacked(kernel, pages, 6, 99)[1] == [0, 1]
    assert unpacked(kernel, pages, 5, 98)[1] == [0, 1]
    assert unpacked(kernel, pages[4096:] + pages[:4096], 5, 99)[1] == [0, 1]
    almost_zero = bytes(4095) + b"\x01"
    assert unpacked(kernel, almost_zero, 0, 0) == (bytes(4080), [0])
