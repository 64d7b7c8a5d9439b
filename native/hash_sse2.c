/* XXH3-128 for any x86-64 CPU. */
#include "hash.h"

#if BR_HAVE_XXHASH && defined(__x86_64__)
#include <string.h>

#define XXH_VECTOR XXH_SSE2
#define BR_HASH_NAME br_hash_sse2
#include "hash_impl.h"
#else
typedef int br_hash_sse2_is_absent;
#endif
