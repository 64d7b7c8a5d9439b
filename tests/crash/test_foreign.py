"""Records of versions to come, images that are none, targets that are not ours, two who want the same.

All of it is refused with a typed error, and nothing is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.files import File
from crash.scene import ALL, SIZE, Scene

# --- versions from the future ---------------------------------------------------------------------------------------


def newer_record(path: Path) -> None:
    """The same record by a version to come."""
    head, _, body = path.read_bytes().partition(b"\n")
    words = head.split(b" ")
    words[2] = b"9"
    assert words[3] == b"sha256:" + hashlib.sha256(body).hexdigest().encode()
    path.write_bytes(b" ".join(words) + b"\n" + body)


@pytest.mark.parametrize("name", ["../blockreplica-store", "replica", "state"])
def test_a_record_of_a_newer_version_is_refused_and_left_as_it_is(scene: Scene, name: str) -> None:
    for path in sorted((scene.replica / name).parent.resolve().glob(Path(name).name + "*")):
        newer_record(path)
    before = (scene.replica / name).read_bytes()
    for command in (["sync", "vm"], ["recover", "vm", "--to", scene.folder / "x"]):
        assert "newer blockreplica" in scene.cli(*command, code=3)["message"]
    assert (scene.replica / name).read_bytes() == before


def test_a_tracking_file_of_a_newer_version_is_refused_and_left_as_it_is(scene: Scene) -> None:
    from blockreplica import kernels

    tracking = scene.folder / "vm.img.tracking"
    raw = bytearray(tracking.read_bytes())
    raw[8:12] = (7).to_bytes(4, "little")
    raw[508:512] = kernels.crc32c(raw[:508]).to_bytes(4, "little")
    tracking.write_bytes(raw)
    assert "newer blockreplica" in scene.cli("sync", "vm", code=3)["message"]
    assert tracking.read_bytes() == raw
    scene.right(*ALL)


def test_cursors_of_a_newer_version_are_left_as_they_are(scene: Scene) -> None:
    cursors = scene.folder / "vm.img.cursors"
    text = json.dumps(json.loads(cursors.read_text()) | {"version": 9})
    cursors.write_text(text)
    scene.write()
    done = scene.sync()
    assert any("newer" in warning for warning in done["warnings"])
    assert cursors.read_text() == text


def test_a_catalog_of_a_newer_version_is_refused(scene: Scene, state: Path) -> None:
    with sqlite3.connect(state / "catalog.sqlite") as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    assert "newer blockreplica" in scene.cli("status", code=3)["message"]


# --- images and targets ---------------------------------------------------------------------------------------------


def test_a_missing_image_is_said_and_its_points_stay(scene: Scene) -> None:
    scene.image.unlink()
    assert "vm.img" in scene.cli("sync", "vm", code=5)["message"]
    assert scene.cli("status", "vm")["disks"][0]["tracking"] == "missing"
    scene.right(*ALL)


@pytest.mark.parametrize("tracked", [True, False])
def test_an_image_replaced_by_a_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tracked: bool
) -> None:
    scene = Scene(tmp_path, capsys, tracked=tracked)
    scene.image.unlink()
    scene.image.mkdir()
    assert "no disk image" in scene.cli("sync", "vm", code=6)["message"]
    assert scene.cli("status", "vm")["state"] == "image unreadable"
    scene.right(*ALL)


def test_an_image_replaced_by_another_is_compared(scene: Scene) -> None:
    new = scene.folder / "new"
    new.write_bytes(scene.rng.randbytes(SIZE + 5000))
    new.replace(scene.image)
    assert scene.sync()["action"] == "resync"
    scene.right(*ALL, "1.4")


def test_a_pipe_in_the_place_of_an_image_does_not_hang(scene: Scene) -> None:
    scene.image.unlink()
    os.mkfifo(scene.image)
    assert "no disk image" in scene.cli("sync", "vm", code=6)["message"]


def test_targets_that_are_not_ours_are_refused_and_untouched(scene: Scene) -> None:
    image = scene.folder / "second.img"
    image.write_bytes(b"x" * 100_000)
    foreign = scene.folder / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("mine")
    before = sorted(foreign.rglob("*"))
    scene.cli("protect", image, "--to", foreign, "--name", "other", code=6)
    assert sorted(foreign.rglob("*")) == before
    scene.cli("protect", image, "--to", image, "--name", "other", code=6)
    scene.cli("protect", image, "--to", scene.folder, "--name", "other", code=6)
    scene.cli("protect", scene.store / "vm/disk0/disk.img", "--to", scene.store, "--name", "other", code=6)
    scene.cli("protect", image, "--to", scene.store, "--name", "vm", code=6)
    scene.cli("protect", scene.image, "--to", scene.store, "--name", "twice", code=6)
    scene.cli("protect", image, image, "--to", scene.store, "--name", "other", code=2)
    scene.cli("protect", image, "--to", scene.store, "--name", "../other", code=2)
    assert [one["name"] for one in scene.cli("status")] == ["vm"]
    scene.right(*ALL)


def test_a_replica_of_another_relationship_is_not_written(scene: Scene) -> None:
    stolen = scene.folder / "stolen"
    shutil.copytree(scene.store, stolen)
    scene.cli("unprotect", "vm", "--delete-replica")
    scene.cli("protect", scene.image, "--to", scene.store, "--name", "vm")
    shutil.rmtree(scene.store)
    shutil.copytree(stolen, scene.store)
    assert "another relationship" in scene.cli("sync", "vm", code=6)["message"]


def test_a_store_put_back_to_an_older_state_is_brought_up_to_date_again(scene: Scene) -> None:
    older = scene.folder / "older"
    shutil.copytree(scene.store, older)
    scene.write()
    scene.sync()
    shutil.rmtree(scene.store)
    shutil.copytree(older, scene.store)
    del scene.models["1.4"]
    scene.write()
    assert scene.sync()["action"] == "resync"
    scene.right(*ALL, "1.4")


def test_two_syncs_at_once_one_is_told_who_holds_the_replica(scene: Scene) -> None:
    scene.write()
    with br.relationship("vm").replica.base.locked():
        error = scene.cli("sync", "vm", code=7)
    assert str(os.getpid()) in error["message"]
    assert error["recoverable"]
    scene.sync()


def test_a_read_error_in_the_library_is_typed_and_the_next_sync_works(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: File, extents: Any, buffer: Any) -> None:
        from blockreplica.errors import from_os_error

        if self.path.suffix == ".hrl":
            raise from_os_error(OSError(5, ""), self.path, "reading")
        original(self, extents, buffer)

    original = File.read_extents
    scene.write()
    monkeypatch.setattr(File, "read_extents", failing)
    assert "EIO" in scene.cli("sync", "vm", code=8)["message"]
    monkeypatch.undo()
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(scene.folder / "state"))
    scene.right(*ALL)
    scene.sync()
    scene.right(*ALL, "1.4")
