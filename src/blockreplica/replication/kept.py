"""Application-consistent cuts that have no point yet: noted, sorted out, forgotten (rule 8).

A cut that the guest was at rest for is noted on the primary side before it travels. A sync that finds notes of earlier
ones makes their points first, oldest first. A note goes once its point stands, or once the replica is past its cut:
then it never can. Nothing else rests on notes: one that can't be written or read costs the point of its cut alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from ..errors import BlockReplicaError
from ..manifest import Cursor, PointRecord
from ..tracking import ConsistentCut, Cut, with_cut
from ..units import format_time
from .hooks import CONSISTENT
from .source import Group


class KeptCuts:
    """The notes of one relationship, while one sync lasts. `lost` says of which cuts there can be no point, and why."""

    def __init__(self, group: Group, last: PointRecord | None) -> None:
        """Read them before this sync cuts. `last`: the newest point."""
        self._group, self.lost = group, ""
        self._noted: list[ConsistentCut] = []
        with suppress(BlockReplicaError):
            self._noted = group.consistent_cuts()
        self._waiting = [cut for cut in self._noted if not _is_over(cut, last)]

    def waiting(self, mine: Sequence[Cut | None], kind: str) -> list[ConsistentCut]:
        """Those of earlier syncs that want a point of their own, oldest first; `mine` and `kind` are of this sync's
        cut, which may be of the same content, and then stands for them."""
        if kind != CONSISTENT:
            return list(self._waiting)
        return [cut for cut in self._waiting if not cut.is_state_of(mine)]

    def note(self, cuts: Sequence[Cut | None], by: str) -> str:
        """A cut was made that the guest was at rest for. What is not tracked on every disk is not kept by anything.
        Returns why it could not be noted, if so."""
        known = [msgspec.structs.replace(cut, token="") for cut in cuts if cut is not None]
        if len(known) < len(cuts):
            return ""
        mine = ConsistentCut(tuple(known), by)
        try:
            self._group.note_consistent(lambda noted: with_cut(noted, mine))
        except BlockReplicaError as error:
            return str(error)
        self._noted.append(mine)
        return ""

    def give_up(self, cuts: Sequence[ConsistentCut], why: str) -> None:
        """There will be no point of `cuts`."""
        times = ", ".join(format_time(cut.time) for cut in cuts)
        what = "cut" if len(cuts) == 1 else "cuts"
        self.lost = f"the application-consistent {what} of {times} could not be kept: {why}"

    def stands(self, cut: ConsistentCut) -> None:
        """Its point does: forget it. Where that fails, the next sync sees it by the point."""
        with suppress(BlockReplicaError):
            self._forget([cut])

    def done(self) -> None:
        """This sync's own point stands: all that was noted until then is behind it."""
        with suppress(BlockReplicaError):  # the next sync sees that the replica is past them
            self._forget(self._noted)

    def _forget(self, gone: Sequence[ConsistentCut]) -> None:
        gone = list(gone)
        if not gone:
            return
        self._group.note_consistent(lambda noted: [cut for cut in noted if cut not in gone])
        self._noted = [cut for cut in self._noted if cut not in gone]


def _is_over(cut: ConsistentCut, last: PointRecord | None) -> bool:
    """Whether the newest point is of the cut's content and kind, or the replica is past it."""
    if last is None or len(last.disks) != len(cut.cuts):
        return False
    pairs = [(disk.cursor, each) for disk, each in zip(last.disks, cut.cuts, strict=True) if disk.cursor is not None]
    if any(cursor.tracking_id == str(each.tracking_id) and cursor.epoch > each.epoch for cursor, each in pairs):
        return True
    return last.kind == CONSISTENT and len(pairs) == len(cut.cuts) and all(_is_at(*pair) for pair in pairs)


def _is_at(cursor: Cursor, cut: Cut) -> bool:
    return (cursor.tracking_id, cursor.epoch, cursor.chain) == (str(cut.tracking_id), cut.epoch, str(cut.chain))
