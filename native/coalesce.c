/* A sweep over the disk. The rows are sorted by offset (radix: stable, no comparisons); a heap holds the rows
 * that cover the current place, the last written on top, and what is on top wins until it ends or another
 * begins. Rows that ended deeper in the heap leave it when they come up. Each step takes in a row or ends
 * one, so there are at most 2 * count steps, whatever the overlaps. */
#include "coalesce.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"

struct key {
    uint64_t offset;
    uint32_t row; /* the order written */
};

struct sweep {
    const uint8_t *rows;
    struct key *keys, *spare;
    uint32_t *heap;
    size_t keys_count, heap_count;
    uint8_t *out;
    size_t out_count;
};

static uint64_t row_offset(const struct sweep *sweep, uint32_t row) {
    return br_get64(sweep->rows + (size_t)row * BR_ROW_SIZE);
}

static uint64_t row_end(const struct sweep *sweep, uint32_t row) {
    return row_offset(sweep, row) + br_get64(sweep->rows + (size_t)row * BR_ROW_SIZE + 8);
}

static int row_is_sound(const uint8_t *row) {
    uint64_t offset = br_get64(row), length = br_get64(row + 8), source = br_get64(row + 16);
    uint32_t operation = br_get32(row + 28);
    if (length > UINT64_MAX - offset)
        return 0;
    return operation == BR_ZERO_OPERATION ||
           (operation == BR_WRITE_OPERATION && length <= UINT64_MAX - source);
}

/* The keys of all rows that are not empty; returns 0 for an unsound row. */
static int gather(struct sweep *sweep, size_t count) {
    for (size_t row = 0; row < count; row++) {
        const uint8_t *at = sweep->rows + row * BR_ROW_SIZE;
        if (!row_is_sound(at))
            return 0;
        if (br_get64(at + 8))
            sweep->keys[sweep->keys_count++] = (struct key){br_get64(at), (uint32_t)row};
    }
    return 1;
}

static int is_sorted(const struct key *keys, size_t count) {
    for (size_t index = 1; index < count; index++)
        if (keys[index - 1].offset > keys[index].offset)
            return 0;
    return 1;
}

/* One pass over the digit at `shift`; nothing to do where all keys have the same. */
static void sort_digit(struct sweep *sweep, int shift) {
    size_t starts[256] = {0}, position = 0;
    for (size_t index = 0; index < sweep->keys_count; index++)
        starts[sweep->keys[index].offset >> shift & 255]++;
    if (starts[sweep->keys[0].offset >> shift & 255] == sweep->keys_count)
        return;
    for (int digit = 0; digit < 256; digit++) {
        size_t size = starts[digit];
        starts[digit] = position;
        position += size;
    }
    for (size_t index = 0; index < sweep->keys_count; index++)
        sweep->spare[starts[sweep->keys[index].offset >> shift & 255]++] = sweep->keys[index];
    struct key *swap = sweep->keys;
    sweep->keys = sweep->spare;
    sweep->spare = swap;
}

static void push(struct sweep *sweep, uint32_t row) {
    size_t at = sweep->heap_count++;
    for (size_t parent; at && sweep->heap[parent = (at - 1) / 2] < row; at = parent)
        sweep->heap[at] = sweep->heap[parent];
    sweep->heap[at] = row;
}

static void pop(struct sweep *sweep) {
    uint32_t row = sweep->heap[--sweep->heap_count];
    size_t at = 0, child;
    for (; (child = 2 * at + 1) < sweep->heap_count; at = child) {
        if (child + 1 < sweep->heap_count && sweep->heap[child + 1] > sweep->heap[child])
            child++;
        if (sweep->heap[child] < row)
            break;
        sweep->heap[at] = sweep->heap[child];
    }
    sweep->heap[at] = row;
}

/* Bytes [start, end) come from `row`. */
static void emit(struct sweep *sweep, uint32_t row, uint64_t start, uint64_t end) {
    const uint8_t *from = sweep->rows + (size_t)row * BR_ROW_SIZE;
    int moves = br_get32(from + 28) == BR_WRITE_OPERATION;
    uint64_t source = br_get64(from + 16) + (moves ? start - br_get64(from) : 0);
    if (sweep->out_count) {
        uint8_t *last = sweep->out + (sweep->out_count - 1) * BR_ROW_SIZE;
        uint64_t length = br_get64(last + 8);
        if (br_get64(last) + length == start && memcmp(last + 24, from + 24, 8) == 0 &&
            br_get64(last + 16) + (moves ? length : 0) == source) {
            br_put64(last + 8, length + (end - start));
            return;
        }
    }
    uint8_t *to = sweep->out + sweep->out_count++ * BR_ROW_SIZE;
    br_put64(to, start);
    br_put64(to + 8, end - start);
    br_put64(to + 16, source);
    memcpy(to + 24, from + 24, 8);
}

static void run(struct sweep *sweep) {
    size_t next = 0;
    uint64_t at = 0;
    while (next < sweep->keys_count || sweep->heap_count) {
        if (sweep->heap_count == 0)
            at = sweep->keys[next].offset;
        while (next < sweep->keys_count && sweep->keys[next].offset == at)
            push(sweep, sweep->keys[next++].row);
        while (sweep->heap_count && row_end(sweep, sweep->heap[0]) <= at)
            pop(sweep);
        if (sweep->heap_count == 0)
            continue;
        uint64_t end = row_end(sweep, sweep->heap[0]);
        if (next < sweep->keys_count && sweep->keys[next].offset < end)
            end = sweep->keys[next].offset;
        emit(sweep, sweep->heap[0], at, end);
        at = end;
    }
}

int br_coalesce(const uint8_t *rows, size_t count, uint8_t *out, size_t *out_count) {
    *out_count = 0;
    if (count == 0)
        return 0;
    if (count > UINT32_MAX)
        return E2BIG;
    struct sweep sweep = {.rows = rows, .out = out};
    struct key *memory = malloc(count * (2 * sizeof *memory + sizeof *sweep.heap));
    if (!memory)
        return ENOMEM;
    sweep.keys = memory;
    sweep.spare = memory + count;
    sweep.heap = (uint32_t *)(memory + 2 * count);
    int sound = gather(&sweep, count);
    if (sound) {
        if (!is_sorted(sweep.keys, sweep.keys_count))
            for (int shift = 0; shift < 64; shift += 8)
                sort_digit(&sweep, shift);
        run(&sweep);
    }
    free(memory);
    *out_count = sweep.out_count;
    return sound ? 0 : EINVAL;
}
