/* The size is asked before and after: what a file that shrinks meanwhile loses would pass for a hole. */
#include "window.h"

#include <errno.h>
#include <string.h>

#include "io.h"

#define CHUNKS 16 /* of a window */

void br_window(const struct br_blocks *blocks, size_t index, uint64_t *start, uint64_t *end) {
    uint64_t size = (uint64_t)CHUNKS * br_chunk_size(blocks), done = index * size;
    *start = blocks->offset + done;
    *end = *start + (blocks->length - done < size ? blocks->length - done : size);
}

static int check_size(int fd, const struct br_blocks *blocks) {
    uint64_t size;
    int error = br_file_size(fd, &size);
    if (error)
        return error;
    return blocks->offset <= size && blocks->length <= size - blocks->offset ? 0 : ENODATA;
}

int br_for_windows(int fd, const struct br_blocks *blocks, size_t chunks, br_work_fn *work, void *context) {
    int error = check_size(fd, blocks);
    if (error)
        return error;
    memset(blocks->table, 0, br_block_count(blocks->length, blocks->block_size) * BR_ENTRY_SIZE);
    size_t chunk = br_chunk_size(blocks), count = br_block_count(blocks->length, (uint64_t)CHUNKS * chunk);
    error = br_parallel(blocks->threads, count, chunks * chunk, work, context);
    return error ? error : check_size(fd, blocks);
}
