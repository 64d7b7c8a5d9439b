/* One write: range lock, epoch, dirty bits, log, image, and out again.
 *
 * The order is what correctness.md (1) asks for. Dirty bits are set before anything else is touched, so a
 * process that dies at any point leaves too much dirty, never too little. What was logged but did not reach
 * the image as it should is followed by an entry with what the image holds now, read back under the same
 * range lock and put into the same epoch, which can't end before the write leaves it: so log and image agree
 * again, whatever the writer was told.
 *
 * No error of log or tracking file reaches the writer.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <stdlib.h>

#include "crc32c.h"

enum { data_piece = 16 << 20, content_piece = 1 << 20 };
static const uint64_t zero_piece = 1 << 30;
static const int64_t stamp_interval_ns = 500000000;

void br_stamp(struct br_tracker *tracker, int64_t now) {
    struct br_identity identity;
    if (now - tracker->stamped_ns < stamp_interval_ns && now >= tracker->stamped_ns)
        return;
    if (br_identity_of(tracker->image->ops->fileno(tracker->image), &identity) != 0)
        return;
    struct br_stamps stamps = {tracker->session, br_wall_clock(), identity.mtime_ns};
    tracker->stamped_ns = now;
    br_tracking_stamp(&tracker->tracking, stamps); /* an old stamp makes the image suspect, nothing worse */
}

/* Rule 3 for bits: if they can't stand in the file, its state says that they can't be trusted. */
static void report_lost_bits(struct br_tracker *tracker, struct br_epoch *epoch) {
    pthread_mutex_lock(&tracker->saving);
    bool first = !epoch->bits_lost;
    epoch->bits_lost = true;
    if (first && br_save_state(tracker) != 0)
        tracker->critical = true;
    pthread_mutex_unlock(&tracker->saving);
}

struct br_epoch *br_epoch_enter(struct br_tracker *tracker, uint64_t offset, uint64_t length) {
    pthread_mutex_lock(&tracker->mutex);
    br_epoch_look(tracker);
    struct br_epoch *epoch = &tracker->epochs[tracker->current];
    epoch->in_flight++;
    int lost = br_tracking_mark(&tracker->tracking, tracker->current, offset, length);
    br_stamp(tracker, br_stamp_clock());
    pthread_mutex_unlock(&tracker->mutex);
    if (lost)
        report_lost_bits(tracker, epoch);
    return epoch;
}

void br_epoch_leave(struct br_tracker *tracker, struct br_epoch *epoch) {
    pthread_mutex_lock(&tracker->mutex);
    tracker->writes++;
    br_stamp(tracker,
             br_stamp_clock()); /* the image's time may be later than the stamp before: writes queue */
    if (--epoch->in_flight == 0 && tracker->ending)
        pthread_cond_broadcast(&tracker->drained);
    pthread_mutex_unlock(&tracker->mutex);
}

static void log_entry(struct br_tracker *tracker, struct br_epoch *epoch, struct hrl_entry *entry,
                      const void *data) {
    struct br_place place;
    if (epoch->log_error)
        return;
    int64_t now = br_stamp_clock();
    entry->timestamp = hrl_timestamp(now / 1000000000);
    pthread_mutex_lock(&tracker->mutex);
    br_stamp(tracker, now);
    int error = br_log_reserve(&epoch->log, entry, &place);
    pthread_mutex_unlock(&tracker->mutex);
    if (!error)
        error = br_log_put(&epoch->log, entry, data, &place);
    if (error)
        br_log_drop(tracker, epoch, error);
}

static struct hrl_entry data_entry(uint64_t offset, uint32_t length, const void *data) {
    return (struct hrl_entry){.offset = offset,
                              .length = length,
                              .operation = HRL_WRITE,
                              .crc = hrl_entry_crc(offset, length, HRL_WRITE, data)};
}

void br_log_zero(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset, uint64_t length) {
    for (uint64_t done = 0; done < length;) {
        uint32_t step = (uint32_t)(length - done < zero_piece ? length - done : zero_piece);
        struct hrl_entry entry = {.offset = offset + done,
                                  .length = step,
                                  .operation = HRL_ZERO,
                                  .crc = hrl_entry_crc(offset + done, step, HRL_ZERO, NULL)};
        log_entry(tracker, epoch, &entry, NULL);
        done += step;
    }
}

void br_log_content(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset, uint64_t length) {
    size_t size = length < content_piece ? (size_t)length : content_piece;
    void *data = malloc(size);
    int error = data ? 0 : ENOMEM;
    for (uint64_t done = 0; done < length && !error && !epoch->log_error;) {
        size_t step = length - done < size ? (size_t)(length - done) : size;
        error = tracker->image->ops->pread(tracker->image, data, step, offset + done);
        if (error)
            break;
        struct hrl_entry entry = data_entry(offset + done, (uint32_t)step, data);
        log_entry(tracker, epoch, &entry, data);
        done += step;
    }
    free(data);
    if (error) /* the log can't tell what the image holds: the bitmap will have to do */
        br_log_drop(tracker, epoch, error);
}

/* The image is out of room: the log gives way, then the sealed ones, the oldest first. */
static bool made_room(struct br_tracker *tracker, struct br_epoch *epoch, int error) {
    if (error != ENOSPC && error != EDQUOT)
        return false;
    if (epoch->log_error)
        return br_drop_sealed_log(tracker);
    br_log_drop(tracker, epoch, error);
    return true;
}

static int write_piece(struct br_tracker *tracker, struct br_epoch *epoch, struct hrl_entry *entry,
                       const void *data) {
    struct br_file *image = tracker->image;
    log_entry(tracker, epoch, entry, data);
    int error = image->ops->pwrite(image, data, entry->length, entry->offset);
    while (error && made_room(tracker, epoch, error))
        error = image->ops->pwrite(image, data, entry->length, entry->offset);
    if (error)
        br_log_content(tracker, epoch, entry->offset, entry->length);
    return error;
}

/* Take the range. ERANGE: it is not within the image, as large as that is once the range is ours. */
static int take(struct br_tracker *tracker, struct br_range *range, uint64_t offset, uint64_t length) {
    br_range_lock(&tracker->ranges, range, offset, length);
    if (offset <= tracker->size && length <= tracker->size - offset)
        return 0;
    br_range_unlock(&tracker->ranges, range);
    return ERANGE;
}

int br_tracker_pwrite(struct br_tracker *tracker, const void *data, size_t length, uint64_t offset) {
    struct br_range range;
    uint32_t step = length < data_piece ? (uint32_t)length : data_piece;
    struct hrl_entry entry = data_entry(offset, step, data); /* the first piece's CRC before any lock */
    int error = take(tracker, &range, offset, length);
    if (error)
        return error;
    if (length) {
        struct br_epoch *epoch = br_epoch_enter(tracker, offset, length);
        error = write_piece(tracker, epoch, &entry, data);
        for (size_t done = step; done < length && !error; done += step) {
            const char *piece = (const char *)data + done;
            step = length - done < data_piece ? (uint32_t)(length - done) : data_piece;
            entry = data_entry(offset + done, step, piece);
            error = write_piece(tracker, epoch, &entry, piece);
        }
        br_epoch_leave(tracker, epoch);
    }
    br_range_unlock(&tracker->ranges, &range);
    return error;
}

static int zero_image(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset, uint64_t length) {
    struct br_file *image = tracker->image;
    br_log_zero(tracker, epoch, offset, length);
    int error = image->ops->zero(image, offset, length);
    while (error && made_room(tracker, epoch, error))
        error = image->ops->zero(image, offset, length);
    if (error)
        br_log_content(tracker, epoch, offset, length);
    return error;
}

/* Logged after the image, because only then it is known what became of the extent. */
static int discard_image(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset,
                         uint64_t length) {
    struct br_file *image = tracker->image;
    enum br_discarded result = BR_UNKNOWN;
    int error = image->ops->discard(image, offset, length, &result);
    if (!error && result == BR_READS_ZERO)
        br_log_zero(tracker, epoch, offset, length);
    else if (error || result == BR_UNKNOWN)
        br_log_content(tracker, epoch, offset, length);
    return error;
}

typedef int change_fn(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset, uint64_t length);

static int change(struct br_tracker *tracker, uint64_t offset, uint64_t length, change_fn *apply) {
    struct br_range range;
    int error = take(tracker, &range, offset, length);
    if (error)
        return error;
    if (length) {
        struct br_epoch *epoch = br_epoch_enter(tracker, offset, length);
        error = apply(tracker, epoch, offset, length);
        br_epoch_leave(tracker, epoch);
    }
    br_range_unlock(&tracker->ranges, &range);
    return error;
}

int br_tracker_zero(struct br_tracker *tracker, uint64_t offset, uint64_t length) {
    return change(tracker, offset, length, zero_image);
}

int br_tracker_discard(struct br_tracker *tracker, uint64_t offset, uint64_t length) {
    return change(tracker, offset, length, discard_image);
}

/* Logged after the image, as a discard is: where it can't be done quickly, it is not done. */
static int zero_quickly(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset, uint64_t length,
                        bool keep) {
    struct br_file *image = tracker->image;
    int error = image->ops->zero_fast ? image->ops->zero_fast(image, offset, length, keep) : EOPNOTSUPP;
    if (!error)
        br_log_zero(tracker, epoch, offset, length);
    else if (error != EOPNOTSUPP)
        br_log_content(tracker, epoch, offset, length);
    return error;
}

static int zero_in_place(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset,
                         uint64_t length) {
    return zero_quickly(tracker, epoch, offset, length, true);
}

static int punch_quickly(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset,
                         uint64_t length) {
    return zero_quickly(tracker, epoch, offset, length, false);
}

int br_tracker_zero_fast(struct br_tracker *tracker, uint64_t offset, uint64_t length, bool keep) {
    return change(tracker, offset, length, keep ? zero_in_place : punch_quickly);
}
