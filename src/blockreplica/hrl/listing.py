"""What a log says, as text: for people a line an entry, for programs one JSON object. In pieces, as it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..arrays import Array, np
from .format import NO_SOURCE, VERSIONS, time_text
from .reader import LogReader

_OPERATIONS = {1: "write", 2: "zero"}
_JSON = '    {"offset": %d, "length": %d, "operation": "%s", "timestamp": "%s", "log_offset": %s}'
_LINE = "%16d %12d  %-5s  %s  %16s\n"


def header_fields(reader: LogReader) -> dict[str, object]:
    """The header as JSON knows it."""
    header = reader.header
    guid = header.data_write_guid
    return {
        "version": VERSIONS[header.version],
        "unique_id": str(header.unique_id),
        "previous_unique_id": str(header.previous_id),
        "data_write_guid": None if guid is None else str(guid),
        "eol": header.end,
        "closed": reader.closed,
        "metadata_size": header.metadata_size,
        "total_entries": header.total_entries,
        "file_type": header.file_type,
        "timestamp": time_text(header.timestamp),
        "modified": time_text(header.modified),
        "creator_application": header.creator.decode("latin-1").rstrip(" \0"),
        "creator_version": header.creator_version,
        "original_size": header.original_size,
        "current_size": header.current_size,
        "error_code": header.error_code,
        "flags": header.flags,
    }


def json_pieces(reader: LogReader) -> Iterator[str]:
    """One object: `header`, `salvaged` (null, or what was found in a log whose end is not to be had), `entries`."""
    salvaged = {"entries": reader.total, "end": reader.end} if reader.salvaged else None
    yield f'{{\n  "header": {json.dumps(header_fields(reader))},\n  "salvaged": {json.dumps(salvaged)},\n  "entries": ['
    lead = "\n"
    for rows, stamps in reader.records():
        yield lead + ",\n".join(map(_JSON.__mod__, _columns(rows, stamps, nothing="null")))
        lead = ",\n"
    yield "\n  ]\n}\n" if lead == ",\n" else "]\n}\n"


def text_pieces(reader: LogReader) -> Iterator[str]:
    """The header's fields, then a line an entry."""
    for name, value in header_fields(reader).items():
        yield f"{name.replace('_', ' ')}: {'-' if value is None else value}\n"
    if reader.salvaged:
        yield f"salvaged: {reader.total} entries up to {reader.end}\n"
    yield f"\n{'OFFSET':>16} {'LENGTH':>12}  WHAT   {'TIME':<27}  {'LOG OFFSET':>16}\n"
    for rows, stamps in reader.records():
        yield "".join(map(_LINE.__mod__, _columns(rows, stamps, nothing="-")))


def _columns(rows: Array, stamps: Array, *, nothing: str) -> Iterator[tuple[object, ...]]:
    """The fields of each entry; `nothing` stands for the place of data that there is not."""
    times = {stamp: time_text(stamp) for stamp in np.unique(stamps).tolist()}
    return zip(
        rows["offset"].tolist(), rows["length"].tolist(), map(_OPERATIONS.__getitem__, rows["operation"].tolist()),
        map(times.__getitem__, stamps.tolist()),
        [nothing if source == NO_SOURCE else source for source in rows["source"].tolist()],
        strict=True,
    )  # fmt: skip
