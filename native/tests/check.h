/* What the C tests have in common: a check that says where it failed, and numbers that a seed repeats. */
#ifndef BR_TESTS_CHECK_H
#define BR_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: failed: %s\n", __FILE__, __LINE__, __func__, #condition);            \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* xorshift64*: the same numbers for the same seed. */
static inline uint64_t random_number(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

/* The seed of this run: TEST_SEED, or one from the clock; printed, so that a failure can be repeated. */
static inline uint64_t test_seed(void) {
    const char *given = getenv("TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t value = given ? strtoull(given, NULL, 10) : (uint64_t)now.tv_nsec | 1;
    printf("TEST_SEED=%llu\n", (unsigned long long)value);
    return value;
}

#endif
