/* A pivot that is killed or cut off from power at any call, or of which any call fails: no write is lost that
 * was answered, or flushed. */
#include "pivots.h"

#ifdef __SANITIZE_THREAD__ /* slow, and most of it has one thread */
enum { lives = 20, deaths = 1 };
#else
enum { lives = 400, deaths = 12 };
#endif

/* Die at one of the next calls. Returns the error of what was under way then, or 0. */
static int live(struct memory *memory, struct br_pivot *pivot, uint8_t before[size]) {
    int error = 0;
    memory->dies_at = memory->calls + 1 + (long)(random_number(&chance) % 150);
    for (int round = 0; round < rounds && !error; round++) {
        memcpy(before, now, size);
        error = do_something(pivot);
    }
    if (!error)
        memory_die(memory); /* it has lived long enough */
    br_pivot_close(pivot);
    return error;
}

/* Where the last call died, each byte may be as before or as it was to be; `now` becomes what is there. */
static void is_what_was_answered(struct br_pivot *pivot, const uint8_t *before) {
    static uint8_t found[size];
    CHECK(br_pivot_pread(pivot, found, size, 0) == 0);
    for (size_t at = 0; at < size; at++)
        CHECK(found[at] == now[at] || found[at] == before[at]);
    memcpy(now, found, size);
    note(0, size);
}

static void is_what_was_flushed(struct br_pivot *pivot) {
    static uint8_t found[size];
    CHECK(br_pivot_pread(pivot, found, size, 0) == 0);
    for (size_t at = 0; at < size; at++)
        CHECK(may[at][found[at] / 8] >> found[at] % 8 & 1);
    memcpy(now, found, size);
    note_flushed();
}

/* After a power cut nothing says what is there is durable, but what was read is what is there from now on. */
static void killed_and_cut_off_no_write_is_lost(unsigned power) {
    static uint8_t before[size];
    struct memory memory;
    struct br_pivot *pivot;
    uint8_t boot = 1;
    memory_init(&memory, chance);
    make_content();
    note_flushed();
    for (int alive = 0; alive < 12; alive++) {
        CHECK(open_pivot(&memory, boot, &pivot) == 0);
        if (alive && !power)
            is_what_was_answered(pivot, before);
        if (alive && power)
            is_what_was_flushed(pivot);
        live(&memory, pivot, before);
        memory_revive(&memory);
        if (power) {
            memory_cut_power(&memory);
            boot++;
        }
    }
    CHECK(open_pivot(&memory, boot, &pivot) == 0);
    power ? is_what_was_flushed(pivot) : is_what_was_answered(pivot, before);
    finish(pivot);
    holds(pivot, now);
    CHECK(br_pivot_close(pivot) == 0);
    memory_free(&memory);
    CHECK(points_open == 0);
}

/* Power goes in the first calls: the next open begins, or goes on. */
static void cut_off_at_its_beginning_it_begins_again(void) {
    for (long dies = 1; dies < 40; dies++) {
        struct memory memory;
        struct br_pivot *pivot;
        memory_init(&memory, chance + (uint64_t)dies * 2);
        make_content();
        memory.dies_at = dies;
        if (open_pivot(&memory, 1, &pivot) == 0)
            br_pivot_close(pivot);
        memory_cut_power(&memory);
        CHECK(open_pivot(&memory, 2, &pivot) == 0);
        holds(pivot, content);
        finish(pivot);
        CHECK(br_pivot_close(pivot) == 0);
        memory_free(&memory);
    }
}

/* Every call fails once, with every error; then all goes on. A sync that fails loses what it was to save. */
/* A flush that works, if need be after all was written again. */
static void flush_at_last(struct br_pivot *pivot) {
    struct br_pivot_report report;
    br_pivot_report(pivot, &report);
    if (!report.suspect) {
        CHECK(flush(pivot) == 0);
        return;
    }
    CHECK(flush(pivot) == EIO);
    CHECK(br_pivot_start(pivot) == 0); /* it writes all again */
    while (flush(pivot) != 0)
        usleep(500);
}

static void a_call_that_fails_loses_nothing_that_was_flushed_after_it(void) {
    static const int errors[] = {EIO, ENOSPC};
    for (int number = 0; number < lives; number++) {
        struct memory memory;
        struct br_pivot *pivot;
        enum br_pivot_did did = BR_PIVOT_COPIED;
        memory_init(&memory, chance + (uint64_t)number * 2);
        make_content();
        CHECK(open_pivot(&memory, 1, &pivot) == 0);
        note_flushed();
        memory.lost_on_failed_sync = true;
        memory.fails_at = memory.calls + 1 + number % 60;
        memory.fails_with = errors[number % 2];
        static uint8_t before[size];
        for (int round = 0; round < rounds / 2; round++) {
            memcpy(before, now, size);
            if (do_something(pivot) != 0)
                is_what_was_answered(pivot, before);
        }
        memory.fails_at = 0;
        flush_at_last(pivot);
        memory_die(&memory);
        br_pivot_close(pivot);
        memory_cut_power(&memory);
        CHECK(open_pivot(&memory, 2, &pivot) == 0);
        static uint8_t found[size];
        CHECK(br_pivot_pread(pivot, found, size, 0) == 0);
        for (size_t at = 0; at < size; at++)
            CHECK(may[at][found[at] / 8] >> found[at] % 8 & 1);
        while (did == BR_PIVOT_COPIED)
            CHECK(br_pivot_step(pivot, &did) == 0);
        CHECK(br_pivot_close(pivot) == 0);
        memory_free(&memory);
    }
}

/* Any call of a flush fails, the next flush works, and nothing was written in between: then power goes. */
static void what_a_failed_flush_left_behind_is_made_durable_by_the_next(void) {
    for (long fails = 1; fails < 8; fails++) {
        static uint8_t found[size];
        struct memory memory;
        struct br_pivot *pivot;
        struct br_pivot_report report;
        memory_init(&memory, chance + (uint64_t)fails * 2);
        make_content();
        CHECK(open_pivot(&memory, 1, &pivot) == 0);
        CHECK(write_at_random(pivot, 9 * 4096, 5 * 4096) == 0);
        memory.fails_at = memory.calls + fails;
        memory.fails_with = EIO;
        flush(pivot);
        memory.fails_at = 0;
        br_pivot_report(pivot, &report);
        CHECK(report.suspect ? flush(pivot) == EIO : flush(pivot) == 0);
        memory_die(&memory);
        br_pivot_close(pivot);
        memory_cut_power(&memory);
        CHECK(open_pivot(&memory, 2, &pivot) == 0);
        CHECK(br_pivot_pread(pivot, found, size, 0) == 0);
        CHECK(report.suspect || memcmp(found, now, size) == 0);
        CHECK(br_pivot_close(pivot) == 0);
        memory_free(&memory);
    }
}

int main(void) {
    chance = test_seed() | 1;
    for (int round = 0; round < deaths; round++) {
        killed_and_cut_off_no_write_is_lost(0);
        killed_and_cut_off_no_write_is_lost(1);
    }
    cut_off_at_its_beginning_it_begins_again();
    a_call_that_fails_loses_nothing_that_was_flushed_after_it();
    what_a_failed_flush_left_behind_is_made_durable_by_the_next();
    puts("test_pivot_death: ok");
    return 0;
}
