"""Checksums, copy and comparison of real sparse files."""

from __future__ import annotations

import errno
import os
import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernels.sparse import PAGE, SIZE, data_bytes, make_image, opened, table_of

#: Offset, length, block size of an extent of an image of SIZE bytes.
EXTENTS = [
    (0, SIZE, 65536),
    (65536, SIZE - 65536, 65536),
    (PAGE, 1_500_001, 4096),
    (12_345, 2_000_000, 1000),
    (0, SIZE, 1 << 20),
    (100, 300, 64 << 20),
    (SIZE, 0, 4096),
    (7, 1, 1),
]
SEEDS = range(3)


def room_for(length: int, block_size: int) -> bytearray:
    return bytearray(b"\xa5" * (16 * -(-length // block_size)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("extent", EXTENTS)
def test_the_table_of_a_sparse_file_is_that_of_its_bytes_and_only_data_is_read(
    kernel: SimpleNamespace, tmp_path: Path, seed: int, extent: tuple[int, int, int]
) -> None:
    offset, length, block_size = extent
    data = make_image(tmp_path / "image", seed)[offset : offset + length]
    with opened(tmp_path / "image") as [fd]:
        for threads in (1, 0, 3):
            out = room_for(length, block_size)
            count = kernel.checksum_file(fd, offset, length, block_size, out, seed=seed, threads=threads)
            assert out == table_of(data, block_size, seed)
            assert count == data_bytes(fd, offset, offset + length)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("extent", EXTENTS)
def test_a_copy_has_the_bytes_the_table_and_the_holes_of_its_source(
    kernel: SimpleNamespace, tmp_path: Path, seed: int, extent: tuple[int, int, int]
) -> None:
    offset, length, block_size = extent
    data = make_image(tmp_path / "image", seed)
    with opened(tmp_path / "image", tmp_path / "copy") as [source, target]:
        os.ftruncate(target, SIZE)
        out = room_for(length, block_size)
        written = kernel.copy_file(source, target, offset, length, block_size, out, seed=seed, threads=seed)
        assert out == table_of(data[offset : offset + length], block_size, seed)
        wanted = bytes(offset) + data[offset : offset + length] + bytes(SIZE - offset - length)
        assert (tmp_path / "copy").read_bytes() == wanted
        start, end = offset, offset + length
        cuts = sorted({start, end, *range(start - start % PAGE + PAGE, end, PAGE)})
        pieces = [data[low:high] for low, high in pairwise(cuts)]
        assert written == sum(len(piece) for piece in pieces if any(piece))
        assert data_bytes(target, 0, SIZE) <= written + 2 * PAGE


@pytest.mark.parametrize("seed", SEEDS)
def test_punching_copy_leaves_nothing_of_what_the_target_held(
    kernel: SimpleNamespace, tmp_path: Path, seed: int
) -> None:
    data, stale = make_image(tmp_path / "image", seed), make_image(tmp_path / "copy", seed + 100)
    for offset, length, block_size in EXTENTS:
        (tmp_path / "copy").write_bytes(stale)
        with opened(tmp_path / "image", tmp_path / "copy") as [source, target]:
            out = room_for(length, block_size)
            kernel.copy_file(source, target, offset, length, block_size, out, punch=True)
            wanted = stale[:offset] + data[offset : offset + length] + stale[offset + length :]
            assert (tmp_path / "copy").read_bytes() == wanted
            assert out == table_of(data[offset : offset + length], block_size, 0)


def test_punching_copy_gives_the_targets_space_back(kernel: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"x" * SIZE)
    with opened(tmp_path / "image", tmp_path / "copy") as [source, target]:
        os.ftruncate(source, SIZE)
        os.pwrite(source, b"y", 1 << 20)
        os.fsync(target)
        assert kernel.copy_file(source, target, 0, SIZE, 65536, room_for(SIZE, 65536), punch=True) == PAGE
        assert data_bytes(target, 0, SIZE) == PAGE


def test_a_copy_grows_its_target_only_as_far_as_there_is_data(kernel: SimpleNamespace, tmp_path: Path) -> None:
    with opened(tmp_path / "image", tmp_path / "copy") as [source, target]:
        os.ftruncate(source, SIZE)
        os.pwrite(source, b"y" * 10, 5 * PAGE)
        for punch in (False, True):
            kernel.copy_file(source, target, 0, SIZE, 65536, room_for(SIZE, 65536), punch=punch)
            assert os.fstat(target).st_size == 6 * PAGE


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("block_size", "granule"), [(65536, 4096), (4096, 4096), (1000, 50), (1 << 20, 512)])
def test_comparison_finds_every_granule_that_differs(
    kernel: SimpleNamespace, tmp_path: Path, seed: int, block_size: int, granule: int
) -> None:
    make_image(tmp_path / "image", seed)
    other = bytearray(make_image(tmp_path / "replica", seed))
    randomness = random.Random(seed)
    with opened(tmp_path / "image", tmp_path / "replica") as [primary, replica]:
        for _ in range(20):
            at = randomness.randrange(SIZE)
            os.pwrite(replica, bytes([other[at] ^ 1]), at)
            other[at] ^= 1
        data = (tmp_path / "image").read_bytes()
        for offset, length in [(0, SIZE), (8 * granule, SIZE - 8 * granule), (granule, 1_000_001), (3, 1 << 20)]:
            out = room_for(length, block_size)
            dirty = bytearray(-(-length // granule) // 8 + 1)
            count = kernel.compare_files(
                primary, replica, offset, length, block_size, granule, out, dirty, seed=7, threads=seed
            )
            assert out == table_of(data[offset : offset + length], block_size, 7)
            wanted = {
                at // granule
                for at in range(0, length, granule)
                if data[offset + at : offset + min(at + granule, length)]
                != other[offset + at : offset + min(at + granule, length)]
            }
            assert {bit for bit in range(8 * len(dirty)) if dirty[bit // 8] >> bit % 8 & 1} == wanted
            assert count == len(wanted)


def test_a_replica_that_ends_early_goes_on_in_zeros(kernel: SimpleNamespace, tmp_path: Path) -> None:
    with opened(tmp_path / "image", tmp_path / "replica") as [primary, replica]:
        os.ftruncate(primary, 10 * PAGE)
        os.pwrite(primary, b"a" * PAGE, 2 * PAGE)
        os.pwrite(primary, b"b", 8 * PAGE)
        os.pwrite(replica, b"a" * PAGE + b"c", 2 * PAGE)
        dirty = bytearray(2)
        assert kernel.compare_files(primary, replica, 0, 10 * PAGE, PAGE, PAGE, bytearray(160), dirty) == 2
        assert int.from_bytes(dirty, "little") == 1 << 3 | 1 << 8


def test_dirty_bits_that_are_set_already_stay(kernel: SimpleNamespace, tmp_path: Path) -> None:
    make_image(tmp_path / "image", 1)
    with opened(tmp_path / "image") as [fd]:
        dirty = bytearray(b"\x5a" * (SIZE // PAGE // 8))
        out = room_for(SIZE, 65536)
        assert kernel.compare_files(fd, fd, 0, SIZE, 65536, PAGE, out, dirty) == 0
        assert dirty == b"\x5a" * (SIZE // PAGE // 8)


def test_a_file_that_ends_before_the_extent_is_enodata(kernel: SimpleNamespace, tmp_path: Path) -> None:
    make_image(tmp_path / "image", 1)
    with opened(tmp_path / "image", tmp_path / "copy") as [fd, target]:
        out, dirty = bytearray(16 * (SIZE // 4096 + 1)), bytearray(SIZE // PAGE // 8 + 1)
        for call in (
            lambda: kernel.checksum_file(fd, 0, SIZE + 1, 4096, out),
            lambda: kernel.checksum_file(fd, 2**62, 4096, 4096, out),
            lambda: kernel.copy_file(fd, target, PAGE, SIZE, 4096, out),
            lambda: kernel.compare_files(fd, fd, 1, SIZE, 4096, PAGE, out, dirty),
        ):
            with pytest.raises(OSError, match="ends before") as caught:
                call()
            assert caught.value.errno == errno.ENODATA


def test_errors_of_the_system_come_out_with_their_number(kernel: SimpleNamespace, tmp_path: Path) -> None:
    make_image(tmp_path / "image", 1)
    (tmp_path / "folder").mkdir()
    folder, full = os.open(tmp_path / "folder", os.O_RDONLY), os.open("/dev/full", os.O_RDWR)
    with opened(tmp_path / "image") as [fd]:
        out = room_for(SIZE, PAGE)
        cases = [
            (errno.EBADF, lambda: kernel.checksum_file(-1, 0, SIZE, PAGE, out)),
            (errno.EBADF, lambda: kernel.copy_file(fd, -1, 0, SIZE, PAGE, out)),
            (errno.EBADF, lambda: kernel.compare_files(fd, 10**6, 0, SIZE, PAGE, PAGE, out, bytearray(96))),
            (errno.ENOSPC, lambda: kernel.copy_file(fd, full, 0, SIZE, PAGE, out, threads=2)),
            (errno.EISDIR, lambda: kernel.checksum_file(folder, 0, 1, PAGE, out)),
        ]
        for number, call in cases:
            with pytest.raises(OSError, match=r"\[Errno \d+\]") as caught:
                call()
            assert caught.value.errno == number
    os.close(folder)
    os.close(full)
