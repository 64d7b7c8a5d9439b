"""What `rule_mutations.py` plants against the rules of storing: 13 to 21 of the hard cases.

`mutations.py` has more of them, whose names say which rule they break: it is power cuts that find most of those. Three
stand in both, so that the test that is named after the rule is seen red too.
"""

from __future__ import annotations

from planting import Mutation, named

STORES = "src/blockreplica/stores"
DISK, UNDO, INDEX, SESSION = (f"{STORES}/{name}.py" for name in ("disk", "undo", "undo_index", "session"))
READER, RETENTION = f"{STORES}/point_reader.py", "src/blockreplica/recovery/retention.py"
REPLICATION, DIRTY = "src/blockreplica/replication", "tests/replication/test_dirty.py"
RULES, DIRECTORY = "tests/stores/test_rules.py", "tests/stores/test_directory.py"
BETWEEN = named(DIRECTORY, "rule_15_what_is_overwritten_between_two_steps")
GRANULE, FOLLOWED = named(RULES, "rule_17_a_small_write"), named(RULES, "rule_17_any_point_can_be_verified")
FILES = named(RULES, "rule_17_however_many_logs")
COPIED, COPYING = named(RULES, "rule_19_disk_img_may_be_copied"), named(RULES, "rule_19_whatever_changes_disk_img")
LEAST_AGE = named("tests/recovery/test_retention.py", "rule_21")
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
PLANNED = """        granules = touched_granules(rows, blocks, self._block_size, size, whole=self._again)
        length = len(granules) * GRANULE
        new, start = self._stages.room(length), int(blocks[0]) * self._block_size
        if len(self._old) < length:
            self._old = bytearray(max(length, BATCH_BYTES))
        with self.image.window(start, end - start) as fd, translated(self.image.path, f"reading from offset {start}"):
            return blend(
                fd, rows, data, blocks, granules, memoryview(self._old)[:length], new,
                block_size=self._block_size, size=size, seed=self._seed, again=self._again,
"""
BEGIN = "            self._first_only()\n            self._begin()\n            self.image.truncate(0)"
COPY = "        self._first_only()\n        self._begin()\n        blocks = block_count"

STORING = [
    Mutation(
        "13: a page of the table that fails its CRC counts",
        "src/blockreplica/checksums.py",
        "        if kernels.unpack_table(raw, page, self.key, entries):\n",
        "        if kernels.unpack_table(raw, page, self.key, entries) and False:\n",
        named(DIRECTORY, "a_bad_table_page_stops_a_delta"),
    ),
    Mutation(
        "13: after a crash the table is believed",
        DISK,
        "            self.truth.set(some, entries)\n        self.table.resize(count)",
        "            pass\n        self.table.resize(count)",
        named(RULES, "rule_13"),
    ),
    Mutation(
        "14: all replicas have one seed",
        DISK,
        "self._block_size, self._seed = record.block_size, record.seed",
        "self._block_size, self._seed = record.block_size, 0",
        named(RULES, "rule_14_checksums"),
    ),
    Mutation(
        "14: the seed is not random",
        "src/blockreplica/protection.py",
        'seed=int.from_bytes(os.urandom(8), "little")',
        "seed=1",
        named(RULES, "rule_14_the_seed"),
    ),
    Mutation(
        "14: a block of zeros has a checksum like any other",
        "native/checksum.c",
        "        if (br_is_zero(data, size))",
        "        if (size == 0)",
        named(RULES, "rule_14_checksums"),
    ),
    Mutation("15: the undo index before the image", READER, IMAGE + LOOK, LOOK + IMAGE, BETWEEN),
    Mutation("15: the undo index before the table", READER, TABLE + LOOK, LOOK + TABLE, BETWEEN),
    Mutation(
        "15: what came to an index before its end is not seen",
        READER,
        "            if self._indexes and self._indexes[-1].growing:",
        "            if False:",
        named(DIRECTORY, "rule_15_an_epoch_that_ends_while"),
    ),
    Mutation(
        "16: a resumed log forgets what it holds",
        UNDO,
        "        self._remember(self._resumed)\n",
        "",
        named(DIRECTORY, "rule_16_an_undo_log_holds_one"),
    ),
    Mutation(
        "16: an undo log is taken for a delta",
        "src/blockreplica/replication/logs.py",
        "            if log.header.file_type != 0:\n",
        "            if log.header.file_type > 1:\n",
        named("tests/replication/test_logs.py", "an_undo_log_is_no_change_log"),
    ),
    Mutation(
        "16: an undo log is applied",
        "src/blockreplica/hrl/apply.py",
        "        if reader.header.file_type != CHANGE_LOG:\n",
        "        if reader.header.file_type > 1:\n",
        named("tests/hrl/test_apply.py", "an_undo_log_is_refused"),
    ),
    Mutation(
        "16: a tail is cut off before it is saved",
        DISK,
        "        self.zero(Extent(size, max(0, old - size)), doubted=doubted)\n",
        "        self.image.truncate(min(size, old))\n",
        named(DIRECTORY, "growing_and_shrinking"),
    ),
    Mutation("17: a small write saves its whole block", DISK, PLANNED, PLANNED.replace("self._again", "True"), GRANULE),
    Mutation(
        "17: a small write saves no checksum",
        DISK,
        "kept], old, plan.blocks[~healed], plan.old_zero[kept])",
        "kept], old, plan.blocks[:0], plan.old_zero[kept])",
        GRANULE,
    ),
    Mutation(
        "17: saved checksums prove nothing",
        UNDO,
        'rows["kind"] = np.where(known, KNOWN, UNKNOWN)',
        'rows["kind"] = UNKNOWN',
        FOLLOWED,
    ),
    Mutation(
        "17: the newest checksum counts for every point",
        READER,
        "        for index in reversed(self._indexes):\n            if index.era",
        "        for index in self._indexes:\n            if index.era",
        FOLLOWED,
    ),
    Mutation(
        "17: an index is not sorted at its end",
        INDEX,
        '    checksums = np.sort(rows[rows["kind"] >= KNOWN], order="offset")\n    return header',
        '    checksums = rows[rows["kind"] >= KNOWN]\n    return header',
        FOLLOWED,
    ),
    Mutation(
        "17: before-images of an index are not sorted at its end",
        INDEX,
        '    extents = np.sort(rows[rows["kind"] <= ZEROS], order="offset")\n    checksums = np',
        '    extents = rows[rows["kind"] <= ZEROS]\n    checksums = np',
        FOLLOWED,
    ),
    Mutation(
        "17: a reader keeps every log open",
        READER,
        "            if len(self._logs) >= _OPEN_LOGS:\n",
        "            if len(self._logs) >= 1 << 20:\n",
        FILES,
    ),
    Mutation(
        "17: an index keeps its file open",
        INDEX,
        "            if self._growing_file is None:\n                file.close()\n",
        "            self._kept = file\n",
        FILES,
    ),
    Mutation(
        "18: the extents of a bitmap are held as a whole",
        f"{REPLICATION}/dirty.py",
        "        return lambda: bitmap.extents(files=files)\n",
        "        held = list(bitmap.extents(files=files))\n        return lambda: iter(held)\n",
        named(DIRTY, "tens_of_thousands_of_extents"),
    ),
    Mutation(
        "18: the extents of QEMU's bitmap are held as a whole",
        f"{REPLICATION}/machine.py",
        "        return DirtyExtents(lambda: self._marked(bitmap), size, block_size, largest)\n",
        "        held = list(self._marked(bitmap))\n"
        "        return DirtyExtents(lambda: iter(held), size, block_size, largest)\n",
        named(DIRTY, "of_a_running_machine_too"),
    ),
    Mutation(
        "18: the window is the disk",
        f"{REPLICATION}/bulk.py",
        "    return list(windows(size, window_bytes(block_size)))\n",
        "    return list(windows(size, size or 1))\n",
        named("tests/replication/test_memory.py", "rule_18"),
    ),
    Mutation(
        "19: what is written leaves no mark",
        DISK,
        "        self._begin()\n        return self._open_undo().pub",
        "        return self._open_undo().pub",
        COPIED,
    ),
    Mutation("19: a first copy leaves no mark", DISK, COPY, COPY.replace("        self._begin()\n", ""), COPYING),
    Mutation(
        "19: what is thrown away leaves no mark", DISK, BEGIN, BEGIN.replace("            self._begin()\n", ""), COPYING
    ),
    Mutation(
        "19: a first copy's new size leaves no mark",
        DISK,
        "        else:\n            self._begin()\n        if size > old:",
        "        if size > old:",
        COPYING,
    ),
    Mutation(
        "19: a new size leaves no mark",
        DISK,
        "            self._begin()\n            self._open_undo().publish()\n",
        "            self._open_undo().publish()\n",
        COPYING,
    ),
    Mutation(
        "20: a point forgets its attachments",
        SESSION,
        "churn=churn, unusual=why, calm=calm)\n",
        "churn=churn, unusual=why, calm=calm, attachments=[])\n",
        named(RULES, "rule_20"),
    ),
    Mutation(
        "20: attachments are no part of the chain",
        "src/blockreplica/manifest.py",
        'msgspec.structs.replace(point, chain="")',
        'msgspec.structs.replace(point, chain="", attachments=[])',
        named(RULES, "rule_20"),
    ),
    Mutation(
        "21: ages are told by the wall clock",
        RETENTION,
        "reasons, age = why[point.epoch], ran - point.ran",
        "reasons, age = why[point.epoch], points[-1].time - point.time",
        LEAST_AGE,
    ),
    Mutation(
        "21: at the count the oldest goes at once",
        RETENTION,
        "        elif not reasons and age < policy.min_age:\n",
        "        elif not reasons and age < policy.min_age and not policy.last:\n",
        LEAST_AGE,
    ),
]
