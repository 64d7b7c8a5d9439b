"""`make bench`: whole commands against whole commands, side by side in one run, and what must not grow.

    --size 4GiB     the image of the races         --quick     small and few, to see that everything runs
    --runs 7        rounds of each race            --only A,B  of: resync, initial, delta, memory, help, nbd, points
    --work DIR      where it all happens

Prints medians and ratios, and writes results.json and results.png into the work folder.
"""

from __future__ import annotations

import argparse
import compileall
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import blockreplica as br
import images
import machine
import nbd
import points
import races
import report
import scale
from blockreplica.units import GIB, MIB, TIB, parse_size
from measure import Series
from report import Goal

SECTIONS = ["resync", "initial", "delta", "memory", "help", *nbd.SECTIONS, *points.SECTIONS]
GROUPS = {"nbd": list(nbd.SECTIONS), "points": list(points.SECTIONS)}
HOLES, CHANGED = 0.4, 0.01


@dataclass(slots=True)
class Plan:
    """How large, how often, where."""

    size: int
    runs: int
    work: Path
    small_disk: int
    large_disk: int
    dirty: int
    served: nbd.Scale
    points: points.Scale


Runner = Callable[[Plan], tuple[dict[str, Series], list[Goal]]]


def parse() -> tuple[Plan, list[str]]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, help="default 4GiB, or 256MiB with --quick")
    parser.add_argument("--runs", type=int, help="default 7, or 1 with --quick")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(SECTIONS))
    options = parser.parse_args()
    wanted = [section for name in options.only.split(",") for section in GROUPS.get(name, [name])]
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    plan = Plan(4 * GIB, 7, options.work, GIB, TIB, 64 * MIB, nbd.FULL, points.FULL)
    if options.quick:
        plan = Plan(256 * MIB, 1, options.work, 256 * MIB, 16 * GIB, 8 * MIB, nbd.QUICK, points.QUICK)
    plan.size, plan.runs = options.size or plan.size, options.runs or plan.runs
    plan.served = replace(plan.served, rounds=plan.runs)
    plan.points = replace(plan.points, rounds=plan.runs)
    return plan, wanted


def resync(plan: Plan) -> tuple[dict[str, Series], list[Goal]]:
    """Against rsync."""
    image = images.make(plan.work / "vm.img", plan.size, holes=HOLES, changed=CHANGED, seed=1)
    results = races.resync_race(image, plan.work, plan.runs)
    rsync = results["rsync"]
    return results, [
        report.faster("resync --deep, against rsync", 6, rsync, results["resync --deep"]),
        report.faster("resync by table, against rsync", 9, rsync, results["resync by table"]),
    ]


def initial(plan: Plan) -> tuple[dict[str, Series], list[Goal]]:
    """Against cp and qemu-img."""
    image = images.make(plan.work / "vm.img", plan.size, holes=HOLES, changed=CHANGED, seed=1)
    results = races.initial_race(image, plan.work, plan.runs)
    fastest = min(results["cp --sparse=always"], results["qemu-img convert"], key=lambda series: series.seconds)
    work = f"initial replication, against {fastest.name}"
    return results, [report.faster(work, 1, fastest, results["protect"])]


def disks(plan: Plan) -> tuple[scale.Disk, scale.Disk]:
    """The small and the large sparse disk."""
    folder = plan.work / "scale"
    return (
        scale.Disk("small", folder / "small", plan.small_disk, plan.dirty),
        scale.Disk("large", folder / "large", plan.large_disk, plan.dirty),
    )


def delta(plan: Plan) -> tuple[dict[str, Series], list[Goal]]:
    """The same dirty bytes on a small and on a large disk; in whole blocks, and in 4 KiB pieces."""
    results: dict[str, Series] = {}
    goals = []
    for piece in (images.BLOCK, images.PIECE):
        small, large = scale.delta_race(*disks(plan), piece, plan.runs).values()
        what = f"delta, {piece // 1024} KiB pieces"
        results[f"{what}, small disk"], results[f"{what}, large disk"] = small, large
        goals.append(Goal(f"{what}: large disk over small", 1.2, large.seconds / small.seconds, "x"))
    return results, goals


def memory(plan: Plan) -> tuple[dict[str, Series], list[Goal]]:
    """Every command on the large disk."""
    peaks = scale.peak_memory(disks(plan)[1], images.BLOCK)
    results = {name: Series(name, [took]) for name, took in peaks.items()}
    worst = max(results.values(), key=lambda series: series.peak)
    return results, [Goal(f"peak memory, large sparse disk ({worst.name})", 150, worst.peak / MIB, " MiB")]


def help_time(_: Plan) -> tuple[dict[str, Series], list[Goal]]:
    """How soon the program answers."""
    series = scale.help_time()
    return {series.name: series}, [Goal("blockreplica --help", 0.15, series.seconds, " s")]


def over_nbd(section: str) -> Runner:
    """A section of the write path."""
    return lambda plan: nbd.SECTIONS[section][1](plan.work, plan.served)


def of_points(section: str) -> Runner:
    """A section of recovery points."""
    return lambda plan: points.SECTIONS[section][1](plan.work, plan.points)


RUNNERS: dict[str, Runner] = {"resync": resync, "initial": initial, "delta": delta, "memory": memory, "help": help_time}
RUNNERS |= {section: over_nbd(section) for section in nbd.SECTIONS}
RUNNERS |= {section: of_points(section) for section in points.SECTIONS}
TITLES = {
    "resync": "1 % of the 64 KiB blocks changed: bring the copy up to date",
    "initial": "The first copy",
    "delta": "A delta of the same size on a small and on a large sparse disk",
    "memory": "Every command on the large sparse disk, once",
    "help": "Start-up",
} | {section: title for section, (title, _) in (nbd.SECTIONS | points.SECTIONS).items()}


def main() -> None:
    """Run what is wanted, print it, keep it."""
    plan, wanted = parse()
    shutil.rmtree(plan.work, ignore_errors=True)
    plan.work.mkdir(parents=True)
    plan.work = plan.work.resolve()
    compileall.compile_dir(Path(br.__file__).parent, quiet=1)  # as an installed program has it
    about = machine.describe(plan.work)
    for key, value in about.items():
        print(f"{key:12} {value}")
    images.warm_memory(plan.work, max(3 * plan.size, 8 * plan.served.size))
    measured, goals = {}, []
    for section in wanted:
        results, reached = RUNNERS[section](plan)
        report.print_series(TITLES[section], results)
        measured[TITLES[section]] = results
        goals += reached
    report.print_goals(goals)
    (plan.work / "vm.img").unlink(missing_ok=True)
    shutil.rmtree(plan.work / "scale", ignore_errors=True)
    report.save(plan.work, about, measured, goals)


if __name__ == "__main__":
    main()
