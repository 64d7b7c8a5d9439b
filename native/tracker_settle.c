/* Settling: deciding what may have happened to the image while nobody tracked it.
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
 * nobody wrote it before the last stamp's own look at it, nor later than a second after that stamp. Where the
 * user said that others change its owner and the like, what ctime tells is left out of all this.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <string.h>

enum { recovered_at = 8, recovered_bit = 0x40 }; /* of a UUID's variant: a random one never has it */
static const int64_t second_ns = 1000000000;
static const uint8_t no_boot[16];

static bool fits_stamps(const struct br_tracking *tracking, const struct br_identity *now) {
    const struct br_state *state = &tracking->state;
    struct br_stamps stamps = br_tracking_stamps(tracking);
    int64_t latest = stamps.clock_ns + second_ns;
    return stamps.session == state->session && now->size == state->size &&
           now->inode == state->identity.inode && now->generation == state->identity.generation &&
           now->mtime_ns >= stamps.mtime_ns && now->mtime_ns <= latest &&
           (state->ignore_ctime || now->ctime_ns <= latest);
}

/* After a loss of power mtime may be older than it was, and the last stamps may not have reached the disk.
 * But a time before the opening is one of a clock that was set back, under which somebody wrote. */
static bool fits_power(const struct br_tracking *tracking, const struct br_identity *now) {
    const struct br_state *state = &tracking->state;
    struct br_stamps stamps = br_tracking_stamps(tracking);
    int64_t latest = stamps.clock_ns + second_ns;
    return stamps.session == state->session && now->size == state->size &&
           now->inode == state->identity.inode && now->generation == state->identity.generation &&
           now->mtime_ns >= state->identity.mtime_ns && now->mtime_ns <= latest &&
           (state->ignore_ctime || (now->ctime_ns >= state->identity.ctime_ns && now->ctime_ns <= latest));
}

/* How the epoch that the state names ended: it goes on where it was closed. */
enum br_found br_judge(const struct br_tracking *tracking, const struct br_identity *now, bool provable,
                       const uint8_t boot[16]) {
    const struct br_state *state = &tracking->state;
    if (!provable || state->suspect || (state->clean && !state->contained && now->size != state->size))
        return BR_FOUND_SUSPECT;
    if (state->clean)
        return br_identity_equal(now, &state->identity, state->ignore_ctime) ? BR_FOUND_CLOSED
                                                                             : BR_FOUND_SUSPECT;
    if (memcmp(boot, no_boot, 16) == 0 || memcmp(state->boot, no_boot, 16) == 0)
        return BR_FOUND_SUSPECT;
    if (memcmp(boot, state->boot, 16) != 0)
        return fits_power(tracking, now) ? BR_FOUND_POWER : BR_FOUND_SUSPECT;
    return fits_stamps(tracking, now) ? BR_FOUND_DIED : BR_FOUND_SUSPECT;
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
    if (head) {
        /* Not the very UUID: if image and tracking were put back together to what they were in this epoch, a
         * target may have the epoch as it really ended, under that one. */
        memcpy(id, head->id, 16);
        id[recovered_at] |= recovered_bit;
    }
    br_epoch_name(tracker, tracking->state.epoch, ".hrl", log);
    br_epoch_name(tracker, tracking->state.epoch, ".dirty", dirty);
    if (slot < 0 || !head || !br_recover_log(tracker, (uint32_t)slot, head, tracking->state.epoch))
        error = folder->ops->unlink(folder, log); /* a cut that was not recorded had got this far */
    if (!error && slot >= 0)
        tracker->found_dirty += tracking->marked[slot] * BR_GRANULE;
    if (!error && slot >= 0)
        error = br_dirty_save(folder, dirty, tracking, (uint32_t)slot, id,
                              tracker->found == BR_FOUND_POWER ? BR_ENDED_BY_POWER : BR_ENDED_BY_DEATH);
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
int br_end_interrupted(struct br_tracker *tracker, const struct br_identity *now) {
    struct br_identity after;
    struct br_file *image = tracker->image;
    int error = tracker->found == BR_FOUND_POWER ? end_power(tracker) : 0;
    if (tracker->found == BR_FOUND_SUSPECT)
        return end_epoch(tracker, -1, NULL);
    if (tracker->found == BR_FOUND_DIED)
        error = end_died(tracker);
    if (!error &&
        (tracker->identity_given || (br_identity_of(image->ops->fileno(image), &after) == 0 &&
                                     br_identity_equal(now, &after, tracker->tracking.state.ignore_ctime))))
        return 0;
    tracker->found = BR_FOUND_SUSPECT; /* somebody writes it while we read */
    return error ? error : end_epoch(tracker, -1, NULL);
}
