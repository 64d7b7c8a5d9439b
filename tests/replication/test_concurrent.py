"""Readers while syncs, pruning and other readers go on: byte-equal always (rule 15); writers one at a time."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.errors import BusyError, NotFoundError
from blockreplica.progress import Progress

from .world import BLOCK, MIB, World, write

SIZE = 3 * MIB + 700

READER = """
import hashlib, sys
from pathlib import Path
from blockreplica.stores import DirectoryStore
from blockreplica.errors import NotFoundError
replica = DirectoryStore(Path(sys.argv[1])).replica("vm")
print("ready", flush=True)
for line in sys.stdin:
    for point in replica.points():
        try:
            with replica.reader(point, 0) as reader:
                content = bytearray(reader.size)
                for at in range(0, reader.size, 50_000):
                    reader.pread_into(memoryview(content)[at : at + 50_000], at)
        except NotFoundError:
            continue
        print(point.id, hashlib.sha256(content).hexdigest())
    print("done", flush=True)
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A relationship that keeps five points, with three."""
    made = World.make(tmp_path, sizes=(SIZE,), keep=5)
    write(made.image, (0, b"begin"))
    made.protect()
    churn(made, 2, random.Random(1))
    return made


def churn(world: World, rounds: int, rng: random.Random, *, resync: bool = False) -> None:
    """Writes and syncs."""
    with track(world.image, log_limit=64 * MIB) as image:
        for round_ in range(rounds):
            for _ in range(8):
                length = rng.choice([100, 4096, 60_000])
                image.pwrite(rng.randbytes(length), rng.randrange(SIZE - length))
            image.zero(rng.randrange(SIZE - 100_000), 100_000)
            world.resync(deep=True) if resync and round_ % 3 == 2 else world.sync()


def test_threads_read_and_recover_points_while_syncs_and_pruning_go_on(world: World) -> None:
    stop = threading.Event()

    def reading(number: int) -> int:
        rng, read, target = random.Random(number), 0, world.folder / f"out{number}.img"
        while not stop.is_set() or read == 0:
            point = rng.choice(world.vm.points())
            try:
                if number % 2:
                    world.vm.replica.recover(point, target, force=True)
                    content = target.read_bytes()
                else:
                    content = world.read(point)
            except NotFoundError:
                continue  # pruned between the two
            while point.id not in world.models and not stop.is_set():
                pass  # its model is noted as soon as the sync returns
            assert content == world.models[point.id][0], f"point {point.id} was read wrong"
            read += 1
        return read

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(reading, number) for number in range(3)]
        try:
            churn(world, 12, random.Random(2), resync=True)
        finally:
            stop.set()
        assert all(reader.result() > 0 for reader in readers)
    world.sync()  # what a reader held is pruned with the next one
    world.models = dict(list(world.models.items())[-5:])
    world.check()


def test_another_process_reads_points_while_syncs_go_on(world: World) -> None:
    import hashlib

    command = [sys.executable, "-c", READER, str(world.store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        found: list[tuple[str, str]] = []
        for round_ in range(8):
            process.stdin.write("read\n")
            process.stdin.flush()
            churn(world, 1, random.Random(round_ + 10))
            while (line := process.stdout.readline().strip()) != "done":
                found.append(tuple(line.split()))  # type: ignore[arg-type]
        process.stdin.close()
    assert len(found) >= 16
    for point, digest in found:
        assert digest == hashlib.sha256(world.models[point][0]).hexdigest(), f"point {point} was read wrong"


def test_a_reader_in_the_middle_of_a_point_goes_on_through_every_stage_of_a_resync(world: World) -> None:
    base = world.vm.replica.base
    wanted = {point.id: world.models[point.id][0] for point in world.vm.points()}
    rng = random.Random(5)
    looks = 0
    readers = {point.id: base.reader(point, 0) for point in world.vm.points()}

    class Looking(Progress):
        def look(self) -> None:
            nonlocal looks
            looks += 1
            for point, reader in readers.items():
                at = rng.randrange(SIZE - 40_000)
                buffer = bytearray(40_000)
                reader.pread_into(buffer, at)
                assert buffer == wanted[point][at : at + 40_000], f"point {point} at {at}"

        def start(self, what: str, total: int) -> None:
            self.look()

        def advance(self, count: int) -> None:
            self.look()

    with world.image.open("r+b") as file:
        file.write(rng.randbytes(SIZE))
    world.note(world.vm.sync(progress=Looking()))
    write(world.image, *((at * 100_000, rng.randbytes(BLOCK)) for at in range(20)))
    world.note(world.vm.sync(progress=Looking()))
    assert looks >= 5
    for reader in readers.values():
        reader.close()
    world.check()


def test_of_two_syncs_at_once_one_is_refused_with_the_pid_of_the_other(world: World) -> None:
    outcome: list[str] = []

    class Nested(Progress):
        def start(self, what: str, total: int) -> None:
            with pytest.raises(BusyError, match="is writing to this replica") as raised:
                world.vm.sync()
            outcome.append(str(raised.value))

    write(world.image, (0, b"more"))
    world.note(world.vm.sync(progress=Nested()))
    assert outcome
    world.check()


def test_status_points_and_verify_while_a_sync_is_under_way(world: World) -> None:
    before = [point.id for point in world.vm.points()]

    class Asking(Progress):
        def advance(self, count: int) -> None:
            assert [point.id for point in world.vm.points()] == before
            assert world.vm.status().points == len(before)
            assert world.vm.verify().damage == []

    write(world.image, (0, b"more" * 9000))
    world.note(world.vm.sync(progress=Asking()))
    world.note(world.vm.resync(progress=Progress()))
    world.check()
