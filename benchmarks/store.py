"""What a store costs: verify against cat, a delta of random 4 KiB writes, two thousand points. Prints a line each.

python benchmarks/store.py [--size 1GiB] [--writes 60000] [--points 2000] [--in DIR]
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import blockreplica as br
from blockreplica.recovery.retention import Policy, decide
from blockreplica.units import format_size, parse_size

GRANULE = 4096


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def wrote(image: Path, count: int, rng: random.Random) -> None:
    """Random granules through a tracker."""
    data = rng.randbytes(256 * GRANULE)
    with br.track(image) as tracked:
        for at, granule in enumerate(rng.sample(range(image.stat().st_size // GRANULE), count)):
            start = at % 256 * GRANULE
            tracked.pwrite(data[start : start + GRANULE], granule * GRANULE)


def verified(vm: br.Relationship, disk: Path) -> None:
    """Verify and cat take turns; medians."""
    cats, ours = [], []
    for _ in range(5):
        cats.append(timed(lambda: subprocess.run(f"cat {disk} > /dev/null", shell=True, check=True)))
        ours.append(timed(vm.verify))
    print(f"verify: {median(ours):.3f} s, cat {median(cats):.3f} s: {median(cats) / median(ours):.2f}x")


def applied(vm: br.Relationship, image: Path, count: int, rng: random.Random) -> None:
    """Deltas of `count` random writes: all of a sync, fsyncs included."""
    wrote(image, 1, rng)
    vm.sync()
    for _ in range(3):
        wrote(image, count, rng)
        processor = time.process_time()
        seconds = timed(vm.sync)
        processor = time.process_time() - processor
        cost = f"{seconds:.2f} s ({processor:.2f} s of processor)"
        print(f"apply: {count} blocks in {cost}: {count / seconds:,.0f} blocks/s", flush=True)


def thousands(vm: br.Relationship, image: Path, count: int, rng: random.Random) -> None:
    """Syncs of one block each, the first and the last ones compared; then the oldest point is opened."""
    br.set_policy(vm.name, Policy(last=1 << 20))
    vm = br.relationship(vm.name)
    took = []
    for _ in range(count):
        wrote(image, 1, rng)
        took.append(timed(vm.sync))
    print(f"sync: {median(took[:20]) * 1e3:.1f} ms with few points, {median(took[-20:]) * 1e3:.1f} ms with {count}")
    base = vm.replica.base
    oldest = base.points()[0]
    with_reader = timed(lambda: vm.replica.read(oldest, 0, GRANULE))
    print(f"open the oldest of {count} points and read a block: {with_reader * 1e3:.0f} ms")
    print(f"a plan for {count} points: {timed(lambda: decide(base, Policy(daily=7))) * 1e3:.0f} ms")
    with base.locked():
        middle = [point.epoch for point in base.points()][count // 4 : 3 * count // 4]
        print(f"prune {len(middle)} points in the middle: {timed(lambda: base.remove_points(middle)):.2f} s")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, default=1 << 30)
    parser.add_argument("--writes", type=int, default=60_000)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--in", dest="folder", type=Path, default=None)
    wanted = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="bench-store-", dir=wanted.folder) as made:
        folder = Path(made)
        os.environ["BLOCKREPLICA_STATE"] = str(folder / "state")
        image = folder / "vm.img"
        with image.open("wb") as file:
            for _ in range(wanted.size >> 20):  # small writes: large folios make 4 KiB overwrites slow
                file.write(rng.randbytes(1 << 20))
        print(f"a disk of {format_size(wanted.size)}")
        vm = br.protect(image, folder / "store", name="vm")
        verified(vm, folder / "store/vm/disk0/disk.img")
        applied(vm, image, wanted.writes, rng)
        thousands(vm, image, wanted.points, rng)


if __name__ == "__main__":
    main()
