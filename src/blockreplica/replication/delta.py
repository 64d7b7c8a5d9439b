"""Applying a delta: coalesced log entries, read in batches, handed to the replica's disk."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import cycle

from ..ahead import ahead
from ..arrays import Rows, np
from ..extents import Extent
from ..progress import Progress
from ..stores.disk import DiskWriter
from .logs import WRITE
from .result import Tally
from .source import Delta

BATCH_BYTES = 2 << 20


def apply_delta(delta: Delta, disk: DiskWriter, size: int, tally: Tally, progress: Progress) -> None:
    """Bring a delta into the disk, which has `size` bytes already."""
    for rows in delta.coalesced(size):
        for offset, length in rows[rows["operation"] != WRITE][["offset", "length"]].tolist():
            tally.add(dirty=length, sent=disk.zero(Extent(offset, length)))
            progress.advance(length)
        batches = data_batches(rows[rows["operation"] == WRITE], unit=disk.block_size)
        with closing(_read_ahead(delta, batches)) as read:
            for extents, buffer in read:
                length = int(extents["length"].sum())
                tally.add(dirty=length, sent=disk.write(extents, memoryview(buffer)))
                progress.advance(length)


def _read_ahead(delta: Delta, batches: Iterable[Rows]) -> Generator[tuple[Rows, bytearray]]:
    """EXTENT rows of each batch, and the buffer with its data, while the next is being read into another one."""
    buffers = cycle([bytearray(BATCH_BYTES), bytearray(BATCH_BYTES)])

    def read(batch: Rows, buffer: bytearray) -> tuple[Rows, bytearray]:
        return delta.read(batch, buffer), buffer

    return ahead(partial(read, batch, buffer) for batch, buffer in zip(batches, buffers, strict=False))


def data_batches(rows: Rows, limit: int = BATCH_BYTES, *, unit: int = 1) -> Iterator[Rows]:
    """Write entries in runs of at most `limit` bytes of data; longer entries are cut.

    Two runs share no block of `unit` bytes if that can be had: a replica's disk gathers changes of many blocks and
    makes them durable at once, but has to finish with a block before it takes more of it.
    """
    if len(rows) and int(rows["length"].max()) > limit:
        rows = _cut(rows, limit, unit)
    ends = np.cumsum(rows["length"].astype(np.int64))
    last = (rows["offset"] + rows["length"] - 1) // unit
    breaks = np.flatnonzero(rows["offset"][1:] // unit > last[:-1]) + 1
    start = 0
    while start < len(rows):
        base = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, base + limit, side="right"))
        if stop < len(rows):
            at = int(np.searchsorted(breaks, stop, side="right")) - 1
            stop = int(breaks[at]) if at >= 0 and breaks[at] > start else stop
        yield rows[start:stop]
        start = stop


def _cut(rows: Rows, limit: int, unit: int) -> Rows:
    pieces = []
    for row in rows:
        at, end = 0, int(row["length"])
        while at < end:
            stop = at + limit
            edge = (int(row["offset"]) + stop) // unit * unit - int(row["offset"])
            stop = min(end, edge if edge > at else stop)
            piece = row.copy()
            piece["offset"] += at
            if "source" in (rows.dtype.names or ()):
                piece["source"] += at
            piece["length"] = stop - at
            pieces.append(piece)
            at = stop
    return np.array(pieces, rows.dtype)
