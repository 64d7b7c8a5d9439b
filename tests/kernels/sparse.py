"""Sparse files for the file kernels' tests, and what they hold as plain bytes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xxhash import xxh3_128_digest

SIZE = 3 << 20
PAGE = 4096


def make_image(path: Path, seed: int, size: int = SIZE) -> bytes:
    """A file of holes, written zeros and noise, in runs that now and then end inside a page; returns its bytes."""
    randomness = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(size)
        at = 0
        while at < size:
            length = min(randomness.choice([1, 700, PAGE, 3 * PAGE, 100_000, 400_000]), size - at)
            if randomness.random() < 0.3:
                length = -(-length // PAGE) * PAGE
            kind = randomness.choice(["hole", "zeros", "noise", "noise"])
            if kind != "hole":
                file.seek(at)
                file.write(bytes(min(length, size - at)) if kind == "zeros" else randomness.randbytes(length))
            at += length
        file.truncate(size)
    return path.read_bytes()


def table_of(data: bytes, block_size: int, seed: int) -> bytes:
    """The checksum table of `data`."""
    blocks = [data[at : at + block_size] for at in range(0, len(data), block_size)]
    return b"".join(xxh3_128_digest(block, seed) if any(block) else bytes(16) for block in blocks)


def data_bytes(fd: int, start: int, end: int) -> int:
    """Bytes in [start, end) that the file system does not hold as holes."""
    total = 0
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:
            break
        hole = os.lseek(fd, start, os.SEEK_HOLE)
        total += max(min(hole, end) - start, 0)
        start = hole
    return total


@contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    """Descriptors of files, for reading and writing."""
    fds = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC) for path in paths]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)
