"""Where everything of a directory store stands, and how its parts are named.

DIR/blockreplica-store, .copy     this folder is a store
DIR/NAME/replica, .copy           identity: relationship, block size, checksum seed, disks
DIR/NAME/state, .copy             the newest recovery point; replacing `state` is the commit
DIR/NAME/INCOMPLETE               a movement has begun: `disk.img` alone may be a mixture (rule 19)
DIR/NAME/lock                     held by whoever writes
DIR/NAME/marks, .copy             pinned and damaged points
DIR/NAME/pruning                  points that go, whose undo logs are not merged yet
DIR/NAME/points/000017            a recovery point's record
DIR/NAME/disk0/disk.img           the newest content, plain and sparse
DIR/NAME/disk0/checksums          its checksum table
DIR/NAME/disk0/checksums.1        the same, once the block size was changed; those before it prove older points
DIR/NAME/disk0/undo/000017.hrl    what epoch 17 overwrote
DIR/NAME/disk0/undo/000017.index  where in it, and the checksums that its blocks had
DIR/NAME/disk0/undo/000017-000020.hrl    what epochs 17 to 20 overwrote, merged; its index is 000017.index
"""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec

from ..files import Files

STORE_MARK = "blockreplica-store"
GRANULE = 4096


def store_around(place: Path, files: Files) -> Path | None:
    """The store that a place lies in, of whatever relationship, or None: nothing of anybody else belongs there."""
    folders = place.resolve().parents
    return next((folder for folder in folders if files.exists(folder / STORE_MARK)), None)


class DiskLayout(msgspec.Struct, frozen=True):
    """The files of one disk of a replica."""

    folder: Path

    @property
    def image(self) -> Path:
        """The newest content."""
        return self.folder / "disk.img"

    def table(self, era: int) -> Path:
        """The checksum table of an era: of `image` while it goes on, then of what `image` was at its end."""
        return self.folder / (f"checksums.{era}" if era else "checksums")

    @property
    def undo(self) -> Path:
        """The folder of undo logs."""
        return self.folder / "undo"

    def undo_log(self, epoch: int) -> Path:
        """What `epoch` overwrote; missing when that was nothing."""
        return self.undo / f"{epoch:06d}.hrl"

    def merged_log(self, first: int, last: int) -> Path:
        """What epochs `first` to `last` overwrote, where pruning merged their logs."""
        return self.undo / f"{first:06d}-{last:06d}.hrl"

    def undo_index(self, epoch: int) -> Path:
        """The index of the undo log that begins with `epoch`; there is none for the first, and no gap between."""
        return self.undo / f"{epoch:06d}.index"

    def seen(self, epoch: int) -> Path:
        """Scratch bitmap of the granules that `undo_log` holds already; rebuilt when needed."""
        return self.undo / f"{epoch:06d}.seen"


class ReplicaLayout(msgspec.Struct, frozen=True):
    """The files of one replica."""

    folder: Path

    @property
    def record(self) -> Path:
        """The replica's identity."""
        return self.folder / "replica"

    @property
    def state(self) -> Path:
        """The newest point."""
        return self.folder / "state"

    @property
    def incomplete(self) -> Path:
        """The movement under way."""
        return self.folder / "INCOMPLETE"

    @property
    def marks(self) -> Path:
        """What people and verify say of points."""
        return self.folder / "marks"

    @property
    def pruning(self) -> Path:
        """The points that are being pruned; missing when none are."""
        return self.folder / "pruning"

    @property
    def lock(self) -> Path:
        """Held by the writer."""
        return self.folder / "lock"

    @property
    def points(self) -> Path:
        """The folder of point records."""
        return self.folder / "points"

    def point(self, epoch: int) -> Path:
        """The record of one point."""
        return self.points / f"{epoch:06d}"

    def disk(self, index: int) -> DiskLayout:
        """The files of one disk."""
        return DiskLayout(self.folder / f"disk{index}")


def table_key(relationship: str, disk: int, era: int) -> int:
    """The CRC key of a disk's table: pages of another disk, replica or era never pass for its own."""
    return zlib.crc32(f"{relationship}/{disk}/{era}".encode() if era else f"{relationship}/{disk}".encode())
