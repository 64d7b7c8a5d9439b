"""A file system of which one call fails, or all from some call on: with EIO, or, where files grow, ENOSPC.

An fsync that fails is the worst there is: what it should have brought to the disk is lost, reads as written for as long
as memory holds it, and no later fsync brings it there. `cut` then tells what the disk has.
"""

from __future__ import annotations

from blockreplica.errors import NoSpaceError, StorageError
from crash.power import PowerCut
from crash.recording import Op, RecordingFile, RecordingFiles

NEVER = 1 << 40
GROWING = ("write", "create", "mkdir", "truncate")


class Failing(RecordingFiles):
    """Fails the change at `at`, and with `forever` all behind it, until `well`. What fails is not among `ops`."""

    def __init__(self, at: int, *, forever: bool = False, full: bool = False, cut: PowerCut | None = None) -> None:
        super().__init__(late=at % 2 == 1)
        self._at, self._forever, self._full, self._cut = at, forever, full, cut
        self.calls, self._fed, self.well = 0, 0, False

    def note(self, op: Op) -> None:
        number, self.calls = self.calls, self.calls + 1
        due = number >= self._at if self._forever else number == self._at
        if not due or self.well or (self._full and op.what not in GROWING):
            super().note(op)
            return
        if op.what == "sync":
            super().note(Op("lost", op.inode, op.path))
        raise (NoSpaceError if self._full else StorageError)(f"{op.what} {op.path}: change {number} fails")

    def forgotten(self, file: RecordingFile) -> None:
        """Memory forgets what the disk never got."""
        disk = self.after()
        if disk is not None:
            super(RecordingFile, file).truncate(0)
            super(RecordingFile, file).pwrite(disk.durable(file.inode), 0)

    def after(self) -> PowerCut | None:
        """The disk as it is now."""
        if self._cut is not None:
            for op in self.ops[self._fed :]:
                self._cut.feed(op)
        self._fed = len(self.ops)
        return self._cut
