/* What tests of the pivot share: a point made up, a client that does this and that, and a model of what the
 * file must hold, or may after a power cut. */
#ifndef BR_TESTS_PIVOTS_H
#define BR_TESTS_PIVOTS_H

#include "../pivot.h"

#include <stdatomic.h>
#include <unistd.h>

#include "power.h"

enum {
    granules = 37,
    size = granules * 4096 + 1000, /* the last granule is short */
    unit = 8192,
    rounds = 60,
    threads = 4,
    values = 256 / 8,
};

static uint64_t chance;
static uint8_t content[size]; /* of the point */
static _Atomic bool damaged[size / unit + 1];
static _Atomic int points_open;
static uint8_t now[size];
static uint8_t may[size][values]; /* what a byte may be after a power cut, a bit a value */

struct point {
    struct br_file base;
};

static inline int point_pread(struct br_file *file, void *data, size_t length, uint64_t offset) {
    (void)file;
    CHECK(offset <= size && length <= size - offset);
    for (uint64_t at = offset / unit; at * unit < offset + length; at++)
        if (damaged[at])
            return EIO;
    memcpy(data, content + offset, length);
    return 0;
}

/* A hole where 16 KiB are zeros. */
static inline int point_extent(struct br_file *file, uint64_t offset, uint64_t length, bool *hole,
                               uint64_t *run) {
    (void)file;
    uint64_t end = offset - offset % 16384 + 16384;
    *run = (end < offset + length ? end : offset + length) - offset;
    *hole = true;
    for (uint64_t at = offset; at < offset + *run; at++)
        *hole = *hole && content[at] == 0;
    return 0;
}

static inline void point_close(struct br_file *file) {
    points_open--;
    free(file);
}

static const struct br_file_ops point_ops = {
    .pread = point_pread, .extent = point_extent, .close = point_close};

static inline struct br_file *new_point(void) {
    struct point *point = malloc(sizeof *point);
    point->base.ops = &point_ops;
    points_open++;
    return &point->base;
}

static inline void make_content(void) {
    for (size_t at = 0; at < size; at++)
        content[at] = (uint8_t)(at / 4096 % 3 == 1 || at / 16384 % 4 == 3 ? 0 : random_number(&chance) >> 40);
    memset((void *)damaged, 0, sizeof damaged);
    memcpy(now, content, size);
}

static inline struct br_pivot_options options_of(uint8_t boot) {
    struct br_pivot_options options = {
        .id = {.relationship = "relationship 16", .point = "1.7", .disk = 2, .size = size},
        .boot = {boot},
        .unit = unit,
        .retry_ms = 1,
        .damage_ms = 5,
    };
    return options;
}

static inline int open_pivot(struct memory *memory, uint8_t boot, struct br_pivot **pivot) {
    struct br_pivot_options options = options_of(boot);
    struct br_trouble trouble;
    int error = br_pivot_open(&memory->base, "vm.img", new_point(), &options, pivot, &trouble);
    CHECK(!error == !trouble.text[0]);
    return error;
}

static inline void note(uint64_t from, uint64_t to) {
    for (uint64_t at = from; at < to; at++)
        may[at][now[at] / 8] |= (uint8_t)(1 << now[at] % 8);
}

/* What is flushed is all that may be. */
static inline void note_flushed(void) {
    memset(may, 0, sizeof may);
    note(0, size);
}

static inline int flush(struct br_pivot *pivot) {
    int error = br_pivot_flush(pivot);
    if (!error)
        note_flushed();
    return error;
}

static inline int write_at_random(struct br_pivot *pivot, uint64_t offset, uint64_t length) {
    static uint8_t data[5 * 4096];
    for (uint64_t at = 0; at < length; at++)
        data[at] = (uint8_t)(random_number(&chance) >> 40);
    memcpy(now + offset, data, length);
    note(offset, offset + length);
    return br_pivot_pwrite(pivot, data, length, offset);
}

static inline int discard_at_random(struct br_pivot *pivot, uint64_t offset, uint64_t length) {
    uint64_t start = (offset + 4095) / 4096 * 4096, end = offset + length;
    end = end == size ? end : end / 4096 * 4096;
    if (start < end) {
        memset(now + start, 0, end - start);
        note(start, end);
    }
    return br_pivot_discard(pivot, offset, length);
}

/* One thing that a client or the copier does; `now` and `may` know of it, even if it fails. */
static inline int do_something(struct br_pivot *pivot) {
    uint64_t offset = random_number(&chance) % size, length = random_number(&chance) % (4 * 4096) + 1;
    enum br_pivot_did did;
    length = length < size - offset ? length : size - offset;
    switch (random_number(&chance) % 8) {
    case 0:
        return flush(pivot);
    case 1:
        memset(now + offset, 0, length);
        note(offset, offset + length);
        return br_pivot_zero(pivot, offset, length, random_number(&chance) % 2);
    case 2:
        return discard_at_random(pivot, offset, length);
    case 3:
    case 4:
        return br_pivot_step(pivot, &did);
    default:
        return write_at_random(pivot, offset, length);
    }
}

static inline void holds(struct br_pivot *pivot, const uint8_t *wanted) {
    static uint8_t found[size];
    CHECK(br_pivot_pread(pivot, found, size, 0) == 0);
    CHECK(memcmp(found, wanted, size) == 0);
}

/* Copy to the end. */
static inline void finish(struct br_pivot *pivot) {
    enum br_pivot_did did = BR_PIVOT_COPIED;
    struct br_pivot_report report;
    while (did == BR_PIVOT_COPIED)
        CHECK(br_pivot_step(pivot, &did) == 0);
    CHECK(did == BR_PIVOT_DONE);
    br_pivot_report(pivot, &report);
    CHECK(report.state == BR_PIVOT_COMPLETE && report.owned == size && points_open == 0);
}

static inline const struct memory_content *content_of(struct memory *memory, const char *name) {
    struct memory_name *found = memory_find(memory, name);
    return found ? memory->contents + found->content : NULL;
}

#endif
