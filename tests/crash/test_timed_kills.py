"""The program as it is, killed at some moment, while a tracker writes on: what a counted change can't reach.

The C code copies, compares and logs without telling anybody; here SIGKILL meets it wherever it happens to be. The
writer numbers its writes, so that a point can be judged without stopping it: it must be the image after some of them.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

import blockreplica as br
from blockreplica.errors import BlockReplicaError

SLOT, SLOTS = 4096, 512
BULK = 24 << 20
ROUNDS = int(os.environ.get("BLOCKREPLICA_KILL_TIMED", "6"))
SEED = int(os.environ.get("BLOCKREPLICA_SEED", "1"))

WRITER = """
import sys
import blockreplica as br
path, seed, slots, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with br.track(path, log_limit=1 << 30) as image:
    number = 0
    while number < (1 << 40):
        number += 1
        slot = (number + seed) * 2654435761 % (1 << 32) * slots >> 32
        image.pwrite(number.to_bytes(8, "little") * 512, slot * 4096)
        if number == first:
            print("ready", flush=True)
        if number % 64 == 0:
            image.flush()
"""


def is_prefix(content: bytes, seed: int) -> bool:
    """Whether the slots hold what they hold after the first so many writes, every one of them whole."""
    slots = np.frombuffer(content[: SLOTS * SLOT], "<u8").reshape(SLOTS, -1)
    found = slots[:, 0].astype(np.int64)
    if (slots != slots[:, :1]).any():
        return False
    numbers = np.arange(1, int(found.max()) + 1)
    wanted = np.zeros(SLOTS, np.int64)
    wanted[(numbers + seed) * 2654435761 % (1 << 32) * SLOTS >> 32] = numbers  # of one slot's, the last one stays
    return bool((found == wanted).all())


@contextmanager
def writing(image: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    """A process that writes through a tracker until it is killed."""
    command = [sys.executable, "-c", WRITER, image, seed, SLOTS, 100]
    writer = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    try:
        assert writer.stdout.readline() == "ready\n"
        yield writer
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def run_until(moment: float | None, *command: object) -> tuple[int, float]:
    """Run the program, at the most for so many seconds, then kill it; returns its exit code and how long it ran."""
    began = monotonic()
    program = subprocess.Popen(
        [sys.executable, "-m", "blockreplica", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _, err = program.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        program.send_signal(signal.SIGKILL)
        _, err = program.communicate()
    assert program.returncode in (0, -signal.SIGKILL), err.decode()
    return program.returncode, monotonic() - began


def judge(seed: int, bulk: bytes, scratch: Path) -> int:
    """Every point is the image after the first so many writes; returns how many there are."""
    try:
        vm = br.relationship("vm")
        points = vm.points()
    except BlockReplicaError:
        return 0
    for point in points:
        assert point.kind == "crash-consistent"
        vm.replica.recover(point, scratch, force=True)
        content = scratch.read_bytes()
        assert content[SLOTS * SLOT :] == bulk, f"point {point.id}: what nobody writes has changed"
        assert is_prefix(content, seed), f"point {point.id} is no prefix of the writes"
    return len(points)


def test_syncs_killed_at_any_moment_while_a_tracker_writes_leave_points_that_are_instants(tmp_path: Path) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    image, bulk = tmp_path / "vm.img", rng.randbytes(BULK)
    image.write_bytes(bytes(SLOTS * SLOT) + bulk)
    protect = ["protect", image, "--to", tmp_path / "store", "--name", "vm", "--keep", 5, "--block-size", "4KiB"]
    killed = 0
    with writing(image, SEED):
        _, took = run_until(None, "protect", image, "--to", tmp_path / "other", "--name", "measure")
        for number in range(ROUNDS):
            begun = judge(SEED, bulk, tmp_path / "scratch")
            command = ["resync", "vm", *(["--deep"] * (number % 2))] if number % 3 == 2 else ["sync", "vm"]
            code, _ = run_until(rng.uniform(0.2, 1.1) * took, *(command if begun else protect))
            killed += code != 0
        begun = judge(SEED, bulk, tmp_path / "scratch")
        assert run_until(None, *(["sync", "vm"] if begun else protect))[0] == 0
        assert judge(SEED, bulk, tmp_path / "scratch") >= 1
    assert killed, "no sync was killed"


def test_a_writer_killed_at_any_moment_leaves_an_image_that_the_next_sync_makes_a_point_of(tmp_path: Path) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    image = tmp_path / "vm.img"
    image.write_bytes(bytes(SLOTS * SLOT + BULK // 8))
    vm = None
    for number in range(ROUNDS):
        with writing(image, number):
            if vm is not None and rng.random() < 0.5:
                vm.sync()
        if vm is None:
            vm = br.protect(image, tmp_path / "store", name="vm", block_size=4096)
        done = vm.sync()
        assert done.kind == "crash-consistent"
        vm.replica.recover(done.point, tmp_path / "scratch", force=True)
        assert (tmp_path / "scratch").read_bytes() == image.read_bytes()
    assert vm is not None
    assert not vm.verify().damage


def test_of_syncs_at_once_each_is_done_or_told_who_is(tmp_path: Path) -> None:
    image = tmp_path / "vm.img"
    image.write_bytes(random.Random(2).randbytes(4 << 20))
    br.protect(image, tmp_path / "store", name="vm", block_size=4096)
    command = [sys.executable, "-m", "blockreplica", "resync", "vm", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = {program.pid: program.communicate()[1] for program in both}
    codes = [program.returncode for program in both]
    assert 0 in codes
    assert set(codes) <= {0, 7}, errors
    for program in both:
        if program.returncode == 7:
            assert any(f"process {pid} " in errors[program.pid] for pid in errors if pid != program.pid)
    assert len(br.relationship("vm").points()) == 1 + codes.count(0)
    assert not br.relationship("vm").verify().damage


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_is_asked_to_stop_leaves_what_the_same_command_goes_on_with(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    image = tmp_path / "vm.img"
    image.write_bytes(random.Random(2).randbytes(BULK))
    protect = ["protect", image, "--to", tmp_path / "store", "--name", "vm", "--block-size", "4KiB"]
    program = subprocess.Popen(
        [sys.executable, "-m", "blockreplica", *map(str, protect)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not (tmp_path / "store/vm/INCOMPLETE").exists() and program.poll() is None:
        pass
    program.send_signal(signal_number)
    _, err = program.communicate()
    assert b"Traceback" not in err
    assert program.returncode in (0, 130, -signal_number)
    assert run_until(None, *(["sync", "vm"] if program.returncode == 0 else protect))[0] == 0
    br.relationship("vm").replica.recover(None, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image.read_bytes()
