/* Range locks: overlapping ones exclude each other and are served in order, others never wait. */
#include "../rangelock.h"

#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

#include "check.h"

enum { cells = 64, threads = 8, rounds = 20000 };

static struct br_ranges ranges;
static uint64_t content[cells]; /* plain memory: the thread sanitizer sees every unprotected access */
static uint64_t seed;

static void *add(void *number) {
    uint64_t state = seed + (uintptr_t)number * 977;
    for (int round = 0; round < rounds; round++) {
        uint64_t start = random_number(&state) % cells, length = random_number(&state) % (cells - start) + 1;
        struct br_range range;
        br_range_lock(&ranges, &range, start, length);
        for (uint64_t cell = start; cell < start + length; cell++)
            content[cell]++;
        br_range_unlock(&ranges, &range);
    }
    return NULL;
}

static void overlapping_ranges_exclude_each_other(void) {
    pthread_t thread[threads];
    uint64_t wanted[cells] = {0};
    for (uintptr_t number = 0; number < threads; number++)
        CHECK(pthread_create(&thread[number], NULL, add, (void *)number) == 0);
    for (int number = 0; number < threads; number++)
        CHECK(pthread_join(thread[number], NULL) == 0);
    for (uint64_t number = 0; number < threads; number++) {
        uint64_t state = seed + number * 977;
        for (int round = 0; round < rounds; round++) {
            uint64_t start = random_number(&state) % cells;
            uint64_t length = random_number(&state) % (cells - start) + 1;
            for (uint64_t cell = start; cell < start + length; cell++)
                wanted[cell]++;
        }
    }
    for (int cell = 0; cell < cells; cell++)
        CHECK(content[cell] == wanted[cell]);
    CHECK(ranges.first == NULL && ranges.last == NULL);
}

struct waiter {
    uint64_t start, length;
    char name;
    pthread_t thread;
};

static char order[8];
static unsigned served;

static void *wait_for_it(void *argument) {
    const struct waiter *waiter = argument;
    struct br_range range;
    br_range_lock(&ranges, &range, waiter->start, waiter->length);
    order[__atomic_fetch_add(&served, 1, __ATOMIC_SEQ_CST)] = waiter->name;
    br_range_unlock(&ranges, &range);
    return NULL;
}

static unsigned listed(void) {
    unsigned count = 0;
    pthread_mutex_lock(ranges.mutex);
    for (const struct br_range *range = ranges.first; range; range = range->next)
        count++;
    pthread_mutex_unlock(ranges.mutex);
    return count;
}

static void start(struct waiter *waiter, unsigned then_listed) {
    CHECK(pthread_create(&waiter->thread, NULL, wait_for_it, waiter) == 0);
    while (listed() < then_listed)
        usleep(100);
}

/* b and c wait for a; d overlaps only c, which has nothing, and yet comes after it; e overlaps nobody. */
static void ranges_are_served_in_the_order_they_came(void) {
    struct br_range a;
    struct waiter b = {10, 20, 'b', 0}, c = {15, 30, 'c', 0}, d = {40, 20, 'd', 0}, e = {60, 10, 'e', 0};
    br_range_lock(&ranges, &a, 0, 20);
    start(&b, 2);
    start(&c, 3);
    start(&d, 4);
    CHECK(pthread_create(&e.thread, NULL, wait_for_it, &e) == 0);
    CHECK(pthread_join(e.thread, NULL) == 0); /* while all the others still wait */
    CHECK(served == 1);
    br_range_unlock(&ranges, &a);
    CHECK(pthread_join(b.thread, NULL) == 0 && pthread_join(c.thread, NULL) == 0);
    CHECK(pthread_join(d.thread, NULL) == 0);
    CHECK(order[0] == 'e' && order[1] == 'b' && order[2] == 'c' && order[3] == 'd');
}

static void a_length_past_the_end_means_the_whole_image(void) {
    struct br_range whole, other;
    br_range_lock(&ranges, &whole, 0, UINT64_MAX);
    CHECK(whole.end == UINT64_MAX);
    br_range_unlock(&ranges, &whole);
    br_range_lock(&ranges, &other, UINT64_MAX - 5, 100);
    CHECK(other.end == UINT64_MAX);
    br_range_unlock(&ranges, &other);
}

int main(void) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    br_ranges_init(&ranges, &mutex);
    seed = test_seed();
    overlapping_ranges_exclude_each_other();
    ranges_are_served_in_the_order_they_came();
    a_length_past_the_end_means_the_whole_image();
    puts("test_rangelock: ok");
    return 0;
}
