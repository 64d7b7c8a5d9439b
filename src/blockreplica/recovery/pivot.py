"""Where a pivot stands: a point that becomes a plain image while it is served (`native/pivot.h`).

Beside the image FILE stands `FILE.pivot`, which the serving process writes. It is read here to say how far that is, and
to refuse, before anything is started, what can't go on; the serving process checks all of it again.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec

from ..errors import (
    BlockReplicaError,
    BusyError,
    DamageError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    StateError,
    StorageError,
)
from ..files import FILES, Files
from ..kernels import crc32c

State = Literal["new", "copying", "waiting", "damaged", "complete"]
STATES: tuple[State, ...] = ("new", "copying", "waiting", "damaged", "complete")
MAGIC, VERSION, SECTOR = b"brpivot\0", 1, 512
HEADER = struct.Struct("<8sIIQ16s16sI4x64s380xI")
NOTE = struct.Struct("<II16sQQQI456xI")
assert HEADER.size == NOTE.size == SECTOR


class Pivot(msgspec.Struct, frozen=True):
    """What stands in FILE.pivot. Bytes: `owned` FILE has, `damaged` the point can't give; `error` says what it waits
    for."""

    path: Path
    relationship: str
    point: str
    disk: int
    size: int
    state: State
    owned: int
    copied: int
    damaged: int
    error: str

    @property
    def complete(self) -> bool:
        """Whether FILE needs the replica no more."""
        return self.state == "complete"


def state_path(path: Path) -> Path:
    """FILE.pivot."""
    return path.with_name(path.name + ".pivot")


def read_pivot(path: Path, *, files: Files = FILES) -> Pivot:
    """How far the pivot to the image `path` is. NotFoundError: it is none; StateError: its record is damaged."""
    place = state_path(path)
    with files.open(place) as file:
        header, note = file.pread(SECTOR, 0), file.pread(SECTOR, SECTOR)
    if len(header) < SECTOR or len(note) < SECTOR or header[:8] != MAGIC:
        raise StateError.at(place, 0, "header", wanted="one of serve-point --pivot", got="something else")
    _, version, _, size, _, relationship, disk, point, crc = HEADER.unpack(header)
    if version > VERSION:
        raise StateError.at(place, 8, "version", wanted=f"at most {VERSION}", got=version)
    if crc != crc32c(header[:-4]):
        raise StateError.at(place, SECTOR - 4, "header's CRC", wanted=f"{crc32c(header[:-4]):#x}", got=f"{crc:#x}")
    state, _, _, owned, copied, damaged, error, crc = NOTE.unpack(note)
    if crc != crc32c(note[:-4]):  # torn by a power cut; the next start knows how to go on
        state, owned, copied, damaged, error = 1, 0, 0, 0, 0
    return Pivot(
        path, str(UUID(bytes=relationship)), point.rstrip(b"\0").decode(errors="replace"), disk, size,
        STATES[min(state, len(STATES) - 1)], owned, copied, damaged, os.strerror(error) if error else "",
    )  # fmt: skip


def begun(path: Path, *, files: Files = FILES) -> Pivot | None:
    """The pivot that is to go on, None where one is to begin; RefusedError for a file that is not ours."""
    if files.exists(state_path(path)):
        found = read_pivot(path, files=files)
        if found.state != "new" and not files.exists(path):
            raise RefusedError(f"{path}: is gone, and what it was to become can't be told from {state_path(path).name} "
                               "alone; remove that to begin anew")  # fmt: skip
        return found
    if os.path.lexists(path):
        raise RefusedError(f"{path}: is there already, and not from serve-point --pivot; choose another file")
    if not path.parent.is_dir():
        raise RefusedError(f"{path}: wanted a file in a folder that exists")
    return None


def pivot_begun(path: str | os.PathLike[str]) -> bool:
    """Whether there is a pivot to the image `path`, which knows its point and disk."""
    return state_path(Path(path)).exists()


def require_same(found: Pivot, relationship: str, point: str | None, disk: int | None) -> None:
    """RefusedError unless `found` is this relationship's, of that point and disk."""
    wanted = (str(UUID(relationship)), point or found.point, found.disk if disk is None else disk)
    if wanted != (found.relationship, found.point, found.disk):
        raise RefusedError(f"{found.path}: was begun for point {found.point}, disk {found.disk} of relationship "
                           f"{found.relationship}; wanted {wanted[1]}, {wanted[2]} of {wanted[0]}")  # fmt: skip
    if found.path.exists() and not stat.S_ISREG(found.path.stat().st_mode):
        raise RefusedError(f"{found.path}: wanted a plain file")


def arguments(path: Path, relationship: str, point: str, disk: int, rate: int) -> list[str]:
    """What the plugin is to know."""
    return [f"pivot={path}", f"pivot-relationship={UUID(relationship).hex}", f"pivot-point={point}",
            f"pivot-disk={disk}", f"pivot-rate={rate}"]  # fmt: skip


_KINDS: dict[int, type[BlockReplicaError]] = {
    errno.EEXIST: RefusedError, errno.ESTALE: RefusedError, errno.EWOULDBLOCK: BusyError, errno.EROFS: RefusedError,
    errno.EBADMSG: StateError, errno.EPROTO: StateError, errno.ENOSPC: NoSpaceError, errno.ENOENT: NotFoundError,
    errno.EACCES: RefusedError,
}  # fmt: skip


def explain(told: str, folder: Path | None, disk: int) -> BlockReplicaError | None:
    """The typed error in what the server said before it ended. The point's own come from its folder."""
    found = re.search(r"\[errno (\d+)\]", told)
    if found is None:
        return None
    number = int(found[1])
    text = re.sub(r" \[errno \d+\]", "", told).replace("\n", "; ")
    if folder is None or not told.startswith(str(folder)):
        return _KINDS.get(number, StorageError)(text)
    if number in (errno.EIO, errno.EBADMSG, errno.ENOENT):
        return DamageError(f"disk {disk}: {text}; run verify, then repair")
    return StorageError(f"disk {disk}: {text}")
