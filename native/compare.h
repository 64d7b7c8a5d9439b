/* Where two things in memory differ, and where one is zero: bits set in a bitmap; bits that are set already
 * stay. */
#ifndef BR_COMPARE_H
#define BR_COMPARE_H

#include <stddef.h>
#include <stdint.h>

/* Two checksum tables of `count` entries of 16 bytes; bit i where entry i differs. Returns how many do. */
uint64_t br_compare_tables(const uint8_t *a, const uint8_t *b, size_t count, uint8_t *dirty);

/* Two buffers; bit first + i where granule i differs, the last granule may be short. Other threads may set
 * bits of the same bitmap. Returns how many differ. */
uint64_t br_compare_buffers(const uint8_t *a, const uint8_t *b, size_t length, size_t granule, uint8_t *dirty,
                            uint64_t first);

/* Bit i where granule i is all zero; the last may be short. Returns how many are. */
uint64_t br_find_zeros(const uint8_t *data, size_t length, size_t granule, uint8_t *zeros);

#endif
