/* The set of hot regions: slots that are places on disk, a hash table with chains, a list in order of use. */
#include "hot_regions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"
#include "zero.h"

enum { regions_at = 8, crc_at = 508 };

int br_hot_init(struct br_hot *hot, uint32_t most) {
    *hot =
        (struct br_hot){.most = most ? most : BR_HOT_DEFAULT, .oldest = BR_HOT_NONE, .newest = BR_HOT_NONE};
    hot->most = hot->most < 4 ? 4 : hot->most > BR_HOT_MOST ? BR_HOT_MOST : hot->most;
    for (hot->mask = 1; hot->mask < 2 * hot->most;)
        hot->mask *= 2;
    hot->slots = calloc(hot->most, sizeof *hot->slots);
    hot->buckets = malloc(hot->mask * sizeof *hot->buckets);
    if (!hot->slots || !hot->buckets)
        return ENOMEM;
    memset(hot->buckets, 0xff, hot->mask * sizeof *hot->buckets); /* BR_HOT_NONE each */
    hot->mask--;
    return 0;
}

void br_hot_free(struct br_hot *hot) {
    free(hot->slots);
    free(hot->buckets);
    hot->slots = NULL;
    hot->buckets = NULL;
}

static uint32_t *bucket_of(const struct br_hot *hot, uint64_t region) {
    return &hot->buckets[(region * 0x9e3779b97f4a7c15u >> 40) & hot->mask];
}

uint32_t br_hot_find(const struct br_hot *hot, uint64_t region) {
    uint32_t slot = *bucket_of(hot, region);
    while (slot != BR_HOT_NONE && hot->slots[slot].region != region)
        slot = hot->slots[slot].chain;
    return slot;
}

static void unlink_slot(struct br_hot *hot, const struct br_hot_slot *slot) {
    *(slot->older == BR_HOT_NONE ? &hot->oldest : &hot->slots[slot->older].newer) = slot->newer;
    *(slot->newer == BR_HOT_NONE ? &hot->newest : &hot->slots[slot->newer].older) = slot->older;
}

static void link_newest(struct br_hot *hot, uint32_t slot) {
    hot->slots[slot].older = hot->newest;
    hot->slots[slot].newer = BR_HOT_NONE;
    *(hot->newest == BR_HOT_NONE ? &hot->oldest : &hot->slots[hot->newest].newer) = slot;
    hot->newest = slot;
}

uint32_t br_hot_add(struct br_hot *hot, uint64_t region, uint64_t generation) {
    uint32_t slot = 0, *bucket = bucket_of(hot, region);
    while (hot->slots[slot].used)
        slot++;
    hot->slots[slot] =
        (struct br_hot_slot){.region = region, .generation = generation, .chain = *bucket, .used = true};
    *bucket = slot;
    link_newest(hot, slot);
    hot->used++;
    hot->dirty |= (uint64_t)1 << slot / BR_HOT_A_SECTOR;
    return slot;
}

void br_hot_remove(struct br_hot *hot, uint32_t slot) {
    uint32_t *place = bucket_of(hot, hot->slots[slot].region);
    while (*place != slot)
        place = &hot->slots[*place].chain;
    *place = hot->slots[slot].chain;
    unlink_slot(hot, &hot->slots[slot]);
    hot->slots[slot].used = false;
    hot->used--;
}

void br_hot_touch(struct br_hot *hot, uint32_t slot) {
    hot->slots[slot].leaving = false;
    if (hot->newest == slot)
        return;
    unlink_slot(hot, &hot->slots[slot]);
    link_newest(hot, slot);
}

void br_hot_encode(const struct br_hot *hot, uint32_t sector, uint64_t session, uint8_t out[BR_HOT_SECTOR]) {
    memset(out, 0, BR_HOT_SECTOR);
    br_put64(out, session);
    for (uint32_t i = 0; i < BR_HOT_A_SECTOR; i++) {
        uint32_t slot = sector * BR_HOT_A_SECTOR + i;
        if (slot < hot->most && hot->slots[slot].used)
            br_put64(out + regions_at + (size_t)i * 8, hot->slots[slot].region + 1);
    }
    br_put32(out + crc_at, br_crc32c(0, out, crc_at));
}

static int tell_region(const struct br_tracking *tracking, uint64_t region,
                       int (*each)(void *context, uint64_t offset, uint64_t length), void *context) {
    uint64_t covered = tracking->state.covered, most = covered / BR_HOT_REGION;
    if (region > most && region != BR_HOT_WHOLE)
        return 0; /* of an image that was larger */
    uint64_t begin = region == BR_HOT_WHOLE ? 0 : region * BR_HOT_REGION;
    uint64_t length = covered - begin;
    if (region != BR_HOT_WHOLE && length > BR_HOT_REGION)
        length = BR_HOT_REGION;
    return length ? each(context, begin, length) : 0;
}

int br_hot_each(struct br_tracking *tracking, int (*each)(void *context, uint64_t offset, uint64_t length),
                void *context) {
    uint8_t bytes[BR_HOT_SECTOR];
    int error = 0;
    for (uint32_t sector = 0; sector < BR_HOT_SECTORS && !error; sector++) {
        error = tracking->file->ops->pread(tracking->file, bytes, sizeof bytes,
                                           BR_HOT_AT + sector * BR_HOT_SECTOR);
        if (error || br_is_zero(bytes, sizeof bytes))
            continue;
        if (br_get32(bytes + crc_at) != br_crc32c(0, bytes, crc_at))
            return EBADMSG;
        if (br_get64(bytes) != tracking->state.session)
            continue;
        for (uint32_t i = 0; i < BR_HOT_A_SECTOR && !error; i++) {
            uint64_t region = br_get64(bytes + regions_at + (size_t)i * 8);
            error = region ? tell_region(tracking, region - 1, each, context) : 0;
        }
    }
    return error;
}

struct marking {
    struct br_tracking *tracking;
    uint32_t slot;
};

static int mark(void *context, uint64_t offset, uint64_t length) {
    const struct marking *marking = context;
    return br_tracking_mark(marking->tracking, marking->slot, offset, length);
}

int br_hot_mark(struct br_tracking *tracking, uint32_t slot) {
    struct marking marking = {tracking, slot};
    return br_hot_each(tracking, mark, &marking);
}
