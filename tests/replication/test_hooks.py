"""What stands around the cut (rule 10): points are application-consistent only when all of it held."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.errors import BusyError, StorageError, UsageError
from blockreplica.replication import TrackedGroup, guests

from .agent import FakeAgent
from .world import MIB, make_image, write

FREEZE, THAW = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A name short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="brh") as folder:
        yield Path(folder) / "qga"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A tracked image."""
    path = make_image(tmp_path / "vm.img", MIB, 1)
    write(path, (0, b"one"))
    return path


def test_the_guest_is_at_rest_at_the_cut_and_nowhere_else(
    image: Path, tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, at_rest = TrackedGroup.cut, []
    with FakeAgent(socket_path) as agent:

        def watched(self: TrackedGroup) -> object:
            at_rest.append(agent.frozen)
            return cut(self)

        monkeypatch.setattr(TrackedGroup, "cut", watched)
        vm = br.protect(image, tmp_path / "store", name="vm", guest_agent=socket_path)
        assert vm.last is not None
        assert vm.last.kind == "application-consistent"
        assert at_rest == [False, True], "the second cut makes the point of a first copy"
        write(image, (0, b"two"))
        result = br.relationship("vm").sync()
        assert (result.action, result.kind, result.warnings) == ("delta", "application-consistent", [])
        assert at_rest[2:] == [True], "one cut makes the point of a delta"
        assert vm.resync().kind == "application-consistent"
        assert at_rest[3:] == [False, True]
        assert agent.told == [FREEZE, THAW] * 3
    assert [point.kind for point in vm.points()] == ["application-consistent"] * 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"fails": FREEZE}, "the guest says no"),
        ({"fails": THAW}, "the guest says no"),
        ({"silent": FREEZE}, "did not answer"),
        ({"thaws_by_itself": True}, "thawed by itself"),
    ],
)
def test_a_guest_that_was_not_at_rest_makes_a_crash_consistent_point_that_says_why(
    image: Path, tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, object], said: str
) -> None:
    monkeypatch.setattr(guests, "FREEZE_S", 0.3)
    with FakeAgent(socket_path, **how) as agent:  # type: ignore[arg-type]
        vm = br.protect(image, tmp_path / "store", name="vm", guest_agent=socket_path)
        assert THAW in agent.told, "it is always told to go on"
    assert vm.last is not None
    assert vm.last.kind == "crash-consistent"
    assert any(said in warning for warning in vm.last.warnings), vm.last.warnings
    [point] = vm.points()
    assert said in point.reason


def test_no_agent_at_all_is_no_reason_to_make_no_point(image: Path, tmp_path: Path, socket_path: Path) -> None:
    vm = br.protect(image, tmp_path / "store", name="vm", guest_agent=socket_path)
    assert vm.last is not None
    assert vm.last.kind == "crash-consistent"
    assert "not application-consistent" in vm.last.reason


def test_rule_10_a_cut_that_fails_leaves_no_guest_at_rest(
    image: Path, tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on at once, while whoever asked for the sync lives on."""

    def fails(_: TrackedGroup) -> None:
        raise StorageError("no cut today")

    with FakeAgent(socket_path) as agent:
        br.protect(image, tmp_path / "store", name="vm", guest_agent=socket_path)
        monkeypatch.setattr(TrackedGroup, "cut", fails)
        with pytest.raises(StorageError, match="no cut today"):
            br.relationship("vm").sync()
        assert agent.told[2:] == [FREEZE, THAW]
        assert not agent.frozen


DYING = """
import os, signal
from blockreplica.replication import TrackedGroup
import blockreplica as br
TrackedGroup.cut = lambda self: os.kill(os.getpid(), signal.SIGKILL)
br.relationship("vm").sync()
"""


def test_a_guest_that_was_frozen_by_a_sync_that_died_is_thawed(image: Path, tmp_path: Path, socket_path: Path) -> None:
    with FakeAgent(socket_path) as agent:
        br.protect(image, tmp_path / "store", name="vm", guest_agent=socket_path)
        died = subprocess.Popen([sys.executable, "-c", DYING], stderr=subprocess.PIPE)
        assert died.wait() == -signal.SIGKILL
        for _ in range(3000):
            if agent.told[2:] == [FREEZE, THAW]:
                break
            time.sleep(0.01)
        assert agent.told[2:] == [FREEZE, THAW]
        assert not agent.frozen


def test_a_guest_that_freezes_long_after_nobody_waits_any_more_is_thawed(
    image: Path, tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 13: neither freeze nor thaw were answered in time; then the guest does freeze."""
    monkeypatch.setattr(guests, "FREEZE_S", 0.2)
    monkeypatch.setattr(guests, "THAW_S", 0.2)
    at = threading.Event()
    with FakeAgent(socket_path, freezes_at=at) as agent:
        vm = br.protect(image, tmp_path / "store", name="vm", guest_agent=socket_path)
        assert vm.last is not None
        assert vm.last.kind == "crash-consistent"
        assert agent.told == [FREEZE]
        at.set()
        until = time.monotonic() + 60
        while THAW not in agent.told and time.monotonic() < until:
            time.sleep(0.01)
        assert agent.told == [FREEZE, THAW]
        assert not agent.frozen


def test_what_a_command_leaves_running_is_not_waited_for_and_goes_on(tmp_path: Path) -> None:
    """Such as the database that the command behind the cut starts again."""
    pid = tmp_path / "pid"
    guests.Commands("", f"echo started >&2; sleep 600 & echo $! > {pid}").thaw()
    os.kill(int(pid.read_text()), signal.SIGTERM)


def test_a_command_that_says_very_much_fills_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "_SAID_LIMIT", 1 << 12)
    cut = []
    monkeypatch.setattr(os, "ftruncate", lambda fd, size, cut_it=os.ftruncate: cut.append(cut_it(fd, size)))
    line = "x" * 999
    command = f"n=0; while [ $n -lt 50 ]; do echo {line} >&2; n=$((n + 1)); sleep 0.01; done; echo last >&2; exit 1"
    with pytest.raises(StorageError, match=r"exit code 1: last$"):
        guests.Commands(command, "").freeze()
    assert cut, "nothing was let go"


def test_commands_stand_around_the_cut(image: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    vm = br.protect(
        image, tmp_path / "store", name="vm", pre_cut=f"echo pre >> {told}", post_cut=f"echo post >> {told}"
    )
    assert vm.last is not None
    assert vm.last.kind == "application-consistent"
    assert told.read_text().split() == ["pre", "post"]
    assert br.relationship("vm").definition == vm.definition, "the catalog keeps them"


def test_a_command_that_fails_is_named_and_the_one_behind_the_cut_runs_all_the_same(
    image: Path, tmp_path: Path
) -> None:
    command = "echo no database here >&2; exit 3"
    vm = br.protect(image, tmp_path / "store", name="vm", pre_cut=command, post_cut=f"touch {tmp_path}/ran")
    assert vm.last is not None
    assert vm.last.kind == "crash-consistent"
    assert "exit code 3: no database here" in vm.last.reason
    assert (tmp_path / "ran").exists()


def test_the_agent_and_commands_together_are_refused(image: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not both"):
        br.protect(image, tmp_path / "store", name="vm", guest_agent=tmp_path / "qga", pre_cut="true")


def test_a_command_that_takes_too_long_can_not_freeze_after_the_thaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 10: all that it began ends with it."""
    monkeypatch.setattr(guests, "COMMAND_S", 0.5)
    held = tmp_path / "held"
    os.mkfifo(held)
    end = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BusyError):
        guests.Commands(f"(sleep 60; echo frozen) > {held}; true", "").freeze()
    assert select.select([end], [], [], 30)[0], "somebody of it is alive"
    assert os.read(end, 10) == b""
    os.close(end)
