/* The copier: brings over what the file has not, in order of the disk, and says when nothing is left.
 *
 * The point never changes, so it is read without a lock; a range is held only to write, and what a client
 * wrote meanwhile is left out. A part of the point that is damaged is passed by, unit by unit, and stays the
 * point's: nobody is handed rot, and a repair of the replica, or a client that writes it anew, still heals
 * it. Zeros are not written, so the file is as sparse as the point, or sparser.
 *
 * Now and then all is made durable, so that a power cut takes little of the work away.
 */
#include "pivot_parts.h"

#include <errno.h>
#include <string.h>

#include "zero.h"

enum { granule = BR_PIVOT_GRANULE, hole_step = 1 << 30, flush_bytes = 64 << 20, flush_steps = 1024 };

/* An extent of whole granules, and what the point has there (NULL: zeros). */
struct part {
    const uint8_t *data;
    uint64_t start, end;
};

/* Zeros where the file may have what means nothing. */
static int clear(struct br_pivot *pivot, uint64_t start, uint64_t end) {
    const struct br_file_ops *ops = pivot->file->ops;
    bool hole = false;
    uint64_t run = 0;
    int error = ops->extent ? ops->extent(pivot->file, start, end - start, &hole, &run) : 0;
    if (!error && hole && run >= end - start)
        return 0;
    return ops->zero(pivot->file, start, end - start);
}

static int put_data(struct br_pivot *pivot, const struct part *part) {
    int error = 0;
    for (uint64_t at = part->start, run; at < part->end && !error; at += run) {
        bool zero = false;
        for (run = 0; at + run < part->end;) {
            uint64_t some = br_pivot_least(granule, part->end - at - run);
            bool is_zero = br_is_zero(part->data + (at + run - part->start), (size_t)some);
            if (run && is_zero != zero)
                break;
            zero = is_zero;
            run += some;
        }
        if (zero)
            error = clear(pivot, at, at + run);
        else
            error = pivot->file->ops->pwrite(pivot->file, part->data + (at - part->start), (size_t)run, at);
    }
    return error;
}

/* Give the file what it has not of the part. */
static int put(struct br_pivot *pivot, const struct part *part) {
    struct br_range range;
    int error = 0;
    uint64_t behind = (part->end + granule - 1) / granule, run;
    br_range_lock(&pivot->ranges, &range, part->start, part->end - part->start);
    for (uint64_t at = part->start / granule; at < behind && !error; at += run) {
        if (br_pivot_owned(pivot, at, behind - at, &run))
            continue;
        struct part missing = {NULL, at * granule, br_pivot_least((at + run) * granule, part->end)};
        if (part->data)
            missing.data = part->data + (missing.start - part->start);
        error = part->data ? put_data(pivot, &missing) : clear(pivot, missing.start, missing.end);
        if (!error)
            error = br_pivot_own(pivot, at, run);
        if (!error)
            pivot->copied += missing.end - missing.start;
    }
    br_range_unlock(&pivot->ranges, &range);
    return error;
}

static int copy_data(struct br_pivot *pivot, uint64_t start, uint64_t end) {
    int error = br_pivot_read_point(pivot, pivot->buffer, (size_t)(end - start), start);
    pivot->bytes_read += end - start;
    return error ? error : put(pivot, &(struct part){pivot->buffer, start, end});
}

/* Something of it is damaged: unit by unit, to get the rest. */
static int copy_units(struct br_pivot *pivot, uint64_t start, uint64_t end) {
    int error = 0;
    for (uint64_t at = start, behind; at < end && !error; at = behind) {
        behind = br_pivot_least(at - at % pivot->options.unit + pivot->options.unit, end);
        error = br_pivot_read_point(pivot, pivot->buffer, (size_t)(behind - at), at);
        pivot->bytes_read += behind - at;
        if (!error)
            error = put(pivot, &(struct part){pivot->buffer, at, behind});
        else if (error == EIO)
            error = 0;
    }
    return error;
}

static int look_at_point(struct br_pivot *pivot, uint64_t start, uint64_t length, bool *hole, uint64_t *run) {
    int error = EOPNOTSUPP;
    pthread_rwlock_rdlock(&pivot->point_lock);
    if (pivot->point && pivot->point->ops->extent)
        error = pivot->point->ops->extent(pivot->point, start, length, hole, run);
    pthread_rwlock_unlock(&pivot->point_lock);
    if (error != EOPNOTSUPP && error != EIO)
        return error;
    *hole = false; /* reading it says what is damaged */
    *run = length;
    return 0;
}

/* How far the point is a hole from `start` on. A long way is looked only where it pays. */
static int find_hole(struct br_pivot *pivot, uint64_t start, uint64_t end, uint64_t *behind) {
    uint64_t step = br_pivot_least(BR_PIVOT_STEP, end - start), run;
    bool hole;
    int error = look_at_point(pivot, start, step, &hole, &run);
    if (!error && hole && run >= step && step < end - start)
        error = look_at_point(pivot, start, end - start, &hole, &run);
    *behind = hole && !error ? start + run : start;
    if (*behind != pivot->size)
        *behind -= *behind % granule;
    return error;
}

/* Some of the extent, which the file has not. */
static int copy_some(struct br_pivot *pivot, uint64_t start, uint64_t end) {
    uint64_t behind;
    int error = find_hole(pivot, start, end, &behind);
    if (error)
        return error;
    if (behind > start) {
        error = put(pivot, &(struct part){NULL, start, behind});
    } else {
        behind = br_pivot_least(start - start % BR_PIVOT_STEP + BR_PIVOT_STEP, end);
        error = copy_data(pivot, start, behind);
        if (error == EIO)
            error = copy_units(pivot, start, behind);
    }
    if (!error)
        pivot->cursor = (behind + granule - 1) / granule;
    return error;
}

/* The order matters: the data, the bits, that it is complete, and only then the point is let go of. */
static int complete(struct br_pivot *pivot) {
    int error = br_pivot_flush(pivot), said = pivot->said;
    if (error)
        return error;
    pivot->damaged = 0;
    pivot->error = 0;
    pivot->said = BR_PIVOT_COMPLETE;
    error = br_pivot_note(pivot);
    if (!error)
        error = pivot->state->ops->sync(pivot->state);
    if (error) {
        pivot->said = said;
        return error;
    }
    pthread_mutex_lock(&pivot->flush_lock);
    pivot->complete = true;
    pthread_mutex_unlock(&pivot->flush_lock);
    br_pivot_release(pivot);
    pivot->state->ops->truncate(pivot->state, BR_PIVOT_HEADER); /* the bits say nothing any more */
    return 0;
}

/* The end of a pass: complete, unless something was damaged. */
static int finish(struct br_pivot *pivot, enum br_pivot_did *did) {
    uint64_t run;
    bool all =
        !pivot->granules || (br_pivot_owned(pivot, 0, pivot->granules, &run) && run == pivot->granules);
    if (all) {
        int error = complete(pivot);
        if (!error)
            *did = BR_PIVOT_DONE;
        return error;
    }
    pivot->cursor = 0;
    pivot->damaged = pivot->size - pivot->owned;
    *did = BR_PIVOT_PASSED;
    return br_pivot_flush(pivot);
}

static int checkpoint(struct br_pivot *pivot) {
    pivot->steps++;
    if (pivot->bytes_read - pivot->flushed_at < flush_bytes && pivot->steps < flush_steps)
        return 0;
    pivot->flushed_at = pivot->bytes_read;
    pivot->steps = 0;
    return br_pivot_flush(pivot);
}

int br_pivot_step(struct br_pivot *pivot, enum br_pivot_did *did) {
    uint64_t run = 0, most = 0;
    *did = BR_PIVOT_COPIED;
    if (pivot->complete) {
        *did = BR_PIVOT_DONE;
        return 0;
    }
    bool owned = true;
    for (; owned && pivot->cursor < pivot->granules; pivot->cursor += owned ? run : 0) {
        most = br_pivot_least(pivot->granules - pivot->cursor, hole_step / granule);
        owned = br_pivot_owned(pivot, pivot->cursor, most, &run);
    }
    if (pivot->cursor >= pivot->granules)
        return finish(pivot, did);
    uint64_t start = pivot->cursor * granule;
    int error = copy_some(pivot, start, br_pivot_least(start + run * granule, pivot->size));
    return error ? error : checkpoint(pivot);
}
