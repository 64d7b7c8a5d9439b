"""Power cuts of a real file system: the GOINGDOWN ioctl drops all that was not made durable, under a writing tracker.

What must hold afterwards is invariant 1: the epochs since the last cut name every granule in which the image, as
the disk has it, differs from what it was at that cut.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockreplica import kernels
from blockreplica.tracking import ImageSource
from crash.loops import loop_mounted, lose_power, mount_again
from tracking.helpers import GRANULE, MIB, differing_granules, dirty_granules

SIZE = 64 * MIB
SEED = int(os.environ.get("BLOCKREPLICA_SEED", "0")) or random.randrange(2**32)

WRITER = """
import pathlib, random, sys, threading
from blockreplica import kernels
folder, outside, rng = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), random.Random(int(sys.argv[3]))
tracker = kernels.Tracker(folder, "vm.img", log_limit=1 << 30, hot_regions=6)
size = tracker.size()
def write(rng, count):
    while count:
        count -= 1
        if rng.random() < 0.05:
            tracker.zero(rng.randrange(size - 70000), rng.randrange(1, 70000))
        elif rng.random() < 0.05:
            tracker.flush()
        else:
            tracker.pwrite(rng.randbytes(8) * 512, rng.randrange(size - 4096))
write(rng, 60)
tracker.cut()
outside.write_bytes((folder / "vm.img").read_bytes())
print("ready", flush=True)
for _ in range(3):
    threading.Thread(target=write, args=(random.Random(rng.random()), -1), daemon=True).start()
sys.stdin.read()
"""


@pytest.fixture(params=["ext4", "xfs"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where the image lies."""
    with loop_mounted(tmp_path, request.param, 512 * MIB) as folder:
        yield folder


def cut_the_power(folder: Path, seed: int) -> str:
    """One life of a writer, ended by a loss of power; what the next open made of it."""
    rng = random.Random(seed)
    image, outside = folder / "vm.img", folder.parent / "at-the-cut"
    for path in folder.glob("vm.img*"):
        path.unlink()
    image.touch()
    os.truncate(image, SIZE)
    os.sync()
    with subprocess.Popen([sys.executable, "-c", WRITER, folder, outside, str(seed)], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.random() * 0.3)
        lose_power(folder)
        child.kill()
    mount_again(folder)
    kernels.Tracker(folder, "vm.img", settle_only=True, boot_id=b"another boot....").close()
    source = ImageSource.open(image)
    found = source.cut()
    assert found is not None
    dirty = dirty_granules(source.records(1, found.epoch), SIZE)
    differing = differing_granules(image.read_bytes(), outside.read_bytes())
    assert differing <= dirty, f"seed {seed}: {sorted(differing - dirty)} differ and nobody knows"
    return "whole" if len(dirty) == SIZE // GRANULE else "partial"


def test_after_a_loss_of_power_all_that_differs_from_the_last_cut_is_known(disk: Path) -> None:
    print(f"seed {SEED}")
    found = [cut_the_power(disk, SEED + number) for number in range(4)]
    assert "partial" in found


@pytest.mark.campaign
def test_after_many_losses_of_power_all_that_differs_from_the_last_cut_is_known(disk: Path) -> None:
    print(f"seed {SEED}")
    for number in range(300):
        cut_the_power(disk, SEED + number)
