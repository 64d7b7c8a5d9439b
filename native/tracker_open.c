/* Opening and closing: deciding what may have happened to the image while nobody tracked it.
 *
 *     closed in order, identity as recorded    nothing happened; the next epoch's log continues the chain
 *     closed in order, another identity        somebody changed it: that epoch ends with no artifacts
 *     died, in this boot, identity provable    the epoch ends with its bits, and with its log, finished from
 *                                              the open record (tracker_recover.c); so does the next one,
 *                                              where a cut was under way
 *     died, in another boot, nobody since      the epoch ends with hot regions and durable bits, no log
 *     died otherwise                           the epoch ends with no artifacts
 *     tracking file missing or damaged         a new tracking UUID
 *
 * Provable: size, inode and its generation are the recorded ones, and the image's times fit the stamps:
 * nobody wrote it before the last stamp's own look at it, nor later than a second after that stamp.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int64_t second_ns = 1000000000;
static const uint8_t no_boot[16];

static bool fits_stamps(const struct br_tracking *tracking, const struct br_identity *now) {
    const struct br_state *state = &tracking->state;
    struct br_stamps stamps = br_tracking_stamps(tracking);
    int64_t latest = stamps.clock_ns + second_ns;
    return stamps.session == state->session && now->size == state->size &&
           now->inode == state->identity.inode && now->generation == state->identity.generation &&
           now->mtime_ns >= stamps.mtime_ns && now->mtime_ns <= latest && now->ctime_ns <= latest;
}

/* After a loss of power mtime may be older than it was, and the last stamps may not have reached the disk. */
static bool fits_power(const struct br_tracking *tracking, const struct br_identity *now) {
    const struct br_state *state = &tracking->state;
    struct br_stamps stamps = br_tracking_stamps(tracking);
    int64_t latest = stamps.clock_ns + second_ns;
    return stamps.session == state->session && now->size == state->size &&
           now->inode == state->identity.inode && now->generation == state->identity.generation &&
           now->mtime_ns <= latest && now->ctime_ns <= latest;
}

/* How the epoch that the state names ended: it goes on where it was closed. */
static enum br_found judge(const struct br_tracking *tracking, const struct br_identity *now, bool provable,
                           const uint8_t boot[16]) {
    const struct br_state *state = &tracking->state;
    if (!provable || state->suspect)
        return BR_FOUND_SUSPECT;
    if (state->clean)
        return br_identity_equal(now, &state->identity) ? BR_FOUND_CLOSED : BR_FOUND_SUSPECT;
    if (memcmp(boot, no_boot, 16) == 0 || memcmp(state->boot, no_boot, 16) == 0)
        return BR_FOUND_SUSPECT;
    if (memcmp(boot, state->boot, 16) != 0)
        return fits_power(tracking, now) ? BR_FOUND_POWER : BR_FOUND_SUSPECT;
    return fits_stamps(tracking, now) ? BR_FOUND_DIED : BR_FOUND_SUSPECT;
}

struct latest {
    const char *image;
    uint64_t epoch;
};

static void look_for_latest(void *context, const char *name) {
    struct latest *latest = context;
    uint64_t epoch = br_epoch_in(name, latest->image, ".hrl") | br_epoch_in(name, latest->image, ".dirty");
    latest->epoch = epoch > latest->epoch ? epoch : latest->epoch;
}

/* A new tracking UUID. Epochs go on above whatever earlier files stand there, so that none is taken for ours.
 */
static int start_anew(struct br_tracker *tracker) {
    struct latest latest = {tracker->name, 0};
    struct br_state *state = &tracker->tracking.state;
    int error = tracker->folder->ops->list(tracker->folder, look_for_latest, &latest);
    memset(state, 0, sizeof *state);
    state->epoch = latest.epoch + 1;
    state->size = tracker->size;
    state->cut_ns = br_wall_clock();
    if (!error)
        error = br_random_uuid(state->tracking_id);
    return error ? error : br_random_uuid(state->chain);
}

/* End the epoch that the state names, in memory; artifacts are on disk then. `head`: its open record, if that
 * is known; `slot`: where its bits are, -1: they are not trusted. */
static int end_epoch(struct br_tracker *tracker, int slot, const struct br_record_head *head) {
    struct br_tracking *tracking = &tracker->tracking;
    struct br_folder *folder = tracker->folder;
    char log[BR_NAME], dirty[BR_NAME];
    uint8_t id[16];
    int error = br_random_uuid(id);
    if (error)
        return error;
    if (head)
        memcpy(id, head->id, 16);
    br_epoch_name(tracker, tracking->state.epoch, ".hrl", log);
    br_epoch_name(tracker, tracking->state.epoch, ".dirty", dirty);
    if (slot < 0 || !head || !br_recover_log(tracker, (uint32_t)slot, head, tracking->state.epoch))
        error = folder->ops->unlink(folder, log); /* a cut that was not recorded had got this far */
    if (!error && slot >= 0)
        tracker->found_dirty += tracking->marked[slot] * BR_GRANULE;
    if (!error && slot >= 0)
        error = br_dirty_save(folder, dirty, tracking, (uint32_t)slot, id);
    if (error || slot < 0) /* without its bitmap the whole image is suspect, which is no error */
        error = folder->ops->unlink(folder, dirty);
    if (!error)
        error = folder->ops->sync(folder);
    memcpy(tracking->state.chain, id, 16);
    tracking->state.epoch++;
    tracking->state.size = tracker->size;
    tracking->state.cut_ns = br_wall_clock();
    return error;
}

/* The open record of a slot, if it is that of epoch `epoch` of the tracker that died. */
static bool known(const struct br_tracking *tracking, uint32_t slot, uint64_t epoch,
                  struct br_record_head *head) {
    return br_record_read(tracking, slot, head) && head->epoch == epoch &&
           head->session == tracking->state.session;
}

/* Whether the tracker died before it began an epoch: then bits are those of the session before, and saved. */
static bool began_nothing(const struct br_tracking *tracking) {
    struct br_record_head head;
    for (uint32_t slot = 0; slot < 2; slot++)
        if (tracking->marked[slot] &&
            (!br_record_read(tracking, slot, &head) || head.session == tracking->state.session))
            return false;
    return true;
}

/* What a tracker that died in this boot left: one epoch, or two where the word had cut it already. Writes
 * went to the one that they belong to, so whether the instant had come need not be known: without a write
 * behind it there is nothing of the second epoch. */
static int end_died(struct br_tracker *tracker) {
    struct br_tracking *tracking = &tracker->tracking;
    struct br_record_head head, next;
    uint32_t slot = tracking->state.slot;
    bool have = known(tracking, slot, tracking->state.epoch, &head);
    bool two = tracking->marked[!slot] && known(tracking, !slot, tracking->state.epoch + 1, &next);
    if (!have && began_nothing(tracking))
        return 0;
    int error = two ? 0 : br_tracking_merge(tracking, slot, !slot);
    if (!error)
        error = end_epoch(tracker, (int)slot, have ? &head : NULL);
    if (!error && two)
        error = end_epoch(tracker, !slot, &next);
    return error;
}

/* The machine went down: what was hot, and all bits that were durable, of whichever slot. The log may lack
 * anything. */
static int end_power(struct br_tracker *tracker) {
    struct br_tracking *tracking = &tracker->tracking;
    uint32_t slot = tracking->state.slot;
    int error = br_hot_mark(tracking, slot);
    if (error == EBADMSG) {
        tracker->found = BR_FOUND_SUSPECT;
        return 0;
    }
    if (!error)
        error = br_tracking_merge(tracking, slot, !slot);
    return error ? error : end_epoch(tracker, (int)slot, NULL);
}

/* End the epoch that was interrupted; `now` is the image's identity as it was judged. */
static int end_interrupted(struct br_tracker *tracker, const struct br_identity *now) {
    struct br_identity after;
    struct br_file *image = tracker->image;
    /* What the dead one wrote may stand in memory alone, and nothing says where once its record is gone. */
    if (tracker->found == BR_FOUND_DIED && image->ops->sync(image) != 0) {
        tracker->image_failed = true;
        tracker->found = BR_FOUND_SUSPECT;
    }
    int error = tracker->found == BR_FOUND_POWER ? end_power(tracker) : 0;
    if (tracker->found == BR_FOUND_SUSPECT)
        return end_epoch(tracker, -1, NULL);
    if (tracker->found == BR_FOUND_DIED)
        error = end_died(tracker);
    if (!error && (tracker->identity_given || (br_identity_of(image->ops->fileno(image), &after) == 0 &&
                                               br_identity_equal(now, &after))))
        return 0;
    tracker->found = BR_FOUND_SUSPECT; /* somebody writes it while we read */
    return error ? error : end_epoch(tracker, -1, NULL);
}

static void remove_open_logs(struct br_tracker *tracker) {
    char name[BR_NAME];
    br_name(tracker, ".hrl", name);
    tracker->folder->ops->unlink(tracker->folder, name);
    br_name(tracker, ".hrl.next", name);
    tracker->folder->ops->unlink(tracker->folder, name);
}

/* Make the state durable as one that is being written, then forget the bits of what ended. */
static int record_open(struct br_tracker *tracker, const struct br_identity *now, const uint8_t boot[16]) {
    struct br_tracking *tracking = &tracker->tracking;
    struct br_state *state = &tracking->state;
    uint8_t random[16];
    int error = br_random_uuid(random);
    if (error)
        return error;
    memcpy(&tracker->session, random, sizeof tracker->session);
    /* The new session's stamps first: with the old state they mean "not provable". */
    tracker->stamped_ns = br_stamp_clock();
    error = br_tracking_stamp(tracking, (struct br_stamps){tracker->session, br_wall_clock(), now->mtime_ns});
    if (error)
        return error;
    memcpy(state->boot, boot, 16);
    state->session = tracker->session;
    state->identity = *now;
    state->clean = false;
    state->pid = (uint32_t)getpid();
    return br_save_state(tracker);
}

/* The same as one that is closed in order. An image without identity is never provable, so it stays unclean.
 */
static int record_closed(struct br_tracker *tracker) {
    struct br_state *state = &tracker->tracking.state;
    struct br_file *image = tracker->image;
    if (tracker->image_failed)
        return EIO;
    int error = br_identity_settled(image->ops->fileno(image), &state->identity);
    if (error)
        return error == ENOTSUP ? 0 : error;
    state->clean = true;
    state->pid = 0;
    tracker->all_suspect = false; /* image and epoch are durable now */
    error = br_save_state(tracker);
    return error || !br_marked_whole(tracker) ? error : br_unmark_whole(tracker);
}

/* Settle without tracking: the image's sync stands before the record of its identity. */
static int settle(struct br_tracker *tracker, bool suspect) {
    tracker->image_failed |= suspect;
    if (tracker->image_failed)
        return br_save_state(tracker);
    int error = br_tracker_flush(tracker);
    return error ? error : record_closed(tracker);
}

static int clear_slots(struct br_tracker *tracker) {
    int error = br_tracking_clear(&tracker->tracking, 0);
    if (!error)
        error = br_tracking_clear(&tracker->tracking, 1);
    return error ? error : br_tracking_cover(&tracker->tracking, tracker->size);
}

/* Bring the state from what was found to what is now. */
static int take_over(struct br_tracker *tracker, enum br_loaded loaded, const struct br_options *options) {
    struct br_tracking *tracking = &tracker->tracking;
    struct br_identity now = {0};
    uint8_t boot[16];
    br_boot_id(boot);
    if (options->boot_id)
        memcpy(boot, options->boot_id, 16);
    bool provable = br_identity_of(tracker->image->ops->fileno(tracker->image), &now) == 0;
    tracker->identity_given = options->identity;
    if (options->identity)
        now = *options->identity;
    int error = loaded == BR_LOADED ? 0 : start_anew(tracker);
    if (!error)
        error = br_tracking_cover(tracking, loaded == BR_LOADED ? tracking->state.covered : tracker->size);
    if (error)
        return error;
    if (loaded == BR_LOADED)
        tracker->found = judge(tracking, &now, provable, boot);
    if (loaded == BR_LOADED && br_marked_whole(tracker))
        tracker->found = BR_FOUND_SUSPECT;
    if (tracker->found == BR_FOUND_DIED || tracker->found == BR_FOUND_SUSPECT ||
        tracker->found == BR_FOUND_POWER)
        error = end_interrupted(tracker, &now);
    if (!error)
        remove_open_logs(tracker);
    if (!error && tracker->size > tracking->state.covered)
        error = br_tracking_cover(tracking, tracker->size);
    tracking->state.covered = tracker->size;
    if (!error)
        error = options->settle_only ? settle(tracker, options->suspect) : record_open(tracker, &now, boot);
    if (!error && br_marked_whole(tracker))
        error = br_unmark_whole(tracker);
    return error ? error : clear_slots(tracker);
}

static int lock_tracking(struct br_tracker *tracker, const char *name, struct br_failure *failure) {
    struct br_tracking *tracking = &tracker->tracking;
    enum br_loaded loaded;
    uint32_t version;
    int error = tracking->file->ops->lock(tracking->file);
    if (!error)
        return 0;
    br_fail(failure, error, name, "locking the tracking file");
    if (error == EWOULDBLOCK) {
        failure->kind = BR_FAILED_BUSY;
        if (br_tracking_load(tracking, &loaded, &version) == 0 && loaded == BR_LOADED)
            failure->number = tracking->state.pid;
    }
    return error;
}

static int lock_image(struct br_tracker *tracker, struct br_failure *failure) {
    int fd = tracker->image->ops->fileno(tracker->image);
    int error = fd < 0 ? 0 : br_image_lock(fd);
    if (!error)
        return 0;
    br_fail(failure, error, tracker->name, "locking the image");
    if (error == EWOULDBLOCK)
        failure->kind = BR_FAILED_BUSY;
    return error;
}

static int open_files(struct br_tracker *tracker, const struct br_options *options, const char *tracking,
                      struct br_failure *failure) {
    struct br_folder *folder = tracker->folder;
    uint64_t size;
    int write = options->settle_only ? 0 : BR_OPEN_WRITE;
    int error = folder->ops->open(folder, tracker->name, write, &tracker->image);
    if (error)
        return br_fail(failure, error, tracker->name, "opening the image");
    error = tracker->image->ops->size(tracker->image, &size);
    if (error)
        return br_fail(failure, error, tracker->name, "measuring the image");
    tracker->size = size;
    error = folder->ops->open(folder, tracking, BR_OPEN_WRITE | BR_OPEN_CREATE, &tracker->tracking.file);
    if (error)
        return br_fail(failure, error, tracking, "opening the tracking file");
    error = lock_tracking(tracker, tracking, failure);
    return error || options->settle_only ? error : lock_image(tracker, failure);
}

static int open_tracker(struct br_tracker *tracker, const struct br_options *options,
                        struct br_failure *failure) {
    char name[BR_NAME];
    enum br_loaded loaded;
    uint32_t version;
    br_name(tracker, ".tracking", name);
    int error = open_files(tracker, options, name, failure);
    if (error)
        return error;
    error = br_tracking_load(&tracker->tracking, &loaded, &version);
    if (!error && loaded == BR_NEWER) {
        br_fail(failure, EPROTONOSUPPORT, name, "reading the tracking file");
        failure->kind = BR_FAILED_NEWER;
        failure->number = version;
        return EPROTONOSUPPORT;
    }
    tracker->found = loaded == BR_DAMAGED ? BR_FOUND_DAMAGED : BR_FOUND_NOTHING;
    if (!error)
        error = take_over(tracker, loaded, options);
    if (!error)
        error = tracker->folder->ops->sync(tracker->folder);
    if (error)
        return br_fail(failure, error, name, "recording that the image is tracked");
    const struct br_state *state = &tracker->tracking.state;
    tracker->current = state->slot;
    if (options->settle_only)
        return 0;
    error = br_epoch_begin(tracker, state->slot, state->epoch, state->chain, ".hrl");
    return error ? br_fail(failure, error, tracker->name, "beginning an epoch") : 0;
}

int br_tracker_open(struct br_folder *folder, const char *name, const struct br_options *options,
                    struct br_tracker **opened, struct br_failure *failure) {
    struct br_tracker *tracker = calloc(1, sizeof *tracker);
    if (!tracker || strlen(name) >= sizeof tracker->name) {
        free(tracker);
        br_folder_close(&folder);
        return br_fail(failure, tracker ? ENAMETOOLONG : ENOMEM, name, "opening the image");
    }
    tracker->folder = folder;
    snprintf(tracker->name, sizeof tracker->name, "%s", name);
    tracker->log_limit = options->log_limit;
    tracker->hot_made = 1;
    int error = br_hot_init(&tracker->hot, options->hot_regions);
    br_ranges_init(&tracker->ranges);
    pthread_mutex_init(&tracker->cutting, NULL);
    pthread_mutex_init(&tracker->saving, NULL);
    pthread_mutex_init(&tracker->mutex, NULL);
    pthread_mutex_init(&tracker->flushing, NULL);
    pthread_cond_init(&tracker->drained, NULL);
    pthread_cond_init(&tracker->flushed, NULL);
    pthread_cond_init(&tracker->hot_changed, NULL);
    error =
        error ? br_fail(failure, error, name, "opening the image") : open_tracker(tracker, options, failure);
    if (!error && !options->settle_only) {
        *opened = tracker;
        return 0;
    }
    br_tracker_drop(tracker);
    *opened = NULL;
    return error;
}

/* Leave nothing open behind the last epoch; one in which nothing was written goes on at the next open. */
static int end_last_epoch(struct br_tracker *tracker, struct br_failure *failure) {
    bool ended;
    int error = br_settle_cut(tracker, &ended, failure);
    if (error)
        return error;
    struct br_epoch *epoch = &tracker->epochs[tracker->current];
    epoch->ended_ns = br_wall_clock();
    if (tracker->tracking.marked[tracker->current] || epoch->resized || tracker->image_failed)
        return br_epoch_end(tracker, tracker->current, true, failure);
    br_file_close(&epoch->log.file);
    remove_open_logs(tracker);
    return 0;
}

int br_tracker_close(struct br_tracker *tracker, struct br_failure *failure) {
    pthread_mutex_lock(&tracker->cutting);
    br_tracker_flush(tracker); /* before the epoch ends: whether its artifacts may be trusted hangs on it */
    int error = end_last_epoch(tracker, failure);
    if (!error) {
        error = record_closed(tracker);
        if (error)
            br_fail(failure, error, tracker->name, "closing the image");
    }
    pthread_mutex_unlock(&tracker->cutting);
    br_tracker_drop(tracker);
    return error;
}

void br_tracker_drop(struct br_tracker *tracker) {
    for (int slot = 0; slot < 2; slot++)
        br_file_close(&tracker->epochs[slot].log.file);
    br_tracking_close(&tracker->tracking);
    br_file_close(&tracker->image);
    br_folder_close(&tracker->folder);
    br_hot_free(&tracker->hot);
    pthread_cond_destroy(&tracker->hot_changed);
    pthread_cond_destroy(&tracker->flushed);
    pthread_cond_destroy(&tracker->drained);
    pthread_mutex_destroy(&tracker->flushing);
    pthread_mutex_destroy(&tracker->mutex);
    pthread_mutex_destroy(&tracker->saving);
    pthread_mutex_destroy(&tracker->cutting);
    br_ranges_destroy(&tracker->ranges);
    free(tracker);
}
