"""The catalog: what is added is found again, by several processes, and what is damaged or newer is refused."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec.structs import replace

import blockreplica as br
from blockreplica.errors import NotFoundError, RefusedError, StateError, UsageError
from blockreplica.places import state_folder
from blockreplica.protection import Definition
from blockreplica.service.catalog import Catalog


def definition(name: str = "vm", **more: object) -> Definition:
    """A relationship's definition."""
    fields: dict[str, object] = {
        "id": uuid4(), "name": name, "images": (Path(f"/images/{name}.img"), Path("/images/ü 2.img")),
        "store": Path("/replicas"), "keep": 7, "seed": None, **more,
    }  # fmt: skip
    return Definition(**fields)  # type: ignore[arg-type]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """An empty catalog."""
    return Catalog(tmp_path / "state")


def test_what_is_added_is_found_as_it_was(catalog: Catalog) -> None:
    one, two = definition("one", seed=Path("/seeds/one.img")), definition("two", images=(Path("/x/two.img"),))
    catalog.add(two)
    catalog.add(one)
    assert Catalog(catalog.path.parent).all() == [one, two]
    assert catalog.get("one") == one


def test_an_empty_catalog_makes_no_file(catalog: Catalog) -> None:
    assert catalog.all() == []
    with pytest.raises(NotFoundError, match="none"):
        catalog.get("vm")
    assert not catalog.path.exists()


def test_a_name_is_given_once(catalog: Catalog) -> None:
    catalog.add(definition())
    with pytest.raises(RefusedError, match="exists already"):
        catalog.add(definition(images=(Path("/other.img"),)))


def test_an_image_goes_to_a_store_once_and_to_another_as_well(catalog: Catalog) -> None:
    catalog.add(definition("one", images=(Path("/a.img"), Path("/b.img"))))
    with pytest.raises(RefusedError, match=r"/b\.img.*'one'"):
        catalog.add(definition("two", images=(Path("/b.img"),)))
    catalog.add(definition("three", images=(Path("/b.img"),), store=Path("/elsewhere")))
    assert [one.name for one in catalog.all()] == ["one", "three"]


def test_update_and_remove(catalog: Catalog) -> None:
    held = definition()
    catalog.add(held)
    catalog.update(replace(held, keep=99))
    assert catalog.get("vm").keep == 99
    catalog.remove("vm")
    catalog.remove("vm")
    assert catalog.all() == []


def test_who_is_not_there_is_told_who_is(catalog: Catalog) -> None:
    catalog.add(definition("one"))
    catalog.add(definition("two", images=(Path("/2.img"),)))
    with pytest.raises(NotFoundError, match="one, two"):
        catalog.get("three")


@pytest.mark.parametrize("content", [b"rubbish" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_catalog_is_a_typed_error_that_says_what_to_do(catalog: Catalog, content: bytes) -> None:
    catalog.path.parent.mkdir()
    catalog.path.write_bytes(content)
    with pytest.raises(StateError, match="move the file away"):
        catalog.all()


@pytest.mark.parametrize("column", ["id", "images"])
def test_a_damaged_row_is_a_typed_error(catalog: Catalog, column: str) -> None:
    catalog.add(definition())
    with sqlite3.connect(catalog.path) as database:
        database.execute(f"UPDATE relationship SET {column} = 'rubbish'")
    with pytest.raises(StateError):
        catalog.all()


def test_a_newer_catalog_is_refused(catalog: Catalog) -> None:
    catalog.add(definition())
    with sqlite3.connect(catalog.path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="newer blockreplica"):
        catalog.all()


def test_the_state_folder_is_ours_then_xdgs_then_the_usual_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "own"))
    assert state_folder() == tmp_path / "own"
    monkeypatch.delenv("BLOCKREPLICA_STATE")
    assert state_folder() == tmp_path / "xdg/blockreplica"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert state_folder() == tmp_path / "home/.local/state/blockreplica"


ADDER = """
import sys
from pathlib import Path
from uuid import uuid4
from blockreplica.protection import Definition
from blockreplica.service.catalog import Catalog
for number in range(20):
    name = f"{sys.argv[2]}-{number}"
    Catalog(Path(sys.argv[1])).add(Definition(id=uuid4(), name=name, images=(Path("/" + name),), store=Path("/s")))
"""


def test_processes_that_add_at_the_same_time_lose_nothing(catalog: Catalog) -> None:
    command = [sys.executable, "-c", ADDER, str(catalog.path.parent)]
    adders = [subprocess.Popen([*command, f"p{number}"]) for number in range(3)]
    assert [adder.wait() for adder in adders] == [0, 0, 0]
    assert len(catalog.all()) == 60


class TestProtect:
    """What is refused before anything is made."""

    @pytest.fixture(autouse=True)
    def state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
        (tmp_path / "vm.img").write_bytes(b"x" * 100_000)

    @pytest.mark.parametrize("name", ["", "../vm", "a/b", ".vm", "a b"])
    def test_names_that_are_none(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError):
            br.protect(tmp_path / "vm.img", tmp_path / "store", name=name)
        assert not (tmp_path / "store").exists()

    def test_images_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            br.protect(tmp_path / "no.img", tmp_path / "store", name="vm")
        with pytest.raises(RefusedError):
            br.protect("/dev/null", tmp_path / "store", name="vm")
        for bad in ([], [tmp_path / "vm.img", tmp_path / "." / "vm.img"]):
            with pytest.raises(UsageError):
                br.protect(bad, tmp_path / "store", name="vm")
        assert br.relationships() == []

    def test_a_folder_is_no_image(self, tmp_path: Path) -> None:
        with pytest.raises((RefusedError, br_storage_error())):
            br.protect(tmp_path, tmp_path / "store", name="vm")
        assert br.relationships() == []

    def test_an_image_inside_its_own_store(self, tmp_path: Path) -> None:
        br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm")
        with pytest.raises(RefusedError, match="inside the store"):
            br.protect(tmp_path / "store/vm/disk0/disk.img", tmp_path / "store", name="again")

    @pytest.mark.parametrize("block_size", [0, 1000, 4095, 12288, 1 << 30])
    def test_block_sizes_that_can_not_be(self, tmp_path: Path, block_size: int) -> None:
        with pytest.raises(UsageError):
            br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm", block_size=block_size)
        assert br.relationships() == []

    def test_a_store_that_is_somebody_elses_folder(self, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs/letter").write_text("dear")
        with pytest.raises(RefusedError, match="not a replica store"):
            br.protect(tmp_path / "vm.img", tmp_path / "theirs", name="vm")
        assert os.listdir(tmp_path / "theirs") == ["letter"]
        assert br.relationships() == []

    def test_what_is_protected_already(self, tmp_path: Path) -> None:
        br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm")
        for name, match in (("vm", "already"), ("other", "already")):
            with pytest.raises(RefusedError, match=match):
                br.protect(tmp_path / "vm.img", tmp_path / "store", name=name)
        assert br.protect(tmp_path / "vm.img", tmp_path / "second", name="other").points()[0].id == "1.1"

    def test_one_that_was_interrupted_once_its_point_stood_says_how_to_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C said that the same command goes on; what it finds is a relationship with all that it needs."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Catalog, "update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm")
        with pytest.raises(RefusedError, match=r"has points; for the next one: blockreplica sync vm$"):
            br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm")
        br.relationship("vm").sync()
        assert [point.id for point in br.relationship("vm").points()] == ["1.1", "1.2"]

    def test_a_replica_of_that_name_from_elsewhere_is_left_alone(self, tmp_path: Path) -> None:
        br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm")
        br.unprotect("vm")
        with pytest.raises(RefusedError, match="replica of that name"):
            br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm")
        assert br.relationships() == []
        assert (tmp_path / "store/vm/disk0/disk.img").read_bytes() == b"x" * 100_000

    def test_unprotect_deletes_the_replica_only_when_told(self, tmp_path: Path) -> None:
        br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm")
        br.unprotect("vm", delete_replica=True)
        assert not (tmp_path / "store/vm").exists()
        br.protect(tmp_path / "vm.img", tmp_path / "store", name="vm")


def br_storage_error() -> type[Exception]:
    """What opening a folder as a file gives."""
    from blockreplica.errors import StorageError

    return StorageError
