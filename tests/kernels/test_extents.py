"""Batches of extents, and holes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernels.sparse import PAGE, SIZE, data_bytes, make_image, opened

Rows = list[tuple[int, int, int]]


def packed(rows: Rows) -> bytes:
    return b"".join(struct.pack("<QQQ", *row) for row in rows)


def test_extents_are_read_into_their_places_and_zeros_behind_the_end(kernel: SimpleNamespace, tmp_path: Path) -> None:
    data = make_image(tmp_path / "image", 1)
    rows: Rows = [(10, 100, 5), (110, 50, 105), (0, 7, 400), (SIZE - 3, 10, 200), (SIZE + 99, 9, 300), (5, 0, 410)]
    wanted = bytearray(b"\xa5" * 410)
    for offset, length, at in rows:
        wanted[at : at + length] = (data + bytes(200))[offset : offset + length].ljust(length, b"\0")
    buffer = bytearray(b"\xa5" * 410)
    with opened(tmp_path / "image") as [fd]:
        kernel.read_extents(fd, packed(rows), buffer)
        kernel.read_extents(fd, b"", bytearray())
    assert buffer == wanted


def test_extents_are_written_in_their_order(kernel: SimpleNamespace, tmp_path: Path) -> None:
    data, buffer = bytearray(make_image(tmp_path / "image", 2)), random.Random(2).randbytes(1000)
    rows: Rows = [(50, 500, 0), (550, 500, 500), (300, 100, 900), (SIZE + 10, 20, 3), (7, 0, 1000)]
    data.extend(bytes(30))
    for offset, length, at in rows:
        data[offset : offset + length] = buffer[at : at + length]
    with opened(tmp_path / "image") as [fd]:
        kernel.write_extents(fd, packed(rows), buffer)
    assert (tmp_path / "image").read_bytes() == data


BAD_ROWS = [(0, 11, 0), (0, 1, 10), (0, 0, 11), (0, 2**64 - 1, 5), (0, 5, 2**64 - 3), (2**63 - 1, 1, 0)]


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_row_outside_is_refused_before_anything_moves(
    kernel: SimpleNamespace, tmp_path: Path, bad: tuple[int, int, int]
) -> None:
    data = make_image(tmp_path / "image", 3)
    buffer = bytearray(b"\xa5" * 10)
    with opened(tmp_path / "image") as [fd]:
        for function in (kernel.read_extents, kernel.write_extents):
            with pytest.raises(ValueError, match="beyond the buffer"):
                function(fd, packed([(0, 10, 0), bad]), buffer)
            with pytest.raises(ValueError, match="24 bytes"):
                function(fd, bytes(25), buffer)
    assert buffer == b"\xa5" * 10
    assert (tmp_path / "image").read_bytes() == data


def test_a_batch_that_the_system_refuses_is_its_error(kernel: SimpleNamespace) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    for number, fd, function in [
        (errno.ENOSPC, full, kernel.write_extents),
        (errno.EBADF, -1, kernel.read_extents),
        (errno.EBADF, -1, kernel.write_extents),
    ]:
        with pytest.raises(OSError, match=r"\[Errno \d+\]") as caught:
            function(fd, packed([(0, 5, 0)]), bytearray(5))
        assert caught.value.errno == number
    os.close(full)


INSIDE = [(0, 0), (0, PAGE), (PAGE, 3 * PAGE), (5, 1), (5000, 100_000), (SIZE - 10, 10), (0, SIZE)]
BEYOND = [(SIZE - 10, 100), (SIZE, 5), (SIZE + 5, PAGE), (0, 2**63 - 1)]


@pytest.mark.parametrize(("offset", "length"), INSIDE + BEYOND)
def test_a_punched_hole_reads_as_zeros_and_the_size_stays(
    kernel: SimpleNamespace, tmp_path: Path, offset: int, length: int
) -> None:
    data = make_image(tmp_path / "image", 4)
    with opened(tmp_path / "image") as [fd]:
        kernel.punch_hole(fd, offset, length)
    end = min(offset + length, SIZE)
    assert (tmp_path / "image").read_bytes() == data[:offset] + bytes(max(end - offset, 0)) + data[max(offset, end) :]


def test_a_punched_hole_gives_space_back(kernel: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * (16 * PAGE))
    with opened(tmp_path / "image") as [fd]:
        kernel.punch_hole(fd, PAGE, 14 * PAGE)
        assert data_bytes(fd, 0, 16 * PAGE) == 2 * PAGE


def test_what_cannot_be_punched_is_the_systems_error(kernel: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * PAGE)
    fd = os.open(tmp_path / "image", os.O_RDONLY)
    for number, descriptor in [(errno.EBADF, -1), (errno.EBADF, fd)]:
        with pytest.raises(OSError, match=r"\[Errno \d+\]") as caught:
            kernel.punch_hole(descriptor, 0, PAGE)
        assert caught.value.errno == number
    os.close(fd)


def strace_injects(tmp_path: Path) -> bool:
    if shutil.which("strace") is None:
        return False
    probe = subprocess.run(["strace", "-o", tmp_path / "probe", "true"], check=False, capture_output=True)
    return probe.returncode == 0


PUNCH_ALL = """
import os, sys
from blockreplica import kernels
fd = os.open(sys.argv[1], os.O_RDWR)
for offset, length in eval(sys.argv[2]):
    kernels.punch_hole(fd, offset, length)
"""


@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_where_holes_cannot_be_zeros_are_written(tmp_path: Path, implementation: str) -> None:
    if not strace_injects(tmp_path):
        pytest.skip("needs strace, allowed to trace")
    data = bytearray(make_image(tmp_path / "image", 5))
    punches = [(5, 100_000), (1 << 20, 1 << 20), (SIZE - 10, 100)]
    for offset, length in punches:
        data[offset : offset + length] = bytes(min(length, SIZE - offset))
    trace = ["strace", "-f", "-o", tmp_path / "trace", "-e", "inject=fallocate:error=EOPNOTSUPP"]
    subprocess.run(
        [*trace, sys.executable, "-c", PUNCH_ALL, tmp_path / "image", repr(punches)],
        check=True,
        env={**os.environ, "BLOCKREPLICA_KERNELS": implementation},
    )
    assert "EOPNOTSUPP" in (tmp_path / "trace").read_text(), "nothing was injected"
    assert (tmp_path / "image").read_bytes() == data
