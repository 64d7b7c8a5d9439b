"""A primary that was put back to an older state, tracking and all: numbers go on from there and prove nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.replication import run


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    path = tmp_path / "primary" / "vm.img"
    path.parent.mkdir()
    path.write_bytes(os.urandom(8 << 20))
    return path


def wrote(image: Path, data: bytes, offset: int) -> None:
    with br.track(image) as tracked:
        tracked.pwrite(data, offset)


def recovered(relationship: br.Relationship, to: Path) -> bytes:
    relationship.replica.recover(None, to, force=True)
    return to.read_bytes()


def rolled_back(folder: Path, backup: Path) -> None:
    """As a snapshot of the file system would do it, but for the inodes."""
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)


@pytest.mark.parametrize("without_logs", [False, True])
def test_dirty_bitmaps_of_another_history_are_not_compared_alone(
    tmp_path: Path, image: Path, without_logs: bool
) -> None:
    wrote(image, b"first", 0)
    relationship = br.protect(image, tmp_path / "store", name="vm")
    shutil.copytree(image.parent, tmp_path / "backup")
    for at in (1, 2):
        wrote(image, b"old history", at << 20)
        relationship.sync()
    rolled_back(image.parent, tmp_path / "backup")
    for at in range(5):
        wrote(image, b"new history", (4 << 20) + (at << 19))
    if without_logs:
        for log in image.parent.glob("vm.img.0*.hrl"):
            log.unlink()
    result = relationship.sync()
    assert result.action == "resync"
    assert "another history" in result.reason
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()


def test_an_interrupted_pass_does_not_go_on_in_another_history_of_the_same_epoch(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockreplica.replication.bulk.CHECKPOINT_SECONDS", 0)
    wrote(image, b"first", 0)
    shutil.copytree(image.parent, tmp_path / "backup")
    wrote(image, b"old history", 1 << 20)
    wrote(image, b"old history", 2 << 20)
    with monkeypatch.context() as patch:
        patch.setattr(run._Movement, "_close_gap", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            br.protect(image, tmp_path / "store", name="vm")
    rolled_back(image.parent, tmp_path / "backup")
    with br.track(image) as tracked:  # changed behind its back: this epoch ends at the open
        tracked.pwrite(b"new history", 3 << 20)
    relationship = br.protect(image, tmp_path / "store", name="vm")
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()
