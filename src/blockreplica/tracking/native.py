"""The C tracker, its failures as typed errors."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

from .. import kernels
from ..errors import BlockReplicaError, BusyError, TrackingError, from_os_error
from ..files import Files
from ..places import marks_folder
from .names import Names
from .state import VERSION
from .types import LogMode, ctime_rule

if TYPE_CHECKING:
    from ..kernels import Tracker


def open_tracker(
    names: Names,
    *,
    files: Files,
    log_limit: int | None = None,
    settle_only: bool = False,
    suspect: bool = False,
    log: LogMode | None = None,
    ignore_ctime: bool | None = None,
) -> Tracker:
    """Open the tracker of an image. The real file system is reached without Python; any other through its objects.

    RefusedError: another tracked image of the folder has a name that makes their logs collide.
    """
    names.refuse_confusion(files)
    try:
        return kernels.Tracker(
            names.image.parent,
            names.image.name,
            files=None if type(files) is Files else files,
            log_limit=log_limit or 0,
            settle_only=settle_only,
            suspect=suspect,
            log=log,
            ctime=ctime_rule(ignore_ctime),
            marks=marks_folder(),
            tracking_folder=names.folder if names.apart else None,
        )
    except kernels.TrackerFailure as failure:
        raise told(failure, names) from None


def told(failure: Exception, names: Names) -> BlockReplicaError:
    """The typed error for a TrackerFailure."""
    return typed(json.loads(failure.args[0]), names)


def typed(failure: dict[str, Any], names: Names) -> BlockReplicaError:
    """The typed error for a failure as `native/tracker_text.h` has it."""
    name, doing, detail = failure["name"], failure["doing"], failure["number"]
    path = names.image if name in ("", names.image.name) else names.folder / name
    if failure["kind"] == "busy":
        holder = f"process {detail}" if detail else "another process, perhaps QEMU"
        return BusyError(f"{path}: {doing} failed: {holder} has it; close that first, or go through it")
    if failure["kind"] == "newer":
        hint = "a newer blockreplica wrote it: use that one"
        return TrackingError.at(path, 8, "version", wanted=f"at most {VERSION}", got=detail, hint=hint)
    if failure["errno"] == errno.EBUSY:
        return BusyError(f"{path}: {doing} failed; try again")
    return from_os_error(OSError(failure["errno"], ""), path, doing)
