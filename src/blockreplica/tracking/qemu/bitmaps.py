"""Which dirty bitmaps a disk of QEMU has for a relationship, and what can be believed of them.

A bitmap records from one cut on, and its name says which: `blockreplica-<relationship>-<epoch>-<chain>`. A cut
disables it and starts the next, in one transaction. So the bitmaps are a trail, oldest first, as sealed logs are:

    5 (disabled)   6 (disabled)   7 (recording)        what changed since cut 5 is in 5, 6 and 7 together

After an acknowledged sync one is left, the recording one. A sync that died leaves the one that it had frozen too: its
changes are not lost. Before the next cut the trail is folded: those bitmaps stay where the replica may stand (its
newest point, and where a movement began that was interrupted), each with all that follows it merged back into it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec


class Bitmap(msgspec.Struct, frozen=True):
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
    if any(bitmap.recording for bitmap in trail[:-1]):
        return "has dirty bitmaps that do not follow one another: somebody changed one"
    if trail and not trail[-1].recording:
        return "has a dirty bitmap that somebody disabled"
    return ""


def folding(node: str, trail: Sequence[Bitmap], known: Collection[str]) -> list[dict[str, Any]]:
    """Actions of a transaction after which the trail has bitmaps of the cuts in `known` (chains) only."""
    kept = [at for at, bitmap in enumerate(trail) if str(bitmap.chain) in known]
    gone = [
        action("block-dirty-bitmap-remove", node=node, name=each.name) for each in trail[: kept[0] if kept else None]
    ]
    for start, end in pairwise([*kept, len(trail)]):
        target, young = trail[start], trail[start + 1 : end]
        if not young:
            continue
        if end == len(trail):
            gone.append(action("block-dirty-bitmap-enable", node=node, name=target.name))
        names = [each.name for each in young]
        gone.append(action("block-dirty-bitmap-merge", node=node, target=target.name, bitmaps=names))
        gone += [action("block-dirty-bitmap-remove", node=node, name=name) for name in names]
    return gone


def rotation(node: str, trail: Sequence[Bitmap], name: str, *, persistent: bool) -> list[dict[str, Any]]:
    """Actions of a transaction that ends the trail's last bitmap and starts the one called `name`."""
    actions = [action("block-dirty-bitmap-add", node=node, name=name, persistent=persistent)]
    if trail:
        actions.append(action("block-dirty-bitmap-disable", node=node, name=trail[-1].name))
    return actions


def action(kind: str, **data: Any) -> dict[str, Any]:
    """An action of a transaction."""
    return {"type": kind, "data": {key.replace("_", "-"): value for key, value in data.items()}}
