"""Whatever is done to a log's bytes: a typed error, or what was written; no wrong record, no other exception."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockreplica.errors import LogError
from blockreplica.hrl import LogReader, listing
from hrl.ms_hrl import checksum
from hrl.tools import Op, flat, ops_of, some_groups, write

NUMBERS = st.sampled_from([0, 1, 511, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 2**20), st.integers(0, 255)),
        st.tuples(st.just("number"), st.integers(0, 2**20), NUMBERS),
        st.tuples(st.just("copy"), st.integers(0, 2**20), st.integers(0, 2**20)),
        st.tuples(st.just("cut"), st.integers(0, 2**20), st.just(0)),
    ),
    min_size=1,
    max_size=5,
)


def changed(raw: bytes, changes: list[tuple[str, int, int]], *, mend: bool) -> bytes:
    """The log after some damage anywhere; `mend` puts the header's checksum right."""
    data = bytearray(raw)
    for kind, where, value in changes:
        at = where % len(data) if data else 0
        if kind == "set" and data:
            data[at] = value
        elif kind == "number":
            data[at : at + 8] = struct.pack("<Q", value)[: len(data) - at]
        elif kind == "copy" and data:
            start = value % len(data)
            data[at : at + 32] = data[start : start + 32][: len(data) - at]
        elif kind == "cut":
            del data[at:]
    if mend and len(data) >= 4096:
        struct.pack_into("<I", data, 40, checksum(bytes(data[:4096]), 40))
    return bytes(data)


def judge(path: Path, wanted: list[Op], *, exact: bool) -> None:
    for salvage in (False, True):
        with contextlib.suppress(LogError), LogReader.open(path, salvage=salvage) as reader:
            reader.check()
            found = ops_of(reader)
            assert "".join(listing.text_pieces(reader)).count("\n") > len(found)
            if exact:
                assert found == wanted[: len(found)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 50), strict=st.booleans(), closed=st.booleans(), mend=st.booleans(), changes=CHANGES)
def test_a_mutated_log_is_refused_or_read_as_it_was_written(
    tmp_path: Path, seed: int, strict: bool, closed: bool, mend: bool, changes: list[tuple[str, int, int]]
) -> None:
    path = tmp_path / "log.hrl"
    path.unlink(missing_ok=True)
    groups = some_groups(seed, zeros=not strict)
    write(path, groups, strict=strict, close=closed)
    raw = changed(path.read_bytes(), changes, mend=mend)
    path.write_bytes(raw)
    judge(path, flat(groups), exact=raw[8:12] == b"\1\0\2\0")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.binary(max_size=126),
    body=st.binary(max_size=2000),
    version=st.sampled_from([1 << 16, 2 << 16, (2 << 16) + 1]),
)
def test_noise_behind_a_plausible_header_is_refused_or_empty(
    tmp_path: Path, header: bytes, body: bytes, version: int
) -> None:
    raw = bytearray(header.ljust(4096, b"\0"))
    raw[:12] = b"msctlog " + struct.pack("<I", version)
    raw[56:60] = struct.pack("<I", 512)
    raw[104:108] = bytes(4)
    struct.pack_into("<I", raw, 40, checksum(bytes(raw), 40))
    path = tmp_path / "noise.hrl"
    path.write_bytes(bytes(raw) + body)
    with contextlib.suppress(LogError), LogReader.open(path, salvage=True) as reader:
        assert ops_of(reader) == []


@pytest.mark.parametrize("content", [b"", b"\0" * 10000, b"msctlog " * 1000])
def test_what_is_no_log_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "none.hrl"
    path.write_bytes(content)
    for salvage in (False, True):
        with pytest.raises(LogError):
            LogReader.open(path, salvage=salvage)
