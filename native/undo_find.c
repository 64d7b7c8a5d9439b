/* Searching an undo index.
 *
 * A sealed one is two sorted runs of rows, extents first. Whoever goes through the disk asks for ever higher
 * places: where the last search ended is looked at first, and only then the run is halved. Halving reads
 * single rows, each checked, for a flipped bit there would hide rows that are right.
 *
 * A growing one has its rows in the order in which they were published, which is nearly that of the disk. For
 * each chunk of them the least and the greatest place is kept; a search reads the chunks that may have
 * something. Memory is 32 bytes a chunk of 4 KiB.
 */
#include <string.h>
#include <errno.h>

#include "bytes.h"
#include "crc32c.h"
#include "undo_parts.h"

bool br_undo_decode(const struct br_undo *undo, const uint8_t *raw, struct br_undo_row *row) {
    if (br_get32(raw + 28) != br_crc32c(undo->key, raw, 28))
        return false;
    *row = (struct br_undo_row){.first = br_get64(raw), .kind = raw[24]};
    if (row->kind < BR_UNDO_DATA || row->kind > BR_UNDO_UNKNOWN)
        return false;
    if (br_undo_sort_of(row->kind) == BR_UNDO_SUMS) {
        memcpy(row->sum, raw + 8, 16);
        return true;
    }
    row->source = br_get64(raw + 8);
    row->length = br_get64(raw + 16);
    return row->first <= INT64_MAX && row->length <= INT64_MAX - row->first && row->first % BR_GRANULE == 0;
}

int br_undo_raw(struct br_undo *undo, uint64_t low, size_t count, uint8_t *raw, struct br_trouble *trouble) {
    struct br_file *file = undo->index.file;
    int error = file->ops->pread(file, raw, count * BR_UNDO_ROW, BR_UNDO_HEADER + low * BR_UNDO_ROW);
    return error ? br_undo_failed(undo, error, trouble) : 0;
}

static int damaged(const struct br_undo *undo, uint64_t at, struct br_trouble *trouble) {
    return br_trouble(trouble, EIO,
                      "%s: row %llu: wanted its CRC, got another: damaged; points before this epoch can't be "
                      "read where it names blocks",
                      undo->index_name, (unsigned long long)at);
}

/* At most BR_UNDO_CHUNK rows of a sealed index, checked, all of one sort. */
static int read_rows(struct br_undo *undo, enum br_undo_sort sort, uint64_t low, size_t count,
                     struct br_undo_row *rows, struct br_trouble *trouble) {
    uint8_t raw[BR_UNDO_CHUNK * BR_UNDO_ROW];
    uint64_t base = sort == BR_UNDO_SUMS ? undo->count[0] : 0;
    int error = br_undo_raw(undo, base + low, count, raw, trouble);
    for (size_t i = 0; i < count && !error; i++)
        if (!br_undo_decode(undo, raw + i * BR_UNDO_ROW, rows + i) || br_undo_sort_of(rows[i].kind) != sort)
            error = damaged(undo, base + low + i, trouble);
    return error;
}

/* Whether row `at` lies below `start`. */
static int below(struct br_undo *undo, enum br_undo_sort sort, uint64_t at, uint64_t start, bool *result,
                 struct br_trouble *trouble) {
    struct br_undo_row row;
    int error = read_rows(undo, sort, at, 1, &row, trouble);
    *result = !error && row.first < start;
    return error;
}

/* Let [*low, *high] enclose the first row that is not below `start`, closely where that is near the hint. */
static int enclose(struct br_undo *undo, enum br_undo_sort sort, uint64_t start, uint64_t *low,
                   uint64_t *high, struct br_trouble *trouble) {
    uint64_t hint = undo->hint[sort];
    bool less = true;
    *low = 0;
    *high = undo->count[sort];
    int error = hint ? below(undo, sort, hint - 1, start, &less, trouble) : 0;
    if (error || !less) {
        *high = hint - 1;
        return error;
    }
    *low = hint;
    for (uint64_t step = 1, at = hint; at < *high; at = *low + step, step *= 2) {
        error = below(undo, sort, at, start, &less, trouble);
        if (error || !less) {
            *high = at;
            return error;
        }
        *low = at + 1;
    }
    return 0;
}

/* The number of rows of a sealed index whose place lies below `start`. */
static int bisect(struct br_undo *undo, enum br_undo_sort sort, uint64_t start, uint64_t *found,
                  struct br_trouble *trouble) {
    uint64_t low, high;
    int error = enclose(undo, sort, start, &low, &high, trouble);
    while (low < high && !error) {
        uint64_t middle = low + (high - low) / 2;
        bool less;
        error = below(undo, sort, middle, start, &less, trouble);
        if (less)
            low = middle + 1;
        else
            high = middle;
    }
    *found = undo->hint[sort] = low;
    return error;
}

static bool touches(const struct br_undo_row *row, uint64_t start, uint64_t end) {
    return row->first < end && br_undo_behind(row) > start;
}

/* Rows from `at` on, a few at first: most windows of a disk have few. */
struct reader {
    struct br_undo_row rows[BR_UNDO_CHUNK];
    uint64_t at; /* of rows[0] */
    size_t count, step;
};

static int read_on(struct br_undo *undo, enum br_undo_sort sort, struct reader *reader, uint64_t at,
                   struct br_trouble *trouble) {
    uint64_t left = undo->count[sort] - at;
    reader->at = at;
    reader->count = left < reader->step ? (size_t)left : reader->step;
    reader->step = 2 * reader->step < BR_UNDO_CHUNK ? 2 * reader->step : BR_UNDO_CHUNK;
    return read_rows(undo, sort, at, reader->count, reader->rows, trouble);
}

/* Have the row before the first that is not below `start` in rows[0], or any row before it: where the last
 * search ended, if it can be seen there, else where halving finds it. */
static int seek(struct br_undo *undo, enum br_undo_sort sort, uint64_t start, struct reader *reader,
                struct br_trouble *trouble) {
    uint64_t hint = undo->hint[sort], at = hint ? hint - 1 : 0;
    int error = read_on(undo, sort, reader, at, trouble);
    bool before = !error && (at == 0 || reader->rows[0].first < start);
    bool behind =
        !error && (at + reader->count == undo->count[sort] || reader->rows[reader->count - 1].first >= start);
    if (error || (before && behind))
        return error;
    error = bisect(undo, sort, start, &at, trouble);
    return error ? error : read_on(undo, sort, reader, at ? at - 1 : 0, trouble);
}

static int find_sealed(struct br_undo *undo, enum br_undo_sort sort, uint64_t start, uint64_t end,
                       br_undo_found *found, void *context, struct br_trouble *trouble) {
    struct reader reader = {.step = BR_UNDO_CHUNK / 8};
    int error = seek(undo, sort, start, &reader, trouble);
    while (!error) {
        for (size_t i = 0; i < reader.count && !error; i++) {
            const struct br_undo_row *row = reader.rows + i;
            if (row->first >= end) {
                undo->hint[sort] = reader.at + i;
                return 0;
            }
            if (touches(row, start, end))
                error = found(context, undo, row);
        }
        uint64_t next = reader.at + reader.count;
        if (error || next == undo->count[sort])
            break;
        error = read_on(undo, sort, &reader, next, trouble);
    }
    if (!error)
        undo->hint[sort] = undo->count[sort];
    return error;
}

static int find_growing(struct br_undo *undo, enum br_undo_sort sort, uint64_t start, uint64_t end,
                        br_undo_found *found, void *context, struct br_trouble *trouble) {
    uint8_t raw[BR_UNDO_CHUNK * BR_UNDO_ROW];
    struct br_undo_row row;
    int error = 0;
    for (size_t at = 0; at < undo->chunk_count && !error; at++) {
        const struct br_undo_chunk *chunk = undo->chunks + at;
        if (chunk->low[sort] >= end || chunk->high[sort] <= start)
            continue;
        size_t count = br_undo_some(undo->seen - at * BR_UNDO_CHUNK);
        error = br_undo_raw(undo, at * BR_UNDO_CHUNK, count, raw, trouble);
        for (size_t i = 0; i < count && !error; i++)
            if (!br_undo_decode(undo, raw + i * BR_UNDO_ROW, &row))
                error = damaged(undo, at * BR_UNDO_CHUNK + i, trouble);
            else if (br_undo_sort_of(row.kind) == sort && touches(&row, start, end))
                error = found(context, undo, &row);
    }
    return error;
}

static int find_salvaged(struct br_undo *undo, uint64_t start, uint64_t end, br_undo_found *found,
                         void *context) {
    int error = 0;
    for (size_t at = 0; at < undo->salvaged_count && !error; at++)
        if (touches(undo->salvaged + at, start, end))
            error = found(context, undo, undo->salvaged + at);
    return error;
}

int br_undo_find(struct br_pool *pool, struct br_undo *undo, enum br_undo_sort sort, uint64_t start,
                 uint64_t end, br_undo_found *found, void *context, struct br_trouble *trouble) {
    if (undo->salvaged && sort == BR_UNDO_EXTENTS)
        return find_salvaged(undo, start, end, found, context);
    if (!undo->growing && !undo->count[sort])
        return 0;
    int error = br_undo_get(pool, undo, trouble);
    if (error)
        return error;
    if (undo->growing)
        error = find_growing(undo, sort, start, end, found, context, trouble);
    else
        error = find_sealed(undo, sort, start, end, found, context, trouble);
    br_pool_put(&undo->index);
    return error;
}

static void lower(uint64_t *next, uint64_t start, uint64_t low, uint64_t high) {
    if (high > start && low < *next)
        *next = low > start ? low : start;
}

int br_undo_next(struct br_pool *pool, struct br_undo *undo, enum br_undo_sort sort, uint64_t start,
                 uint64_t *next, struct br_trouble *trouble) {
    *next = UINT64_MAX;
    if (undo->growing) {
        for (size_t at = 0; at < undo->chunk_count; at++)
            lower(next, start, undo->chunks[at].low[sort], undo->chunks[at].high[sort]);
        for (size_t at = 0; at < undo->salvaged_count && sort == BR_UNDO_EXTENTS; at++)
            lower(next, start, undo->salvaged[at].first, br_undo_behind(undo->salvaged + at));
        return 0;
    }
    if (!undo->count[sort])
        return 0;
    struct br_undo_row rows[2];
    uint64_t at;
    int error = br_undo_get(pool, undo, trouble);
    if (error)
        return error;
    error = bisect(undo, sort, start, &at, trouble);
    uint64_t first = at ? at - 1 : 0, behind = at < undo->count[sort] ? at + 1 : at;
    if (!error)
        error = read_rows(undo, sort, first, (size_t)(behind - first), rows, trouble);
    for (size_t i = 0; i < behind - first && !error; i++)
        lower(next, start, rows[i].first, br_undo_behind(rows + i));
    br_pool_put(&undo->index);
    return error;
}
