"""The races on one image: resynchronization against rsync, initial replication against cp and qemu-img.

Every contestant runs once a round, and who begins changes from round to round. A target that is to be brought
up to date is one version of the image behind at the start of every run: the source is toggled before it.
After a race the targets are compared with the source, byte by byte: a contestant whose copy is wrong has not
been measured.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from images import Image, same, warm_cache
from measure import PROGRAM, Series, run, settle


def nothing() -> None:
    """No preparation."""


@dataclass(slots=True)
class Contestant:
    """A command that is raced, what must be done before each run (untimed), and the copy that it leaves."""

    name: str
    command: Sequence[str | Path]
    prepare: Callable[[], None] = nothing
    target: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


def race(contestants: list[Contestant], rounds: int, source: Path) -> dict[str, Series]:
    """Run all of them `rounds` times, alternating."""
    results = {contestant.name: Series(contestant.name) for contestant in contestants}
    for number in range(rounds):
        turn = number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            contestant.prepare()
            settle()
            results[contestant.name].runs.append(run(contestant.command, contestant.environment))
            if number == rounds - 1 and contestant.target and not same(source, contestant.target):
                sys.exit(f"{contestant.name}: the copy differs from the image")
    return results


@dataclass(slots=True)
class Behind:
    """Keeps a target one version behind the image: what rsync and resync find is the same in every run."""

    image: Image
    version: int = 0

    def __call__(self) -> None:
        if self.image.version == self.version:
            self.image.toggle()
        self.version = self.image.version


def side_files(image: Path) -> list[Path]:
    """What protecting an image leaves beside it."""
    return [path for path in image.parent.glob(f"{image.name}*") if path != image]


def resync_race(image: Image, work: Path, rounds: int) -> dict[str, Series]:
    """1 % of the blocks differ: rsync, reading both with cat, our resync by table and deep."""
    copy, store, state = work / "rsync.img", work / "store", {"BLOCKREPLICA_STATE": str(work / "state")}
    run(["cp", "--sparse=always", image.path, copy])
    run([*PROGRAM, "protect", image.path, "--to", store, "--name", "bench"], state)
    replica = next(store.rglob("disk.img"))
    warm_cache([image.path, copy, replica])
    rsync, ours = Behind(image, image.version), Behind(image, image.version)
    # rsync compares mtimes by the second, and would now and then find nothing to do.
    base = ["rsync", "--inplace", "--no-whole-file", "--ignore-times"]
    contestants = [
        Contestant("cat of both", ["sh", "-c", 'cat "$1" "$2" >/dev/null', "sh", image.path, copy]),
        Contestant("rsync", [*base, image.path, copy], rsync, copy),
        Contestant("rsync --fsync", [*base, "--fsync", image.path, copy], rsync, copy),
        Contestant("resync --deep", [*PROGRAM, "resync", "bench", "--deep"], ours, replica, state),
        Contestant("resync by table", [*PROGRAM, "resync", "bench"], ours, replica, state),
    ]
    results = race(contestants, rounds, image.path)
    run([*PROGRAM, "unprotect", "bench", "--delete-replica"], state)
    for path in (copy, *side_files(image.path)):
        path.unlink(missing_ok=True)
    return results


def initial_race(image: Image, work: Path, rounds: int) -> dict[str, Series]:
    """The first copy: cp, qemu-img, cp made durable (as ours is), ours."""
    copy, store, state = work / "copy.img", work / "store", work / "state"

    def clear() -> None:
        copy.unlink(missing_ok=True)
        for folder in (store, state):
            shutil.rmtree(folder, ignore_errors=True)
        for path in side_files(image.path):
            path.unlink()

    plain = ["cp", "--sparse=always", str(image.path), str(copy)]
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "raw"]
    durable = ["sh", "-c", 'cp --sparse=always "$1" "$2" && sync "$2"', "sh", image.path, copy]
    protect = [*PROGRAM, "protect", image.path, "--to", store, "--name", "bench"]
    contestants = [
        Contestant("cp --sparse=always", plain, clear, copy),
        Contestant("cp, then sync", durable, clear, copy),
        Contestant("qemu-img convert", [*convert, image.path, copy], clear, copy),
        Contestant("qemu-img convert, flushed", [*convert, "-t", "writeback", image.path, copy], clear, copy),
        Contestant("protect", protect, clear, environment={"BLOCKREPLICA_STATE": str(state)}),
    ]
    warm_cache([image.path])
    results = race(contestants, rounds, image.path)
    clear()
    return results
