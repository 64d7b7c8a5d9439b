"""The checksum table against a plain list, on a disk that may be damaged."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockreplica.checksums import ENTRY_SIZE, PAGE_ENTRIES, PAGE_SIZE, ChecksumTable, block_count, proved
from blockreplica.errors import TableError
from blockreplica.files import FILES

KEY = 0x1234
BLOCKS = 3 * PAGE_ENTRIES + 20
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)


def entry(number: int) -> bytes:
    """Some entry; now and then that of a zero block."""
    return bytes(16) if number % 5 == 0 else random.Random(number).randbytes(16)


steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, BLOCKS - 1), st.integers(0, 1000)),
    st.tuples(st.just("write"), st.integers(0, BLOCKS - 1), st.integers(1, 2 * PAGE_ENTRIES + 3)),
    st.tuples(st.just("resize"), st.integers(0, BLOCKS), st.just(0)),
    st.tuples(st.just("flush"), st.just(0), st.just(0)),
    st.tuples(st.sampled_from(["entries", "put many"]), st.integers(0, BLOCKS - 1), st.integers(1, 500)),
)


def step(table: ChecksumTable, model: list[bytes], what: str, at: int, count: int) -> None:
    """One change in both."""
    if what == "put":
        table.put(at, entry(count))
        model[at] = entry(count)
    elif what == "write":
        some = [entry(at + number) for number in range(min(count, BLOCKS - at))]
        table.write(at, bytearray(b"".join(some)))
        model[at : at + len(some)] = some
    elif what == "resize":
        table.resize(at)
        model[at:] = [bytes(16)] * (BLOCKS - at)
    elif what == "entries":
        blocks = np.arange(at, min(BLOCKS, at + count), 3)
        assert [one.tobytes() for one in table.entries(blocks)] == [model[block] for block in blocks.tolist()]
    elif what == "put many":
        blocks = np.arange(at, min(BLOCKS, at + count), 2)
        table.put_many(
            blocks, np.array([[*entry(block + count)] for block in blocks.tolist()], np.uint8).reshape(-1, 16)
        )
        for block in blocks.tolist():
            model[block] = entry(block + count)
    else:
        table.flush()


@relaxed
@given(st.lists(steps, max_size=25), st.integers(0, BLOCKS - 1), st.integers(0, 600))
def test_it_holds_what_a_list_would_hold(
    tmp_path: Path, some: list[tuple[str, int, int]], first: int, count: int
) -> None:
    path = tmp_path / "checksums"
    path.unlink(missing_ok=True)
    model = [bytes(16)] * BLOCKS
    with FILES.open(path, write=True, create=True) as file:
        table = ChecksumTable(file, KEY)
        for what, at, number in some:
            step(table, model, what, at, number)
            assert table.get(at) == model[at] if at < BLOCKS else True
        count = min(count, BLOCKS - first)
        assert table.read(first, count) == (bytearray(b"".join(model[first : first + count])), [])
        table.flush()
    with FILES.open(path) as file:
        assert ChecksumTable(file, KEY).read(0, BLOCKS) == (bytearray(b"".join(model)), [])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table of three pages and a bit."""
    made = tmp_path / "checksums"
    with FILES.open(made, write=True, create=True) as file:
        ChecksumTable(file, KEY).write(0, bytearray(b"".join(entry(at) for at in range(4 * PAGE_ENTRIES))))
    return made


def damage(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize("at", [0, 17, 4079, 4080, 4087, 4088, 4091, 4092, 4095])
def test_any_flipped_byte_makes_its_page_unknown_and_no_other(path: Path, at: int) -> None:
    raw = path.read_bytes()
    damage(path, PAGE_SIZE + at, bytes([raw[PAGE_SIZE + at] ^ 0x10]))
    with FILES.open(path, write=True) as file:
        table = ChecksumTable(file, KEY)
        entries, unknown = table.read(100, 500)
        assert unknown == [range(PAGE_ENTRIES, 2 * PAGE_ENTRIES)]
        for block in range(100, 600):
            wanted = bytes(16) if block in unknown[0] else entry(block)
            assert entries[(block - 100) * 16 : (block - 99) * 16] == wanted
        some, new = np.array([1, 300]), np.zeros((2, 16), np.uint8)
        for use in (
            lambda: table.get(300),
            lambda: table.put(300, entry(1)),
            lambda: table.entries(some),
            lambda: table.put_many(some, new),
        ):
            with pytest.raises(TableError, match="page 1"):
                use()
        table.write(PAGE_ENTRIES, bytearray(b"".join(entry(at) for at in range(PAGE_ENTRIES))))
        assert table.read(100, 500)[1] == []


@pytest.mark.parametrize("swap", ["another place", "another replica"])
def test_a_good_page_of_another_place_or_replica_is_bad_here(path: Path, swap: str) -> None:
    if swap == "another place":
        damage(path, 0, path.read_bytes()[PAGE_SIZE : 2 * PAGE_SIZE])
    with FILES.open(path) as file:
        _, unknown = ChecksumTable(file, KEY + (swap == "another replica")).read(0, PAGE_ENTRIES)
    assert unknown == [range(PAGE_ENTRIES)]


def test_a_table_of_zero_blocks_takes_no_room(tmp_path: Path) -> None:
    with FILES.open(tmp_path / "checksums", write=True, create=True) as file:
        table = ChecksumTable(file, KEY)
        table.write(0, bytearray(1000 * PAGE_ENTRIES * ENTRY_SIZE))
        table.put(500_000, entry(1))
        table.flush()
        assert os.fstat(file.fileno()).st_blocks * 512 <= 2 * PAGE_SIZE
        table.put(500_000, bytes(16))
        table.flush()
        assert table.read(499_900, 200) == (bytearray(200 * 16), [])


def test_a_bad_page_proves_what_content_confirms(path: Path) -> None:
    good = path.read_bytes()[PAGE_SIZE : 2 * PAGE_SIZE]
    computed = bytearray(good[: PAGE_ENTRIES * ENTRY_SIZE])
    for at in (3, 700, 4085, 4092):
        raw = bytearray(good)
        raw[at] ^= 4
        assert proved(bytes(raw), 1, KEY, computed).all(), f"one flipped bit at {at}"
    raw = bytearray(good)
    raw[3 * 16] ^= 1
    raw[-1] ^= 1
    verdict = proved(bytes(raw), 1, KEY, computed)
    assert not verdict[3]
    assert verdict.sum() == PAGE_ENTRIES - 1
    wrong = bytearray(computed)
    wrong[7 * 16] ^= 1
    assert not proved(bytes(raw), 1, KEY, wrong)[7]
    assert not proved(good, 2, KEY, wrong)[7]


@given(st.integers(0, 1 << 50), st.sampled_from([4096, 65536, 4 << 20]))
def test_blocks_cover_the_disk_and_no_more(size: int, block_size: int) -> None:
    count = block_count(size, block_size)
    assert (count - 1) * block_size < size <= count * block_size or size == count == 0
