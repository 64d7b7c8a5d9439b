"""Rule 26: every flipped bit of a 2.1 log, from its first byte to its end, is found by a full check."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from blockreplica.errors import LogError
from blockreplica.hrl import LogReader
from hrl.tools import write


def test_every_flipped_bit_of_a_log_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    write(path, [[(4096, b"some data"), (2**40, 12345)], [(0, b"more"), (1, b"")]])
    raw = path.read_bytes()
    fd = os.open(path, os.O_RDWR)
    missed = []
    for bit in range(8 * len(raw)):
        at = bit // 8
        os.pwrite(fd, bytes([raw[at] ^ 1 << bit % 8]), at)
        with contextlib.suppress(LogError), LogReader.open(path) as reader:
            reader.check()
            missed.append(bit)
        os.pwrite(fd, raw[at : at + 1], at)
    os.close(fd)
    assert missed == []
    with LogReader.open(path) as reader:
        assert reader.check().entries == 4


@pytest.mark.usefixtures("implementation")
def test_every_flipped_bit_of_a_block_and_its_data_is_found_by_both_implementations(tmp_path: Path) -> None:
    path = tmp_path / "log.hrl"
    *_, end = write(path, [[(4096, b"data"), (2**40, 12345)]])
    raw = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * (end - 512 - 4), 8 * end):
            at = bit // 8
            os.pwrite(file.fileno(), bytes([raw[at] ^ 1 << bit % 8]), at)
            with pytest.raises(LogError), LogReader.open(path) as reader:
                reader.check()
            os.pwrite(file.fileno(), raw[at : at + 1], at)
