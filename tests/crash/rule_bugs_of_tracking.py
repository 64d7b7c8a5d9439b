"""What `rule_mutations.py` plants against the rules of writing, tracking and moving: 1 to 12 of the hard cases."""

from __future__ import annotations

from planting import Mutation, named

WRITING, FAILURES, WRITE = "tests/tracking/test_writing.py", "tests/tracking/test_failures.py", "native/tracker_write.c"
MARK = "native/tracker_mark.c"
OVERLAPS = named(WRITING, "rule_1_zeros_and_writes_that_overlap")
ROOM = named(FAILURES, "rule_3_no_change_fails_for_the_room")
MARKED = named("tests/tracking/test_power.py", "rule_3_where_only_the_fsync_of_the_hot_record_fails")
CHANGED = "        br_change_end(tracker, &change);\n    }\n    br_range_unlock(&tracker->ranges, &range);\n"
APPLIED = "        error = apply(tracker, change.epoch, offset, length);\n"
ZEROED = "        error = image->ops->zero(image, offset, length);\n"

TRACKING = [
    Mutation(
        "1: zeros that failed stay in the log",
        WRITE,
        ZEROED + "    if (error)\n        br_log_content(tracker, epoch, offset, length);\n",
        ZEROED,
        named(WRITING, "rule_1_zeros_that_the_image_fails"),
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
        named(FAILURES, "rule_2_a_flush_waits_for_an_fsync"),
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
        named("tests/tracking/test_cuts.py", "rule_4_a_tracker_that_dies_in_a_cut"),
    ),
    Mutation(
        "4: closed members are not held",
        "src/blockreplica/tracking/group.py",
        "        return source.hold()\n",
        "        held = source.hold()\n        held and held.close()\n        return held\n",
        named("tests/tracking/test_group_cuts.py", "rule_4_no_tracker_begins"),
    ),
]
