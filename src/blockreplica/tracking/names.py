"""The names of the tracker's files, all beside the image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import RefusedError
from ..files import Files


@dataclass(frozen=True, slots=True)
class Names:
    """The files that belong to image `image`, whose path has no symbolic link left in it."""

    image: Path

    @classmethod
    def of(cls, path: Path | str) -> Names:
        """The names for an image, however it was named: two names for one image must meet at the same files."""
        return cls(Path(path).resolve())

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

    def word(self, tag: str) -> Path:
        """The epoch word of one cut of several images."""
        return self._beside(f".word-{tag}")

    def log(self, epoch: int) -> Path:
        """The sealed log of an epoch."""
        return self._beside(f".{epoch:06d}.hrl")

    def dirty(self, epoch: int) -> Path:
        """The dirty bitmap of an epoch."""
        return self._beside(f".{epoch:06d}.dirty")

    def artifacts(self, files: Files) -> Iterator[tuple[int, Path]]:
        """All sealed logs and dirty bitmaps that there are, with their epochs."""
        pattern = re.compile(re.escape(self.image.name) + r"\.(\d{6,18})\.(?:hrl|dirty)")
        for name in files.names(self.image.parent):
            match = pattern.fullmatch(name)
            if match:
                yield int(match[1]), self.image.with_name(name)

    def refuse_confusion(self, files: Files) -> None:
        """RefusedError where another tracked image of the folder would take its files for this one's, or the reverse:
        the open log of an image called `d.000001` has the name of the sealed log of epoch 1 of `d`.
        """
        name = self.image.name
        base = re.fullmatch(r"(.+)\.\d{6,18}", name)
        others = re.compile(re.escape(name) + r"\.\d{6,18}\.tracking")
        for there in files.names(self.image.parent):
            if (base and there == f"{base[1]}.tracking") or others.fullmatch(there):
                raise RefusedError(f"{self.image}: its logs would have the names of those of {there[:-9]}, "
                                   "which is tracked here too; rename one of the two images")  # fmt: skip

    def _beside(self, suffix: str) -> Path:
        return self.image.with_name(self.image.name + suffix)
