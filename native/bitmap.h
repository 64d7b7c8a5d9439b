/* Bitmaps: bit i is bit i % 8 (the lowest is 0) of byte i / 8. The caller vouches for the bounds. */
#ifndef BR_BITMAP_H
#define BR_BITMAP_H

#include <stddef.h>
#include <stdint.h>

void br_bitmap_set(uint8_t *bitmap, uint64_t first, uint64_t count);
void br_bitmap_clear(uint8_t *bitmap, uint64_t first, uint64_t count);

/* How many of these bits are set. */
uint64_t br_bitmap_count(const uint8_t *bitmap, uint64_t first, uint64_t count);

/* target |= source, `length` bytes. */
void br_bitmap_merge(uint8_t *target, const uint8_t *source, size_t length);

/* The next run of set bits within [start, limit): 1 and the run, or 0. */
int br_bitmap_next(const uint8_t *bitmap, uint64_t start, uint64_t limit, uint64_t *first, uint64_t *count);

/* All runs within [start, limit) as pairs (first, count) of little-endian u64; returns how many there are.
 * Writes no more than `room` of them, and none where `pairs` is NULL. */
uint64_t br_bitmap_runs(const uint8_t *bitmap, uint64_t start, uint64_t limit, uint8_t *pairs, uint64_t room);

/* Set one bit while other threads set others. */
static inline void br_bitmap_set_shared(uint8_t *bitmap, uint64_t bit) {
    __atomic_fetch_or(&bitmap[bit >> 3], (uint8_t)(1u << (bit & 7)), __ATOMIC_RELAXED);
}

#endif
