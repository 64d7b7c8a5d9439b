/* Pages of a stored checksum table: 255 entries of 16 bytes, the page's number u64, four zero bytes, CRC-32C
 * u32 of all before it behind the value `key`; all little-endian. A page without entries is 4096 zero bytes,
 * so that the table of a sparse image is a sparse file. */
#ifndef BR_TABLE_H
#define BR_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define BR_PAGE_SIZE 4096
#define BR_PAGE_ENTRIES 255
#define BR_PAGE_BYTES 4080 /* of entries */

/* `count` pages, numbered from first_page on. */
void br_pack_table(const uint8_t *entries, size_t count, uint64_t first_page, uint32_t key, uint8_t *pages);

/* The reverse. Sets bit i of `bad` where page i has a wrong CRC or number; its entries are then zero. Returns
 * how many. */
size_t br_unpack_table(const uint8_t *pages, size_t count, uint64_t first_page, uint32_t key,
                       uint8_t *entries, uint8_t *bad);

#endif
