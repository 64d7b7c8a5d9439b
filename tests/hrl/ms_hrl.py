"""A second reader and a second writer of [MS-HRL], straight from its tables and sharing nothing with the product.

The reader is what somebody else would write from the specification: two passes, strict, no extension. The writer lays
bytes down as it is told, right or wrong, so that a test can forge any field.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

HEADER = struct.Struct("<8s I I 4s I Q Q I Q i I 16s 16s I Q I H 16s")
BLOCK = struct.Struct("<Q I I 16s")
ENTRY = struct.Struct("<Q I I I B I B 6s")
assert (HEADER.size, BLOCK.size, ENTRY.size) == (126, 32, 32)
NIL = bytes(16)
LOG_ID = UUID("01234567-89ab-cdef-0123-456789abcdef")


def checksum(data: bytes, skip: int) -> int:
    """The complement of the sum of all bytes but the four at `skip`."""
    return ~(sum(data) - sum(data[skip : skip + 4])) & 0xFFFFFFFF


def crc32c(data: bytes, value: int = 0) -> int:
    crc = value ^ 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


class ViolationError(Exception):
    """What is read is no strict log."""


def require(truth: bool, what: str) -> None:
    if not truth:
        raise ViolationError(what)


@dataclass(frozen=True)
class Read:
    """What the strict reader found: the header's fields, and (offset, timestamp, data) of each entry."""

    header: tuple[object, ...]
    entries: list[tuple[int, int, bytes]]
    blocks: list[int]


def read_strict(path: Path) -> Read:
    """Read a log of version 2.0 as the specification says, checking all that it says."""
    raw = path.read_bytes()
    header = HEADER.unpack_from(raw)
    require(header[0] == b"msctlog ", "cookie")
    require(header[1] == 0x00020000, "version")
    require(header[7] == checksum(raw[:4096], 40), "header checksum")
    require(not any(raw[126:4096]), "reserved bytes of the header")
    end, size = header[8], header[10]
    require(size % 512 == 0 and size > 0, "metadata size")
    require(0 < end <= len(raw), "end of log")
    blocks = [end - size]
    while distance := BLOCK.unpack_from(raw, blocks[-1])[0]:
        require(size <= distance <= blocks[-1] - 4096, "distance")
        blocks.append(blocks[-1] - distance)
    blocks.reverse()
    entries: list[tuple[int, int, bytes]] = []
    at = 4096
    for block in blocks:
        at = _read_group(raw, at, block, size, entries)
    require(header[14] == len(entries), "total entries")
    require(header[15] == 0, "file type")
    return Read(header, entries, blocks)


def _read_group(raw: bytes, at: int, block: int, size: int, entries: list[tuple[int, int, bytes]]) -> int:
    _, valid, kept, reserved = BLOCK.unpack_from(raw, block)
    require(kept == checksum(raw[block : block + 32], 12), "block checksum")
    require(reserved == NIL and valid <= (size - 32) // 32, "block header")
    for index in range(valid):
        entry = raw[block + 32 + 32 * index :][:32]
        offset, kept, length, stamp, operation, data_checksum, location, reserved = ENTRY.unpack(entry)
        require(kept == checksum(entry, 8), "entry checksum")
        require((operation, location, reserved) == (1, 0, bytes(6)), "operation, location, reserved")
        data = raw[at : at + length]
        require(data_checksum in (0, ~sum(data) & 0xFFFFFFFF), "data checksum")
        entries.append((offset, stamp, data))
        at += length
    require(at == block, "data fills the distance")
    return block + size


@dataclass
class Entry:
    """One entry to lay down; `data` stands in the log whatever `length` says."""

    offset: int = 0
    data: bytes = b""
    stamp: int = 539842381
    operation: int = 1
    length: int | None = None
    data_checksum: int = 0
    location: int = 0
    reserved: bytes | None = None
    spoil: int = 0

    def pack(self, extended: bool) -> bytes:
        length = len(self.data) if self.length is None else self.length
        crc = crc32c(struct.pack("<QIB", self.offset, length & 0xFFFFFFFF, self.operation) + self.data)
        reserved = self.reserved
        if reserved is None:
            reserved = struct.pack("<IH", crc, 0) if extended else bytes(6)
        fields = (length, self.stamp, self.operation, self.data_checksum, self.location, reserved)
        raw = ENTRY.pack(self.offset, 0, *fields)
        return ENTRY.pack(self.offset, checksum(raw, 8) ^ self.spoil, *fields)


@dataclass
class Group:
    """Entries and the block behind their data. What is None is computed, what is not is written as it stands."""

    entries: list[Entry] = field(default_factory=list)
    distance: int | None = None
    valid: int | None = None
    number: int | None = None
    prefix: bytes | None = None
    spoil: int = 0
    spoil_crc: int = 0
    unused: bytes = b""
    padding: bytes = b""


@dataclass
class Forge:
    """Lays a log down. `extended`: 2.1."""

    groups: list[Group]
    version: int = 0x00020000
    metadata_size: int = 4096
    cookie: bytes = b"msctlog "
    unique_id: UUID = LOG_ID
    end: int | None = None
    total: int | None = None
    file_type: int = 0
    room_size: int | None = None
    header_tail: bytes = b""
    spoil: int = 0

    def build(self) -> bytes:
        body, last = bytearray(), 0
        for number, group in enumerate(self.groups):
            body += b"".join(entry.data for entry in group.entries) + group.padding
            position = 4096 + len(body)
            body += self._block(group, number, position - last if last else 0)
            last = position
        end = 4096 + len(body) if self.end is None else self.end
        total = sum(len(group.entries) for group in self.groups) if self.total is None else self.total
        return self._header(end, total) + bytes(body)

    def _header(self, end: int, total: int) -> bytes:
        def pack(kept: int) -> bytes:
            fixed = HEADER.pack(
                self.cookie, self.version, 1000, b"ct  ", 0x000A0000, 0, end, kept, end, 0, self.metadata_size,
                self.unique_id.bytes_le, NIL, 1001, total, self.file_type, 0, bytes(range(16)),
            )  # fmt: skip
            return fixed + self.header_tail + bytes(4096 - 126 - len(self.header_tail))

        return pack(checksum(pack(0), 40) ^ self.spoil)

    def _block(self, group: Group, number: int, distance: int) -> bytes:
        extended = self.version == 0x00020001
        slots = b"".join(entry.pack(extended) for entry in group.entries)
        valid = len(group.entries) if group.valid is None else group.valid
        distance = distance if group.distance is None else group.distance
        reserved = NIL
        if extended:
            number = number if group.number is None else group.number
            prefix = self.unique_id.bytes_le[:8] if group.prefix is None else group.prefix
            head = BLOCK.pack(distance, valid, 0, prefix + struct.pack("<II", number, 0))
            crc = crc32c(head + slots, crc32c(self.unique_id.bytes_le)) ^ group.spoil_crc
            reserved = prefix + struct.pack("<II", number, crc)
        head = BLOCK.pack(distance, valid, 0, reserved)
        head = BLOCK.pack(distance, valid, checksum(head, 12) ^ group.spoil, reserved)
        size = self.metadata_size if self.room_size is None else self.room_size
        return (head + slots + group.unused).ljust(size, b"\0")
