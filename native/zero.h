/* Zero blocks: recognised everywhere, so that sparse stays sparse. */
#ifndef BR_ZERO_H
#define BR_ZERO_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Whether all `length` bytes are zero; true for none. The first bytes settle most blocks that are not, and a
 * comparison of the block with itself, shifted, runs at the speed of memcmp for those that are. */
static inline int br_is_zero(const void *data, size_t length) {
    const uint8_t *bytes = data;
    size_t head = length < 16 ? length : 16;
    for (size_t index = 0; index < head; index++)
        if (bytes[index])
            return 0;
    return length == head || memcmp(bytes, bytes + head, length - head) == 0;
}

#endif
