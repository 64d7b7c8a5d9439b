"""Images in files and on block devices, tracked by our own tracker or by nothing: raw ones, and what QEMU reads."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ..errors import BlockReplicaError, NotFoundError
from ..files import FILES, Files
from ..images.names import FORMATS, RAW, checked_format
from ..replication import TrackedGroup
from ..tracking import ImageSource, LogMode, image_path, require_image
from ..tracking.known_format import known_format
from ..tracking.names import Names
from ..tracking.served import ServedImage
from .base import DiskState

if TYPE_CHECKING:
    from types import ModuleType


class ImageFiles:
    """Addresses are paths without a symbolic link left in them, but for those of block devices; with `qcow2:` and the
    like in front, of that format. `tracking_dir`: where the trackers' files are, if not beside the images; `log`: when
    they keep a log;
    `ignore_ctime`: what one means that alone changed, None: what they were told before."""

    def __init__(
        self, tracking_dir: Path | None = None, log: LogMode = "always", *, ignore_ctime: bool | None = None
    ) -> None:
        self._tracking_dir, self._log, self._ignore_ctime = tracking_dir, log, ignore_ctime

    def addresses(self, word: str) -> list[Path]:
        """The path, with its format, unless that is raw."""
        said, _, rest = word.partition(":")
        if said == RAW or said in FORMATS:
            fmt, path = checked_format(said), image_path(rest)
        else:
            path = image_path(word)
            fmt = known_format(Names.of(path, self._tracking_dir), FILES)
        return [path if fmt == RAW else Path(f"{fmt}:{path}")]

    def name(self, address: Path) -> str:
        """The name of the file."""
        return parse(address)[1].name

    def local(self, address: Path) -> Path | None:
        """The file."""
        return parse(address)[1]

    def weigh(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> int:
        """What the files take up now."""
        return sum(_weight(*parse(address), files) for address in addresses)

    def open(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> TrackedGroup:
        """The images; those in formats are served as raw files until the group is closed."""
        with ExitStack() as stack:
            images: list[tuple[ImageSource, Path | None]] = []
            for fmt, path in map(parse, addresses):
                source, shown = self._source(fmt, path, files), None
                if fmt != RAW:
                    live = source.tracked() and source.state == "tracking"
                    shown = source.names.shown if live else stack.enter_context(_formats().opened_as_raw(path, fmt))
                images.append((source, shown))
            return TrackedGroup(
                images, files, stack.pop_all(), log=self._log, relationship=relationship,
                ignore_ctime=self._ignore_ctime,
            )  # fmt: skip

    def states(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> list[DiskState]:
        """What the tracker of each says, if it has one."""
        return [self._state(*parse(address), files) for address in addresses]

    def forget(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> None:
        """Drop the cursors."""
        for address in addresses:
            try:
                with self._source(*parse(address), files) as source:
                    source.drop_cursor(relationship)
            except NotFoundError:
                continue

    def _source(self, fmt: str, path: Path, files: Files) -> ImageSource:
        kind = ImageSource if fmt == RAW else ServedImage
        return kind.open(path, files=files, tracking_dir=self._tracking_dir)

    def _state(self, fmt: str, path: Path, files: Files) -> DiskState:
        try:
            with self._source(fmt, path, files) as source:
                live = source.status()
                size = source.size() if fmt == RAW else _formats().describe(path, fmt).virtual_size
        except BlockReplicaError as error:
            return DiskState(0, "missing" if isinstance(error, NotFoundError) else "unreadable")
        if live is None:
            return DiskState(size, source.state)
        return DiskState(
            size, source.state, live.dirty_bytes, live.log_bytes, live.log_failed,
            tracker="whole disk" if live.state == "whole image" else live.state, pid=live.pid, writes=live.writes,
            last_cut=live.last_cut,
        )  # fmt: skip


def parse(address: Path) -> tuple[str, Path]:
    """Format and path of an address."""
    said, _, rest = str(address).partition(":")
    return (said, Path(rest)) if said in FORMATS else (RAW, address)


def room_of(path: Path, files: Files) -> int:
    """Bytes that a file takes up, or a device has."""
    info = require_image(path)
    with files.open(path) as image:
        return image.size() if stat.S_ISBLK(info.st_mode) else info.st_blocks * 512


def _weight(fmt: str, path: Path, files: Files) -> int:
    weight = room_of(path, files)
    return weight if fmt == RAW else max(weight, _formats().describe(path, fmt).actual_size)


def _formats() -> ModuleType:
    """What QEMU's programs are asked; raw images need none of them, nor the time that loading it takes."""
    from ..images import formats

    return formats
