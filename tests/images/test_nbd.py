"""An NBD export that two threads read at once: a scan goes on aside while what differed is read."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE = 64 << 20
#: In a process of its own: what hangs while it keeps the GIL can only be killed.
TWO_THREADS = """
import random, sys, threading, time
from array import array
from pathlib import Path
from blockreplica.images.nbd import NbdFile
socket, image = sys.argv[1:]
model, size, failures = Path(image).read_bytes(), Path(image).stat().st_size, []
file, until = NbdFile(socket, ""), time.monotonic() + 4
def scan():
    at = 0
    while time.monotonic() < until:
        with file.window(at, 8 << 20) as fd:
            import os
            if os.pread(fd, 8 << 20, at) != model[at : at + (8 << 20)]:
                failures.append(f"window {at}")
        at = (at + (8 << 20)) % size
def guarded():
    try:
        scan()
    except BaseException as error:
        failures.append(repr(error))
thread = threading.Thread(target=guarded)
thread.start()
rng, buffer, rounds = random.Random(1), bytearray(2 << 20), 0
while time.monotonic() < until:
    offsets = sorted(rng.sample(range(size // 4096), 512))
    rows = array("Q", [word for place, block in enumerate(offsets) for word in (block * 4096, 4096, place * 4096)])
    file.read_extents(rows, buffer)
    for place, block in enumerate(offsets):
        if buffer[place * 4096 : place * 4096 + 4096] != model[block * 4096 : block * 4096 + 4096]:
            failures.append(f"block {block}")
    rounds += 1
thread.join()
file.close()
assert not failures, failures[:3]
assert rounds > 3, rounds
"""


@pytest.fixture
def export(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A socket, and the image behind it."""
    program = shutil.which("qemu-nbd")
    if program is None:
        pytest.skip("qemu-nbd is not installed")
    image, socket = tmp_path / "vm.img", tmp_path / "s"
    rng = random.Random(4)
    with image.open("wb") as file:
        file.truncate(SIZE)
        for at in range(0, SIZE, 1 << 20):
            file.seek(at)
            file.write(rng.randbytes(300_000))
    server = subprocess.Popen([program, "-r", "-t", "-f", "raw", "-k", str(socket), str(image)])
    try:
        deadline = time.monotonic() + 20
        while not socket.exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        yield socket, image
    finally:
        server.kill()
        server.wait()


def test_a_scan_and_a_read_at_once_each_get_what_is_theirs(export: tuple[Path, Path]) -> None:
    child = subprocess.Popen([sys.executable, "-c", TWO_THREADS, *map(str, export)], stderr=subprocess.PIPE, text=True)
    try:
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, said[-2000:]
