"""Checksums, copy and comparison of file extents: holes are never read, so sparse stays sparse."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from .arguments import ENTRY_SIZE, check, check_bits, check_blocks, check_extent, count_of, number, writable
from .buffers import checksum_blocks, compare_buffers, find_zeros
from .extents import file_size, next_data, punch_hole, read_at, write_at

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer

    from .arguments import Bytes

_CHUNK = 1 << 20
_GRANULE = 4096


def checksum_file(
    fd: int, offset: int, length: int, block_size: int, out: Buffer, *, seed: int = 0, threads: int = 0
) -> int:
    """Build the checksum table of an extent of a file, as `checksum_buffer` does; returns the bytes read.

    Holes are skipped; they and blocks of zeros have entries of zeros. `threads=0` is one for each CPU (at most 8).
    Moves the descriptor's own file position. ValueError for what is out of range (`block_size` is at most 64 MiB),
    OSError from the system, with ENODATA where the file ends before the extent does.
    """
    offset, length = check_extent("checksum_file", offset, length)
    table, seed = writable(out), number("checksum_file", "seed", seed)
    number("checksum_file", "threads", threads)
    check_blocks("checksum_file", length, block_size, table)
    total = 0
    with _Extent(fd, offset, length, block_size, table) as extent:
        for start, end in extent.chunks(fd):
            data, count = _read(fd, start, end, short=False)
            checksum_blocks(data, block_size, seed, extent.entries(start))
            total += count
    return total


def copy_file(
    source_fd: int,
    target_fd: int,
    offset: int,
    length: int,
    block_size: int,
    out: Buffer,
    *,
    seed: int = 0,
    threads: int = 0,
    punch: bool = False,
    lazy: bool = False,  # noqa: ARG001 - here nothing is begun
) -> int:
    """Copy an extent to the same offset of another file, building its checksum table; returns the bytes written.

    Only runs of 4 KiB (aligned in the file) that are not all zero are written, so holes stay holes. With `punch` the
    target may hold stale data: it is punched out wherever the source reads as zeros. Without it the target must read as
    zeros there already. The target grows only as far as data is written: whoever wants its size right truncates.
    Writeback of the copy is begun, so that the caller's fsync finds most of it done; nothing is synced here. Who will
    not fsync asks for a `lazy` copy.
    `threads=0` is two at the most, because writes to one file go one at a time. Errors as in `checksum_file`.
    """
    offset, length = check_extent("copy_file", offset, length)
    table, seed = writable(out), number("copy_file", "seed", seed)
    number("copy_file", "threads", threads)
    check_blocks("copy_file", length, block_size, table)
    written, done = 0, offset
    with _Extent(source_fd, offset, length, block_size, table) as extent:
        for start, end in extent.chunks(source_fd):
            data, _ = _read(source_fd, start, end, short=False)
            checksum_blocks(data, block_size, seed, extent.entries(start))
            if punch:
                _clear(target_fd, done, start)
            written += _write_chunk(target_fd, data, start, punch=punch)
            done = end
        if punch:
            _clear(target_fd, done, offset + length)
    return written


def compare_files(
    primary_fd: int,
    replica_fd: int,
    offset: int,
    length: int,
    block_size: int,
    granule: int,
    out: Buffer,
    dirty: Buffer,
    *,
    seed: int = 0,
    threads: int = 0,
) -> int:
    """Compare an extent of two files; returns how many granules differ.

    Sets bit i of `dirty` where granule i, counted from `offset` on, differs (bits that are set already stay), and
    builds the primary's checksum table in `out`. Where both have holes nothing is read. A replica that ends early
    goes on in zeros. Errors as in `checksum_file`; `granule` must divide `block_size`.
    """
    offset, length = check_extent("compare_files", offset, length)
    table, bits, seed = writable(out), writable(dirty), number("compare_files", "seed", seed)
    number("compare_files", "threads", threads)
    check_blocks("compare_files", length, block_size, table)
    check(granule > 0 and block_size % granule == 0, "compare_files", "granule must divide block_size")
    check_bits("compare_files", bits, count_of(length, granule), "dirty must have a bit for each granule")
    differing = 0
    with _Extent(primary_fd, offset, length, block_size, table) as extent:
        for start, end in extent.chunks(primary_fd, replica_fd):
            data, _ = _read(primary_fd, start, end, short=False)
            other, _ = _read(replica_fd, start, end, short=True)
            checksum_blocks(data, block_size, seed, extent.entries(start))
            differing += _compare_chunk(data, other, granule, bits, (start - offset) // granule)
    return differing


class _Extent:
    """The extent of a file kernel: checked and its table cleared at the start, checked again at the end."""

    def __init__(self, fd: int, offset: int, length: int, block_size: int, table: Bytes) -> None:
        self.fd, self.offset, self.end, self.block_size = fd, offset, offset + length, block_size
        self.table = table[: count_of(length, block_size) * ENTRY_SIZE]

    def __enter__(self) -> _Extent:
        self._check_size()
        self.table[:] = 0
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:  # what a file that shrank meanwhile lost has passed for a hole
            self._check_size()

    def _check_size(self) -> None:
        if self.end > file_size(self.fd):
            raise OSError(errno.ENODATA, "the file ends before the extent does")

    def chunks(self, *fds: int) -> Iterator[tuple[int, int]]:
        """Runs of whole blocks in which any of the files has data, each of a bounded size."""
        step = max(_CHUNK // self.block_size, 1) * self.block_size
        at = self.offset
        while (data := min(next_data(fd, at, self.end)[0] for fd in fds)) < self.end:
            start = data - (data - self.offset) % self.block_size
            at = min(start + step, self.end)
            yield start, at

    def entries(self, start: int) -> Bytes:
        """The table from the block on that begins at `start`."""
        return self.table[(start - self.offset) // self.block_size * ENTRY_SIZE :]


def _read(fd: int, start: int, end: int, *, short: bool) -> tuple[Bytes, int]:
    """[start, end) with holes as zeros, and the bytes read; a file that ends there is an error unless `short`."""
    import numpy as np

    data, count, at = np.zeros(end - start, np.uint8), 0, start
    view = memoryview(data)
    while at < end:
        low, high = next_data(fd, at, end)
        got = read_at(fd, view[low - start : high - start], low)
        if got < high - low and not short:
            raise OSError(errno.ENODATA, "the file ends before the extent does")
        count += got
        at = high
    return data, count


def _runs(flags: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, bool]]:
    """Runs of equal values as (first, behind, value)."""
    import numpy as np

    edges = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
    for first, behind in pairwise(edges):
        yield first, behind, bool(flags[first])


def _write_chunk(fd: int, data: Bytes, start: int, *, punch: bool) -> int:
    """Write what is not zero of it, punch the rest where that is asked for; returns the bytes written."""
    import numpy as np

    lead = start % _GRANULE  # granules are aligned in the file
    padded = np.concatenate([np.zeros(lead, np.uint8), data])
    bits = np.zeros(count_of(count_of(len(padded), _GRANULE), 8), np.uint8)
    find_zeros(padded, _GRANULE, bits)
    zeros = np.unpackbits(bits, count=count_of(len(padded), _GRANULE), bitorder="little").astype(bool)
    written, view = 0, memoryview(data)
    for first, behind, zero in _runs(zeros):
        low, high = max(first * _GRANULE - lead, 0), min(behind * _GRANULE - lead, len(data))
        if not zero:
            write_at(fd, view[low:high], start + low)
            written += high - low
        elif punch:
            _clear(fd, start + low, start + high)
    return written


def _clear(fd: int, start: int, end: int) -> None:
    """Punch out what the file has in [start, end)."""
    while start < end:
        low, high = next_data(fd, start, end)
        if low < end:
            punch_hole(fd, low, high - low)
        start = high


def _compare_chunk(data: Bytes, other: Bytes, granule: int, dirty: Bytes, first: int) -> int:
    """Compare in a bitmap of its own, and set its bits from `first` on."""
    import numpy as np

    count = count_of(len(data), granule)
    bits = np.zeros(count_of(count, 8), np.uint8)
    differing = compare_buffers(data, other, granule, bits)
    for bit in np.flatnonzero(np.unpackbits(bits, count=count, bitorder="little")).tolist():
        dirty[first + bit >> 3] |= 1 << (first + bit & 7)
    return differing
