"""Ctrl-C at any durable step: exit code 130, no traceback, old points whole, and the same command goes on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.errors import RefusedError

SIZE = 3 << 20
SEED = 130

#: The program, with Ctrl-C pressed at its n-th fsync. Exit code 0 then means that it has fewer.
PROGRAM = """
import os, signal, sys
from blockreplica import files
from blockreplica.cli.main import run

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell began us in the background
left, sync = int(sys.argv[1]), files.File.sync

def interrupted(self):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGINT)
    sync(self)

files.File.sync = interrupted
sys.exit(run(sys.argv[2:]))
"""


def interrupt(step: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command with Ctrl-C at its `step`-th fsync."""
    command = [sys.executable, "-c", PROGRAM, str(step), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_interrupted(result: subprocess.CompletedProcess[str]) -> None:
    """It ended as Ctrl-C should end it."""
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
    assert "goes on where it was" in result.stderr


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracked image."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    path = tmp_path / "vm.img"
    path.write_bytes(random.Random(SEED).randbytes(SIZE))
    with br.track(path):
        return path


def recovered(point: str | None, folder: Path) -> bytes:
    """The content of a point."""
    target = folder / "out.img"
    br.relationship("vm").replica.recover(point, target, force=True)
    return target.read_bytes()


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8])
def test_a_first_copy_that_was_interrupted_is_taken_up_by_the_same_command(
    step: int, image: Path, tmp_path: Path
) -> None:
    command = ("protect", image, "--to", tmp_path / "store", "--name", "vm")
    assert_interrupted(interrupt(step, *command))
    assert interrupt(0, *command).returncode == 0
    assert recovered(None, tmp_path) == image.read_bytes()


CHANGE = ["resync", "vm", "--block-size", "16KiB"]


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize("command", [["sync", "vm"], ["resync", "vm"], ["resync", "vm", "--deep"], CHANGE])
def test_an_interrupted_sync_keeps_the_old_points_and_goes_on(
    command: list[str], step: int, image: Path, tmp_path: Path
) -> None:
    vm = br.protect(image, tmp_path / "store", name="vm")
    [first] = vm.points()
    before = image.read_bytes()
    with br.track(image) as tracked:
        tracked.pwrite(random.Random(step).randbytes(200_000), 70_000)
    assert_interrupted(interrupt(step, *command))
    assert recovered(first.id, tmp_path) == before
    assert interrupt(0, *command).returncode == 0
    assert recovered(first.id, tmp_path) == before
    assert recovered(None, tmp_path) == image.read_bytes()


def test_an_interrupted_recovery_goes_on_where_it_was(image: Path, tmp_path: Path) -> None:
    br.protect(image, tmp_path / "store", name="vm")
    target = tmp_path / "there" / "out.img"
    target.parent.mkdir()
    assert_interrupted(interrupt(1, "recover", "vm", "--to", target))
    assert os.listdir(target.parent) == ["out.img.blockreplica-partial"]
    br.relationship("vm").replica.recover(None, target)
    assert os.listdir(target.parent) == ["out.img"]
    assert target.read_bytes() == image.read_bytes()


def test_a_name_given_to_the_wrong_image_is_free_again_as_the_error_says(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(b"the wrong one")
    steps = 10  # the catalog has it by then, and no point is there
    assert_interrupted(interrupt(steps, "protect", other, "--to", tmp_path / "store", "--name", "vm"))
    with pytest.raises(RefusedError, match="unprotect vm --delete-replica"):
        br.protect(image, tmp_path / "store", name="vm")
    br.unprotect("vm", delete_replica=True)
    assert br.protect(image, tmp_path / "store", name="vm").points()
    with pytest.raises(RefusedError, match="for other images; choose another --name"):
        br.protect(other, tmp_path / "store", name="vm")
