/* Locks on extents of an image: two that overlap exclude each other, all others pass, in order of arrival. */
#ifndef BR_RANGELOCK_H
#define BR_RANGELOCK_H

#include <pthread.h>
#include <stdint.h>

/* One held or awaited extent; lives in the caller's stack frame from br_range_lock to br_range_unlock. */
struct br_range {
    uint64_t start, end; /* half-open */
    struct br_range *next, *previous;
    unsigned blockers; /* overlapping ranges that came before this one and are still there */
    pthread_cond_t *wake;
};

struct br_ranges {
    pthread_mutex_t *mutex;        /* the owner's, who may have more under it */
    struct br_range *first, *last; /* in order of arrival */
};

/* A mutex that is held for a moment only: whoever finds it taken looks again before going to sleep. */
void br_short_mutex_init(pthread_mutex_t *mutex);

void br_ranges_init(struct br_ranges *ranges, pthread_mutex_t *mutex);

/* Wait till no range that came earlier overlaps `length` bytes at `offset`. A length that reaches past 2^64
 * means up to the end. */
void br_range_lock(struct br_ranges *ranges, struct br_range *range, uint64_t offset, uint64_t length);
void br_range_unlock(struct br_ranges *ranges, struct br_range *range);
/* The same for who has the mutex; `enter` lets go of it while it waits. */
void br_range_enter(struct br_ranges *ranges, struct br_range *range, uint64_t offset, uint64_t length);
void br_range_leave(struct br_ranges *ranges, struct br_range *range);

#endif
