/* The checksum table of a buffer. Only in builds with xxhash.h (BR_HAVE_XXHASH in hash.h). */
#ifndef BR_CHECKSUM_H
#define BR_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

#define BR_ENTRY_SIZE 16

/* How many blocks `length` bytes make; the last may be short. block_size > 0. */
static inline uint64_t br_block_count(uint64_t length, uint64_t block_size) {
    return length / block_size + (length % block_size != 0);
}

/* One table entry of 16 bytes for each block: XXH3-128 with `seed`, canonical bytes; sixteen zero bytes for a
 * block of zeros. The last block may be short and is hashed over its own length. */
void br_checksum_blocks(const uint8_t *data, size_t length, size_t block_size, uint64_t seed, uint8_t *table);

/* The same in several threads (0: one for each CPU). */
int br_checksum_buffer(const uint8_t *data, size_t length, size_t block_size, uint64_t seed, unsigned threads,
                       uint8_t *table);

#endif
