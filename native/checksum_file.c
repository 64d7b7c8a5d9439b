/* The table of a file: read, recognise zeros, hash, all while the chunk is in the core's cache. */
#include "files.h"

#include "cursor.h"
#include "window.h"

struct job {
    int fd;
    const struct br_blocks *blocks;
    uint64_t bytes_read;
};

static int checksum_window(void *context, void *scratch, size_t index) {
    struct job *job = context;
    const struct br_blocks *blocks = job->blocks;
    uint64_t at, end, data;
    br_window(blocks, index, &at, &end);
    struct br_cursor cursor = br_cursor_open(job->fd, at, end, 0);
    for (size_t length; at < end; at += length) {
        int error = br_cursor_seek(&cursor, at, &data);
        if (error)
            return error;
        if (data >= end)
            break;
        at = br_block_start(blocks, data);
        length = br_chunk_size(blocks) < end - at ? br_chunk_size(blocks) : (size_t)(end - at);
        error = br_cursor_read(&cursor, scratch, at, length);
        if (error)
            return error;
        br_checksum_blocks(scratch, length, blocks->block_size, blocks->seed, br_entry(blocks, at));
    }
    __atomic_fetch_add(&job->bytes_read, cursor.bytes_read, __ATOMIC_RELAXED);
    return 0;
}

int br_checksum_file(int fd, const struct br_blocks *blocks, uint64_t *bytes_read) {
    struct job job = {fd, blocks, 0};
    int error = br_for_windows(fd, blocks, 1, checksum_window, &job);
    *bytes_read = job.bytes_read;
    return error;
}
