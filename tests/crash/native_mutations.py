"""Bugs planted on purpose in the C core, one at a time, in a copy of it: the C tests named with each must go red.

    python tests/crash/native_mutations.py [WORD…]      only those whose name holds one of the words

As `mutations.py` does for Python. The core is built once; each bug costs one file compiled, and its tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[2] / "native"
SEEDS = ("11", "12", "13", "14")


@dataclass(frozen=True, slots=True)
class Mutation:
    """In `file`, `old` (there once) becomes `new`; `tests` are C tests, one of which must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


PIVOT, DEATH, OVERLAY = ("test_pivot",), ("test_pivot_death",), ("test_overlay",)
FIRST = "    int error = read_image(overlay, data, answer->start, answer->end, trouble);\n"
TABLE = "        error = br_overlay_table(overlay, answer->start / each, count, answer->sums, trouble);\n"
LAST = "        error = look_up(overlay, answer, trouble);\n"
LATER = "    if (!error)\n" + FIRST.replace("    int error", "        error")

MUTATIONS = [
    Mutation(
        "a flush makes no data durable",
        "pivot.c",
        "    error = pivot->file->ops->sync(pivot->file);\n    if (error)\n        pivot->suspect = true;",
        "    if (error)\n        pivot->suspect = true;",
        DEATH,
    ),
    Mutation(
        "a flush makes no bits durable",
        "pivot.c",
        "        error = br_pivot_store(pivot, &sectors);\n",
        "        error = 0;\n",
        DEATH,
    ),
    Mutation(
        "bits that could not be stored are forgotten",
        "pivot.c",
        "        br_pivot_put_back(pivot, &sectors); /*",
        "        br_pivot_forget(&sectors); /*",
        DEATH,
    ),
    Mutation(
        "after a failed sync the next one counts",
        "pivot.c",
        "pivot->suspect && !again ? EIO : ",
        "",
        DEATH,
    ),
    Mutation(
        "a granule in part is owned as a whole",
        "pivot.c",
        "    if (needs_rest(pivot, change, start)) {",
        "    if (0) {",
        PIVOT,
    ),
    Mutation(
        "bits are stored without a sync",
        "pivot_state.c",
        "error || !sectors->count ? error : state->ops->sync(state)",
        "error",
        DEATH,
    ),
    Mutation(
        "a written granule is not owned",
        "pivot.c",
        "    if (!error)\n        error = br_pivot_own(pivot, change->offset",
        "    if (error)\n        error = br_pivot_own(pivot, change->offset",
        PIVOT,
    ),
    Mutation("nothing is proved", "overlay.c", "    if (wrong == count)\n        return 0;", "    return 0;", OVERLAY),
    Mutation(
        "what is being applied is not seen",
        "overlay.c",
        "    int error = br_overlay_refresh(overlay, trouble);\n    if (!error)\n        error = br_overlay_map",
        "    int error = 0;\n    if (!error)\n        error = br_overlay_map",
        OVERLAY,
    ),
    Mutation(
        "merged logs are not looked for",
        "overlay.c",
        "        if (error == ESTALE && br_overlay_renew(overlay) != 0)\n            error = ENOMEM;\n",
        "",
        OVERLAY,
    ),
    Mutation("the newer before-image wins", "overlay_map.c", "    if (!first->undo) {", "    if (1) {", OVERLAY),
    Mutation("the newer checksum wins", "overlay_map.c", "    if (!sum->kind) {", "    if (1) {", OVERLAY),
    Mutation(
        "holes are asked of the newest content alone",
        "overlay_extents.c",
        "i < overlay->undo_count && !error && *quiet > start",
        "i < overlay->undo_count && !error && *quiet > end",
        OVERLAY,
    ),
    Mutation(
        "a hole needs no checksum of zeros",
        "overlay_extents.c",
        "    if (sum.kind != BR_UNDO_KNOWN || memcmp(sum.entry, zeros, sizeof zeros) != 0)\n        *result = false;\n",
        "    (void)zeros;\n",
        OVERLAY,
    ),
    Mutation(
        "what is being applied is read after the undo indexes",
        "overlay.c",
        FIRST + "    if (!error)\n" + TABLE + "    if (!error)\n" + LAST,
        "    int error = 0;\n" + TABLE.replace("        error", "    error") + "    if (!error)\n" + LAST + LATER,
        OVERLAY,
    ),
    Mutation(
        "what came to an index before its end is not seen",
        "overlay_map.c",
        "if (!error && count) /* it was sealed",
        "if (false) /* it was sealed",
        OVERLAY,
    ),
    Mutation(
        "a gap in the chain is its end", "overlay.c", "if (!error && next <= overlay->point.newest)", "if (0)", OVERLAY
    ),
]


def run(folder: Path, test: str, seed: str) -> tuple[int, str]:
    """Exit code of make, 0 where the test is green, and what it said."""
    command = ["make", "-s", "-C", str(folder), f"build/address/{test}.passed"]
    done = subprocess.run(command, env=os.environ | {"TEST_SEED": seed}, capture_output=True, text=True)
    return done.returncode, done.stderr


def caught(mutation: Mutation, folder: Path) -> bool:
    """Whether a test goes red; several seeds are tried."""
    path = folder / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.name}: {mutation.file} has {text.count(mutation.old)} places like\n{mutation.old}")
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        for seed in SEEDS:
            for test in mutation.tests:
                code, told = run(folder, test, seed)
                if code and ": error: " in told:
                    raise SystemExit(f"{mutation.name}: can't be compiled:\n{told}")
                if code:
                    return True
    finally:
        path.write_text(text)
    return False


def main(words: list[str]) -> int:
    """Try every mutation; 1 when one is not caught."""
    chosen = [each for each in MUTATIONS if not words or any(word in each.name for word in words)]
    missed = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as parent:
        folder = Path(parent) / "native"
        shutil.copytree(NATIVE, folder, ignore=shutil.ignore_patterns("fuzz"))
        for test in sorted({test for mutation in chosen for test in mutation.tests}):
            code, told = run(folder, test, SEEDS[0])
            if code:
                raise SystemExit(f"{test} is red before anything was planted:\n{told}")
        for mutation in chosen:
            found = caught(mutation, folder)
            print(f"{'caught' if found else 'MISSED'}  {mutation.name}", flush=True)
            missed += [] if found else [mutation.name]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} planted bugs were caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
