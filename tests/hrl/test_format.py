"""The header, the checksums, and the worked example of the specification."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blockreplica.errors import LogError
from blockreplica.hrl import Header, LogReader, format, time_text, timestamp
from hrl.ms_hrl import BLOCK, ENTRY, HEADER, Entry, Forge, Group, checksum

#: ByteOffset, DataLength, Checksum of the worked example's first entries; TimeStamp 539842381, MetaOperation 1, rest 0.
EXAMPLE = [
    (3626348544, 4096, 4294966608),
    (8026886144, 4096, 4294966558),
    (3699798016, 4096, 4294966571),
    (3700805632, 4096, 4294966460),
    (4111884288, 4096, 4294966674),
    (139466752, 2048, 4294966933),
]


def test_an_empty_first_block_has_the_worked_examples_checksum() -> None:
    assert format.checksum(BLOCK.pack(0, 0, 4294967295, bytes(16)), 12) == 4294967295


def test_the_second_block_has_the_worked_examples_checksum() -> None:
    assert format.checksum(BLOCK.pack(324096, 58, 4294966991, bytes(16)), 12) == 4294966991


@pytest.mark.parametrize(("offset", "length", "wanted"), EXAMPLE)
def test_entries_have_the_worked_examples_checksums(offset: int, length: int, wanted: int) -> None:
    raw = ENTRY.pack(offset, wanted, length, 539842381, 1, 0, 0, bytes(6))
    assert format.checksum(raw, 8) == wanted


def worked_example() -> tuple[bytes, list[tuple[int, int]]]:
    """A log laid out like the worked example: its six entries and 52 more, 320000 bytes of data between two blocks."""
    known = [(offset, length) for offset, length, _ in EXAMPLE]
    rest = 320000 - sum(length for _, length in known)
    others = [(4096 * i, rest // 52 // 512 * 512) for i in range(51)]
    others.append((4096 * 51, rest - sum(length for _, length in others)))
    entries = [Entry(offset, os.urandom(length)) for offset, length in known + others]
    return Forge([Group(), Group(entries)]).build(), known + others


@pytest.mark.usefixtures("implementation")
def test_a_log_like_the_worked_example_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hyperv.hrl"
    raw, wanted = worked_example()
    assert BLOCK.unpack_from(raw, 328192)[:3] == (324096, 58, 4294966991)
    assert BLOCK.unpack_from(raw, 4096)[2] == 4294967295
    for index, (_, _, wanted_checksum) in enumerate(EXAMPLE):
        assert ENTRY.unpack_from(raw, 328192 + 32 + 32 * index)[1] == wanted_checksum
    path.write_bytes(raw)
    with LogReader.open(path) as log:
        assert (log.end, log.total, log.closed, log.salvaged) == (332288, 58, True, False)
        (entries,) = log.entries()
        assert log.check().data == "unchecked"
    assert entries[["offset", "length"]].tolist() == wanted
    assert entries["source"][0] == 8192
    assert set(entries["operation"]) == {1}


@settings(deadline=None)
@given(st.integers(-(2**40), 2**40))
def test_clocks_are_clamped_to_what_the_format_holds(seconds: int) -> None:
    assert timestamp(seconds) == min(max(seconds - 946684800, 0), 2**32 - 1)


def test_times_count_from_the_year_2000() -> None:
    assert time_text(timestamp(946684800.9)) == "2000-01-01T00:00:00.000000Z"
    assert time_text(539842381) == "2017-02-08T04:13:01.000000Z"
    assert time_text(2**32 - 1).startswith("2136-02-07T")


HEADERS = st.builds(
    Header,
    version=st.sampled_from([0x00010000, 0x00020000, 0x00020001]),
    unique_id=st.uuids(),
    previous_id=st.uuids(),
    data_write_guid=st.uuids(),
    timestamp=st.integers(0, 2**32 - 1),
    modified=st.integers(0, 2**32 - 1),
    end=st.integers(0, 2**64 - 1),
    metadata_size=st.integers(1, 2048).map(lambda units: 512 * units),
    total_entries=st.integers(0, 2**64 - 1),
    file_type=st.integers(0, 1),
    creator=st.binary(min_size=4, max_size=4),
    creator_version=st.integers(0, 2**32 - 1),
    original_size=st.integers(0, 2**64 - 1),
    current_size=st.integers(0, 2**64 - 1),
    error_code=st.integers(-(2**31), 2**31 - 1),
    flags=st.integers(0, 2**16 - 1),
).map(lambda header: replace(header, data_write_guid=None) if header.version == 0x00010000 else header)


@settings(deadline=None)
@given(HEADERS)
def test_a_header_comes_back_as_it_was_encoded(header: Header) -> None:
    raw = header.encode()
    assert len(raw) == 4096
    assert Header.decode(raw, "log") == header


def test_header_fields_stand_where_the_specification_says() -> None:
    header = Header(
        version=0x00020000, unique_id=uuid4(), previous_id=uuid4(), data_write_guid=uuid4(), timestamp=5, modified=6,
        end=7, metadata_size=1024, total_entries=8, file_type=0, creator=b"brep", creator_version=9, original_size=10,
        current_size=11, error_code=-12, flags=13,
    )  # fmt: skip
    raw = header.encode()
    assert HEADER.unpack_from(raw) == (
        b"msctlog ", 0x00020000, 5, b"brep", 9, 10, 11, checksum(raw, 40), 7, -12, 1024, header.unique_id.bytes_le,
        header.previous_id.bytes_le, 6, 8, 0, 13, (header.data_write_guid or UUID(int=0)).bytes_le,
    )  # fmt: skip
    assert not any(raw[126:])


@pytest.mark.parametrize("eighth", [b" ", b"\0"])
@pytest.mark.parametrize("version", [0x00010000, 0x00020000, 0x00020001])
def test_the_cookie_may_end_in_a_space_or_a_nul(version: int, eighth: bytes) -> None:
    raw = Forge([Group()], version=version, cookie=b"msctlog" + eighth).build()
    header = Header.decode(raw, "log")
    assert header.version == version
    assert (header.data_write_guid is None) == (version == 0x00010000)


@pytest.mark.parametrize("length", [0, 1, 4095])
def test_a_short_header_is_refused(length: int) -> None:
    with pytest.raises(LogError, match="wanted 4096"):
        Header.decode(Forge([Group()]).build()[:length], "log")


@pytest.mark.parametrize(
    ("forged", "what"),
    [
        (Forge([], cookie=b"msctlogx"), "not a change log"),
        (Forge([], cookie=b"MSCTLOG "), "not a change log"),
        (Forge([], version=0x00020002), "log format version"),
        (Forge([], version=0x00030000), "log format version"),
        (Forge([], version=0), "log format version"),
        (Forge([], metadata_size=0), "size of a metadata block"),
        (Forge([], metadata_size=513), "size of a metadata block"),
        (Forge([], metadata_size=2**20 + 512), "size of a metadata block"),
        (Forge([], metadata_size=2**32 - 512), "size of a metadata block"),
        (Forge([], file_type=2), "file type"),
        (Forge([], spoil=1), "header checksum"),
        (Forge([], version=0x00020001, header_tail=b"\0\0\1"), "reserved byte of the header at offset 128"),
    ],
)
def test_a_forged_header_is_refused(tmp_path: Path, forged: Forge, what: str) -> None:
    path = tmp_path / "forged.hrl"
    path.write_bytes(forged.build() + bytes(8192))
    for salvage in (False, True):
        with pytest.raises(LogError, match=what) as caught:
            LogReader.open(path, salvage=salvage)
        assert str(path) in str(caught.value)


def test_every_flipped_bit_of_a_header_is_found() -> None:
    raw = bytearray(Forge([Group()], version=0x00020001).build()[:4096])
    for bit in range(8 * 4096):
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LogError):
            Header.decode(bytes(raw), "log")
        raw[bit // 8] ^= 1 << bit % 8


def test_flags_of_foreign_headers_are_kept() -> None:
    raw = bytearray(Forge([Group()]).build()[:4096])
    struct.pack_into("<H", raw, 108, 3)
    struct.pack_into("<I", raw, 40, checksum(bytes(raw), 40))
    assert Header.decode(bytes(raw), "log").flags == 3
