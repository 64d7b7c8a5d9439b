/* Random rows against a disk that is painted byte by byte, and the worst overlaps at size. */
#include "../coalesce.h"

#include <errno.h>
#include <string.h>

#include "../bytes.h"
#include "check.h"

enum { disk = 200, most = 60, many = 300000 };

static void put_row(uint8_t *row, uint64_t offset, uint64_t length, uint64_t source, uint32_t operation) {
    br_put64(row, offset);
    br_put64(row + 8, length);
    br_put64(row + 16, operation == BR_WRITE_OPERATION ? source : UINT64_MAX);
    br_put32(row + 24, 0);
    br_put32(row + 28, operation);
}

/* What each byte of the disk comes from: 0 nothing, 1 zero, else the place in the log. */
static void paint(uint64_t *image, const uint8_t *rows, size_t count) {
    memset(image, 0, disk * sizeof *image);
    for (; count; count--, rows += BR_ROW_SIZE)
        for (uint64_t at = 0; at < br_get64(rows + 8); at++)
            image[br_get64(rows) + at] =
                br_get32(rows + 28) == BR_WRITE_OPERATION ? br_get64(rows + 16) + at : 1;
}

static void random_rows_are_painted_alike(uint64_t *seed) {
    size_t count = random_number(seed) % most, out_count;
    uint8_t *rows = malloc(count * BR_ROW_SIZE + 1), *out = malloc(2 * count * BR_ROW_SIZE + 1);
    for (size_t index = 0; index < count; index++) {
        uint64_t offset = random_number(seed) % disk, length = random_number(seed) % (disk - offset + 1);
        put_row(rows + index * BR_ROW_SIZE, offset, length % 50, random_number(seed) % 4 * 100 + 10,
                1 + (random_number(seed) % 3 == 0));
    }
    uint64_t before[disk], after[disk];
    CHECK(br_coalesce(rows, count, out, &out_count) == 0 && out_count <= 2 * count);
    paint(before, rows, count);
    paint(after, out, out_count);
    CHECK(memcmp(before, after, sizeof before) == 0);
    for (size_t index = 1; index < out_count; index++) {
        const uint8_t *row = out + index * BR_ROW_SIZE, *last = row - BR_ROW_SIZE;
        CHECK(br_get64(last) + br_get64(last + 8) <= br_get64(row));
    }
    free(rows);
    free(out);
}

/* Rows nested in one another, outermost first (which leaves them all visible) or last (which leaves one). */
static void nested_rows_leave_what_they_must(int outermost_first) {
    uint8_t *rows = malloc((size_t)many * BR_ROW_SIZE), *out = malloc((size_t)many * 2 * BR_ROW_SIZE);
    size_t out_count;
    for (uint64_t index = 0; index < many; index++) {
        uint64_t depth = outermost_first ? index : many - 1 - index;
        put_row(rows + index * BR_ROW_SIZE, depth, 2 * (many - depth), index << 30, BR_WRITE_OPERATION);
    }
    CHECK(br_coalesce(rows, many, out, &out_count) == 0);
    CHECK(out_count == (outermost_first ? 2 * many - 1 : 1));
    free(rows);
    free(out);
}

static void unsound_rows_are_refused(void) {
    uint8_t row[BR_ROW_SIZE], out[2 * BR_ROW_SIZE] = {0};
    size_t count;
    put_row(row, 1, UINT64_MAX, 0, BR_ZERO_OPERATION);
    CHECK(br_coalesce(row, 1, out, &count) == EINVAL && count == 0 && out[0] == 0);
    put_row(row, 0, 2, UINT64_MAX - 1, BR_WRITE_OPERATION);
    CHECK(br_coalesce(row, 1, out, &count) == EINVAL && count == 0 && out[0] == 0);
    put_row(row, 0, 2, 0, 3);
    CHECK(br_coalesce(row, 1, out, &count) == EINVAL && count == 0 && out[0] == 0);
    CHECK(br_coalesce(row, 0, out, &count) == 0 && count == 0);
}

int main(void) {
    uint64_t seed = test_seed();
    for (int round = 0; round < 3000; round++)
        random_rows_are_painted_alike(&seed);
    nested_rows_leave_what_they_must(1);
    nested_rows_leave_what_they_must(0);
    unsound_rows_are_refused();
    puts("coalesce: right");
    return 0;
}
