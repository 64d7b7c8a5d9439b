"""Several undo logs, one behind the other, as one: what is left to do when the points between them are pruned.

Rule 16: of a granule, and of a block's checksum, the oldest log's word counts. Nothing is written in place (rule 15): a
new log and a new index are made beside the old ones, in windows of the disk (rule 18), at a cost that grows with the
logs alone. Each source is read whole and checked first: damage must not get new checksums that call it right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

from .. import kernels
from ..arrays import Rows, np
from ..errors import DamageError
from ..files import File, Files
from ..hrl import ENTRY, LogReader, LogWriter
from .undo import UNDO_FILE_TYPE
from .undo_index import CHECKSUM, DATA, HEADER, OPEN, ROW, ZEROS, UndoIndex, header, key_of, sealed_rows

ROWS_A_WINDOW = 1 << 16
BATCH_BYTES = 4 << 20
OPEN_LOGS = 64
WRITE, ZERO = 1, 2


def merge(indexes: Sequence[UndoIndex], log: Path, target: Path, *, files: Files) -> None:
    """Write the log of all `indexes` (oldest first) to `log`, and its index to `target`; durable, names included.

    Checksums come from logs of the first one's era alone: behind it blocks have another size, and the points that the
    merged log leads to, all of that era or older, are proved by that era's table from there on.
    """
    for index in indexes:
        _check(index, files)
    files.unlink(log)
    log_id = uuid4()
    with ExitStack() as stack:
        out = stack.enter_context(files.open(target, write=True, create=True))
        out.truncate(0)
        writer = LogWriter.create(log, unique_id=log_id, previous_id=UUID(int=0), file_type=UNDO_FILE_TYPE, files=files)
        stack.callback(writer.abandon)
        merger = _Merger(indexes, writer, out, key_of(log_id), stack, files)
        extents = merger.extents()
        checksums = merger.checksums([index for index in indexes if index.era == indexes[0].era])
        writer.close()
        out.pwrite(header(log_id, extents, checksums, last=indexes[-1].last, era=indexes[0].era), 0)
        out.sync()
    files.sync_folder(log.parent)


def _check(index: UndoIndex, files: Files) -> None:
    """DamageError or LogError unless all that `index` names is in its log, and right."""
    if index.growing:
        raise DamageError(f"{index.path}: is not finished; nothing is merged with it")
    if not index.extent_count:
        return
    with LogReader.open(index.log_path, files=files) as log:
        if log.header.unique_id != index.log_id:
            raise DamageError(f"{index.log_path}: is not the log of {index.path.name}")
        log.check()
        for window in _windows([index], 0):
            rows = index.extents(*window)
            data = rows[rows["kind"] == DATA]
            if int((data["log_offset"] + data["length"]).max(initial=0)) > log.end:
                raise DamageError(f"{index.path}: names before-images behind the end of the log")


def _windows(indexes: Sequence[UndoIndex], sort: int) -> Iterator[tuple[int, int]]:
    """Ranges of the rows' first field, so that all indexes together have about ROWS_A_WINDOW rows in each."""
    start, step = 0, max(16, ROWS_A_WINDOW // max(1, len(indexes)))
    while start < OPEN and indexes:
        end = min(index.reach(sort, start, step) for index in indexes)
        yield start, end
        start = end


class _Merger:
    def __init__(
        self, indexes: Sequence[UndoIndex], writer: LogWriter, out: File, key: int, stack: ExitStack, files: Files
    ) -> None:
        self._indexes, self._writer, self._out, self._key, self._files = indexes, writer, out, key, files
        self._logs: dict[int, File] = {}
        self._rows = 0
        stack.callback(self._close)

    def extents(self) -> int:
        """Write all before-images; returns how many rows the index has of them."""
        for start, end in _windows(self._indexes, 0):
            found = [_entries(index.extents(start, end), number, start, end)
                     for number, index in reversed([*enumerate(self._indexes)])]  # fmt: skip
            entries = np.concatenate(found)  # the last one wins
            out = np.zeros(2 * len(entries) + 1, ENTRY)
            count = kernels.coalesce(np.ascontiguousarray(entries), out)
            for batch in _batches(out[:count]):
                self._append(self._moved(batch))
        return self._rows

    def checksums(self, indexes: Sequence[UndoIndex]) -> int:
        """Write all checksum rows; returns how many."""
        before = self._rows
        for start, end in _windows(indexes, 1):
            rows = np.concatenate([np.zeros(0, CHECKSUM), *(index.checksums(start, end) for index in indexes)])
            rows = rows[np.argsort(rows["block"], kind="stable")]  # of each block the oldest log's comes first
            first = np.ones(len(rows), np.bool_)
            first[1:] = rows["block"][1:] != rows["block"][:-1]
            self._append(rows[first].view(ROW))
        return self._rows - before

    def _moved(self, entries: Rows) -> Rows:
        """Copy a batch's data into the new log; the rows for its index."""
        write = entries["operation"] == WRITE
        moved, lengths = entries[write].copy(), entries["length"][write].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        buffer = bytearray(int(lengths.sum()))
        for number in sorted(set(moved["log"].tolist())):
            mine = moved["log"] == number
            extents = np.column_stack([moved["source"][mine], lengths[mine], starts[mine]]).astype("<u8")
            self._log(number).read_extents(np.ascontiguousarray(extents).data, buffer)
        moved["source"], moved["log"] = starts, 0
        rows = np.zeros(len(entries), ROW)
        rows["offset"], rows["length"], rows["kind"] = (
            entries["offset"],
            entries["length"],
            np.where(write, DATA, ZEROS),
        )
        rows["log_offset"][write] = self._writer.append_many(moved, buffer)
        for offset, length in entries[~write][["offset", "length"]].tolist():
            self._writer.append_zero(offset, length)
        return rows

    def _append(self, rows: Rows) -> None:
        if len(rows):
            self._out.pwrite(sealed_rows(rows, self._key).tobytes(), HEADER.size + 32 * self._rows)
            self._rows += len(rows)

    def _log(self, number: int) -> File:
        log = self._logs.get(number)
        if log is None:
            if len(self._logs) >= OPEN_LOGS:
                self._logs.pop(next(iter(self._logs))).close()
            log = self._logs[number] = self._files.open(self._indexes[number].log_path)
        return log

    def _close(self) -> None:
        for log in self._logs.values():
            log.close()


def _entries(rows: Rows, number: int, start: int, end: int) -> Rows:
    """The parts of extent rows in [start, end), as entries of log `number`."""
    low = np.maximum(rows["offset"], np.uint64(start))
    entries = np.zeros(len(rows), ENTRY)
    entries["offset"], entries["log"] = low, number
    entries["length"] = np.minimum(rows["offset"] + rows["length"], np.uint64(end)) - low
    data = rows["kind"] == DATA
    entries["source"] = np.where(data, rows["log_offset"] + (low - rows["offset"]), 0)
    entries["operation"] = np.where(data, WRITE, ZERO)
    return entries


def _batches(entries: Rows) -> Iterator[Rows]:
    """Entries in runs of about BATCH_BYTES of data; longer ones are cut."""
    long = (entries["operation"] == WRITE) & (entries["length"] > BATCH_BYTES)
    if long.any():
        entries = np.concatenate([_cut(entry) if is_long else entry[None] for entry, is_long in
                                  zip(entries, long, strict=True)])  # fmt: skip
    weights = np.where(entries["operation"] == WRITE, entries["length"], 0).astype(np.int64)
    number = np.cumsum(weights) // BATCH_BYTES
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(entries)]
    for low, high in pairwise(edges):
        if low < high:
            yield entries[low:high]


def _cut(entry: Rows) -> Rows:
    starts = np.arange(0, int(entry["length"]), BATCH_BYTES, dtype=np.uint64)
    pieces = np.repeat(entry[None], len(starts))
    pieces["offset"], pieces["source"] = entry["offset"] + starts, entry["source"] + starts
    pieces["length"] = np.minimum(np.uint64(BATCH_BYTES), entry["length"] - starts)
    return pieces
