"""Short ways to write logs, and to read back what is in them."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from blockreplica.errors import NoSpaceError, StorageError
from blockreplica.files import File, Files
from blockreplica.hrl import ENTRY, NO_SOURCE, ZERO, LogReader, LogWriter
from hrl.ms_hrl import LOG_ID

#: Offset and data; zeros as their count.
Op = tuple[int, bytes | int]
#: A log's blocks, each with its operations.
Groups = list[list[Op]]


def write(
    path: Path, groups: Groups, *, close: bool = True, strict: bool = False, metadata_size: int = 512,
    log_id: UUID = LOG_ID,
) -> list[int]:  # fmt: skip
    """Write a log with one block for each group; returns where each block ends, the empty first one included."""
    writer = LogWriter.create(path, unique_id=log_id, strict=strict, metadata_size=metadata_size, timestamp=1)
    ends = [4096 + metadata_size]
    for group in groups:
        append(writer, group)
        writer.flush()
        ends.append(path.stat().st_size)
    if close:
        writer.close()
    else:
        writer.abandon()
    return ends


def append(writer: LogWriter, ops: list[Op]) -> None:
    for offset, what in ops:
        if isinstance(what, int):
            writer.append_zero(offset, what)
        else:
            writer.append(offset, what)


def ops_of(reader: LogReader) -> list[Op]:
    """What a log says, with the data."""
    ops: list[Op] = []
    for rows in reader.entries():
        for offset, length, source, log, operation in rows.tolist():
            assert log == 0
            if operation == ZERO:
                assert source == NO_SOURCE
                ops.append((offset, length))
            else:
                ops.append((offset, reader.file.pread(length, source)))
    return ops


def read(path: Path, *, salvage: bool = False) -> list[Op]:
    """As `ops_of`, of a log that is checked first."""
    with LogReader.open(path, salvage=salvage) as reader:
        reader.check()
        return ops_of(reader)


def flat(groups: Groups) -> list[Op]:
    return [op for group in groups for op in group]


def some_groups(seed: int, *, zeros: bool = True, most: int = 40) -> Groups:
    """Three groups of a few operations with short data of any length."""
    noise = random.Random(seed)
    groups: Groups = []
    for _ in range(3):
        group: list[Op] = []
        for _ in range(noise.randrange(1, 4)):
            if zeros and noise.random() < 0.3:
                group.append((noise.randrange(10**6), noise.randrange(1, 10**6)))
            else:
                group.append((noise.randrange(10**6), noise.randbytes(noise.randrange(1, most))))
        groups.append(group)
    return groups


def image_after(ops: list[Op], size: int, before: bytes = b"") -> bytes:
    """What an image holds after the operations, the plain way."""
    image = bytearray(before.ljust(size, b"\0"))
    for offset, what in ops:
        data = bytes(min(what, max(0, size - offset))) if isinstance(what, int) else what
        image[offset : offset + len(data)] = data
    return bytes(image[:size])


def rows_of(ops: list[tuple[int, int, int, int]]) -> np.ndarray:
    """(offset, length, source, operation) as rows of ENTRY."""
    rows = np.zeros(len(ops), ENTRY)
    for row, (offset, length, source, operation) in zip(rows, ops, strict=True):
        row["offset"], row["length"], row["source"], row["operation"] = offset, length, source, operation
    return rows


class Fragile(Files):
    """Tells in `calls` what reaches the disk, in order; "write" and "sync" in `fail` make these fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: set[str] = set()

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        with super().open(path, write=write, create=create, exclusive=exclusive) as file:
            fragile = FragileFile(path, os.dup(file.fileno()))
        fragile.disk = self
        return fragile

    def rename(self, source: Path, target: Path) -> None:
        self.calls.append(f"rename {source.name} {target.name}")
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        self.calls.append("sync folder")
        super().sync_folder(path)


class FragileFile(File):
    disk: Fragile

    def pwrite(self, data: Any, offset: int) -> None:
        self.disk.calls.append(f"{self.path.name}: write {offset}")
        if "write" in self.disk.fail:
            raise NoSpaceError("no room")
        super().pwrite(data, offset)

    def write_extents(self, extents: Any, buffer: Any) -> None:
        self.disk.calls.append(f"{self.path.name}: write extents")
        super().write_extents(extents, buffer)

    def zero(self, offset: int, length: int) -> None:
        self.disk.calls.append(f"{self.path.name}: zero")
        super().zero(offset, length)

    def sync(self) -> None:
        self.disk.calls.append(f"{self.path.name}: sync")
        if "sync" in self.disk.fail:
            raise StorageError("fsync failed")
        super().sync()
