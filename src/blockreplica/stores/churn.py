"""How much a movement changes, and how well that packs.

A disk that somebody encrypts changes far more than it did, into what does not pack any more. Both together, held
against the points before, mark a point; either alone is everyday life.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays import Array, np
from ..manifest import Churn, PointRecord
from ..units import format_size

HISTORY = 16  # points that are looked at
FEWEST = 4  # before there are so many, nothing is unusual
LEAST_BYTES = 16 << 20
MORE = 4.0  # times the usual amount
NOISE = 0.8  # packed size over size, of what is encrypted or packed already
WORSE = 0.25
GRANULES_A_BATCH = 8


class Sampler:
    """Counts what a disk's writer changes, and packs a little of each batch (zstandard, level 1)."""

    def __init__(self) -> None:
        self.changed = self.sampled = self.packed = 0
        self._compressor: Any = None

    def add(self, new: Array) -> None:
        """A batch's changed granules, (n, 4096)."""
        if not len(new):
            return
        if self._compressor is None:
            from zstandard import ZstdCompressor  # not before it is needed: it takes 10 ms to load

            self._compressor = ZstdCompressor(level=1)
        some = new[:: -(-len(new) // GRANULES_A_BATCH)].tobytes()
        self.changed += new.nbytes
        self.sampled += len(some)
        self.packed += len(self._compressor.compress(some))


def total(samplers: Sequence[Sampler]) -> Churn:
    """What all disks changed."""
    return Churn(
        changed=sum(one.changed for one in samplers),
        sampled=sum(one.sampled for one in samplers),
        packed=sum(one.packed for one in samplers),
    )


def is_much(churn: Churn) -> bool:
    """Whether it may be unusual at all: else nobody needs to read what the points before say."""
    return churn.changed >= LEAST_BYTES and churn.sampled > 0


def unusual(churn: Churn, history: Sequence[PointRecord]) -> tuple[str, str]:
    """Why this is not like the points before (oldest first), and the last point from before it began; or nothing."""
    usual = [point for point in history if point.churn is not None and not point.unusual][-HISTORY:]
    if len(usual) < FEWEST or not is_much(churn):
        return "", ""
    amounts = [point.churn.changed for point in usual if point.churn is not None]
    ratios = [one.packed / one.sampled for one in (point.churn for point in usual) if one is not None and one.sampled]
    amount, ratio = float(np.median(amounts)), float(np.median(ratios)) if ratios else 0.0
    now = churn.packed / churn.sampled
    if churn.changed < MORE * amount or now < NOISE or now < ratio + WORSE:
        return "", ""
    why = (
        f"it changed {format_size(churn.changed)} where {format_size(int(amount))} are usual, "
        f"into data that packs to {now:.0%} where {ratio:.0%} is usual"
    )
    return why, history[-1].calm if history[-1].unusual else history[-1].id
