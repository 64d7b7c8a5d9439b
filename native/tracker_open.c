/* Opening and closing: files and locks, the state from what was found to what is now, and back. What may have
 * happened meanwhile is judged in tracker_settle.c.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static void remove_open_logs(struct br_tracker *tracker) {
    char name[BR_NAME];
    br_name(tracker, ".hrl", name);
    tracker->folder->ops->unlink(tracker->folder, name);
    br_name(tracker, ".hrl.next", name);
    tracker->folder->ops->unlink(tracker->folder, name);
}

/* The file whose identity tells whether somebody else wrote the image. */
static struct br_file *witness(const struct br_tracker *tracker) {
    return tracker->container.file ? tracker->container.file : tracker->image;
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

/* The same as one that is closed in order. An image without identity is never provable, so it stays unclean;
 * so does one that is not `judged` any more (NULL: nobody else could write it), for somebody wrote it since.
 * What was settled is saved in any case: an epoch that ended for want of proof must be seen to have ended. */
static int record_closed(struct br_tracker *tracker, const struct br_identity *judged) {
    struct br_state *state = &tracker->tracking.state;
    struct br_file *image = witness(tracker);
    if (tracker->image_failed)
        return EIO;
    int error = br_identity_settled(image->ops->fileno(image), &state->identity);
    if (error == ENOTSUP)
        return br_save_state(tracker);
    if (error)
        return error;
    bool written = judged && !tracker->identity_given &&
                   !br_identity_equal(judged, &state->identity, state->ignore_ctime);
    bool resized = !tracker->container.file && state->identity.size != tracker->size; /* behind our back */
    if (written || resized) {
        tracker->all_suspect = true;
        return br_save_state(tracker);
    }
    state->clean = true;
    state->pid = 0;
    tracker->all_suspect = false; /* image and epoch are durable now */
    error = br_save_state(tracker);
    return error || !br_marked_whole(tracker) ? error : br_unmark_whole(tracker);
}

/* Settle without tracking: the image's sync stands before the record of its identity. */
static int settle(struct br_tracker *tracker, bool suspect, const struct br_identity *now,
                  const uint8_t boot[16]) {
    memcpy(tracker->tracking.state.boot, boot, 16);
    tracker->unnamed = true;
    tracker->image_failed |= suspect;
    if (tracker->image_failed)
        return br_save_state(tracker);
    int error = br_tracker_flush(tracker);
    return error ? error : record_closed(tracker, now);
}

static int clear_slots(struct br_tracker *tracker) {
    int error = br_tracking_clear(&tracker->tracking, 0);
    if (!error)
        error = br_tracking_clear(&tracker->tracking, 1);
    return error ? error : br_tracking_cover(&tracker->tracking, tracker->size);
}

/* What others wrote, dead trackers too, may stand in memory alone; a target may soon have it, and no hot
 * region of ours will name it. */
static void sync_what_was_found(struct br_tracker *tracker) {
    if (tracker->found == BR_FOUND_CLOSED || tracker->image->ops->sync(tracker->image) == 0)
        return;
    tracker->image_failed = tracker->unnamed = true;
    if (tracker->found == BR_FOUND_DIED || tracker->found == BR_FOUND_POWER)
        tracker->found = BR_FOUND_SUSPECT;
}

/* What the image is now; whether that can prove anything. */
static bool identify(struct br_tracker *tracker, const struct br_options *options, struct br_identity *now) {
    struct br_file *file = witness(tracker);
    bool provable = br_identity_of(file->ops->fileno(file), now) == 0;
    if (tracker->container.file && !tracker->tracking.state.clean)
        provable =
            false; /* what its daemon had in memory may be lost, and stamps say nothing of a container */
    tracker->identity_given = options->identity;
    if (options->identity)
        *now = *options->identity;
    return provable;
}

/* How a tracking file that was read was left. */
static void judge(struct br_tracker *tracker, const struct br_options *options, const struct br_identity *now,
                  bool provable, const uint8_t boot[16]) {
    tracker->found = br_judge(&tracker->tracking, now, provable, boot);
    if (br_marked_whole(tracker))
        tracker->found = BR_FOUND_SUSPECT;
    br_settle_failed(tracker, boot, !options->settle_only);
}

/* End what was interrupted, and have slots for the image as large as it is now. */
static int settle_found(struct br_tracker *tracker, const struct br_identity *now) {
    struct br_state *state = &tracker->tracking.state;
    bool interrupted = tracker->found == BR_FOUND_DIED || tracker->found == BR_FOUND_SUSPECT ||
                       tracker->found == BR_FOUND_POWER;
    int error = interrupted ? br_end_interrupted(tracker, now) : 0;
    if (!error)
        remove_open_logs(tracker);
    if (!error && tracker->size > state->covered)
        error = br_tracking_cover(&tracker->tracking, tracker->size);
    state->covered = tracker->size;
    return error;
}

/* Bring the state from what was found to what is now. */
static int take_over(struct br_tracker *tracker, enum br_loaded loaded, const struct br_options *options) {
    struct br_tracking *tracking = &tracker->tracking;
    struct br_identity now = {0};
    uint8_t boot[16];
    br_boot_id(boot);
    if (options->boot_id)
        memcpy(boot, options->boot_id, 16);
    bool provable = identify(tracker, options, &now);
    int error = loaded == BR_LOADED ? 0 : start_anew(tracker);
    tracking->state.contained = tracker->container.file != NULL;
    if (options->log)
        tracking->state.transit = options->log == BR_LOG_TRANSIT;
    if (options->ctime)
        tracking->state.ignore_ctime = options->ctime == BR_CTIME_IGNORE;
    if (!error)
        error = br_tracking_cover(tracking, loaded == BR_LOADED ? tracking->state.covered : tracker->size);
    if (error)
        return error;
    if (loaded == BR_LOADED)
        judge(tracker, options, &now, provable, boot);
    sync_what_was_found(tracker);
    error = settle_found(tracker, &now);
    if (!error)
        error = options->settle_only ? settle(tracker, options->suspect, &now, boot)
                                     : record_open(tracker, &now, boot);
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
    struct br_file *container = tracker->container.file;
    int error = fd < 0 ? 0 : br_image_lock(fd);
    if (!error && container)
        error = br_image_keep(container->ops->fileno(container));
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
    if (tracker->container.file && !br_is_shown(tracker->image->ops->fileno(tracker->image)))
        return br_fail(failure, ENOTCONN, tracker->name, "opening what a process shows of the image");
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
    /* Offsets in a container and in what it shows are different things. */
    if (!error && loaded == BR_LOADED && tracker->tracking.state.contained != !!tracker->container.file)
        loaded = BR_DAMAGED;
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
    error = br_epoch_begin(tracker, state->slot, state->epoch, state->chain, state->transit ? NULL : ".hrl");
    return error ? br_fail(failure, error, tracker->name, "beginning an epoch") : 0;
}

int br_tracker_open(struct br_folder *folder, const char *name, const struct br_options *options,
                    struct br_tracker **opened, struct br_failure *failure) {
    struct br_tracker *tracker = calloc(1, sizeof *tracker);
    struct br_file *container = options->container.file;
    if (!tracker || strlen(name) >= sizeof tracker->name) {
        free(tracker);
        br_folder_close(&folder);
        if (container)
            br_file_close(&container);
        return br_fail(failure, tracker ? ENAMETOOLONG : ENOMEM, name, "opening the image");
    }
    tracker->folder = folder;
    snprintf(tracker->name, sizeof tracker->name, "%s", name);
    tracker->log_limit = options->log_limit;
    tracker->container = options->container;
    tracker->marks = options->marks ? strdup(options->marks) : NULL;
    tracker->hot_made = 1;
    int error = br_hot_init(&tracker->hot, options->hot_regions);
    pthread_mutex_init(&tracker->cutting, NULL);
    pthread_mutex_init(&tracker->saving, NULL);
    br_short_mutex_init(&tracker->mutex);
    br_ranges_init(&tracker->ranges, &tracker->mutex);
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
    char name[BR_NAME];
    br_name(tracker, ".hrl", name);
    br_log_unused(tracker, epoch, name);
    remove_open_logs(tracker);
    return 0;
}

/* The image is whole in its container, and nobody has that any more but us. */
static int release(struct br_tracker *tracker) {
    struct br_file *file = tracker->container.file;
    if (!file)
        return 0;
    br_file_close(&tracker->image);
    int error = tracker->container.release ? tracker->container.release(tracker->container.context) : 0;
    int synced = file->ops->sync(file);
    if (synced)
        br_mark_failed(tracker, synced);
    return error ? error : synced;
}

int br_tracker_close(struct br_tracker *tracker, struct br_failure *failure) {
    pthread_mutex_lock(&tracker->cutting);
    br_tracker_flush(tracker); /* before the epoch ends: whether its artifacts may be trusted hangs on it */
    int error = end_last_epoch(tracker, failure);
    int released = release(tracker);
    if (!error && released)
        error = br_fail(failure, released, tracker->name, "ending the process that shows the image");
    if (!error) {
        error = record_closed(tracker, NULL);
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
    br_file_close(&tracker->container.file);
    br_folder_close(&tracker->folder);
    free(tracker->marks);
    br_hot_free(&tracker->hot);
    pthread_cond_destroy(&tracker->hot_changed);
    pthread_cond_destroy(&tracker->flushed);
    pthread_cond_destroy(&tracker->drained);
    pthread_mutex_destroy(&tracker->flushing);
    pthread_mutex_destroy(&tracker->mutex);
    pthread_mutex_destroy(&tracker->saving);
    pthread_mutex_destroy(&tracker->cutting);
    free(tracker);
}
