"""Rule 6: whether a sync compares an image of which libvirt has changed the owner is the relationship's to say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import blockreplica as br
from blockreplica.cli.main import cli
from blockreplica.errors import UsageError
from blockreplica.tracking.control import Control

from .world import write

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _own_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    path.write_bytes(os.urandom(MIB))
    write(path, (0, b"x"))
    return path


def machine_ran(image: Path) -> None:
    """It wrote through the tracker, and libvirt took the image back."""
    write(image, (4096, os.urandom(100)))
    os.chmod(image, image.stat().st_mode ^ 0o020)


def recovered(image: Path, vm: br.Relationship) -> bool:
    target = image.with_name("recovered.img")
    vm.replica.recover(None, target, force=True)
    return target.read_bytes() == image.read_bytes()


def test_a_chown_while_the_image_is_closed_means_compare(image: Path, tmp_path: Path) -> None:
    vm = br.protect(image, tmp_path / "store", name="vm")
    machine_ran(image)
    assert vm.sync().action == "resync"
    assert recovered(image, vm)


def test_a_relationship_that_ignores_ctime_goes_on_with_deltas(image: Path, tmp_path: Path) -> None:
    vm = br.protect(image, tmp_path / "store", name="vm", ignore_ctime=True)
    for _ in range(3):
        machine_ran(image)
        assert vm.sync().action == "delta"
    assert recovered(image, vm)


def test_it_still_compares_what_somebody_wrote(image: Path, tmp_path: Path) -> None:
    vm = br.protect(image, tmp_path / "store", name="vm", ignore_ctime=True)
    machine_ran(image)
    with image.open("r+b") as file:
        file.write(b"changed")
    assert vm.sync().action == "resync"
    assert recovered(image, vm)


def test_the_command_changes_it_and_the_catalog_keeps_it(image: Path, tmp_path: Path) -> None:
    br.protect(image, tmp_path / "store", name="vm")
    for option, action in (("--ignore-ctime", "delta"), ("--compare-ctime", "resync"), ("--ignore-ctime", "delta")):
        result = CliRunner().invoke(cli, ["log", "vm", option, "--json"], standalone_mode=False)
        assert result.exception is None
        assert f'"ignore_ctime": {str(option == "--ignore-ctime").lower()}' in result.stdout
        machine_ran(image)
        assert br.relationship("vm").sync().action == action


def test_a_tracker_that_was_told_is_not_told_otherwise_by_a_relationship_that_says_nothing(
    image: Path, tmp_path: Path
) -> None:
    vm = br.protect(image, tmp_path / "store", name="vm")
    br.track(image, ignore_ctime=True).close()
    for _ in range(2):
        machine_ran(image)
        assert vm.sync().action == "delta"


def test_a_tracker_of_an_older_version_that_does_not_know_the_word_is_warned_of_and_synced(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = br.protect(image, tmp_path / "store", name="vm")
    br.set_ctime("vm", ignore=True)
    monkeypatch.setattr(Control, "ignore_ctime", lambda control, **_: control._ask("a-word-of-later"))
    with br.track(image) as tracked:
        tracked.pwrite(b"more", 0)
        done = br.relationship("vm").sync()
    assert done.action == "delta"
    assert ["older version" in warning for warning in done.warnings] == [True]
    assert recovered(image, vm)


def test_disks_of_a_running_qemu_have_no_ctime_to_ignore(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ctime"):
        br.protect(f"qmp:{tmp_path}/qmp.sock?node=disk", tmp_path / "store", name="vm", ignore_ctime=True)
