"""Carries the data of a log's entries in windows of bounded size, however long an entry claims to be."""

from __future__ import annotations

from collections.abc import Iterator

from ..arrays import Array, np
from ..errors import LogError
from ..files import File
from .format import WRITE

#: Bytes of data that are held at once.
WINDOW = 8 << 20


def data_lengths(rows: Array) -> Array:
    """How many bytes stand in the log for each row of ENTRY."""
    return np.where(rows["operation"] == WRITE, rows["length"], 0).astype("<u8")


def windows(rows: Array, most: int = WINDOW) -> Iterator[tuple[Array, slice]]:
    """Rows of ENTRY in groups with at most `most` bytes of data, and which of `rows` each group is.

    A row that has more comes in pieces, each a group of its own.
    """
    ends = np.cumsum(data_lengths(rows))
    start = 0
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, "right")))
        if int(ends[start]) - before <= most:
            yield rows[start:stop], slice(start, stop)
        else:
            yield from ((piece, slice(start, stop)) for piece in _pieces(rows[start:stop], most))
        start = stop


def _pieces(row: Array, most: int) -> Iterator[Array]:
    """One write in pieces of `most` bytes."""
    for begin in range(0, int(row["length"][0]), most):
        piece = row.copy()
        piece["offset"] += np.uint64(begin)
        piece["source"] += np.uint64(begin)
        piece["length"] = min(most, int(row["length"][0]) - begin)
        yield piece


def extents(places: Array, rows: Array) -> Array:
    """Rows of `kernels.EXTENTS`: the data of write rows one behind the other in a buffer, and at `places` in a file."""
    lengths = data_lengths(rows)
    return np.column_stack([places, lengths, np.cumsum(lengths) - lengths]).astype("<u8")


def read_data(log: File, rows: Array) -> bytearray:
    """The data of write rows, one behind the other, from the log; LogError when the log has been cut meanwhile."""
    buffer = bytearray(int(data_lengths(rows).sum()))
    log.read_extents(extents(rows["source"], rows).data, buffer)
    needed, size = int((rows["source"] + rows["length"]).max(initial=0)), log.size()
    if size < needed:
        raise LogError.at(log.path, size, "log cut short while it was read", wanted=needed, got=size)
    return buffer
