"""The index of an undo log: where each before-image stands, and the checksums that the touched blocks had before.

While an epoch is being applied rows are appended; a row stands in the file before its granules are overwritten in
`disk.img`, so a reader that reads `disk.img` first and the index second is never wrong (rule 15). At the commit the
index is written again, sorted, and replaces the first.

    header, 64 bytes: magic 8, version u32, row size u32, log UUID 16, extent rows u64, checksum rows u64,
                      last epoch u64, era u32, CRC-32C u32; both counts are 2^64-1 while rows are being appended
    extent row:       disk offset u64, log offset u64, length u64, kind u8 (1 data, 2 zeros), 3 zero bytes, CRC u32
    checksum row:     block u64, checksum 16, kind u8 (3 known, 4 unknown), 3 zero bytes, CRC u32

All little-endian; row CRCs are CRC-32C over the first 28 bytes, keyed by the log's UUID.

An index is named by the first epoch that it undoes; `last` is the last one, where pruning merged several (0: that one
alone), and the index behind it is that of epoch `last` + 1. Its checksums are of blocks of the size that its `era` has
(see `manifest.ReplicaRecord`). Final indexes hold no descriptor: there may be thousands.
"""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from .. import kernels
from ..arrays import Rows, np
from ..errors import DamageError, FormatError, NotFoundError, StateError
from ..files import File, Files
from ..hrl import LogReader

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = b"brepundo"
VERSION = 1
HEADER = struct.Struct("<8sII16sQQQII")
assert HEADER.size == 64
_TAIL = [("kind", "u1"), ("pad", "V3"), ("crc", "<u4")]
ROW = [("offset", "<u8"), ("log_offset", "<u8"), ("length", "<u8"), *_TAIL]
CHECKSUM = [("block", "<u8"), ("checksum", "V16"), *_TAIL]
ROW_SIZE = 32
DATA, ZEROS, KNOWN, UNKNOWN = 1, 2, 3, 4
OPEN = (1 << 64) - 1
HELD_ROWS = 1024
SMALL_ROWS = 126  # so many, with the header, are a page: an index that has no more is read whole when it is opened


def key_of(log_id: UUID) -> int:
    """The CRC key of an index's rows."""
    return kernels.crc32c(log_id.bytes)


def header(log_id: UUID, extents: int = OPEN, checksums: int = OPEN, *, last: int = 0, era: int) -> bytes:
    """The header bytes of an index."""
    head = HEADER.pack(MAGIC, VERSION, ROW_SIZE, log_id.bytes, extents, checksums, last, era, 0)
    return head[:-4] + struct.pack("<I", kernels.crc32c(head[:-4]))


def sealed_rows(rows: Rows, key: int) -> Rows:
    """`rows` with their CRCs set."""
    raw = np.ascontiguousarray(rows)
    crcs = np.zeros(len(raw), "<u4")
    kernels.crc32c_rows(raw.view("u1"), 32, 28, crcs, value=key)
    raw["crc"] = crcs
    return raw


def good_rows(rows: Rows, key: int) -> int:
    """How many rows from the first on have the right CRC."""
    crcs = np.zeros(len(rows), "<u4")
    kernels.crc32c_rows(np.ascontiguousarray(rows).view("u1"), 32, 28, crcs, value=key)
    wrong = np.flatnonzero(crcs != rows["crc"])
    return int(wrong[0]) if len(wrong) else len(rows)


def sorted_file(log_id: UUID, rows: Rows, *, era: int) -> bytes:
    """The final index over rows of both sorts."""
    extents = np.sort(rows[rows["kind"] <= ZEROS], order="offset")
    checksums = np.sort(rows[rows["kind"] >= KNOWN], order="offset")
    return header(log_id, len(extents), len(checksums), era=era) + extents.tobytes() + checksums.tobytes()


class _Held(msgspec.Struct, frozen=True):
    """Rows of a final index, with all whose first field lies in [start, end) and the one before them."""

    start: int
    end: int
    rows: Rows


@cache
def _no_rows(layout: str) -> Rows:
    """None, of `ROW` or `CHECKSUM`: a type that numpy has parsed serves thousands of indexes."""
    return np.zeros(0, ROW if layout == "extents" else CHECKSUM)


class UndoIndex:
    """A reader's view of one index, which may still be growing; `refresh` before each look.

    It undoes epochs `first` to `last`; its log is `log_path`.
    """

    def __init__(self, path: Path, *, files: Files) -> None:
        self.path = path
        self._files = files
        self._load()

    @classmethod
    def probe(cls, path: Path, *, files: Files) -> UndoIndex | None:
        """The index, or None when there is none (yet)."""
        try:
            return cls(path, files=files)
        except NotFoundError:
            return None

    def _load(self) -> None:
        file = self._files.open(self.path)
        self._growing_file: File | None = None
        try:
            raw = file.pread(HEADER.size + 32 * SMALL_ROWS, 0)
            self._parse(raw[: HEADER.size], file.size())
            count = self._extent_count + self._checksum_count
            self._whole = raw[HEADER.size :] if not self.growing and count <= SMALL_ROWS else b""
            self._identity = self._identity_of(os.fstat(file.fileno()))
            if self.growing:
                self._growing_file = file
        finally:
            if self._growing_file is None:
                file.close()
        self._held: list[_Held | None] = [None, None]
        self._torn = -1  # rows in the file when a torn one was met
        self._loaded = self._extents = self._checksums = _no_rows("extents")

    def _parse(self, raw: bytes, size: int) -> None:
        if len(raw) < HEADER.size:
            raise StateError.at(self.path, 0, "undo index", wanted="a header of 64 bytes", got=f"{len(raw)} bytes")
        magic, version, row_size, log_id, extents, checksums, last, era, crc = HEADER.unpack(raw)
        if magic != MAGIC or crc != kernels.crc32c(raw[:-4]) or version != VERSION or row_size != ROW_SIZE:
            raise StateError.at(self.path, 0, "undo index header", wanted=f"version {VERSION} with its CRC",
                                got=repr(raw[:16]))  # fmt: skip
        self.first = int(self.path.stem)
        self.last: int = last or self.first
        self.era: int = era
        self.log_id = UUID(bytes=log_id)
        self._key = key_of(self.log_id)
        self.growing = extents == OPEN
        self._extent_count: int = 0 if self.growing else extents
        self._checksum_count: int = 0 if self.growing else checksums
        if self.last < self.first or (
            not self.growing and size != HEADER.size + 32 * (self._extent_count + self._checksum_count)
        ):
            raise StateError.at(self.path, 32, "undo index", wanted=f"{extents}+{checksums} rows", got=f"{size} bytes")

    @property
    def log_path(self) -> Path:
        """Where its log stands, if it has one."""
        name = f"{self.first:06d}" if self.last == self.first else f"{self.first:06d}-{self.last:06d}"
        return self.path.with_name(f"{name}.hrl")

    def _identity_of(self, found: os.stat_result) -> tuple[int, int]:
        """What tells it from another index of its name. One that grows is held open, so that its inode is nobody
        else's; one that is sealed never changes, but an inode is given out again."""
        return found.st_ino, 0 if self.growing else found.st_ctime_ns

    def refresh(self) -> None:
        """See what was appended, whether the sorted index took this one's place, and whether a sorted one grows again:
        it does where its sync ended before its point, and the next sync took it up."""
        try:
            if self._identity_of(os.stat(self.path)) != self._identity:
                self.close()
                self._load()
        except FileNotFoundError:
            return
        file = self._growing_file
        if not self.growing or file is None:
            return
        count = (file.size() - HEADER.size) // 32
        if count <= len(self._loaded):
            return
        raw = file.pread(32 * (count - len(self._loaded)), HEADER.size + 32 * len(self._loaded))
        fresh = np.frombuffer(raw[: len(raw) // 32 * 32], ROW)
        good = good_rows(fresh, self._key)
        if good == 0 and self._torn == count:
            return
        self._loaded = np.concatenate([self._loaded, fresh[:good]])
        self._extents = np.sort(self._loaded[self._loaded["kind"] <= ZEROS], order="offset")
        if good < len(fresh):
            self._extents, self._torn = self._salvaged(), count
        self._checksums = np.sort(self._loaded[self._loaded["kind"] >= KNOWN], order="offset")
        self._extent_count, self._checksum_count = len(self._extents), len(self._checksums)

    def _salvaged(self) -> Rows:
        """The extent rows by the log itself. After a power cut rows may be torn that were never published: nothing was
        overwritten for them, and what was is in the log, which was durable before any row. A checksum lost with a row
        that did count leaves the block with one that its before-image does not have: found, never served."""
        try:
            log_id, rows = log_rows(self.path.with_suffix(".hrl"), files=self._files)
        except (FormatError, NotFoundError) as error:
            raise DamageError(f"{self.path}: rows are damaged, and so is the log: {error}") from error
        if log_id != self.log_id:
            raise DamageError(f"{self.path}: rows are damaged, and the log beside it is another one")
        return np.sort(rows, order="offset")

    def extents(self, start: int, end: int) -> Rows:
        """The extent rows that overlap disk bytes [start, end), sorted by offset."""
        rows = self._near(0, start + 1, end)
        inside: Rows = rows[(rows["offset"] + rows["length"] > start) & (rows["offset"] < end)]
        return inside

    def checksums(self, first: int, end: int) -> Rows:
        """The checksum rows of blocks [first, end), as CHECKSUM records sorted by block."""
        rows = self._near(1, first, end)
        return rows[(rows["offset"] >= first) & (rows["offset"] < end)].view(_no_rows("checksums").dtype)

    @property
    def extent_count(self) -> int:
        """How many extent rows it has."""
        return self._extent_count

    def reach(self, sort: int, start: int, rows: int) -> int:
        """The first field of the row that stands `rows` behind the first at or behind `start`; OPEN behind the end.
        Of a final index; `sort` 0: extents, 1: checksums."""
        base, count = (0, self._extent_count) if sort == 0 else (self._extent_count, self._checksum_count)
        if rows >= count:
            return OPEN
        with self._files.open(self.path) as file:
            at = self._bisect(file, start, base, count) + rows
            return int(self._rows(file, base + at, base + at + 1)["offset"][0]) if at < count else OPEN

    def all_rows(self) -> Rows:
        """Every row of both sorts, checked."""
        if self.growing:
            self.refresh()
            return self._loaded
        with self._files.open(self.path) as file:
            return self._rows(file, 0, self._extent_count + self._checksum_count)

    def close(self) -> None:
        """Close the file of one that grows."""
        if self._growing_file is not None:
            self._growing_file.close()

    def _rows(self, file: File, low: int, high: int) -> Rows:
        raw = bytearray(32 * (high - low))
        got = file.pread_into(raw, HEADER.size + 32 * low)
        return self._checked(raw, got, low)

    def _checked(self, raw: Buffer, got: int, low: int) -> Rows:
        """The rows from row `low` on, of which `got` bytes could be read."""
        rows = np.frombuffer(raw, _no_rows("extents").dtype)
        good = good_rows(rows, self._key) if got == rows.nbytes else got // 32
        if good < len(rows):
            raise DamageError(f"{self.path}: row {low + good}: wanted its CRC, got another: damaged; "
                              "points before this epoch can't be read where it names blocks")  # fmt: skip
        return rows

    def _near(self, sort: int, start: int, end: int) -> Rows:
        """The rows of one sort whose first field lies in [start, end), some before and behind them; and always the
        one before. Whoever goes through the disk finds most of them in memory."""
        if self.growing:
            return _around((self._extents, self._checksums)[sort], start, end)
        base, count = (0, self._extent_count) if sort == 0 else (self._extent_count, self._checksum_count)
        held = self._held[sort]
        if count == 0:
            return _no_rows("extents")
        if self._whole and held is None:
            raw = self._whole[32 * base : 32 * (base + count)]
            held = self._held[sort] = _Held(0, OPEN, self._checked(raw, len(raw), base))
        if held is None or not (held.start <= start and end <= held.end):
            with self._files.open(self.path) as file:
                low = max(self._bisect(file, start, base, count) - 1, 0) if count > HELD_ROWS else 0
                rows = self._rows(file, base + low, base + min(count, low + HELD_ROWS))
                reach = OPEN if low + len(rows) == count else int(rows["offset"][-1])
                held = self._held[sort] = _Held(start if low else 0, reach, rows)
                if end > reach:
                    return self._rows(file, base + low, base + self._bisect(file, end, base, count))
        return _around(held.rows, start, end)

    def _bisect(self, file: File, wanted: int, base: int, count: int) -> int:
        """How many of the `count` rows from row `base` of the file on have a first field below `wanted`."""
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2  # each row checked: a flipped bit here would hide rows that are right
            if int(self._rows(file, base + middle, base + middle + 1)["offset"][0]) < wanted:
                low = middle + 1
            else:
                high = middle
        return low


def _around(rows: Rows, start: int, end: int) -> Rows:
    low, high = np.searchsorted(rows["offset"], np.array([start, end], np.uint64)).tolist()
    return rows[max(low - 1, 0) : high]


def log_rows(path: Path, *, files: Files) -> tuple[UUID, Rows]:
    """The UUID of an undo log, which may be unclosed or cut, and extent rows for all its entries, in their order."""
    with LogReader.open(path, files=files, salvage=True) as reader:
        found = [np.zeros(0, ROW)]
        for entries in reader.entries():
            rows = np.zeros(len(entries), ROW)
            write = entries["operation"] == 1
            rows["offset"], rows["length"] = entries["offset"], entries["length"]
            rows["log_offset"] = np.where(write, entries["source"], 0)
            rows["kind"] = np.where(write, DATA, ZEROS)
            found.append(rows)
        return reader.header.unique_id, np.concatenate(found)


def valid_prefix(path: Path, *, files: Files) -> tuple[UUID | None, Rows]:
    """For recovery: the log that an index belongs to and its rows up to the first damaged one.

    None when there is none, or not even its header can be read.
    """
    try:
        index = UndoIndex(path, files=files)
    except (FormatError, NotFoundError):
        return None, np.zeros(0, ROW)
    index.close()
    with files.open(path) as file:
        raw = file.pread((file.size() - HEADER.size) // 32 * 32, HEADER.size)
    rows = np.frombuffer(raw, ROW)
    return index.log_id, rows[: good_rows(rows, key_of(index.log_id))]
