/* XXH3-128 for CPUs with AVX-512. */
#include "hash.h"

#if BR_HAVE_XXHASH && defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif

#define XXH_VECTOR XXH_AVX512
#define BR_HASH_NAME br_hash_avx512
#include "hash_impl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int br_hash_avx512_is_absent;
#endif
