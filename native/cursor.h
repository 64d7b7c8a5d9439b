/* Walks a file that may be sparse: knows the next run of data, and reads without touching the holes. */
#ifndef BR_CURSOR_H
#define BR_CURSOR_H

#include <stddef.h>
#include <stdint.h>

struct br_cursor {
    int fd;
    int ends_in_zeros;   /* what lies behind the end of the file reads as zeros; else it is ENODATA */
    uint64_t limit;      /* nothing at or behind it is looked at */
    uint64_t data, hole; /* the run of data that was found last */
    uint64_t bytes_read;
};

/* A cursor on `fd` over what lies in [start, limit). */
struct br_cursor br_cursor_open(int fd, uint64_t start, uint64_t limit, int ends_in_zeros);

/* Find the first byte of data at or behind `at` (ascending from call to call): *data, or the limit. 0 or an
 * errno. */
int br_cursor_seek(struct br_cursor *cursor, uint64_t at, uint64_t *data);

/* Fill `buffer` with [at, at + length), holes as zeros. 0 or an errno. */
int br_cursor_read(struct br_cursor *cursor, uint8_t *buffer, uint64_t at, size_t length);

#endif
