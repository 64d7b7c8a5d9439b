"""`make demo`: replicates a real disk image end to end, damages a log, recovers, and lets e2fsck and cmp judge.

Everything lies in demo-work/, the list of relationships too, and is removed at the end (`--keep` leaves it).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import disk

import blockreplica as br

MIB = 1 << 20
SIZE, CONTENT = 384 * MIB, 160 * MIB
WORK = Path("demo-work").resolve()
IMAGE, STORE, COPIES = WORK / "vm.img", WORK / "replicas", WORK / "as-it-was"
PROGRAM = Path(sys.executable).parent / "blockreplica"


@contextmanager
def step(title: str) -> Iterator[None]:
    """A part of the demo, and how long it took."""
    print(f"\n── {title}", flush=True)
    began = time.perf_counter()
    yield
    print(f"   ({time.perf_counter() - began:.2f} s)", flush=True)


def program(*arguments: str | Path, expect: int = 0) -> str:
    """Run blockreplica as a user would, and show it; its output."""
    words = [str(argument) for argument in arguments]
    print(f"$ blockreplica {' '.join(word.replace(f'{WORK}/', '') for word in words)}", flush=True)
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, cwd=WORK, check=False)
    for line in (done.stdout + done.stderr).splitlines():
        print(f"  {line.replace(f'{WORK}/', '')}")
    if done.returncode != expect:
        raise SystemExit(f"blockreplica exited with {done.returncode}, not {expect}")
    return done.stdout


def newest() -> str:
    """The id of the newest point."""
    found = subprocess.run([PROGRAM, "points", "vm", "--json"], capture_output=True, text=True, check=True)
    return str(json.loads(found.stdout)[-1]["id"])


def remember() -> str:
    """Keep a copy of the image under the id of the point that was just made, to judge by; the id."""
    point = newest()
    disk.tool("cp", "--sparse=always", IMAGE, COPIES / f"{point}.img")
    return point


def work_in_the_vm(paths: list[Path], number: int) -> None:
    """A round of changes, written through the tracker."""
    changed = WORK / "changed.img"
    disk.tool("cp", "--sparse=always", IMAGE, changed)
    what = disk.change(changed, WORK, paths, number)
    written = disk.write(IMAGE, changed)
    changed.unlink()
    print(f"   {what}: {written / MIB:.1f} MiB written through the tracker")


def damage_newest_log() -> Path:
    """Flip a byte in the middle of the newest sealed log."""
    log = max(WORK.glob("vm.img.*.hrl"), key=lambda path: path.name)
    middle = log.stat().st_size // 2
    with log.open("r+b") as file:
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 0x10]))
    print(f"   one bit of {log.name} flipped, at offset {middle}")
    return log


def judge(point: str) -> None:
    """Recover a point and let the file system's own checker, and a byte compare, say what it is worth."""
    target = WORK / f"recovered-{point}.img"
    program("recover", "vm", "--point", point, "--to", target)
    print(f"  e2fsck -fn: {disk.healthy(target).replace(f'{WORK}/', '')}")
    if not disk.same(target, COPIES / f"{point}.img"):
        raise SystemExit(f"point {point} differs from the image as it was")
    print(f"  cmp: every byte of point {point} is as it was")


def demo() -> None:
    """The whole story."""
    with step("A disk: an ext4 file system with this machine's own files in it"):
        count = disk.gather(WORK / "tree", CONTENT)
        disk.make(IMAGE, WORK / "tree", SIZE)
        paths = [path.relative_to(WORK / "tree") for path in sorted((WORK / "tree").rglob("*")) if path.is_file()]
        used = IMAGE.stat().st_blocks * 512 / MIB
        print(f"   vm.img: {SIZE // MIB} MiB, {used:.0f} MiB of them in use by {count} files")
    with step("Protect it while it is in use: the first copy, and the first recovery point"), br.track(IMAGE):
        program("protect", IMAGE, "--to", STORE, "--name", "vm")
        remember()
    points = []
    for number in (1, 2):
        with step(f"Round {number}: files change, and only that travels"):
            work_in_the_vm(paths, number)
            program("sync", "vm")
            points.append(remember())
    with step("Round 3: files change, and then the disk under the change log flips a bit"):
        work_in_the_vm(paths, 3)
        log = damage_newest_log()
        program("hrl", "verify", log, expect=3)
        program("sync", "vm")
        points.append(remember())
    with step("Round 4: back to normal"):
        work_in_the_vm(paths, 4)
        program("sync", "vm")
        points.append(remember())
    with step("Where things stand"):
        program("status", "vm")
        program("points", "vm")
        program("verify", "vm")
    with step("Recover an older point, the one of round 1"):
        judge(points[0])
    with step("Recover the newest point"):
        judge(points[-1])


def main() -> None:
    """Run it in a folder of its own."""
    os.environ["BLOCKREPLICA_STATE"] = str(WORK / "state")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    shutil.rmtree(WORK, ignore_errors=True)
    COPIES.mkdir(parents=True)
    began = time.perf_counter()
    try:
        demo()
    finally:
        if "--keep" not in sys.argv:
            shutil.rmtree(WORK)
    print(f"\nAll of it took {time.perf_counter() - began:.1f} s.")


if __name__ == "__main__":
    main()
