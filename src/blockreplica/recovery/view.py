"""What a replica offers to those who need it: its points, and their content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..extents import Extent
from ..files import Files
from ..manifest import PointRecord
from ..progress import SILENT, Progress
from ..stores import Replica

if TYPE_CHECKING:  # a sync loads none of it
    from ..nbdkit import PathLike
    from .serve import ServedPoint


class ReplicaView:
    """What a relationship's replica offers: its points, and their content."""

    def __init__(self, base: Replica, files: Files) -> None:
        self.base = base
        self._files = files

    def points(self) -> list[PointRecord]:
        """The recovery points, oldest first."""
        return self.base.points()

    def recover(
        self, point: str | PointRecord | None, to: str | os.PathLike[str], *, disk: int | None = None,
        force: bool = False, unchecked: bool = False, part: Extent | None = None, in_place: bool = False,
        image_format: str = "raw", durable: bool = True, progress: Progress = SILENT,
    ) -> str:  # fmt: skip
        """Write a disk of a point (the newest by default) to a new sparse file; returns the point's id.

        Or only a `part` of it; or over an image that is there, `in_place`; or in another format; or without waiting
        for it to be `durable`. See `recovery.recover.recover`.
        """
        from .recover import recover

        wanted = point.id if isinstance(point, PointRecord) else point
        return recover(
            self.base, wanted, Path(to), disk=self._which(disk), force=force, unchecked=unchecked,
            part=part, in_place=in_place, image_format=image_format, durable=durable, progress=progress,
            files=self._files,
        )  # fmt: skip

    def serve(
        self, point: str | PointRecord | None = None, *, disk: int | None = None, socket: PathLike | None = None,
        tcp: str | None = None, tls: PathLike | None = None, writable: bool = False, pivot: PathLike | None = None,
        rate: int = 0, ttl_s: float | None = None, detach: bool = False, pid_file: PathLike | None = None,
    ) -> ServedPoint:  # fmt: skip
        """Serve a disk of a point (the newest by default) over NBD at once; `with` it, and use `.uri`.

        See `recovery.serve.serve`. The replica is only read and replicates on; the point is spared by pruning.
        """
        from .pivot import pivot_begun
        from .serve import serve

        return serve(
            self.base, point.id if isinstance(point, PointRecord) else point,
            disk=disk if pivot is not None and pivot_begun(pivot) else self._which(disk), socket=socket, tcp=tcp,
            tls=tls, writable=writable, pivot=pivot, rate=rate, ttl_s=ttl_s, detach=detach, pid_file=pid_file,
        )  # fmt: skip

    def _which(self, disk: int | None) -> int:
        count = len(self.base.record.disks)
        if disk is None and count > 1:
            raise UsageError(f"the point has disks 0 to {count - 1}: say which with --disk")
        return disk or 0

    def read(self, point: str | PointRecord | None, offset: int, length: int, *, disk: int = 0) -> bytes:
        """`length` bytes of a point from `offset`, without touching the replica; DamageError when they are damaged."""
        from .recover import read_checked

        record = point if isinstance(point, PointRecord) else self.base.find(point)
        with self.base.reader(record, disk) as reader:
            if not (0 <= offset <= reader.size and 0 <= length <= reader.size - offset):
                raise UsageError(f"offset {offset}, length {length}: wanted a part of the disk's {reader.size} bytes")
            return read_checked(reader, offset, length)
