/* XXH3-128 of one block in every variant; which one runs is decided in cpu.c. */
#ifndef BR_HASH_H
#define BR_HASH_H

#include "cpu.h"

#if __has_include(<xxhash.h>) && !defined(BLOCKREPLICA_NO_XXHASH_H)
#define BR_HAVE_XXHASH 1
#define BR_HASH(function) function
br_hash_fn br_hash_scalar;
#if defined(__x86_64__)
br_hash_fn br_hash_sse2, br_hash_avx2;
#endif
#else
#define BR_HAVE_XXHASH 0
#define BR_HASH(function) NULL
#endif

#endif
