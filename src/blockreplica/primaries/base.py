"""What every kind of primary can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from uuid import UUID

import msgspec

from ..files import Files
from ..replication import Group


class DiskState(msgspec.Struct, frozen=True):
    """A disk, without moving anything. `tracking` is tracking, closed, changed, unclean, untracked, missing or
    unreadable; what a kind can't tell is None. `tracker` is how the tracker is that has it open: tracking, bitmap only,
    whole disk or critical; `writes` counts those since it was opened; `last_cut` is seconds since 1970."""

    size: int
    tracking: str
    dirty_bytes: int | None = None
    log_bytes: int | None = None
    log_failed: bool = False
    tracker: str | None = None
    pid: int | None = None
    writes: int | None = None
    last_cut: float | None = None


class Kind(Protocol):
    """Disks that are named, found and cut in one way."""

    def addresses(self, word: str) -> list[Path]:
        """The addresses of the disks that a user's word names; UsageError for what can't be one."""

    def name(self, address: Path) -> str:
        """What people call the disk."""

    def local(self, address: Path) -> Path | None:
        """The file or device that the content is in, as far as this host has it under a name."""

    def weigh(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> int:
        """Bytes that a first copy takes up at the most; errors for disks that can't be read."""

    def open(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> Group:
        """The disks, for a sync."""

    def states(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> list[DiskState]:
        """How they are."""

    def forget(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> None:
        """Keep nothing for the relationship any more."""
