/* The body of one hash_*.c file: xxhash.h compiled for the vector width that the file chose before this line.
 * No include guard and no prototype: each file includes it once, with BR_HASH_NAME and XXH_VECTOR set. */
#define XXH_INLINE_ALL
#include <xxhash.h>

void BR_HASH_NAME(const uint8_t *data, size_t length, uint64_t seed, uint8_t out[16]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(data, length, seed));
    memcpy(out, canonical.digest, 16);
}
