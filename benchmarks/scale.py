"""What must not grow with the disk: the time of a delta, and the memory of every command."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import blockreplica as br
from measure import PROGRAM, Run, Series, run, settle

SEED = 2
HELP_RUNS = 21


@dataclass(slots=True)
class Disk:
    """A sparse image in a relationship of its own."""

    name: str
    folder: Path
    size: int
    dirty: int

    @property
    def image(self) -> Path:
        """The image's file."""
        return self.folder / f"{self.name}.img"

    def command(self, *arguments: str | Path) -> Run:
        """Run one of our commands."""
        return run([*PROGRAM, *arguments], {"BLOCKREPLICA_STATE": str(self.folder / "state")})

    def create(self) -> Run:
        """Make the image and protect it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(self.size)
        return self.command("protect", self.image, "--to", self.folder / "store", "--name", self.name)

    def write(self, piece: int, seed: int) -> None:
        """Write `dirty` bytes through a tracker, in pieces scattered evenly over the disk."""
        content = np.random.default_rng(seed)
        count = self.dirty // piece
        step = self.size // count // piece * piece
        with br.track(self.image) as image:
            for index in range(count):
                image.pwrite(content.bytes(piece), index * step)


def delta_race(small: Disk, large: Disk, piece: int, rounds: int) -> dict[str, Series]:
    """A delta of the same dirty bytes on both disks, alternating; the first round is not counted."""
    results = {disk.name: Series(disk.name) for disk in (small, large)}
    for disk in (small, large):
        disk.create()
    for number in range(rounds + 1):
        for disk in (small, large) if number % 2 else (large, small):
            disk.write(piece, seed=SEED + number)
            settle()
            took = disk.command("sync", disk.name)
            if number:
                results[disk.name].runs.append(took)
    return results


def peak_memory(disk: Disk, piece: int) -> dict[str, Run]:
    """Every command once, on that disk."""
    target = disk.folder / "recovered.img"
    peaks = {"protect": disk.create()}
    disk.write(piece, SEED)
    peaks["sync"] = disk.command("sync", disk.name)
    disk.write(piece, SEED + 1)
    peaks["sync again"] = disk.command("sync", disk.name)
    peaks["resync"] = disk.command("resync", disk.name)
    peaks["resync --deep"] = disk.command("resync", disk.name, "--deep")
    peaks["points"] = disk.command("points", disk.name)
    peaks["status"] = disk.command("status", disk.name)
    peaks["verify"] = disk.command("verify", disk.name)
    peaks["recover"] = disk.command("recover", disk.name, "--to", target)
    disk.write(piece, SEED + 2)
    peaks["hrl verify"] = disk.command("hrl", "verify", sorted(disk.folder.glob(f"{disk.image.name}.*.hrl"))[-1])
    peaks["unprotect"] = disk.command("unprotect", disk.name, "--delete-replica")
    shutil.rmtree(disk.folder)
    return peaks


def help_time() -> Series:
    """`blockreplica --help`, often."""
    series = Series("--help")
    series.runs = [run([*PROGRAM, "--help"]) for _ in range(HELP_RUNS)]
    return series
