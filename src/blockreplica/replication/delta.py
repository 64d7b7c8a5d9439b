"""Applying a delta: coalesced log entries, read in batches, handed to the replica's disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extents import Extent
from ..progress import Progress
from ..stores.disk import DiskWriter
from .logs import WRITE
from .result import Tally
from .source import Delta

BATCH_BYTES = 2 << 20
Rows = NDArray[Any]


def apply_delta(delta: Delta, disk: DiskWriter, size: int, tally: Tally, progress: Progress) -> None:
    """Bring a delta into the disk, which has `size` bytes already."""
    for rows in delta.coalesced(size):
        for offset, length in rows[rows["operation"] != WRITE][["offset", "length"]].tolist():
            tally.add(dirty=length, sent=disk.zero(Extent(offset, length)))
            progress.advance(length)
        for extents, buffer in _read_ahead(delta, data_batches(rows[rows["operation"] == WRITE])):
            length = int(extents["length"].sum())
            tally.add(dirty=length, sent=disk.write(extents, memoryview(buffer)))
            progress.advance(length)


def _read_ahead(delta: Delta, batches: Iterable[Rows]) -> Iterator[tuple[Rows, bytearray]]:
    """EXTENT rows of each batch, and the buffer with its data, while the next is being read into another one."""
    buffers = deque(bytearray(BATCH_BYTES) for _ in range(2))
    ahead: tuple[Future[Rows], bytearray] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        for batch in batches:
            buffers.rotate()
            coming = reader.submit(delta.read, batch, buffers[0]), buffers[0]
            if ahead is not None:
                yield ahead[0].result(), ahead[1]
            ahead = coming
        if ahead is not None:
            yield ahead[0].result(), ahead[1]


def data_batches(rows: Rows, limit: int = BATCH_BYTES) -> Iterator[Rows]:
    """Write entries in runs of at most `limit` bytes of data; longer entries are cut."""
    if len(rows) and int(rows["length"].max()) > limit:
        rows = _cut(rows, limit)
    ends = np.cumsum(rows["length"].astype(np.int64))
    start = 0
    while start < len(rows):
        base = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, base + limit, side="right"))
        yield rows[start:stop]
        start = stop


def _cut(rows: Rows, limit: int) -> Rows:
    pieces = []
    for row in rows:
        for at in range(0, int(row["length"]), limit):
            piece = row.copy()
            piece["offset"] += at
            if "source" in (rows.dtype.names or ()):
                piece["source"] += at
            piece["length"] = min(limit, int(row["length"]) - at)
            pieces.append(piece)
    return np.array(pieces, rows.dtype)
