"""Raw images: files and block devices, tracked by our own tracker or by nothing."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from ..errors import BlockReplicaError, NotFoundError
from ..files import Files
from ..replication import TrackedGroup
from ..tracking import ImageSource, image_path, require_image
from .base import DiskState


class ImageFiles:
    """Addresses are paths without a symbolic link left in them, but for those of block devices. `tracking_dir`: where
    the trackers' files are, if not beside the images."""

    def __init__(self, tracking_dir: Path | None = None) -> None:
        self._tracking_dir = tracking_dir

    def addresses(self, word: str) -> list[Path]:
        """The path."""
        return [image_path(word)]

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
        return TrackedGroup.open(addresses, files, tracking_dir=self._tracking_dir)

    def states(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> list[DiskState]:
        """What the tracker of each says, if it has one."""
        return [self._state(address, files) for address in addresses]

    def forget(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> None:
        """Drop the cursors."""
        for address in addresses:
            try:
                with self._source(address, files) as source:
                    source.drop_cursor(relationship)
            except NotFoundError:
                continue

    def _source(self, path: Path, files: Files) -> ImageSource:
        return ImageSource.open(path, files=files, tracking_dir=self._tracking_dir)

    def _state(self, path: Path, files: Files) -> DiskState:
        try:
            with self._source(path, files) as source:
                live, size = source.status(), source.size()
        except BlockReplicaError as error:
            return DiskState(0, "missing" if isinstance(error, NotFoundError) else "unreadable")
        if live is None:
            return DiskState(size, source.state)
        return DiskState(
            size, source.state, live.dirty_bytes, live.log_bytes, live.log_failed,
            tracker="whole disk" if live.state == "whole image" else live.state, pid=live.pid, writes=live.writes,
            last_cut=live.last_cut,
        )  # fmt: skip


def room_of(path: Path, files: Files) -> int:
    """Bytes that a file takes up, or a device has."""
    info = require_image(path)
    with files.open(path) as image:
        return image.size() if stat.S_ISBLK(info.st_mode) else info.st_blocks * 512
