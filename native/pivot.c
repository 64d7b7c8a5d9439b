/* What clients do with a disk that is on its way out of its point.
 *
 * A granule is the file's once its bit is set; until then what the file has there means nothing, and the
 * point has it. So a change first sees to it that the file has every granule it touches as a whole: those
 * that it covers in part get the rest from the point, in the same write. Then the bits follow, and then the
 * answer. Killed in between, the granule is the point's as before, which is right: nothing was answered.
 *
 * Whoever changes the file holds the range of whole granules, the copier too, which looks at the bits again
 * once it has it: what it read of the point never lands on what a client wrote. Readers lock nothing: a bit
 * that they see set has its data, and what they read of the point is right as long as the bit was not set
 * when they began.
 */
#include "pivot_parts.h"

#include <errno.h>
#include <string.h>

enum { granule = BR_PIVOT_GRANULE, zero_step = 1 << 16 };

static uint64_t down(uint64_t offset) {
    return offset - offset % granule;
}

static uint8_t bits_at(const struct br_pivot *pivot, uint64_t first) {
    return __atomic_load_n(pivot->bits + first / 8, __ATOMIC_ACQUIRE);
}

bool br_pivot_owned(const struct br_pivot *pivot, uint64_t first, uint64_t count, uint64_t *run) {
    bool result = bits_at(pivot, first) >> first % 8 & 1;
    uint8_t whole = result ? 0xff : 0;
    uint64_t at = first + 1, end = first + count;
    while (at < end) {
        uint8_t bits = bits_at(pivot, at);
        if (at % 8 == 0 && end - at >= 8 && bits == whole)
            at += 8;
        else if ((bits >> at % 8 & 1) == result)
            at++;
        else
            break;
    }
    *run = br_pivot_least(at, end) - first;
    return result;
}

/* The same in bytes, of which the first and the last granule may have fewer. */
static bool owned_bytes(const struct br_pivot *pivot, uint64_t offset, uint64_t length, uint64_t *run) {
    uint64_t first = offset / granule, behind = (offset + length + granule - 1) / granule;
    bool result = br_pivot_owned(pivot, first, behind - first, run);
    *run = br_pivot_least((first + *run) * granule, offset + length) - offset;
    return result;
}

int br_pivot_read_point(struct br_pivot *pivot, void *data, size_t length, uint64_t offset) {
    int error = EAGAIN;
    pthread_rwlock_rdlock(&pivot->point_lock);
    if (pivot->point)
        error = pivot->point->ops->pread(pivot->point, data, length, offset);
    pthread_rwlock_unlock(&pivot->point_lock);
    return error;
}

void br_pivot_release(struct br_pivot *pivot) {
    pthread_rwlock_wrlock(&pivot->point_lock);
    bool had = pivot->point;
    br_file_close(&pivot->point);
    pthread_rwlock_unlock(&pivot->point_lock);
    if (had && pivot->options.released)
        pivot->options.released(pivot->options.context);
}

int br_pivot_pread(struct br_pivot *pivot, void *data, size_t length, uint64_t offset) {
    struct br_file *file = pivot->file;
    int error = 0;
    for (uint8_t *to = data; length && !error;) {
        uint64_t run = length;
        if (pivot->complete || owned_bytes(pivot, offset, length, &run))
            error = file->ops->pread(file, to, (size_t)run, offset);
        else
            error = br_pivot_read_point(pivot, to, (size_t)run, offset);
        if (error == EAGAIN) { /* meanwhile the file has it */
            error = 0;
            continue;
        }
        to += run;
        offset += run;
        length -= (size_t)run;
    }
    return error;
}

/* What is to become of an extent: `data`, or zeros. */
struct change {
    const uint8_t *data;
    uint64_t offset, end;
    bool keep;
};

static int write_zeros(struct br_file *file, uint64_t offset, uint64_t length) {
    static const uint8_t zeros[zero_step];
    int error = 0;
    for (uint64_t some; length && !error; offset += some, length -= some) {
        some = br_pivot_least(length, zero_step);
        error = file->ops->pwrite(file, zeros, (size_t)some, offset);
    }
    return error;
}

static int make_zero(struct br_file *file, uint64_t offset, uint64_t length, bool keep) {
    int error = EOPNOTSUPP;
    if (file->ops->zero_fast)
        error = file->ops->zero_fast(file, offset, length, keep);
    if (error != EOPNOTSUPP)
        return error;
    return keep ? write_zeros(file, offset, length) : file->ops->zero(file, offset, length);
}

static int change_bytes(struct br_pivot *pivot, const struct change *change, uint64_t offset, uint64_t end) {
    struct br_file *file = pivot->file;
    if (offset >= end)
        return 0;
    if (!change->data)
        return make_zero(file, offset, end - offset, change->keep);
    return file->ops->pwrite(file, change->data + (offset - change->offset), (size_t)(end - offset), offset);
}

/* A granule that is changed in part and is the point's as yet: all of it in one write. */
static int change_merged(struct br_pivot *pivot, const struct change *change, uint64_t start) {
    uint8_t whole[granule];
    uint64_t end = br_pivot_least(start + granule, pivot->size);
    uint64_t low = change->offset > start ? change->offset : start, high = br_pivot_least(change->end, end);
    int error = br_pivot_read_point(pivot, whole, (size_t)(end - start), start);
    if (error)
        return error;
    if (change->data)
        memcpy(whole + (low - start), change->data + (low - change->offset), (size_t)(high - low));
    else
        memset(whole + (low - start), 0, (size_t)(high - low));
    return pivot->file->ops->pwrite(pivot->file, whole, (size_t)(end - start), start);
}

/* Whether the granule of `offset` is changed in part only and has to be merged. */
static bool needs_rest(const struct br_pivot *pivot, const struct change *change, uint64_t offset) {
    uint64_t start = down(offset), end = br_pivot_least(start + granule, pivot->size), run;
    if (change->offset <= start && change->end >= end)
        return false;
    return !br_pivot_owned(pivot, start / granule, 1, &run);
}

/* The caller holds the range. */
static int change_whole(struct br_pivot *pivot, const struct change *change) {
    uint64_t start = change->offset, end = change->end, last = down(change->end - 1);
    int error = 0;
    if (needs_rest(pivot, change, start)) {
        error = change_merged(pivot, change, down(start));
        start = br_pivot_least(down(start) + granule, end);
    }
    if (!error && start < end && last >= start && needs_rest(pivot, change, last)) {
        error = change_merged(pivot, change, last);
        end = last;
    }
    if (!error)
        error = change_bytes(pivot, change, start, end);
    if (!error)
        error = br_pivot_own(pivot, change->offset / granule, last / granule + 1 - change->offset / granule);
    return error;
}

static int apply(struct br_pivot *pivot, const struct change *change) {
    struct br_range range;
    if (change->offset == change->end)
        return 0;
    uint64_t start = down(change->offset);
    br_range_lock(&pivot->ranges, &range, start, down(change->end - 1) + granule - start);
    int error = pivot->complete ? change_bytes(pivot, change, change->offset, change->end)
                                : change_whole(pivot, change);
    br_range_unlock(&pivot->ranges, &range);
    return error;
}

int br_pivot_pwrite(struct br_pivot *pivot, const void *data, size_t length, uint64_t offset) {
    return apply(pivot, &(struct change){.data = data, .offset = offset, .end = offset + length});
}

int br_pivot_zero(struct br_pivot *pivot, uint64_t offset, uint64_t length, bool keep) {
    return apply(pivot, &(struct change){.offset = offset, .end = offset + length, .keep = keep});
}

/* A granule in part stays as it is, which a discard may. */
int br_pivot_discard(struct br_pivot *pivot, uint64_t offset, uint64_t length) {
    uint64_t start = down(offset + granule - 1), end = offset + length;
    if (end != pivot->size)
        end = down(end);
    return start < end ? br_pivot_zero(pivot, start, end - start, false) : 0;
}

static int extent_of(struct br_file *file, uint64_t offset, uint64_t length, bool *hole, uint64_t *run) {
    int error = file->ops->extent ? file->ops->extent(file, offset, length, hole, run) : EOPNOTSUPP;
    if (error != EOPNOTSUPP)
        return error;
    *hole = false;
    *run = length;
    return 0;
}

int br_pivot_extent(struct br_pivot *pivot, uint64_t offset, uint64_t length, bool *hole, uint64_t *run) {
    for (;;) {
        uint64_t some = length;
        if (pivot->complete || owned_bytes(pivot, offset, length, &some))
            return extent_of(pivot->file, offset, some, hole, run);
        pthread_rwlock_rdlock(&pivot->point_lock);
        int error = pivot->point ? extent_of(pivot->point, offset, some, hole, run) : EAGAIN;
        pthread_rwlock_unlock(&pivot->point_lock);
        if (error != EAGAIN)
            return error;
    }
}

/* The sectors are gathered first: the data behind their bits was written before, so the sync covers it. */
static int flush_sectors(struct br_pivot *pivot, bool again) {
    struct br_pivot_sectors sectors;
    int error = pivot->complete ? 0 : br_pivot_gather(pivot, &sectors);
    if (error)
        return error;
    error = pivot->file->ops->sync(pivot->file);
    if (error)
        pivot->suspect = true;
    else if (again)
        pivot->suspect = false;
    if (error || again)
        br_pivot_note(pivot); /* whoever comes after us must know; if that fails too, the guest still does */
    if (pivot->complete)
        return error;
    if (!error)
        error = br_pivot_store(pivot, &sectors);
    if (error)
        br_pivot_put_back(pivot, &sectors); /* all are written again before the next sync of theirs */
    else
        br_pivot_forget(&sectors);
    return error;
}

int br_pivot_flush_all(struct br_pivot *pivot, bool again) {
    pthread_mutex_lock(&pivot->flush_lock);
    int error = pivot->suspect && !again ? EIO : flush_sectors(pivot, again);
    pthread_mutex_unlock(&pivot->flush_lock);
    return error;
}

int br_pivot_flush(struct br_pivot *pivot) {
    return br_pivot_flush_all(pivot, false);
}
