"""The header of a change log, and the words for what may be wrong with one: [MS-HRL] 2.0 and our 2.1.

`docs/format.md` has the offset tables. Blocks and entries, of which a log has millions, are the kernels' business.
"""

from __future__ import annotations

import struct
from uuid import UUID

import msgspec

from .. import kernels
from ..errors import LogError
from ..units import format_time

HEADER_SIZE = 4096
METADATA_SIZE = 4096
VERSION_1, STRICT, EXTENDED = 0x00010000, 0x00020000, 0x00020001
VERSIONS = {VERSION_1: "1.0", STRICT: "2.0", EXTENDED: "2.1"}
#: Operations of an entry.
WRITE, ZERO = 1, 2
#: File types: a change log; the before-images of a replica, which nothing may apply to an image.
CHANGE_LOG, UNDO_LOG = 0, 1
#: The `source` of an entry that has no data.
NO_SOURCE = 2**64 - 1
NIL = UUID(int=0)
CREATOR, CREATOR_VERSION = b"brep", 0x00010000

#: An entry as the rest of the program works with it: a row of `kernels.ENTRIES`.
ENTRY = [("offset", "<u8"), ("length", "<u8"), ("source", "<u8"), ("log", "<u4"), ("operation", "<u4")]

_COOKIE = b"msctlog"
_FIELDS = struct.Struct("<8sII4sIQQIQiI16s16sIQIH16s")
_CHECKSUM_AT = 40
assert _FIELDS.size == 126
_EPOCH_2000 = 946684800


def timestamp(unix_s: float) -> int:
    """Seconds since 2000 as the format counts them; a clock outside its 136 years is clamped, not refused."""
    return min(max(int(unix_s) - _EPOCH_2000, 0), 2**32 - 1)


def time_text(stamp: int) -> str:
    """A time of the format in RFC 3339, UTC."""
    return format_time(stamp + _EPOCH_2000)


class Header(msgspec.Struct, frozen=True):
    """The fields of a header. Times are the format's; UUIDs stand in the file as `bytes_le`."""

    version: int
    unique_id: UUID
    previous_id: UUID
    #: None in version 1, which has none.
    data_write_guid: UUID | None
    timestamp: int
    modified: int
    #: EOLLocation: where the log ends; 0 while it is open.
    end: int = 0
    metadata_size: int = METADATA_SIZE
    total_entries: int = 0
    file_type: int = CHANGE_LOG
    creator: bytes = CREATOR
    creator_version: int = CREATOR_VERSION
    original_size: int = 0
    current_size: int = 0
    error_code: int = 0
    flags: int = 0

    @property
    def room(self) -> int:
        """How many entries a metadata block holds."""
        return (self.metadata_size - 32) // 32

    def encode(self) -> bytes:
        """The 4096 bytes, with their checksum."""
        raw = bytearray(HEADER_SIZE)
        guid = self.data_write_guid or NIL
        _FIELDS.pack_into(
            raw, 0, _COOKIE + b" ", self.version, self.timestamp, self.creator, self.creator_version,
            self.original_size, self.current_size, 0, self.end, self.error_code, self.metadata_size,
            self.unique_id.bytes_le, self.previous_id.bytes_le, self.modified, self.total_entries, self.file_type,
            self.flags, guid.bytes_le,
        )  # fmt: skip
        struct.pack_into("<I", raw, _CHECKSUM_AT, checksum(raw, _CHECKSUM_AT))
        return bytes(raw)

    @classmethod
    def decode(cls, raw: bytes, path: object) -> Header:
        """The header in the first 4096 bytes of a log; LogError when they are none that we know."""
        if len(raw) < HEADER_SIZE:
            raise LogError.at(path, len(raw), "change log cut short in its header", wanted=HEADER_SIZE, got=len(raw))
        if raw[:7] != _COOKIE or raw[7] not in b" \0":
            raise LogError.at(path, 0, "not a change log", wanted=_COOKIE + b" ", got=raw[:8])
        (_, version, created, creator, creator_version, original_size, current_size, kept, end, error_code,
         metadata_size, unique_id, previous_id, modified, total_entries, file_type, flags, guid) = (
            _FIELDS.unpack_from(raw))  # fmt: skip
        _check(path, raw, version, kept, metadata_size, file_type)
        return cls(
            version=version, unique_id=UUID(bytes_le=unique_id), previous_id=UUID(bytes_le=previous_id),
            data_write_guid=None if version == VERSION_1 else UUID(bytes_le=guid), timestamp=created,
            modified=modified, end=end, metadata_size=metadata_size, total_entries=total_entries,
            file_type=file_type, creator=creator, creator_version=creator_version, original_size=original_size,
            current_size=current_size, error_code=error_code, flags=flags,
        )  # fmt: skip


def checksum(data: bytes | bytearray, skip: int) -> int:
    """The [MS-HRL] checksum of `data` without the four bytes at `skip`: the complement of the sum of its bytes."""
    return ~(kernels.byte_sum(data) - sum(data[skip : skip + 4])) & 0xFFFFFFFF


def _check(path: object, raw: bytes, version: int, kept: int, metadata_size: int, file_type: int) -> None:
    """What must be right before a field of the header is believed."""
    right = checksum(raw[:HEADER_SIZE], _CHECKSUM_AT)
    if kept != right:
        raise LogError.at(path, _CHECKSUM_AT, "header checksum", wanted=f"{right:#010x}", got=f"{kept:#010x}")
    if version not in VERSIONS:
        known = ", ".join(f"{number:#010x}" for number in VERSIONS)
        raise LogError.at(path, 8, "log format version", wanted=known, got=f"{version:#010x}")
    if metadata_size % 512 or not 512 <= metadata_size <= 2**20:
        wanted = "a multiple of 512 up to 1 MiB"
        raise LogError.at(path, 56, "size of a metadata block", wanted=wanted, got=metadata_size)
    if file_type not in (CHANGE_LOG, UNDO_LOG):
        raise LogError.at(path, 104, "file type", wanted="0 (change log) or 1 (undo log)", got=file_type)
    if version == EXTENDED and any(raw[_FIELDS.size : HEADER_SIZE]):
        at = next(i for i in range(_FIELDS.size, HEADER_SIZE) if raw[i])
        raise LogError.at(path, at, "reserved byte of the header", wanted=0, got=raw[at])


#: What the kernels call by number (enum hrl_fault_code in native/hrl.h): the words, and how its numbers are shown.
FAULTS: dict[int, tuple[str, str]] = {
    8: ("distance to the metadata block before", "d"),
    9: ("entries in a metadata block", "d"),
    10: ("checksum of a metadata block", "#010x"),
    11: ("log that a metadata block belongs to", "#018x"),
    12: ("number of a metadata block", "d"),
    13: ("CRC of a metadata block", "#010x"),
    14: ("byte in an unused slot of a metadata block", "d"),
    15: ("checksum of an entry", "#010x"),
    16: ("operation of an entry", "d"),
    17: ("location of an entry's data", "d"),
    18: ("entry beyond what a disk can have", "d"),
    19: ("data between two metadata blocks", "d"),
    20: ("CRC of an entry and its data", "#010x"),
    21: ("checksum of an entry's data", "#010x"),
    22: ("log cut short", "d"),
    6: ("reserved bytes of an entry", "d"),
}

#: Code, offset in the file, wanted, got; code 0: nothing is wrong.
Fault = tuple[int, int, int, int]


def raise_fault(path: object, fault: Fault) -> None:
    """LogError for what the kernels found wrong; nothing when they found nothing."""
    code, at, wanted, got = fault
    if code:
        what, shown = FAULTS[code]
        hint = "`blockreplica hrl show --salvage` lists what stands before it"
        raise LogError.at(path, at, what, wanted=format(wanted, shown), got=format(got, shown), hint=hint)
