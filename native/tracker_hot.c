/* Hot regions: durable before the first write into them, and only then forgotten when the image is durable.
 *
 * A write pins the regions that it touches. Cold ones get a slot, and the record with them is made durable
 * before the write goes on: by one of the writers that wait, for all of them (group commit); writes into hot
 * regions pass meanwhile. When there is no slot, those used longest ago leave, an eighth of all at a time: an
 * fdatasync of the image that was begun after their last write, then one of the tracking file for their bits.
 * A region that is written meanwhile stays. Slots are taken for all regions of a write at once, so that two
 * writes never wait for each other's.
 *
 * A write over more regions than half of the slots makes one of their own hot, which is the whole image.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <stdlib.h>

enum { ahead = 15 }; /* regions */

struct regions {
    uint64_t first, count;
};

static struct regions regions_of(const struct br_tracker *tracker, uint64_t offset, uint64_t length) {
    uint64_t first = offset / BR_HOT_REGION, last = (offset + length - 1) / BR_HOT_REGION;
    if (last - first + 1 > tracker->hot.most / 2)
        return (struct regions){BR_HOT_WHOLE, 1};
    return (struct regions){first, last - first + 1};
}

/* Under mutex, let go meanwhile: make the record as it is now durable. */
static void sync_record(struct br_tracker *tracker) {
    struct br_hot *hot = &tracker->hot;
    struct br_file *file = tracker->tracking.file;
    uint8_t(*bytes)[BR_HOT_SECTOR] = tracker->hot_sectors;
    uint64_t generation = tracker->hot_made++, dirty = hot->dirty;
    int error = 0;
    tracker->hot_syncing = true;
    tracker->hot_syncs++;
    hot->dirty = 0;
    for (uint32_t sector = 0; sector < BR_HOT_SECTORS; sector++)
        if (dirty >> sector & 1)
            br_hot_encode(hot, sector, tracker->session, bytes[sector]);
    pthread_mutex_unlock(&tracker->mutex);
    for (uint32_t sector = 0; sector < BR_HOT_SECTORS && !error; sector++)
        if (dirty >> sector & 1)
            error = file->ops->pwrite(file, bytes[sector], BR_HOT_SECTOR, BR_HOT_AT + sector * BR_HOT_SECTOR);
    if (!error)
        error = file->ops->sync(file);
    if (error)
        br_mark_whole(tracker);
    pthread_mutex_lock(&tracker->mutex);
    tracker->hot_syncing = false;
    tracker->hot_off |= error != 0;
    tracker->hot_durable = generation;
    pthread_cond_broadcast(&tracker->hot_changed);
}

/* The regions used longest ago that nobody writes are to leave; false: there are none. */
static bool choose(struct br_tracker *tracker, uint64_t wanted) {
    struct br_hot *hot = &tracker->hot;
    uint64_t most = hot->most / 8 > wanted ? hot->most / 8 : wanted, chosen = 0;
    for (uint32_t at = hot->oldest; at != BR_HOT_NONE && chosen < most; at = hot->slots[at].newer)
        if (!hot->slots[at].in_flight) {
            hot->slots[at].leaving = true;
            chosen++;
        }
    return chosen > 0;
}

static void remove_leaving(struct br_hot *hot) {
    for (uint32_t at = hot->oldest, next; at != BR_HOT_NONE; at = next) {
        next = hot->slots[at].newer;
        if (hot->slots[at].leaving)
            br_hot_remove(hot, at);
    }
}

/* Under mutex, let go meanwhile: get free slots, or wait till there may be. */
static void make_room(struct br_tracker *tracker, uint64_t wanted) {
    struct br_file *file = tracker->tracking.file;
    if (tracker->hot_evicting || !choose(tracker, wanted)) {
        tracker->hot_waiting++;
        pthread_cond_wait(&tracker->hot_changed, &tracker->mutex);
        tracker->hot_waiting--;
        return;
    }
    tracker->hot_evicting = true;
    tracker->hot_syncs += 2;
    pthread_mutex_unlock(&tracker->mutex);
    bool failed = br_tracker_flush(tracker) != 0 || file->ops->sync(file) != 0;
    if (failed)
        br_mark_whole(tracker); /* what is written from now on gets no region of its own */
    pthread_mutex_lock(&tracker->mutex);
    tracker->hot_evicting = false;
    if (failed)
        tracker->hot_off = true;
    else
        remove_leaving(&tracker->hot);
    pthread_cond_broadcast(&tracker->hot_changed);
}

static uint64_t missing(const struct br_hot *hot, struct regions regions) {
    uint64_t count = 0;
    for (uint64_t i = 0; i < regions.count; i++)
        count += br_hot_find(hot, regions.first + i) == BR_HOT_NONE;
    return count;
}

/* A region was made hot behind one that is: whoever writes on finds the next ones hot, too, and waits for one
 * fsync where there would have been several. Only free slots are taken for that. */
static void look_ahead(struct br_tracker *tracker, uint64_t region) {
    struct br_hot *hot = &tracker->hot;
    uint64_t end = (tracker->size + BR_HOT_REGION - 1) / BR_HOT_REGION;
    if (region == BR_HOT_WHOLE || region == 0 || br_hot_find(hot, region - 1) == BR_HOT_NONE)
        return;
    for (uint64_t next = region + 1; next <= region + ahead && next < end && hot->used < hot->most; next++)
        if (br_hot_find(hot, next) == BR_HOT_NONE) {
            br_hot_add(hot, next, tracker->hot_made);
            tracker->activations++;
        }
}

void br_hot_enter(struct br_tracker *tracker, uint64_t offset, uint64_t length) {
    struct br_hot *hot = &tracker->hot;
    struct regions regions = regions_of(tracker, offset, length);
    uint64_t needed = 0, cold, added = BR_HOT_WHOLE;
    while (!tracker->hot_off && (cold = missing(hot, regions)) > hot->most - hot->used)
        make_room(tracker, cold);
    for (uint64_t i = 0; i < regions.count && !tracker->hot_off; i++) {
        uint32_t slot = br_hot_find(hot, regions.first + i);
        if (slot == BR_HOT_NONE) {
            slot = br_hot_add(hot, regions.first + i, tracker->hot_made);
            tracker->activations++;
            added = regions.first + i;
        }
        br_hot_touch(hot, slot);
        hot->slots[slot].in_flight++;
        needed = hot->slots[slot].generation > needed ? hot->slots[slot].generation : needed;
    }
    if (!tracker->hot_off)
        look_ahead(tracker, added);
    while (!tracker->hot_off && needed > tracker->hot_durable)
        if (tracker->hot_syncing)
            pthread_cond_wait(&tracker->hot_changed, &tracker->mutex);
        else
            sync_record(tracker);
}

void br_hot_leave(struct br_tracker *tracker, uint64_t offset, uint64_t length) {
    struct br_hot *hot = &tracker->hot;
    struct regions regions = regions_of(tracker, offset, length);
    for (uint64_t i = 0; i < regions.count && !tracker->hot_off; i++)
        hot->slots[br_hot_find(hot, regions.first + i)].in_flight--;
    if (tracker->hot_waiting)
        pthread_cond_broadcast(&tracker->hot_changed);
}
