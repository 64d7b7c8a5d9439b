"""Makes the images that are compared: sparse, seeded, and put into a differing state at will.

Two traps decide what a measurement is worth. A file written in large pieces sits in large folios of the page
cache, where small overwrites are slow: so all files are dropped from the cache and read again before anything
is timed. And memory that a virtual machine touches for the first time costs ten times as much: so a large
file is written and deleted first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 64 << 10
PIECE = 4 << 10


@dataclass(slots=True)
class Image:
    """A sparse file whose `spots` (offsets of 4 KiB pieces) hold version 0 or 1 of their content."""

    path: Path
    size: int
    spots: list[int]
    contents: tuple[bytes, bytes]
    version: int = 0

    def toggle(self) -> None:
        """Write the other version of every spot."""
        self.version ^= 1
        with self.path.open("r+b", buffering=0) as file:
            for index, offset in enumerate(self.spots):
                start = index * PIECE
                os.pwrite(file.fileno(), self.contents[self.version][start : start + PIECE], offset)
            os.fsync(file.fileno())


def make(path: Path, size: int, *, holes: float, changed: float, seed: int) -> Image:
    """An image of `size` bytes, with `holes` as the share of holes and `changed` that of blocks with a spot.

    Data and holes alternate in pieces of 64 KiB to 8 MiB; the spots lie in data.
    """
    random = np.random.default_rng(seed)
    allocated: list[int] = []
    with path.open("wb", buffering=0) as file:
        file.truncate(size)
        offset, debt = 0, 0.0
        while offset < size:
            length = min(int(random.integers(1, 128)) * BLOCK, size - offset)
            if debt < 0:
                debt += length * (1 - holes)
            else:
                debt -= length * holes
                file.seek(offset)
                file.write(random.bytes(length))
                allocated.extend(range(offset, offset + length, BLOCK))
            offset += length
        os.fsync(file.fileno())
    count = max(1, int(size // BLOCK * changed))
    blocks = random.choice(allocated, size=count, replace=False)
    spots = sorted(int(block) + int(random.integers(0, BLOCK // PIECE)) * PIECE for block in blocks)
    image = Image(path, size, spots, (random.bytes(count * PIECE), random.bytes(count * PIECE)), version=1)
    image.toggle()
    return image


def warm_memory(folder: Path, size: int) -> None:
    """Touch memory once: write a file of `size` bytes and delete it."""
    path = folder / "warm-up"
    piece = bytes(1 << 20)
    with path.open("wb", buffering=0) as file:
        for _ in range(size >> 20):
            file.write(piece)
    path.unlink()


def warm_cache(paths: list[Path]) -> bool:
    """Drop the page cache, and read the files again, so that all sit in it alike; False if not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
        dropped = True
    except OSError:
        dropped = False
    for path in paths:
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(1 << 20)
            while file.readinto(buffer):
                pass
    return dropped


def same(first: Path, second: Path) -> bool:
    """Whether two files have the same bytes."""
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb") as one, second.open("rb") as other:
        while piece := one.read(4 << 20):
            if not np.array_equal(np.frombuffer(piece, np.uint8), np.frombuffer(other.read(4 << 20), np.uint8)):
                return False
    return True
