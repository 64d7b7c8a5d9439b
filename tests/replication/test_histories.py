"""A primary that was put back to an older state, tracking and all: numbers go on from there and prove nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica import kernels
from blockreplica.replication import full, moving, run
from blockreplica.stores import Session


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
        patch.setattr(full.FullMovement, "_close_gap", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            br.protect(image, tmp_path / "store", name="vm")
    rolled_back(image.parent, tmp_path / "backup")
    with br.track(image) as tracked:  # changed behind its back: this epoch ends at the open
        tracked.pwrite(b"new history", 3 << 20)
    relationship = br.protect(image, tmp_path / "store", name="vm")
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()


class Frozen:
    """A process that has a tracker's memory as it was, and goes on from there when it is told to."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        waiting, self._told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._told)
                if os.read(waiting, 1):
                    go_on()
                    code = 0
            finally:
                os._exit(code)
        os.close(waiting)

    def go_on(self) -> None:
        """Let it live, and see it end in order."""
        os.write(self._told, b"!")
        assert self._end() == 0

    def _end(self) -> int:
        os.close(self._told)  # nobody tells it any more: it ends
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def __enter__(self) -> Frozen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self._end()


def snapshot(folder: Path) -> dict[int, tuple[str, bytes]]:
    """All files of a folder by their inodes."""
    return {path.stat().st_ino: (path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file()}


def put_back(folder: Path, files: dict[int, tuple[str, bytes]]) -> None:
    """Every inode has its name and its content again: who has one open, or mapped, sees that."""
    for path in list(folder.iterdir()):
        number = path.stat().st_ino
        if number in files:
            path.rename(folder / f"inode {number}")
        else:
            path.unlink()
    for number, (name, content) in files.items():
        place = folder / f"inode {number}"
        with place.open("r+b" if place.exists() else "wb") as file:
            file.truncate(len(content))
            file.write(content)
        place.rename(folder / name)


@contextmanager
def in_two_histories(image: Path) -> Iterator[None]:
    """What the block does, it does in a history that the host, put back with its memory, then knows nothing of."""
    tracker = kernels.Tracker(image.parent, image.name)
    tracker.pwrite(b"both histories", 1 << 20)

    def other_history() -> None:
        tracker.pwrite(b"new history", 5 << 20)
        tracker.close()

    with Frozen(other_history) as frozen:
        before = snapshot(image.parent)
        tracker.pwrite(b"old history", 3 << 20)
        tracker.listen(image.parent, image.name)
        yield
        tracker.drop()
        put_back(image.parent, before)
        frozen.go_on()


@pytest.mark.parametrize("again", [False, True])
def test_a_host_put_back_with_all_of_its_memory_is_compared(tmp_path: Path, image: Path, again: bool) -> None:
    """The tracker goes on in the same epoch, of the same UUID, with other changes: numbers and chains fit."""
    relationship = br.protect(image, tmp_path / "store", name="vm")
    wrote(image, b"first", 0)
    relationship.sync()
    with in_two_histories(image):
        assert relationship.sync().action == "delta"
    if again:
        wrote(image, b"and another epoch", 6 << 20)
    result = relationship.sync()
    assert result.action == "resync"
    assert "another history" in result.reason
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()
    wrote(image, b"and on", 7 << 20)
    assert relationship.sync().action == "delta"
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()


def test_a_delta_that_was_cut_off_in_a_history_put_back_with_all_memory_is_not_gone_on_with(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 11: the replica has no point of that history, but has been brought half of it."""
    relationship = br.protect(image, tmp_path / "store", name="vm")
    wrote(image, b"first", 0)
    relationship.sync()
    with in_two_histories(image), monkeypatch.context() as patch:
        patch.setattr(Session, "_before", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            relationship.sync()
    result = relationship.sync()
    assert "not in its history" in result.reason
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()


def test_a_sync_that_dies_before_its_acknowledgement_is_no_other_history(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica has what the sync made; its token was given out before, so that deltas go on."""
    relationship = br.protect(image, tmp_path / "store", name="vm")
    wrote(image, b"first", 0)
    assert relationship.sync().action == "resync"  # tracked from here on
    for at in range(1, 4):
        wrote(image, b"more", at << 20)
        with monkeypatch.context() as patch:
            where, step = (run._Movement, "acknowledge") if at % 2 else (moving.Moving, "commit")
            patch.setattr(where, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                relationship.sync()
    assert relationship.sync().action == "delta"
    assert recovered(relationship, tmp_path / "out") == image.read_bytes()
