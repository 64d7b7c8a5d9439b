"""The sealed logs of a delta: opened, proved whole and chained, and coalesced in windows of the disk.

Memory does not grow with the logs (rule 18): entries are folded in chunks, and when there are more than fit, the disk
is cut into windows and the logs' metadata is read once for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from .. import kernels
from ..arrays import Rows, np
from ..errors import BlockReplicaError, LogError
from ..files import Files
from ..hrl import ENTRY, LogReader
from ..manifest import Cursor
from ..stores.blend import EXTENT
from ..tracking import EpochRecord, same_log

ENTRY_LIMIT = 1 << 18
BUCKETS = 4096
WRITE = 1
NOTHING: Mapping[int, str] = MappingProxyType({})


class DeltaLogs:
    """The logs of consecutive epochs, oldest first; all of them checked before the first byte is used."""

    def __init__(self, logs: Sequence[LogReader]) -> None:
        self.logs = logs

    @classmethod
    def open(
        cls,
        records: Sequence[EpochRecord],
        cursor: Cursor | None,
        stack: ExitStack,
        *,
        checked: set[Path],
        files: Files,
        given_up: Mapping[int, str] = NOTHING,
    ) -> DeltaLogs:
        """Open and check; LogError when a log is missing, damaged, or not the successor of the one before.

        Sealed logs never change: those in `checked` are not read again, and those found good are added.
        `given_up`: why epochs have no log, as far as somebody knew.
        """
        logs: list[LogReader] = []
        chain = UUID(cursor.chain) if cursor else None
        for record in records:
            if record.log is None:
                raise LogError(_lost(record, given_up.get(record.epoch, "")))
            log = stack.enter_context(LogReader.open(record.log, files=files))
            if record.log not in checked:
                log.check()
                checked.add(record.log)
            if log.header.file_type != 0:
                raise LogError(f"{record.log}: is an undo log; wanted a change log")
            if chain is not None and not same_log(chain, log.header.previous_id):
                raise LogError(f"{record.log}: follows log {log.header.previous_id}; wanted {chain}")
            chain = log.header.unique_id
            logs.append(log)
        return cls(logs)

    @property
    def data_bytes(self) -> int:
        """Bytes in the logs; a file that was used before may be longer."""
        return sum(log.end for log in self.logs)

    def coalesced(self, size: int) -> Iterator[Rows]:
        """Entries (see `kernels.ENTRIES`) that never overlap, sorted, clipped to a disk of `size` bytes, in windows."""
        for start, end in self._windows(size):
            held = np.zeros(0, ENTRY)
            for rows in self._entries():
                rows = clipped(rows, start, end)
                if len(rows):
                    held = _fold(np.concatenate([held, rows]))
            if len(held):
                yield held

    def read(self, batch: Rows, buffer: bytearray) -> Rows:
        """Fill `buffer` with the data of WRITE entries; returns EXTENT rows that say where each piece stands."""
        extents = packed(batch)
        for number in sorted(set(batch["log"].tolist())):  # np.unique would load numpy.ma, 35 ms
            mine = batch["log"] == number
            wanted = extents[mine]
            wanted["offset"] = batch["source"][mine]
            self.logs[number].file.read_extents(wanted, buffer)
        return extents

    def _entries(self) -> Iterator[Rows]:
        for number, log in enumerate(self.logs):
            for chunk in log.entries():
                rows = np.array(chunk, ENTRY)
                rows["log"] = number
                yield rows

    def _windows(self, size: int) -> list[tuple[int, int]]:
        total = sum(log.total for log in self.logs)
        if total <= ENTRY_LIMIT or size == 0:
            return [(0, size)]
        width = -(-size // BUCKETS // (1 << 20)) * (1 << 20) or 1 << 20
        counts = np.zeros(-(-size // width) + 1, np.int64)
        for rows in self._entries():
            rows = clipped(rows, 0, size)
            first, last = rows["offset"] // width, (rows["offset"] + rows["length"] - 1) // width
            np.add.at(counts, first.astype(np.int64), 1)
            np.add.at(counts, last.astype(np.int64), 1)
        windows, start, held = [], 0, 0
        for bucket, count in enumerate(counts.tolist()):
            if held and held + count > ENTRY_LIMIT:
                windows.append((start, min(bucket * width, size)))
                start, held = bucket * width, 0
            held += count
        windows.append((start, size))
        return [window for window in windows if window[0] < window[1]]


def packed(rows: Rows) -> Rows:
    """EXTENT rows for `rows`, their data one behind the other in a buffer."""
    lengths = rows["length"].astype(np.int64)
    extents = np.zeros(len(rows), EXTENT)
    extents["offset"], extents["length"] = rows["offset"], rows["length"]
    extents["buffer"] = np.cumsum(lengths) - lengths
    return extents


def clipped(rows: Rows, start: int, end: int) -> Rows:
    """The parts of entries that lie in disk bytes [start, end); the data of a cut entry moves with it."""
    ends = np.minimum(rows["offset"] + rows["length"], np.uint64(end))
    begins = np.maximum(rows["offset"], np.uint64(start))
    inside = begins < ends
    if inside.all() and (begins == rows["offset"]).all() and (ends == rows["offset"] + rows["length"]).all():
        return rows
    out: Rows = rows[inside]
    begins, ends = begins[inside], ends[inside]
    write = out["operation"] == WRITE
    out["source"][write] += (begins - out["offset"])[write]
    out["offset"], out["length"] = begins, ends - begins
    return out


def log_damage(error: BlockReplicaError, name: str) -> str:
    """The reason of a resync that a bad log brings about."""
    return f"a log of {name} can't be used: {error}"


def _lost(record: EpochRecord, why: str) -> str:
    rest = "its dirty bitmap stands in for it" if record.dirty else "and no dirty bitmap tells what it changed"
    return f"the log of epoch {record.epoch} was given up{': ' if why else ''}{why}; {rest}"


def _fold(rows: Rows) -> Rows:
    out = np.zeros(2 * len(rows), ENTRY)
    count = kernels.coalesce(np.ascontiguousarray(rows), out)
    folded: Rows = out[:count].copy()
    return folded
