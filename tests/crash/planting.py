"""Plants bugs on purpose, one at a time, in a copy of the sources: a test that can't fail proves nothing.

What the scripts beside this have in common: a bug is a piece of text put in the place of another, which must be there
once, so that the lists stay true when the sources change. The tests named with it must be green before and red with it.
What they let pass is printed, and ends in exit code 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = ("11", "12", "13", "14")


@dataclass(frozen=True, slots=True)
class Mutation:
    """In `file`, `old` (there once) becomes `new`; of `tests`, which the ground's `red` takes, one must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def named(file: str, word: str) -> tuple[str, ...]:
    """The tests of a file whose name holds a word, as pytest takes them."""
    return file, "-k", word


def _nothing(_folder: Path, _file: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where a script plants and how it looks: `parts` of the repository are copied, and files named below `base`.

    `red` tells of a copy, tests and a seed which test failed, or None. `changed` is called once for the whole copy,
    with no file, then for each file that was changed, either way.
    """

    parts: tuple[str, ...]
    base: str
    red: Callable[[Path, tuple[str, ...], str], str | None]
    changed: Callable[[Path, str], None] = _nothing
    seeds: tuple[str, ...] = SEEDS[:1]


def pytest_red(folder: Path, tests: Sequence[str], **environment: str) -> str | None:
    """The first of the tests that fails with the copy's sources."""
    environment |= {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode > 1:
        raise SystemExit(f"pytest could not run {' '.join(tests)}: exit code {done.returncode}\n{done.stdout}")
    if not done.returncode:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) .*::(.*)", done.stdout, re.MULTILINE)
    return failed[1] if failed else " ".join(tests)


@contextmanager
def planted(mutation: Mutation, ground: Ground, folder: Path) -> Iterator[None]:
    """The copy with the bug in it."""
    path = folder / ground.base / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.name}: {mutation.file} has {text.count(mutation.old)} places like\n{mutation.old}")
    try:
        path.write_text(text.replace(mutation.old, mutation.new))
        ground.changed(folder, mutation.file)
        yield
    finally:
        path.write_text(text)
    ground.changed(folder, mutation.file)


def caught(mutation: Mutation, ground: Ground, folder: Path) -> str | None:
    """The test that goes red, with the first seed with which one does."""
    with planted(mutation, ground, folder):
        return next(filter(None, (ground.red(folder, mutation.tests, seed) for seed in ground.seeds)), None)


def try_all(mutations: Sequence[Mutation], words: Sequence[str], ground: Ground) -> int:
    """Try those whose name holds one of the words, or all where there is none; 1 when one is not caught.

    A name stands behind a blank: " 5:" are the mutations of rule 5, not those of 15.
    """
    chosen = [each for each in mutations if not words or any(word in f" {each.name}" for word in words)]
    missed, green = 0, set[tuple[str, ...]]()
    with tempfile.TemporaryDirectory(prefix="mutations-") as parent:
        folder, ignored = Path(parent), shutil.ignore_patterns("__pycache__", "build", "fuzz")
        for part in ground.parts:
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        ground.changed(folder, "")
        for mutation in chosen:
            if mutation.tests not in green and (test := ground.red(folder, mutation.tests, ground.seeds[0])):
                raise SystemExit(f"{mutation.name}: {test} is red before anything was planted")
            green.add(mutation.tests)
            found = caught(mutation, ground, folder)
            print(f"caught  {mutation.name}\n        by {found}" if found else f"MISSED  {mutation.name}", flush=True)
            missed += not found
    print(f"{len(chosen) - missed} of {len(chosen)} planted bugs were caught")
    return 1 if missed or not chosen else 0
