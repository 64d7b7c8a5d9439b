/* CRC-32C (Castagnoli), the checksum of small records: log entries, metadata blocks, table pages. */
#ifndef BR_CRC32C_H
#define BR_CRC32C_H

#include "cpu.h"

/* The CRC of `data` behind bytes whose CRC is `value` (0: nothing stood before):
 * br_crc32c(br_crc32c(0, a), b) is the CRC of a and b joined. */
static inline uint32_t br_crc32c(uint32_t value, const void *data, size_t length) {
    return br_cpu()->crc32c(value, (const uint8_t *)data, length);
}

/* The CRC of the first `length` bytes of each of `count` rows of `row_size` bytes; little-endian into out. */
void br_crc32c_rows(uint32_t value, const uint8_t *rows, size_t count, size_t row_size, size_t length,
                    uint8_t *out);

/* The variants; callers use br_crc32c. */
br_crc_fn br_crc32c_scalar;
#if defined(__x86_64__)
br_crc_fn br_crc32c_sse42;
#endif

#endif
