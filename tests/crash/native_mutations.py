"""Bugs planted on purpose in the C core: the C tests named with each must go red, one of them is enough.

    python tests/crash/native_mutations.py [WORD…]      only those whose name holds one of the words

As `mutations.py` does for Python. The core is built once; each bug costs one file compiled, and its tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from planting import SEEDS, Ground, Mutation, try_all

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
        "    int error = br_overlay_follow(overlay, settled, trouble);\n",
        "    int error = 0 * (int)settled;\n",
        OVERLAY,
    ),
    Mutation(
        "an epoch that has begun since is not looked for",
        "overlay_map.c",
        "    return epoch && !br_undo_exists(overlay->undo_folder, epoch) ? epoch : 0;\n",
        "    return epoch;\n",
        OVERLAY,
    ),
    Mutation(
        "an epoch that goes on is taken for one that has ended",
        "overlay_map.c",
        "    bool sealed = !error && (!count || !overlay->undos[count - 1]->growing);\n",
        "    bool sealed = !error && (!count || overlay->undo_count);\n",
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


def red(folder: Path, tests: tuple[str, ...], seed: str) -> str | None:
    """The first of the C tests that fails; make builds what has changed."""
    for test in tests:
        command = ["make", "-s", "-C", str(folder / "native"), f"build/address/{test}.passed"]
        done = subprocess.run(command, env=os.environ | {"TEST_SEED": seed}, capture_output=True, text=True)
        if done.returncode and ": error: " in done.stderr:
            raise SystemExit(f"can't be compiled:\n{done.stderr}")
        if done.returncode:
            return test
    return None


if __name__ == "__main__":
    sys.exit(try_all(MUTATIONS, sys.argv[1:], Ground(parts=("native",), base="native", red=red, seeds=SEEDS)))
