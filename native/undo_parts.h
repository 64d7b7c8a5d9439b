/* What undo_index.c and undo_find.c have in common. */
#ifndef BR_UNDO_PARTS_H
#define BR_UNDO_PARTS_H

#include "undo_index.h"

struct br_undo_chunk {
    uint64_t low[2], high[2]; /* of each sort: places in [low, high); none: low > high */
};

static inline enum br_undo_sort br_undo_sort_of(enum br_undo_kind kind) {
    return kind <= BR_UNDO_ZEROS ? BR_UNDO_EXTENTS : BR_UNDO_SUMS;
}

/* Behind the place of a row. */
static inline uint64_t br_undo_behind(const struct br_undo_row *row) {
    return br_undo_sort_of(row->kind) == BR_UNDO_EXTENTS ? row->first + row->length : row->first + 1;
}

/* Rows of one read, at most BR_UNDO_CHUNK of `left`. */
static inline size_t br_undo_some(uint64_t left) {
    return left < BR_UNDO_CHUNK ? (size_t)left : BR_UNDO_CHUNK;
}

/* Have the index open until br_pool_put. */
int br_undo_get(struct br_pool *pool, struct br_undo *undo, struct br_trouble *trouble);
/* Says which index could not be read; returns the errno to go on with. */
int br_undo_failed(const struct br_undo *undo, int error, struct br_trouble *trouble);
/* Rows [low, low + count) of the open file, as they stand. */
int br_undo_raw(struct br_undo *undo, uint64_t low, size_t count, uint8_t *raw, struct br_trouble *trouble);
/* false: the row is damaged. */
bool br_undo_decode(const struct br_undo *undo, const uint8_t *raw, struct br_undo_row *row);

#endif
