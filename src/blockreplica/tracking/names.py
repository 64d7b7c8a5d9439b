"""The names of the tracker's files: beside the image, or in a folder of their own.

A block device has no folder of its own, and an image's may be the wrong place for logs. Files of a tracking folder are
named after the image; which one that is stands in `<name>.image`, so that two images of one name are not mixed up.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..errors import NotFoundError, RefusedError, UsageError
from ..files import Files


class Names(msgspec.Struct, frozen=True):
    """The files that belong to image `image`, in `folder`."""

    image: Path
    folder: Path

    @classmethod
    def of(cls, path: Path | str | os.PathLike[str], tracking_dir: str | os.PathLike[str] | None = None) -> Names:
        """The names for an image, however it was named: two names for one image must meet at the same files."""
        image = image_path(path)
        return cls(image, image.parent if tracking_dir is None else Path(tracking_dir).resolve())

    @property
    def apart(self) -> bool:
        """Whether the tracker's files stand elsewhere than the image."""
        return self.folder != self.image.parent

    def ready(self, files: Files) -> None:
        """All that must be asked before a tracker of this image begins."""
        self.require_folder()
        self.claim(files)
        self.refuse_confusion(files)

    def require_folder(self) -> None:
        """UsageError for a block device without a tracking folder: /dev is in memory, and gone at the next boot."""
        if not self.apart and is_device(self.image):
            raise UsageError(f"{self.image}: is a block device, and has no folder for logs and tracking file; "
                             "name one as tracking folder (--tracking-dir)")  # fmt: skip

    def claim(self, files: Files) -> None:
        """Make sure that a tracking folder's files of this name are those of this image. RefusedError: of another."""
        if not self.apart:
            return
        mark = self._beside(".image")
        mine = os.fsencode(self.image) + b"\n"
        try:
            theirs = files.read(mark, limit=1 << 16)
        except NotFoundError:
            if not files.exists(self.folder):
                raise NotFoundError(f"{self.folder}: no such tracking folder; make it, or check the path") from None
            files.write_durably(mark, mine)
            return
        if theirs != mine:
            raise RefusedError(f"{mark}: the tracker's files there belong to {os.fsdecode(theirs.strip())}; choose "
                               "another tracking folder, or remove that file if the image was moved")  # fmt: skip

    @property
    def tracking(self) -> Path:
        """The tracking file."""
        return self._beside(".tracking")

    @property
    def cursors(self) -> Path:
        """Who has taken over which epoch."""
        return self._beside(".cursors")

    @property
    def control(self) -> Path:
        """The tracker's socket."""
        return self._beside(".control")

    @property
    def nbd(self) -> Path:
        """The socket of an export, unless another place is asked for."""
        return self._beside(".nbd")

    @property
    def shown(self) -> Path:
        """Where the content of an image in a format that QEMU reads appears while it is exported."""
        return self._beside(".raw") / self.image.name

    def word(self, tag: str) -> Path:
        """The epoch word of one cut of several images."""
        return self._beside(f".word-{tag}")

    def log(self, epoch: int) -> Path:
        """The sealed log of an epoch."""
        return self._beside(f".{epoch:06d}.hrl")

    def dirty(self, epoch: int) -> Path:
        """The dirty bitmap of an epoch."""
        return self._beside(f".{epoch:06d}.dirty")

    def spare(self, epoch: int) -> Path:
        """What was the log of an epoch, kept to be written over."""
        return self._beside(f".spare.{epoch:06d}")

    def spares(self, files: Files) -> list[Path]:
        """All of them. Look at their headers: an image may have any name."""
        pattern = re.compile(re.escape(self.image.name) + r"\.spare\.\d{6,18}")
        return [self.folder / name for name in files.names(self.folder) if pattern.fullmatch(name)]

    def artifacts(self, files: Files) -> Iterator[tuple[int, Path]]:
        """All sealed logs and dirty bitmaps that there are, with their epochs."""
        pattern = re.compile(re.escape(self.image.name) + r"\.(\d{6,18})\.(?:hrl|dirty)")
        for name in files.names(self.folder):
            match = pattern.fullmatch(name)
            if match:
                yield int(match[1]), self.folder / name

    def refuse_confusion(self, files: Files) -> None:
        """RefusedError where another tracked image of the folder would take its files for this one's, or the reverse:
        the open log of an image called `d.000001` has the name of the sealed log of epoch 1 of `d`.
        """
        name = self.image.name
        base = re.fullmatch(r"(.+)\.\d{6,18}", name)
        others = re.compile(re.escape(name) + r"\.\d{6,18}\.tracking")
        for there in files.names(self.folder):
            if (base and there == f"{base[1]}.tracking") or others.fullmatch(there):
                raise RefusedError(f"{self.image}: its logs would have the names of those of {there[:-9]}, "
                                   "which is tracked here too; rename one of the two images")  # fmt: skip

    def _beside(self, suffix: str) -> Path:
        return self.folder / (self.image.name + suffix)


def image_path(path: Path | str | os.PathLike[str]) -> Path:
    """The path of an image without symbolic links; but a block device's as it is given, because what a link such as
    /dev/vg/disk leads to has another name after the next boot."""
    resolved = Path(path).resolve()
    return Path(os.path.abspath(path)) if is_device(resolved) else resolved


def is_device(path: Path) -> bool:
    """Whether it is a block device."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False
