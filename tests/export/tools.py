"""NBD clients as the tests call them, and what an image should be by its logs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from blockreplica.tracking import ImageSource
from tracking.helpers import replay


def need(*programs: str) -> None:
    """Skip where a client is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")


def run(*command: object, wanted: int = 0) -> str:
    """A client's stdout."""
    need(str(command[0]))
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == wanted, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def qemu_io(uri: str, *commands: str) -> str:
    """Each command in turn, over one connection."""
    words = [word for command in commands for word in ("-c", command)]
    out = run("qemu-io", "-f", "raw", *words, uri)
    assert "failed" not in out, out
    return out


def fio(uri: str, *options: str, jobs: int = 1, size: str = "64M") -> dict[str, Any]:
    """A run of fio's nbd engine; its report. Verification errors end it with a code that is not 0."""
    need("fio")
    out = run("fio", "--ioengine=nbd", f"--uri={uri}", f"--numjobs={jobs}", f"--size={size}", "--output-format=json",
              "--group_reporting", "--randrepeat=0", "--verify_state_save=0", *options)  # fmt: skip
    found = json.loads(out[out.index("{") :])
    assert all(job["error"] == 0 for job in found["jobs"])
    return dict(found)


def content_by_logs(image: Path, size: int, epochs: int) -> bytes:
    """What the image was, all zeros, after the logs of its first epochs."""
    return bytes(replay([record.log for record in ImageSource.open(image).records(0, epochs)], bytes(size)))
