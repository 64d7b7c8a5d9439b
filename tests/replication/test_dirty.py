"""What a partial resync compares: never held as a whole (rule 18), and the same each time it is asked for."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast
from uuid import UUID

import numpy as np

from blockreplica import kernels
from blockreplica.extents import Extent, total
from blockreplica.files import FILES
from blockreplica.images.nbd import ALLOCATION
from blockreplica.manifest import Cursor
from blockreplica.replication.dirty import dirty_extents
from blockreplica.replication.machine import BitmapChanges, MachineDisk
from blockreplica.tracking import Cut, EpochRecord, track
from blockreplica.tracking.qemu import Machine
from blockreplica.tracking.qemu.fleece import Disk

GRANULE, MIB = 65536, 1 << 20
HEADER = 4096
np.zeros(0)  # numpy is there before memory is counted: what needs it loads it late


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


def test_tens_of_thousands_of_extents_are_made_as_they_are_asked_for(tmp_path: Path) -> None:
    size = 8 << 30
    records = [EpochRecord(1, None, alternating(tmp_path, size))]
    tracemalloc.start()
    try:
        found = dirty_extents(records, size, GRANULE, 128 * MIB, FILES)
        assert total(found) == size // 2
        assert sum(1 for _ in found) == size // GRANULE // 2
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB  # a list of them takes 6
    finally:
        tracemalloc.stop()


class FakeExport:
    """An export of which every other granule is dirty, and all has data."""

    def __enter__(self) -> FakeExport:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def extents(self, context: str, within: Extent) -> Iterator[tuple[Extent, int]]:
        if context == ALLOCATION:
            yield within, 0
            return
        for at in range(within.offset, within.end, GRANULE):
            yield Extent(at, GRANULE), at // GRANULE % 2


class FakeMachine:
    """What a dirty bitmap of a running QEMU is asked for."""

    disks = (Disk("d0", 8 << 30, 0, None),)

    def lost(self, *_: object) -> str:
        return ""

    def changed(self, *_: object) -> str:
        return "bitmap"

    def dirty_bytes(self, *_: object) -> int:
        return 4 << 30

    def open(self, *_: object) -> FakeExport:
        return FakeExport()


def test_of_a_running_machine_too_they_are_made_as_they_are_asked_for() -> None:
    size, uuid = 8 << 30, UUID(int=1)
    begin, cut = Cursor(tracking_id=str(uuid), epoch=1, chain="a"), Cut(uuid, 2, size, 0.0, uuid)
    changes = BitmapChanges(MachineDisk(cast(Machine, FakeMachine()), 0), begin, cut)
    tracemalloc.start()
    try:
        found = changes.dirty(GRANULE, 128 * MIB)
        assert total(found) == size // 2
        with ExitStack() as stack:
            rows = changes.delta(stack).coalesced(size)
            assert sum(int(each["length"].sum()) for each in rows) == size // 2
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
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
