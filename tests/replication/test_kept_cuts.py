"""Rule 8: a backlog becomes one point, but application-consistent cuts keep theirs, however their sync ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

import blockreplica as br
from blockreplica.errors import BlockReplicaError, NoSpaceError
from blockreplica.progress import Progress
from blockreplica.protection import Relationship
from blockreplica.replication import HookSettings, TrackedGroup
from blockreplica.replication.kept import KeptCuts
from blockreplica.stores import Replica, Session

from .world import BLOCK, MIB, World, artifacts, flip, write

CONSISTENT, CRASH = "application-consistent", "crash-consistent"


class Played(World):
    """A world whose syncs have hooks, and can be made to fail behind their cut."""

    def hooked(self, pre: str = "true", post: str = "true", *, none: bool = False) -> None:
        """From now on these commands stand around the cut; or none."""
        hooks = HookSettings() if none else HookSettings(pre_cut=pre, post_cut=post)
        self.held = Relationship(replace(self.vm.definition, hooks=hooks))

    def contents(self) -> tuple[bytes, ...]:
        """What the images hold now."""
        return tuple(path.read_bytes() for path in self.images)

    def made(self, *contents: tuple[bytes, ...]) -> list[tuple[str, str]]:
        """A sync that makes points of `contents`, oldest first; kinds and reasons."""
        result = self.vm.sync()
        assert len(result.points) == len(contents)
        assert result.points[-1] == result.point
        self.models.update(zip(result.points, contents, strict=True))
        points = {point.id: point for point in self.check()}
        found = [points[name] for name in result.points]
        assert [point.time for point in found] == sorted(point.time for point in found)
        tokens = [{disk.cursor and disk.cursor.token for disk in point.disks} for point in found]
        assert tokens == [tokens[-1]] * len(found), "all are of this sync, which this host knows of"
        assert len(tokens[-1]) == 1
        return [(point.kind, point.reason) for point in found]

    def noted(self) -> int:
        """How many cuts wait for their points."""
        content = json.loads(self.names().cursors.read_bytes())
        return sum(map(len, content.get("consistent", {}).values()))


@pytest.fixture
def world(tmp_path: Path) -> Played:
    """Two disks, tracked and replicated once; hooks from now on."""
    made = Played.make(tmp_path, sizes=(MIB + 5000, MIB))
    assert isinstance(made, Played)
    for path in made.images:
        write(path, (0, b"tracked"))
    made.protect()
    made.hooked()
    return made


def away(world: Played) -> None:
    """The store goes as the cut is over, and comes back."""
    gone = world.store.with_name("gone")
    world.hooked(post=f"mv {world.store} {gone}")
    with pytest.raises(BlockReplicaError):
        world.vm.sync()
    if world.store.exists():  # what was made anew there is no store
        os.rename(world.store, world.store.with_name("not-the-store"))
    os.rename(gone, world.store)
    world.hooked()


DYING = """
import os, signal, sys
from pathlib import Path
from uuid import UUID
from blockreplica import protection
from blockreplica.replication import HookSettings
from blockreplica.stores import Session
before, left = Session._before, int(sys.argv[5])
def dying(self):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(self)
Session._before = dying
protection.Relationship(protection.Definition(
    id=UUID(sys.argv[1]), name=sys.argv[2], store=Path(sys.argv[3]), images=tuple(map(Path, sys.argv[4].split(":"))),
    hooks=HookSettings(pre_cut="true"))).sync()
"""


def killed(world: Played, commits: int = 0) -> None:
    """kill -9 as all of a delta is there but its point, after so many points."""
    held = world.vm.definition
    images = ":".join(str(path) for path in world.images)
    command = [sys.executable, "-c", DYING, str(held.id), held.name, str(held.store), images, str(commits)]
    with subprocess.Popen(command) as process:
        assert process.wait() == -signal.SIGKILL


def full(world: Played) -> None:
    """The store's disk is full."""
    with pytest.MonkeyPatch.context() as patch:

        def no_room(*_: object) -> None:
            raise NoSpaceError(f"{world.store}: no room")

        patch.setattr(Session, "_mark", no_room)
        with pytest.raises(NoSpaceError):
            world.vm.sync()


def cut_off(*_: object) -> None:
    """In place of a step of the commit, when all is there but the point."""
    raise KeyboardInterrupt


HOW = pytest.mark.parametrize("failing", [away, killed, full])


def more(world: Played, byte: bytes, at: int = 0) -> tuple[bytes, ...]:
    """More writes to both disks, that overlap those before; what they hold then."""
    for index, path in enumerate(world.images):
        write(path, (at + index * BLOCK, byte * 70_000), (500_000, byte * 300))
    return world.contents()


@HOW
def test_rule_8_a_consistent_cut_whose_sync_failed_gets_its_point_first(
    world: Played, failing: Callable[[Played], None]
) -> None:
    first = more(world, b"1")
    failing(world)
    assert world.noted() == 1
    second = more(world, b"2", 3000)
    world.hooked(none=True)
    (kind, reason), (rest, _) = world.made(first, second)
    assert (kind, rest) == (CONSISTENT, CRASH)
    assert "commands around it" in reason
    assert world.noted() == 0
    world.made(second)


@HOW
def test_rule_8_several_consistent_cuts_get_their_points_in_order(
    world: Played, failing: Callable[[Played], None]
) -> None:
    contents = []
    for byte in (b"1", b"2", b"3"):
        contents.append(more(world, byte, 3000 * byte[0]))
        failing(world)
    contents.append(more(world, b"4"))
    assert [kind for kind, _ in world.made(*contents)] == [CONSISTENT] * 4
    assert world.noted() == 0
    assert artifacts(world.image) == [], "the cursor has passed all of them"


def test_rule_8_cuts_of_disks_that_are_being_written_keep_their_points_too(world: Played) -> None:
    with br.track(world.images[0]) as one, br.track(world.images[1]) as other:
        contents = []
        for byte in (b"1", b"2", b"3"):
            one.pwrite(byte * 90_000, 50_000)
            other.pwrite(byte * 5000, 20_000 * byte[0])
            contents.append(world.contents())
            if byte != b"3":
                full(world)
        assert [kind for kind, _ in world.made(*contents)] == [CONSISTENT] * 3


def test_rule_8_the_cut_s_own_time_is_its_point_s(world: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    first, cuts, cut = more(world, b"1"), [], TrackedGroup.cut

    def seen(self: TrackedGroup) -> object:
        made = cut(self)
        cuts.append(max(each.time for each in made if each))
        return made

    monkeypatch.setattr(TrackedGroup, "cut", seen)
    full(world)
    world.made(first, more(world, b"2"))
    assert [point.time for point in world.vm.points()][1:] == cuts


@pytest.mark.parametrize("commits", [0, 1])
def test_rule_8_killed_before_or_between_the_points_the_next_sync_makes_the_rest(world: Played, commits: int) -> None:
    """Also while the delta to the second cut is there already, without its point."""
    first = more(world, b"1")
    full(world)
    second = more(world, b"2", 3000)
    killed(world, commits)
    assert len(world.vm.points()) == 1 + commits
    if commits:
        world.models[world.vm.points()[-1].id] = first
        assert world.vm.points()[-1].kind == CONSISTENT
    third = more(world, b"3", 6000)
    kinds = [kind for kind, _ in world.made(*[first, second, third][commits:])]
    assert kinds == [CONSISTENT] * (3 - commits)


def test_rule_8_a_note_whose_point_stands_already_makes_no_second(
    world: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = more(world, b"1")
    full(world)
    with monkeypatch.context() as patch:
        patch.setattr(KeptCuts, "_forget", lambda *_: None)
        world.made(first, more(world, b"2"))
    assert world.noted() == 2
    world.made(more(world, b"3"))
    assert world.noted() == 0


def test_rule_8_a_delta_that_went_beyond_a_cut_is_not_taken_for_one_to_it(
    world: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever did not see the note has brought later content, which the logs up to the cut don't take away."""
    more(world, b"1")
    full(world)
    write(world.image, (900_000, b"later, and nowhere else" * 500))
    world.hooked(none=True)
    with monkeypatch.context() as patch:
        patch.setattr(TrackedGroup, "consistent_cuts", lambda _: [])
        patch.setattr(Session, "_before", cut_off)
        with pytest.raises(KeyboardInterrupt):
            world.vm.sync()
    [(_, reason)] = world.made(world.contents())
    assert "could not be kept: an interrupted delta has brought changes" in reason


def damage_log(world: Played) -> None:
    """Of the cut's epoch, on the second disk only."""
    log = next(name for name in artifacts(world.images[1]) if name.endswith(".hrl"))
    flip(world.images[1].with_name(f"{world.images[1].name}.{log}"), 4096 + 20)


def lose_log(world: Played) -> None:
    log = next(name for name in artifacts(world.image) if name.endswith(".hrl"))
    os.unlink(world.image.with_name(f"{world.image.name}.{log}"))


def lose_tracking(world: Played) -> None:
    os.unlink(world.names(1).tracking)
    write(world.images[1], (0, b"anew"))


@pytest.mark.parametrize("losing", [damage_log, lose_log, lose_tracking])
def test_rule_8_without_the_logs_there_is_one_point_and_the_reason_tells(
    world: Played, losing: Callable[[Played], None]
) -> None:
    more(world, b"1")
    full(world)
    losing(world)
    more(world, b"2")
    [(kind, reason)] = world.made(world.contents())
    assert kind == CONSISTENT, "the newest cut's own hooks"
    assert "the application-consistent cut of " in reason
    assert "could not be kept: " in reason
    assert world.vm.last is not None
    assert any("could not be kept" in each for each in world.vm.last.warnings)
    assert world.noted() == 0
    assert "kept" not in world.made(more(world, b"3"))[0][1]


def test_rule_8_a_log_that_is_damaged_behind_the_cut_does_not_take_its_point(world: Played) -> None:
    first = more(world, b"1")
    full(world)
    before = set(artifacts(world.images[1]))
    second = more(world, b"2")
    [log] = [name for name in set(artifacts(world.images[1])) - before if name.endswith(".hrl")]
    flip(world.images[1].with_name(f"{world.images[1].name}.{log}"), 4096 + 20)
    world.made(first, second)
    assert world.vm.last is not None
    assert world.vm.last.action == "partial-resync"


def test_rule_8_a_resync_that_was_asked_for_makes_one_point_and_says_so(world: Played) -> None:
    more(world, b"1")
    full(world)
    result = world.note(world.vm.resync())
    assert "could not be kept: a resync was asked for" in result.reason
    assert len(result.points) == 1
    assert world.noted() == 0
    world.check()


def test_rule_8_where_logs_are_kept_in_transit_only_the_reason_tells(tmp_path: Path) -> None:
    world = Played.make(tmp_path, sizes=(MIB,), log="transit")
    assert isinstance(world, Played)
    write(world.image, (0, b"tracked"))
    world.protect()
    world.hooked()
    more(world, b"1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "commit", lambda *_: (_ for _ in ()).throw(NoSpaceError("no room")))
        with pytest.raises(NoSpaceError):
            world.vm.sync()
    [(_, reason)] = world.made(more(world, b"2"))
    assert "could not be kept" in reason


class Notes(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def test_rule_8_a_cut_that_cant_be_noted_is_told_of_and_gets_its_point_all_the_same(
    world: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise NoSpaceError("no room for a note")

    monkeypatch.setattr(TrackedGroup, "note_consistent", no_room)
    more(world, b"n")
    notes = Notes()
    assert world.vm.sync(progress=notes).kind == CONSISTENT
    assert [text for text in notes.told if "is lost: no room for a note" in text]


def test_rule_8_a_cut_without_hooks_stays_part_of_the_backlog(world: Played) -> None:
    world.hooked(pre="false")
    more(world, b"1")
    full(world)
    assert world.noted() == 0
    world.hooked()
    world.made(more(world, b"2"))


def test_rule_8_disks_that_changed_their_size_in_between_have_each_size_at_its_cut(world: Played) -> None:
    first = more(world, b"1")
    full(world)
    with br.track(world.image) as image:
        image.pwrite(b"x" * 100, 0)
    os.truncate(world.image, 2 * MIB)
    write(world.image, (MIB + 600_000, b"grown"))
    second = world.contents()
    result = world.vm.sync()
    assert result.points[-1] == result.point
    world.models.update(zip(result.points, (first, second), strict=True))
    assert [point.disks[0].size for point in world.check()][-2:] == [MIB + 5000, 2 * MIB]


def test_rule_8_each_relationship_has_its_own_notes(world: Played, tmp_path: Path) -> None:
    other = Played(tmp_path, world.images, name="other")
    other.protect()
    first = more(world, b"1")
    full(world)
    other.made(more(world, b"2"))
    world.made(first, world.contents())


def test_rule_8_a_relationship_that_ends_leaves_no_note(world: Played) -> None:
    more(world, b"1")
    full(world)
    assert world.noted() == 1
    world.vm.forget()
    assert world.noted() == 0


def test_the_replica_tells_where_an_interrupted_delta_was_going(world: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_before", cut_off)
    epochs = []
    for byte in (b"1", b"2"):
        more(world, byte)
        world.hooked(none=True)
        with pytest.raises(KeyboardInterrupt):
            world.vm.sync()
        replica: Replica = world.vm.replica.base
        pending = replica.pending()
        assert pending is not None
        epochs.append([disk.begin.epoch for disk in pending.disks if disk.begin])
    assert epochs[0][0] < epochs[1][0]
    assert len(epochs[1]) == 2
