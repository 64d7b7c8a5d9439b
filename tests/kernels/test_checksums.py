"""Checksums, comparison and zeros of buffers, against the xxhash package and plain Python."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from xxhash import xxh3_128_digest

ZERO = bytes(16)


def table_of(data: bytes, block_size: int, seed: int = 0) -> bytes:
    blocks = [data[at : at + block_size] for at in range(0, len(data), block_size)]
    return b"".join(xxh3_128_digest(block, seed) if any(block) else ZERO for block in blocks)


def unaligned(data: bytes, shift: int) -> memoryview:
    """`data` at an address that is `shift` bytes behind an aligned one."""
    room = memoryview(bytearray(shift + len(data)))
    room[shift:] = data
    return room[shift:]


def checksums(kernel: SimpleNamespace, data: bytes | memoryview, block_size: int, **options: int) -> bytes:
    out = bytearray(b"\xa5" * (16 * -(-len(data) // block_size) + 5))
    kernel.checksum_buffer(data, block_size, out, **options)
    assert out[-5:] == b"\xa5" * 5, "wrote behind the table"
    return bytes(out[:-5])


def test_a_checksum_is_that_of_the_xxhash_package_at_every_length(kernel: SimpleNamespace) -> None:
    noise = random.Random(1).randbytes(300)
    for length in range(301):
        data = noise[:length]
        assert checksums(kernel, unaligned(data, length % 9), 1000) == table_of(data, 1000), f"length {length}"


@pytest.mark.parametrize("block_size", [1, 3, 16, 17, 128, 129, 240, 241, 300, 1024, 4096])
def test_every_block_has_its_checksum_and_the_last_may_be_short(kernel: SimpleNamespace, block_size: int) -> None:
    data = random.Random(2).randbytes(4097)
    for seed in (0, 1, 2**64 - 1):
        assert checksums(kernel, unaligned(data, 3), block_size, seed=seed) == table_of(data, block_size, seed)


def test_threads_build_the_same_table(kernel: SimpleNamespace) -> None:
    data = random.Random(3).randbytes(9 << 20) + bytes(1 << 20) + b"end"
    for threads in (0, 1, 2, 7):
        assert checksums(kernel, data, 65536, seed=9, threads=threads) == table_of(data, 65536, 9)
    assert checksums(kernel, data, 1 << 40, seed=9, threads=2) == table_of(data, 1 << 40, 9)


def test_one_flipped_byte_changes_its_entry_and_no_other(kernel: SimpleNamespace) -> None:
    data = random.Random(4).randbytes(1000)
    before = checksums(kernel, data, 100)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        after = checksums(kernel, changed, 100)
        block = at // 100 * 16
        assert after[block : block + 16] != before[block : block + 16]
        assert after[:block] + after[block + 16 :] == before[:block] + before[block + 16 :]


def test_a_block_of_zeros_has_an_entry_of_zeros_and_one_bit_undoes_that(kernel: SimpleNamespace) -> None:
    for length in range(1, 301):
        data = bytearray(length)
        assert checksums(kernel, data, 300) == ZERO
        for at in {0, length // 2, length - 1, min(15, length - 1), min(16, length - 1)}:
            data[at] = 128
            assert checksums(kernel, data, 300) == xxh3_128_digest(data), f"length {length}, byte {at}"
            data[at] = 0


def test_the_table_of_nothing_is_nothing(kernel: SimpleNamespace) -> None:
    assert checksums(kernel, b"", 4096) == b""


def test_tables_differ_where_an_entry_differs_in_any_byte(kernel: SimpleNamespace) -> None:
    noise = random.Random(5).randbytes(16 * 700)
    for count in (0, 1, 7, 8, 9, 255, 256, 257, 700):
        a = noise[: 16 * count]
        for entry in {0, count // 2, count - 1} if count else set():
            for byte in range(16):
                b = bytearray(a)
                b[16 * entry + byte] ^= 64
                dirty = bytearray(-(-count // 8))
                assert kernel.compare_tables(a, unaligned(bytes(b), 1), dirty) == 1
                assert int.from_bytes(dirty, "little") == 1 << entry
        assert kernel.compare_tables(a, bytes(a), bytearray(-(-count // 8))) == 0


@pytest.mark.parametrize("granule", [1, 7, 64, 4096, 2**63])
def test_buffers_differ_where_a_byte_differs(kernel: SimpleNamespace, granule: int) -> None:
    randomness = random.Random(6)
    for length in (0, 1, 63, 64, 65, 300, 70000):
        a = randomness.randbytes(length)
        b, wanted = bytearray(a), 0
        for at in randomness.sample(range(length), min(length, 5)):
            b[at] ^= 1
            wanted |= 1 << at // granule
        dirty = bytearray(length // granule // 8 + 1)
        assert kernel.compare_buffers(unaligned(a, 5), b, granule, dirty) == wanted.bit_count()
        assert int.from_bytes(dirty, "little") == wanted


@pytest.mark.parametrize("granule", [1, 16, 33, 4096])
def test_zeros_are_found_in_every_granule_even_the_short_last_one(kernel: SimpleNamespace, granule: int) -> None:
    randomness = random.Random(7)
    for length in (0, 1, 15, 16, 17, 299, 300, 12289):
        data = bytearray(length)
        for at in randomness.sample(range(length), min(length, 3)):
            data[at] = 1
        wanted = [not any(data[at : at + granule]) for at in range(0, length, granule)]
        bits = bytearray(-(-len(wanted) // 8))
        assert kernel.find_zeros(unaligned(bytes(data), 7), granule, bits) == sum(wanted)
        assert [bool(bits[i // 8] >> i % 8 & 1) for i in range(len(wanted))] == wanted


def test_bits_that_are_set_already_stay(kernel: SimpleNamespace) -> None:
    for call in (
        lambda bits: kernel.compare_tables(bytes(160), bytes(160), bits),
        lambda bits: kernel.compare_buffers(bytes(160), bytes(160), 16, bits),
        lambda bits: kernel.find_zeros(b"x" * 160, 16, bits),
    ):
        bits = bytearray(b"\x81\xfe\x42")
        assert call(bits) == 0
        assert bits == b"\x81\xfe\x42"
