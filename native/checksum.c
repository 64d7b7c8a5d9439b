/* Entry of a zero block: never its hash, so that the table of a sparse image is sparse too. */
#include "checksum.h"

#include <string.h>

#include "hash.h"
#include "threads.h"
#include "zero.h"

#define PIECE (4 << 20) /* bytes that a thread takes at a time */

void br_checksum_blocks(const uint8_t *data, size_t length, size_t block_size, uint64_t seed,
                        uint8_t *table) {
    br_hash_fn *hash = br_cpu()->hash;
    for (; length; table += BR_ENTRY_SIZE) {
        size_t size = length < block_size ? length : block_size;
        if (br_is_zero(data, size))
            memset(table, 0, BR_ENTRY_SIZE);
        else
            hash(data, size, seed, table);
        data += size;
        length -= size;
    }
}

struct job {
    const uint8_t *data;
    size_t length, block_size, piece;
    uint64_t seed;
    uint8_t *table;
};

static int checksum_piece(void *context, void *scratch, size_t index) {
    (void)scratch;
    const struct job *job = context;
    size_t start = index * job->piece;
    size_t length = job->length - start < job->piece ? job->length - start : job->piece;
    br_checksum_blocks(job->data + start, length, job->block_size, job->seed,
                       job->table + start / job->block_size * BR_ENTRY_SIZE);
    return 0;
}

int br_checksum_buffer(const uint8_t *data, size_t length, size_t block_size, uint64_t seed, unsigned threads,
                       uint8_t *table) {
    size_t blocks = block_size < PIECE ? PIECE / block_size : 1;
    if (block_size > length)
        block_size = length; /* one short block; keeps the product below from overflowing */
    struct job job = {data, length, block_size, blocks * block_size, seed, table};
    return br_parallel(threads, length ? br_block_count(length, job.piece) : 0, 0, checksum_piece, &job);
}
