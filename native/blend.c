/* Blocks are far larger than what changes of them, so memory traffic is the cost: a block goes through the
 * core's cache once, and only its granules that a row touches leave it. */
#include "blend.h"

#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "files.h"
#include "io.h"
#include "threads.h"
#include "zero.h"

#define PIECE (256u << 10) /* of neighbouring blocks that a thread reads at a time */

struct row {
    uint64_t start, end, at; /* on the disk, and where its data stands */
};

static struct row row_at(const struct br_blend *blend, size_t index) {
    const uint8_t *row = blend->rows + index * BR_EXTENT_SIZE;
    uint64_t start = br_get64(row);
    return (struct row){start, start + br_get64(row + 8), br_get64(row + 16)};
}

static uint64_t number_at(const uint8_t *numbers, size_t index) {
    return br_get64(numbers + 8 * index);
}

static int ascending(const uint8_t *numbers, size_t count, uint64_t below) {
    for (size_t index = 0; index < count; index++)
        if (number_at(numbers, index) >= below ||
            (index && number_at(numbers, index) <= number_at(numbers, index - 1)))
            return 0;
    return 1;
}

static int rows_fit(const struct br_blend *blend) {
    uint64_t end = 0;
    for (size_t index = 0; index < blend->row_count; index++) {
        const uint8_t *row = blend->rows + index * BR_EXTENT_SIZE;
        uint64_t start = br_get64(row), length = br_get64(row + 8), at = br_get64(row + 16);
        if (length == 0 || start < end || start > blend->size || length > blend->size - start ||
            at > blend->data_size || length > blend->data_size - at)
            return 0;
        end = start + length;
    }
    return 1;
}

/* Whether `granules` has what the rows touch. */
static int rows_listed(const struct br_blend *blend) {
    size_t index = 0;
    for (size_t number = 0; number < blend->row_count; number++) {
        struct row row = row_at(blend, number);
        for (uint64_t granule = row.start / BR_GRANULE; granule <= (row.end - 1) / BR_GRANULE; granule++) {
            while (index < blend->granule_count && number_at(blend->granules, index) < granule)
                index++;
            if (index == blend->granule_count || number_at(blend->granules, index) != granule)
                return 0;
        }
    }
    return 1;
}

static int granules_listed(const struct br_blend *blend) {
    size_t at = 0;
    for (size_t index = 0; index < blend->granule_count; index++) {
        uint64_t block = number_at(blend->granules, index) / (blend->block_size / BR_GRANULE);
        while (at < blend->block_count && number_at(blend->blocks, at) < block)
            at++;
        if (at == blend->block_count || number_at(blend->blocks, at) != block)
            return 0;
    }
    return 1;
}

const char *br_blend_wrong(const struct br_blend *blend) {
    if (blend->size > INT64_MAX - BR_MOST_BLOCK_SIZE)
        return "the disk must end below 2**63 - 2**26";
    if (blend->block_size == 0 || blend->block_size > BR_MOST_BLOCK_SIZE || blend->block_size % BR_GRANULE)
        return "block_size must be a multiple of 4096 up to 64 MiB";
    if (!ascending(blend->blocks, blend->block_count, br_block_count(blend->size, blend->block_size)) ||
        !ascending(blend->granules, blend->granule_count, br_block_count(blend->size, BR_GRANULE)))
        return "blocks and granules must ascend, within the disk";
    if (!rows_fit(blend))
        return "rows must be sorted, without overlap, within the disk and the data";
    if (!rows_listed(blend) || !granules_listed(blend))
        return "granules must have all that rows touch, blocks all that granules lie in";
    return NULL;
}

/* The first of `granules` at or behind a place on the disk. */
static size_t first_granule(const struct br_blend *blend, uint64_t start) {
    size_t low = 0, high = blend->granule_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (number_at(blend->granules, middle) < start / BR_GRANULE)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The first row that ends behind a place on the disk. */
static size_t first_row(const struct br_blend *blend, uint64_t start) {
    size_t low = 0, high = blend->row_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (row_at(blend, middle).end <= start)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void lay_over(const struct br_blend *blend, uint8_t *block, uint64_t start, uint64_t end) {
    for (size_t index = first_row(blend, start); index < blend->row_count; index++) {
        struct row row = row_at(blend, index);
        if (row.start >= end)
            break;
        uint64_t low = row.start > start ? row.start : start, high = row.end < end ? row.end : end;
        memcpy(block + (low - start), blend->data + row.at + (low - row.start), (size_t)(high - low));
    }
}

/* Bytes of the rows that lie in a granule. */
static uint64_t covered(const struct br_blend *blend, uint64_t granule) {
    uint64_t start = granule * BR_GRANULE, end = start + BR_GRANULE, count = 0;
    for (size_t index = first_row(blend, start); index < blend->row_count; index++) {
        struct row row = row_at(blend, index);
        if (row.start >= end)
            break;
        count += (row.end < end ? row.end : end) - (row.start > start ? row.start : start);
    }
    return count;
}

/* Compare a granule with its old content, keep what is new; returns its mark. */
static uint8_t mark(const struct br_blend *blend, size_t index, const uint8_t *content) {
    const uint8_t *old = blend->old + index * BR_GRANULE;
    uint8_t marks = br_is_zero(old, BR_GRANULE) ? BR_BLEND_OLD_ZERO : 0;
    if (!blend->again && memcmp(old, content, BR_GRANULE) == 0)
        return marks;
    memcpy(blend->new + index *BR_GRANULE, content, BR_GRANULE);
    return marks | BR_BLEND_CHANGED | (br_is_zero(content, BR_GRANULE) ? BR_BLEND_NEW_ZERO : 0);
}

/* One block; `content` is its old content, and whole: zeros behind the disk's end. */
static void blend_block(struct br_blend *blend, size_t index, uint8_t *content) {
    uint64_t number = number_at(blend->blocks, index), start = number * blend->block_size, changed = 0;
    uint64_t end = start + blend->block_size < blend->size ? start + blend->block_size : blend->size;
    size_t first = first_granule(blend, start), behind = first_granule(blend, start + blend->block_size);
    uint8_t *before = blend->before + index * BR_ENTRY_SIZE, *after = blend->after + index * BR_ENTRY_SIZE;
    int same = 1;
    br_checksum_blocks(content, (size_t)(end - start), blend->block_size, blend->seed, before);
    for (size_t at = first; at < behind; at++)
        memcpy(blend->old + at * BR_GRANULE, content + (number_at(blend->granules, at) * BR_GRANULE - start),
               BR_GRANULE);
    lay_over(blend, content, start, end);
    for (size_t at = first; at < behind; at++) {
        uint64_t granule = number_at(blend->granules, at);
        blend->marks[at] = mark(blend, at, content + (granule * BR_GRANULE - start));
        if (blend->marks[at] & BR_BLEND_CHANGED) {
            same = 0;
            changed += covered(blend, granule);
        }
    }
    if (same)
        memcpy(after, before, BR_ENTRY_SIZE);
    else
        br_checksum_blocks(content, (size_t)(end - start), blend->block_size, blend->seed, after);
    __atomic_fetch_add(&blend->changed, changed, __ATOMIC_RELAXED);
}

static size_t blocks_a_piece(const struct br_blend *blend) {
    return blend->block_size < PIECE ? PIECE / blend->block_size : 1;
}

/* Fill `content` with `count` blocks from one on; what the file does not have is zero. */
static int read_blocks(const struct br_blend *blend, uint64_t first, size_t count, uint8_t *content) {
    uint64_t start = first * blend->block_size, left = blend->size - start;
    size_t whole = count * blend->block_size, got;
    int error = br_read_at(blend->fd, content, whole < left ? whole : (size_t)left, start, &got);
    if (error == 0)
        memset(content + got, 0, whole - got);
    return error;
}

static int blend_piece(void *context, void *scratch, size_t piece) {
    struct br_blend *blend = context;
    size_t at = piece * blocks_a_piece(blend), end = at + blocks_a_piece(blend);
    if (end > blend->block_count)
        end = blend->block_count;
    for (size_t run; at < end; at += run) {
        uint64_t first = number_at(blend->blocks, at);
        for (run = 1; at + run < end && number_at(blend->blocks, at + run) == first + run;)
            run++;
        int error = read_blocks(blend, first, run, scratch);
        if (error)
            return error;
        for (size_t index = 0; index < run; index++)
            blend_block(blend, at + index, (uint8_t *)scratch + index * blend->block_size);
    }
    return 0;
}

int br_blend_blocks(struct br_blend *blend) {
    size_t each = blocks_a_piece(blend);
    blend->changed = 0;
    return br_parallel(blend->threads, br_block_count(blend->block_count, each), each * blend->block_size,
                       blend_piece, blend);
}
