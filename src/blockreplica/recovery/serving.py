"""Which points this host is serving, as its list of processes tells.

No file is kept of it, so none can be wrong: a server that was killed is in no list any more, one that outlived whoever
began it still is. `serve.py` gives every server the words that are looked for here. How far a pivot is stands in the
file beside its image.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import msgspec

from ..errors import BlockReplicaError
from ..nbdkit import Place
from .pivot import read_pivot

PLUGIN_NAME = "_nbdpoint.so"
_PROCESSES = Path("/proc")


class Becoming(msgspec.Struct, frozen=True):
    """A pivot: the image at `to` has `owned` of `size` bytes, `damaged` are those that the point can't give. `state` is
    new, copying, waiting (for what `error` says), damaged or complete; unknown, and numbers are None, when what stands
    beside the image can't be read."""

    to: Path
    state: str
    owned: int | None
    size: int | None
    damaged: int | None
    error: str


class Served(msgspec.Struct, frozen=True):
    """A disk of a point that process `pid` serves at `uri`."""

    point: str
    disk: int
    uri: str
    pid: int
    writable: bool
    pivot: Becoming | None = None


def label(relationship: str, disk: int, point_id: str) -> str:
    """The word by which a server is found again."""
    return f"serves={UUID(relationship).hex}/{disk}/{point_id}"


def served_points(relationship: UUID) -> list[Served]:
    """What is being served of a relationship's points by processes of this host that we may see, oldest first."""
    found = [_served(pid, words, relationship.hex) for pid, words in _servers()]
    return [served for served in found if served is not None]


def _servers() -> list[tuple[int, list[str]]]:
    """The processes that run our plugin, and their words."""
    found = []
    for pid in sorted(int(name) for name in os.listdir(_PROCESSES) if name.isdigit()):
        try:
            line = (_PROCESSES / str(pid) / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is not ours to see
            continue
        if os.fsencode(PLUGIN_NAME) in line:
            words = [os.fsdecode(word) for word in line.split(b"\0")[:-1]]
            if any(Path(word).name == PLUGIN_NAME for word in words):
                found.append((pid, words))
    return found


def _served(pid: int, words: list[str], relationship: str) -> Served | None:
    given = dict(word.split("=", 1) for word in words if "=" in word)
    owner, _, place = given.get("serves", "").partition("/")
    disk, _, point = place.partition("/")
    if owner != relationship or not disk.isdigit():
        return None
    options = dict(pairwise(words))
    socket, port = options.get("-U"), options.get("-p", "")
    where = Place(Path(socket) if socket else None, options.get("-i", ""), int(port) if port.isdigit() else 0)
    image = Path(given["pivot"]) if "pivot" in given else None
    writable = image is not None or "--filter=cow" in words
    return Served(point, int(disk), where.uri, pid, writable, _becoming(image) if image is not None else None)


def _becoming(image: Path) -> Becoming:
    try:
        now = read_pivot(image)
    except BlockReplicaError as error:
        return Becoming(image, "unknown", None, None, None, str(error))
    return Becoming(image, now.state, now.owned, now.size, now.damaged, now.error)
