"""The write path: NBD servers under fio, side by side. What a tracked disk costs its guest.

Every contestant does the same work once a round, and who begins changes from round to round. Before each run the logs
of the last one are released, as a sync would do it: so what is measured is the steady state, in which logs are used
again. A run counts only if the disk is still tracked at its end.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import daemon
import fio
import servers
from blockreplica.tracking.types import LogMode
from measure import Run, Series, settle
from report import Goal, faster
from servers import PLAIN, QEMU, Server, tracked

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
GROUP, CUT_EVERY_S = 4, 0.5
Results = tuple[dict[str, Series], list[Goal]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the disks are, how much is done in a run, and for how long where time is given."""

    size: int
    random: int
    sequential: int
    flushed: int
    seconds: int
    hot_seconds: int
    dirty: int
    rounds: int
    unmeasured: int = 2  # rounds before those: so many it takes until every log is one that is used again


FULL = Scale(GIB, 512 * MIB, 768 * MIB, 16 * MIB, 8, 60, 64 * MIB, 7)
QUICK = Scale(32 * MIB, 8 * MIB, 32 * MIB, MIB, 1, 1, 8 * MIB, 1, unmeasured=0)


def race(work: Path, scale: Scale, load: fio.Load) -> dict[str, Series]:
    """The contestants under one load."""
    with servers.all_of_them(work / "nbd", scale.size) as field:
        results = {server.name: Series(server.name) for server in field}
        for number in range(scale.unmeasured + scale.rounds):
            turn = number % len(field)
            for server in field[turn:] + field[:turn]:
                took = _run(server, load, scale)
                if number >= scale.unmeasured:
                    results[server.name].runs.append(took)
    return results


def _run(server: Server, load: fio.Load, scale: Scale) -> Run:
    server.ready()
    _settle(scale)
    before = fio.cpu_seconds(server.pid)
    [outcome] = fio.finish(fio.start([server.uri], load.arguments(scale.size)))
    server.require_tracking()
    return Run(outcome.seconds, fio.cpu_seconds(server.pid) - before, fio.peak_memory(server.pid))


def _settle(scale: Scale) -> None:
    """Where figures count, nobody pays for what others left to be written."""
    if scale.unmeasured:
        settle()


def _against(results: dict[str, Series], work: str, wanted: dict[LogMode, dict[str, float]]) -> list[Goal]:
    """`wanted`: of a way to log, how fast it is to be as whom."""
    return [
        faster(f"{work}, {mode}, against {other}", factor, results[other], results[tracked(mode)])
        for mode, factors in wanted.items()
        for other, factor in factors.items()
    ]


def random_writes(work: Path, scale: Scale) -> Results:
    """4 KiB, depth 16."""
    load = fio.Load("random", ("--rw=randwrite", "--bs=4k", "--iodepth=16"), scale.random)
    results = race(work, scale, load)
    wanted: dict[LogMode, dict[str, float]] = {"always": {PLAIN: 0.95, QEMU: 1.3}, "transit": {PLAIN: 1.0}}
    return results, _against(results, "4 KiB random writes", wanted)


def sequential_writes(work: Path, scale: Scale) -> Results:
    """256 KiB, depth 16."""
    load = fio.Load("sequential", ("--rw=write", "--bs=256k", "--iodepth=16"), scale.sequential)
    results = race(work, scale, load)
    return results, _against(results, "256 KiB writes", {"always": {PLAIN: 0.65}, "transit": {PLAIN: 1.0}})


def flushed_writes(work: Path, scale: Scale) -> Results:
    """4 KiB, depth 16, a flush every 32."""
    load = fio.Load("flushed", ("--rw=randwrite", "--bs=4k", "--iodepth=16", "--fsync=32"), scale.flushed)
    results = race(work, scale, load)
    return results, _against(results, "4 KiB writes, flushed", {"always": {PLAIN: 0.8}})


def random_reads(work: Path, scale: Scale) -> Results:
    """4 KiB, depth 16."""
    load = fio.Load("reads", ("--rw=randread", "--bs=4k", "--iodepth=16"), scale.random)
    results = race(work, scale, load)
    return results, _against(results, "4 KiB random reads", {"always": {PLAIN: 0.95}})


def cuts(work: Path, scale: Scale) -> Results:
    """A group of disks under load, with a cut over all of them twice a second and without: the worst latencies."""
    folder = work / "nbd"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = ("no cuts, worst", "no cuts, 99.9 %", "export cut, worst", "export cut, 99.9 %")
    results = {name: Series(name) for name in names}
    with ExitStack() as stack:
        paths = [servers.filled(folder / f"disk{number}.img", scale.size // GROUP) for number in range(GROUP)]
        group = [stack.enter_context(servers.ours(folder, path)) for path in paths]
        for number in range(scale.unmeasured + scale.rounds):
            for cut in (False, True) if number % 2 else (True, False):
                outcomes = _under_load(group, scale, cut=cut)
                if number >= scale.unmeasured:
                    _note(results["export cut, worst" if cut else "no cuts, worst"], [each.worst for each in outcomes])
                    _note(results["export cut, 99.9 %" if cut else "no cuts, 99.9 %"], [each.late for each in outcomes])
    shutil.rmtree(folder)
    more = 1000 * (results["export cut, worst"].seconds - results["no cuts, worst"].seconds)
    return results, [Goal("longest pause that a cut of 4 disks adds", 20, more, " ms")]


def _note(series: Series, latencies: list[float]) -> None:
    series.runs.append(Run(max(latencies), 0.0, 0))


def _under_load(group: list[Server], scale: Scale, *, cut: bool) -> list[fio.Outcome]:
    servers.release(group)
    _settle(scale)
    # Not as fast as it goes: on a machine with every core at work, latency is what the scheduler makes of it.
    options = ["--rw=randwrite", "--bs=4k", "--iodepth=4", "--rate_iops=2000", "--time_based",
               f"--runtime={scale.seconds}", f"--size={scale.size // GROUP}"]  # fmt: skip
    running = fio.start([server.uri for server in group], options)
    while cut and _still_running(running, CUT_EVERY_S):
        servers.release(group)
    outcomes = fio.finish(running)
    for server in group:
        server.require_tracking()
    return outcomes


def _still_running(running: subprocess.Popen[str], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if running.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def hot_regions(work: Path, scale: Scale) -> Results:
    """fsyncs that the record of hot regions adds to a minute of random writes over a disk."""
    folder = work / "nbd"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    image = servers.filled(folder / "disk.img", scale.size)
    with servers.ours(folder, image) as server:
        assert server.export is not None
        options = ["--rw=randwrite", "--bs=4k", "--iodepth=16", "--time_based", f"--runtime={scale.hot_seconds}"]
        [outcome] = fio.finish(fio.start([server.uri], [*options, f"--size={scale.size}"]))
        server.require_tracking()
        status = server.export.status()
    shutil.rmtree(folder)
    print(
        f"\n{status.writes} writes in {outcome.seconds:.0f} s: {status.activations} regions became hot, "
        f"{status.hot_syncs} fsyncs for that"
    )
    series = Series("export, slowest write", [Run(outcome.worst, 0.0, 0)])
    reached = status.hot_syncs / max(1, status.activations)
    return {series.name: series}, [Goal("fsyncs of the hot-region record, a region made hot", 1, reached, "")]


def qemu(work: Path, scale: Scale) -> Results:
    """A running QEMU as the source."""
    return daemon.race(work, scale.size, scale.dirty, scale.rounds)


SECTIONS: dict[str, tuple[str, Callable[[Path, Scale], Results]]] = {
    "nbd-random": ("4 KiB random writes over NBD, depth 16", random_writes),
    "nbd-sequential": ("256 KiB sequential writes over NBD, depth 16", sequential_writes),
    "nbd-flush": ("4 KiB random writes over NBD, a flush every 32", flushed_writes),
    "nbd-read": ("4 KiB random reads over NBD, depth 16", random_reads),
    "nbd-cuts": ("Latency of writes to 4 disks over NBD, cut twice a second", cuts),
    "nbd-hot": ("Random writes over NBD: what makes regions hot costs", hot_regions),
    "nbd-qemu": ("A running QEMU as the source: the sync of what its guest wrote", qemu),
}
