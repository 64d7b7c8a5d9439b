"""Salvage takes a prefix of whole metadata blocks, all of what is good, and nothing else: whatever stands behind."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec.structs import replace

from blockreplica import kernels
from blockreplica.errors import LogError, RefusedError
from blockreplica.files import FILES
from blockreplica.hrl import Header, LogReader, LogWriter
from hrl.ms_hrl import BLOCK, Entry, Forge, Group, checksum
from hrl.tools import LOG_ID, Groups, append, flat, ops_of, read, some_groups, write


def expected(groups: Groups, ends: list[int], size: int) -> list[object]:
    """What the whole blocks in the first `size` bytes hold."""
    whole = sum(end <= size for end in ends) - 1  # the first block is empty
    return [op for group in groups[: max(whole, 0)] for op in group]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_a_log_cut_at_any_byte_keeps_its_whole_blocks(tmp_path: Path, strict: bool, closed: bool) -> None:
    path, cut = tmp_path / "log.hrl", tmp_path / "cut.hrl"
    groups = some_groups(5, zeros=not strict)
    ends = write(path, groups, close=closed, strict=strict)
    raw = path.read_bytes()
    cut.write_bytes(raw)
    for size in range(len(raw), -1, -1):
        os.truncate(cut, size)
        if size < 4096:
            with pytest.raises(LogError):
                LogReader.open(cut, salvage=True)
            continue
        with LogReader.open(cut, salvage=True) as reader:
            assert ops_of(reader) == expected(groups, ends, size)
            assert reader.check().entries == reader.total
            assert reader.end == max([end for end in ends if end <= size], default=4096)
            assert reader.salvaged == (not closed or size < len(raw))


@pytest.mark.parametrize("strict", [False, True])
def test_both_implementations_salvage_alike(tmp_path: Path, implementation: str, strict: bool) -> None:
    path = tmp_path / "log.hrl"
    groups = some_groups(6, zeros=not strict)
    ends = write(path, groups, close=False, strict=strict)
    for size in (4096, ends[0], ends[1] - 1, ends[1], ends[2] + 1, ends[3]):
        os.truncate(path, ends[3])
        with path.open("r+b") as file:
            file.truncate(size)
        assert read(path, salvage=True) == expected(groups, ends, size), implementation
        write_again = path.with_suffix(".again")
        write(write_again, groups, close=False, strict=strict)
        os.replace(write_again, path)


@pytest.mark.usefixtures("implementation")
def test_salvage_ends_at_the_first_damaged_block_even_when_good_ones_follow(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    groups: Groups = [[(1, b"one")], [(2, b"two")], [(3, b"three")]]
    ends = write(path, groups)
    with path.open("r+b") as file:
        file.seek(ends[2] - 512 - 1)  # the last byte of the second group's data
        file.write(b"?")
    with pytest.raises(LogError, match="CRC of an entry and its data"):
        read(path)
    assert read(path, salvage=True) == flat(groups[:1])


@pytest.mark.usefixtures("implementation")
def test_a_block_whose_data_the_power_cut_took_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    groups = some_groups(7, zeros=False)
    ends = write(path, groups, close=False)
    with path.open("r+b") as file:
        file.seek(ends[1])
        file.write(bytes(ends[2] - 512 - ends[1]))
    assert read(path, salvage=True) == flat(groups[:1])


@pytest.mark.parametrize(("same_shape", "more"), [(True, False), (True, True), (False, True)])
def test_what_an_earlier_life_left_behind_the_end_is_never_taken(tmp_path: Path, same_shape: bool, more: bool) -> None:
    """Rule 9: also where its next block is of the right number and at the right place, and its data are whole."""
    path = tmp_path / "log.hrl"
    old: Groups = [[(i, b"old data %d" % i)] for i in range(20)]
    new: Groups = [[(i, b"new data %d" % i)] for i in range(7)] if same_shape else some_groups(8)
    write(path, old)
    with FILES.open(path, write=True) as file:
        writer = LogWriter.create(file, unique_id=uuid4(), metadata_size=512)
        for group in new:
            append(writer, group)
            writer.flush()
        if more:
            append(writer, [(99, b"never described")])
        writer.abandon()
        assert file.size() > writer._at
    assert read(path, salvage=True) == flat(new)


def test_a_strict_log_is_not_written_over_old_content(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    path.write_bytes(b"old")
    with FILES.open(path, write=True) as file, pytest.raises(RefusedError):
        LogWriter.create(file, unique_id=LOG_ID, strict=True)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("strict", [False, True])
def test_a_copy_of_a_log_as_data_is_not_taken_for_blocks(tmp_path: Path, strict: bool) -> None:
    """A guest may keep a log of its own disk on that disk: even one with the same UUID."""
    inner, path = tmp_path / "inner.hrl", tmp_path / "outer.hrl"
    write(inner, [[(5, b"inside")], [(6, b"inside too")]], strict=strict)
    groups: Groups = [[(0, inner.read_bytes())], [(9, b"behind")]]
    write(path, groups, close=False, strict=strict)
    assert read(path, salvage=True) == flat(groups)


@pytest.mark.usefixtures("implementation")
def test_a_damaged_header_cannot_be_salvaged(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    write(path, some_groups(9), close=False)
    raw = bytearray(path.read_bytes())
    raw[4000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(LogError, match="header checksum"):
        LogReader.open(path, salvage=True)


def test_salvage_of_a_right_log_believes_its_end(tmp_path: Path) -> None:
    """In a strict log, data may look like blocks; where the chain from the end is right, nobody has to guess."""
    groups = [Group(), Group([Entry(1, b"one")])]
    forged = Forge(groups, metadata_size=512).build()
    path = tmp_path / "log.hrl"
    path.write_bytes(forged)
    with LogReader.open(path, salvage=True) as reader:
        assert not reader.salvaged
        assert ops_of(reader) == [(1, b"one")]


def test_hostile_candidates_cannot_make_salvage_read_without_end(tmp_path: Path) -> None:
    """Each 32 bytes look like the next block's header; each makes a block of a mebibyte be read, and is none."""
    size, count = 2**20, 2**15
    rows = bytearray()
    for index in range(count):
        head = BLOCK.pack(size + 32 * index, 1, 0, bytes(16))
        rows += BLOCK.pack(size + 32 * index, 1, checksum(head, 12), bytes(16))
    forge = Forge([Group()], metadata_size=size, end=0, total=0)
    path = tmp_path / "hostile.hrl"
    path.write_bytes(forge.build() + bytes(rows) + bytes(size))
    with path.open("rb") as file:
        state = bytearray(struct.pack("<6Q", 4096, 0, 0, 0, 4096, 0))
        while not kernels.hrl_salvage(file.fileno(), file.read(4096), 4096 + size + len(rows) + size, 2**30, state):
            raise AssertionError("one call has the budget for all of it")
    end, blocks, last, entries, _, wasted = struct.unpack("<6Q", state)
    assert (end, blocks, last, entries) == (4096 + size, 1, 4096, 0)
    assert 2**26 <= wasted <= 2**26 + 2 * size
    with LogReader.open(path, salvage=True) as reader:
        assert list(reader.entries()) == []


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("less", [0, 1, 481, 511, 512])
def test_salvage_of_a_closed_log_takes_nothing_behind_its_end(tmp_path: Path, less: int) -> None:
    """Good blocks follow, of this very log; but it says that it ends before them."""
    path = tmp_path / "log.hrl"
    groups = some_groups(12)
    ends = write(path, groups)
    header = Header.decode(path.read_bytes(), path)
    end = ends[2] if less == 0 else ends[3] - less
    with path.open("r+b") as file:
        file.write(replace(header, end=end, total_entries=99).encode())
    assert read(path, salvage=True) == flat(groups[:2])


@pytest.mark.usefixtures("implementation")
def test_the_first_block_that_fits_decides_even_when_its_data_is_wrong(tmp_path: Path) -> None:
    """Behind it stands another that fits too, and takes all between for its data: looking on would find it."""
    forge = Forge([Group(), Group([Entry(1, b"abc", reserved=bytes(6))])], version=0x00020001, metadata_size=512)
    raw = Forge(**{**vars(forge), "end": 0}).build()
    between = raw[4096 + 512 :]
    second = forge._block(Group([Entry(2, between)]), 1, 512 + len(between))
    path = tmp_path / "log.hrl"
    path.write_bytes(raw + second)
    assert read(path, salvage=True) == []
    path.write_bytes(
        raw[: 4096 + 512] + between[:-1] + b"!" + forge._block(Group([Entry(2, between[:-1] + b"!")]), 1, 1027)
    )
    assert read(path, salvage=True) == [(2, between[:-1] + b"!")]


def test_salvage_in_small_steps_finds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    groups: Groups = [[(i, os.urandom(3000))] for i in range(10)]
    ends = write(path, groups, close=False)
    with path.open("rb") as file:
        header, calls = file.read(4096), 1
        state = bytearray(struct.pack("<6Q", 4096, 0, 0, 0, 4096, 0))
        while not kernels.hrl_salvage(file.fileno(), header, ends[-1], 1000, state):
            calls += 1
    assert struct.unpack("<6Q", state)[:4] == (ends[-1], 11, ends[-1] - 512, 10)
    assert calls > 3


@pytest.mark.parametrize("strict", [False, True])
def test_a_resumed_log_goes_on_behind_its_last_whole_block(tmp_path: Path, strict: bool) -> None:
    path = tmp_path / "log.hrl"
    groups = some_groups(10, zeros=False)
    ends = write(path, groups, close=False, strict=strict)
    for size in (ends[-1], ends[2] + 700, ends[2] - 1, ends[0], ends[0] - 1, 4096):
        os.truncate(path, size)
        with LogWriter.resume(path) as writer:
            kept = expected(groups, ends, size)
            assert writer.total == len(kept)
            append(writer, [(77, b"resumed")])
        assert read(path) == [*kept, (77, b"resumed")]
        path.unlink()
        write(path, groups, close=False, strict=strict)


def test_resuming_a_closed_log_opens_it_again(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    groups = some_groups(11)
    write(path, groups)
    writer = LogWriter.resume(path)
    header = Header.decode(path.read_bytes(), path)
    assert (header.end, header.total_entries) == (0, 0)
    writer.close()
    assert read(path) == flat(groups)
    assert replace(Header.decode(path.read_bytes(), path), end=0, total_entries=0, current_size=0).unique_id == LOG_ID


def test_a_block_behind_the_cut_of_a_resume_does_not_fit_again(tmp_path: Path) -> None:
    """The power took the data of block 2 and left block 3: once another block 2 of that shape stands, 3 would fit."""
    path = tmp_path / "log.hrl"
    groups: Groups = [[(1, b"aaaa")], [(2, b"bbbb")], [(3, b"cccc")]]
    ends = write(path, groups, close=False)
    with path.open("r+b") as file:
        file.seek(ends[1])
        file.write(b"\0\0\0\0")
    writer = LogWriter.resume(path)
    append(writer, [(4, b"dddd")])
    writer.flush()
    writer.abandon()
    assert read(path, salvage=True) == [(1, b"aaaa"), (4, b"dddd")]


def test_version_1_is_read_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    path.write_bytes(Forge([Group()], version=0x00010000).build())
    before = path.read_bytes()
    with pytest.raises(RefusedError):
        LogWriter.resume(path)
    assert path.read_bytes() == before
