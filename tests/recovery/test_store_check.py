"""A store is checked by its folder alone; what is newer is refused, what is strange is named (store format v1)."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from blockreplica.cli.main import run
from blockreplica.errors import StateError
from blockreplica.manifest import MarksRecord
from blockreplica.recovery.store_check import check_store
from blockreplica.stores import Replica
from replication.world import flip
from stores.model import move, new_replica, open_replica

SIZE = 200_000


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    """A replica with three points."""
    made = new_replica(tmp_path / "store")
    for fill in (b"\1", b"\2", b"\3"):
        move(made, SIZE, [(20_000, fill * 50_000)])
    return made


def test_a_whole_store_has_no_damage_and_its_disks_may_be_copied(replica: Replica, tmp_path: Path) -> None:
    (one,) = check_store(tmp_path / "store")
    assert (one.name, one.copyable, one.report.damage, one.unknown) == ("vm", True, [], [])
    with replica.locked():
        replica.remove_points([2])
        session = replica.session()
        session.start("delta", heal=False)
        session.checkpoint([])
        session.close()
    (one,) = check_store(tmp_path / "store")
    assert (one.copyable, one.report.damage, one.unknown) == (False, [], [])


def test_damage_ends_in_exit_code_4_and_names_the_replica(
    replica: Replica, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(replica.layout.disk(0).image, 30_000)
    (replica.layout.folder / "photo.jpg").touch()
    assert run(["store", "check", str(tmp_path / "store"), "--json"]) == 4
    (one,) = json.loads(capsys.readouterr().out)["replicas"]
    assert one["report"]["damage"][0]["points"] == ["1.3"]
    assert one["unknown"] == ["photo.jpg"]
    assert not one["copyable"], "it would be copied with its damage"


def test_a_disk_of_another_size_is_not_to_be_copied(replica: Replica, tmp_path: Path) -> None:
    os.truncate(replica.layout.disk(0).image, SIZE + 5000)
    (one,) = check_store(tmp_path / "store")
    assert one.report.damage
    assert not one.copyable
    os.truncate(replica.layout.disk(0).image, SIZE)
    flip(replica.layout.disk(0).undo_log(2), 30_000)
    (one,) = check_store(tmp_path / "store")
    assert one.report.damage
    assert one.copyable, "damage of an older point is none of the newest"


def test_a_replica_whose_record_is_gone_with_its_copy_is_no_silence(replica: Replica, tmp_path: Path) -> None:
    replica.layout.record.unlink()
    (one,) = check_store(tmp_path / "store")
    assert one.report.damage


RECORDS = ["blockreplica-store", "vm/replica", "vm/state"]


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.usefixtures("replica")
def test_a_newer_format_is_refused_by_name(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "store" / name, tmp_path / "store" / f"{name}.copy"):
        path.write_bytes(re.sub(rb"^(blockreplica \S+) 1 ", rb"\1 9 ", path.read_bytes()))
    with pytest.raises(StateError, match="newer blockreplica"):
        open_replica(tmp_path / "store").state()


@pytest.mark.parametrize("name", [*RECORDS, "vm/marks"])
def test_a_newer_format_is_a_refusal_and_no_damage(
    replica: Replica, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with replica.locked():
        replica.mark(MarksRecord(pinned=[2]))
    other = replica.layout.folder.parent / "other"
    shutil.copytree(replica.layout.folder, other)
    for path in (tmp_path / "store" / name, tmp_path / "store" / f"{name}.copy"):
        path.write_bytes(re.sub(rb"^(blockreplica \S+) 1 ", rb"\1 9 ", path.read_bytes()))
    assert run(["store", "check", str(tmp_path / "store"), "--json"]) == 3
    said = capsys.readouterr()
    assert "newer blockreplica" in said.err
    if name != "blockreplica-store":
        others, newer = json.loads(said.out)["replicas"]
        assert (others["name"], others["report"]["damage"], others["newer"]) == ("other", [], "")
        assert (newer["name"], newer["report"]["damage"]) == ("vm", [])
        assert "newer blockreplica" in newer["newer"]
        flip(other / "disk0" / "disk.img", 30_000)
        assert run(["store", "check", str(tmp_path / "store")]) == 4
        assert "vm: refused" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["points/000003", "disk0/undo/000003.index"])
def test_a_newer_point_or_index_hurts_itself_alone(replica: Replica, tmp_path: Path, name: str) -> None:
    path = replica.layout.folder / name
    raw = bytearray(path.read_bytes())
    if name.startswith("points"):
        raw = bytearray(re.sub(rb"^(blockreplica \S+) 1 ", rb"\1 2 ", bytes(raw)))
    else:
        raw[8] = 2
    path.write_bytes(raw)
    (one,) = check_store(tmp_path / "store")
    assert one.report.damage
