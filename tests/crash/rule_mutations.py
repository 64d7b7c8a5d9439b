"""Bugs planted against single rules of the tracker and of reading, one at a time: the tests named must go red.

    python tests/crash/rule_mutations.py [WORD…]      only those whose name holds one of the words

As `mutations.py`, but in Python or in the C core, whose extension is built without sanitizers, of what has changed.
Each is what somebody in a hurry would do: swap two steps, wait for less, leave out the second try.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "-std=gnu11",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-D_GNU_SOURCE",
    "-DPy_LIMITED_API=0x030B0000",
    "-pthread",
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """In `file` of the sources, `old` (there once) becomes `new`; `test` is a test's file, and a word in its name."""

    name: str
    file: str
    old: str
    new: str
    test: tuple[str, str]


WRITING, FAILURES, WRITE = "tests/tracking/test_writing.py", "tests/tracking/test_failures.py", "native/tracker_write.c"
READER, MARK = "src/blockreplica/stores/point_reader.py", "native/tracker_mark.c"
OVERLAPS = (WRITING, "rule_1_zeros_and_writes_that_overlap")
ROOM = (FAILURES, "rule_3_no_change_fails_for_the_room")
MARKED = ("tests/tracking/test_power.py", "rule_3_where_only_the_fsync_of_the_hot_record_fails")
BETWEEN = ("tests/stores/test_directory.py", "rule_15_what_is_overwritten_between_two_steps")
IMAGE = """        got = self.image.pread_into(view, offset)
        view[got:] = bytes(len(view) - got)
        self.overlay(view, offset)

    def overlay(self, view: memoryview, offset: int) -> list[Extent]:
        \"\"\"Lay before-images over what was read from `disk.img` at `offset` *before* this call; returns where.\"\"\"
"""
TABLE = """        entries, unknown = self._read_table(first, count)
        known = np.full(count, TRUSTED, np.uint8)
        for blocks in unknown:
            known[blocks.start - first : blocks.stop - first] = DAMAGED
            page = blocks.start // PAGE_ENTRIES
            low, high = (ENTRY_SIZE * (block - page * PAGE_ENTRIES) for block in (blocks.start, blocks.stop))
            place = ENTRY_SIZE * (blocks.start - first)
            entries[place : place + high - low] = self._table.raw(page)[low:high]
"""
LOOK = "        self._refresh()\n"
CHANGED = "        br_change_end(tracker, &change);\n    }\n    br_range_unlock(&tracker->ranges, &range);\n"
APPLIED = "        error = apply(tracker, change.epoch, offset, length);\n"
ZEROED = "        error = image->ops->zero(image, offset, length);\n"

MUTATIONS = [
    Mutation(
        "1: zeros that failed stay in the log",
        WRITE,
        ZEROED + "    if (error)\n        br_log_content(tracker, epoch, offset, length);\n",
        ZEROED,
        (WRITING, "rule_1_zeros_that_the_image_fails"),
    ),
    Mutation(
        "1: zeros let go of their range at once",
        WRITE,
        APPLIED + CHANGED,
        "        br_range_unlock(&tracker->ranges, &range);\n"
        + APPLIED
        + "        br_change_end(tracker, &change);\n        return error;\n    }\n"
        "    br_range_unlock(&tracker->ranges, &range);\n",
        OVERLAPS,
    ),
    Mutation(
        "2: a flush joins the fsync that runs",
        "native/tracker.c",
        "needed = tracker->flushes_begun + 1;",
        "needed = tracker->flushes_begun + !tracker->flush_runs;",
        (FAILURES, "rule_2_a_flush_waits_for_an_fsync"),
    ),
    Mutation(
        "3: an fsync of the hot record that fails is not told of",
        "native/tracker_hot.c",
        "    if (error)\n        br_mark_whole(tracker);\n    pthread_mutex_lock",
        "    pthread_mutex_lock",
        MARKED,
    ),
    Mutation(
        "3: no fsync of the mark", MARK, "        error = file->ops->sync(file);\n", "        error = 0;\n", MARKED
    ),
    Mutation(
        "3: no fsync of the mark's name",
        MARK,
        "    return error ? error : folder->ops->sync(folder);\n}\n\n/* The folder for marks",
        "    return error;\n}\n\n/* The folder for marks",
        MARKED,
    ),
    Mutation("3: a full quota is an error", WRITE, "error != ENOSPC && error != EDQUOT)", "error != ENOSPC)", ROOM),
    Mutation(
        "3: zeros are not tried again",
        WRITE,
        "    while (error && made_room(tracker, epoch, error))\n" + ZEROED,
        "",
        ROOM,
    ),
    Mutation(
        "4: of a cut that a death interrupts one log is left",
        "native/tracker_settle.c",
        "bool two = tracking->marked[!slot] &&",
        "bool two = false &&",
        ("tests/tracking/test_cuts.py", "rule_4_a_tracker_that_dies_in_a_cut"),
    ),
    Mutation(
        "4: closed members are not held",
        "src/blockreplica/tracking/group.py",
        "        return source.hold()\n",
        "        held = source.hold()\n        held and held.close()\n        return held\n",
        ("tests/tracking/test_group_cuts.py", "rule_4_no_tracker_begins"),
    ),
    Mutation("15: the undo index before the image", READER, IMAGE + LOOK, LOOK + IMAGE, BETWEEN),
    Mutation("15: the undo index before the table", READER, TABLE + LOOK, LOOK + TABLE, BETWEEN),
    Mutation(
        "15: what came to an index before its end is not seen",
        READER,
        "            if self._indexes:\n                self._indexes[-1].refresh()\n            self._indexes.append",
        "            self._indexes.append",
        (BETWEEN[0], "rule_15_an_epoch_that_ends_while"),
    ),
]


def build(folder: Path) -> None:
    """The extension of the copy; compiles what is newer than its object."""
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


def red(mutation: Mutation, folder: Path) -> bool:
    """Whether the mutation's test fails on what stands in the copy."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    file, word = mutation.test
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file, "-k", word]
    code = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True).returncode
    if code > 1:
        raise SystemExit(f"{mutation.name}: pytest could not run {mutation.test}: exit code {code}")
    return code == 1


def caught(mutation: Mutation, folder: Path) -> bool:
    """Whether the test goes red with the bug, and only with it."""
    if red(mutation, folder):
        raise SystemExit(f"{mutation.name}: {mutation.test} is red before anything was planted")
    path = folder / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.name}: {mutation.file} has {text.count(mutation.old)} places like\n{mutation.old}")
    native = mutation.file.startswith("native/")
    path.write_text(text.replace(mutation.old, mutation.new))
    if native:
        build(folder)
    found = red(mutation, folder)
    path.write_text(text)
    if native:
        build(folder)
    return found


def main(words: list[str]) -> int:
    """Try every mutation; 1 when one is not caught."""
    chosen = [each for each in MUTATIONS if not words or any(word in each.name for word in words)]
    missed = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as parent:
        folder = Path(parent)
        for part in ("src/blockreplica", "native"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "build"))
        build(folder)
        for mutation in chosen:
            found = caught(mutation, folder)
            print(f"{'caught' if found else 'MISSED'}  {mutation.name}", flush=True)
            missed += [] if found else [mutation.name]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} planted bugs were caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
