"""Records: what is encoded is decoded, and no damaged, foreign, newer or impossible record is believed."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockreplica.errors import StateError
from blockreplica.manifest import (
    KINDS,
    MAX_SIZE,
    Attachment,
    Cursor,
    DiskProgress,
    FrozenTable,
    PendingRecord,
    PointDisk,
    PointRecord,
    ReplicaDisk,
    ReplicaRecord,
    StateRecord,
    StoreRecord,
    chained,
    check_name,
    decode,
    encode,
    point_id,
)

WHERE = Path("points/000017")
names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
sizes = st.integers(0, MAX_SIZE - 1)
cursors = st.builds(Cursor, tracking_id=st.uuids().map(str), epoch=st.integers(0, 1 << 60), chain=st.uuids().map(str))
disks = st.lists(st.tuples(st.text(max_size=30), sizes, st.none() | cursors), min_size=1, max_size=4).map(
    lambda rows: [
        PointDisk(index=index, name=name, size=size, cursor=cursor) for index, (name, size, cursor) in enumerate(rows)
    ]
)
attachments = st.lists(st.builds(Attachment, name=names, size=sizes, sha256=st.just("0" * 64)), max_size=2)


@st.composite
def points(draw: st.DrawFn) -> PointRecord:
    generation, epoch = draw(st.integers(1, 1 << 40)), draw(st.integers(1, 1 << 40))
    return PointRecord(
        id=point_id(generation, epoch), generation=generation, epoch=epoch,
        time=draw(st.floats(0, 1e11)), kind=draw(st.sampled_from(KINDS)), action=draw(st.text(max_size=20)),
        reason=draw(st.text(max_size=80)), disks=draw(disks), attachments=draw(attachments),
        chain=draw(st.text(max_size=9)),
    )  # fmt: skip


POINT = PointRecord(
    id="1.17", generation=1, epoch=17, time=1e9, kind="crash-consistent", action="delta", reason="because",
    disks=[PointDisk(index=0, name="vm.img", size=5)],
)  # fmt: skip


@given(points())
def test_a_point_is_read_as_it_was_written(point: PointRecord) -> None:
    assert decode("point", PointRecord, encode("point", point), WHERE) == point


@given(st.integers(1, 1 << 62), st.integers(0, 1 << 62), st.text(max_size=64))
def test_a_state_is_read_as_it_was_written(generation: int, epoch: int, chain: str) -> None:
    state = StateRecord(generation=generation, epoch=epoch, chain=chain)
    assert decode("state", StateRecord, encode("state", state), WHERE) == state


def test_every_flipped_bit_is_found() -> None:
    raw = encode("point", POINT)
    for at in range(len(raw)):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[at] ^= 1 << bit
            with pytest.raises(StateError):
                decode("point", PointRecord, bytes(damaged), WHERE)


def test_every_truncation_is_found() -> None:
    raw = encode("point", POINT)
    for length in range(len(raw)):
        with pytest.raises(StateError):
            decode("point", PointRecord, raw[:length], WHERE)


@given(st.binary(max_size=300))
def test_rubbish_is_a_typed_error_that_names_the_file(data: bytes) -> None:
    with pytest.raises(StateError, match="points/000017"):
        decode("point", PointRecord, data, WHERE)


FROZEN: dict[str, object] = {"last": 2, "block_size": 4096, "sizes": [1]}


def sealed(body: bytes, *, kind: str = "point", version: int = 1) -> bytes:
    """An envelope with the right digest around any body."""
    return f"blockreplica {kind} {version} sha256:{hashlib.sha256(body).hexdigest()}\n".encode() + body


def test_another_kind_of_record_and_a_newer_version_are_refused() -> None:
    body = encode("point", POINT).split(b"\n", 1)[1]
    assert decode("point", PointRecord, sealed(body), WHERE) == POINT
    with pytest.raises(StateError, match="state record"):
        decode("state", StateRecord, sealed(body), WHERE)
    with pytest.raises(StateError, match="newer blockreplica"):
        decode("point", PointRecord, sealed(body, version=2), WHERE)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "1.18"}, {"generation": 2}, {"epoch": 16}, {"kind": "perfect"},
        {"disks": [{"index": 1, "name": "", "size": 0}]},
        {"disks": [{"index": 0, "name": "", "size": -1}]}, {"disks": [{"index": 0, "name": "", "size": 1 << 62}]},
        {"disks": [{"index": 0, "name": "", "size": "5"}]}, {"time": "now"}, {"more": 1}, {"disks": None},
        {"epoch": 1.5},
    ],
)  # fmt: skip
def test_a_well_sealed_record_with_an_impossible_field_is_refused(change: dict[str, object]) -> None:
    fields = {**msgspec.to_builtins(POINT), **change}
    with pytest.raises(StateError):
        decode("point", PointRecord, sealed(msgspec.json.encode(fields)), WHERE)


@pytest.mark.parametrize(
    "change",
    [
        {"block_size": 0}, {"block_size": 4095}, {"block_size": 12288}, {"block_size": 8 << 20}, {"seed": -1},
        {"seed": 1 << 64}, {"disks": []}, {"frozen": [{"last": 0, "block_size": 4096, "sizes": [1]}]},
        {"frozen": [{"last": 1, "block_size": 5000, "sizes": [1]}]}, {"frozen": [FROZEN | {"sizes": []}]},
        {"frozen": [FROZEN | {"last": 3}, FROZEN]}, {"frozen": [FROZEN] * 4097}, {"frozen": [FROZEN | {"sizes": [-1]}]},
        {"disks": [{"index": 1, "name": "a"}]}, {"name": "../x"}, {"name": ""},
    ],
)  # fmt: skip
def test_a_replica_that_can_not_be_is_refused(change: dict[str, object]) -> None:
    record = ReplicaRecord(
        relationship="r", name="vm", block_size=65536, seed=1, created=0.0, disks=[ReplicaDisk(index=0, name="a")]
    )
    body = msgspec.json.encode({**msgspec.to_builtins(record), **change})
    with pytest.raises(StateError):
        decode("replica", ReplicaRecord, sealed(body, kind="replica"), WHERE)


def test_a_record_with_frozen_tables_is_one_that_older_programs_refuse() -> None:
    plain = ReplicaRecord(
        relationship="r", name="vm", block_size=65536, seed=1, created=0.0, disks=[ReplicaDisk(index=0, name="a")]
    )
    changed = msgspec.structs.replace(plain, frozen=[FrozenTable(**FROZEN)])  # type: ignore[arg-type]
    assert encode("replica", plain).startswith(b"blockreplica replica 1 ")
    assert b"frozen" not in encode("replica", plain)
    assert encode("replica", changed).startswith(b"blockreplica replica 2 ")
    assert decode("replica", ReplicaRecord, encode("replica", changed), WHERE) == changed
    with pytest.raises(StateError, match="newer"):
        decode("replica", ReplicaRecord, sealed(b"{}", kind="replica", version=3), WHERE)


@pytest.mark.parametrize("change", [{"generation": 0}, {"epoch": -1}])
def test_a_state_that_can_not_be_is_refused(change: dict[str, object]) -> None:
    body = msgspec.json.encode({"generation": 1, "epoch": 1, "chain": "", **change})
    with pytest.raises(StateError):
        decode("state", StateRecord, sealed(body, kind="state"), WHERE)


@pytest.mark.parametrize("progress", [{"done": -1}, {"done": 1 << 62}])
def test_progress_that_can_not_be_is_refused(progress: dict[str, int]) -> None:
    record = PendingRecord(epoch=2, movement="resync", disks=[DiskProgress(**progress)])
    with pytest.raises(StateError):
        decode("incomplete", PendingRecord, encode("incomplete", record), WHERE)


def test_the_chain_tells_any_change_of_a_point_and_of_what_stands_before_it() -> None:
    first = chained("", POINT)
    assert chained("", msgspec.structs.replace(POINT, chain="whatever")) == first
    others = {
        chained("x", POINT), chained("", msgspec.structs.replace(POINT, reason="other")),
        chained("", msgspec.structs.replace(POINT, time=2e9)),
        chained("", msgspec.structs.replace(POINT, disks=[PointDisk(index=0, name="vm.img", size=6)])), first,
    }  # fmt: skip
    assert len(others) == 5


@given(names)
def test_good_names_are_plain_names_of_files(name: str) -> None:
    check_name(name)
    assert Path(name).name == name
    assert name not in (".", "..")


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "-x", "a/b", "a\\b", "a b", "ä", "a\n", "a\0b", "x" * 101])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(name)


def test_records_of_different_seeds_are_told_apart_by_their_digests() -> None:
    rng = random.Random(1)
    digests = {
        encode("store", StoreRecord(store_id=rng.randbytes(8).hex())).split(b"sha256:")[1][:64] for _ in range(50)
    }
    assert len(digests) == 50
