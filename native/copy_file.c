/* One pass over the source: each chunk is read, checksummed and written while it is in the core's cache.
 * Behind the copy the system is told to begin writing back: callers fsync at the end, and 2.2 GiB with that
 * fsync take 1.2 s instead of 2.0. */
#include "files.h"

#include <fcntl.h>

#include <fcntl.h>

#include "cpu.h"
#include "cursor.h"
#include "io.h"
#include "window.h"
#include "zero.h"

#define GRANULE 4096
/* What is written at once, as by cp. Larger pieces ask the page cache for larger folios, whose memory is more
 * often fresh, and hold the file's lock longer: 2.4 GiB take 1.8 s in pieces of 256 KiB, 1.2 s in these. */
#define PIECE (128u << 10)

struct job {
    int source, target, punch, lazy;
    const struct br_blocks *blocks;
    uint64_t bytes_written;
};

/* The source is zero in [start, end). Only data is punched: punching a hole costs as much and gains nothing.
 */
static int clear_target(const struct job *job, uint64_t start, uint64_t end) {
    while (job->punch && start < end) {
        uint64_t data, hole;
        int error = br_next_data(job->target, start, end, &data, &hole);
        if (error == 0 && data < end)
            error = br_punch_hole(job->target, data, hole - data);
        if (error)
            return error;
        start = hole;
    }
    return 0;
}

/* Bytes up to the next multiple of the granule in the file, at most `left`. */
static size_t granule_at(uint64_t at, size_t left) {
    size_t size = GRANULE - (size_t)(at % GRANULE);
    return size < left ? size : left;
}

/* Write what is not zero of the chunk, clear the target where it is. */
static int write_chunk(struct job *job, const uint8_t *data, uint64_t at, size_t length) {
    for (size_t done = 0, run; done < length; done += run) {
        run = granule_at(at + done, length - done);
        int zero = br_is_zero(data + done, run);
        while (done + run < length) {
            size_t next = granule_at(at + done + run, length - done - run);
            if (br_is_zero(data + done + run, next) != zero)
                break;
            run += next;
        }
        int error = zero ? clear_target(job, at + done, at + done + run)
                         : br_write_at(job->target, data + done, run, at + done);
        if (error)
            return error;
        if (!zero)
            __atomic_fetch_add(&job->bytes_written, run, __ATOMIC_RELAXED);
    }
    return 0;
}

static size_t piece_size(size_t block_size) {
    return block_size < PIECE ? PIECE / block_size * block_size : block_size;
}

static int copy_window(void *context, void *scratch, size_t index) {
    struct job *job = context;
    const struct br_blocks *blocks = job->blocks;
    uint64_t at, end, data;
    br_window(blocks, index, &at, &end);
    struct br_cursor cursor = br_cursor_open(job->source, at, end, 0);
    for (size_t length; at < end; at += length) {
        int error = br_cursor_seek(&cursor, at, &data);
        if (error)
            return error;
        uint64_t next = data < end ? br_block_start(blocks, data) : end;
        error = clear_target(job, at, next);
        if (error || next == end)
            return error;
        at = next;
        length = piece_size(blocks->block_size);
        if (length > end - at)
            length = (size_t)(end - at);
        error = br_cursor_read(&cursor, scratch, at, length);
        if (error)
            return error;
        br_checksum_blocks(scratch, length, blocks->block_size, blocks->seed, br_entry(blocks, at));
        error = write_chunk(job, scratch, at, length);
        if (error)
            return error;
    }
    return 0;
}

/* A hint: what goes wrong with it, the caller's fsync tells. */
static void begin_writeback(const struct job *job, size_t index) {
    uint64_t start, end;
    br_window(job->blocks, index, &start, &end);
    (void)!sync_file_range(job->target, (off_t)start, (off_t)(end - start), SYNC_FILE_RANGE_WRITE);
}

static int copy_and_begin_writeback(void *context, void *scratch, size_t index) {
    const struct job *job = context;
    int error = copy_window(context, scratch, index);
    if (error == 0 && !job->lazy)
        begin_writeback(context, index);
    return error;
}

int br_copy_file(int source, int target, const struct br_blocks *blocks, struct br_copy_how how,
                 uint64_t *bytes_written) {
    struct br_blocks few = *blocks;
    if (few.threads == 0) /* writes to one file go one at a time: more threads would only wait */
        few.threads = br_cpu_count() < 2 ? 1 : 2;
    struct job job = {source, target, how.punch, how.lazy, &few, 0};
    int error = br_for_windows(source, &few, 1, copy_and_begin_writeback, &job);
    *bytes_written = job.bytes_written;
    return error;
}
