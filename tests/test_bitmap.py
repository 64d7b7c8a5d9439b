"""Saved dirty bitmaps: what the tracker writes is what is read, and a file that is not whole is not believed."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest

from blockreplica import bitmap as module
from blockreplica import kernels
from blockreplica.bitmap import DirtyBitmap
from blockreplica.errors import NotFoundError, TrackingError
from blockreplica.extents import Extent
from blockreplica.tracking import track

GRANULE = 65536


def saved(tmp_path: Path, size: int, extents: list[Extent]) -> Path:
    image = tmp_path / "vm.img"
    image.touch()
    os.truncate(image, size)
    with track(image) as tracked:
        for extent in extents:
            tracked.zero(extent.offset, extent.length)
        tracked.cut()
    return image.with_name("vm.img.000001.dirty")


def test_extents_are_whole_granules_merged_and_cut_at_the_end(tmp_path: Path) -> None:
    size = 10 * GRANULE + 100
    path = saved(tmp_path, size, [Extent(1, 1), Extent(GRANULE, 5), Extent(5 * GRANULE - 1, 2), Extent(size - 1, 1)])
    bitmap = DirtyBitmap.open(path)
    assert (bitmap.epoch, bitmap.size, bitmap.covered, bitmap.granule, bitmap.marked) == (1, size, size, GRANULE, 5)
    assert list(bitmap.extents()) == [
        Extent(0, 2 * GRANULE),
        Extent(4 * GRANULE, 2 * GRANULE),
        Extent(10 * GRANULE, 100),
    ]


def test_random_bits_over_many_windows_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr(module, "WINDOW", 512)
    size = 3 << 30
    extents = [Extent(rng.randrange(size - GRANULE), rng.randint(1, GRANULE)) for _ in range(300)]
    extents.append(Extent(0, 1 << 28))
    wanted = {at for one in extents for at in range(one.offset // GRANULE, (one.end - 1) // GRANULE + 1)}
    found: set[int] = set()
    last = -1
    for extent in DirtyBitmap.open(saved(tmp_path, size, extents)).extents():
        assert extent.offset > last
        last = extent.end
        found.update(range(extent.offset // GRANULE, -(-extent.end // GRANULE)))
    assert found == wanted


def test_a_clean_bitmap_of_a_large_image_takes_no_room(tmp_path: Path) -> None:
    path = saved(tmp_path, 1 << 40, [Extent(1 << 39, 1)])
    assert path.stat().st_size > 2_000_000
    assert path.stat().st_blocks * 512 < 100_000
    assert list(DirtyBitmap.open(path).extents()) == [Extent(1 << 39, GRANULE)]


@pytest.mark.parametrize("at", [0, 8, 12, 16, 32, 40, 48, 56, 64, 80, 84, 200, 4091, 4092, 4096, 4097])
def test_every_flipped_bit_is_found(tmp_path: Path, at: int) -> None:
    path = saved(tmp_path, 10 * GRANULE, [Extent(0, 1)])
    raw = bytearray(path.read_bytes())
    for bit in range(8):
        raw[at] ^= 1 << bit
        path.write_bytes(raw)
        with pytest.raises(TrackingError):
            DirtyBitmap.open(path)
        raw[at] ^= 1 << bit


@pytest.mark.parametrize("length", [0, 1, 83, 84, 4095, 4096, 4097, 4099])
def test_a_file_of_another_length_is_found(tmp_path: Path, length: int) -> None:
    path = saved(tmp_path, 10 * GRANULE, [Extent(0, 1)])
    assert path.stat().st_size == 4098
    os.truncate(path, length)
    with pytest.raises(TrackingError):
        DirtyBitmap.open(path)


@pytest.mark.parametrize(
    ("at", "format_", "value"), [(8, "<I", 2), (12, "<I", 0), (12, "<I", 1), (40, "<Q", 2**63), (56, "<Q", 2**64 - 1)]
)
def test_a_forged_header_is_refused(tmp_path: Path, at: int, format_: str, value: int) -> None:
    path = saved(tmp_path, 10 * GRANULE, [Extent(0, 1)])
    raw = bytearray(path.read_bytes())
    struct.pack_into(format_, raw, at, value)
    struct.pack_into("<I", raw, 4092, kernels.crc32c(raw[:4092]))
    path.write_bytes(raw)
    with pytest.raises(TrackingError):
        DirtyBitmap.open(path)


def test_a_missing_bitmap_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        DirtyBitmap.open(tmp_path / "none")
