"""Reading: what is right is read, what is hostile gets a typed error that names the place."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from blockreplica.errors import LogError, LogOpenError, NotFoundError
from blockreplica.hrl import LogReader
from blockreplica.hrl import chain as chain_module
from hrl.ms_hrl import Entry, Forge, Group, checksum
from hrl.tools import flat, ops_of, read, some_groups, write

V1, V2, V21 = 0x00010000, 0x00020000, 0x00020001
A, B, C = Entry(0, b"first" * 3), Entry(4096, b"second"), Entry(1, b"third!")
pytestmark = pytest.mark.usefixtures("implementation")


def put(folder: Path, forge: Forge, tail: bytes = b"") -> Path:
    path = folder / "forged.hrl"
    path.write_bytes(forge.build() + tail)
    return path


@pytest.mark.parametrize("version", [V1, V2, V21])
@pytest.mark.parametrize("size", [512, 1024, 4096, 8192, 2**20])
@pytest.mark.parametrize("empty", [True, False])
def test_logs_of_every_version_and_block_size_are_read(tmp_path: Path, version: int, size: int, empty: bool) -> None:
    groups = [Group()] * empty + [Group([A, B]), Group(), Group([C])]
    path = put(tmp_path, Forge(groups, version=version, metadata_size=size), tail=b"x" * 99)
    assert read(path) == [(entry.offset, entry.data) for entry in (A, B, C)]
    assert read(path, salvage=True) == read(path)


@pytest.mark.parametrize("version", [V2, V21])
def test_a_log_without_any_block_is_empty(tmp_path: Path, version: int) -> None:
    assert read(put(tmp_path, Forge([], version=version))) == []


def test_batches_cover_all_entries_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    groups = [[(i * 100 + j, bytes([j + 1])) for j in range(15)] for i in range(20)]
    write(path, groups)
    with LogReader.open(path) as reader:
        for rows in (1, 15, 16, 299, 300, 65536):
            batches = list(reader.entries(rows))
            assert max(map(len, batches)) <= max(rows, reader.header.room)
            assert np.concatenate(batches)["offset"].tolist() == [offset for offset, _ in flat(groups)]


def test_a_long_chain_is_walked_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.hrl"
    groups = [[(i, bytes([i % 255 + 1]))] for i in range(50)]
    write(path, groups)
    for piece in (1, 2, 7, 50, 51, 52):
        monkeypatch.setattr(chain_module, "PIECE", piece)
        assert read(path) == flat(groups)


def test_the_data_of_strict_logs_is_unchecked_where_it_has_no_checksum(tmp_path: Path) -> None:
    right = Entry(7, b"data", data_checksum=~sum(b"data") & 0xFFFFFFFF)
    for entries, wanted in [([right, A], "unchecked"), ([right], "checked"), ([], "checked"), ([Entry(5)], "checked")]:
        with LogReader.open(put(tmp_path, Forge([Group(entries)]))) as reader:
            assert reader.check().data == wanted
            assert reader.check(data=False).data == "unchecked"


def test_a_data_checksum_that_is_there_must_be_right(tmp_path: Path) -> None:
    path = put(tmp_path, Forge([Group([A, Entry(7, b"data", data_checksum=1)])]))
    with LogReader.open(path) as reader:
        assert ops_of(reader) == [(0, A.data), (7, b"data")]
        with pytest.raises(LogError, match="checksum of an entry's data at offset 4111"):
            reader.check()


def test_the_summary_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    write(path, [[(10, b"abc"), (5, b"")], [(100, 1 << 33)], [(2, b"defg")]])
    with LogReader.open(path) as reader:
        summary = reader.check()
    assert (summary.version, summary.blocks, summary.entries) == ("2.1", 4, 3 + 4)
    assert (summary.data_bytes, summary.zero_bytes, summary.writes_end, summary.data) == (7, 1 << 33, 13, "checked")


HOSTILE = [
    (Forge([Group([A], distance=1)]), "distance to the metadata block before"),
    (Forge([Group(), Group([A], distance=511)]), "distance to the metadata block before"),
    (
        Forge([Group(), Group([A], distance=0)]),
        "data between two metadata blocks|distance to|number of a metadata block",
    ),
    (Forge([Group(), Group([A], distance=2**64 - 1)]), "distance to the metadata block before"),
    (Forge([Group(), Group([A], distance=2**63)]), "distance to the metadata block before"),
    (Forge([Group(), Group([A]), Group([B], distance=1024)], metadata_size=512), "metadata block"),
    (Forge([Group(), Group([Entry(0, b"abc", length=2)])]), "data between two metadata blocks"),
    (Forge([Group(), Group([Entry(0, b"abc", length=2**32 - 1)])]), "data between two metadata blocks"),
    (Forge([Group([A], padding=b"?")]), "data between two metadata blocks"),
    (Forge([Group([A], valid=0)], total=0), "data between two metadata blocks"),
    (Forge([Group([A], valid=2)], total=2), "checksum of an entry|CRC of a metadata block"),
    (Forge([Group([A], valid=128)], total=128), "entries in a metadata block"),
    (Forge([Group([A], valid=2**32 - 1)], total=2**32 - 1), "entries in a metadata block"),
    (Forge([Group([A], spoil=1)]), "checksum of a metadata block"),
    (Forge([Group([Entry(0, b"abc", spoil=4)])]), "checksum of an entry"),
    (Forge([Group([Entry(0, b"abc", operation=0)])]), "operation of an entry"),
    (Forge([Group([Entry(0, b"abc", operation=3)])]), "operation of an entry"),
    (Forge([Group([Entry(0, b"abc", location=1)])]), "location of an entry's data"),
    (Forge([Group([Entry(2**63 - 2, b"abc")])]), "entry beyond what a disk can have"),
    (Forge([Group([Entry(2**64 - 1, b"abc")])]), "entry beyond what a disk can have"),
    (Forge([Group([A])], total=0), "entries in the log"),
    (Forge([Group([A])], total=2**64 - 1), "entries in the log"),
    (Forge([Group([A])], end=4095), "end of the log"),
    (Forge([Group([A])], end=4097), "end of the log"),
    (Forge([Group([A])], end=8191), "end of the log"),
    (Forge([Group([A])], end=2**64 - 1), "end of the log"),
    (Forge([Group([A])], end=2**63), "end of the log"),
    (Forge([Group([A])], metadata_size=512, end=4096 + 512), "metadata block"),
    (Forge([Group([A], unused=b"\1")]), "byte in an unused slot"),
]


@pytest.mark.parametrize("version", [V2, V21])
@pytest.mark.parametrize(("forge", "what"), HOSTILE)
def test_what_is_hostile_is_refused(tmp_path: Path, forge: Forge, what: str, version: int) -> None:
    path = put(tmp_path, Forge(**{**vars(forge), "version": version}))
    with pytest.raises(LogError, match=what) as caught, LogReader.open(path) as reader:
        reader.check()
    assert type(caught.value) is LogError
    assert str(path) in str(caught.value)
    assert " at offset " in str(caught.value)


ONLY_21 = [
    (Forge([Group([A], number=1)]), "number of a metadata block"),
    (Forge([Group(), Group([A], number=0)]), "number of a metadata block"),
    (Forge([Group([A], prefix=bytes(8))]), "log that a metadata block belongs to"),
    (Forge([Group([A], spoil_crc=1)]), "CRC of a metadata block"),
    (Forge([Group([Entry(0, b"abc", reserved=bytes(6))])]), "CRC of an entry and its data"),
    (Forge([Group([Entry(0, b"", reserved=b"\0\0\0\0\1\0")])]), "reserved bytes of an entry"),
    (Forge([Group([Entry(2**63 - 1, b"", operation=2, length=1)])]), "entry beyond what a disk can have"),
    (Forge([Group([Entry(0, b"abc", operation=2)])]), "data between two metadata blocks"),
]


@pytest.mark.parametrize(("forge", "what"), ONLY_21)
def test_what_binds_a_log_of_version_2_1_is_checked(tmp_path: Path, forge: Forge, what: str) -> None:
    path = put(tmp_path, Forge(**{**vars(forge), "version": V21}))
    with pytest.raises(LogError, match=what), LogReader.open(path) as reader:
        reader.check()


def test_zero_entries_exist_in_version_2_1_only(tmp_path: Path) -> None:
    groups = [Group([Entry(0, b"", operation=2, length=2**32 - 1)])]
    assert read(put(tmp_path, Forge(groups, version=V21))) == [(0, 2**32 - 1)]
    for version in (V1, V2):
        with pytest.raises(LogError, match="operation of an entry"):
            read(put(tmp_path, Forge(groups, version=version)))


def test_foreign_rubbish_in_unused_slots_hinders_verify_but_not_reading(tmp_path: Path) -> None:
    path = put(tmp_path, Forge([Group([A], unused=b"stale")]))
    with LogReader.open(path) as reader:
        assert ops_of(reader) == [(0, A.data)]
        assert reader.check(slots=False).entries == 1
        with pytest.raises(LogError, match="unused slot"):
            reader.check()


def test_an_unclosed_log_says_that_it_was_not_closed(tmp_path: Path) -> None:
    path = tmp_path / "open.hrl"
    write(path, some_groups(1), close=False)
    with pytest.raises(LogOpenError, match="not closed"):
        LogReader.open(path)


def test_a_log_shorter_than_its_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    write(path, some_groups(2))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(LogError, match="end of the log"):
        LogReader.open(path)


def test_a_missing_log_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        LogReader.open(tmp_path / "none.hrl")


def test_what_stands_behind_the_end_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    groups = some_groups(3)
    ends = write(path, groups)
    with path.open("r+b") as file:
        file.seek(ends[-1])
        file.write(os.urandom(20000))
    assert read(path) == flat(groups)


def test_swapped_bytes_of_data_are_found_though_the_byte_sum_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    (start,) = write(path, [])
    path.unlink()
    write(path, [[(0, b"ab" * 100)]])
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"ba")
    with pytest.raises(LogError, match="CRC of an entry and its data"):
        read(path)


def test_swapped_entries_are_found_though_their_checksums_stay(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    _, end = write(path, [[(0, b"first"), (9, b"other")]])
    raw = bytearray(path.read_bytes())
    slots = end - 512 + 32
    raw[slots : slots + 64] = raw[slots + 32 : slots + 64] + raw[slots : slots + 32]
    path.write_bytes(raw)
    with pytest.raises(LogError, match="CRC of a metadata block"):
        read(path)


def test_a_block_of_another_log_with_the_same_prefix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    write(path, some_groups(4))
    raw = bytearray(path.read_bytes())
    raw[75] ^= 1  # the last byte of the UUID: the prefix in the blocks is still right
    struct.pack_into("<I", raw, 40, checksum(bytes(raw[:4096]), 40))
    path.write_bytes(raw)
    with pytest.raises(LogError, match="CRC of a metadata block"):
        read(path)
