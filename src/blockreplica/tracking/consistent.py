"""Application-consistent cuts that have no point yet, as the primary side notes them: rule 8.

A sync that brought the guest to rest and then did not reach its end leaves the note of its cut. The next one makes the
cut's point first, from the sealed logs. A note that is lost costs that point, never the truth of another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from ..errors import NotFoundError
from ..files import Files
from .types import Cut

MOST = 64  # of a relationship; the oldest goes
LIMIT = 1 << 20


class ConsistentCut(msgspec.Struct, frozen=True):
    """A cut of all disks of a relationship, disk 0 first, made while `by` kept the guest at rest."""

    cuts: tuple[Cut, ...]
    by: str

    @property
    def time(self) -> float:
        """When it was, as its point will say."""
        return max(cut.time for cut in self.cuts)

    def is_state_of(self, cuts: Sequence[Cut | None]) -> bool:
        """Whether those cuts, perhaps of another instant, are of the same content."""
        return [_state(cut) for cut in self.cuts] == [_state(cut) for cut in cuts]

    def as_json(self) -> dict[str, Any]:
        """The reverse of `from_json`."""
        disks = [
            {
                "tracking_id": str(cut.tracking_id), "epoch": cut.epoch, "size": cut.size, "time": cut.time,
                "chain": str(cut.chain),
            }
            for cut in self.cuts
        ]  # fmt: skip
        return {"by": self.by, "disks": disks}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ConsistentCut:
        """Raises ValueError, KeyError or TypeError for anything else than a note."""
        cuts = [
            Cut(
                UUID(disk["tracking_id"]), int(disk["epoch"]), int(disk["size"]), float(disk["time"]),
                UUID(disk["chain"]),
            )
            for disk in content["disks"]
        ]  # fmt: skip
        if not cuts or any(cut.epoch < 0 or cut.size < 0 for cut in cuts):
            raise ValueError("disks")
        return cls(tuple(cuts), str(content["by"]))


def _state(cut: Cut | None) -> tuple[UUID, int, UUID] | None:
    return (cut.tracking_id, cut.epoch, cut.chain) if cut is not None else None


def with_cut(noted: Sequence[ConsistentCut], cut: ConsistentCut) -> list[ConsistentCut]:
    """`noted` and one more, unless the last is of the same content already."""
    if noted and noted[-1].is_state_of(cut.cuts):
        return list(noted)
    return [*noted, cut][-MOST:]


class NotesFile(msgspec.Struct, frozen=True):
    """Notes of disks that no file of ours stands beside: JSON, one relationship's, which only its syncs touch."""

    path: Path
    files: Files

    def read(self) -> list[ConsistentCut]:
        """None where there is no file, or a damaged one."""
        try:
            return [ConsistentCut.from_json(each) for each in json.loads(self.files.read(self.path, limit=LIMIT))]
        except (NotFoundError, ValueError, KeyError, TypeError):
            return []

    def change(self, change: Callable[[list[ConsistentCut]], list[ConsistentCut]]) -> None:
        """Durably; without notes there is no file."""
        before = self.read()
        after = change(before)
        if not after:
            self.files.unlink(self.path)
        elif after != before:
            self.files.make_folder(self.path.parent)
            self.files.write_durably(self.path, json.dumps([each.as_json() for each in after], indent=1).encode())
