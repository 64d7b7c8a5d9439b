"""fio's NBD engine: one run of one or more disks, and what it says of time and latency."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMON = ["--ioengine=nbd", "--output-format=json", "--randrepeat=1", "--allrandrepeat=1",
          "--percentile_list=99:99.9"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """What is done to a disk. `amount` is bytes of it in a run."""

    name: str
    options: tuple[str, ...]
    amount: int

    def arguments(self, size: int) -> list[str]:
        """For fio, on the first `size` bytes; a place may be written twice."""
        return [*self.options, "--norandommap", f"--size={size}", f"--io_size={self.amount}"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of one disk's run, and its completion latencies in seconds."""

    seconds: float
    worst: float
    late: float  # 99.9 % were faster


def start(uris: Sequence[str], options: Sequence[str]) -> subprocess.Popen[str]:
    """Begin a run on these disks at once."""
    command = ["fio", *COMMON, *options]
    for number, uri in enumerate(uris):
        command += [f"--name=disk{number}", f"--uri={uri}"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> list[Outcome]:
    """Wait for it; what each disk had."""
    out, errors = process.communicate()
    if process.returncode:
        sys.exit(f"fio exited with {process.returncode}\n{errors or out}")
    jobs = json.loads(out[out.index("{") :])["jobs"]
    return [_outcome(job) for job in jobs]


def _outcome(job: dict[str, Any]) -> Outcome:
    side = job["write"] if job["write"]["total_ios"] else job["read"]
    times = side["clat_ns"]
    return Outcome(side["runtime"] / 1e3, times["max"] / 1e9, times["percentile"]["99.900000"] / 1e9)


def cpu_seconds(pid: int) -> float:
    """What a process has used until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """The largest resident set of a process, bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10
