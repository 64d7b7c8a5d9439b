"""Which dirty bitmaps a disk of QEMU has for a relationship, and what can be believed of them.

A bitmap records from one cut on, and its name says which: `blockreplica-<relationship>-<epoch>-<chain>`. A cut
disables it and starts the next, in one transaction. So the bitmaps are a trail, oldest first, as sealed logs are:

    5 (disabled)   6 (disabled)   7 (recording)        what changed since cut 5 is in 5, 6 and 7 together

After an acknowledged sync one is left, the recording one. A sync that died leaves the one that it had frozen too: its
changes are not lost, and are read again by the next. To keep the trail short, what is younger than the two oldest is
then merged back into the second, which records again: those two are where a replica may stand (its newest point, and
the movement that was interrupted).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from uuid import UUID

KEPT = 2


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap of ours. `count` bytes are marked."""

    name: str
    epoch: int
    chain: UUID
    recording: bool
    inconsistent: bool
    count: int


def bitmap_name(relationship: UUID, epoch: int, chain: UUID) -> str:
    """The name of the bitmap that records from a cut on."""
    return f"blockreplica-{relationship.hex}-{epoch}-{chain.hex}"


def ours(node: dict[str, Any], relationship: UUID) -> list[Bitmap]:
    """A relationship's bitmaps of a node as `query-named-block-nodes` shows it, oldest first."""
    pattern = re.compile(rf"blockreplica-{relationship.hex}-(\d{{1,18}})-([0-9a-f]{{32}})")
    found = []
    for each in node.get("dirty-bitmaps", []):
        match = pattern.fullmatch(each.get("name", ""))
        if match:
            found.append(
                Bitmap(
                    each["name"], int(match[1]), UUID(hex=match[2]), each["recording"],
                    each.get("inconsistent", False), each["count"],
                )
            )  # fmt: skip
    return sorted(found, key=lambda bitmap: bitmap.epoch)


def fault(trail: Sequence[Bitmap]) -> str:
    """Why a trail can't be believed; empty when it can."""
    if any(bitmap.inconsistent for bitmap in trail):
        return "has an inconsistent dirty bitmap: QEMU did not end cleanly"
    for before, after in pairwise(trail):
        if after.epoch != before.epoch + 1 or before.recording:
            return "has dirty bitmaps that do not follow one another: somebody removed or changed one"
    if trail and not trail[-1].recording:
        return "has a dirty bitmap that somebody disabled"
    return ""


def folding(node: str, trail: Sequence[Bitmap]) -> list[dict[str, Any]]:
    """Actions of a transaction that merges the young bitmaps of a trail back; none where it is short."""
    if len(trail) <= KEPT:
        return []
    target, young = trail[KEPT - 1], [bitmap.name for bitmap in trail[KEPT:]]
    return [
        action("block-dirty-bitmap-enable", node=node, name=target.name),
        action("block-dirty-bitmap-merge", node=node, target=target.name, bitmaps=young),
        *(action("block-dirty-bitmap-remove", node=node, name=name) for name in young),
    ]


def rotation(node: str, trail: Sequence[Bitmap], name: str, *, persistent: bool) -> list[dict[str, Any]]:
    """Actions of a transaction that ends the trail's last bitmap and starts the one called `name`."""
    actions = [action("block-dirty-bitmap-add", node=node, name=name, persistent=persistent)]
    if trail:
        actions.append(action("block-dirty-bitmap-disable", node=node, name=trail[-1].name))
    return actions


def action(kind: str, **data: Any) -> dict[str, Any]:
    """An action of a transaction."""
    return {"type": kind, "data": {key.replace("_", "-"): value for key, value in data.items()}}
