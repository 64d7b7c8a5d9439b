"""What a partial resync compares: never held as a whole (rule 18), and the same each time it is asked for."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

from blockreplica import kernels
from blockreplica.extents import Extent, total
from blockreplica.files import FILES
from blockreplica.replication.dirty import dirty_extents
from blockreplica.tracking import EpochRecord, track

GRANULE, MIB = 65536, 1 << 20
HEADER = 4096


def alternating(tmp_path: Path, size: int) -> Path:
    """The bitmap of an epoch that changed every other granule."""
    image = tmp_path / "vm.img"
    image.touch()
    os.truncate(image, size)
    with track(image) as tracked:
        tracked.zero(0, 1)
        tracked.cut()
    path = image.with_name("vm.img.000001.dirty")
    raw = bytearray(path.read_bytes())
    raw[HEADER:] = b"\x55" * (len(raw) - HEADER)
    raw[48:56] = (size // GRANULE // 2).to_bytes(8, "little")
    raw[80:84] = kernels.crc32c(bytes(raw[HEADER:])).to_bytes(4, "little")
    raw[4092:4096] = kernels.crc32c(bytes(raw[:4092])).to_bytes(4, "little")
    path.write_bytes(raw)
    return path


def test_half_a_million_extents_are_made_as_they_are_asked_for(tmp_path: Path) -> None:
    size = 64 << 30
    records = [EpochRecord(1, None, alternating(tmp_path, size))]
    tracemalloc.start()
    try:
        found = dirty_extents(records, size, GRANULE, 128 * MIB, FILES)
        assert total(found) == size // 2
        assert sum(1 for _ in found) == size // GRANULE // 2
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB  # a list of them takes 50
    finally:
        tracemalloc.stop()


def test_a_log_alone_names_its_blocks_and_nothing_of_both_the_whole_disk(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    image.touch()
    os.truncate(image, 4 * MIB)
    with track(image) as tracked:
        for offset in (3 * MIB + 5, 10, MIB - 1):
            tracked.pwrite(b"xy", offset)
        tracked.cut()
    record = EpochRecord(1, image.with_name("vm.img.000001.hrl"), None)
    found = dirty_extents([record], 4 * MIB, GRANULE, 128 * MIB, FILES)
    assert list(found) == list(found)
    assert list(found) == [
        Extent(0, GRANULE), Extent(MIB - GRANULE, 2 * GRANULE), Extent(3 * MIB, GRANULE),
    ]  # fmt: skip
    nothing = dirty_extents([record, EpochRecord(2, None, None)], 4 * MIB, GRANULE, 3 * MIB, FILES)
    assert list(nothing) == [Extent(0, 3 * MIB), Extent(3 * MIB, MIB)]
