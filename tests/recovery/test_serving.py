"""`status` tells which points are being served, as long as they are: by the list of processes, not by files."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from blockreplica.cli.status import as_plain, describe, describe_all
from blockreplica.recovery.pivot import state_path
from blockreplica.recovery.serve import PLUGIN, serve_complete
from blockreplica.recovery.serving import Served
from replication.world import BLOCK, World, flip, write

pytestmark = [
    pytest.mark.skipif(not PLUGIN.exists(), reason="the plugin was not built: nbdkit-plugin-dev is missing"),
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed"),
]
SIZE = 200 * BLOCK + 1024
SLOW = 100_000  # bytes a second: many seconds for all


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two points."""
    made = World.make(tmp_path, sizes=(SIZE,))
    made.protect()
    write(made.image, (50_000, b"x" * 90_000))
    made.sync()
    return made


def served(world: World) -> list[Served]:
    """What `status` says."""
    return world.vm.status().served


def test_what_is_served_is_told_with_its_uri_and_process_and_nothing_once_it_has_ended(world: World) -> None:
    assert served(world) == []
    with world.vm.replica.serve("1.1") as one, world.vm.replica.serve(writable=True, socket=world.folder / "s") as two:
        wanted = [Served("1.1", 0, one.uri, one.pid, False), Served("1.2", 0, two.uri, two.pid, True)]
        assert served(world) == sorted(wanted, key=lambda each: each.pid)
        two.close()
        assert served(world) == wanted[:1]
        assert f"point 1.1, disk 0, by process {one.pid}: {one.uri}" in describe(as_plain(world.vm.status()))
        assert describe_all([as_plain(world.vm.status())]).split().count("SERVED") == 1
    assert served(world) == []


def test_a_server_that_was_killed_is_served_no_more_though_its_files_are_left(world: World) -> None:
    one = world.vm.replica.serve(socket=world.folder / "s", pid_file=world.folder / "pid", detach=True)
    os.kill(one.pid, signal.SIGKILL)
    with pytest.raises(Exception, match="ended with code"):
        one.wait()
    assert (world.folder / "s").exists()
    assert served(world) == []


def test_another_relationships_servers_are_its_own(world: World, tmp_path: Path) -> None:
    other = World.make(tmp_path / "other", sizes=(BLOCK,))
    other.protect()
    with other.vm.replica.serve() as one:
        assert served(world) == []
        assert [each.pid for each in served(other)] == [one.pid]


def test_a_pivot_tells_how_many_bytes_it_has_until_it_is_complete_also_without_the_store(world: World) -> None:
    to = world.folder / "restored.img"
    with world.vm.replica.serve("1.1", pivot=to, rate=SLOW) as one:
        (told,) = served(world)
        assert (told.point, told.pid, told.writable) == ("1.1", one.pid, True)
        assert told.pivot is not None
        assert (told.pivot.to, told.pivot.size) == (to, SIZE)
        assert told.pivot.owned is not None
        assert told.pivot.owned < SIZE
        assert f"pivot to {to}, {told.pivot.state}" in describe(as_plain(world.vm.status()))
    with world.vm.replica.serve(pivot=to) as one:
        until(world, "complete")
        (told,) = served(world)
        assert told.pivot is not None
        assert (told.pivot.owned, told.pivot.damaged, told.pivot.error) == (SIZE, 0, "")
    shutil.rmtree(world.store)
    with serve_complete(to, str(world.vm.definition.id)) as one:
        assert [(each.pid, each.point) for each in served(world)] == [(one.pid, "1.1")]
        state_path(to).unlink()  # it may be removed now
        (told,) = served(world)
        assert told.pivot is not None
        assert (told.pivot.state, told.pivot.owned) == ("unknown", None)
        assert str(state_path(to)) in describe(as_plain(world.vm.status()))
    assert served(world) == []


def test_a_pivot_tells_what_is_damaged(world: World) -> None:
    flip(world.disk() / "disk.img", 160_000)
    with world.vm.replica.serve(pivot=world.folder / "restored.img"):
        until(world, "damaged")
        (told,) = served(world)
        assert told.pivot is not None
        assert told.pivot.damaged
        assert "KiB damaged" in describe(as_plain(world.vm.status()))


def until(world: World, state: str) -> None:
    """Wait until the pivot is in that state."""
    for _ in range(3000):
        (told,) = served(world)
        if told.pivot is not None and told.pivot.state == state:
            return
        time.sleep(0.02)
    raise AssertionError(f"not {state}: {told}")
