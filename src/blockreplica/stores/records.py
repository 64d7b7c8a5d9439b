"""Records of which a store keeps two, `NAME` and `NAME.copy`: damage to one of them must lock nobody out of any point.

The two are written one after the other, so the one written last may be older. Where the record's own absence means
something (no store, no replica), the caller asks for that first.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import FormatError, NewerError, NotFoundError, StateError, StorageError
from ..files import Files
from ..manifest import LIMIT, Record, decode, encode

_BAD = (FormatError, NotFoundError, StorageError)


def copy_of(path: Path) -> Path:
    """Where a record's copy stands."""
    return path.with_name(path.name + ".copy")


def read_record(kind: str, record: type[Record], path: Path, files: Files) -> Record:
    """The record in `path`, or when that is damaged the one in its copy; StateError when both are, NewerError when it
    is a newer version's."""
    try:
        return _read(kind, record, path, files)
    except _BAD as error:
        try:
            return _read(kind, record, copy_of(path), files)
        except _BAD as second:
            if isinstance(error, NewerError) and isinstance(second, NewerError):
                raise
            raise StateError(f"{error}; its copy can't be used either: {second}") from error


def write_record(kind: str, record: Record, path: Path, files: Files, *, copy_first: bool) -> None:
    """Replace a record and its copy, each durably."""
    data = encode(kind, record)
    for place in (copy_of(path), path) if copy_first else (path, copy_of(path)):
        files.write_durably(place, data)


def record_errors(kind: str, record: type[Record], path: Path, files: Files) -> list[StateError]:
    """What is wrong with a record and with its copy; NewerError when both are a newer version's: that is no damage."""
    errors: list[StateError] = []
    newer: list[NewerError] = []
    for place in (path, copy_of(path)):
        try:
            _read(kind, record, place, files)
        except _BAD as error:
            errors.append(StateError(str(error)))
            newer += [error] if isinstance(error, NewerError) else []
    if len(newer) == 2:
        raise newer[0]
    return errors


def _read(kind: str, record: type[Record], path: Path, files: Files) -> Record:
    return decode(kind, record, files.read(path, limit=LIMIT), path)
