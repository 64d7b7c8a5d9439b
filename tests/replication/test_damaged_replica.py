"""A replica that was damaged, or whose writer died: nothing wrong is ever called right, nothing right is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.checksums import ChecksumTable
from blockreplica.errors import BusyError, DamageError, RefusedError
from blockreplica.manifest import PointRecord
from blockreplica.recovery import recover, verify
from blockreplica.replication import full
from blockreplica.service.registry import unprotect
from blockreplica.stores.disk import DiskWriter

BLOCK = 65536


class DiedError(BaseException):
    """Stands for kill -9."""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    path = tmp_path / "primary" / "vm.img"
    path.parent.mkdir()
    path.write_bytes(os.urandom(40 * BLOCK + 5000))
    wrote(path, b"tracked", 0)
    return path


def wrote(image: Path, data: bytes, offset: int) -> None:
    with br.track(image) as tracked:
        tracked.pwrite(data, offset)


def put(path: Path, data: bytes, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def recovered(relationship: br.Relationship, to: Path, point: str | None = None) -> bytes:
    relationship.replica.recover(point, to, force=True)
    return to.read_bytes()


@pytest.mark.parametrize("again", [False, True])
def test_a_delta_gives_no_checksum_to_a_damaged_block(tmp_path: Path, image: Path, again: bool) -> None:
    relationship = br.protect(image, tmp_path / "store", name="vm")
    put(tmp_path / "store/vm/disk0/disk.img", b"rot", 3 * BLOCK + 20000)
    wrote(image, b"x" * 4096, 3 * BLOCK)
    if again:
        with br.track(image) as tracked:
            tracked.zero(3 * BLOCK + 8192, 4096)
    result = relationship.sync()
    assert result.action == "resync"
    assert "does not match its checksum" in result.reason
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()
    with pytest.raises(DamageError):
        recovered(relationship, tmp_path / "out", "1.1")


def test_a_missing_undo_index_is_found_and_no_later_content_served(tmp_path: Path, image: Path) -> None:
    relationship = br.protect(image, tmp_path / "store", name="vm")
    for offset in (0, BLOCK):
        wrote(image, b"later", offset)
        relationship.sync()
    for path in (tmp_path / "store/vm/disk0/undo").glob("000002.*"):
        path.unlink()
    with pytest.raises(DamageError, match=r"000002\.index"):
        recovered(relationship, tmp_path / "out", "1.1")
    with pytest.raises(DamageError):
        relationship.replica.read("1.1", 0, 4)
    assert recovered(relationship, tmp_path / "out", "1.3") == image.read_bytes()


@pytest.mark.parametrize("movement", ["initial", "resync"])
def test_a_death_between_image_and_table_after_a_checkpoint_leaves_no_stale_checksum(
    tmp_path: Path, image: Path, movement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockreplica.replication.bulk.CHECKPOINT_SECONDS", 0)
    close_gap, flush, armed = full.FullMovement._close_gap, ChecksumTable.flush, []
    with br.track(image) as tracked:
        if movement == "resync":
            relationship = br.protect(image, tmp_path / "store", name="vm")
            tracked.pwrite(b"y" * 9000, 3 * BLOCK)

        def closing(self: full.FullMovement, *rest: object) -> object:
            tracked.pwrite(b"z" * 9000, 3 * BLOCK)
            armed.append(True)
            return close_gap(self, *rest)  # type: ignore[arg-type]

        def dying(self: ChecksumTable) -> None:
            if armed and self._changed:
                raise DiedError
            flush(self)

        with monkeypatch.context() as patch:
            patch.setattr(full.FullMovement, "_close_gap", closing)
            patch.setattr(ChecksumTable, "flush", dying)
            with pytest.raises(DiedError):
                relationship.resync() if movement == "resync" else br.protect(image, tmp_path / "store", name="vm")
        if movement == "initial":
            relationship = br.protect(image, tmp_path / "store", name="vm")
        else:
            relationship.sync()
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()
    assert not relationship.verify().damage


@pytest.mark.parametrize("tail", [bytes(64), b"\xaa" * 40])
def test_rows_torn_by_a_power_cut_cost_no_point(
    tmp_path: Path, image: Path, tail: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    relationship, before = br.protect(image, tmp_path / "store", name="vm"), image.read_bytes()
    wrote(image, b"x" * 50 * 4096, 3 * BLOCK)
    write = DiskWriter._write_granules

    def dying(self: DiskWriter, *rest: object) -> None:
        write(self, *rest)  # type: ignore[arg-type]
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(DiskWriter, "_write_granules", dying)
        with pytest.raises(DiedError):
            relationship.sync()
    with (tmp_path / "store/vm/disk0/undo/000002.index").open("ab") as index:
        index.write(tail)
    assert recovered(relationship, tmp_path / "out", "1.1") == before
    relationship.sync()
    assert recovered(relationship, tmp_path / "out", "1.1") == before
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()


def test_a_damaged_row_that_counted_is_found(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relationship = br.protect(image, tmp_path / "store", name="vm")
    wrote(image, b"x" * 50 * 4096, 3 * BLOCK)
    with monkeypatch.context() as patch:
        patch.setattr(DiskWriter, "seal", lambda _: (_ for _ in ()).throw(DiedError))
        with pytest.raises(DiedError):
            relationship.sync()
    index = tmp_path / "store/vm/disk0/undo/000002.index"
    put(index, b"\xff", 64 + 3)
    with pytest.raises(DamageError):
        recovered(relationship, tmp_path / "out", "1.1")


def test_reading_a_part_serves_no_damage(tmp_path: Path, image: Path) -> None:
    relationship = br.protect(image, tmp_path / "store", name="vm")
    put(tmp_path / "store/vm/disk0/disk.img", b"rot", 5000)
    size = image.stat().st_size
    with pytest.raises(DamageError):
        relationship.replica.read(None, 5000, 3)
    assert relationship.replica.read(None, size - 7000, 7000) == image.read_bytes()[-7000:]
    assert relationship.replica.read(None, size, 0) == b""


def test_unprotect_deletes_no_replica_of_another_relationship(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    br.protect(image, tmp_path / "store", name="vm")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state of another host"))
    br.protect(image, tmp_path / "store", name="vm")
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    with pytest.raises(RefusedError):
        unprotect("vm", delete_replica=True)
    assert (tmp_path / "store/vm/replica").exists()


def test_protecting_again_while_the_store_is_away_forgets_no_relationship(tmp_path: Path, image: Path) -> None:
    br.protect(image, tmp_path / "store", name="vm")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/other").touch()
    with pytest.raises(RefusedError):
        br.protect(image, tmp_path / "store", name="vm")
    assert br.relationship("vm").name == "vm"


def test_verify_minds_no_sync_that_prunes(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relationship = br.protect(image, tmp_path / "store", name="vm", keep=2)
    wrote(image, b"second", 0)
    relationship.sync()
    check = verify._check_chain

    def while_syncing(points: list[PointRecord], report: verify.VerifyReport) -> None:
        check(points, report)
        for data in (b"third", b"fourth"):
            wrote(image, data, 0)
            relationship.sync()

    monkeypatch.setattr(verify, "_check_chain", while_syncing)
    assert not relationship.verify().damage
    assert [point.id for point in relationship.points()] == ["1.1", "1.2", "1.3", "1.4"]
    relationship.sync()
    assert len(relationship.points()) == 2


def test_two_recoveries_to_one_file_do_not_mix(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relationship = br.protect(image, tmp_path / "store", name="vm")
    window = recover.copy_window

    def with_another(*args: object, **rest: object) -> object:
        with pytest.raises(BusyError):
            relationship.replica.recover(None, tmp_path / "out")
        return window(*args, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(recover, "copy_window", with_another)
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()


@pytest.mark.parametrize("size", [40 * BLOCK + 9000, 40 * BLOCK + 3000, 40 * BLOCK])
def test_a_resize_gives_no_checksum_to_a_damaged_last_block(tmp_path: Path, image: Path, size: int) -> None:
    relationship = br.protect(image, tmp_path / "store", name="vm")
    put(tmp_path / "store/vm/disk0/disk.img", b"rot", 40 * BLOCK + 2000)
    with br.track(image) as tracked:
        tracked.resize(size)
    assert relationship.sync().action == "resync"
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()
