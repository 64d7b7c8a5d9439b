/* Any rows: refused, or the same disk as when they are painted one after the other. Each four bytes make one
 * row on a small disk; bit 7 of the third makes it hostile. */
#include "../coalesce.h"

#include <stdlib.h>
#include <string.h>

#include "../bytes.h"

enum { disk_size = 512, most_rows = 200 };

struct cell {
    uint64_t source;
    uint32_t log, operation;
};

static void paint(struct cell *disk, const uint8_t *rows, size_t count) {
    for (; count; count--, rows += BR_ROW_SIZE) {
        uint64_t offset = br_get64(rows), length = br_get64(rows + 8), source = br_get64(rows + 16);
        uint32_t operation = br_get32(rows + 28);
        for (uint64_t at = 0; at < length; at++)
            disk[offset + at] = (struct cell){source + (operation == BR_WRITE_OPERATION ? at : 0),
                                              br_get32(rows + 24), operation};
    }
}

static int is_in_order(const uint8_t *rows, size_t count) {
    for (size_t index = 1; index < count; index++, rows += BR_ROW_SIZE)
        if (br_get64(rows) + br_get64(rows + 8) > br_get64(rows + BR_ROW_SIZE))
            return 0;
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t count = size / 4 < most_rows ? size / 4 : most_rows, out_count;
    uint8_t *rows = calloc(count + 1, BR_ROW_SIZE), *out = malloc(2 * count * BR_ROW_SIZE + 1);
    int hostile = 0;
    for (size_t index = 0; index < count; index++, data += 4) {
        uint8_t *row = rows + index * BR_ROW_SIZE;
        uint32_t operation = data[2] & 1 ? BR_WRITE_OPERATION : BR_ZERO_OPERATION;
        hostile |= data[2] >> 7;
        br_put64(row, data[0]);
        br_put64(row + 8, data[2] >> 7 ? UINT64_MAX - data[1] : data[1]);
        br_put64(row + 16, operation == BR_WRITE_OPERATION ? data[3] : UINT64_MAX);
        br_put32(row + 24, data[2] >> 1 & 1);
        br_put32(row + 28, operation);
    }
    struct cell before[disk_size] = {{0, 0, 0}}, after[disk_size] = {{0, 0, 0}};
    int error = br_coalesce(rows, count, out, &out_count);
    if (error == 0 && !hostile) {
        paint(before, rows, count);
        paint(after, out, out_count);
        if (memcmp(before, after, sizeof before) != 0 || !is_in_order(out, out_count))
            abort();
    }
    free(rows);
    free(out);
    return 0;
}
