"""An image whose every change also goes into its change log."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .. import kernels
from ..errors import BlockReplicaError, BusyError, RefusedError, UsageError, from_os_error
from ..files import FILES, Files
from ..images.names import RAW, checked_format
from ..units import format_size
from .cursors import trim_after
from .known_format import known_format
from .names import Names
from .native import open_tracker, told
from .types import Cut, LogMode, TrackingStatus

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TRIES, _PAUSE_S = 10, 0.03  # whoever only looks at a tracking file holds its lock for an instant


_WARNINGS = {
    "died": "its last tracker died; its log was finished, or else the next sync compares what it had marked as dirty",
    "power": "the machine went down; the next sync compares {dirty} that were in use or marked then",
    "suspect": "may have been changed while nothing tracked it; the next sync compares all of it",
    "damaged": "its tracking file was damaged; tracking begins anew, and the next sync compares all of it",
}
_DOUBT = "an fsync of it failed; what it reads as may not be on its disk, so until the next boot each sync compares it"


class TrackedImage:
    """A disk image, open for reading and writing, tracked. May be used by several threads at once.

    Offsets and lengths in bytes; the extent must lie within the image (UsageError). What the system fails comes as
    StorageError, and then the image holds there whatever it holds. `data` must not change during `pwrite`.

    `close` it, or use it as a context manager: a process that ends without leaves a log that the next open
    finishes. `warnings` says what a user should know about the opening.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, files: Files = FILES, log_limit: int | None = None,
        tracking_dir: str | os.PathLike[str] | None = None, log: LogMode | None = None, format: str | None = None,
        ignore_ctime: bool | None = None,
    ) -> None:  # fmt: skip
        self._names = Names.of(path, tracking_dir)
        self._names.require_folder()
        self._names.claim(files)
        _require_raw(self._names, files, format)
        self.path = self._names.image
        self.warnings: list[str] = []
        self._files, self._log_limit = files, log_limit
        self._tracker = _open(self._names, files, log_limit=log_limit, log=log, ignore_ctime=ignore_ctime)
        status = self.status()
        if status.found in _WARNINGS:
            dirty = format_size(status.found_dirty_bytes)
            self.warnings.append(f"{self.path}: {_WARNINGS[status.found].format(dirty=dirty)}")
        if status.state == "whole image":
            self.warnings.append(f"{self.path}: {_DOUBT}")
        try:
            self._tracker.listen(self._names.folder, self.path.name)
        except kernels.TrackerFailure as failure:
            self.warnings.append(f"no other process can cut this image: {told(failure, self._names)}")

    @property
    def size(self) -> int:
        """Bytes in the image."""
        return self._tracker.size()

    def pread(self, length: int, offset: int) -> bytes:
        """`length` bytes from `offset`."""
        try:
            return self._tracker.pread(length, offset)
        except OSError as error:
            raise self._typed(error, "reading", offset, length) from error

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`, into image and log."""
        try:
            self._tracker.pwrite(data, offset)
        except OSError as error:
            raise self._typed(error, "writing", offset, len(memoryview(data).cast("B"))) from error

    def zero(self, offset: int, length: int) -> None:
        """Make the extent read as zeros, as a hole where the file system has holes."""
        try:
            self._tracker.zero(offset, length)
        except OSError as error:
            raise self._typed(error, "zeroing", offset, length) from error

    def discard(self, offset: int, length: int) -> None:
        """The content of the extent is needed no more; it may read as zeros, or as before."""
        try:
            self._tracker.discard(offset, length)
        except OSError as error:
            raise self._typed(error, "discarding", offset, length) from error

    def flush(self) -> None:
        """Return once every write that was answered is durable. After one failure it fails until the image is
        closed, and the whole image counts as changed."""
        try:
            self._tracker.flush()
        except OSError as error:
            raise from_os_error(error, self.path, "fsync") from error

    def cut(self) -> Cut:
        """End the epoch: seal its log as `<image>.<epoch>.hrl`, begin the next. Writes go on meanwhile."""
        with self._typed_failures():
            return self._ended(self._tracker.cut())

    def prepare(self, word: Path) -> None:
        """Get ready to be cut by the epoch word in file `word`; see `cut_together`."""
        with self._typed_failures():
            self._tracker.prepare(word)

    def finish(self) -> Cut:
        """End the epoch that the word cut."""
        with self._typed_failures():
            return self._ended(self._tracker.finish())

    def log(self, mode: LogMode) -> None:
        """Have a log always, or only while a sync is under way: it goes at once, and comes back at the next cut."""
        with self._typed_failures():
            self._tracker.log(mode)

    def resize(self, size: int) -> None:
        """Grow the image with zeros, or shrink it, to `size` bytes; the epoch ends at the old size."""
        if size < 0:
            raise UsageError(f"{self.path}: size {size}: wanted 0 or more")
        with self._typed_failures():
            self._tracker.resize(size)

    def status(self) -> TrackingStatus:
        """How the tracker is."""
        return TrackingStatus.from_native(json.loads(self._tracker.status()))

    def close(self) -> None:
        """Seal the log, make everything durable, record what the image is; a second call does nothing."""
        with self._typed_failures():
            self._tracker.close()

    def __enter__(self) -> TrackedImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self, text: str) -> Cut:
        cut = Cut.from_native(json.loads(text))
        trim_after(self._names, cut, self._files, limit=self._log_limit)
        return cut

    @contextlib.contextmanager
    def _typed_failures(self) -> Iterator[None]:
        try:
            yield
        except kernels.TrackerFailure as failure:
            raise told(failure, self._names) from None

    def _typed(self, error: OSError, doing: str, offset: int, length: int) -> BlockReplicaError:
        if error.errno == errno.ERANGE:
            return UsageError(
                f"{self.path}: {doing} {length} bytes at offset {offset}: wanted a part of its {self.size} bytes"
            )
        return from_os_error(error, self.path, f"{doing} at offset {offset}")


def track(
    path: str | os.PathLike[str], *, files: Files = FILES, log_limit: int | None = None,
    tracking_dir: str | os.PathLike[str] | None = None, log: LogMode | None = None, format: str | None = None,
    ignore_ctime: bool | None = None,
) -> TrackedImage:  # fmt: skip
    """Open a disk image for tracked writing.

    `log_limit`: bytes that the log of one epoch may have before the dirty bitmap alone goes on; half of the image
    unless given. `tracking_dir`: the folder for logs and tracking file; the image's own unless given. `log`: whether
    there is a log always, or, in "transit", only while a sync sends what is dirty; as before unless given. `format`:
    "raw" takes a file for a raw disk that by its name or its content is a qcow2 or another container. `ignore_ctime`:
    whether an image whose ctime alone changed meanwhile (its owner, say) counts as unchanged; as before unless given.

    BusyError names the process that tracks the image already; NotFoundError: no such image; RefusedError: it is in a
    format whose content only `export` can track.
    """
    return TrackedImage(path, files=files, log_limit=log_limit, tracking_dir=tracking_dir, log=log, format=format,
                        ignore_ctime=ignore_ctime)  # fmt: skip


def _require_raw(names: Names, files: Files, said: str | None) -> None:
    """Offsets in a container are not those of the disk in it, and a sync of its disk knows nothing of them."""
    fmt = known_format(names, files) if said is None else checked_format(said)
    if fmt != RAW:
        raise RefusedError(f"{names.image}: is a {fmt}, of which the library can't write the disk; `export` serves and "
                           "tracks that, or format=\"raw\" tracks the file as it is")  # fmt: skip


def _open(
    names: Names, files: Files, *, log_limit: int | None, log: LogMode | None, ignore_ctime: bool | None
) -> kernels.Tracker:
    for left in reversed(range(_TRIES)):
        try:
            return open_tracker(names, files=files, log_limit=log_limit, log=log, ignore_ctime=ignore_ctime)
        except BusyError:
            if left == 0:
                raise
            time.sleep(_PAUSE_S)
    raise AssertionError("unreachable")
