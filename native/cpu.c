/* The table of variants. A wider one is here only because it measured faster in the checksum of a whole file:
 * AVX2 by a fifth; AVX-512 gained 3 % more, not worth its clock rates elsewhere, so there is none. A variant
 * asked for by name that cannot run is an error, never a silent fallback. */
#include "cpu.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "crc32c.h"
#include "hash.h"

static int always(void) {
    return 1;
}

#if defined(__x86_64__)
static int has_sse42(void) {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

static int has_avx2(void) {
    return has_sse42() && __builtin_cpu_supports("avx2");
}
#endif

/* Best last. */
static const struct {
    struct br_cpu cpu;
    int (*runs)(void);
} variants[] = {
    {{"scalar", BR_HASH(br_hash_scalar), br_crc32c_scalar}, always},
#if defined(__x86_64__)
    {{"sse42", BR_HASH(br_hash_sse2), br_crc32c_sse42}, has_sse42},
    {{"avx2", BR_HASH(br_hash_avx2), br_crc32c_sse42}, has_avx2},
#endif
};
#define COUNT (sizeof variants / sizeof *variants)
_Static_assert(COUNT <= BR_CPU_VARIANTS, "BR_CPU_VARIANTS");

static const struct br_cpu *current;

static const struct br_cpu *best(void) {
    size_t index = COUNT;
    while (!variants[--index].runs())
        ;
    return &variants[index].cpu;
}

const struct br_cpu *br_cpu(void) {
    const struct br_cpu *cpu = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
    if (cpu)
        return cpu;
    cpu = best(); /* two threads that meet here find the same */
    __atomic_store_n(&current, cpu, __ATOMIC_RELEASE);
    return cpu;
}

int br_cpu_select(const char *name) {
    for (size_t index = 0; index < COUNT; index++) {
        if (strcmp(variants[index].cpu.name, name) != 0)
            continue;
        if (!variants[index].runs())
            return ENOTSUP;
        __atomic_store_n(&current, &variants[index].cpu, __ATOMIC_RELEASE);
        return 0;
    }
    return ENOENT;
}

size_t br_cpu_names(const char *names[BR_CPU_VARIANTS]) {
    size_t count = 0;
    for (size_t index = 0; index < COUNT; index++)
        if (variants[index].runs())
            names[count++] = variants[index].cpu.name;
    return count;
}

unsigned br_cpu_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) /* more CPUs than the set has room for */
        return 8;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count > 8 ? 8 : (unsigned)count;
}
