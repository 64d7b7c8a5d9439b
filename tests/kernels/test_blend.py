"""What a batch of writes makes of blocks of a real sparse file, held against plain bytes."""

from __future__ import annotations

import os
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernels.sparse import PAGE, SIZE, make_image, opened, table_of

CHANGED, OLD_ZERO, NEW_ZERO = 1, 2, 4
Row = tuple[int, int, int]


def numbers(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def touched(rows: list[Row], unit: int) -> list[int]:
    return sorted({at for offset, length, _ in rows for at in range(offset // unit, (offset + length - 1) // unit + 1)})


@dataclass
class Blended:
    """One call and its buffers."""

    blocks: list[int]
    granules: list[int]
    old: bytearray
    new: bytearray
    marks: bytearray
    before: bytearray
    after: bytearray
    changed: int


def blended(
    kernel: SimpleNamespace, fd: int, size: int, block_size: int, rows: list[Row], data: bytes,
    *, granules: list[int] | None = None, blocks: list[int] | None = None, **options: int,
) -> Blended:  # fmt: skip
    granules = touched(rows, PAGE) if granules is None else granules
    blocks = touched(rows, block_size) if blocks is None else blocks
    room = [bytearray(b"\xa5" * PAGE * len(granules)) for _ in range(2)]
    marks, tables = bytearray(b"\xa5" * len(granules)), [bytearray(16 * len(blocks)) for _ in range(2)]
    changed = kernel.blend_blocks(
        fd, size, block_size, numbers(blocks), b"".join(struct.pack("<QQQ", *row) for row in rows), data,
        numbers(granules), *room, marks, *tables, **options,
    )  # fmt: skip
    return Blended(blocks, granules, *room, marks, *tables, changed)


def random_rows(randomness: random.Random, held: bytes, size: int) -> tuple[list[Row], bytes]:
    """Sorted rows, some whole granules and some not, whose data is often what the disk holds, or zeros."""
    rows, data, at = [], b"", randomness.randrange(200_000)
    while at < size:
        length = min(randomness.choice([1, 512, PAGE, PAGE, 10_000, 3 * PAGE, 150_000]), size - at)
        kind = randomness.choice(["same", "zeros", "noise", "noise", "nearly"])
        piece = bytearray(bytes(length) if kind == "zeros" else held[at : at + length])
        if kind == "noise":
            piece[:] = randomness.randbytes(length)
        elif kind == "nearly":
            piece[randomness.randrange(length)] ^= 1
        rows.append((at, length, len(data)))
        data += piece
        at += length + randomness.choice([0, 0, 1, PAGE, 70_000, 300_000])
        if randomness.random() < 0.7:
            at = -(-at // PAGE) * PAGE
    return rows, data


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block_size", [4096, 65536, 1 << 20, 4 << 20])
@pytest.mark.parametrize("size", [SIZE, SIZE - 1000, SIZE - 70_001, 5000, 1])
def test_blocks_become_what_plain_bytes_become(
    kernel: SimpleNamespace, tmp_path: Path, seed: int, block_size: int, size: int
) -> None:
    held = make_image(tmp_path / "image", seed)[:size]
    os.truncate(tmp_path / "image", size)
    rows, data = random_rows(random.Random(seed), held, size)
    if not rows:
        rows, data = [(0, 1, 0)], b"x"
    then = bytearray(held)
    for offset, length, place in rows:
        then[offset : offset + length] = data[place : place + length]
    with opened(tmp_path / "image") as [fd]:
        for threads in (1, 0, 3):
            found = blended(kernel, fd, size, block_size, rows, data, seed=seed, threads=threads)
            changed = 0
            for at, granule in enumerate(found.granules):
                old = held[granule * PAGE : (granule + 1) * PAGE].ljust(PAGE, b"\0")
                new = bytes(then[granule * PAGE : (granule + 1) * PAGE]).ljust(PAGE, b"\0")
                assert found.old[at * PAGE : (at + 1) * PAGE] == old
                marks = (0 if any(old) else OLD_ZERO) | (CHANGED if old != new else 0)
                if old != new:
                    assert found.new[at * PAGE : (at + 1) * PAGE] == new
                    marks |= 0 if any(new) else NEW_ZERO
                    ends = [(min(o + n, (granule + 1) * PAGE), max(o, granule * PAGE)) for o, n, _ in rows]
                    changed += sum(max(0, end - start) for end, start in ends)
                assert found.marks[at] == marks
            assert found.changed == changed
            tables = [table_of(bytes(content), block_size, seed) for content in (held, then)]
            for at, block in enumerate(found.blocks):
                entries = found.before[16 * at : 16 * at + 16], found.after[16 * at : 16 * at + 16]
                assert entries == tuple(table[16 * block : 16 * block + 16] for table in tables)
    assert (tmp_path / "image").read_bytes() == held


def test_what_the_file_does_not_have_of_the_disk_reads_as_zeros(kernel: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * 5000)
    with opened(tmp_path / "image") as [fd]:
        found = blended(kernel, fd, 1 << 20, 65536, [(4096, 4096, 0), (500_000, 10, 0)], bytes(4096))
        assert found.old == (b"x" * 904).ljust(PAGE, b"\0") + bytes(PAGE)
        assert list(found.marks) == [CHANGED | NEW_ZERO, OLD_ZERO]
        assert found.before == table_of(b"x" * 5000 + bytes(60_536), 65536, 0) + bytes(16)
        assert found.changed == 4096


def test_again_every_granule_counts_as_changed(kernel: SimpleNamespace, tmp_path: Path) -> None:
    held = random.Random(1).randbytes(20 * PAGE)
    (tmp_path / "image").write_bytes(held)
    with opened(tmp_path / "image") as [fd]:
        found = blended(kernel, fd, len(held), 65536, [(PAGE, 10, 0)], held[PAGE:], granules=list(range(16)), again=1)
        assert found.new == found.old == held[: 16 * PAGE]
        assert (set(found.marks), found.changed) == ({CHANGED}, 10)
        assert found.before == found.after == table_of(held[:65536], 65536, 0)


def test_nothing_is_nothing(kernel: SimpleNamespace, tmp_path: Path) -> None:
    with opened(tmp_path / "image") as [fd]:
        assert blended(kernel, fd, 0, 4096, [], b"").changed == 0


@pytest.mark.parametrize(
    ("rows", "blocks", "granules", "text"),
    [
        ([(0, 0, 0)], [0], [0], "rows must be sorted"),
        ([(0, 10, 0), (5, 10, 10)], [0], [0], "rows must be sorted"),
        ([(8, 10, 0), (0, 4, 10)], [0], [0], "rows must be sorted"),
        ([(0, 101, 0)], [0], [0], "rows must be sorted"),
        ([(0, 10, 91)], [0], [0], "rows must be sorted"),
        ([(0, 10, 2**64 - 1)], [0], [0], "rows must be sorted"),
        ([(2**64 - 5, 10, 0)], [0], [0], "rows must be sorted"),
        ([((1 << 20) - 5, 10, 0)], [15], [255], "rows must be sorted"),
        ([(5000, 10, 0)], [0], [0], "granules must have all"),
        ([(4090, 10, 0)], [0], [0, 2], "granules must have all"),
        ([(4090, 10, 0)], [0], [1], "granules must have all"),
        ([(0, 10, 0)], [1], [0], "granules must have all"),
        ([(0, 10, 0)], [], [0], "granules must have all"),
        ([], [0], [0, 16], "granules must have all"),
        ([], [1, 0], [], "must ascend"),
        ([], [0, 0], [], "must ascend"),
        ([], [16], [], "must ascend"),
        ([], [2**64 - 1], [], "must ascend"),
        ([], [0], [256], "must ascend"),
        ([], [0], [1, 1], "must ascend"),
    ],
)
def test_a_plan_that_does_not_hold_together_is_refused_before_anything_is_touched(
    kernel: SimpleNamespace, rows: list[Row], blocks: list[int], granules: list[int], text: str
) -> None:
    with pytest.raises(ValueError, match=f"blend_blocks: .*{text}"):
        blended(kernel, -1, 1 << 20, 65536, rows, bytes(100), blocks=blocks, granules=granules)


def test_the_systems_error_is_told(kernel: SimpleNamespace) -> None:
    with pytest.raises(OSError, match="descriptor"):
        blended(kernel, -1, 1 << 20, 65536, [(0, 1, 0)], b"x")
