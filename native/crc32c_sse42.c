/* CRC-32C with the CPU's own instruction, which takes 8 bytes but answers only after three cycles: three
 * lanes run side by side and are joined.
 *
 * A register that L more zero bytes pass through is multiplied by x^(8L) modulo the polynomial. A carry-less
 * product of two bit-reversed 32-bit registers, taken as a bit-reversed 64-bit one, is x times their product,
 * and crc32 of it from 0 multiplies by x^32 and reduces. So the factor for L bytes is x^(8L - 33). */
#include "crc32c.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "bytes.h"

#define TARGET __attribute__((target("sse4.2,pclmul")))
#define LONG_LANE 1360 /* three of them just fit a page */
#define SHORT_LANE 168
/* x^(8L - 33), bits reversed, for L = one and two lanes. */
#define LONG_ONE 0x3f70cc6fu
#define LONG_TWO 0x5aa1f3cfu
#define SHORT_ONE 0x1b3d8f29u
#define SHORT_TWO 0xa60ce07bu

TARGET static inline uint64_t lanes(uint64_t crc, const uint8_t *data, size_t lane, uint32_t one,
                                    uint32_t two) {
    uint64_t middle = 0, last = 0;
    for (size_t at = 0; at < lane; at += 8) {
        crc = _mm_crc32_u64(crc, br_get64(data + at));
        middle = _mm_crc32_u64(middle, br_get64(data + lane + at));
        last = _mm_crc32_u64(last, br_get64(data + 2 * lane + at));
    }
    __m128i first = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)crc), _mm_cvtsi64_si128(two), 0);
    __m128i second = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)middle), _mm_cvtsi64_si128(one), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(first, second))) ^ last;
}

TARGET uint32_t br_crc32c_sse42(uint32_t value, const uint8_t *data, size_t length) {
    uint64_t crc = (uint32_t)~value;
    for (; length >= 3 * LONG_LANE; data += 3 * LONG_LANE, length -= 3 * LONG_LANE)
        crc = lanes(crc, data, LONG_LANE, LONG_ONE, LONG_TWO);
    for (; length >= 3 * SHORT_LANE; data += 3 * SHORT_LANE, length -= 3 * SHORT_LANE)
        crc = lanes(crc, data, SHORT_LANE, SHORT_ONE, SHORT_TWO);
    for (; length >= 8; data += 8, length -= 8)
        crc = _mm_crc32_u64(crc, br_get64(data));
    for (; length; data++, length--)
        crc = _mm_crc32_u8((uint32_t)crc, *data);
    return ~(uint32_t)crc;
}
#else
typedef int br_crc32c_sse42_is_absent;
#endif
