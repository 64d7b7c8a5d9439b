"""System calls on file descriptors, each carried on until all is done."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from fcntl import ioctl
from typing import TYPE_CHECKING

from .arguments import check, check_extent, readable, writable

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .arguments import Bytes

_EXTENT = struct.Struct("<QQQ")
_BLKGETSIZE64 = 0x80081272
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def read_at(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view`; returns the bytes read, fewer only where the file ends."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """Write all of `view`."""
    done = 0
    while done < len(view):
        count = os.pwrite(fd, view[done:], offset + done)
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += count


def file_size(fd: int) -> int:
    """Bytes in a file or a block device."""
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        return status.st_size
    return int(struct.unpack("=Q", ioctl(fd, _BLKGETSIZE64, bytes(8)))[0])


def next_data(fd: int, start: int, end: int) -> tuple[int, int]:
    """The first run of data within [start, end) as (first byte, byte behind); (end, end) where there is none."""
    if start >= end:
        return end, end
    try:
        data = os.lseek(fd, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end, end
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return start, end
    if data >= end:
        return end, end
    return data, min(os.lseek(fd, data, os.SEEK_HOLE), end)


def read_extents(fd: int, extents: Buffer, buffer: Buffer) -> None:
    """Batch read: rows as kernels.EXTENTS; what lies behind the end of the file reads as zeros.

    ValueError, before anything is read, where a row does not lie within `buffer`. OSError from the system.
    """
    target = writable(buffer)
    view = memoryview(target)

    def read(offset: int, at: int, length: int) -> None:
        got = read_at(fd, view[at : at + length], offset)
        target[at + got : at + length] = 0

    _for_extents("read_extents", readable(extents), target, read)


def write_extents(fd: int, extents: Buffer, buffer: Buffer) -> None:
    """Batch write, in the order of the rows; errors as in `read_extents`."""
    source = readable(buffer)
    view = memoryview(source)
    _for_extents(
        "write_extents",
        readable(extents),
        source,
        lambda offset, at, length: write_at(fd, view[at : at + length], offset),
    )


def _for_extents(kernel: str, rows: Bytes, buffer: Bytes, move: Callable[[int, int, int], None]) -> None:
    check(len(rows) % _EXTENT.size == 0, kernel, "extents must be rows of 24 bytes")
    extents = list(_EXTENT.iter_unpack(rows.tobytes()))
    for offset, length, at in extents:
        sound = offset + length < 1 << 63 and at + length <= len(buffer)
        check(sound, kernel, "an extent reaches beyond the buffer, or beyond 2**63")
    for offset, length, at in extents:
        move(offset, at, length)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make the extent read as zeros: as a hole where that can be, else by writing zeros.

    The size stays, and nothing behind the end is touched. OSError from the system.
    """
    offset, length = check_extent("punch_hole", offset, length)
    length = min(length, file_size(fd) - offset)
    if length <= 0:
        return
    for mode in (_PUNCH_HOLE | _KEEP_SIZE, _ZERO_RANGE | _KEEP_SIZE):
        error = _fallocate(fd, mode, offset, length)
        if error == 0:
            return
        if error not in _UNSUPPORTED:
            raise OSError(error, os.strerror(error))
    zeros = memoryview(bytes(1 << 16))
    for at in range(offset, offset + length, len(zeros)):
        write_at(fd, zeros[: offset + length - at], at)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """0 or an errno."""
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(fd, mode, offset, length) != 0:
        if ctypes.get_errno() != errno.EINTR:
            return ctypes.get_errno()
    return 0
