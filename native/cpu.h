/* Which variant of the kernels runs: chosen once by what the CPU can do, or forced by name. */
#ifndef BR_CPU_H
#define BR_CPU_H

#include <stddef.h>
#include <stdint.h>

/* XXH3-128 of one block, canonical (big-endian) bytes. */
typedef void br_hash_fn(const uint8_t *data, size_t length, uint64_t seed, uint8_t out[16]);
/* CRC-32C; `value` is the CRC of what stood before `data`, 0 at the start. */
typedef uint32_t br_crc_fn(uint32_t value, const uint8_t *data, size_t length);

/* One variant. All variants give the same bits. `hash` is NULL in a build without xxhash.h. */
struct br_cpu {
    const char *name;
    br_hash_fn *hash;
    br_crc_fn *crc32c;
};

/* The variant in use; the best one that this CPU runs, unless another was selected. Safe in every thread. */
const struct br_cpu *br_cpu(void);

/* Force a variant. 0, or ENOENT: there is no such variant; ENOTSUP: this CPU lacks it. Not for use while
 * kernels run. */
int br_cpu_select(const char *name);

/* The names of the variants that this CPU runs, best last; returns how many there are, at most
 * BR_CPU_VARIANTS. */
#define BR_CPU_VARIANTS 3
size_t br_cpu_names(const char *names[BR_CPU_VARIANTS]);

/* CPUs that this process may use, at least 1 and at most 8. */
unsigned br_cpu_count(void);

#endif
