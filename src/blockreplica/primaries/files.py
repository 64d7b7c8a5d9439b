"""Raw images: files and block devices, tracked by our own tracker or by nothing."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from ..errors import BlockReplicaError, NotFoundError
from ..files import Files
from ..replication import TrackedGroup
from ..tracking import ImageSource, require_image
from .base import DiskState


class ImageFiles:
    """Addresses are paths without a symbolic link left in them."""

    def addresses(self, word: str) -> list[Path]:
        """The path."""
        return [Path(word).resolve()]

    def name(self, address: Path) -> str:
        """The name of the file."""
        return address.name

    def local(self, address: Path) -> Path | None:
        """Itself."""
        return address

    def weigh(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> int:
        """What the files take up now."""
        return sum(room_of(address, files) for address in addresses)

    def open(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> TrackedGroup:
        """The images."""
        return TrackedGroup.open(addresses, files)

    def states(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> list[DiskState]:
        """What the tracker of each says, if it has one."""
        return [_state(address, files) for address in addresses]

    def forget(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> None:
        """Drop the cursors."""
        for address in addresses:
            try:
                with ImageSource.open(address, files=files) as source:
                    source.drop_cursor(relationship)
            except NotFoundError:
                continue


def room_of(path: Path, files: Files) -> int:
    """Bytes that a file takes up, or a device has."""
    info = require_image(path)
    with files.open(path) as image:
        return image.size() if stat.S_ISBLK(info.st_mode) else info.st_blocks * 512


def _state(path: Path, files: Files) -> DiskState:
    try:
        with ImageSource.open(path, files=files) as source:
            live = source.status()
            return DiskState(
                source.size(), source.state, live.dirty_bytes if live else None,
                live.log_bytes if live else None, bool(live and live.log_failed),
            )  # fmt: skip
    except BlockReplicaError as error:
        return DiskState(0, "missing" if isinstance(error, NotFoundError) else "unreadable")
