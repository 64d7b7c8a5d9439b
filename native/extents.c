/* Rows that continue one another in the file and in the buffer are one system call. */
#include "io.h"

#include <string.h>

#include "bytes.h"

int br_extents_fit(const uint8_t *rows, size_t count, uint64_t buffer_size) {
    for (; count; count--, rows += BR_EXTENT_SIZE) {
        uint64_t offset = br_get64(rows), length = br_get64(rows + 8), at = br_get64(rows + 16);
        if (offset > INT64_MAX || length > INT64_MAX - offset || at > buffer_size ||
            length > buffer_size - at)
            return 0;
    }
    return 1;
}

struct run {
    uint64_t offset, length, at;
};

/* Join the rows from *index on that continue one another; *index moves behind them. */
static struct run next_run(const uint8_t *rows, size_t count, size_t *index) {
    const uint8_t *row = rows + *index * BR_EXTENT_SIZE;
    struct run run = {br_get64(row), br_get64(row + 8), br_get64(row + 16)};
    while (++*index < count) {
        row += BR_EXTENT_SIZE;
        if (br_get64(row) != run.offset + run.length || br_get64(row + 16) != run.at + run.length)
            break;
        run.length += br_get64(row + 8);
    }
    return run;
}

int br_read_extents(int fd, const uint8_t *rows, size_t count, uint8_t *buffer) {
    for (size_t index = 0; index < count;) {
        struct run run = next_run(rows, count, &index);
        size_t got;
        int error = br_read_at(fd, buffer + run.at, run.length, run.offset, &got);
        if (error)
            return error;
        memset(buffer + run.at + got, 0, run.length - got);
    }
    return 0;
}

int br_write_extents(int fd, const uint8_t *rows, size_t count, const uint8_t *buffer) {
    for (size_t index = 0; index < count;) {
        struct run run = next_run(rows, count, &index);
        int error = br_write_at(fd, buffer + run.at, run.length, run.offset);
        if (error)
            return error;
    }
    return 0;
}
