"""The C tracker, its failures as typed errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .. import kernels
from ..errors import BlockReplicaError, BusyError, TrackingError, from_os_error
from ..files import Files
from .names import Names

if TYPE_CHECKING:
    from ..kernels import Tracker


def open_tracker(
    image: Path, *, files: Files, log_limit: int | None = None, settle_only: bool = False, suspect: bool = False
) -> Tracker:
    """Open the tracker of `image`. The real file system is reached without Python; any other through its objects.

    RefusedError: another tracked image of the folder has a name that makes their logs collide.
    """
    Names(image).refuse_confusion(files)
    try:
        return kernels.Tracker(
            image.parent,
            image.name,
            files=None if type(files) is Files else files,
            log_limit=log_limit or 0,
            settle_only=settle_only,
            suspect=suspect,
        )
    except kernels.TrackerFailure as failure:
        raise typed(failure, image) from None


def typed(failure: Exception, image: Path) -> BlockReplicaError:
    """The typed error for a TrackerFailure."""
    kind, number, name, doing, detail = failure.args
    path = image.with_name(name) if name and "/" not in name else Path(name or image)
    if kind == "busy":
        holder = f"process {detail}" if detail else "another process, perhaps QEMU"
        return BusyError(f"{path}: {doing} failed: {holder} has it; close that first, or go through it")
    if kind == "newer":
        hint = "a newer blockreplica wrote it: use that one"
        return TrackingError.at(path, 8, "version", wanted="at most 1", got=detail, hint=hint)
    return from_os_error(OSError(number, ""), path, doing)
