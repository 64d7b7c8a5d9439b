"""The C core and its Python twin say the same of any log: rows, counts, and the fault with its place and numbers."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockreplica import kernels
from blockreplica.hrl import ENTRY
from hrl.tools import LOG_ID, rows_of, some_groups, write

NATIVE: dict[str, Any] = kernels._load("native", None)[2]
TWIN: dict[str, Any] = kernels._load("reference", None)[2]


def both(name: str, *arguments: Any, **options: Any) -> Any:
    """What both return for the same arguments; buffers that they fill must come out equal, too."""
    results = []
    for implementation in (NATIVE, TWIN):
        copies = [bytearray(value) if isinstance(value, bytearray) else value for value in arguments]
        try:
            result = implementation[name](*copies, **options)
        except (ValueError, OSError) as error:
            result = type(error)
        results.append((result, *(value for value in copies if isinstance(value, bytearray))))
    assert results[0] == results[1], name
    return results[0]


def salvaged(implementation: dict[str, Any], fd: int, header: bytes, size: int) -> tuple[int, ...]:
    """What is left when the search is over; how far it then has looked means nothing."""
    state = bytearray(struct.pack("<6Q", 4096, 0, 0, 0, 4096, 0))
    assert implementation["hrl_salvage"](fd, header, size, 2**30, state)
    *found, _, wasted = struct.unpack("<6Q", state)
    return (*found, wasted)


def look(path: Path, header: bytes, ends: list[int], metadata_size: int) -> None:
    with path.open("rb") as file:
        fd, size = file.fileno(), path.stat().st_size
        both("hrl_walk", fd, header, ends[-1] - metadata_size, bytearray(8 * 10))
        positions = np.array([end - metadata_size for end in ends], "<u8").tobytes()
        for options in ({}, {"data": True}, {"data": True, "slots": True}):
            both("hrl_read", fd, header, positions, 4096, 0, bytearray(32 * 200), bytearray(4 * 200), **options)
        both("hrl_read", fd, header, positions, 4096, 0, bytearray(32 * 15), bytearray(4 * 15))
        both("hrl_read", fd, header, positions[8:], ends[0], 1, bytearray(32 * 15), bytearray(4 * 15))
        assert salvaged(NATIVE, fd, header, size) == salvaged(TWIN, fd, header, size)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_they_agree_on_right_and_on_damaged_logs(tmp_path: Path, seed: int, strict: bool) -> None:
    path, noise = tmp_path / "log.hrl", random.Random(seed)
    ends = write(path, some_groups(seed, zeros=not strict), strict=strict)
    raw = path.read_bytes()
    look(path, raw[:4096], ends, 512)
    for _ in range(60):
        damaged = bytearray(raw)
        for _ in range(noise.randrange(1, 4)):
            at = noise.randrange(4096, len(raw))
            damaged[at] = noise.randrange(256)
        path.write_bytes(damaged[: noise.choice([len(raw), noise.randrange(4096, len(raw))])])
        look(path, raw[:4096], ends, 512)


@pytest.mark.parametrize("strict", [False, True])
def test_they_encode_alike(strict: bool) -> None:
    from blockreplica.hrl.format import EXTENDED, STRICT, Header

    header = Header(STRICT if strict else EXTENDED, LOG_ID, LOG_ID, LOG_ID, 1, 1, metadata_size=1024).encode()
    noise = random.Random(12)
    data = noise.randbytes(1000)
    rows = [(noise.randrange(2**62), length, noise.randrange(1000 - length), 1) for length in range(0, 300, 11)]
    stamps = np.arange(len(rows), dtype="<u4").tobytes()
    (_, encoded) = both("hrl_encode", header, rows_of(rows).tobytes(), data, stamps, bytearray(32 * len(rows)))
    for distance, number, entries in ((0, 0, 0), (2**64 - 1, 2**32 - 1, 31), (5000, 2**32 + 7, len(rows))):
        both("hrl_block", header, bytearray((bytes(32) + encoded).ljust(1024, b"!")), distance, number, entries)


def test_they_refuse_the_same_arguments(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    ends = write(path, some_groups(1))
    header, row = path.read_bytes()[:4096], rows_of([(0, 1, 0, 1)]).tobytes()
    bent = bytes([*header[:100], header[100] ^ 1, *header[101:]])
    state = bytearray(struct.pack("<6Q", 4096, 0, 0, 0, 4096, 0))
    with path.open("rb") as file:
        fd = file.fileno()
        for wrong in (b"", header[:-1], bent, header + b"\0"):
            assert both("hrl_walk", fd, wrong, ends[0] - 512, bytearray(8))[0] is ValueError
            assert both("hrl_block", wrong, bytearray(512), 0, 0, 0)[0] is ValueError
        assert both("hrl_walk", fd, header, 4095, bytearray(8))[0] is ValueError
        assert both("hrl_walk", fd, header, 4096, bytearray(7))[0] is ValueError
        assert both("hrl_read", fd, header, b"", 4096, 0, bytearray(32 * 14), bytearray(400))[0] is ValueError
        assert both("hrl_read", fd, header, b"", 4096, 0, bytearray(32 * 15), bytearray(59))[0] is ValueError
        assert (
            both("hrl_read", -1, header, struct.pack("<Q", 4096), 4096, 0, bytearray(480), bytearray(60))[0] is OSError
        )
        assert both("hrl_salvage", fd, header, 9999, 1, bytearray(47))[0] is ValueError
        assert both("hrl_salvage", fd, header, 9999, 1, bytearray(48))[0] is ValueError
        assert both("hrl_salvage", -1, header, 9999, 1, state)[0] is OSError
    assert both("hrl_encode", header, row[:-1], b"x", bytes(4), bytearray(32))[0] is ValueError
    assert both("hrl_encode", header, row, b"x", bytes(3), bytearray(32))[0] is ValueError
    assert both("hrl_encode", header, row, b"x", bytes(4), bytearray(31))[0] is ValueError
    assert both("hrl_encode", header, row, b"", bytes(4), bytearray(32))[0] is ValueError
    assert both("hrl_block", header, bytearray(511), 0, 0, 0)[0] is ValueError
    assert both("hrl_block", header, bytearray(512), 0, 0, 16)[0] is ValueError


def test_rows_have_the_layout_that_the_kernels_promise() -> None:
    entry = np.dtype(ENTRY)
    assert entry.fields is not None
    assert [(name, entry.fields[name][1]) for name in entry.names or ()] == [
        ("offset", 0), ("length", 8), ("source", 16), ("log", 24), ("operation", 28),
    ]  # fmt: skip
    assert entry.itemsize == 32
