"""What `rule_mutations.py` plants against the rules of writing and tracking: 1 to 9 of the hard cases."""

from __future__ import annotations

from planting import Mutation, named

WRITING, FAILURES, WRITE = "tests/tracking/test_writing.py", "tests/tracking/test_failures.py", "native/tracker_write.c"
MARK = "native/tracker_mark.c"
SETTLE, IDENTITY, REQUESTS = "native/tracker_settle.c", "native/identity.c", "native/control_requests.c"
CURSORS = "src/blockreplica/tracking/cursors.py"
OPENING, SPARES = "tests/tracking/test_opening.py", "tests/tracking/test_spares.py"
CONTROL, TRACKING_SOURCE = "tests/export/test_control.py", "tests/tracking/test_source.py"
TURNS, NEWER = named(CONTROL, "rule_5_cuts_take_turns"), named(OPENING, "a_newer_tracking_file")
RECORDED = "        _write(names, tracking_id, known, files)\n"
RELEASED = """        if cursors:
            release(names, min(cursors.values()), files, spares=min(SPARES, log_room(names, size, files) // 16))
        elif before:
            forget(names, files)
"""
TURN = """    while (control->held && !control->stopped && !error)
        error = pthread_cond_timedwait(&control->changed, &control->mutex, &until);
    bool taken = !control->held;
"""
SAME = """    return a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           (ignore_ctime || a->ctime_ns == b->ctime_ns) && a->generation == b->generation;
"""
SESSION = "stamps.session == state->session && "
STAMPED = """    return stamps.session == state->session && now->size == state->size &&
           now->inode == state->identity.inode && now->generation == state->identity.generation &&
           now->mtime_ns >= stamps.mtime_ns &&"""
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
    Mutation(
        "5: a clean close leaves its log behind",
        "native/tracker_open.c",
        "    if (tracker->tracking.marked[tracker->current] || epoch->resized || tracker->image_failed)\n",
        "    if (epoch->resized || tracker->image_failed)\n",
        named(OPENING, "a_clean_close_ends_the_epoch"),
    ),
    Mutation("5: a cut waits for no other cut", REQUESTS, TURN, "    bool taken = true;\n", TURNS),
    Mutation(
        "5: a cut that is not alone fails",
        REQUESTS,
        "    while (control->held && !control->stopped && !error)\n",
        "    while (false)\n",
        TURNS,
    ),
    Mutation(
        "6: the image is not locked",
        "native/tracker_open.c",
        "    int error = fd < 0 ? 0 : br_image_lock(fd);\n",
        "    int error = fd < 0 ? 0 : 0;\n",
        named(OPENING, "qemu_refuses_a_tracked_image"),
    ),
    Mutation(
        "6: locks of others are not looked for",
        IDENTITY,
        "        error = test_byte(fd, theirs[i]);\n",
        "        error = 0 * test_byte(fd, theirs[i]);\n",
        named(OPENING, "an_image_that_qemu_has_open"),
    ),
    Mutation(
        "6: a write later than the last stamp is believed",
        SETTLE,
        "           now->mtime_ns >= stamps.mtime_ns && now->mtime_ns <= latest &&\n",
        "           now->mtime_ns >= stamps.mtime_ns &&\n",
        named(OPENING, "a_write_past_the_stamps"),
    ),
    Mutation(
        "6: a clock that was set back is believed",
        SETTLE,
        "           now->mtime_ns >= stamps.mtime_ns && now->mtime_ns <= latest &&\n",
        "           now->mtime_ns <= latest &&\n",
        named(OPENING, "a_time_before_the_stamps"),
    ),
    Mutation(
        "6: stamps do not follow the writes",
        WRITE,
        "    br_tracking_stamp(&tracker->tracking, stamps); /*",
        "    (void)stamps; /*",
        named(OPENING, "stamps_follow_the_writes"),
    ),
    Mutation(
        "6: stamps of an earlier session are believed",
        SETTLE,
        STAMPED,
        STAMPED.replace(SESSION, ""),
        named(OPENING, "stamps_of_an_earlier_session"),
    ),
    Mutation(
        "6: another file of the same name is the image",
        IDENTITY,
        SAME,
        SAME.replace("a->inode == b->inode && ", "").replace(" && a->generation == b->generation", ""),
        named("tests/tracking/test_ctime.py", "a_change_that_shows_in_mtime_inode and replace"),
    ),
    Mutation(
        "6: a ctime that alone changed means nothing",
        IDENTITY,
        "           (ignore_ctime || a->ctime_ns == b->ctime_ns) && a->gen",
        "           a->gen",
        named("tests/tracking/test_ctime.py", "it_is_taken_back_the_same_way"),
    ),
    Mutation(
        "6: who writes in the tick of the close is not seen",
        IDENTITY,
        "    for (int i = 0; i < 50 && !error; i++) {\n",
        "    for (int i = 0; i < 0 && !error; i++) {\n",
        named("tests/tracking/test_ctime.py", "rule_6_a_close_waits"),
    ),
    Mutation(
        "7: tracking begun anew has the identity of the old",
        "native/tracker_open.c",
        "        error = br_random_uuid(state->tracking_id);\n",
        "        error = 0;\n",
        named(OPENING, "a_flipped_byte_of_the_state and 16"),
    ),
    Mutation(
        "7: tracking begun anew counts from 1",
        "native/tracker_open.c",
        "    state->epoch = latest.epoch + 1;\n",
        "    state->epoch = 1;\n",
        named(OPENING, "a_flipped_byte_of_the_state and 16"),
    ),
    Mutation(
        "7: a newer tracking file is taken over",
        "native/tracker_open.c",
        "    if (!error && loaded == BR_NEWER) {\n",
        "    if (!error && loaded == BR_NEWER && false) {\n",
        NEWER,
    ),
    Mutation(
        "7: a newer tracking file is read",
        "src/blockreplica/tracking/state.py",
        "    if version != VERSION:\n",
        "    if version != VERSION and not version:\n",
        NEWER,
    ),
    Mutation(
        "8: what one relationship has is let go of",
        CURSORS,
        "release(names, min(cursors.values())",
        "release(names, max(cursors.values())",
        named(TRACKING_SOURCE, "an_epoch_goes_when_every"),
    ),
    Mutation(
        "8: logs go before the cursor is durable",
        CURSORS,
        RECORDED + RELEASED,
        RELEASED + RECORDED,
        named(TRACKING_SOURCE, "a_cursor_is_durable_before"),
    ),
    Mutation(
        "8: who stays away fills the disk",
        CURSORS,
        "    if total <= limit or not read_cursors",
        "    if total or not read_cursors",
        named(TRACKING_SOURCE, "a_target_that_stays_away"),
    ),
    Mutation(
        "8: a log that no bitmap stands in for goes",
        CURSORS,
        "        if files.exists(names.dirty(epoch)):\n",
        "        if files.exists(path):\n",
        named(TRACKING_SOURCE, "rule_8_a_log_whose_bitmap"),
    ),
    Mutation(
        "8: a first copy keeps no logs",
        "src/blockreplica/replication/full.py",
        "            if disk.begin is None or disk.cut is None or not is_past(disk.begin, disk.cut):\n",
        "            if disk.begin is None or disk.cut is None or disk.cut.epoch:\n",
        named("tests/replication/test_two_stores.py", "the_first_copy_of_one_keeps"),
    ),
    Mutation(
        "8: a backlog swallows consistent cuts",
        "src/blockreplica/replication/run.py",
        "        waiting = moving.kept.waiting(mine, moving.rest.kind)\n",
        "        waiting = moving.kept.waiting(mine, moving.rest.kind)[:0]\n",
        named("tests/replication/test_kept_cuts.py", "rule_8_killed_before_or_between"),
    ),
    Mutation(
        "8: cuts are noted when they have travelled",
        "src/blockreplica/replication/moving.py",
        "            unnoted = self.kept.note(cuts, self.settings.hooks.by)\n",
        "            unnoted = ''\n",
        named("tests/replication/test_kept_cuts.py", "rule_8_killed_before_or_between"),
    ),
    Mutation(
        "9: strict logs are recycled",
        CURSORS,
        "    return header.version == EXTENDED and header.file_type",
        "    return header.file_type",
        named(SPARES, "logs_that_are_not_ours_to_write_over"),
    ),
    Mutation(
        "9: a tracker takes a strict log for a spare",
        "native/tracker_spares.c",
        "header.version == HRL_VERSION_2_1 &&",
        "",
        named(SPARES, "rule_9_a_strict_log"),
    ),
    Mutation(
        "9: blocks are not bound to their log",
        "native/hrl.c",
        "    memcpy(log->unique_id, header->unique_id, 16);\n    log->seed = br_crc32c(0, header->unique_id, 16);\n",
        "    memset(log->unique_id, 0, 16);\n    log->seed = 0;\n",
        named("tests/hrl/test_salvage.py", "what_an_earlier_life_left"),
    ),
]
