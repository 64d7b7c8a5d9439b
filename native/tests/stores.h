/* A directory store made here, byte by byte as docs/store.md says, on a real file system, and a model of its
 * points: so that the overlay is tested against the format, and not against another program of ours. */
#ifndef BR_TESTS_STORES_H
#define BR_TESTS_STORES_H

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../bytes.h"
#include "../checksum.h"
#include "../crc32c.h"
#include "../table.h"
#include "../undo_index.h"
#include "check.h"

enum {
    size = (4 << 20) + 5 * 4096 + 700, /* two windows; the last granule is short */
    block = 16384,
    granule = 4096,
    granules = size / granule + 1,
    blocks = size / block + 1,
    pages = blocks / BR_PAGE_ENTRIES + 1,
    most_epochs = 12,
    sum_seed = 77,
    table_key = 0x1234,
    most_rows = granules + blocks,
};

static char store[PATH_MAX];
static int image_fd, table_fd;
static uint8_t now[size];
static uint8_t points[most_epochs + 1][size];  /* what each epoch's point holds */
static bool saved[most_epochs + 1][granules];  /* by the undo log of each epoch */
static uint8_t entries[pages * BR_PAGE_BYTES]; /* of `now` */

/* An undo log that is being written. */
struct undo {
    uint64_t first, last;
    int log, index;
    uint8_t id[16], rows[most_rows][BR_UNDO_ROW];
    size_t count;
    uint64_t end; /* of the log */
    bool summed[blocks];
};

static inline char *in_store(const char *name) {
    static _Thread_local char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", store, name);
    return path;
}

static inline char *undo_name(char name[64], uint64_t epoch, const char *suffix) {
    snprintf(name, 64, "undo/%06llu%s", (unsigned long long)epoch, suffix);
    return name;
}

static inline int make_file(const char *name) {
    int fd = open(in_store(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    return fd;
}

static inline void put(int fd, const void *data, size_t length, uint64_t offset) {
    CHECK(pwrite(fd, data, length, (off_t)offset) == (ssize_t)length);
}

static inline bool is_zero(const uint8_t *data, size_t length) {
    for (size_t at = 0; at < length; at++)
        if (data[at])
            return false;
    return true;
}

static inline size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The checksums of [offset, offset + length) in `now`, into the table. */
static inline void put_sums(uint64_t offset, uint64_t length) {
    size_t first = offset / block, last = (offset + length - 1) / block;
    for (size_t at = first; at <= last; at++)
        br_checksum_blocks(now + at * block, least(block, size - at * block), block, sum_seed,
                           entries + at * BR_ENTRY_SIZE);
    for (size_t page = first / BR_PAGE_ENTRIES; page <= last / BR_PAGE_ENTRIES; page++) {
        uint8_t raw[BR_PAGE_SIZE];
        br_pack_table(entries + page * BR_PAGE_BYTES, 1, page, table_key, raw);
        put(table_fd, raw, sizeof raw, page * BR_PAGE_SIZE);
    }
}

static inline void put_header(struct undo *undo, int fd, uint64_t extents, uint64_t sums) {
    uint8_t raw[BR_UNDO_HEADER] = "brepundo";
    br_put32(raw + 8, 1);
    br_put32(raw + 12, BR_UNDO_ROW);
    memcpy(raw + 16, undo->id, 16);
    br_put64(raw + 32, extents);
    br_put64(raw + 40, sums);
    br_put64(raw + 48, undo->last == undo->first ? 0 : undo->last);
    br_put32(raw + 60, br_crc32c(0, raw, 60));
    put(fd, raw, sizeof raw, 0);
}

static inline void give_name(const char *from, const char *to) {
    char path[PATH_MAX + 64];
    strcpy(path, in_store(from));
    CHECK(rename(path, in_store(to)) == 0);
}

/* `suffix`: of the index's name, while it has not its own. */
static inline void begin_undo(struct undo *undo, uint64_t first, uint64_t last, const char *suffix) {
    char name[64], log[40];
    memset(undo, 0, sizeof *undo);
    undo->first = first;
    undo->last = last;
    memset(undo->id, (int)(first * 16 + last), sizeof undo->id);
    snprintf(log, sizeof log, "-%06llu.hrl", (unsigned long long)last);
    undo->log = make_file(undo_name(name, first, first == last ? ".hrl" : log));
    undo->end = granule; /* a log has a header, which no reader of data looks at */
    CHECK(ftruncate(undo->log, granule) == 0);
    undo->index = make_file("undo/beginning");
    put_header(undo, undo->index, UINT64_MAX, UINT64_MAX);
    give_name("undo/beginning", undo_name(name, first, suffix)); /* whoever sees it sees its header */
}

static inline uint8_t *new_row(struct undo *undo, uint64_t place, enum br_undo_kind kind) {
    CHECK(undo->count < most_rows);
    uint8_t *row = undo->rows[undo->count++];
    br_put64(row, place);
    row[24] = (uint8_t)kind;
    return row;
}

/* The row is whole: publish it. */
static inline void put_row(struct undo *undo, uint8_t *row) {
    br_put32(row + 28, br_crc32c(br_crc32c(0, undo->id, 16), row, 28));
    put(undo->index, row, BR_UNDO_ROW, BR_UNDO_HEADER + (undo->count - 1) * BR_UNDO_ROW);
}

/* Save a granule and the checksum of its block as they are in `content`, which has the block's old content.
 */
static inline void save(struct undo *undo, size_t number, const uint8_t *content) {
    uint64_t offset = (uint64_t)number * granule, first = offset / block;
    size_t length = least(granule, size - offset);
    bool zero = is_zero(content + offset, length);
    if (!undo->summed[first]) {
        uint8_t *row = new_row(undo, first, BR_UNDO_KNOWN);
        br_checksum_blocks(content + first * block, least(block, size - first * block), block, sum_seed,
                           row + 8);
        put_row(undo, row);
        undo->summed[first] = true;
    }
    if (!zero)
        put(undo->log, content + offset, length, undo->end);
    uint8_t *row = new_row(undo, offset, zero ? BR_UNDO_ZEROS : BR_UNDO_DATA);
    br_put64(row + 8, zero ? 0 : undo->end);
    br_put64(row + 16, length);
    put_row(undo, row);
    undo->end += zero ? 0 : granule;
}

static int by_place(const void *a, const void *b) {
    const uint8_t *one = a, *two = b;
    bool sum_one = one[24] >= BR_UNDO_KNOWN, sum_two = two[24] >= BR_UNDO_KNOWN;
    if (sum_one != sum_two)
        return sum_one ? 1 : -1;
    return br_get64(one) < br_get64(two) ? -1 : br_get64(one) > br_get64(two);
}

/* The sorted index takes the place of the growing one. */
static inline void seal(struct undo *undo) {
    char name[64];
    size_t sums = 0;
    qsort(undo->rows, undo->count, BR_UNDO_ROW, by_place);
    for (size_t i = 0; i < undo->count; i++)
        sums += undo->rows[i][24] >= BR_UNDO_KNOWN;
    int fd = make_file("undo/sorting");
    put_header(undo, fd, undo->count - sums, sums);
    put(fd, undo->rows, undo->count * BR_UNDO_ROW, BR_UNDO_HEADER);
    close(fd);
    close(undo->index);
    close(undo->log);
    give_name("undo/sorting", undo_name(name, undo->first, ".index"));
}

/* One write of an epoch in the order that rule 15 asks for: before-images are published, then blocks change.
 */
static inline void apply(struct undo *undo, uint64_t offset, size_t length, uint64_t *chance) {
    bool zero = random_number(chance) % 3 == 0;
    for (size_t at = offset / granule; at <= (offset + length - 1) / granule; at++)
        if (undo && !saved[undo->first][at]) {
            save(undo, at, points[undo->first - 1]);
            saved[undo->first][at] = true;
        }
    for (size_t at = 0; at < length; at++)
        now[offset + at] = zero ? 0 : (uint8_t)(random_number(chance) >> 40);
    put(image_fd, now + offset, length, offset);
    put_sums(offset, length);
}

static inline void apply_at_random(struct undo *undo, uint64_t *chance) {
    uint64_t offset = random_number(chance) % size;
    apply(undo, offset, least((size_t)(random_number(chance) % 30000) + 1, size - offset), chance);
}

/* A whole epoch: some writes, and a point. The first has no undo log. */
static inline void make_epoch(uint64_t epoch, int writes, uint64_t *chance) {
    static struct undo undo;
    if (epoch > 1)
        begin_undo(&undo, epoch, epoch, ".index");
    for (int i = 0; i < writes; i++)
        apply_at_random(epoch > 1 ? &undo : NULL, chance);
    if (epoch > 1)
        seal(&undo);
    memcpy(points[epoch], now, size);
}

static inline void make_store(uint64_t epochs, uint64_t *chance) {
    const char *temporary = getenv("TMPDIR");
    snprintf(store, sizeof store, "%s/overlay.XXXXXX", temporary ? temporary : "/tmp");
    CHECK(mkdtemp(store) && mkdir(in_store("undo"), 0700) == 0);
    memset(now, 0, sizeof now);
    memset(entries, 0, sizeof entries);
    memset(saved, 0, sizeof saved);
    image_fd = make_file("disk.img");
    table_fd = make_file("checksums");
    CHECK(ftruncate(image_fd, size) == 0 && ftruncate(table_fd, pages * BR_PAGE_SIZE) == 0);
    for (uint64_t epoch = 1; epoch <= epochs; epoch++)
        make_epoch(epoch, 25, chance);
}

static inline void remove_undo(uint64_t epoch, const char *suffix) {
    char name[64];
    unlink(in_store(undo_name(name, epoch, suffix)));
}

static inline void remove_store(void) {
    char command[PATH_MAX + 16];
    close(image_fd);
    close(table_fd);
    snprintf(command, sizeof command, "rm -r '%s'", store);
    CHECK(system(command) == 0);
}

#endif
