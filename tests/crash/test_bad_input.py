"""Damaged, forged, missing and foreign files on both sides: a typed error, the points unhurt, and a sync that heals.

Everything goes through the command line's front door, where an error that nobody foresaw would show as a traceback.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.cli.main import run
from crash.scene import ALL, BLOCK, DAMAGE, SIZE, Scene, a_folder, emptied, flipped, garbage, missing, truncated

#: File of the replica -> the points that its damage may not hurt, before and after the next sync.
STORE: dict[str, tuple[str, ...]] = {
    "../blockreplica-store": ALL,
    "replica": ALL,
    "state": ALL,
    "state.copy": ALL,
    "points/000003": ("1.1", "1.2"),
    "points/000002": ("1.1", "1.3"),
    "disk0/undo/000002.hrl": ("1.2", "1.3"),
    "disk0/undo/000002.index": ("1.2", "1.3"),
    "disk0/undo/000003.index": ("1.3",),
}
LOST_WHEN_MISSING = {"../blockreplica-store", "replica"}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", STORE)
def test_a_damaged_file_of_the_store_hurts_only_its_points_and_the_next_sync_goes_on(
    scene: Scene, name: str, damage: Callable[[Path], None]
) -> None:
    damage(scene.replica / name)
    if name in LOST_WHEN_MISSING and damage is missing:
        scene.cli("sync", "vm", code=6 if "store" in name else 5)
        scene.right()
        return
    scene.right(*STORE[name])
    scene.cli("verify", "vm", code=4)
    scene.cli("status", "vm")
    scene.write()
    scene.sync()
    scene.right(*STORE[name], "1.4")


@pytest.mark.parametrize("name", [*STORE, "disk0/checksums", "disk0/disk.img", "INCOMPLETE", "disk0/undo/000004.index"])
def test_a_folder_in_the_place_of_a_file_of_the_store_is_no_more_than_an_error(scene: Scene, name: str) -> None:
    (scene.replica / name).unlink(missing_ok=True)
    (scene.replica / name).mkdir()
    scene.right()
    scene.write()
    assert run(["sync", "vm"]) in (0, 3, 4, 6, 8)
    (scene.replica / name).rmdir()
    scene.right()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checksum_table_is_computed_anew_by_a_resync(scene: Scene, damage: Callable[[Path], None]) -> None:
    table = scene.disk / "checksums"
    if damage is flipped:  # the page that the next delta touches
        with table.open("r+b") as file:
            os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, 1000)[0] ^ 1]), 1000)
    else:
        damage(table)
    scene.right()
    scene.write()
    done = scene.sync()
    assert done["action"] == "resync"
    assert "checksum" in done["reason"]
    scene.write()
    assert scene.sync()["action"] == "delta"
    scene.right("1.4", "1.5")
    for point in ALL:
        target = scene.folder / "unchecked"
        br.relationship("vm").replica.recover(point, target, force=True, unchecked=True)
        assert target.read_bytes() == scene.models[point], "what can't be checked is right all the same"


def test_a_zeroed_page_of_the_table_is_noticed_and_healed(scene: Scene) -> None:
    with (scene.disk / "checksums").open("r+b") as file:
        os.pwrite(file.fileno(), bytes(4096), 0)
    scene.right()
    scene.cli("verify", "vm", code=4)
    scene.cli("resync", "vm")
    scene.remember()
    scene.right(*ALL, "1.4")
    assert not scene.cli("verify", "vm")["damage"]


@pytest.mark.parametrize("damage", [truncated, emptied, missing])
def test_a_disk_that_lost_bytes_is_compared_on_both_sides(scene: Scene, damage: Callable[[Path], None]) -> None:
    damage(scene.disk / "disk.img")
    scene.right()
    scene.write()
    done = scene.sync()
    assert done["action"] == "resync"
    assert "the replica was damaged" in done["reason"]
    scene.right("1.4")


@pytest.mark.parametrize("deep", [False, True])
def test_a_flipped_bit_in_a_block_that_a_delta_writes_in_part_never_gets_a_checksum_that_calls_it_right(
    scene: Scene, deep: bool
) -> None:
    with br.track(scene.image) as image:
        image.pwrite(b"first", 5 * 65536 + 100)
    scene.sync()
    with (scene.disk / "disk.img").open("r+b") as file:
        at = 5 * 65536 + 3000
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, at)[0] ^ 1]), at)
    assert scene.recovered("1.4") is None
    with br.track(scene.image) as image:
        image.pwrite(b"other", 5 * 65536 + 100)
    if deep:
        scene.cli("resync", "vm", "--deep")
        scene.remember()
        assert scene.recovered("1.5") == scene.image.read_bytes()
    else:
        done = scene.sync()
        assert done["action"] == "resync"
        assert "does not match its checksum" in done["reason"]
    scene.right("1.5")
    assert scene.recovered("1.4") is None


def test_a_resync_by_checksums_overwrites_a_damaged_block_that_changed(scene: Scene) -> None:
    with (scene.disk / "disk.img").open("r+b") as file:
        os.pwrite(file.fileno(), b"\0" * 3000, 0)
    with br.track(scene.image) as image:
        image.pwrite(scene.rng.randbytes(BLOCK), 0)
    scene.cli("resync", "vm")
    scene.remember()
    scene.right("1.4")


# --- the primary's side ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_log_turns_the_delta_into_a_partial_resync(scene: Scene, damage: Callable[[Path], None]) -> None:
    scene.write()
    damage(scene.artifacts(".hrl")[-1])
    done = scene.sync()
    assert done["action"] == "partial-resync"
    assert "log" in done["reason"]
    scene.right(*ALL, "1.4")
    scene.write()
    assert scene.sync()["action"] == "delta"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_log_and_a_damaged_bitmap_bring_a_resync(scene: Scene, damage: Callable[[Path], None]) -> None:
    scene.write()
    damage(scene.artifacts(".hrl")[-1])
    damage(scene.artifacts(".dirty")[-1])
    assert scene.sync()["action"] == "resync"
    scene.right(*ALL, "1.4")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bitmap_beside_a_whole_log_changes_nothing(scene: Scene, damage: Callable[[Path], None]) -> None:
    scene.write()
    damage(scene.artifacts(".dirty")[-1])
    assert scene.sync()["action"] == "delta"
    scene.right(*ALL, "1.4")


def test_a_log_of_another_image_or_of_another_epoch_is_not_applied(scene: Scene) -> None:
    scene.write()
    log = scene.artifacts(".hrl")[-1]
    other = scene.folder / "other.img"
    other.write_bytes(bytes(SIZE))
    with br.track(other) as image:
        image.pwrite(b"\xff" * 70_000, 1000)
    forged = sorted(scene.folder.glob("other.img.*.hrl"))[-1]
    shutil.copy(forged, log)
    assert scene.sync()["action"] in ("partial-resync", "resync")
    scene.write()
    first = scene.artifacts(".hrl")[-1]
    kept = first.read_bytes()
    scene.write()
    scene.artifacts(".hrl")[-1].write_bytes(kept)
    assert scene.sync()["action"] in ("partial-resync", "resync")
    scene.right(*ALL, "1.4", "1.5")


@pytest.mark.parametrize("damage", [*DAMAGE, a_folder])
def test_a_damaged_tracking_file_brings_a_resync(scene: Scene, damage: Callable[[Path], None]) -> None:
    tracking = scene.folder / "vm.img.tracking"
    if damage is flipped:
        with tracking.open("r+b") as file:
            os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, 40)[0] ^ 1]), 40)
    else:
        damage(tracking)
    if damage is a_folder:
        scene.cli("sync", "vm", code=8)
        tracking.rmdir()
    with scene.image.open("r+b") as file:
        os.pwrite(file.fileno(), b"behind the tracker's back", 70_000)
    assert scene.sync()["action"] in ("resync", "scan")
    scene.right(*ALL, "1.4")


@pytest.mark.parametrize("damage", [*DAMAGE, a_folder])
def test_damaged_cursors_hurt_nothing(scene: Scene, damage: Callable[[Path], None]) -> None:
    damage(scene.folder / "vm.img.cursors")
    scene.write()
    assert scene.sync()["action"] == "delta"
    scene.write()
    assert scene.sync()["action"] == "delta"
    scene.right(*ALL, "1.4", "1.5")


@pytest.mark.parametrize("damage", [truncated, garbage, a_folder])
def test_a_damaged_catalog_is_said_and_the_replica_is_not_touched(
    scene: Scene, state: Path, damage: Callable[[Path], None]
) -> None:
    catalog = state / "catalog.sqlite"
    for name in ("-wal", "-shm"):
        (state / f"catalog.sqlite{name}").unlink(missing_ok=True)
    kept = catalog.read_bytes()
    damage(catalog)
    for command in (["sync", "vm"], ["points", "vm"], ["status"], ["recover", "vm", "--to", scene.folder / "x"]):
        assert "catalog" in scene.cli(*command, code=3)["message"]
    if catalog.is_dir():
        catalog.rmdir()
    catalog.write_bytes(kept)
    scene.right(*ALL)


def test_a_changed_row_of_the_catalog_is_not_believed(scene: Scene, state: Path) -> None:
    with sqlite3.connect(state / "catalog.sqlite") as database:
        database.execute("UPDATE relationship SET keep = 1")
    database.close()
    scene.write()
    assert "catalog" in scene.cli("sync", "vm", code=3)["message"]
