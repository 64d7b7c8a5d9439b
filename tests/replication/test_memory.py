"""Nothing of the disk's size is held in memory (rule 18): every movement on a sparse image of 1 TiB, measured.

Each runs in a process of its own, whose peak the kernel tells (VmHWM; ru_maxrss would count its parent's, too).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIMIT_MIB = 150
SIZE = 1 << 40
#: Of 4 KiB, scattered; more of them in the campaign.
WRITES = [600, pytest.param(1500, marks=pytest.mark.campaign)]

BEGIN = """
import json, random, sys
from pathlib import Path
import blockreplica as br
folder = Path(sys.argv[1])
image = folder / "vm.img"
def scatter(seed):
    rng = random.Random(seed)
    data = rng.randbytes(1 << 16)
    with br.track(image) as tracked:
        for _ in range(int(sys.argv[2])):
            at = rng.randrange(len(data) - 4096)
            tracked.pwrite(data[at : at + 4096], rng.randrange(1 << 28) * 4096)
def said(result):
    return {name: getattr(result, name) for name in ("action", "bytes_dirty", "bytes_sent", "bytes_scanned")}
done = None
"""
END = """
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": int(peak.split()[1]) / 1024, "done": done}))
"""


@pytest.fixture(params=WRITES)
def writes(request: pytest.FixtureRequest) -> int:
    """How many."""
    return int(request.param)


@pytest.fixture
def run(tmp_path: Path, writes: int) -> Any:
    """Run some lines in a new process; returns what they left in `done`."""
    environment = {**os.environ, "BLOCKREPLICA_STATE": str(tmp_path / "state")}

    def call(lines: str) -> Any:
        command = [sys.executable, "-c", BEGIN + lines + END, str(tmp_path), str(writes)]
        answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(answer.stdout)
        print(f"{found['peak']:6.1f} MiB  {lines.strip().splitlines()[-1]}")
        assert found["peak"] <= LIMIT_MIB, lines
        return found["done"]

    return call


def test_rule_18_no_movement_on_a_tebibyte_holds_more_than_150_mib(tmp_path: Path, run: Any, writes: int) -> None:
    os.close(os.open(tmp_path / "vm.img", os.O_CREAT | os.O_RDWR))
    os.truncate(tmp_path / "vm.img", SIZE)
    run("scatter(1)")
    first = run("done = said(br.protect(image, folder / 'store', name='vm').last)")
    run("scatter(2)")
    delta = run("done = said(br.relationship('vm').sync())")
    assert (delta["action"], delta["bytes_sent"], delta["bytes_scanned"]) == ("delta", first["bytes_sent"], 0)
    run("scatter(3)")
    for log in tmp_path.glob("vm.img.0*.hrl"):
        log.unlink()
    partial = run("done = said(br.relationship('vm').sync())")
    assert partial["action"] == "partial-resync"
    assert partial["bytes_scanned"] <= 17 * writes * 4096
    deep = run("done = said(br.relationship('vm').resync(deep=True))")
    assert (deep["action"], deep["bytes_dirty"]) == ("resync", 0)
    assert run("done = len(br.relationship('vm').points()), br.relationship('vm').status().state") == [4, "ok"]
    assert run("done = br.relationship('vm').replica.recover('1.1', folder / 'out.img')") == "1.1"
    assert os.stat(tmp_path / "out.img").st_size == SIZE
    assert os.stat(tmp_path / "out.img").st_blocks * 512 <= first["bytes_sent"] + (8 << 20)
    assert run("done = len(br.relationship('vm').verify().damage)") == 0
