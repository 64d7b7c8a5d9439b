"""Runs a command as a whole and says what it took: wall time, CPU time, peak memory.

The command is started by a small process, which is this file run as a program: the system counts what the
parent held at the time of the fork as the child's peak memory, and a parent with numpy in it holds more than
what it measures.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: How a user starts the program: the script beside the interpreter, else the module.
SCRIPT = Path(sys.executable).parent / "blockreplica"
PROGRAM = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "blockreplica"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run: seconds of wall time and of CPU, peak resident memory in bytes."""

    seconds: float
    cpu: float
    peak: int


@dataclass(slots=True)
class Series:
    """The runs of one contestant."""

    name: str
    runs: list[Run] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median wall time."""
        return statistics.median(run.seconds for run in self.runs)

    @property
    def peak(self) -> int:
        """The largest peak memory, bytes."""
        return max(run.peak for run in self.runs)


def _environment() -> dict[str, str]:
    """Ours, without the switch that keeps Python from caching bytecode: an installed program has its cache."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Run:
    """Run to the end; its output is shown only when it fails."""
    words = [str(part) for part in command]
    result = subprocess.run(
        [sys.executable, __file__, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=_environment() | (environment or {}),
    )
    if result.returncode:
        sys.exit(f"{' '.join(words)}\nexited with {result.returncode}\n{result.stdout}{result.stderr}")
    return Run(**json.loads(result.stderr.splitlines()[-1]))


def run_child(words: list[str]) -> int:
    """Start the command and wait for it; the figures are the last line on stderr."""
    began = time.perf_counter()
    child = os.posix_spawnp(words[0], words, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds, cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    took = {"seconds": seconds, "cpu": cpu, "peak": usage.ru_maxrss * 1024}
    print(json.dumps(took), file=sys.stderr)
    return os.waitstatus_to_exitcode(status)


def settle() -> None:
    """Let what earlier runs left to be written be written, so that nobody else pays for it."""
    os.sync()


if __name__ == "__main__":
    sys.exit(run_child(sys.argv[1:]))
