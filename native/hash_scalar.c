/* XXH3-128 for any CPU: portable C on x86-64 (where it stands for comparison), what the compiler offers
 * elsewhere. */
#include "hash.h"

#if BR_HAVE_XXHASH
#include <string.h>

#if defined(__x86_64__)
#define XXH_VECTOR XXH_SCALAR
#endif
#define BR_HASH_NAME br_hash_scalar
#include "hash_impl.h"
#else
typedef int br_hash_scalar_is_absent;
#endif
