"""Reading a tracking file from outside: what a tracker left there. `native/tracking_file.h` has the table of bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import msgspec

from .. import kernels
from ..errors import TrackingError
from ..files import File
from .types import Cut, Identity, LogMode

VERSION = 3
SIZE = 512
SLOTS_AT = 2285568
_MAGIC = b"brtrack\0"
_FIELDS = struct.Struct("<8sII16sQQQ16s16sIII4x5QqQ")
assert _FIELDS.size == 160


class TrackingState(msgspec.Struct, frozen=True):
    """The state record. `epoch` is the one being written, or to be written next; `identity` holds when `clean`;
    it is that of the container where the image is what a daemon shows of one (`contained`). `failed`: an fsync of the
    image failed in the boot in which it was opened, and what it reads as may not be on its disk."""

    tracking_id: UUID
    epoch: int
    size: int
    chain: UUID
    pid: int
    clean: bool
    identity: Identity
    log: LogMode
    contained: bool = False
    failed: bool = False
    ignore_ctime: bool = False

    def cut(self, time: float) -> Cut:
        """The last cut, as one made at `time`."""
        return Cut(self.tracking_id, self.epoch - 1, self.size, time, self.chain)


def read_state(file: File, path: Path) -> TrackingState | None:
    """The state; None when there is none yet, or a damaged one. A newer version raises TrackingError."""
    raw = file.pread(SIZE, 0)
    if len(raw) < SIZE or raw[:8] != _MAGIC or kernels.crc32c(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        return None
    (
        _, version, _, tracking_id, epoch, size, covered, chain, _, pid, flags, _,
        inode, image_size, mtime, ctime, generation, _, _,
    ) = _FIELDS.unpack_from(raw)  # fmt: skip
    if version < VERSION:
        return None
    if version != VERSION:
        raise TrackingError.at(path, 8, "version", wanted=VERSION, got=version, hint="a newer blockreplica wrote it")
    if file.size() < _length(covered):
        return None
    identity = Identity(inode, image_size, mtime, ctime, generation)
    return TrackingState(
        UUID(bytes_le=tracking_id), epoch, size, UUID(bytes_le=chain), pid, flags & 3 == 1, identity,
        "transit" if flags & 4 else "always", bool(flags & 8), bool(flags & 16), bool(flags & 64),
    )  # fmt: skip


def _length(covered: int) -> int:
    """Bytes of a tracking file: state, stamps, open records, hot regions; then two slots of a bit for every
    64 KiB, in whole pages."""
    granules = -(-covered // (1 << 16))
    return SLOTS_AT + 2 * 4096 * max(1, -(-granules // (8 * 4096)))
