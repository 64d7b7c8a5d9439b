/* Sixty-four bits at a time, from byte addresses, so that a bitmap may lie anywhere in a mapped file. */
#include "bitmap.h"

#include <string.h>

#include "bytes.h"

/* Bits first .. first + count - 1 of one byte; first < 8, first + count <= 8. */
static inline uint8_t mask(uint64_t first, uint64_t count) {
    return (uint8_t)(((1u << count) - 1) << first);
}

/* Cut a run into the bits of its first byte, whole bytes, and the bits of its last byte. */
struct parts {
    uint64_t byte, whole;
    uint8_t head, tail;
};

static struct parts cut(uint64_t first, uint64_t count) {
    struct parts parts = {first >> 3, 0, 0, 0};
    uint64_t skip = first & 7, head = 8 - skip < count ? 8 - skip : count;
    parts.head = mask(skip, head);
    parts.whole = (count - head) >> 3;
    parts.tail = mask(0, (count - head) & 7);
    return parts;
}

void br_bitmap_set(uint8_t *bitmap, uint64_t first, uint64_t count) {
    if (count == 0)
        return;
    struct parts parts = cut(first, count);
    bitmap[parts.byte] |= parts.head;
    memset(bitmap + parts.byte + 1, 0xff, parts.whole);
    if (parts.tail)
        bitmap[parts.byte + 1 + parts.whole] |= parts.tail;
}

void br_bitmap_clear(uint8_t *bitmap, uint64_t first, uint64_t count) {
    if (count == 0)
        return;
    struct parts parts = cut(first, count);
    bitmap[parts.byte] &= (uint8_t)~parts.head;
    memset(bitmap + parts.byte + 1, 0, parts.whole);
    if (parts.tail)
        bitmap[parts.byte + 1 + parts.whole] &= (uint8_t)~parts.tail;
}

uint64_t br_bitmap_count(const uint8_t *bitmap, uint64_t first, uint64_t count) {
    if (count == 0)
        return 0;
    struct parts parts = cut(first, count);
    uint64_t total = (uint64_t)__builtin_popcount(bitmap[parts.byte] & parts.head);
    const uint8_t *at = bitmap + parts.byte + 1, *end = at + parts.whole;
    for (; end - at >= 8; at += 8)
        total += (uint64_t)__builtin_popcountll(br_get64(at));
    for (; at < end; at++)
        total += (uint64_t)__builtin_popcount(*at);
    if (parts.tail)
        total += (uint64_t)__builtin_popcount(*end & parts.tail);
    return total;
}

void br_bitmap_merge(uint8_t *target, const uint8_t *source, size_t length) {
    for (size_t index = 0; index < length; index++)
        target[index] |= source[index];
}

/* The first bit at or behind `at` that is set (flip = 0) or clear (flip = ~0), or `limit`. */
static uint64_t find(const uint8_t *bitmap, uint64_t at, uint64_t limit, uint64_t flip) {
    uint64_t bytes = (limit >> 3) + ((limit & 7) != 0);
    while (at < limit) {
        uint64_t byte = at >> 3, word = 0;
        if (bytes - byte >= 8)
            word = br_get64(bitmap + byte);
        else
            for (uint64_t index = byte; index < bytes; index++)
                word |= (uint64_t)bitmap[index] << 8 * (index - byte);
        word = (word ^ flip) >> (at & 7);
        if (word) {
            at += (uint64_t)__builtin_ctzll(word);
            return at < limit ? at : limit;
        }
        at = byte + 8 < bytes ? (byte + 8) << 3 : limit;
    }
    return limit;
}

int br_bitmap_next(const uint8_t *bitmap, uint64_t start, uint64_t limit, uint64_t *first, uint64_t *count) {
    *first = find(bitmap, start, limit, 0);
    if (*first >= limit)
        return 0;
    *count = find(bitmap, *first, limit, ~(uint64_t)0) - *first;
    return 1;
}

uint64_t br_bitmap_runs(const uint8_t *bitmap, uint64_t start, uint64_t limit, uint8_t *pairs,
                        uint64_t room) {
    uint64_t runs = 0, first, count;
    for (; br_bitmap_next(bitmap, start, limit, &first, &count); start = first + count, runs++) {
        if (!pairs || runs >= room)
            continue;
        br_put64(pairs + 16 * runs, first);
        br_put64(pairs + 16 * runs + 8, count);
    }
    return runs;
}
