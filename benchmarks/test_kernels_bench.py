"""Each kernel, the C core against its Python twin: `make kernels`. Nothing here judges a time."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blockreplica import _native, kernels

MIB = 1 << 20
SIZE = 16 * MIB
BLOCK, GRANULE = 65536, 4096
IMPLEMENTATIONS = ["reference-python", *(f"native-{name}" for name in _native.variants())]
#: Kernels whose speed depends on the CPU variant; the others run once in C.
BY_VARIANT = {"checksum_buffer", "checksum_file", "copy_file", "compare_files", "crc32c", "crc32c_rows", "pack_table"}

NOISE = random.Random(1).randbytes(SIZE)
CHANGED = bytearray(NOISE)
for _at in random.Random(2).sample(range(SIZE // GRANULE), SIZE // GRANULE // 100):
    CHANGED[_at * GRANULE] ^= 1
TABLE = NOISE[: 4080 * 1024]
OTHER_TABLE = bytearray(TABLE)
OTHER_TABLE[100_000] ^= 1
BITMAP = random.Random(3).randbytes(1 << 12) + bytes(1 << 20) + b"\xff" * (1 << 12)
BITS = 8 * len(BITMAP)
PLACES = random.Random(4).choices(range(1 << 30), k=10_000)
ROWS = b"".join(struct.pack("<QQQII", at * 512, 4096, index * 4096, 0, 1) for index, at in enumerate(PLACES))
EXTENTS = b"".join(struct.pack("<QQQ", at * 2 * GRANULE, GRANULE, at * GRANULE) for at in range(SIZE // GRANULE // 2))


def in_memory(kernel: Any) -> dict[str, Any]:
    """A call for each kernel that works in memory."""
    out, rows, pages = bytearray(16 * SIZE // BLOCK), bytearray(2 * len(ROWS)), bytearray(4096 * 1024)
    bits, crcs, target = bytearray(SIZE // GRANULE // 8), bytearray(4 * len(TABLE) // 32), bytearray(len(BITMAP))
    _native.pack_table(TABLE, 0, 0, pages)
    packed = bytes(pages)
    return {
        "checksum_buffer": lambda: kernel.checksum_buffer(NOISE, BLOCK, out),
        "compare_tables": lambda: kernel.compare_tables(TABLE, OTHER_TABLE, bytearray(len(TABLE) // 128)),
        "compare_buffers": lambda: kernel.compare_buffers(NOISE, CHANGED, GRANULE, bits),
        "find_zeros": lambda: kernel.find_zeros(BITMAP, GRANULE, bits),
        "bitmap_set": lambda: kernel.bitmap_set(target, 3, BITS - 7),
        "bitmap_clear": lambda: kernel.bitmap_clear(target, 3, BITS - 7),
        "bitmap_count": lambda: kernel.bitmap_count(BITMAP, 3, BITS - 7),
        "bitmap_merge": lambda: kernel.bitmap_merge(target, BITMAP),
        "bitmap_next": lambda: kernel.bitmap_next(BITMAP, 8 << 12, BITS),
        "bitmap_runs": lambda: kernel.bitmap_runs(BITMAP, 0, BITS),
        "byte_sum": lambda: kernel.byte_sum(NOISE),
        "crc32c": lambda: kernel.crc32c(NOISE[:BLOCK]),
        "crc32c_rows": lambda: kernel.crc32c_rows(TABLE, 32, 28, crcs),
        "coalesce": lambda: kernel.coalesce(ROWS, rows),
        "pack_table": lambda: kernel.pack_table(TABLE[: 4080 * 16], 0, 0, memoryview(pages)[: 4096 * 16]),
        "unpack_table": lambda: kernel.unpack_table(packed[: 4096 * 16], 0, 0, bytearray(4080 * 16)),
    }


def on_files(kernel: Any, image: int, replica: int) -> dict[str, Any]:
    """A call for each kernel that works on files; every second MiB of the image is a hole."""
    out, dirty, buffer = bytearray(16 * 2 * SIZE // BLOCK), bytearray(2 * SIZE // GRANULE // 8), bytearray(SIZE)

    def punch() -> None:
        os.pwrite(replica, b"x" * MIB, 0)
        kernel.punch_hole(replica, 0, MIB)

    return {
        "checksum_file": lambda: kernel.checksum_file(image, 0, 2 * SIZE, BLOCK, out),
        "copy_file": lambda: kernel.copy_file(image, replica, 0, 2 * SIZE, BLOCK, out),
        "compare_files": lambda: kernel.compare_files(image, replica, 0, 2 * SIZE, BLOCK, GRANULE, out, dirty),
        "read_extents": lambda: kernel.read_extents(image, EXTENTS, buffer),
        "write_extents": lambda: kernel.write_extents(replica, EXTENTS, buffer),
        "punch_hole": punch,
    }


@pytest.fixture(params=IMPLEMENTATIONS)
def kernel(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The functions of one implementation, and its name."""
    before = _native.variant()
    name, cpu = request.param.split("-")
    functions = kernels._load(name, cpu)[2]
    yield SimpleNamespace(implementation=request.param, **functions)
    _native.select_variant(before)


def skip_where_the_variant_does_not_matter(kernel: SimpleNamespace, name: str) -> None:
    best = ("reference-python", f"native-{_native.variants()[-1]}")
    if name not in BY_VARIANT and kernel.implementation not in best:
        pytest.skip("the same code in every variant")


@pytest.mark.parametrize("name", in_memory(_native))
def test_in_memory(kernel: SimpleNamespace, name: str, benchmark: Any) -> None:
    skip_where_the_variant_does_not_matter(kernel, name)
    benchmark.group = name
    benchmark(in_memory(kernel)[name])


@pytest.mark.parametrize("name", on_files(_native, -1, -1))
def test_on_files(kernel: SimpleNamespace, name: str, benchmark: Any, tmp_path: Path) -> None:
    skip_where_the_variant_does_not_matter(kernel, name)
    image = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    replica = os.open(tmp_path / "replica", os.O_RDWR | os.O_CREAT)
    for fd in (image, replica):
        os.ftruncate(fd, 2 * SIZE)
        for at in range(0, SIZE, MIB):
            os.pwrite(fd, NOISE[at : at + MIB], 2 * at)
    benchmark.group = name
    benchmark(on_files(kernel, image, replica)[name])
    os.close(image)
    os.close(replica)
