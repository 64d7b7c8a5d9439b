/* An fsync of the image failed: what may be lacking on the disk although it reads right.
 *
 * The system calls pages clean whose writing failed. They read as what was written until they are dropped,
 * which may be any moment, and then as what was there before; no fsync brings them to the disk. So neither a
 * log nor a bitmap tells what will differ from a replica, and comparing reads what may be gone tomorrow.
 *
 * What is written again is dirty once more, and the next fsync tells the truth about it. The hot regions of
 * the session in which it failed name all that can be lacking, unless it went on past what their record
 * holds; then it is the whole image, if that is not more than the record may name. Where a process shows the
 * image, its container is written again whole, under the same bound: the format's own data are in no region.
 * That is done before anybody writes the image, so the process has no reason to write meanwhile. What can't
 * be written again stays in doubt until the next boot, which reads from the disk: logs and bitmaps tell what
 * was written, but not what may have become what it was, so every sync compares all of it.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "zero.h"

enum { piece_size = 1 << 20 };

/* Whether there is a hole, and for how many of `step` bytes that is so. */
static bool look(struct br_file *image, uint64_t offset, size_t *step) {
    bool hole;
    uint64_t run;
    if (!image->ops->extent || image->ops->extent(image, offset, *step, &hole, &run) != 0 || !run)
        return false;
    *step = run < *step ? (size_t)run : *step;
    return hole;
}

/* A hole that reads as zeros has nothing that could be lacking. */
static int write_extent(struct br_file *image, uint8_t *piece, uint64_t offset, uint64_t end) {
    int error = 0;
    for (size_t step; offset < end && !error; offset += step) {
        step = end - offset < piece_size ? (size_t)(end - offset) : piece_size;
        bool hole = look(image, offset, &step);
        error = image->ops->pread(image, piece, step, offset);
        if (!error && !(hole && br_is_zero(piece, step)))
            error = image->ops->pwrite(image, piece, step, offset);
    }
    return error;
}

struct again {
    struct br_tracker *tracker;
    uint8_t *piece;
};

static int write_region(void *context, uint64_t offset, uint64_t length) {
    struct again *again = context;
    uint64_t size = again->tracker->size;
    if (offset >= size)
        return 0;
    uint64_t end = length < size - offset ? offset + length : size;
    return write_extent(again->tracker->image, again->piece, offset, end);
}

static int write_container(struct br_file *file, uint8_t *piece, uint64_t most) {
    uint64_t size;
    int error = file->ops->size(file, &size);
    if (!error && size > most)
        error = EFBIG;
    if (!error)
        error = write_extent(file, piece, 0, size);
    return error ? error : file->ops->sync(file);
}

static bool write_again(struct br_tracker *tracker, bool anywhere) {
    uint64_t most = (uint64_t)tracker->hot.most * BR_HOT_REGION;
    struct again again = {tracker, malloc(piece_size)};
    int error = again.piece ? 0 : ENOMEM;
    if (!error && tracker->container.file)
        error = write_container(tracker->container.file, again.piece, most);
    else if (!error && anywhere)
        error = tracker->size > most ? EFBIG : write_region(&again, 0, tracker->size);
    else if (!error)
        error = br_hot_each(&tracker->tracking, write_region, &again);
    free(again.piece);
    return !error;
}

void br_settle_failed(struct br_tracker *tracker, const uint8_t boot[16], bool may_write) {
    static const uint8_t no_boot[16];
    const struct br_state *state = &tracker->tracking.state;
    bool marked = br_marked_whole(tracker); /* it may stand for a state that could not be saved */
    if (!state->failed && !marked)
        return;
    bool here = memcmp(boot, state->boot, 16) == 0 || memcmp(boot, no_boot, 16) == 0 ||
                memcmp(state->boot, no_boot, 16) == 0;
    tracker->doubted = here && !(may_write && write_again(tracker, state->anywhere || marked));
    if (!tracker->doubted)
        tracker->found = BR_FOUND_SUSPECT;
}
