/* Most of what is compared is equal: a large stretch is compared first, its parts only where it differs. */
#include "compare.h"

#include <string.h>

#include "bitmap.h"
#include "bytes.h"
#include "checksum.h"
#include "zero.h"

#define STRETCH 256 /* table entries */

uint64_t br_compare_tables(const uint8_t *a, const uint8_t *b, size_t count, uint8_t *dirty) {
    uint64_t differing = 0;
    for (size_t start = 0; start < count; start += STRETCH) {
        size_t end = count - start < STRETCH ? count : start + STRETCH;
        if (memcmp(a + start * BR_ENTRY_SIZE, b + start * BR_ENTRY_SIZE, (end - start) * BR_ENTRY_SIZE) == 0)
            continue;
        for (size_t entry = start; entry < end; entry++) {
            const uint8_t *x = a + entry * BR_ENTRY_SIZE, *y = b + entry * BR_ENTRY_SIZE;
            if (br_get64(x) == br_get64(y) && br_get64(x + 8) == br_get64(y + 8))
                continue;
            dirty[entry >> 3] |= (uint8_t)(1u << (entry & 7));
            differing++;
        }
    }
    return differing;
}

uint64_t br_compare_buffers(const uint8_t *a, const uint8_t *b, size_t length, size_t granule, uint8_t *dirty,
                            uint64_t first) {
    uint64_t differing = 0;
    size_t stretch = granule < SIZE_MAX / 16 ? 16 * granule : granule;
    for (size_t start = 0, end; start < length; start = end) {
        end = length - start < stretch ? length : start + stretch;
        if (memcmp(a + start, b + start, end - start) == 0)
            continue;
        for (size_t at = start, size; at < end; at += size) {
            size = end - at < granule ? end - at : granule;
            if (memcmp(a + at, b + at, size) == 0)
                continue;
            br_bitmap_set_shared(dirty, first + at / granule);
            differing++;
        }
    }
    return differing;
}

uint64_t br_find_zeros(const uint8_t *data, size_t length, size_t granule, uint8_t *zeros) {
    uint64_t found = 0;
    for (size_t at = 0, index = 0, size; at < length; at += size, index++) {
        size = length - at < granule ? length - at : granule;
        if (!br_is_zero(data + at, size))
            continue;
        zeros[index >> 3] |= (uint8_t)(1u << (index & 7));
        found++;
    }
    return found;
}
