/* Both files chunk by chunk, two buffers that stay in the core's cache; where both have holes, nothing is
 * read. */
#include "files.h"

#include "compare.h"
#include "cursor.h"
#include "window.h"

struct job {
    int primary, replica;
    const struct br_blocks *blocks;
    size_t granule;
    uint8_t *dirty;
    uint64_t differing;
};

static int compare_chunk(struct job *job, struct br_cursor *primary, struct br_cursor *replica,
                         uint8_t *scratch, uint64_t at, size_t length) {
    const struct br_blocks *blocks = job->blocks;
    uint8_t *other = scratch + br_chunk_size(blocks);
    int error = br_cursor_read(primary, scratch, at, length);
    if (error == 0)
        error = br_cursor_read(replica, other, at, length);
    if (error)
        return error;
    br_checksum_blocks(scratch, length, blocks->block_size, blocks->seed, br_entry(blocks, at));
    uint64_t differing = br_compare_buffers(scratch, other, length, job->granule, job->dirty,
                                            (at - blocks->offset) / job->granule);
    __atomic_fetch_add(&job->differing, differing, __ATOMIC_RELAXED);
    return 0;
}

static int compare_window(void *context, void *scratch, size_t index) {
    struct job *job = context;
    uint64_t at, end, data, other;
    br_window(job->blocks, index, &at, &end);
    struct br_cursor primary = br_cursor_open(job->primary, at, end, 0);
    struct br_cursor replica = br_cursor_open(job->replica, at, end, 1);
    for (size_t length, chunk = br_chunk_size(job->blocks); at < end; at += length) {
        int error = br_cursor_seek(&primary, at, &data);
        if (error == 0)
            error = br_cursor_seek(&replica, at, &other);
        if (error)
            return error;
        data = data < other ? data : other;
        if (data >= end)
            break;
        at = br_block_start(job->blocks, data);
        length = chunk < end - at ? chunk : (size_t)(end - at);
        error = compare_chunk(job, &primary, &replica, scratch, at, length);
        if (error)
            return error;
    }
    return 0;
}

int br_compare_files(int primary, int replica, const struct br_blocks *blocks, size_t granule, uint8_t *dirty,
                     uint64_t *differing) {
    struct job job = {primary, replica, blocks, granule, dirty, 0};
    int error = br_for_windows(primary, blocks, 2, compare_window, &job);
    *differing = job.differing;
    return error;
}
