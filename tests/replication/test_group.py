"""Several disks in one relationship: cut together, one point for all, and no point shows an effect before its cause."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.errors import UsageError
from blockreplica.progress import Progress

from .world import MIB, Interrupting, World, artifacts, flip, foreign_write, write
from .writers import counts, in_time, writing

TRACKER = """
import sys
import blockreplica as br
with br.track(sys.argv[1], log_limit=1 << 30) as image:
    print("ready", flush=True)
    for line in sys.stdin:
        image.pwrite(int(line).to_bytes(8, "little"), 4096)
        print("done", flush=True)
"""


class Remote:
    """A tracker in a process of its own that writes a counter when it is told to."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", TRACKER, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer("ready")

    def put(self, number: int) -> None:
        """Write the counter; returns when the write was answered."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        self._answer("done")

    def close(self) -> None:
        """Close the image in order."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def _answer(self, wanted: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == wanted


@contextmanager
def remotes(*paths: Path) -> Iterator[list[Remote]]:
    """Trackers of images, each in its own process."""
    held = [Remote(path) for path in paths]
    try:
        yield held
    finally:
        for one in held:
            one.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two tracked disks of different sizes."""
    made = World.make(tmp_path, sizes=(MIB + 4096, 2 * MIB + 77))
    for path in made.images:
        write(path, (0, b"begin"))
    return made


def test_no_point_shows_the_second_disk_ahead_of_the_first(world: World) -> None:
    for path in world.images:
        write(path, (4096, bytes(8)))
    stop, number = threading.Event(), 0
    with remotes(*world.images) as (first, second):

        def dependent_writes() -> None:
            nonlocal number
            while not stop.is_set():
                number += 1
                first.put(number)
                second.put(number)

        thread = threading.Thread(target=dependent_writes)
        thread.start()
        try:
            lows = []
            world.begin()
            for _ in range(12):
                lows.append(number - 1)
                world.vm.sync()
        finally:
            stop.set()
            thread.join()
    points = world.vm.points()
    assert len(points) == 12
    seen = []
    for point, low in zip(points, lows, strict=True):
        one, two = (int.from_bytes(world.vm.replica.read(point, 4096, 8, disk=disk), "little") for disk in (0, 1))
        assert two <= one <= two + 1, f"point {point.id}: disk 0 is at write {one}, disk 1 at {two}"
        assert two >= low - 1, f"point {point.id}: a write that was answered before the sync is missing"
        seen.append(one)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0], "nothing was written meanwhile"


def test_while_threads_write_to_both_every_point_is_one_instant_of_each(world: World) -> None:
    with (
        track(world.images[0], log_limit=64 * MIB) as one, track(world.images[1], log_limit=64 * MIB) as two,
        writing(one, world.images[0], seed=1) as firsts, writing(two, world.images[1], seed=2) as seconds,
    ):  # fmt: skip
        world.begin()
        for _ in range(4):
            before = counts(firsts)[0], counts(seconds)[0]
            point = world.vm.sync().point
            after = counts(firsts)[1], counts(seconds)[1]
            in_time(firsts, world.recovered(point, 0), before[0], after[0])
            in_time(seconds, world.recovered(point, 1), before[1], after[1])


def test_one_point_for_all_disks(world: World) -> None:
    world.protect()
    write(world.images[1], (5, b"only here"))
    result = world.sync()
    assert (result.action, result.bytes_dirty) == ("delta", 9)
    point = world.check()[-1]
    assert [(disk.index, disk.name) for disk in point.disks] == [(0, "vm0.img"), (1, "vm1.img")]
    with pytest.raises(UsageError, match="--disk"):
        world.vm.replica.recover(None, world.folder / "out.img")


def test_a_lost_log_of_one_disk_is_made_good_on_that_disk_alone(world: World) -> None:
    world.protect()
    for path in world.images:
        write(path, (65536 * 5, b"x" * 100))
    flip(world.names(1).log(2), 4096)
    result = world.sync()
    assert result.action == "partial-resync"
    assert "vm1.img" in result.reason
    assert "vm0.img" not in result.reason
    assert 0 < result.bytes_scanned <= 65536
    world.check()


def test_one_disk_tracked_the_other_not(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(MIB, MIB))
    write(world.images[0], (0, b"begin"))
    world.protect()
    write(world.images[0], (10, b"tracked"))
    foreign_write(world.images[1], 10, b"untracked")
    result = world.sync()
    assert (result.action, result.kind, result.reason) == ("scan", "crash-consistent", "nothing tracks vm1.img")
    world.check()


def test_a_disk_that_changes_while_it_is_scanned_makes_the_point_fuzzy_and_names_itself(tmp_path: Path) -> None:
    world = World.make(tmp_path, sizes=(MIB, MIB))
    write(world.images[0], (0, b"begin"))
    world.protect()

    class Meddling(Progress):
        def advance(self, count: int) -> None:
            foreign_write(world.images[1], 7, b"while it is read")

    result = world.vm.sync(progress=Meddling())
    assert result.kind == "fuzzy"
    assert "vm1.img" in result.warnings[0]
    assert "vm0.img" not in result.warnings[0]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("after", range(0, 9, 2))
def test_interrupted_between_the_disks_it_resumes_and_ends_equal(world: World, after: int) -> None:
    world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(after // 3))
    write(world.images[0], (100, b"between"))
    write(world.images[1], (2 * MIB, b"between"))
    world.sync()
    foreign_write(world.images[1], 99, b"behind")
    with pytest.raises(KeyboardInterrupt):
        world.vm.sync(progress=Interrupting(after // 3))
    write(world.images[1], (200, b"again"))
    world.sync()
    world.check()
    for path in world.images:
        assert artifacts(path) == []


def test_two_trackers_that_are_closed_are_cut_as_they_are(world: World) -> None:
    world.protect()
    assert world.sync().bytes_dirty == 0
    world.check()
