/* Reading a hole with pread fills the page cache with pages of zeros, so holes are never read. */
#include "cursor.h"

#include <errno.h>
#include <string.h>

#include "io.h"

struct br_cursor br_cursor_open(int fd, uint64_t start, uint64_t limit, int ends_in_zeros) {
    return (struct br_cursor){fd, ends_in_zeros, limit, start, start, 0};
}

int br_cursor_seek(struct br_cursor *cursor, uint64_t at, uint64_t *data) {
    if (at >= cursor->hole && at < cursor->limit) {
        int error = br_next_data(cursor->fd, at, cursor->limit, &cursor->data, &cursor->hole);
        if (error)
            return error;
    }
    *data = at > cursor->data ? at : cursor->data;
    if (*data >= cursor->hole)
        *data = cursor->limit;
    return 0;
}

static int read_data(struct br_cursor *cursor, uint8_t *buffer, uint64_t at, size_t length) {
    size_t got;
    int error = br_read_at(cursor->fd, buffer, length, at, &got);
    cursor->bytes_read += got;
    if (error || got == length)
        return error;
    if (!cursor->ends_in_zeros)
        return ENODATA;
    memset(buffer + got, 0, length - got);
    return 0;
}

int br_cursor_read(struct br_cursor *cursor, uint8_t *buffer, uint64_t at, size_t length) {
    for (uint64_t end = at + length, data; at < end;) {
        int error = br_cursor_seek(cursor, at, &data);
        if (error)
            return error;
        size_t gap = (size_t)((data < end ? data : end) - at);
        memset(buffer, 0, gap);
        buffer += gap;
        at += gap;
        if (at == end)
            break;
        size_t size = (size_t)((cursor->hole < end ? cursor->hole : end) - at);
        error = read_data(cursor, buffer, at, size);
        if (error)
            return error;
        buffer += size;
        at += size;
    }
    return 0;
}
