"""Every error that the library raises on purpose, as one tree; retry logic and exit codes ask the class.

    BlockReplicaError            1   anything below; never raised itself
    ├── UsageError               2   an argument that cannot be meant
    ├── FormatError              3   a file is not what its name says: truncated, flipped, forged, too new
    │   ├── LogError             3   a change log (.hrl)
    │   │   └── LogOpenError     3   … that was never closed
    │   ├── TableError           3   a checksum table
    │   ├── StateError           3   replica state, manifest, catalog
    │   │   └── NewerError       3   … whole, but of a newer version than this one knows
    │   └── TrackingError        3   tracking file, dirty bitmap
    ├── DamageError              4   well-formed, but the content does not match its checksums
    ├── NotFoundError            5   no such relationship, point, image, log
    ├── RefusedError             6   would destroy or confuse something: already there, not ours, own target
    │   └── ConflictError        6   the two sides tell different histories
    ├── BusyError                7   somebody else holds it; try again later          (recoverable)
    ├── StorageError             8   the system failed a read or a write              (recoverable)
    │   └── NoSpaceError         8   … for want of room                               (recoverable)
    └── NotConvergingError       9   the image changes faster than it can be copied   (recoverable)

Exit code 0 is success, 130 an interruption by Ctrl-C. Every message says what, where, what was wanted, what
was found, and what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class BlockReplicaError(Exception):
    """Base of all; `exit_code` for the command line, `recoverable` for whoever retries."""

    exit_code: ClassVar[int] = 1
    recoverable: ClassVar[bool] = False


class UsageError(BlockReplicaError):
    """An argument that cannot be meant."""

    exit_code = 2


class FormatError(BlockReplicaError):
    """A file is not what its name says. Built by `at`, so that every message names the same four things."""

    exit_code = 3

    @classmethod
    def at(cls, path: object, offset: int, what: str, *, wanted: object, got: object, hint: str = "") -> FormatError:
        """The error for `what` at byte `offset` of `path`."""
        text = f"{path}: {what} at offset {offset}: wanted {wanted}, got {got}"
        return cls(f"{text}; {hint}" if hint else text)


class LogError(FormatError):
    """A change log is malformed."""


class LogOpenError(LogError):
    """A change log was never closed: its end is not recorded."""


class TableError(FormatError):
    """A checksum table is malformed."""


class StateError(FormatError):
    """A state record, a manifest or the catalog is malformed, or newer than this version."""


class NewerError(StateError):
    """A record is of a newer version than this one knows: no damage, and nothing for this one to touch."""


class TrackingError(FormatError):
    """A tracking file or a saved dirty bitmap is malformed."""


class DamageError(BlockReplicaError):
    """Content does not match its checksums; it is never served."""

    exit_code = 4


class NotFoundError(BlockReplicaError):
    """There is no such relationship, recovery point, image or log."""

    exit_code = 5


class RefusedError(BlockReplicaError):
    """Doing it would destroy or confuse something."""

    exit_code = 6


class ConflictError(RefusedError):
    """Primary and replica tell different histories."""


class BusyError(BlockReplicaError):
    """Somebody else holds it."""

    exit_code = 7
    recoverable = True


class StorageError(BlockReplicaError):
    """The system failed a read or a write."""

    exit_code = 8
    recoverable = True


class NoSpaceError(StorageError):
    """A write failed for want of room."""


class NotConvergingError(BlockReplicaError):
    """The change log failed in every round, so no point in time was reached; the message says why for each image."""

    exit_code = 9
    recoverable = True


GOES_ON = ": it goes on where it was"


def from_os_error(error: OSError, path: object, doing: str) -> BlockReplicaError:
    """The typed error for a system error met while `doing` something to `path`."""
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    text = f"{path}: {doing} failed: {os.strerror(error.errno or 0)} ({name})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"{text}; make room and run the command again{GOES_ON}")
    if error.errno == errno.ENODATA:
        return StorageError(f"{text}; the file ends before that: it was shrunk meanwhile; run the command again")
    if error.errno == errno.ENOENT:
        return NotFoundError(f"{text}; check the path")
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        return StorageError(f"{text}; check the path: a folder stands where a file should, or a file where a folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RefusedError(f"{text}; check the permissions of the file and of its folder")
    return StorageError(f"{text}; look into the system's log for the device")


@contextmanager
def translated(path: object, doing: str) -> Iterator[None]:
    """Turn an OSError of the block into the typed error that names `path` and what was being done."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, path, doing) from error
