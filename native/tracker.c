/* What a tracker does besides writing and cutting: reading, flushing, resizing, telling how it is. */
#include "tracker_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void br_name(const struct br_tracker *tracker, const char *suffix, char name[BR_NAME]) {
    snprintf(name, BR_NAME, "%s%s", tracker->name, suffix);
}

void br_epoch_name(const struct br_tracker *tracker, uint64_t epoch, const char *suffix, char name[BR_NAME]) {
    snprintf(name, BR_NAME, "%s.%06llu%s", tracker->name, (unsigned long long)epoch, suffix);
}

uint64_t br_epoch_in(const char *name, const char *image, const char *suffix) {
    size_t length = strlen(image);
    if (strncmp(name, image, length) != 0 || name[length] != '.')
        return 0;
    char *end;
    const char *digits = name + length + 1;
    if (*digits < '0' || *digits > '9')
        return 0;
    unsigned long long epoch = strtoull(digits, &end, 10);
    return strcmp(end, suffix) == 0 && end - digits >= 6 && epoch < INT64_MAX / 2 ? epoch : 0;
}

int br_fail(struct br_failure *failure, int error, const char *name, const char *doing) {
    *failure = (struct br_failure){.kind = BR_FAILED_CALL, .error = error, .doing = doing};
    snprintf(failure->name, sizeof failure->name, "%s", name);
    return error;
}

int br_tracker_pread(struct br_tracker *tracker, void *data, size_t length, uint64_t offset) {
    uint64_t size = tracker->size;
    if (offset > size || length > size - offset)
        return ERANGE;
    return length ? tracker->image->ops->pread(tracker->image, data, length, offset) : 0;
}

int br_tracker_extent(struct br_tracker *tracker, uint64_t offset, uint64_t length, bool *hole,
                      uint64_t *run) {
    uint64_t size = tracker->size;
    if (!length || offset > size || length > size - offset)
        return ERANGE;
    const struct br_file_ops *ops = tracker->image->ops;
    return ops->extent ? ops->extent(tracker->image, offset, length, hole, run) : EOPNOTSUPP;
}

/* One fdatasync serves all that asked before it began. The kernel tells an error to one of several at once,
 * so there is never more than one, and what it said holds for all. */
static int sync_once(struct br_tracker *tracker) {
    tracker->flush_runs = true;
    uint64_t begun = ++tracker->flushes_begun;
    pthread_mutex_unlock(&tracker->flushing);
    int error = tracker->image->ops->sync(tracker->image);
    if (error)
        br_mark_failed(tracker, error);
    pthread_mutex_lock(&tracker->flushing);
    tracker->flush_runs = false;
    tracker->flushes_done = begun;
    pthread_cond_broadcast(&tracker->flushed);
    return error;
}

/* After power is lost, hot regions and durable bits say what to compare. So nothing but the image needs a
 * sync here. */
int br_tracker_flush(struct br_tracker *tracker) {
    int error = 0;
    pthread_mutex_lock(&tracker->flushing);
    uint64_t needed = tracker->flushes_begun + 1;
    while (!tracker->image_failed && tracker->flushes_done < needed && !error)
        if (tracker->flush_runs)
            pthread_cond_wait(&tracker->flushed, &tracker->flushing);
        else
            error = sync_once(tracker);
    pthread_mutex_unlock(&tracker->flushing);
    return error ? error : tracker->image_failed ? EIO : 0;
}

/* The image ends early: what it loses was its last change there. */
static int shrink(struct br_tracker *tracker, uint64_t from, uint64_t to) {
    struct br_change change;
    br_change_begin(tracker, &change, to, from - to);
    br_log_zero(tracker, change.epoch, to, from - to);
    int error = tracker->image->ops->truncate(tracker->image, to);
    if (error)
        br_log_content(tracker, change.epoch, to, from - to);
    br_change_end(tracker, &change);
    return error;
}

static int record_size(struct br_tracker *tracker, uint64_t size) {
    struct br_state *state = &tracker->tracking.state;
    pthread_mutex_lock(&tracker->saving);
    state->size = size;
    state->covered = size > state->covered ? size : state->covered;
    int error = br_save_state(tracker);
    pthread_mutex_unlock(&tracker->saving);
    return error;
}

static int grow(struct br_tracker *tracker, uint64_t to) {
    pthread_mutex_lock(&tracker->saving);
    pthread_mutex_lock(&tracker->mutex);
    br_stamp(tracker, br_stamp_clock());
    uint64_t covered = tracker->tracking.state.covered;
    int error = br_tracking_cover(&tracker->tracking, to > covered ? to : covered);
    pthread_mutex_unlock(&tracker->mutex);
    pthread_mutex_unlock(&tracker->saving);
    return error ? error : tracker->image->ops->truncate(tracker->image, to);
}

/* Under cutting and the range of the whole image. */
static int resize(struct br_tracker *tracker, uint64_t size, struct br_failure *failure) {
    uint64_t before = tracker->size;
    int error = br_cut_now(tracker, !tracker->tracking.state.transit, failure);
    if (error)
        return error;
    error = size < before ? shrink(tracker, before, size) : grow(tracker, size);
    if (error)
        return br_fail(failure, error, tracker->name, "resizing the image");
    tracker->size = size;
    tracker->epochs[tracker->current].resized = true;
    error = record_size(tracker, size);
    return error ? br_fail(failure, error, tracker->name, "recording the new size") : 0;
}

int br_tracker_resize(struct br_tracker *tracker, uint64_t size, struct br_failure *failure) {
    struct br_range whole;
    if (size > INT64_MAX)
        return br_fail(failure, EFBIG, tracker->name, "resizing the image");
    pthread_mutex_lock(&tracker->cutting);
    br_range_lock(&tracker->ranges, &whole, 0, UINT64_MAX);
    int error = size == tracker->size ? 0 : resize(tracker, size, failure);
    br_range_unlock(&tracker->ranges, &whole);
    pthread_mutex_unlock(&tracker->cutting);
    return error;
}

uint64_t br_tracker_size(struct br_tracker *tracker) {
    return tracker->size;
}

static enum br_condition condition(const struct br_tracker *tracker, const struct br_epoch *epoch) {
    if (tracker->critical)
        return BR_CRITICAL;
    if (tracker->image_failed || tracker->doubted || tracker->all_suspect)
        return BR_WHOLE_IMAGE;
    return epoch->log_error && !epoch->unlogged ? BR_BITMAP_ONLY : BR_TRACKING;
}

void br_tracker_status(struct br_tracker *tracker, struct br_status *status) {
    pthread_mutex_lock(&tracker->saving);
    br_last_cut(tracker, &status->last);
    status->transit = tracker->tracking.state.transit;
    pthread_mutex_unlock(&tracker->saving);
    pthread_mutex_lock(&tracker->mutex);
    br_epoch_look(tracker);
    const struct br_epoch *epoch = &tracker->epochs[tracker->current];
    status->condition = condition(tracker, epoch);
    status->log_error = epoch->unlogged ? 0 : epoch->log_error;
    status->epoch = epoch->number;
    status->size = tracker->size;
    status->log_size = epoch->log_error ? 0 : epoch->log.position;
    uint64_t dirty = tracker->tracking.marked[tracker->current] * BR_GRANULE;
    status->dirty = dirty < status->size ? dirty : status->size;
    status->writes = tracker->writes;
    status->found = tracker->found;
    status->found_dirty = tracker->found_dirty;
    status->hot = tracker->hot.used;
    status->activations = tracker->activations;
    status->hot_syncs = tracker->hot_syncs;
    pthread_mutex_unlock(&tracker->mutex);
}
