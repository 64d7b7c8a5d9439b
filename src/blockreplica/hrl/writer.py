"""Writes a change log, 2.1 or strict 2.0: data first, its metadata block behind it, the end in the header last of all.

What a crash leaves is therefore a log without its end, in which every block that stands describes data that was
written before it; `resume` goes on behind the last such block. After a power cut a block may stand where its data does
not: in 2.1 the data's CRC tells. `resume` cuts the file behind the last good block, durably, before anything is
written: a block behind the cut must not fit again once the gap before it is filled.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from .. import kernels
from ..arrays import Array, np
from ..errors import RefusedError, StorageError, UsageError
from ..files import FILES, File, Files
from .format import (
    CHANGE_LOG,
    ENTRY,
    EXTENDED,
    HEADER_SIZE,
    METADATA_SIZE,
    NIL,
    NO_SOURCE,
    STRICT,
    VERSION_1,
    WRITE,
    ZERO,
    Header,
)  # fmt: skip
from .format import (
    timestamp as timestamp_of,
)
from .salvage import salvage

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: The longest data of one entry, and the longest zero entry; of a strict log, the longest run of zeros in one entry.
MOST_DATA, MOST_ZEROS, MOST_STRICT_ZEROS = 1 << 30, 1 << 31, 1 << 20
_ROW = struct.Struct("<QQQII")
_STAMP = struct.Struct("<I")
_ZEROS = bytes(MOST_STRICT_ZEROS)


class LogWriter:
    """A log being written. Not for use by two threads at once, but for `sync_flushed`. Times are the format's, seconds
    since 2000."""

    def __init__(self, file: File, header: Header, *, own: bool, clock: Callable[[], float]) -> None:
        self.header, self.path = header, file.path
        #: Entries appended so far.
        self.total = 0
        self._file, self._own, self._clock = file, own, clock
        self._raw = header.encode()
        self._block = bytearray(header.metadata_size)
        self._count = 0
        #: The block before, how many there are, and where the next data goes.
        self._last, self._number, self._at = 0, 0, HEADER_SIZE
        self._failed = self._closed = False

    @classmethod
    def create(
        cls, target: str | Path | File, *, unique_id: UUID, previous_id: UUID = NIL, file_type: int = CHANGE_LOG,
        strict: bool = False, metadata_size: int = METADATA_SIZE, timestamp: int | None = None,
        data_write_guid: UUID = NIL, files: Files = FILES, clock: Callable[[], float] = time.time,
    ) -> LogWriter:  # fmt: skip
        """Begin a log in a new file, or in an open one: a 2.1 log may take over a file with old content.

        Writes the header and an empty first block, as Hyper-V does. RefusedError when the path exists, or when a strict
        log would stand before old content. Nothing is durable before `sync`; the name is for the caller to sync.
        """
        if metadata_size % 512 or not 512 <= metadata_size <= 2**20:
            raise UsageError(f"metadata size {metadata_size}: wanted a multiple of 512 up to 1 MiB")
        file = target if isinstance(target, File) else _new_file(Path(target), files)
        if strict and file.size() > 0:
            raise RefusedError(f"{file.path}: only 2.1 logs may be written over old content; empty it first")
        stamp = timestamp_of(clock()) if timestamp is None else timestamp
        header = Header(
            version=STRICT if strict else EXTENDED, unique_id=unique_id, previous_id=previous_id,
            data_write_guid=data_write_guid, timestamp=stamp, modified=stamp, metadata_size=metadata_size,
            file_type=file_type,
        )  # fmt: skip
        writer = cls(file, header, own=file is not target, clock=clock)
        try:
            writer._begin()
        except BaseException:
            writer.abandon()
            raise
        return writer

    @classmethod
    def resume(cls, path: str | Path, *, files: Files = FILES, clock: Callable[[], float] = time.time) -> LogWriter:
        """Go on with a log behind its last good block; what stands there is cut off, durably.

        LogError where the header is damaged, RefusedError for version 1.
        """
        file = files.open(Path(path), write=True)
        try:
            raw = file.pread(HEADER_SIZE, 0)
            header = Header.decode(raw, file.path)
            if header.version == VERSION_1:
                raise RefusedError(f"{path}: logs of version 1.0 are read, not written")
            size = file.size()
            found = salvage(file, raw, min(header.end, size) if header.end else size)
            open_header = msgspec.structs.replace(header, end=0, total_entries=0, current_size=0)
            writer = cls(file, open_header, own=True, clock=clock)
            writer._last, writer._number, writer.total = found.last, found.blocks, found.entries
            writer._reopen(found.end)
        except BaseException:
            file.close()
            raise
        return writer

    def append(self, offset: int, data: Buffer, *, timestamp: int | None = None) -> int:
        """Log that `data` was written at `offset`; returns where the data stands in the log."""
        view = memoryview(data).cast("B")
        if len(view) > MOST_DATA:
            raise UsageError(f"{self.path}: {len(view)} bytes in one entry, wanted at most {MOST_DATA}")
        self._make_room()
        self._encode(offset, len(view), WRITE, view, timestamp)
        self._file.pwrite(view, self._at)
        at, self._at = self._at, self._at + len(view)
        self._count, self.total = self._count + 1, self.total + 1
        return at

    def append_zero(self, offset: int, length: int, *, timestamp: int | None = None) -> None:
        """Log that `length` bytes from `offset` became zero; strict logs carry the zeros, as a hole."""
        strict = self.header.version == STRICT
        most = MOST_STRICT_ZEROS if strict else MOST_ZEROS
        if length < 0:
            raise UsageError(f"{self.path}: length {length} is negative")
        for start in range(0, length, most):
            piece = min(most, length - start)
            self._make_room()
            if strict:
                self._encode(offset + start, piece, WRITE, memoryview(_ZEROS)[:piece], timestamp)
                self._file.zero(self._at, piece)
                self._at += piece
            else:
                self._encode(offset + start, piece, ZERO, b"", timestamp)
            self._count, self.total = self._count + 1, self.total + 1

    def append_many(self, entries: Array, buffer: Buffer, *, stamps: Array | None = None) -> Array:
        """Log rows of ENTRY whose `source` is an offset in `buffer`; returns where the data of each stands in the log.

        Zero rows get 2**64 - 1, and strict logs refuse them. Nothing is logged when a row cannot be.
        """
        rows = np.ascontiguousarray(entries, ENTRY)
        times = np.full(len(rows), self._now(None), "<u4") if stamps is None else np.ascontiguousarray(stamps, "<u4")
        encoded = bytearray(32 * len(rows))
        self._checked(kernels.hrl_encode, self._raw, rows.data, buffer, times.data, encoded)
        lengths = np.where(rows["operation"] == WRITE, rows["length"], 0).astype("<u8")
        places = np.empty(len(rows), "<u8")
        done = 0
        while done < len(rows):
            self._make_room()
            stop = min(len(rows), done + self.header.room - self._count)
            part = slice(done, stop)
            places[part] = self._at + np.cumsum(lengths[part]) - lengths[part]
            self._write_rows(rows[part], lengths[part], places[part], buffer)
            slot = 32 + 32 * self._count
            self._block[slot : slot + 32 * (stop - done)] = encoded[32 * done : 32 * stop]
            self._count, self.total = self._count + stop - done, self.total + stop - done
            self._at += int(lengths[part].sum())
            done = stop
        return np.where(rows["operation"] == WRITE, places, np.uint64(NO_SOURCE))

    def flush(self) -> None:
        """Write the block of what was appended: all of it can be salvaged if this process dies."""
        if self._count:
            self._write_block()

    def sync(self) -> None:
        """`flush`, and all of it survives a power cut. After a failure the log is lost: it can only be abandoned."""
        self._alive()
        self.flush()
        self.sync_flushed()

    def sync_flushed(self) -> None:
        """All that was flushed survives a power cut; in any thread, while more is appended. Fails as `sync` does."""
        try:
            self._file.sync()
        except BaseException:
            self._failed = True
            raise

    def close(self) -> Header:
        """Seal: everything durable first, then the end in the header, then that durable too; returns the header."""
        if self._closed:
            return self.header
        self.sync()
        end = self._at
        self.header = msgspec.structs.replace(
            self.header, end=end, current_size=end, total_entries=self.total, modified=self._now(None)
        )
        self._file.pwrite(self.header.encode(), 0)
        self.sync_flushed()
        self.abandon()
        return self.header

    def abandon(self) -> None:
        """Let go of the file without sealing; a second call does nothing."""
        self._closed = True
        if self._own:
            self._file.close()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.abandon()

    def _begin(self) -> None:
        """Header and empty first block, in one write."""
        kernels.hrl_block(self._raw, self._block, 0, 0, 0)
        self._file.pwrite(self._raw + self._block, 0)
        self._last, self._number, self._at = HEADER_SIZE, 1, HEADER_SIZE + self.header.metadata_size

    def _reopen(self, end: int) -> None:
        """Have the log open and nothing behind `end`, durably; in this order, so that a crash leaves it unclosed."""
        self._file.pwrite(self._raw, 0)
        self._file.sync()
        self._file.truncate(end)
        self._at = end
        if self._number == 0:
            self._begin()
        self._file.sync()

    def _make_room(self) -> None:
        self._alive()
        if self._count == self.header.room:
            self._write_block()

    def _write_block(self) -> None:
        distance = self._at - self._last if self._last else 0
        kernels.hrl_block(self._raw, self._block, distance, self._number, self._count)
        self._file.pwrite(self._block, self._at)
        self._last, self._at = self._at, self._at + self.header.metadata_size
        self._number, self._count = self._number + 1, 0

    def _encode(self, offset: int, length: int, operation: int, data: Buffer, stamp: int | None) -> None:
        """The entry into the next slot; it counts only once `_count` says so."""
        if not 0 <= offset < 2**63:
            raise UsageError(f"{self.path}: offset {offset}: wanted 0 to 2**63 - 1")
        slot = 32 + 32 * self._count
        row = _ROW.pack(offset, length, 0 if operation == WRITE else NO_SOURCE, 0, operation)
        out = memoryview(self._block)[slot : slot + 32]
        self._checked(kernels.hrl_encode, self._raw, row, data, _STAMP.pack(self._now(stamp)), out)

    def _write_rows(self, rows: Array, lengths: Array, places: Array, buffer: Buffer) -> None:
        """The data of `rows` to their places, as few writes as they allow."""
        has = lengths > 0
        source, length, place = rows["source"][has], lengths[has], places[has]
        if not len(length):
            return
        fresh = np.ones(len(length), bool)
        fresh[1:] = source[1:] != source[:-1] + length[:-1]
        begin = np.flatnonzero(fresh)
        extents = np.column_stack([place[begin], np.add.reduceat(length, begin), source[begin]]).astype("<u8")
        self._file.write_extents(extents.data, buffer)

    def _now(self, stamp: int | None) -> int:
        return timestamp_of(self._clock()) if stamp is None else stamp

    def _checked(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except ValueError as error:
            raise UsageError(f"{self.path}: {error}") from error

    def _alive(self) -> None:
        if self._failed:
            raise StorageError(f"{self.path}: an fsync failed, so what the log holds is unknown; abandon it")
        if self._closed:
            raise UsageError(f"{self.path}: the log is closed")


def _new_file(path: Path, files: Files) -> File:
    if files.exists(path):
        raise RefusedError(f"{path}: exists already; remove it, or choose another name")
    return files.open(path, write=True, exclusive=True)
