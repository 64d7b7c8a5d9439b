/* SSE2 is part of x86-64 and adds 16 bytes an instruction, so no variant is chosen at run time here. */
#include "bytesum.h"

#if defined(__SSE2__)
#include <emmintrin.h>

static uint64_t sum_vectors(const uint8_t *data, size_t vectors) {
    __m128i zero = _mm_setzero_si128(), even = zero, odd = zero;
    for (; vectors >= 2; vectors -= 2, data += 32) {
        even = _mm_add_epi64(even, _mm_sad_epu8(_mm_loadu_si128((const __m128i *)data), zero));
        odd = _mm_add_epi64(odd, _mm_sad_epu8(_mm_loadu_si128((const __m128i *)(data + 16)), zero));
    }
    if (vectors)
        even = _mm_add_epi64(even, _mm_sad_epu8(_mm_loadu_si128((const __m128i *)data), zero));
    even = _mm_add_epi64(even, odd);
    return (uint64_t)_mm_cvtsi128_si64(even) + (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(even, even));
}
#else
static uint64_t sum_vectors(const uint8_t *data, size_t vectors) {
    uint64_t sum = 0;
    for (size_t index = 0; index < vectors * 16; index++)
        sum += data[index];
    return sum;
}
#endif

uint32_t br_byte_sum(const void *data, size_t length) {
    const uint8_t *bytes = data;
    uint64_t sum = sum_vectors(bytes, length / 16);
    for (size_t index = length / 16 * 16; index < length; index++)
        sum += bytes[index];
    return (uint32_t)sum;
}
