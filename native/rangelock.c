/* Range locks: a list in order of arrival, exact extents.
 *
 * Each range counts the overlapping ones in front of it, whether those hold or wait; it holds once that count
 * is zero. So overlapping writes are served in the order they came, nobody starves, and a lock of the whole
 * image (for a resize) is nothing special. The list is as long as there are writes in flight, a few dozen; it
 * is walked once at either end. A condition variable exists only while its range waits.
 */
#include "rangelock.h"

void br_short_mutex_init(pthread_mutex_t *mutex) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(mutex, &kind);
    pthread_mutexattr_destroy(&kind);
}

void br_ranges_init(struct br_ranges *ranges, pthread_mutex_t *mutex) {
    *ranges = (struct br_ranges){.mutex = mutex};
}

static int overlap(const struct br_range *a, const struct br_range *b) {
    return a->start < b->end && b->start < a->end;
}

static void append(struct br_ranges *ranges, struct br_range *range) {
    range->next = NULL;
    range->previous = ranges->last;
    *(ranges->last ? &ranges->last->next : &ranges->first) = range;
    ranges->last = range;
}

static void wait(struct br_ranges *ranges, struct br_range *range) {
    pthread_cond_t wake;
    pthread_cond_init(&wake, NULL);
    range->wake = &wake;
    while (range->blockers)
        pthread_cond_wait(&wake, ranges->mutex);
    range->wake = NULL;
    pthread_cond_destroy(&wake);
}

void br_range_enter(struct br_ranges *ranges, struct br_range *range, uint64_t offset, uint64_t length) {
    *range = (struct br_range){
        .start = offset,
        .end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length,
    };
    for (const struct br_range *other = ranges->first; other; other = other->next)
        range->blockers += (unsigned)overlap(other, range);
    append(ranges, range);
    if (range->blockers)
        wait(ranges, range);
}

void br_range_leave(struct br_ranges *ranges, struct br_range *range) {
    for (struct br_range *later = range->next; later; later = later->next)
        if (overlap(later, range) && --later->blockers == 0)
            pthread_cond_signal(later->wake);
    *(range->previous ? &range->previous->next : &ranges->first) = range->next;
    *(range->next ? &range->next->previous : &ranges->last) = range->previous;
}

void br_range_lock(struct br_ranges *ranges, struct br_range *range, uint64_t offset, uint64_t length) {
    pthread_mutex_lock(ranges->mutex);
    br_range_enter(ranges, range, offset, length);
    pthread_mutex_unlock(ranges->mutex);
}

void br_range_unlock(struct br_ranges *ranges, struct br_range *range) {
    pthread_mutex_lock(ranges->mutex);
    br_range_leave(ranges, range);
    pthread_mutex_unlock(ranges->mutex);
}
