/* The tracking file: who an image is, which epoch is being written, and what that epoch made dirty.
 *
 *     state (512 bytes, one sector) ... | stamps (at 4096) | open records of slots A and B (at 8192,
 *     open_record.h) | hot regions (at 155648, hot_regions.h) | the ends of the open logs of A and B (at
 *     188416, log_tail.h) | bits of A and B, page by page in turn (at 2285568)
 *
 * The state is written rarely and durably, as one sector. The stamps, the open records and the two bitmaps
 * are stored into a shared mapping as writes go on: that survives the death of the process, not of the
 * machine. A bit stands for one granule; page n of slot s stands at 2285568 + (2n + s) * 4096, so that an
 * image can grow without moving a bit.
 *
 * state, little-endian:
 *       0   8  magic "brtrack" and a zero          88   4  pid of who holds it
 *       8   4  version, 3                          92   4  flags: 1 clean, 2 suspect,
 *                                                      4 log in transit only,
 *                                                      8 identity of a container
 *                                                     16 an fsync failed, 32 anywhere,
 *                                                     64 ctime proves nothing
 *      12   4  granule, 65536                      96   4  slot of the epoch being written
 *      16  16  tracking UUID                      100   4  zero
 *      32   8  epoch being written                104  40  identity at clean close: inode, size, mtime and
 *      40   8  size of the image                           ctime in ns, inode generation
 *      48   8  covered: bytes that the slots      144   8  time of the last cut, ns since 1970
 *               stand for, at least the size
 *      56  16  UUID of the last ended epoch       152   8  session: random, new at every open
 *      72  16  boot id                            508   4  CRC-32C of bytes 0 to 508
 * What is not named is zero. stamps, at 4096 and at 4608, three u64: session, wall clock in ns, mtime of the
 * image just before that; two, so that an open leaves those of the session before till the state is saved.
 */
#ifndef BR_TRACKING_FILE_H
#define BR_TRACKING_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "identity.h"
#include "ops.h"

enum {
    BR_GRANULE = 1 << 16,
    BR_PAGE = 4096,
    BR_PAGE_BITS = BR_PAGE * 8,
    BR_TRACKING_VERSION = 3,
    BR_STAMPS_AT = 4096,
    BR_RECORDS_AT = 8192, /* each slot's open record */
    BR_RECORD_SIZE = 18 * BR_PAGE,
    BR_HOT_AT = BR_RECORDS_AT + 2 * BR_RECORD_SIZE,
    BR_HOT_SIZE = 8 * BR_PAGE,
    BR_TAILS_AT = BR_HOT_AT + BR_HOT_SIZE, /* each slot's end of the log */
    BR_TAIL_SIZE = 256 * BR_PAGE,
    BR_SLOTS_AT = BR_TAILS_AT + 2 * BR_TAIL_SIZE,
};

struct br_state {
    uint8_t tracking_id[16];
    uint64_t epoch;
    uint64_t size, covered;
    uint8_t chain[16];
    uint8_t boot[16];
    uint32_t pid;
    bool clean;     /* closed in order; `identity` holds */
    bool transit;   /* an epoch that no cut began has no log */
    bool contained; /* the identity is that of a file whose content another process shows as the image */
    bool suspect;   /* nothing that the slots say may be trusted: the whole image may have changed */
    bool failed;    /* in boot `boot` an fsync of the image failed: what it reads as may not be on the disk */
    bool anywhere;  /* then: not only in the hot regions of the session */
    bool ignore_ctime; /* a ctime that alone changed does not make the image suspect */
    uint32_t slot;
    struct br_identity identity;
    int64_t cut_ns;
    uint64_t session;
};

struct br_tracking {
    struct br_file *file;
    struct br_state state;
    uint8_t *base;   /* the file's bytes: mapped, or a copy that is written through */
    uint64_t length; /* of base */
    bool mapped;
    uint64_t marked[2]; /* dirty granules of each slot */
};

/* What br_tracking_load found. */
enum br_loaded { BR_LOADED, BR_EMPTY, BR_DAMAGED, BR_NEWER };

/* Read the state. `version` is what the file says. 0 or errno. */
int br_tracking_load(struct br_tracking *tracking, enum br_loaded *loaded, uint32_t *version);
/* Make the state durable. */
int br_tracking_save(struct br_tracking *tracking);

/* Have slots for `covered` bytes; bits stay. After it the functions below may be called. */
int br_tracking_cover(struct br_tracking *tracking, uint64_t covered);
void br_tracking_close(struct br_tracking *tracking);

/* Have what was stored into `base` stand in the file, where that is not mapped. */
int br_tracking_write_through(struct br_tracking *tracking, uint64_t at, uint64_t length);

/* Mark an extent (length > 0, within `covered`) dirty. An error means that the bits are set in memory alone.
 */
int br_tracking_mark(struct br_tracking *tracking, uint32_t slot, uint64_t offset, uint64_t length);
int br_tracking_merge(struct br_tracking *tracking, uint32_t into, uint32_t from);
int br_tracking_clear(struct br_tracking *tracking, uint32_t slot);

uint64_t br_tracking_granules(const struct br_tracking *tracking);
uint64_t br_tracking_pages(const struct br_tracking *tracking); /* of one slot */
const uint8_t *br_tracking_page(const struct br_tracking *tracking, uint32_t slot, uint64_t page);

struct br_stamps {
    uint64_t session; /* another one than the state's: they say nothing */
    int64_t clock_ns, mtime_ns;
};
int br_tracking_stamp(struct br_tracking *tracking, struct br_stamps stamps);
struct br_stamps br_tracking_stamps(const struct br_tracking *tracking);

#endif
