"""The values that trackers and those who ask them exchange."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec

from ..bitmap import Ended

#: Whether an image has a change log always, or only while a sync is under way.
LogMode = Literal["always", "transit"]


def ctime_rule(ignore: bool | None) -> str | None:
    """What a tracker is told of a ctime that alone changed; None: what it was told before holds."""
    return None if ignore is None else "ignore" if ignore else "compare"


class Cut(msgspec.Struct, frozen=True):
    """An instant at which an image was cut. `epoch` is the one that ended there, `size` the image's bytes then,
    `time` seconds since 1970, `chain` the UUID of the epoch and of its log, if it has one. `token`: of the sync that
    made it.
    """

    tracking_id: UUID
    epoch: int
    size: int
    time: float
    chain: UUID
    token: str = ""

    @classmethod
    def from_native(cls, fields: dict[str, Any]) -> Cut:
        """From what a tracker answers."""
        return cls(
            UUID(fields["tracking_id"]), int(fields["epoch"]), int(fields["size"]), fields["time_ns"] / 1e9,
            UUID(fields["chain"]),
        )  # fmt: skip


_RECOVERED = 0x40 << 56


def same_log(chain: UUID, log_id: UUID) -> bool:
    """Whether an epoch of this UUID has the log of that one. The UUID of an epoch that ended after its tracker's death
    differs from its log's in one bit (`native/tracker_settle.c`): nobody can have had the epoch before."""
    return chain.int | _RECOVERED == log_id.int | _RECOVERED


class EpochRecord(msgspec.Struct, frozen=True):
    """What is left of an ended epoch: its log, its dirty bitmap. Both None: the whole image may have changed.

    `chain` is the epoch's UUID and `previous` that of the epoch before it, as far as either file still tells, and
    `ended` how it ended, as far as its bitmap does.
    """

    epoch: int
    log: Path | None
    dirty: Path | None
    chain: UUID | None = None
    previous: UUID | None = None
    ended: Ended = "cut"


class TrackingStatus(msgspec.Struct, frozen=True):
    """How a tracker is. `state` is "tracking", "bitmap only" (the log failed, until the next cut), "whole image"
    (an fsync of the image failed, until it is opened anew or until the next boot) or "critical" (a crash now would lose
    changes). Bytes, but for `writes`, which counts those since the tracker was opened. `last_cut` is in seconds since
    1970, `found` what the tracker's opening found: "nothing", "closed", "died", "power", "suspect" or "damaged", and
    `found_dirty_bytes` what it ended an epoch with. `hot` regions of 4 MiB would be compared after a loss of power; for
    `activations` of such regions `hot_syncs` fsyncs were made.
    """

    state: str
    pid: int
    epoch: int
    size: int
    log_bytes: int
    dirty_bytes: int
    log_failed: bool
    log_error: str
    log: str
    writes: int
    last_cut: float
    found: str
    found_dirty_bytes: int = 0
    hot: int = 0
    activations: int = 0
    hot_syncs: int = 0

    @classmethod
    def from_native(cls, fields: dict[str, Any]) -> TrackingStatus:
        """From what a tracker answers."""
        number = fields["log_error"]
        return cls(
            state=fields["state"],
            pid=fields["pid"],
            epoch=fields["epoch"],
            size=fields["size"],
            log_bytes=fields["log_bytes"],
            dirty_bytes=fields["dirty_bytes"],
            log_failed=number != 0,
            log_error=os.strerror(number) if number else "",
            log=fields["log"],
            writes=fields["writes"],
            last_cut=fields["last_cut_ns"] / 1e9,
            found=fields["found"],
            found_dirty_bytes=fields["found_dirty_bytes"],
            hot=fields["hot"],
            activations=fields["activations"],
            hot_syncs=fields["hot_syncs"],
        )


_GETVERSION = 0x80087601  # FS_IOC_GETVERSION; the kernel fills four bytes


class Identity(msgspec.Struct, frozen=True):
    """What tells whether a file is the one it was. `generation` is the inode's, 0 where the file system tells none."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    generation: int

    @classmethod
    def of(cls, fd: int) -> Identity:
        """The identity of an open file."""
        info = os.fstat(fd)
        try:
            generation = struct.unpack_from("<I", fcntl.ioctl(fd, _GETVERSION, bytes(8)))[0]
        except OSError:
            generation = 0
        return cls(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, generation)

    def fits(self, other: Identity, *, ignore_ctime: bool) -> bool:
        """Whether both are of one file with one content; one whose ctime alone changed counts as that if told so."""
        return self == (msgspec.structs.replace(other, ctime_ns=self.ctime_ns) if ignore_ctime else other)

    def as_list(self) -> list[int]:
        """The five numbers, for a manifest."""
        return [self.ino, self.size, self.mtime_ns, self.ctime_ns, self.generation]
