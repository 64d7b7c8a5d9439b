"""An NBD export, read as if it were a file: many requests in flight, straight into the caller's memory.

Kernels read from descriptors. For them a window of the export is brought into a memory file that lies at the same
offsets, holes where the export says that it reads as zeros; it is gone when the window is.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from ..arrays import np
from ..errors import StorageError, translated
from ..extents import Extent
from ..files import File
from .libnbd import EXTENT_CALLBACK, Completion, ExtentCallback, at_once, failure, library

if TYPE_CHECKING:
    from typing_extensions import Buffer

IN_FLIGHT = 64  # QEMU takes 16 at a time; the others wait at its door, not for us
PIECE = 512 << 10
STATUS_SPAN = 1 << 30
SILENCE_MS = 30_000  # a QEMU that says nothing for so long hangs
ALLOCATION = "base:allocation"
ZERO = 2  # of base:allocation: reads as zeros


class NbdFile(File):
    """An export, for reading. `contexts` beyond `base:allocation` may be asked for their extents."""

    __slots__ = ("_handle", "_size", "_turn")

    def __init__(self, socket: Path, export: str, *, contexts: tuple[str, ...] = ()) -> None:
        super().__init__(Path(f"{socket}:{export}"), -1)
        # A scan reads aside while what differed is read: one thread at a time, for what is done is told to whoever
        # asks, and a call that keeps the GIL must not wait for the handle of one that wants it.
        self._turn = RLock()
        lib = library()
        self._handle = lib.nbd_create()
        try:
            self._check(lib.nbd_set_export_name(self._handle, export.encode()), "connecting")
            lib.nbd_set_pread_initialize(self._handle, False)
            for context in (ALLOCATION, *contexts):
                self._check(lib.nbd_add_meta_context(self._handle, context.encode()), "connecting")
            self._check(lib.nbd_connect_unix(self._handle, os.fsencode(socket)), "connecting")
            for context in contexts:
                if self._check(lib.nbd_can_meta_context(self._handle, context.encode()), "connecting") != 1:
                    raise StorageError(f"{self.path}: the server does not offer {context}")
            self._size = self._check(lib.nbd_get_size(self._handle), "measuring")
        except BaseException:
            self.close()
            raise

    def size(self) -> int:
        """Bytes in the export."""
        return int(self._size)

    def extents(self, context: str, within: Extent) -> Iterator[tuple[Extent, int]]:
        """The extents of `within` with their flags, in order, none left out."""
        at, end = within.offset, min(within.end, self._size)
        while at < end:
            for length, flags in self._status(context, at, min(end - at, STATUS_SPAN)):
                length = min(length, end - at)
                if length:
                    yield Extent(at, length), flags
                at += length

    def pread_into(self, buffer: Buffer, offset: int) -> int:
        """Fill `buffer` from `offset`."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._size - offset))
        self._read([(offset, length, 0)], buffer)
        return length

    def read_extents(self, extents: Buffer, buffer: Buffer) -> None:
        """As of `File`; zeros are asked for like data."""
        rows = np.frombuffer(extents, "<u8").reshape(-1, 3).tolist()
        self._read([(offset, length, place) for offset, length, place in rows], buffer)

    @contextmanager
    def window(self, offset: int, length: int) -> Iterator[int]:
        """A memory file that holds the extent at its offset."""
        with translated(self.path, "making room in memory"):
            fd = os.memfd_create("blockreplica-window", os.MFD_CLOEXEC)
        try:
            length = max(0, min(length, self._size - offset))
            os.ftruncate(fd, offset + length)
            if length:
                base = offset - offset % mmap.ALLOCATIONGRANULARITY
                memory = mmap.mmap(fd, offset + length - base, offset=base)
                self._read(self._data(Extent(offset, length), base), memory)
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        with self._turn:
            handle, self._handle = self._handle, None
            if handle:
                library().nbd_shutdown(handle, 0)
                library().nbd_close(handle)

    def _data(self, within: Extent, base: int) -> list[tuple[int, int, int]]:
        return [
            (extent.offset, extent.length, extent.offset - base)
            for extent, flags in self.extents(ALLOCATION, within)
            if not flags & ZERO
        ]

    def _status(self, context: str, offset: int, length: int) -> list[tuple[int, int]]:
        wanted, found = context.encode(), list[tuple[int, int]]()

        def told(
            _: int, name: bytes, start: int, entries: ctypes._Pointer[ctypes.c_uint32], count: int, __: int
        ) -> int:
            if name == wanted and not found and start == offset:
                words = entries[:count]
                found.extend(zip(words[::2], words[1::2], strict=True))
            return 0

        callback = ExtentCallback(EXTENT_CALLBACK(told), None, None)
        with self._turn:
            status = library().nbd_block_status(self._connected(), length, offset, callback, 0)
            self._check(status, f"looking from {offset}")
        if not found or found[0][0] == 0:
            raise StorageError(f"{self.path}: the server told nothing of {context} at offset {offset}")
        return found

    def _read(self, rows: list[tuple[int, int, int]], buffer: Buffer) -> None:
        """Read (offset, length, place in `buffer`) rows, several requests in flight."""
        view = memoryview(buffer).cast("B")
        if rows and len(view):
            with self._turn:
                self._read_alone(rows, view)

    def _read_alone(self, rows: list[tuple[int, int, int]], view: memoryview) -> None:
        handle = self._connected()
        memory = (ctypes.c_char * len(view)).from_buffer(view)
        base, flight, read = ctypes.addressof(memory), set[int](), at_once().nbd_aio_pread
        try:
            for offset, length, place in rows:
                assert 0 <= place <= len(view) - length
                for at in range(0, length, PIECE):
                    while len(flight) >= IN_FLIGHT:
                        self._wait(flight)
                    piece = min(PIECE, length - at)
                    cookie = read(handle, base + place + at, piece, offset + at, Completion(), 0)
                    flight.add(self._check(cookie, f"reading {piece} bytes at offset {offset + at}"))
            while flight:
                self._wait(flight)
        except BaseException:
            self.close()  # nothing may write into the buffer once this returns
            raise

    def _wait(self, flight: set[int]) -> None:
        """Wait until something happens; take what is done out of `flight`."""
        if self._check(library().nbd_poll(self._handle, SILENCE_MS), "reading") == 0:
            raise StorageError(f"{self.path}: no answer within {SILENCE_MS // 1000} s")
        lib = at_once()
        while flight and (done := self._check(lib.nbd_aio_peek_command_completed(self._handle), "reading")):
            self._check(lib.nbd_aio_command_completed(self._handle, done), "reading")
            flight.remove(done)

    def _connected(self) -> Any:
        if self._handle is None:
            raise StorageError(f"{self.path}: the connection was closed behind an earlier error")
        return self._handle

    def _check(self, result: int, doing: str) -> int:
        if result < 0:
            raise failure(str(self.path), doing)
        return result
