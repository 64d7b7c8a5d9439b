"""Bugs planted against single rules of the tracker and of the store: the tests named with each must go red.

    python tests/crash/rule_mutations.py [WORD…]      only those whose name holds one of the words

As `mutations.py`, but in Python or in the C core, whose extension is built without sanitizers, of what has changed.
Each is what somebody in a hurry would do: swap two steps, wait for less, leave out the second try. The rules' numbers
stand before the names.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from planting import Ground, pytest_red, try_all
from rule_bugs_of_moving import MOVING_BUGS
from rule_bugs_of_storing import STORING
from rule_bugs_of_tracking import TRACKING

FLAGS = (
    "-std=gnu11",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-D_GNU_SOURCE",
    "-DPy_LIMITED_API=0x030B0000",
    "-pthread",
)


def build(folder: Path, file: str) -> None:
    """The extension of the copy; compiles what is newer than its object."""
    if file and not file.startswith("native/"):
        return
    objects = []
    for source in sorted((folder / "native").glob("*.c")):
        target = source.with_suffix(".o")
        objects.append(str(target))
        if not target.exists() or target.stat().st_mtime_ns < source.stat().st_mtime_ns:
            include = sysconfig.get_paths()["include"]
            subprocess.run(["gcc", *FLAGS, "-I", include, "-c", str(source), "-o", str(target)], check=True)
    extension = folder / "src" / "blockreplica" / "_native.abi3.so"
    extension.unlink(missing_ok=True)
    subprocess.run(["gcc", "-shared", "-pthread", *objects, "-o", str(extension)], check=True)


def red(folder: Path, tests: tuple[str, ...], _seed: str) -> str | None:
    """The first test that fails."""
    return pytest_red(folder, tests)


if __name__ == "__main__":
    ground = Ground(parts=("src/blockreplica", "native"), base="", red=red, changed=build)
    sys.exit(try_all([*TRACKING, *MOVING_BUGS, *STORING], sys.argv[1:], ground))
