"""Stores so small that every bit of theirs can be flipped, and what their points hold."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from blockreplica.manifest import MarksRecord
from crash.recording import Unsynced
from stores.model import RECORD, move, new_replica, open_replica, put

BLOCK = 4096
SIZE = 2 * BLOCK + 700
FILES = Unsynced()
Writes = list[tuple[int, bytes]]


def _begun(folder: Path, rng: random.Random) -> bytes:
    """One point: two blocks of data, a short one of zeros."""
    replica = new_replica(folder, record=msgspec.structs.replace(RECORD, block_size=BLOCK), files=FILES)
    writes = [(0, rng.randbytes(2 * BLOCK))]
    move(replica, SIZE, writes)
    return written(bytes(SIZE), writes)


def written(content: bytes, writes: Writes) -> bytes:
    """The content after some writes."""
    model = bytearray(content)
    for offset, data in writes:
        model[offset : offset + len(data)] = data
    return bytes(model)


def _moved(folder: Path, content: bytes, writes: Writes) -> bytes:
    """One more point."""
    move(open_replica(folder, files=FILES), SIZE, writes)
    return written(content, writes)


def grown_old(folder: Path, seed: int) -> dict[str, bytes]:
    """All that a replica gathers: a point taken out and its undo log merged, a pin, blocks of another size from point
    1.4 on (whose undo log goes on from one size to the other), and of a third one behind it."""
    rng = random.Random(seed)
    first = _begun(folder, rng)
    replica = open_replica(folder, files=FILES)
    second = _moved(folder, first, [(1000, rng.randbytes(90)), (2 * BLOCK + 5, rng.randbytes(300))])
    third = _moved(folder, second, [(3000, b"third")])
    with replica.locked():
        replica.remove_points([2])
        replica.mark(MarksRecord(pinned=[1]))
        replica.change_block_size(2 * BLOCK)
    fourth = _moved(folder, third, [(5000, b"fourth" * 20)])
    with replica.locked():
        replica.change_block_size(4 * BLOCK)
    return {"1.1": first, "1.3": third, "1.4": fourth}


def next_writes(seed: int) -> Writes:
    """What the movement that `interrupted` leaves was to bring."""
    rng = random.Random(seed + 1)
    return [(BLOCK + 100, rng.randbytes(50)), (2 * BLOCK + 600, b"end")]


def interrupted(folder: Path, seed: int) -> dict[str, bytes]:
    """Two points, and a movement that ended in the middle: a growing undo index, blocks half new, half old."""
    first = _begun(folder, random.Random(seed))
    second = _moved(folder, first, [(3000, b"second" * 30)])
    replica = open_replica(folder, files=FILES)
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        put(session, next_writes(seed))
        session.disks[0].flush()
        session.close()
    return {"1.1": first, "1.2": second}
