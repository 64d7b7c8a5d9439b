/* How the file kernels cut their extent: windows that threads take, chunks that stay in a core's cache. */
#ifndef BR_WINDOW_H
#define BR_WINDOW_H

#include "checksum.h"
#include "files.h"
#include "threads.h"

/* A quarter of a MiB, or one block: the buffer that a thread reads into, checksums, and writes from. */
static inline size_t br_chunk_size(const struct br_blocks *blocks) {
    size_t target = 256 << 10;
    return blocks->block_size < target ? target / blocks->block_size * blocks->block_size
                                       : blocks->block_size;
}

/* The extent of window `index`, [*start, *end). */
void br_window(const struct br_blocks *blocks, size_t index, uint64_t *start, uint64_t *end);

/* The beginning of the block that `at` lies in. */
static inline uint64_t br_block_start(const struct br_blocks *blocks, uint64_t at) {
    return at - (at - blocks->offset) % blocks->block_size;
}

/* The table entry of the block that begins at `at`. */
static inline uint8_t *br_entry(const struct br_blocks *blocks, uint64_t at) {
    return blocks->table + (at - blocks->offset) / blocks->block_size * BR_ENTRY_SIZE;
}

/* Clear the table, run `work` for every window in threads with `chunks` chunks of scratch, then check that
 * `fd` still reaches behind the extent. */
int br_for_windows(int fd, const struct br_blocks *blocks, size_t chunks, br_work_fn *work, void *context);

#endif
