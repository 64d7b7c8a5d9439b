"""What `rule_mutations.py` plants against rules of rounds, sources and what stands around a cut: 10 to 12."""

from __future__ import annotations

from planting import Mutation, named

FULL, MOVING = "src/blockreplica/replication/full.py", "src/blockreplica/replication/moving.py"
QEMU, MACHINES = "src/blockreplica/tracking/qemu/", "tests/machines/test_machine.py"
CONVERGING, HOOKS = "tests/replication/test_not_converging.py", "tests/replication/test_hooks.py"
OVERLAID = named("tests/tracking/test_writing.py", "a_disk_over_an_overlay")
AT_REST = """        with self.hooks.guarded():
            try:
                failures += failure(self.hooks.freeze)
                made = cut()
            finally:
                failures += failure(self.hooks.thaw)
"""

MOVING_BUGS = [
    Mutation(
        "10: a round that failed is forgotten",
        FULL,
        "            windows = self._dirty(disk, disk.begin, cut)\n            disk.begin = cursor_of(cut)\n",
        "            disk.begin = cursor_of(cut)\n            windows = self._dirty(disk, disk.begin, cut)\n",
        named(CONVERGING, "a_block_changed_in_one_round"),
    ),
    Mutation(
        "10: without its logs a round makes a point",
        FULL,
        "            if self._is_usable(disk):\n                continue\n",
        "            if self._is_usable(disk) or disk.unusable:\n                disk.begin = cursor_of(cut)\n"
        "                continue\n",
        named(CONVERGING, "a_log_that_fails_in_every_round and resync"),
    ),
    Mutation(
        "10: why it does not converge is not said",
        FULL,
        "            disk.unusable = str(error)\n",
        "            disk.unusable = 'a log'\n",
        named(CONVERGING, "a_log_that_fails_in_every_round and resync"),
    ),
    Mutation(
        "10: hooks stand around the first cut of a copy",
        MOVING,
        "        cuts = self.cut() if point else group.cut()\n",
        "        cuts = self.cut()\n",
        named(HOOKS, "the_guest_is_at_rest_at_the_cut"),
    ),
    Mutation(
        "10: only a cut that was made lets the guest go on",
        "src/blockreplica/replication/hooks.py",
        AT_REST,
        AT_REST.replace("with self.hooks.guarded():", "if cut:")
        .replace("try:", "if cut:")
        .replace("finally:", "if made:"),
        named(HOOKS, "rule_10_a_cut_that_fails"),
    ),
    Mutation(
        "11: reads go past the operations",
        "native/tracker.c",
        "    return length ? tracker->image->ops->pread(tracker->image, data, length, offset) : 0;\n",
        "    return length && pread(tracker->image->ops->fileno(tracker->image), data, length, (off_t)offset) < 0;\n",
        OVERLAID,
    ),
    Mutation(
        "11: the log's content is read past the operations",
        "native/tracker_write.c",
        "        error = tracker->image->ops->pread(tracker->image, data, step, offset + done);\n",
        "        error = pread(tracker->image->ops->fileno(tracker->image), data, step, (off_t)(offset + done)) < 0;\n",
        named("tests/tracking/test_writing.py", "rule_11"),
    ),
    Mutation(
        "12: a frozen bitmap goes at the cut",
        QEMU + "bitmaps.py",
        'action("block-dirty-bitmap-disable", node',
        'action("block-dirty-bitmap-remove", node',
        named(MACHINES, "killed_at_any_step and reading"),
    ),
    Mutation(
        "12: a frozen bitmap is not merged back",
        QEMU + "bitmaps.py",
        '        gone.append(action("block-dirty-bitmap-merge", node=node, target=target.name, bitmaps=names))\n',
        "",
        named(MACHINES, "killed_at_any_step and reading"),
    ),
    Mutation(
        "12: what is merged back is not active again",
        QEMU + "bitmaps.py",
        "        if end == len(trail):\n",
        "        if end > len(trail):\n",
        named("tests/machines/test_merging.py", "rule_12"),
    ),
    Mutation(
        "12: scratch images have no room of their own",
        QEMU + "fleece.py",
        '"preallocation": "falloc"',
        '"preallocation": "off"',
        named(MACHINES, "a_scratch_folder_that_fills_up"),
    ),
    Mutation(
        "12: scratch images take the room of sparse disks",
        QEMU + "fleece.py",
        "                    needed += max(0, disk.size - disk.allocated)\n",
        "                    needed += 0\n",
        named(MACHINES, "the_room_that_sparse_disks and False"),
    ),
    Mutation(
        "12: a point is made of what is no longer kept",
        MOVING,
        "        self.group.check()\n",
        "",
        named(MACHINES, "a_point_is_not_made_when_qemu_stopped"),
    ),
]
