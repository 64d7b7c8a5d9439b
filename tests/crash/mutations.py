"""Bugs planted on purpose in the store and in recovery: the tests named with each must go red.

    python tests/crash/mutations.py [WORD…]      only those whose name holds one of the words

Each takes an fsync out, swaps two steps, or drops a check that a rule asks for, whose number then stands before its
name; `planting.py` says how, and `rule_mutations.py` has the rules' own tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

from planting import SEEDS, Ground, Mutation, pytest_red, try_all

STATES = "160"


def cut(*movements: str) -> tuple[str, ...]:
    """The power cuts of some movements."""
    test = "tests/crash/test_power_cut.py::test_a_power_cut_at_any_step_leaves_every_acknowledged_point"
    return tuple(f"{test}[{movement}]" for movement in movements)


PUBLISH = """            self._log.sync_flushed()
            self._index.pwrite(sealed, at)
            self._index.sync()
"""
LOG, INDEX = PUBLISH.splitlines(keepends=True)[:1], PUBLISH.splitlines(keepends=True)[1:]
LANDS = """            publish()
            for plan in self._landing.plans:
                self._write(plan)
"""
SAVED, WRITTEN = LANDS.splitlines(keepends=True)[:1], LANDS.splitlines(keepends=True)[1:]
BEGUN = """        self._begin()
        return self._open_undo().publishing() if self._history else lambda: None

    def _write_plan(self, plan: Blend) -> None:
        self._write_granules(plan.granules, plan.new, plan.new_zero)
"""
WAYS = "if not (self._stage.blocks.isdisjoint(some) and self._landing.blocks.isdisjoint(some)):"
COMMIT = """        for disk in self.disks:
            disk.sync()
        for disk in self.disks:
            disk.seal()
"""
POINT = '        self._files.write_durably(self._layout.point(point.epoch), encode("point", point))\n'
STATE = "        write_state(self._layout, state, self._files)\n"
UNDO, DISK, STAGE, SESSION = "stores/undo.py", "stores/disk.py", "stores/stage.py", "stores/session.py"
MERGE, PRUNING, RETENTION = "stores/merge.py", "stores/pruning.py", "recovery/retention.py"
CHANGE = "stores/eras.py"
PRUNED, ERAS, PLAN, CLOCK = (
    ("tests/stores/test_pruning.py",),
    ("tests/stores/test_eras.py",),
    ("tests/recovery/test_retention.py",),
    ("tests/stores/test_clock.py",),
)

STILL = "                require_still(target, partial, to, files, force=job.force)\n"
RECOVER = "recovery/recover.py"
RECOVERED, REPAIRED = ("tests/crash/test_recover_cut.py",), ("tests/crash/test_repair_cut.py",)

MUTATIONS = [
    Mutation("13: no fsync of the undo log", UNDO, PUBLISH, "".join(INDEX), cut("delta", "resync")),
    Mutation("13: no fsync of the undo index", UNDO, PUBLISH, PUBLISH.replace(INDEX[1], ""), cut("delta", "resync")),
    Mutation("13: the index before its log", UNDO, PUBLISH, "".join([*INDEX, *LOG]), cut("delta", "resync")),
    Mutation("13: no fsync of disk.img", DISK, "        self.image.sync()\n", "", cut("delta")),
    Mutation(
        "13: no fsync of the table", DISK, "        self._table_file.sync()\n", "", cut("delta", "grown", "shrunk")
    ),
    Mutation(
        "13: no fsync of records",
        "files.py",
        "            file.sync()\n        self.rename",
        "        self.rename",
        cut("delta"),
    ),
    Mutation(
        "13: no fsync of records' folders",
        "files.py",
        "        self.rename(temporary, path)\n        self.sync_folder(path.parent)\n",
        "        self.rename(temporary, path)\n",
        cut("delta"),
    ),
    Mutation("13: blocks before their before-images", STAGE, LANDS, "".join([*WRITTEN, *SAVED]), cut("delta")),
    Mutation(
        "19: INCOMPLETE after the first write",
        DISK,
        BEGUN,
        "".join([*BEGUN.splitlines(keepends=True)[1:], "        self._begin()\n"]),
        cut("delta"),
    ),
    Mutation(
        "13: what is landing is not waited for",
        STAGE,
        WAYS,
        "if not self._stage.blocks.isdisjoint(some):",
        ("tests/stores/test_stage.py",),
    ),
    Mutation(
        "a session ends before its thread", DISK, "        self._stages.end()\n", "", ("tests/stores/test_stage.py",)
    ),
    Mutation(
        "13: no fsync before the commit",
        SESSION,
        COMMIT,
        COMMIT.replace("            disk.sync()\n", "            disk.flush()\n"),
        cut("delta"),
    ),
    Mutation("13: the state before the point", SESSION, POINT, "", cut("delta")),
    Mutation("19: INCOMPLETE goes before the commit", SESSION, POINT, "        self._unmark()\n" + POINT, cut("delta")),
    Mutation("19: INCOMPLETE stays", SESSION, STATE + "        self._unmark()\n", STATE, cut("delta")),
    Mutation(
        "16: a resumed log forgets what it saved",
        UNDO,
        "        self._remember(self._resumed)\n",
        "",
        cut("delta", "resync"),
    ),
    Mutation(
        "16: a second before-image of a granule",
        UNDO,
        "        granules, old, zero = granules[fresh], picked(old, fresh), zero[fresh]\n",
        "",
        cut("resync"),
    ),
    Mutation(
        "16: a tail cut off before it is saved",
        DISK,
        "        self.zero(Extent(size, max(0, old - size)), doubted=doubted)\n",
        "        self.image.truncate(min(size, old))\n",
        cut("shrunk"),
    ),
    Mutation(
        "13: half-written blocks keep their entries",
        DISK,
        "            self.truth.set(some, entries)\n        self.table.resize(count)",
        "            pass\n        self.table.resize(count)",
        cut("delta", "resync"),
    ),
    Mutation(
        "what was written is not written again",
        DISK,
        "            self._write_again(granules)\n",
        "            pass\n",
        ("tests/crash/test_failed_fsync.py",),
    ),
    Mutation("17: no fsync of a merged index", MERGE, "        out.sync()\n", "", cut("thinned")),
    Mutation(
        "a merged log is not sealed",
        MERGE,
        "        writer.close()\n",
        "        writer.flush()\n",
        (*cut("thinned"), *PRUNED),
    ),
    Mutation(
        "16: the newer before-image wins",
        MERGE,
        "reversed([*enumerate(self._indexes)])",
        "[*enumerate(self._indexes)]",
        PRUNED,
    ),
    Mutation(
        "16: the newer checksum wins",
        MERGE,
        "*(index.checksums(start, end) for index in indexes)",
        "*(index.checksums(start, end) for index in reversed(indexes))",
        PRUNED,
    ),
    Mutation(
        "17: checksums of another era are merged",
        MERGE,
        "[index for index in indexes if index.era == indexes[0].era]",
        "indexes",
        ERAS,
    ),
    Mutation(
        "17: checksums of another era count",
        "stores/point_reader.py",
        "            if index.era != self.era:\n                continue\n",
        "",
        ERAS,
    ),
    Mutation("damage gets a new checksum", CHANGE, "                self._prove(image, old, window)\n", "", ERAS),
    Mutation("no fsync of an era's table", CHANGE, "            file.sync()\n", "", cut("era")),
    Mutation(
        "no fsync of the name of an era's table",
        CHANGE,
        "        self._files.sync_folder(self._layout.folder)\n",
        "",
        cut("era"),
    ),
    Mutation(
        "the era before its table",
        CHANGE,
        "    progress.start(",
        '    write_record("replica", changed, layout.record, files, copy_first=True)\n    progress.start(',
        cut("era"),
    ),
    Mutation(
        "the copy of a record stays behind",
        "stores/directory.py",
        "if not self.record_errors() and not self._copy_is_another():",
        "if not self.record_errors():",
        ERAS,
    ),
    Mutation("a table that proves points goes", PRUNING, " - living:\n", ":\n", ERAS),
    Mutation("damage is merged", MERGE, "        _check(index, files)\n", "        pass\n", PRUNED),
    Mutation(
        "pruning leaves no record",
        PRUNING,
        "                self._write(sorted({*going, *unfinished}))\n",
        "                pass\n",
        (*cut("thinned"), *PRUNED),
    ),
    Mutation(
        "no fsync of removed points",
        PRUNING,
        "            self._files.sync_folder(self._layout.points)\n",
        "",
        cut("thinned"),
    ),
    Mutation(
        "15: old logs go before the new chain",
        PRUNING,
        "        links, keep, run = chain(",
        "        self._sweep(layout, older, newer, {layout.undo_index(older + 1)})\n        links, keep, run = chain(",
        (*PRUNED, *cut("thinned")),
    ),
    Mutation(
        "leftovers outlive their record",
        PRUNING,
        "        self._files.sync_folder(layout.undo)  # before `pruning`",
        "        pass  # before `pruning`",
        cut("thinned"),
    ),
    Mutation(
        "15: a merge minds no reader",
        PRUNING,
        "if self._first_held(epoch for epoch in left if epoch < first) != OPEN:",
        "if False:",
        PRUNED,
    ),
    Mutation(
        "15: pruning minds no reader",
        PRUNING,
        "going = [epoch for epoch in wanted if epoch < held]",
        "going = wanted",
        PRUNED,
    ),
    Mutation(
        "the newest point can go",
        PRUNING,
        "set(remove) & set(listed[:-1])",
        "set(remove) & set(listed)",
        ("tests/contracts/test_store.py", *PRUNED),
    ),
    Mutation(
        "21: running time by the wall clock",
        "stores/clock.py",
        "passed = now.up - held.up if same",
        "passed = wall if same",
        CLOCK,
    ),
    Mutation(
        "21: a reboot takes the wall clock's word",
        "stores/clock.py",
        "max(0.0, min(wall, now.up, DAY))",
        "max(0.0, wall)",
        CLOCK,
    ),
    Mutation("21: no least age", RETENTION, "elif not reasons and age < policy.min_age:", "elif False:", PLAN),
    Mutation("21: a jump of the clock holds nothing", RETENTION, "held or _jumped(points, ran), ", "held, ", PLAN),
    Mutation("pins are forgotten", RETENTION, "set(marks.pinned) & why.keys()", "set[int]()", PLAN),
    Mutation(
        "repair trusts the primary",
        "recovery/repair.py",
        "if len(content) == extent.length and _sum(reader, content) == wanted:",
        "if len(content) == extent.length:",
        ("tests/recovery/test_repair.py",),
    ),
    Mutation(
        "a repair trusts memory",
        "recovery/repair.py",
        "                file.forget_cache()\n",
        "                pass\n",
        REPAIRED,
    ),
    Mutation("no fsync of repaired blocks", "recovery/repair.py", "            image.sync()\n", "", REPAIRED),
    Mutation("no fsync of repaired before-images", "recovery/repair.py", "            log.sync()\n", "", REPAIRED),
    Mutation(
        "a recovery taken up trusts memory",
        RECOVER,
        "        target.forget_cache()\n    elif",
        "        pass\n    elif",
        RECOVERED,
    ),
    Mutation("a recovery in place trusts memory", RECOVER, "    target.forget_cache()\n    for", "    for", RECOVERED),
    Mutation("no fsync of a recovered file", RECOVER, "            target.sync()\n", "", RECOVERED),
    Mutation(
        "no fsync of an image changed in place",
        RECOVER,
        "    target.sync()\n\n\ndef _beside",
        "\n\ndef _beside",
        RECOVERED,
    ),
    Mutation(
        "the name before the content",
        RECOVER,
        "                target.sync()\n" + STILL + "                _put_in_place(partial, to, files)\n",
        STILL + "                _put_in_place(partial, to, files)\n                target.sync()\n",
        RECOVERED,
    ),
    Mutation(
        "no fsync of a recovered file's folder",
        RECOVER,
        "        files.sync_folder(to.parent)\n",
        "        pass\n",
        RECOVERED,
    ),
    Mutation(
        "a name that is not durable stays",
        RECOVER,
        "            files.rename(to, partial)\n",
        "            pass\n",
        RECOVERED,
    ),
    Mutation("two recoveries write to one file", RECOVER, " or not files.is_at(target, partial)", "", RECOVERED),
    Mutation(
        "what was taken up is not compared",
        RECOVER,
        "judge(reader, window, table) != RIGHT)\n    runs",
        "judge(reader, window, table) > 2)\n    runs",
        RECOVERED,
    ),
]


def red(folder: Path, tests: tuple[str, ...], seed: str) -> str | None:
    """The first test that fails with that seed."""
    return pytest_red(folder, tests, BLOCKREPLICA_SEED=seed, BLOCKREPLICA_CRASH_STATES=STATES, BLOCKREPLICA_FAULTS="0")


if __name__ == "__main__":
    package = "src/blockreplica"
    sys.exit(try_all(MUTATIONS, sys.argv[1:], Ground(parts=(package,), base=package, red=red, seeds=SEEDS)))
