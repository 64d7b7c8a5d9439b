"""Change logs in the format [MS-HRL]: what was written to an image, with the data. `docs/format.md` tells the bytes."""

from __future__ import annotations

from .format import (
    CHANGE_LOG,
    ENTRY,
    EXTENDED,
    NO_SOURCE,
    STRICT,
    UNDO_LOG,
    VERSION_1,
    WRITE,
    ZERO,
    Header,
    time_text,
    timestamp,
)  # fmt: skip
from .reader import LogReader, Summary
from .writer import LogWriter

__all__ = [
    "CHANGE_LOG",
    "ENTRY",
    "EXTENDED",
    "NO_SOURCE",
    "STRICT",
    "UNDO_LOG",
    "VERSION_1",
    "WRITE",
    "ZERO",
    "Header",
    "LogReader",
    "LogWriter",
    "Summary",
    "time_text",
    "timestamp",
]
