"""What a sync did, in figures and words."""

from __future__ import annotations

import msgspec


class Tally(msgspec.Struct):
    """Counts of a movement under way, in bytes."""

    scanned: int = 0
    dirty: int = 0
    sent: int = 0

    def add(self, *, scanned: int = 0, dirty: int = 0, sent: int = 0) -> None:
        """Count more."""
        self.scanned += scanned
        self.dirty += dirty
        self.sent += sent


class SyncResult(msgspec.Struct, frozen=True):
    """One sync. `action` is initial, delta, resync, partial-resync or scan.

    `bytes_scanned` of images were read to find differences; `bytes_dirty` remained after coalescing; of those
    `bytes_sent` went to the store and `bytes_skipped` were there already. `points` are all that it made, oldest first:
    before the last, which is `point`, those of earlier application-consistent cuts that had none yet.
    """

    action: str
    reason: str
    point: str
    kind: str
    bytes_scanned: int
    bytes_dirty: int
    bytes_sent: int
    bytes_skipped: int
    seconds: float
    warnings: list[str] = msgspec.field(default_factory=list)
    points: list[str] = msgspec.field(default_factory=list)
