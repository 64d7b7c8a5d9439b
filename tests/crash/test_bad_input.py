"""Damaged, forged, missing and foreign files on both sides: a typed error, the points unhurt, and a sync that heals.

Everything goes through the command line's front door, where an error that nobody foresaw would show as a traceback.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.cli.main import run
from blockreplica.files import FILES, File

SIZE = (2 << 20) + 3000
BLOCK = 4096


class Scene:
    """A tracked image with three points, keep 10, and what each point holds."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], *, tracked: bool = True) -> None:
        self.folder, self._capsys, self.rng = folder, capsys, random.Random(3)
        self.image, self.store, self.tracked = folder / "vm.img", folder / "store", tracked
        self.models: dict[str, bytes] = {}
        self.image.write_bytes(self.rng.randbytes(SIZE // 2) + bytes(SIZE - SIZE // 2))
        self.write()
        self.cli("protect", self.image, "--to", self.store, "--name", "vm", "--block-size", BLOCK, "--keep", 10)
        self.remember()
        for _ in range(2):
            self.write()
            self.sync()

    @property
    def replica(self) -> Path:
        return self.store / "vm"

    @property
    def disk(self) -> Path:
        return self.replica / "disk0"

    def write(self) -> None:
        """Write here and there; the same blocks again and again, so that undo logs matter."""
        rng = self.rng
        places = [(rng.randrange(16) * 65536 + rng.randrange(5000), rng.randbytes(3000)) for _ in range(4)]
        if not self.tracked:
            with self.image.open("r+b") as file:
                for offset, data in places:
                    os.pwrite(file.fileno(), data, offset)
            return
        with br.track(self.image) as image:
            for offset, data in places:
                image.pwrite(data, offset)
            image.zero(self.rng.randrange(16) * 65536, 8192)

    def cli(self, *arguments: object, code: int = 0) -> Any:
        """Run a command in this process; its JSON, or its error's."""
        got = run([*map(str, arguments), "--json"])
        out, err = self._capsys.readouterr()
        assert got == code, f"{arguments}: exit code {got}, wanted {code}: {err or out}"
        if code:
            error = json.loads(err.splitlines()[-1])["error"]
            assert error["message"], error
            return error | {"out": out}
        return json.loads(out)

    def remember(self) -> None:
        for point in br.relationship("vm").points():
            self.models.setdefault(point.id, self.image.read_bytes())

    def sync(self, *arguments: object) -> Any:
        """A sync that works; its point is the image."""
        done = self.cli("sync", "vm", *arguments)
        self.remember()
        assert done["kind"] == "crash-consistent"
        assert self.recovered(done["point"]) == self.image.read_bytes()
        return done

    def recovered(self, point: str) -> bytes | None:
        """What `recover` gives: None for a typed error; then no file may stand there."""
        target = self.folder / "recovered"
        target.unlink(missing_ok=True)
        code = run(["recover", "vm", "--point", point, "--to", str(target)])
        self._capsys.readouterr()
        assert (code == 0) == target.exists()
        assert code in (0, 3, 4, 5, 6, 8), code
        return target.read_bytes() if code == 0 else None

    def right(self, *points: str) -> None:
        """These points are right; the others are right or refused."""
        for point, model in self.models.items():
            got = self.recovered(point)
            if point in points:
                assert got is not None, f"point {point} can't be recovered"
            assert got is None or got == model, f"point {point} is wrong"

    def artifacts(self, suffix: str) -> list[Path]:
        return sorted(self.folder.glob(f"vm.img.*{suffix}"))


@pytest.fixture
def scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scene:
    return Scene(tmp_path, capsys)


def flipped(path: Path) -> None:
    """A bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def missing(path: Path) -> None:
    path.unlink()


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: list[Callable[[Path], None]] = [flipped, truncated, emptied, missing, garbage]
ALL = ("1.1", "1.2", "1.3")
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


# --- versions from the future ---------------------------------------------------------------------------------------


def newer_record(path: Path) -> None:
    """The same record by a version to come."""
    head, _, body = path.read_bytes().partition(b"\n")
    words = head.split(b" ")
    words[2] = b"2"
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
    assert FILES is not None
