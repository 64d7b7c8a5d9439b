"""Small records of a replica (identity, state, recovery points) and the envelope that guards them on disk.

A record is a line `blockreplica <kind> <version> sha256:<digest of the rest>` and a JSON document. The digest finds
damage, not malice: every field is bounded here besides, and no field is ever used as a path.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec

from .errors import NewerError, StateError

LIMIT = 16 << 20  # bytes; attachments stand in files of their own
MAX_SIZE = 1 << 62
BLOCK_SIZES = frozenset(4096 << shift for shift in range(11))
MOST_FROZEN = 4096
KINDS = ("crash-consistent", "application-consistent", "fuzzy")
_HEAD = re.compile(rb"blockreplica ([a-z-]{1,32}) (\d{1,9}) sha256:([0-9a-f]{64})\n")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
Record = TypeVar("Record", bound="_Record")


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    newest_version: ClassVar[int] = 1

    def version(self) -> int:
        """The least version of its kind that can say what it says: whoever does not know that refuses it."""
        return 1

    def check(self) -> None:
        """Raise ValueError for a field out of its bounds."""


class StoreRecord(_Record, frozen=True, kw_only=True):
    """`blockreplica-store`: this folder is a replica store."""

    store_id: str


class ReplicaDisk(_Record, frozen=True, kw_only=True):
    """One disk of a relationship."""

    index: int
    name: str


class FrozenTable(_Record, frozen=True, kw_only=True):
    """An era that has ended: the checksums of `block_size` that prove its points, up to that of epoch `last`.

    `sizes`: of the disks when it ended, which is what its tables cover.
    """

    last: int
    block_size: int
    sizes: list[int]

    def check(self) -> None:
        _check_block_size(self.block_size)
        if self.last < 1 or any(not 0 <= size < MAX_SIZE for size in self.sizes):
            raise ValueError("epoch or disk size of a frozen table out of range")


class ReplicaRecord(_Record, frozen=True, kw_only=True, omit_defaults=True):
    """`replica`: whose it is, and how it is checksummed. `seed` keys the checksums and stays secret from guests.

    `block_size` is that of the era which goes on; `frozen` are those before it, so that era `len(frozen)` is written.
    """

    newest_version: ClassVar[int] = 2

    relationship: str
    name: str
    block_size: int
    seed: int
    created: float
    disks: list[ReplicaDisk]
    frozen: list[FrozenTable] = []

    def version(self) -> int:
        return 2 if self.frozen else 1

    def era(self, epoch: int) -> int:
        """The era that a point of `epoch` belongs to; undo logs belong to that of their first epoch."""
        return next((era for era, table in enumerate(self.frozen) if epoch <= table.last), len(self.frozen))

    def crosses(self, epoch: int, last: int) -> bool:
        """Whether what leads from epoch `last` back to a point of `epoch` leaves the era that the point belongs to."""
        return self.era(epoch) != self.era(last)

    def block_size_of(self, era: int) -> int:
        """What one checksum of an era covers."""
        return self.frozen[era].block_size if era < len(self.frozen) else self.block_size

    def check(self) -> None:
        check_name(self.name)
        _check_block_size(self.block_size)
        self._check_frozen()
        if not 0 <= self.seed < 1 << 64 or [disk.index for disk in self.disks] != list(range(len(self.disks))):
            raise ValueError("seed or disk indexes out of range")
        if not 1 <= len(self.disks) <= 1024:
            raise ValueError(f"{len(self.disks)} disks: wanted 1 to 1024")

    def _check_frozen(self) -> None:
        for table in self.frozen:
            table.check()
        lasts = [table.last for table in self.frozen]
        if len(lasts) > MOST_FROZEN or lasts != sorted(lasts):
            raise ValueError("frozen tables: too many, or out of order")
        if any(len(table.sizes) != len(self.disks) for table in self.frozen):
            raise ValueError("frozen tables: wanted the size of each disk")


class Cursor(_Record, frozen=True, kw_only=True):
    """Where an image's tracking stood at a cut: the last epoch that the point holds, and the log that ended it.
    `token`: of the sync that made the cut, see `tracking.cursors`; empty where nothing gives any out."""

    tracking_id: str
    epoch: int
    chain: str
    token: str = ""


class PointDisk(_Record, frozen=True, kw_only=True):
    """One disk of a recovery point; `cursor` is None when nothing tracked the image."""

    index: int
    name: str
    size: int
    cursor: Cursor | None = None


class Attachment(_Record, frozen=True, kw_only=True):
    """A small file captured at the cut (domain XML, NVRAM, TPM state)."""

    name: str
    size: int
    sha256: str


class Churn(_Record, frozen=True, kw_only=True):
    """What a delta was like: bytes that it changed, of them looked at, and what those shrank to."""

    changed: int
    sampled: int
    packed: int


class PointRecord(_Record, frozen=True, kw_only=True):
    """`point`: a recovery point. `chain` is SHA-256 over the chain before and this record without it.

    `ran` is how long the store had run when it was made (see `stores.clock`); `unusual` says why its delta is not like
    those before it, `calm` names the last point before that.
    """

    id: str
    generation: int
    epoch: int
    time: float
    kind: str
    action: str
    reason: str
    disks: list[PointDisk]
    attachments: list[Attachment] = []
    ran: float = 0.0
    churn: Churn | None = None
    unusual: str = ""
    calm: str = ""
    chain: str = ""

    def check(self) -> None:
        if not 0 <= self.ran < MAX_SIZE:
            raise ValueError("running time out of range")
        if self.kind not in KINDS or self.id != point_id(self.generation, self.epoch):
            raise ValueError("kind or id does not fit the point")
        if any(not 0 <= disk.size < MAX_SIZE for disk in self.disks):
            raise ValueError("disk size out of range")
        if any(disk.index != at for at, disk in enumerate(self.disks)):
            raise ValueError("disk indexes out of order")


class ClockRecord(_Record, frozen=True, kw_only=True):
    """The store's running time, when and where it was read last, and until when nothing is pruned because of a jump."""

    ran: float = 0.0
    wall: float = 0.0
    boot: str = ""
    up: float = 0.0
    held_until: float = 0.0
    why: str = ""


class StateRecord(_Record, frozen=True, kw_only=True):
    """`state`: the newest recovery point. Replacing it is what makes a point appear. Epoch 0: none yet."""

    generation: int
    epoch: int
    chain: str
    clock: ClockRecord = ClockRecord()

    def check(self) -> None:
        if not 0 <= self.clock.ran < MAX_SIZE or not 0 <= self.clock.held_until < MAX_SIZE:
            raise ValueError("running time out of range")
        if self.generation < 1 or self.epoch < 0:
            raise ValueError("generation or epoch out of range")


class DiskProgress(_Record, frozen=True, kw_only=True):
    """How far an interrupted movement is, durably: bytes gone through."""

    done: int = 0
    begin: Cursor | None = None
    identity: list[int] = []

    def check(self) -> None:
        if not 0 <= self.done < MAX_SIZE:
            raise ValueError("progress out of range")


class PendingRecord(_Record, frozen=True, kw_only=True):
    """`incomplete`: a movement towards `epoch` has begun and `disk.img` alone may be a mixture."""

    epoch: int
    movement: str
    disks: list[DiskProgress]

    def check(self) -> None:
        for disk in self.disks:
            disk.check()


class Mark(_Record, frozen=True, kw_only=True):
    """Something that verify found wrong with a point."""

    epoch: int
    what: str


class MarksRecord(_Record, frozen=True, kw_only=True, omit_defaults=True):
    """`marks`: what people and verify say of points, by epoch; and the block size that checksums are to have from the
    next sync on, where somebody asked for another (0: nobody)."""

    newest_version: ClassVar[int] = 2

    pinned: list[int] = []
    damaged: list[Mark] = []
    block_size: int = 0

    def version(self) -> int:
        """2 while another block size is wished for."""
        return 2 if self.block_size else 1

    def check(self) -> None:
        """Raise ValueError for a block size that none can have."""
        if self.block_size:
            _check_block_size(self.block_size)


class PruningRecord(_Record, frozen=True, kw_only=True):
    """`pruning`: epochs whose points go, or are gone while their undo logs are not merged yet."""

    epochs: list[int]


def point_id(generation: int, epoch: int) -> str:
    """The id of a point: unique over generations."""
    return f"{generation}.{epoch}"


def _check_block_size(block_size: int) -> None:
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size {block_size}: wanted a power of two from 4096 to 4194304")


def check_name(name: str) -> None:
    """Raise ValueError unless `name` can be a relationship's name, and so a folder's."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r}: wanted 1 to 100 of A-Z a-z 0-9 . _ - and no dot or dash in front")


def encode(kind: str, record: _Record) -> bytes:
    """The bytes of a record file of this kind."""
    body = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    digest = hashlib.sha256(body).hexdigest()
    return f"blockreplica {kind} {record.version()} sha256:{digest}\n".encode() + body


def decode(kind: str, record: type[Record], data: bytes, path: Path) -> Record:
    """The record in `data`, read from `path`; StateError when it is damaged or foreign, NewerError."""
    head = _HEAD.match(data)
    if head is None or head[1].decode() != kind:
        raise StateError.at(path, 0, "record", wanted=f"a blockreplica {kind} record", got=repr(data[:40]))
    if int(head[2]) > record.newest_version:
        raise NewerError.at(path, 0, "record version", wanted=f"at most {record.newest_version}", got=int(head[2]),
                            hint="a newer blockreplica wrote it: use that one")  # fmt: skip
    if int(head[2]) < 1:
        raise StateError.at(path, 0, "record version", wanted="at least 1", got=int(head[2]))
    body = data[head.end() :]
    digest = hashlib.sha256(body).hexdigest()
    if digest != head[3].decode():
        raise StateError.at(path, head.end(), "record digest", wanted=head[3].decode(), got=digest)
    try:
        result = msgspec.json.decode(body, type=record)
        result.check()
    except (msgspec.MsgspecError, ValueError) as error:
        raise StateError.at(path, head.end(), "record", wanted=f"a valid {kind}", got=str(error)) from error
    return result


def chained(previous: str, point: PointRecord) -> str:
    """The chain digest of `point` behind a point whose chain is `previous`."""
    return hashlib.sha256(previous.encode() + msgspec.json.encode(msgspec.structs.replace(point, chain=""))).hexdigest()
