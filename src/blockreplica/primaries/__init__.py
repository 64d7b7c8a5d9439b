"""What can be protected, by the words that name it: image files, and the disks of a running QEMU.

An address is a path, or a word with a scheme in front (`qmp:…`); the catalog keeps it as it stands, one for each disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..tracking import LogMode
from .base import DiskState, Kind
from .files import ImageFiles
from .machines import Machines

__all__ = ["DiskState", "Kind", "addresses", "kind_of"]

_SCHEMES: dict[str, Kind] = {"qmp:": Machines()}
_FILES: Kind = ImageFiles()


def addresses(words: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The addresses of all disks that a user's words name."""
    return [address for word in words for address in _kind(os.fspath(word)).addresses(os.fspath(word))]


def kind_of(
    addresses: Sequence[Path], tracking_dir: Path | None = None, log: LogMode = "always",
    *, ignore_ctime: bool | None = None,
) -> Kind:  # fmt: skip
    """The kind that all of these are of; UsageError when they differ, for they can't be cut at one instant.
    `tracking_dir`: where the trackers of image files have their own files; `log`: when they keep a log;
    `ignore_ctime`: whether an image whose ctime alone changed is unchanged."""
    kinds = [_kind(str(address)) for address in addresses]
    if any(kind is not kinds[0] for kind in kinds):
        raise UsageError("disks of a running QEMU and image files can't be cut at one instant: protect them separately")
    if tracking_dir is None and log == "always" and ignore_ctime is None:
        return kinds[0]
    if kinds[0] is not _FILES:
        raise UsageError("a tracking folder, a log mode and what ctime means are for files and block devices; QEMU "
                         "tracks in itself")  # fmt: skip
    return ImageFiles(tracking_dir, log, ignore_ctime=ignore_ctime)


def _kind(word: str) -> Kind:
    return next((kind for scheme, kind in _SCHEMES.items() if word.startswith(scheme)), _FILES)
