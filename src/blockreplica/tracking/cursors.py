"""Who has taken over which epoch: a cursor for each relationship, in `<image>.cursors`.

What every cursor has passed is let go: its dirty bitmap is removed, its log becomes a spare. Cursors belong to a
tracking UUID; those of an earlier one mean nothing any more. The file is JSON:

    {"version": 1, "tracking_id": "...", "cursors": {"<relationship's UUID>": <epoch>, ...},
     "tokens": {"<relationship's UUID>": ["...", ...], ...},
     "consistent": {"<relationship's UUID>": [{"by": "...", "disks": [...]}, ...], ...},
     "sum": <CRC-32C of the rest, as JSON with sorted keys>}

A token is random and names one sync. It stands here, durably, before that sync cuts, and in all that the replica keeps
of it. So a token that the replica has and that does not stand here is of a future that this host has lost: it was put
back to an older state, perhaps with all of its memory, and has given the same epochs and UUIDs to other changes.

`consistent` are the application-consistent cuts of a relationship that have no point yet, in the file of its disk 0,
oldest first. They name the tracking that they belong to themselves, and outlive it, for the next sync to say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from .. import kernels
from ..errors import BlockReplicaError, BusyError, FormatError, NotFoundError, TrackingError, translated
from ..files import File, Files
from ..hrl.format import CHANGE_LOG, EXTENDED, HEADER_SIZE, Header
from ..units import MIB
from .consistent import ConsistentCut
from .names import Names
from .types import Cut

VERSION = 1
LIMIT = 1 << 20
SPARES = 1 << 30
_RESERVE = 1 << 30
_TRIES, _PAUSE_S = 200, 0.025

Cursors = dict[UUID, int]
Noted = list[ConsistentCut]


class _Known(msgspec.Struct):
    """What the file says."""

    cursors: Cursors = msgspec.field(default_factory=dict)
    tokens: dict[UUID, list[str]] = msgspec.field(default_factory=dict)
    consistent: dict[UUID, Noted] = msgspec.field(default_factory=dict)


class _NewerError(TrackingError):
    """Not damaged."""


def read_cursors(names: Names, tracking_id: UUID, files: Files) -> Cursors:
    """The cursors of this tracking UUID; none when there is no file. Raises TrackingError for a damaged one."""
    try:
        raw = files.read(names.cursors, limit=LIMIT)
    except NotFoundError:
        return {}
    return _parse(names, raw, tracking_id).cursors


class CutNotes(msgspec.Struct, frozen=True):
    """A relationship's application-consistent cuts that have no point yet, in the file of its disk 0."""

    names: Names
    tracking_id: UUID
    files: Files
    relationship: UUID

    def read(self) -> Noted:
        """Oldest first. TrackingError for a damaged file."""
        try:
            raw = self.files.read(self.names.cursors, limit=LIMIT)
        except NotFoundError:
            return []
        return _parse(self.names, raw, self.tracking_id).consistent.get(self.relationship, [])

    def change(self, change: Callable[[Noted], Noted]) -> None:
        """Durably. TrackingError for a newer version's file."""
        with _locked(self.names, self.files) as file:
            known = _read_locked(self.names, file, self.tracking_id)
            before = known.consistent.get(self.relationship, [])
            after = change(before)
            if after != before:
                known.consistent[self.relationship] = after
                _write(self.names, self.tracking_id, known, self.files)


def change_cursors(
    names: Names, tracking_id: UUID, files: Files, change: Callable[[Cursors], object], *, size: int
) -> None:
    """Change the cursors durably, one process at a time, then let go of what all of them have passed. `size`: bytes
    that the image may grow to.

    A damaged file is replaced: its relationships, unknown now, find their epochs gone and compare. TrackingError for a
    newer version's, which is left as it is.
    """
    with _locked(names, files) as file:
        known = _read_locked(names, file, tracking_id)
        cursors, before = known.cursors, dict(known.cursors)
        change(cursors)
        for gone in before.keys() - cursors.keys():
            known.tokens.pop(gone, None)
        _write(names, tracking_id, known, files)
        if cursors:
            release(names, min(cursors.values()), files, spares=min(SPARES, log_room(names, size, files) // 16))
        elif before:
            forget(names, files)


def note_sync(
    names: Names, tracking_id: UUID, files: Files, relationship: UUID, known: Collection[str], token: str
) -> set[str]:
    """Record durably that a sync of this token begins. Returns those of `known`, which the replica has, that this host
    never gave out; empty where a lost file leaves that open. TrackingError for a newer version's file."""
    with _locked(names, files) as file:
        found = _read_locked(names, file, tracking_id)
        wanted = {each for each in known if each}
        given = set(found.tokens.get(relationship, []))
        foreign = wanted - given if found.cursors or found.tokens else set[str]()
        found.tokens[relationship] = [*sorted(wanted - foreign), token]
        _write(names, tracking_id, found, files)
        return foreign


def _read_locked(names: Names, file: File, tracking_id: UUID) -> _Known:
    """What is known; nothing of a damaged file."""
    try:
        return _parse(names, file.pread(LIMIT, 0), tracking_id)
    except _NewerError:
        raise
    except FormatError:
        return _Known()


def _write(names: Names, tracking_id: UUID, known: _Known, files: Files) -> None:
    """More than a reader takes would be no file: the oldest notes go, which cost points that are not made yet."""
    while len(raw := _encoded(tracking_id, known)) > LIMIT and any(known.consistent.values()):
        del max(known.consistent.values(), key=len)[0]
    files.write_durably(names.cursors, raw)


def _encoded(tracking_id: UUID, known: _Known) -> bytes:
    noted = {str(each): [cut.as_json() for cut in cuts] for each, cuts in sorted(known.consistent.items()) if cuts}
    content: dict[str, Any] = {
        "version": VERSION,
        "tracking_id": str(tracking_id),
        "cursors": {str(relationship): epoch for relationship, epoch in sorted(known.cursors.items())},
        "tokens": {str(relationship): each for relationship, each in sorted(known.tokens.items())},
        **({"consistent": noted} if noted else {}),
    }
    content["sum"] = _sum(content)
    return json.dumps(content, indent=1).encode() + b"\n"


def _sum(content: dict[str, Any]) -> int:
    rest = {name: each for name, each in content.items() if name != "sum"}
    return kernels.crc32c(json.dumps(rest, sort_keys=True).encode())


def log_room(names: Names, size: int, files: Files) -> int:
    """Bytes of what is free that logs may take: all but what an image of this size may still need by growing, and a
    reserve; a small part in any case. As `native/tracker_log.c` has it for a log that is begun."""
    free, total = files.space(names.folder)
    above = max(0, free - min(_RESERVE, total // 64))
    with translated(names.image, "measuring"):
        image, device = os.stat(names.image), os.stat(names.folder).st_dev
    grows = stat.S_ISREG(image.st_mode) and image.st_dev == device
    wanted = max(0, size - image.st_blocks * 512) if grows else 0
    return max(above - wanted, above // 16)


def release(names: Names, upto: int, files: Files, *, spares: int = SPARES) -> None:
    """Let go of the logs and dirty bitmaps of all epochs up to `upto`.

    Logs become spares, which trackers write over, as long as those together have at most `spares` bytes; older spares
    go where they have more.
    """
    room = spares - sum(_size(path, files) for path in names.spares(files))
    for path in names.spares(files):
        if room < 0 and _recyclable(path, files):
            room += _size(path, files)
            files.unlink(path)
    for epoch, path in list(names.artifacts(files)):
        if epoch > upto:
            continue
        size = _size(path, files)
        if size <= room and path == names.log(epoch) and _recyclable(path, files):
            files.rename(path, names.spare(epoch))
            room -= size
        else:
            files.unlink(path)


def forget(names: Names, files: Files) -> None:
    """Nobody needs what there is: all of it is removed."""
    release(names, 10**18, files, spares=0)
    for path in names.spares(files):
        if _recyclable(path, files):
            files.unlink(path)


def _recyclable(path: Path, files: Files) -> bool:
    """Only in version 2.1 every block names its log, so that one of an earlier life is never taken for a new one."""
    try:
        with files.open(path) as file:
            header = Header.decode(file.pread(HEADER_SIZE, 0), path)
    except BlockReplicaError:
        return False
    return header.version == EXTENDED and header.file_type == CHANGE_LOG


def trim(names: Names, tracking_id: UUID, limit: int, files: Files) -> None:
    """Keep a relationship that stays away from filling the disk: while the sealed logs together are larger than
    `limit`, the oldest goes, and its bitmap stands in for it. The newest stays; so do all where nobody has a cursor.
    """
    logs = sorted((epoch, path) for epoch, path in names.artifacts(files) if path == names.log(epoch))
    sizes = [_log_size(path, files) for _, path in logs]
    total = sum(sizes)
    if total <= limit or not read_cursors(names, tracking_id, files):
        return
    for (epoch, path), size in zip(logs[:-1], sizes, strict=False):
        if total <= limit:
            return
        if files.exists(names.dirty(epoch)):
            files.unlink(path)
            total -= size


def trim_after(names: Names, cut: Cut, files: Files, *, limit: int | None = None) -> None:
    """Trim once a cut is made; the cut stands, whatever becomes of old logs."""
    with contextlib.suppress(BlockReplicaError):
        trim(names, cut.tracking_id, limit or max(cut.size // 2, MIB), files)


def _log_size(path: Path, files: Files) -> int:
    """Bytes of a sealed log; its file may be longer, as a spare was."""
    try:
        with files.open(path) as file:
            return Header.decode(file.pread(HEADER_SIZE, 0), path).end
    except BlockReplicaError:
        return _size(path, files)


def _size(path: Path, files: Files) -> int:
    try:
        with files.open(path) as file:
            return file.size()
    except NotFoundError:
        return 0


def _parse(names: Names, raw: bytes, tracking_id: UUID) -> _Known:
    if not raw:
        return _Known()
    try:
        content = json.loads(raw)
        version = content["version"]
        if version == VERSION:
            return _decoded(content, tracking_id)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrackingError.at(names.cursors, 0, "cursors", wanted="a JSON record", got=repr(error)) from None
    newer = isinstance(version, int) and version > VERSION
    kind, hint = (_NewerError, "a newer blockreplica wrote it: use that one") if newer else (TrackingError, "")
    raise kind.at(names.cursors, 0, "version", wanted=VERSION, got=version, hint=hint)


def _decoded(content: dict[str, Any], tracking_id: UUID) -> _Known:
    if content.get("sum", _sum(content)) != _sum(content):
        raise ValueError("sum")
    noted = content.get("consistent", {}).items()
    known = _Known(consistent={UUID(name): [ConsistentCut.from_json(each) for each in cuts] for name, cuts in noted})
    if UUID(content["tracking_id"]) == tracking_id:
        known.cursors = {UUID(name): int(epoch) for name, epoch in content["cursors"].items()}
        given = content.get("tokens", {}).items()
        known.tokens = {UUID(name): [str(each) for each in listed] for name, listed in given}
    return known


def _locked(names: Names, files: Files) -> File:
    """The cursors' file, locked. The one that the name means: it is replaced at every change."""
    for _ in range(_TRIES):
        file = files.open(names.cursors, write=True, create=True)
        if file.lock() and _is_current(file, names):
            return file
        file.close()
        time.sleep(_PAUSE_S)
    raise BusyError(f"{names.cursors}: another process holds it; try again")


def _is_current(file: File, names: Names) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(names.cursors))
    except FileNotFoundError:
        return False
