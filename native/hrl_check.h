/* Reading a change log from a file, many blocks a call: the chain, the entries, their data, and what an
 * unclosed log still holds. Memory is one metadata block and one window, whatever the file says. */
#ifndef HRL_CHECK_H
#define HRL_CHECK_H

#include "hrl.h"

/* An entry as the rest of the program works with it, a row of kernels.ENTRIES: offset u64, length u64, source
 * u64 (where its data stands in the log; 2^64 - 1 for a zero entry), log u32 (0: the caller knows which),
 * operation u32. Rows, positions (u64) and times (u32) are little-endian at any address. */
enum { HRL_ROW_SIZE = 32, HRL_WINDOW_SIZE = 256 * 1024 };

/* Between two blocks: `end` is where the block before ends (the header's end at first), `number` how many
 * stand before. */
struct hrl_place {
    uint64_t end;
    uint64_t number;
};

/* What reads from a file return besides their fault; HRL_READ_FAILED carries the errno in `got`. */

/* Walk back from the block at *position, which ends at or before the end of the log: puts the positions of it
 * and of those before it into `positions`, newest first, until `room` are there or the first block is. Only
 * block headers are read and checked. Returns how many; adds their entries to *entries; *position becomes
 * that of the next, 0 behind the first block. */
size_t hrl_walk(int fd, const struct hrl_log *log, uint64_t *position, uint8_t *positions, size_t room,
                uint64_t *entries, struct hrl_fault *fault);

struct hrl_reading {
    const struct hrl_log *log;
    int fd;
    bool data;       /* check the data of every entry, too */
    bool slots;      /* unused slots must be zero in strict logs, too */
    uint8_t *window; /* HRL_WINDOW_SIZE bytes for the data; `filled` of them are those at `at` in the file */
    uint64_t at;
    size_t filled;
};

struct hrl_result {
    size_t blocks, rows;
    uint64_t unchecked; /* write entries whose data carries no checksum; counted with `data` only */
};

/* Check the blocks at `positions` (ascending) and put their entries into `rows`, the times into `stamps`.
 * Stops early when the next block has more entries than there is room for. `place` moves behind the last
 * block that was taken. */
bool hrl_read(struct hrl_reading *reading, struct hrl_place *place, const uint8_t *positions, size_t count,
              uint8_t *rows, uint8_t *stamps, size_t room, struct hrl_result *result,
              struct hrl_fault *fault);

/* The block at `position` and, with reading->data, its entries' data. `block` has metadata_size bytes. */
bool hrl_read_block(const struct hrl_reading *reading, const struct hrl_place *place, uint64_t position,
                    uint8_t *block, struct hrl_fault *fault);
bool hrl_check_data(struct hrl_reading *reading, const struct hrl_place *place, const uint8_t *block,
                    uint64_t *unchecked, struct hrl_fault *fault);

/* Where salvage is. Start: {.place.end = HRL_HEADER_SIZE, .scan = HRL_HEADER_SIZE}. */
struct hrl_salvage {
    struct hrl_place place; /* behind the last good block */
    uint64_t last;          /* that block; 0: none yet */
    uint64_t entries;       /* in all good blocks */
    uint64_t scan;          /* where the search for the next one goes on */
    uint64_t wasted;        /* bytes read for candidates that were none */
};

/* Look for the blocks of an unclosed or damaged log up to `limit` (the file's size), forward, one after the
 * other: the next good block is the first place whose distance, checksums, number and sum of data lengths all
 * fit the block before. Ends at the first gap without such a place, and at the first block whose data does
 * not match. `budget` is about how many bytes one call goes through. Returns 1 when there is no more, 0 to be
 * called again, -1 with errno. */
int hrl_salvage(int fd, const struct hrl_log *log, uint64_t limit, uint64_t budget,
                struct hrl_salvage *state);

/* Encode `count` rows, whose sources are offsets in `data` and whose times are in `stamps`, as entries of the
 * log into `out`: with the CRC in 2.1, with the data's checksum in strict logs. 0, or EINVAL when a row
 * cannot be: nothing is read outside `data`. */
int hrl_encode_rows(const struct hrl_log *log, const uint8_t *rows, size_t count, const uint8_t *data,
                    size_t length, const uint8_t *stamps, uint8_t *out);

#endif
