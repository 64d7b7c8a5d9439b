"""Rewrites a log in another version: strict 2.0, which any reader of [MS-HRL] takes, or 2.1, which proves its data.

The identity stays: both UUIDs, the data-write GUID, the times of log and entries. Entries keep their order; only long
ones come out in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import msgspec

from ..arrays import Array, np
from ..errors import RefusedError
from ..files import FILES, Files
from ..progress import SILENT, Progress
from .format import METADATA_SIZE, NIL, UNDO_LOG, VERSIONS, ZERO, Header
from .reader import LogReader
from .windows import data_lengths, read_data, windows
from .writer import LogWriter

#: The zeros that a strict log is given to carry at the most, as holes: a few entries can claim any amount.
MOST_ZEROS = 1 << 48


class Converted(msgspec.Struct, frozen=True):
    """What was written; `salvaged` as in `Applied`."""

    version: str
    entries: int
    size: int
    salvaged: bool


def convert(
    log: str | Path, out: str | Path, *, strict: bool, salvage: bool = False, force: bool = False,
    files: Files = FILES, progress: Progress = SILENT,
) -> Converted:  # fmt: skip
    """Write what `log` holds to the file `out` as strict 2.0 or as 2.1; a crash leaves `out` as it was.

    RefusedError when `out` exists, unless `force`; for an undo log that is to become strict (nothing would tell it
    from a change log); and for more zeros than a strict log should carry. LogError as the reader.
    """
    target = Path(out)
    if files.exists(target) and not force:
        raise RefusedError(f"{target}: exists already; choose another name, or say --force")
    with LogReader.open(log, files=files, salvage=salvage) as reader:
        if strict and reader.header.file_type == UNDO_LOG:
            raise RefusedError(f"{log}: an undo log has no strict form")
        summary = reader.check(slots=False, progress=progress)
        if strict and summary.zero_bytes > MOST_ZEROS:
            raise RefusedError(f"{log}: its zero entries are {summary.zero_bytes} bytes, too many to carry as zeros")
        # A name that nobody else's file can have: not even the log's own.
        temporary = target.with_name(f"{target.name}.{uuid4().hex}.new")
        try:
            header = _write(reader, temporary, strict=strict, files=files, progress=progress)
            files.rename(temporary, target)
        except BaseException:
            files.unlink(temporary)
            raise
        files.sync_folder(target.parent)
        return Converted(VERSIONS[header.version], header.total_entries, header.end, reader.salvaged)


def _write(reader: LogReader, path: Path, *, strict: bool, files: Files, progress: Progress) -> Header:
    header = reader.header
    writer = LogWriter.create(
        path, unique_id=header.unique_id, previous_id=header.previous_id, file_type=header.file_type, strict=strict,
        metadata_size=METADATA_SIZE, timestamp=header.timestamp, data_write_guid=header.data_write_guid or NIL,
        files=files,
    )  # fmt: skip
    progress.start(f"writing {path.name}", reader.end)
    with writer:
        for rows, stamps in reader.records():
            for part, times in _parts(rows, stamps, apart=strict):
                _append(reader, writer, part, times, strict=strict)
            progress.advance(int(data_lengths(rows).sum()) + 32 * len(rows))
        return writer.close()


def _parts(rows: Array, stamps: Array, *, apart: bool) -> Iterator[tuple[Array, Array]]:
    """All rows, or with `apart` runs of one operation."""
    changes = (np.flatnonzero(np.diff(rows["operation"])) + 1).tolist() if apart else []
    bounds = [0, *changes, len(rows)]
    for start, stop in pairwise(bounds):
        yield rows[start:stop], stamps[start:stop]


def _append(reader: LogReader, writer: LogWriter, rows: Array, stamps: Array, *, strict: bool) -> None:
    if strict and rows["operation"][0] == ZERO:
        for row, stamp in zip(rows.tolist(), stamps.tolist(), strict=True):
            writer.append_zero(row[0], row[1], timestamp=stamp)
        return
    for part, where in windows(rows):
        data, lengths = read_data(reader.file, part[part["operation"] != ZERO]), data_lengths(part)
        moved = part.copy()
        moved["source"] = np.cumsum(lengths) - lengths
        writer.append_many(moved, data, stamps=stamps[where])
