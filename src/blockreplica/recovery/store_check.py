"""Checking a whole store by its folder alone: for when the host that replicated into it, and its catalog, are gone."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..errors import BlockReplicaError, NewerError
from ..files import FILES, Files
from ..progress import SILENT, Progress
from ..stores import DirectoryStore, Replica
from ..stores.layout import STORE_MARK
from .verify import EVERYTHING, Damage, Scope, VerifyReport, verify

_REPLICA = {"replica", "state", "marks", "blockreplica-store"}
_PLAIN = {"INCOMPLETE", "lock", "points", "pruning"}


class ReplicaCheck(msgspec.Struct):
    """One replica: what verify found, whether `disk.img` alone may be copied, and files that nobody knows.

    `newer` says what of it is of a newer format; then nothing else of it was looked at, and nothing was found wrong.
    """

    name: str
    copyable: bool = False
    report: VerifyReport = msgspec.field(default_factory=VerifyReport)
    unknown: list[str] = msgspec.field(default_factory=list)
    newer: str = ""


def check_store(
    folder: Path, scope: Scope = EVERYTHING, *, progress: Progress = SILENT, files: Files = FILES
) -> list[ReplicaCheck]:
    """Check every replica in a store; RefusedError when the folder is not one, NewerError when it is a newer one."""
    store = DirectoryStore(folder, files=files)
    found = []
    for name in files.names(folder):
        if not (folder / name).is_dir() or name == "lost+found":
            continue
        one = ReplicaCheck(name)
        try:
            replica = store.replica(name)
            one.copyable, one.unknown = not replica.incomplete, _unknown(replica, files)
            one.report = verify(replica, scope, progress=progress, files=files)
            one.copyable = one.copyable and not _hurt(replica, one.report, files)
        except NewerError as error:
            one = ReplicaCheck(name, newer=str(error))
        except BlockReplicaError as error:
            one.copyable = False
            one.report.damage.append(Damage(None, None, 0, str(error), []))
        found.append(one)
    return found


def _hurt(replica: Replica, report: VerifyReport, files: Files) -> bool:
    """Whether a `disk.img` was found to be something else than the newest point."""
    points = replica.points()
    if not points or any(points[-1].id in damage.points for damage in report.damage):
        return True
    for disk in points[-1].disks:
        with files.open(replica.layout.disk(disk.index).image) as image:
            if image.size() != disk.size:
                return True
    return False


def _unknown(replica: Replica, files: Files) -> list[str]:
    """What stands in the replica's folder and belongs to no store of this version."""
    disks = {f"disk{disk.index}" for disk in replica.record.disks}
    known = {f"{name}{tail}" for name in _REPLICA for tail in ("", ".copy")} - {STORE_MARK, f"{STORE_MARK}.copy"}
    known |= _PLAIN | disks
    strange = [name for name in files.names(replica.layout.folder) if name.removesuffix(".new") not in known]
    for disk in sorted(disks):
        inside = files.names(replica.layout.folder / disk)
        strange += [
            f"{disk}/{name}" for name in inside if name not in ("disk.img", "undo") and not name.startswith("checksums")
        ]
    return strange
