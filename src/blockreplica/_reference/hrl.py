"""Twins of the change log's kernels, and their definition: slow, plain, and bit for bit what native/hrl*.c does.

A log is named by the 4096 bytes of its header, which must be a valid one. A fault is (code, offset in the file, wanted,
got); code 0 means that nothing is wrong, the others are those of native/hrl.h. Rows are those of `kernels.ENTRIES`.
Raises ValueError for arguments that can't be, OSError when the system can't read.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import msgspec

from .sums import byte_sum, crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

_VERSION_1, _STRICT, _EXTENDED = 0x00010000, 0x00020000, 0x00020001
_WRITE, _ZERO = 1, 2
_HEADER_SIZE, _MOST_METADATA, _DISK_LIMIT = 4096, 1 << 20, 2**63 - 1
_RESERVED, _PREVIOUS, _COUNT, _BLOCK_CHECKSUM, _BINDING, _NUMBER, _BLOCK_CRC, _UNUSED_SLOT = 6, *range(8, 15)
_ENTRY_CHECKSUM, _OPERATION, _LOCATION, _EXTENT, _DISTANCE, _ENTRY_CRC, _DATA_CHECKSUM, _CUT_SHORT = range(15, 23)

_BLOCK = struct.Struct("<QII8sII")
_ENTRY = struct.Struct("<QIIIBIBIH")
_ROW = struct.Struct("<QQQII")
_STATE = struct.Struct("<6Q")
assert (_BLOCK.size, _ENTRY.size, _ROW.size, _STATE.size) == (32, 32, 32, 48)

_Fault = tuple[int, int, int, int]
_RIGHT: _Fault = (0, 0, 0, 0)
_WASTED_FREE, _WASTED_SHARE = 64 << 20, 4


class _FaultError(Exception):
    """A fault on its way out; its offset is in the structure at first, in the file after `moved`."""

    def __init__(self, code: int, at: int, wanted: int, got: int) -> None:
        super().__init__(code)
        self.fault = (code, at, wanted, got)

    def moved(self, by: int) -> _FaultError:
        code, at, wanted, got = self.fault
        return _FaultError(code, at + by, wanted, got)


class _Log(msgspec.Struct, frozen=True):
    fd: int
    extended: bool
    metadata_size: int
    unique_id: bytes

    @property
    def room(self) -> int:
        return (self.metadata_size - 32) // 32


class _Entry(msgspec.Struct, frozen=True):
    offset: int
    length: int
    stamp: int
    operation: int
    data_checksum: int
    crc: int

    @property
    def data_length(self) -> int:
        return self.length if self.operation == _WRITE else 0


def hrl_walk(fd: int, header: Buffer, position: int, positions: Buffer) -> tuple[int, int, int, _Fault]:
    """Walk back from the block at `position`: u64 positions, newest first, until there is no room or no block.

    Returns how many, the entries in them, the position of the next block (0: there is none), the fault.
    """
    log, out = _log("hrl_walk", fd, header), memoryview(positions).cast("B")
    if not _HEADER_SIZE <= position < 2**63 or len(out) < 8:
        raise ValueError("hrl_walk: position must be behind the header, and positions have room for one")
    count = entries = 0
    try:
        while position and count < len(out) // 8:
            distance, held = _block_header(log, _read_at(fd, 32, position), position)[:2]
            most = position - _HEADER_SIZE
            if distance and not log.metadata_size <= distance <= most:
                raise _FaultError(_PREVIOUS, position, most, distance)
            struct.pack_into("<Q", out, 8 * count, position)
            count, entries = count + 1, entries + held
            position = position - distance if distance else 0
    except _FaultError as error:
        return count, entries, position, error.fault
    return count, entries, position, _RIGHT


def hrl_read(
    fd: int, header: Buffer, positions: Buffer, end: int, number: int, rows: Buffer, stamps: Buffer, *,
    data: bool = False, slots: bool = False,
) -> tuple[int, int, int, _Fault]:  # fmt: skip
    """Check the blocks at `positions` (u64, ascending), put their entries into `rows`, their times into `stamps`.

    `end` is where the block before them ends, `number` how many stand before. `data` checks their data too, `slots`
    that unused slots of strict logs are zero. Stops when `rows` has no room for a block's entries. Returns blocks and
    rows, write entries whose data carries no checksum, the fault.
    """
    log, out, times = _log("hrl_read", fd, header), memoryview(rows).cast("B"), memoryview(stamps).cast("B")
    room = len(out) // 32
    if room < log.room or len(times) // 4 < room:
        raise ValueError("hrl_read: rows must have room for a block's entries, stamps for as many")
    blocks = count = unchecked = 0
    try:
        for (position,) in struct.iter_unpack("<Q", bytes(memoryview(positions).cast("B"))):
            entries = _block(log, end, number, position, slots=slots)
            if len(entries) > room - count:
                break
            unchecked += _check_data(log, entries, end) if data else 0
            for entry in entries:
                source = end if entry.operation == _WRITE else 2**64 - 1
                _ROW.pack_into(out, 32 * count, entry.offset, entry.length, source, 0, entry.operation)
                struct.pack_into("<I", times, 4 * count, entry.stamp)
                count, end = count + 1, end + entry.data_length
            blocks, number, end = blocks + 1, number + 1, position + log.metadata_size
    except _FaultError as error:
        return blocks, count, unchecked, error.fault
    return blocks, count, unchecked, _RIGHT


def hrl_salvage(fd: int, header: Buffer, limit: int, budget: int, state: Buffer) -> int:
    """Look for the blocks of an unclosed log in the first `limit` bytes of the file; 1 when there are no more, else 0.

    `state`: end of the last good block (4096), blocks (0), position of the last (0), entries (0), where the search
    goes on (4096), bytes wasted (0), six u64; in brackets what to start with. `budget`: bytes to go through in a call.
    """
    log, kept = _log("hrl_salvage", fd, header), memoryview(state).cast("B")
    if len(kept) != _STATE.size:
        raise ValueError("hrl_salvage: state must have six numbers of 8 bytes")
    search = _Search(log, limit, *_STATE.unpack(kept))
    if not _HEADER_SIZE <= search.end <= search.scan < 2**63:
        raise ValueError("hrl_salvage: state is none")
    begin, done = search.scan, False
    while not done and search.scan - begin <= budget:
        done = search.step()
    numbers = (search.end, search.number, search.last, search.entries, search.scan, search.wasted)
    _STATE.pack_into(kept, 0, *numbers)
    return int(done)


class _Search(msgspec.Struct):
    log: _Log
    limit: int
    end: int
    number: int
    last: int
    entries: int
    scan: int
    wasted: int

    def step(self) -> bool:
        """Look at the places of one window; True when the search is over."""
        if self.limit - self.scan < self.log.metadata_size:
            return True
        window = os.pread(self.log.fd, min(1 << 20, self.limit - self.scan), self.scan)
        if len(window) < 32:
            return True
        base = self.scan
        for at in range(len(window) - 31):
            if not self._may_be(window, at, base):
                continue
            if self.wasted > _WASTED_FREE and self.wasted // _WASTED_SHARE > self.limit:
                return True
            verdict = self._judge(base + at)
            if verdict is not None:
                return verdict
        self.scan = base + len(window) - 31
        return False

    def _may_be(self, window: bytes, at: int, base: int) -> bool:
        distance = base + at - self.last if self.last else 0
        if int.from_bytes(window[at : at + 8], "little") != distance:
            return False
        try:
            _, _, number, _ = _block_header(self.log, window[at : at + 32], 0)
        except _FaultError:
            return False
        return not self.log.extended or number == self.number & 0xFFFFFFFF

    def _judge(self, position: int) -> bool | None:
        """None: no block stands here; False: the next one does; True: the search is over."""
        if self.limit - position < self.log.metadata_size:
            return True
        try:
            entries = _block(self.log, self.end, self.number, position, slots=False)
        except _FaultError:
            self.wasted += self.log.metadata_size
            return None
        try:
            _check_data(self.log, entries, self.end)
        except _FaultError:
            return True
        self.last, self.entries = position, self.entries + len(entries)
        self.end, self.number = position + self.log.metadata_size, self.number + 1
        self.scan = self.end
        return False


def hrl_encode(header: Buffer, rows: Buffer, data: Buffer, stamps: Buffer, out: Buffer) -> None:
    """Rows, whose sources are offsets in `data`, as entries of the log into `out`; `stamps` has their times.

    In 2.1 with the CRC, in strict logs with the data's checksum.
    """
    log, place = _log("hrl_encode", -1, header), memoryview(out).cast("B")
    table, content, times = memoryview(rows).cast("B"), memoryview(data).cast("B"), memoryview(stamps).cast("B")
    if len(table) % 32 or len(place) // 32 < len(table) // 32:
        raise ValueError("hrl_encode: rows must be whole, and out have 32 bytes for each")
    if len(times) // 4 < len(table) // 32:
        raise ValueError("hrl_encode: stamps must have 4 bytes for each row")
    for index, (offset, length, source, _, operation) in enumerate(_ROW.iter_unpack(table)):
        fits = length < 2**32 and offset <= _DISK_LIMIT and length <= _DISK_LIMIT - offset
        known = operation == _WRITE or (operation == _ZERO and log.extended)
        inside = operation != _WRITE or (source <= len(content) and length <= len(content) - source)
        if not (fits and known and inside):
            raise ValueError("hrl_encode: a row is outside the disk or the data, too long, or of no known operation")
        piece = bytes(content[source : source + length]) if operation == _WRITE else b""
        crc = crc32c(piece, crc32c(struct.pack("<QIB", offset, length, operation))) if log.extended else 0
        summed = 0 if log.extended else ~byte_sum(piece) & 0xFFFFFFFF
        (stamp,) = struct.unpack_from("<I", times, 4 * index)
        raw = bytearray(_ENTRY.pack(offset, 0, length, stamp, operation, summed, 0, crc, 0))
        struct.pack_into("<I", raw, 8, _checksum(raw, 8))
        place[32 * index : 32 * index + 32] = raw


def hrl_block(header: Buffer, block: Buffer, distance: int, number: int, entries: int) -> None:
    """Finish a block whose first `entries` slots are encoded: writes its header, zeroes the other slots."""
    log, raw = _log("hrl_block", -1, header), memoryview(block).cast("B")
    if len(raw) != log.metadata_size or entries > log.room:
        raise ValueError("hrl_block: block must have the log's metadata size, and entries fit into it")
    used = 32 + 32 * entries
    raw[used:] = bytes(len(raw) - used)
    if log.extended:
        _BLOCK.pack_into(raw, 0, distance, entries, 0, log.unique_id[:8], number & 0xFFFFFFFF, 0)
        struct.pack_into("<I", raw, 28, _block_crc(log, bytes(raw), entries))
    else:
        _BLOCK.pack_into(raw, 0, distance, entries, 0, b"", 0, 0)
    struct.pack_into("<I", raw, 12, _checksum(raw[:32], 12))


def _log(function: str, fd: int, header: Buffer) -> _Log:
    raw = bytes(memoryview(header).cast("B"))
    known = len(raw) == _HEADER_SIZE and raw[:7] == b"msctlog" and raw[7] in b" \0"
    if not known or _checksum(raw, 40) != struct.unpack_from("<I", raw, 40)[0]:
        raise ValueError(f"{function}: header is not that of a log")
    version, size = struct.unpack_from("<I", raw, 8)[0], struct.unpack_from("<I", raw, 56)[0]
    if version not in (_VERSION_1, _STRICT, _EXTENDED) or size % 512 or not 512 <= size <= _MOST_METADATA:
        raise ValueError(f"{function}: header is not that of a log")
    return _Log(fd, version == _EXTENDED, size, raw[60:76])


def _checksum(raw: Buffer, skip: int) -> int:
    """The [MS-HRL] checksum: the complement of the sum of the bytes, without the four at `skip`."""
    view = memoryview(raw)
    return ~(byte_sum(view) - byte_sum(view[skip : skip + 4])) & 0xFFFFFFFF


def _block_crc(log: _Log, block: bytes, entries: int) -> int:
    """CRC-32C behind the log's UUID of the header, checksum and CRC counted as zero, and the valid entries."""
    header = block[:12] + bytes(4) + block[16:28] + bytes(4)
    return crc32c(header + block[32 : 32 + 32 * entries], crc32c(log.unique_id))


def _read_at(fd: int, length: int, at: int) -> bytes:
    data = os.pread(fd, length, at)
    if len(data) < length:
        raise _FaultError(_CUT_SHORT, at, at + length, at + len(data))
    return data


def _block_header(log: _Log, raw: bytes, position: int) -> tuple[int, int, int, int]:
    """Distance, entries, number and CRC of the header at `position`, which must be this log's."""
    distance, entries, checksum, prefix, number, crc = _BLOCK.unpack(raw)
    right = _checksum(raw, 12)
    if checksum != right:
        raise _FaultError(_BLOCK_CHECKSUM, position + 12, right, checksum)
    if log.extended and prefix != log.unique_id[:8]:
        numbers = int.from_bytes(log.unique_id[:8], "little"), int.from_bytes(prefix, "little")
        raise _FaultError(_BINDING, position + 16, *numbers)
    if entries > log.room:
        raise _FaultError(_COUNT, position + 8, log.room, entries)
    return distance, entries, number, crc


def _entry(log: _Log, raw: bytes, at: int) -> _Entry:
    offset, checksum, length, stamp, operation, data_checksum, location, crc, reserved = _ENTRY.unpack(raw)
    right = _checksum(raw, 8)
    if checksum != right:
        raise _FaultError(_ENTRY_CHECKSUM, at + 8, right, checksum)
    if operation != _WRITE and not (operation == _ZERO and log.extended):
        raise _FaultError(_OPERATION, at + 20, _WRITE, operation)
    if location:
        raise _FaultError(_LOCATION, at + 25, 0, location)
    if log.extended and reserved:
        raise _FaultError(_RESERVED, at + 30, 0, reserved)
    if offset > _DISK_LIMIT or length > _DISK_LIMIT - offset:
        raise _FaultError(_EXTENT, at, _DISK_LIMIT, offset)
    return _Entry(offset, length, stamp, operation, data_checksum, crc if log.extended else 0)


def _block(log: _Log, end: int, number: int, position: int, *, slots: bool) -> list[_Entry]:
    """The entries of the block at `position`, which must fit behind the one that ends at `end`."""
    if position < end:
        raise _FaultError(_PREVIOUS, position, end, position)
    block, gap = _read_at(log.fd, log.metadata_size, position), position - end
    distance = gap + log.metadata_size if number else 0
    found = int.from_bytes(block[:8], "little")
    if found != distance:
        raise _FaultError(_PREVIOUS, position, distance, found)
    _, count, found, crc = _block_header(log, block[:32], position)
    if log.extended and found != number & 0xFFFFFFFF:
        raise _FaultError(_NUMBER, position + 24, number & 0xFFFFFFFF, found)
    entries = [_entry(log, block[at : at + 32], position + at) for at in range(32, 32 + 32 * count, 32)]
    filled = sum(entry.data_length for entry in entries)
    if filled != gap:
        raise _FaultError(_DISTANCE, position, gap, filled)
    if log.extended and crc != _block_crc(log, block, count):
        raise _FaultError(_BLOCK_CRC, position + 28, _block_crc(log, block, count), crc)
    if slots or log.extended:
        for at in range(32 + 32 * count, log.metadata_size):
            if block[at]:
                raise _FaultError(_UNUSED_SLOT, position + at, 0, block[at])
    return entries


def _check_data(log: _Log, entries: list[_Entry], at: int) -> int:
    """Check the data of a block's entries, which begins at `at`; how many carry no checksum of theirs."""
    unchecked = 0
    for entry in entries:
        if not log.extended and not entry.data_checksum and entry.length:
            unchecked += 1
        else:
            _check_entry_data(log, entry, at)
        at += entry.data_length
    return unchecked


def _check_entry_data(log: _Log, entry: _Entry, at: int) -> None:
    crc, summed = crc32c(struct.pack("<QIB", entry.offset, entry.length, entry.operation)), 0
    start, end = at, at + entry.data_length
    while start < end:
        piece = os.pread(log.fd, min(end - start, 1 << 18), start)
        if not piece:
            raise _FaultError(_CUT_SHORT, start, end, start)
        crc, summed, start = crc32c(piece, crc), summed + byte_sum(piece), start + len(piece)
    summed = ~summed & 0xFFFFFFFF
    if log.extended and crc != entry.crc:
        raise _FaultError(_ENTRY_CRC, at, crc, entry.crc)
    if entry.data_checksum and summed != entry.data_checksum:
        raise _FaultError(_DATA_CHECKSUM, at, summed, entry.data_checksum)
