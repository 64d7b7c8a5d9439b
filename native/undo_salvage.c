/* After a power cut rows of an index may be torn that were never published: nothing was overwritten for them.
 * What was overwritten stands in the log, which was durable before any row; so the log itself is read. */
#include "undo_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "hrl_check.h"

enum { budget = 1 << 28 };

/* An index has the UUID's bytes in network order, a log as Windows has them. */
static bool same_id(const uint8_t network[16], const uint8_t windows[16]) {
    static const uint8_t place[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int i = 0; i < 16; i++)
        if (network[place[i]] != windows[i])
            return false;
    return true;
}

static int bind_log(struct br_file *file, const char *name, const uint8_t log_id[16], struct hrl_log *log,
                    struct br_trouble *trouble) {
    uint8_t raw[HRL_HEADER_SIZE];
    struct hrl_header header;
    struct hrl_fault fault;
    int error = file->ops->pread(file, raw, sizeof raw, 0);
    if (error && error != ENODATA)
        return br_trouble(trouble, error, "%s: reading its header: %s", name, strerror(error));
    if (error || !hrl_decode_header(raw, &header, &fault) || !same_id(log_id, header.unique_id))
        return br_trouble(trouble, EIO, "%s: is damaged, and so is its index", name);
    hrl_bind(log, &header);
    return 0;
}

static int take_rows(const uint8_t *raw, size_t count, struct br_undo_row *rows) {
    for (size_t i = 0; i < count; i++, raw += HRL_ROW_SIZE)
        rows[i] = (struct br_undo_row){
            .first = br_get64(raw),
            .length = br_get64(raw + 8),
            .source = br_get64(raw + 16),
            .kind = br_get32(raw + 28) == HRL_WRITE ? BR_UNDO_DATA : BR_UNDO_ZEROS,
        };
    return 0;
}

/* All entries of the blocks at `positions`. */
static int read_blocks(struct hrl_reading *reading, const uint8_t *positions, size_t count,
                       struct br_undo_row *rows, size_t room) {
    size_t most = reading->log->room, done = 0;
    uint8_t *raw = malloc(most * HRL_ROW_SIZE), *stamps = malloc(most * 4);
    struct hrl_place place = {.end = HRL_HEADER_SIZE};
    int error = raw && stamps ? 0 : ENOMEM;
    for (size_t at = 0; at < count && !error;) {
        struct hrl_result result;
        struct hrl_fault fault;
        if (!hrl_read(reading, &place, positions + 8 * at, count - at, raw, stamps, most, &result, &fault) ||
            result.rows > room - done || !result.blocks)
            error = EIO;
        else
            take_rows(raw, result.rows, rows + done);
        done += error ? 0 : result.rows;
        at += error ? 0 : result.blocks;
    }
    free(raw);
    free(stamps);
    return error;
}

static void reverse(uint8_t *positions, size_t count) {
    for (size_t low = 0, high = count; low + 1 < high; low++) {
        uint64_t other = br_get64(positions + 8 * --high);
        br_put64(positions + 8 * high, br_get64(positions + 8 * low));
        br_put64(positions + 8 * low, other);
    }
}

static int read_all(int fd, const struct hrl_log *log, const struct hrl_salvage *state,
                    struct br_undo_row **rows) {
    size_t blocks = state->last ? (size_t)state->place.number : 0;
    uint8_t *positions = malloc(8 * blocks + 8);
    *rows = malloc((state->entries + 1) * sizeof **rows);
    int error = positions && *rows ? 0 : ENOMEM;
    uint64_t position = state->last, entries = 0;
    struct hrl_fault fault;
    if (!error && hrl_walk(fd, log, &position, positions, blocks, &entries, &fault) != blocks)
        error = EIO;
    if (!error) {
        struct hrl_reading reading = {.log = log, .fd = fd};
        reverse(positions, blocks);
        error = read_blocks(&reading, positions, blocks, *rows, state->entries);
    }
    free(positions);
    if (error)
        free(*rows);
    return error;
}

int br_undo_salvage(struct br_file *file, const char *name, const uint8_t log_id[16],
                    struct br_undo_row **rows, size_t *count, struct br_trouble *trouble) {
    struct hrl_log log;
    uint64_t size;
    int done = 0, fd = file->ops->fileno ? file->ops->fileno(file) : -1;
    struct hrl_salvage state = {.place.end = HRL_HEADER_SIZE, .scan = HRL_HEADER_SIZE};
    int error = bind_log(file, name, log_id, &log, trouble);
    if (!error)
        error = file->ops->size(file, &size);
    while (!error && done == 0)
        if ((done = hrl_salvage(fd, &log, size, budget, &state)) < 0)
            error = errno;
    if (!error)
        error = read_all(fd, &log, &state, rows);
    if (error)
        return br_trouble(trouble, error, "%s: reading its entries: %s", name, strerror(error));
    *count = state.entries;
    return 0;
}
