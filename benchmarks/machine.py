"""Describes the machine of a measurement; a figure without it says nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def first_line(*command: str) -> str:
    """What a program says first, or nothing when there is no such program."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return "not installed"
    return (output.splitlines() or [""])[0]


def file_system(path: Path) -> str:
    """Type of the file system that holds `path`."""
    return first_line("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(path))


def describe(folder: Path) -> dict[str, str | int | float]:
    """CPU, memory, kernel, file system and the versions of what is compared."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else 0,
        "kernel": platform.release().split("-")[0],
        "file_system": file_system(folder),
        "python": platform.python_version(),
        "rsync": " ".join(first_line("rsync", "--version").split()[:3]),
        "qemu-img": first_line("qemu-img", "--version").split(" (")[0],
        "cp": first_line("cp", "--version"),
    }
