/* An fsync of the image failed: what may be lacking on the disk although it reads right.
 *
 * The system calls pages clean whose writing failed. They read as what was written until they are dropped,
 * which may be any moment, and then as what was there before; no fsync brings them to the disk. So neither a
 * log nor a bitmap tells what will differ from a replica, and comparing reads what may be gone tomorrow.
 *
 * What is written again is dirty once more, and the next fsync tells the truth about it. The hot regions of
 * the session in which it failed name all that can be lacking, unless it went on past what their record
 * holds; then it is the whole image, if that is not more than the record may name. What can't be written
 * again stays in doubt until the next boot, which reads from the disk: logs and bitmaps tell what was
 * written, but not what may have become what it was, so every sync compares all of it.
 */
#include "tracker_parts.h"

#include <stdlib.h>
#include <string.h>

#include "zero.h"

enum { piece_size = 1 << 20 };

/* A hole that reads as zeros has nothing that could be lacking. */
static bool is_hole(struct br_file *image, uint64_t offset, uint64_t length) {
    bool hole;
    uint64_t run;
    return image->ops->extent && image->ops->extent(image, offset, length, &hole, &run) == 0 && hole &&
           run >= length;
}

static int write_extent(struct br_file *image, uint8_t *piece, uint64_t offset, uint64_t end) {
    int error = 0;
    for (size_t step; offset < end && !error; offset += step) {
        step = end - offset < piece_size ? (size_t)(end - offset) : piece_size;
        error = image->ops->pread(image, piece, step, offset);
        if (!error && !(br_is_zero(piece, step) && is_hole(image, offset, step)))
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

static bool write_again(struct br_tracker *tracker, bool anywhere) {
    if (tracker->container.file || (anywhere && tracker->size > (uint64_t)tracker->hot.most * BR_HOT_REGION))
        return false; /* a daemon's own data about its format may be what is lacking */
    struct again again = {tracker, malloc(piece_size)};
    bool done = again.piece && (anywhere ? write_region(&again, 0, tracker->size)
                                         : br_hot_each(&tracker->tracking, write_region, &again)) == 0;
    free(again.piece);
    return done;
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
