"""A guest's disk, written over NBD by the test's own process."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

from blockreplica.images.libnbd import library

BLOCK = 4096


class GuestDisk:
    """An export, for writing."""

    def __init__(self, socket: Path, export: str) -> None:
        self._lib = library()
        self._lib.nbd_pwrite.argtypes = (
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint32,
        )  # fmt: skip
        self._handle = self._lib.nbd_create()
        assert self._lib.nbd_set_export_name(self._handle, export.encode()) == 0
        assert self._lib.nbd_connect_unix(self._handle, os.fsencode(socket)) == 0

    def write(self, data: bytes, offset: int) -> None:
        """Write; fails when the guest's write fails."""
        result = self._lib.nbd_pwrite(self._handle, data, len(data), offset, 0)
        assert result == 0, self._lib.nbd_get_error()

    def close(self) -> None:
        """Disconnect."""
        self._lib.nbd_shutdown(self._handle, 0)
        self._lib.nbd_close(self._handle)


class Counting:
    """Writes 1, 2, 3… to all disks in turn, number n into block n % blocks, until told to stop."""

    def __init__(self, disks: list[GuestDisk], blocks: int) -> None:
        self._disks, self._blocks, self._stop = disks, blocks, threading.Event()
        self.written, self.failure = 0, None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Counting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.failure is None, self.failure

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                number = self.written + 1
                for disk in self._disks:
                    disk.write(number.to_bytes(8, "little") * (BLOCK // 8), number % self._blocks * BLOCK)
                self.written = number
        except AssertionError as error:
            self.failure = error  # type: ignore[assignment]


def newest(content: bytes, blocks: int) -> int:
    """The number that was written last; every block must hold what it held then."""
    found = []
    for at in range(blocks):
        block = content[at * BLOCK : (at + 1) * BLOCK]
        assert block == block[:8] * (BLOCK // 8), f"block {at} is torn"
        found.append(int.from_bytes(block[:8], "little"))
    last = max(found)
    for at, number in enumerate(found):
        wanted = last - (last - at) % blocks
        assert number == max(wanted, 0), f"block {at} holds {number}, after {last} it must hold {max(wanted, 0)}"
    return last
