/* The number in the page finds a page that stands where another belongs; the key, one from another table or
 * life. */
#include "table.h"

#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "crc32c.h"
#include "zero.h"

enum { NUMBER_AT = BR_PAGE_BYTES, PADDING_AT = 4088, CRC_AT = 4092 };
_Static_assert(BR_PAGE_ENTRIES *BR_ENTRY_SIZE == BR_PAGE_BYTES, "entries of a page");

void br_pack_table(const uint8_t *entries, size_t count, uint64_t first_page, uint32_t key, uint8_t *pages) {
    for (size_t index = 0; index < count; index++, entries += BR_PAGE_BYTES, pages += BR_PAGE_SIZE) {
        memcpy(pages, entries, BR_PAGE_BYTES);
        memset(pages + BR_PAGE_BYTES, 0, BR_PAGE_SIZE - BR_PAGE_BYTES);
        if (br_is_zero(entries, BR_PAGE_BYTES))
            continue;
        br_put64(pages + NUMBER_AT, first_page + index);
        br_put32(pages + CRC_AT, br_crc32c(key, pages, CRC_AT));
    }
}

static int page_is_good(const uint8_t *page, uint64_t number, uint32_t key) {
    if (br_is_zero(page, BR_PAGE_SIZE))
        return 1;
    return br_get64(page + NUMBER_AT) == number && br_get32(page + PADDING_AT) == 0 &&
           br_get32(page + CRC_AT) == br_crc32c(key, page, CRC_AT);
}

size_t br_unpack_table(const uint8_t *pages, size_t count, uint64_t first_page, uint32_t key,
                       uint8_t *entries, uint8_t *bad) {
    size_t wrong = 0;
    for (size_t index = 0; index < count; index++, entries += BR_PAGE_BYTES, pages += BR_PAGE_SIZE) {
        if (page_is_good(pages, first_page + index, key)) {
            memcpy(entries, pages, BR_PAGE_BYTES);
            continue;
        }
        memset(entries, 0, BR_PAGE_BYTES);
        bad[index >> 3] |= (uint8_t)(1u << (index & 7));
        wrong++;
    }
    return wrong;
}
