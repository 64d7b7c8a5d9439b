/* Hot regions: where an image may have changed since it was last made durable. After a loss of power they,
 * and the dirty bits that had become durable, are all that may differ (correctness.md 2, 3).
 *
 * A region has 4 MiB. On disk, from BR_HOT_AT on, 64 sectors of 512 bytes, each with a CRC of its own:
 *       0   8  session; another one than the state's: the sector says nothing
 *       8  62 * 8  region + 1, 0: none; 2^64 - 1: the whole image
 *     508   4  CRC-32C of bytes 0 to 508; a sector of zeros is one that was never written
 *
 * This is the set in memory, in order of use, and its sectors; tracker_hot.c has the order of things. All
 * calls under the owner's lock.
 */
#ifndef BR_HOT_REGIONS_H
#define BR_HOT_REGIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "tracking_file.h"

enum {
    BR_HOT_SECTOR = 512,
    BR_HOT_SECTORS = BR_HOT_SIZE / BR_HOT_SECTOR,
    BR_HOT_A_SECTOR = 62,
    BR_HOT_MOST = BR_HOT_SECTORS * BR_HOT_A_SECTOR,
    BR_HOT_DEFAULT = 2048,
    BR_HOT_NONE = UINT32_MAX,
};
#define BR_HOT_REGION ((uint64_t)4 << 20)
#define BR_HOT_WHOLE (UINT64_MAX - 1) /* the region that is the whole image */

struct br_hot_slot {
    uint64_t region;
    uint64_t generation; /* durable once the record of that generation is */
    uint32_t older, newer, chain;
    uint32_t in_flight; /* writes */
    bool used, leaving;
};

struct br_hot {
    struct br_hot_slot *slots;
    uint32_t *buckets;
    uint32_t most, used, mask;
    uint32_t oldest, newest; /* ends of the list in order of use */
    uint64_t dirty;          /* sectors to write, a bit each */
};

int br_hot_init(struct br_hot *hot, uint32_t most); /* 0: the default */
void br_hot_free(struct br_hot *hot);

/* The region's slot, BR_HOT_NONE: it is cold. */
uint32_t br_hot_find(const struct br_hot *hot, uint64_t region);
/* A cold region's new slot; used < most. */
uint32_t br_hot_add(struct br_hot *hot, uint64_t region, uint64_t generation);
void br_hot_remove(struct br_hot *hot, uint32_t slot);
/* It is used now. */
void br_hot_touch(struct br_hot *hot, uint32_t slot);

void br_hot_encode(const struct br_hot *hot, uint32_t sector, uint64_t session, uint8_t out[BR_HOT_SECTOR]);
/* Call `each` with the extent of every region that the file has for the state's session, until it returns an
 * error; a whole image is one extent up to what the slots stand for. EBADMSG: they can't be told. */
int br_hot_each(struct br_tracking *tracking, int (*each)(void *context, uint64_t offset, uint64_t length),
                void *context);
/* Mark those in slot `slot`. */
int br_hot_mark(struct br_tracking *tracking, uint32_t slot);

#endif
