/* What the files of the pivot have in common. */
#ifndef BR_PIVOT_PARTS_H
#define BR_PIVOT_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "pivot.h"
#include "rangelock.h"

enum {
    BR_PIVOT_VERSION = 1,
    BR_PIVOT_SECTOR = 512, /* is written whole or not at all */
    BR_PIVOT_SECTOR_BITS = BR_PIVOT_SECTOR - 4,
    BR_PIVOT_HEADER = 4096,
    BR_PIVOT_STEP = 1 << 20,
};

struct br_pivot {
    struct br_pivot_options options;
    uint64_t size, granules, sectors;
    uint8_t uuid[16];
    struct br_folder *folder; /* the caller's */
    struct br_file *file, *state;
    struct br_ranges ranges; /* of the disk, held while the file is changed */
    pthread_mutex_t ranges_lock;

    /* A granule's bit: the file has it. Set under bits_lock, after its data and after its place in `.pivot`;
     * read without. */
    uint8_t *bits;
    pthread_mutex_t bits_lock;
    uint8_t *changed; /* a byte a sector: not durable yet; also of bits_lock */
    _Atomic uint64_t owned, copied, damaged;

    pthread_mutex_t flush_lock;
    _Atomic bool complete, suspect; /* changed under flush_lock */

    pthread_rwlock_t point_lock; /* held shared while the point is read */
    struct br_file *point;       /* NULL: let go of */

    pthread_mutex_t report_lock; /* of the sector in `.pivot` */
    _Atomic int said, error;     /* enum br_pivot_state, and why it waits */

    /* The copier's. */
    uint8_t *buffer;
    uint64_t cursor;     /* granule */
    uint64_t bytes_read; /* of the point */
    uint64_t flushed_at, steps;
    pthread_t thread;
    bool started;
    pthread_mutex_t stop_lock;
    pthread_cond_t stop_cond;
    bool stop; /* of stop_lock */
};

static inline uint64_t br_pivot_least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static inline uint64_t br_pivot_live_room(const struct br_pivot *pivot) {
    return ((pivot->granules + 7) / 8 + BR_PIVOT_HEADER - 1) / BR_PIVOT_HEADER * BR_PIVOT_HEADER;
}

/* pivot_state.c: the file `.pivot`. */

/* What the first sector says, from `uuid` and the options; and whether the one that is read agrees. */
void br_pivot_put_header(const struct br_pivot *pivot, uint8_t out[BR_PIVOT_SECTOR]);
int br_pivot_take_header(struct br_pivot *pivot, struct br_trouble *trouble);
/* The second sector: how it stands. */
int br_pivot_note(struct br_pivot *pivot);
/* Also whether memory was kept since. */
int br_pivot_take_note(struct br_pivot *pivot, bool *same_boot);
/* Bring the bits into memory, of what is in `.pivot` alone after a loss of memory. */
int br_pivot_load(struct br_pivot *pivot, bool same_boot, struct br_trouble *trouble);
/* Where the file has all of [first, first + count) granules: say so. */
int br_pivot_own(struct br_pivot *pivot, uint64_t first, uint64_t count);
/* The sectors that changed, made durable in two steps: the caller syncs the file in between. */
struct br_pivot_sectors {
    uint8_t *content; /* a sector each */
    uint64_t *number;
    size_t count;
};
int br_pivot_gather(struct br_pivot *pivot, struct br_pivot_sectors *sectors);
int br_pivot_store(struct br_pivot *pivot, const struct br_pivot_sectors *sectors);
/* They are not durable after all. Frees them, as `br_pivot_forget` does. */
void br_pivot_put_back(struct br_pivot *pivot, struct br_pivot_sectors *sectors);
void br_pivot_forget(struct br_pivot_sectors *sectors);

/* pivot.c */

/* Whether the file has granule `first`, and for how many of `count` that holds. */
bool br_pivot_owned(const struct br_pivot *pivot, uint64_t first, uint64_t count, uint64_t *run);
/* EAGAIN: the point was let go of, so the file has all. */
int br_pivot_read_point(struct br_pivot *pivot, void *data, size_t length, uint64_t offset);
void br_pivot_release(struct br_pivot *pivot);
/* br_pivot_flush, but `again` when the whole file was written again since it became suspect. */
int br_pivot_flush_all(struct br_pivot *pivot, bool again);

/* pivot_thread.c: write all that the file has once more, after a sync that failed. */
int br_pivot_rewrite(struct br_pivot *pivot);

#endif
