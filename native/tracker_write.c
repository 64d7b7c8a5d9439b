/* One write: range lock, epoch, dirty bits, entry reserved, log, image, entry confirmed, and out again.
 *
 * The order is what correctness.md (1) asks for. Dirty bits are set before anything else is touched, so a
 * process that dies at any point leaves too much dirty, never too little; and what was reserved and never
 * confirmed, or is pending, is read back from the image at the next open. Zeros and discards, which are
 * logged after the image, are pending meanwhile. What was logged but did not reach
 * the image as it should is followed by an entry with what the image holds now, read back under the same
 * range lock and put into the same epoch, which can't end before the write leaves it: so log and image agree
 * again, whatever the writer was told.
 *
 * No error of log or tracking file reaches the writer.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "crc32c.h"

enum { data_piece = 16 << 20, content_piece = 1 << 20 };
static const uint64_t zero_piece = 1 << 30;
static const int64_t stamp_interval_ns = 500000000;

void br_stamp(struct br_tracker *tracker, int64_t now) {
    struct br_identity identity;
    tracker->seen_ns = now;
    if (now - tracker->stamped_ns < stamp_interval_ns && now >= tracker->stamped_ns)
        return;
    if (tracker->container.file || /* nothing is judged by stamps there */
        br_identity_of(tracker->image->ops->fileno(tracker->image), &identity) != 0)
        return;
    struct br_stamps stamps = {tracker->session, br_wall_clock(), identity.mtime_ns};
    tracker->stamped_ns = now;
    tracker->stamp_moved = true;
    br_tracking_stamp(&tracker->tracking, stamps); /* an old stamp makes the image suspect, nothing worse */
}

/* Rule 3 for bits: if they can't stand in the file, its state says that they can't be trusted. */
void br_report_lost(struct br_tracker *tracker, struct br_epoch *epoch) {
    pthread_mutex_lock(&tracker->saving);
    bool first = !epoch->bits_lost && !tracker->all_suspect;
    epoch->bits_lost = true;
    int error = first ? br_save_state(tracker) : 0;
    pthread_mutex_unlock(&tracker->saving);
    if (error)
        br_mark_whole(tracker);
}

/* Under mutex: the epoch that a change of an extent belongs to, with its bits set. The word is read after all
 * waiting. */
static struct br_epoch *enter(struct br_tracker *tracker, uint64_t offset, uint64_t length, bool *lost) {
    br_hot_enter(tracker, offset, length);
    br_epoch_look(tracker);
    struct br_epoch *epoch = &tracker->epochs[tracker->current];
    epoch->in_flight++;
    if (br_tracking_mark(&tracker->tracking, tracker->current, offset, length) != 0)
        *lost = true;
    br_stamp(tracker, br_stamp_clock());
    return epoch;
}

static void leave(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset, uint64_t length) {
    br_hot_leave(tracker, offset, length);
    tracker->writes++;
    br_stamp(tracker,
             br_stamp_clock()); /* the image's time may be later than the stamp before: writes queue */
    if (--epoch->in_flight == 0 && tracker->ending)
        pthread_cond_broadcast(&tracker->drained);
}

void br_change_begin(struct br_tracker *tracker, struct br_change *change, uint64_t offset, uint64_t length) {
    bool lost = false;
    change->offset = offset;
    change->length = length;
    pthread_mutex_lock(&tracker->mutex);
    change->epoch = enter(tracker, offset, length, &lost);
    if (br_record_pend(&change->epoch->record, offset, length, &change->pending) != 0)
        lost = true;
    pthread_mutex_unlock(&tracker->mutex);
    if (lost)
        br_report_lost(tracker, change->epoch);
}

void br_change_end(struct br_tracker *tracker, struct br_change *change) {
    pthread_mutex_lock(&tracker->mutex);
    br_record_unpend(&change->epoch->record, change->pending); /* left there, it is only logged once more */
    leave(tracker, change->epoch, change->offset, change->length);
    pthread_mutex_unlock(&tracker->mutex);
}

/* Under mutex. 0, or why the entry is not in the log: -1 where there is none. */
static int reserve(struct br_tracker *tracker, struct br_epoch *epoch, struct hrl_entry *entry,
                   struct br_place *place, bool *lost) {
    if (!br_logged(epoch))
        return -1;
    entry->timestamp = hrl_timestamp(tracker->seen_ns / 1000000000);
    return br_log_reserve(&epoch->log, entry, place, lost);
}

/* Not under mutex any more: what has to be told of a reservation. */
static void reserved(struct br_tracker *tracker, struct br_epoch *epoch, int error, bool lost) {
    if (lost)
        br_report_lost(tracker, epoch);
    if (error > 0)
        br_log_drop(tracker, epoch, error);
}

/* The entry's data into the log. */
static void put(struct br_tracker *tracker, struct br_epoch *epoch, const struct hrl_entry *entry,
                const void *data, const struct br_place *place) {
    int error = br_log_put(&epoch->log, entry, data, place);
    while ((error == ENOSPC || error == EDQUOT) && br_spare_drop(tracker))
        error = br_log_put(&epoch->log, entry, data, place);
    if (error)
        br_log_drop(tracker, epoch, error);
}

/* Under mutex, let go meanwhile: the entry is in image and log. What of the log's tail is due with it goes
 * into the file before the epoch can end. */
static void confirm(struct br_tracker *tracker, struct br_epoch *epoch, const struct hrl_entry *entry,
                    const struct br_place *place) {
    uint32_t due = br_log_confirm(&epoch->log, entry, place);
    if (!due)
        return;
    pthread_mutex_unlock(&tracker->mutex);
    int error = epoch->log_error ? 0 : br_log_write(&epoch->log, due);
    while ((error == ENOSPC || error == EDQUOT) && br_spare_drop(tracker))
        error = br_log_write(&epoch->log, due);
    if (error)
        br_log_drop(tracker, epoch, error);
    pthread_mutex_lock(&tracker->mutex);
    br_log_written(&epoch->log, due);
}

/* Log what the image has already, or is about to have under a pending change. */
static void log_entry(struct br_tracker *tracker, struct br_epoch *epoch, struct hrl_entry *entry,
                      const void *data) {
    struct br_place place;
    bool lost = false;
    pthread_mutex_lock(&tracker->mutex);
    br_stamp(tracker, br_stamp_clock());
    int error = reserve(tracker, epoch, entry, &place, &lost);
    pthread_mutex_unlock(&tracker->mutex);
    reserved(tracker, epoch, error, lost);
    if (error)
        return;
    put(tracker, epoch, entry, data, &place);
    pthread_mutex_lock(&tracker->mutex);
    confirm(tracker, epoch, entry, &place);
    pthread_mutex_unlock(&tracker->mutex);
}

static uint32_t piece_of(uint64_t length) {
    return length < data_piece ? (uint32_t)length : data_piece;
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
    for (uint64_t done = 0; done < length && !error && br_logged(epoch);) {
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

/* The image is out of room: spare logs give way, then the log, then the sealed ones, the oldest first. */
static bool made_room(struct br_tracker *tracker, struct br_epoch *epoch, int error) {
    if (error != ENOSPC && error != EDQUOT)
        return false;
    if (br_spare_drop(tracker))
        return true;
    if (!br_logged(epoch))
        return br_drop_sealed_log(tracker);
    br_log_drop(tracker, epoch, error);
    return true;
}

/* A piece of a write; `placed`: in the log, at `place`. */
static int write_piece(struct br_tracker *tracker, struct br_epoch *epoch, const struct hrl_entry *entry,
                       const void *data, const struct br_place *place, bool placed) {
    struct br_file *image = tracker->image;
    if (placed)
        put(tracker, epoch, entry, data, place);
    int error = image->ops->pwrite(image, data, entry->length, entry->offset);
    while (error && made_room(tracker, epoch, error))
        error = image->ops->pwrite(image, data, entry->length, entry->offset);
    if (error)
        br_log_content(tracker, epoch, entry->offset, entry->length);
    return error;
}

/* Under mutex, let go meanwhile: take the range. ERANGE: it is not within the image, as large as that is once
 * the range is ours. */
static int take(struct br_tracker *tracker, struct br_range *range, uint64_t offset, uint64_t length) {
    br_range_enter(&tracker->ranges, range, offset, length);
    if (offset <= tracker->size && length <= tracker->size - offset)
        return 0;
    br_range_leave(&tracker->ranges, range);
    return ERANGE;
}

/* Under mutex, let go while a piece is under way: all pieces of a write, under its range's lock; `entry` is
 * the first one's. */
static int write_all(struct br_tracker *tracker, const char *data, uint64_t length, struct hrl_entry *entry,
                     bool summed) {
    struct br_place place;
    bool lost = false;
    uint64_t begin = entry->offset, done = 0;
    struct br_epoch *epoch = enter(tracker, begin, length, &lost);
    if (br_logged(epoch) && !summed) {
        pthread_mutex_unlock(&tracker->mutex);
        *entry = data_entry(begin, entry->length, data);
        pthread_mutex_lock(&tracker->mutex);
    }
    if (tracker->logging != br_logged(epoch)) /* read by all: stored into only when it changes */
        tracker->logging = br_logged(epoch);
    for (int error = 0;;) {
        int unplaced = reserve(tracker, epoch, entry, &place, &lost);
        pthread_mutex_unlock(&tracker->mutex);
        reserved(tracker, epoch, unplaced, lost);
        error = write_piece(tracker, epoch, entry, data + done, &place, !unplaced);
        done += entry->length;
        pthread_mutex_lock(&tracker->mutex);
        if (!unplaced)
            confirm(tracker, epoch, entry, &place);
        if (error || done == length) {
            leave(tracker, epoch, begin, length);
            return error;
        }
        pthread_mutex_unlock(&tracker->mutex);
        *entry = data_entry(begin + done, piece_of(length - done), data + done); /* of a long write */
        pthread_mutex_lock(&tracker->mutex);
    }
}

/* After a loss of power, too, the stamps should tell how long we wrote: so they go to the disk, without
 * waiting for it. */
static void send_stamps(struct br_tracker *tracker) {
    struct br_file *file = tracker->tracking.file;
    if (!tracker->stamp_moved)
        return;
    tracker->stamp_moved = false;
    int fd = file->ops->fileno(file);
    if (fd >= 0)
        sync_file_range(fd, BR_STAMPS_AT, BR_PAGE, SYNC_FILE_RANGE_WRITE);
}

int br_tracker_pwrite(struct br_tracker *tracker, const void *data, size_t length, uint64_t offset) {
    struct br_range range;
    bool summed = tracker->logging; /* the CRC before any lock, where there is a log to put it into */
    struct hrl_entry entry = {.offset = offset, .length = piece_of(length), .operation = HRL_WRITE};
    if (summed)
        entry = data_entry(offset, entry.length, data);
    pthread_mutex_lock(&tracker->mutex); /* once before the image is written, and once after it */
    int error = take(tracker, &range, offset, length);
    if (!error) {
        error = length ? write_all(tracker, data, length, &entry, summed) : 0;
        br_range_leave(&tracker->ranges, &range);
    }
    pthread_mutex_unlock(&tracker->mutex);
    send_stamps(tracker);
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
    pthread_mutex_lock(&tracker->mutex);
    int error = take(tracker, &range, offset, length);
    pthread_mutex_unlock(&tracker->mutex);
    if (error)
        return error;
    if (length) {
        struct br_change change;
        br_change_begin(tracker, &change, offset, length);
        error = apply(tracker, change.epoch, offset, length);
        br_change_end(tracker, &change);
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
