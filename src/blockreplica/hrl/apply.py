"""Writes a change log into an image: what the log recorded becomes the image's content.

The whole log is checked before the first byte is written, so a log that is wrong leaves the image as it was. A write
that fails in the middle leaves the image between both; applying the log again brings it there, for applying twice is
applying once.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from .. import kernels
from ..arrays import Array, np
from ..errors import BusyError, RefusedError
from ..files import FILES, File, Files
from ..progress import SILENT, Progress
from .format import CHANGE_LOG, ENTRY, WRITE
from .reader import LogReader, Summary
from .windows import extents, read_data, windows


class Applied(msgspec.Struct, frozen=True):
    """What was done. Bytes are what reached the image: overwrites within one batch of entries count once."""

    entries: int
    bytes_written: int
    bytes_zeroed: int
    #: "checked" or "unchecked", as `LogReader.check` says.
    data: str
    #: Whether blocks were looked for, because the log was not closed or not whole.
    salvaged: bool


def apply(
    log: str | Path, image: str | Path, *, salvage: bool = False, files: Files = FILES, progress: Progress = SILENT
) -> Applied:
    """Write the entries of `log` into `image`, in their order, and make them durable.

    With `salvage`, a log that is unclosed or damaged is applied as far as it is good. The image keeps its size: a write
    beyond its end is refused, what a zero entry says of bytes beyond it is true already. RefusedError too for undo
    logs and for an image that is the log; BusyError when somebody, a tracker or QEMU for one, has locked the image;
    LogError as the reader.
    """
    with LogReader.open(log, files=files, salvage=salvage) as reader:
        if reader.header.file_type != CHANGE_LOG:
            raise RefusedError(f"{log}: an undo log holds what was overwritten; applying it would go back in time")
        summary = reader.check(slots=False, progress=progress)
        with files.open(Path(image), write=True) as target:
            _check_target(reader, summary, target)
            written = zeroed = 0
            progress.start(f"applying {reader.path.name}", summary.data_bytes + summary.zero_bytes)
            for rows in reader.entries():
                more_written, more_zeroed = _apply_batch(reader.file, target, rows)
                written, zeroed = written + more_written, zeroed + more_zeroed
                progress.advance(int(rows["length"].sum()))
            target.sync()
        return Applied(summary.entries, written, zeroed, summary.data, reader.salvaged)


def _check_target(reader: LogReader, summary: Summary, target: File) -> None:
    if os.path.samestat(os.fstat(target.fileno()), os.fstat(reader.file.fileno())):
        raise RefusedError(f"{target.path}: the log and the image are the same file")
    if not target.lock_image():
        raise BusyError(f"{target.path}: somebody else has locked the image; stop what writes to it")
    size = target.size()
    if summary.writes_end > size:
        raise RefusedError(
            f"{target.path}: the log writes up to byte {summary.writes_end}, the image ends at {size};"
            " is it the right image? A disk that was grown is grown first (truncate --size)"
        )


def _apply_batch(log: File, target: File, rows: Array) -> tuple[int, int]:
    """Bytes written and bytes zeroed by entries in their order; the last word on each byte wins."""
    pieces = np.empty(2 * len(rows), ENTRY)
    pieces = pieces[: kernels.coalesce(np.ascontiguousarray(rows).data, pieces.data)]
    writes = pieces[pieces["operation"] == WRITE]
    for part, _ in windows(writes):
        target.write_extents(extents(part["offset"], part).data, read_data(log, part))
    zeroed, size = 0, target.size()
    for offset, length in pieces[pieces["operation"] != WRITE][["offset", "length"]].tolist():
        if offset < size:
            target.zero(offset, min(length, size - offset))
            zeroed += min(length, size - offset)
    return int(writes["length"].sum()), zeroed
