/* A point that becomes a file under changes: killed and cut off from power at any call, no write is lost that
 * was answered, or flushed; nothing damaged gets into the file; full disks and failed syncs pass. */
#include "../pivot.h"

#include <stdatomic.h>
#include <unistd.h>

#include "memory.h"

#ifdef __SANITIZE_THREAD__ /* slow, and most of it has one thread */
enum { lives = 20, deaths = 1 };
#else
enum { lives = 400, deaths = 12 };
#endif

enum {
    granules = 37,
    size = granules * 4096 + 1000, /* the last granule is short */
    unit = 8192,
    rounds = 60,
    threads = 4,
    values = 256 / 8,
};

static uint64_t chance;
static uint8_t content[size]; /* of the point */
static _Atomic bool damaged[size / unit + 1];
static _Atomic int points_open;
static uint8_t now[size];
static uint8_t may[size][values]; /* what a byte may be after a power cut, a bit a value */

struct point {
    struct br_file base;
};

static int point_pread(struct br_file *file, void *data, size_t length, uint64_t offset) {
    (void)file;
    CHECK(offset <= size && length <= size - offset);
    for (uint64_t at = offset / unit; at * unit < offset + length; at++)
        if (damaged[at])
            return EIO;
    memcpy(data, content + offset, length);
    return 0;
}

/* A hole where 16 KiB are zeros. */
static int point_extent(struct br_file *file, uint64_t offset, uint64_t length, bool *hole, uint64_t *run) {
    (void)file;
    uint64_t end = offset - offset % 16384 + 16384;
    *run = (end < offset + length ? end : offset + length) - offset;
    *hole = true;
    for (uint64_t at = offset; at < offset + *run; at++)
        *hole = *hole && content[at] == 0;
    return 0;
}

static void point_close(struct br_file *file) {
    points_open--;
    free(file);
}

static const struct br_file_ops point_ops = {
    .pread = point_pread, .extent = point_extent, .close = point_close};

static struct br_file *new_point(void) {
    struct point *point = malloc(sizeof *point);
    point->base.ops = &point_ops;
    points_open++;
    return &point->base;
}

static void make_content(void) {
    for (size_t at = 0; at < size; at++)
        content[at] = (uint8_t)(at / 4096 % 3 == 1 || at / 16384 % 4 == 3 ? 0 : random_number(&chance) >> 40);
    memset((void *)damaged, 0, sizeof damaged);
    memcpy(now, content, size);
}

static struct br_pivot_options options_of(uint8_t boot) {
    struct br_pivot_options options = {
        .id = {.relationship = "relationship 16", .point = "1.7", .disk = 2, .size = size},
        .boot = {boot},
        .unit = unit,
        .retry_ms = 1,
        .damage_ms = 5,
    };
    return options;
}

static int open_pivot(struct memory *memory, uint8_t boot, struct br_pivot **pivot) {
    struct br_pivot_options options = options_of(boot);
    struct br_trouble trouble;
    int error = br_pivot_open(&memory->base, "vm.img", new_point(), &options, pivot, &trouble);
    CHECK(!error == !trouble.text[0]);
    return error;
}

static void note(uint64_t from, uint64_t to) {
    for (uint64_t at = from; at < to; at++)
        may[at][now[at] / 8] |= (uint8_t)(1 << now[at] % 8);
}

/* What is flushed is all that may be. */
static void note_flushed(void) {
    memset(may, 0, sizeof may);
    note(0, size);
}

static int flush(struct br_pivot *pivot) {
    int error = br_pivot_flush(pivot);
    if (!error)
        note_flushed();
    return error;
}

static int write_at_random(struct br_pivot *pivot, uint64_t offset, uint64_t length) {
    static uint8_t data[5 * 4096];
    for (uint64_t at = 0; at < length; at++)
        data[at] = (uint8_t)(random_number(&chance) >> 40);
    memcpy(now + offset, data, length);
    note(offset, offset + length);
    return br_pivot_pwrite(pivot, data, length, offset);
}

static int discard_at_random(struct br_pivot *pivot, uint64_t offset, uint64_t length) {
    uint64_t start = (offset + 4095) / 4096 * 4096, end = offset + length;
    end = end == size ? end : end / 4096 * 4096;
    if (start < end) {
        memset(now + start, 0, end - start);
        note(start, end);
    }
    return br_pivot_discard(pivot, offset, length);
}

/* One thing that a client or the copier does; `now` and `may` know of it, even if it fails. */
static int do_something(struct br_pivot *pivot) {
    uint64_t offset = random_number(&chance) % size, length = random_number(&chance) % (4 * 4096) + 1;
    enum br_pivot_did did;
    length = length < size - offset ? length : size - offset;
    switch (random_number(&chance) % 8) {
    case 0:
        return flush(pivot);
    case 1:
        memset(now + offset, 0, length);
        note(offset, offset + length);
        return br_pivot_zero(pivot, offset, length, random_number(&chance) % 2);
    case 2:
        return discard_at_random(pivot, offset, length);
    case 3:
    case 4:
        return br_pivot_step(pivot, &did);
    default:
        return write_at_random(pivot, offset, length);
    }
}

static void holds(struct br_pivot *pivot, const uint8_t *wanted) {
    static uint8_t found[size];
    CHECK(br_pivot_pread(pivot, found, size, 0) == 0);
    CHECK(memcmp(found, wanted, size) == 0);
}

/* Copy to the end. */
static void finish(struct br_pivot *pivot) {
    enum br_pivot_did did = BR_PIVOT_COPIED;
    struct br_pivot_report report;
    while (did == BR_PIVOT_COPIED)
        CHECK(br_pivot_step(pivot, &did) == 0);
    CHECK(did == BR_PIVOT_DONE);
    br_pivot_report(pivot, &report);
    CHECK(report.state == BR_PIVOT_COMPLETE && report.owned == size && points_open == 0);
}

static const struct memory_content *content_of(struct memory *memory, const char *name) {
    struct memory_name *found = memory_find(memory, name);
    return found ? memory->contents + found->content : NULL;
}

static void all_becomes_a_file_that_needs_no_point(void) {
    struct memory memory;
    struct br_pivot *pivot;
    memory_init(&memory, chance);
    make_content();
    CHECK(open_pivot(&memory, 1, &pivot) == 0);
    holds(pivot, now);
    for (int round = 0; round < rounds; round++)
        CHECK(do_something(pivot) == 0);
    holds(pivot, now);
    finish(pivot);
    holds(pivot, now);
    CHECK(write_at_random(pivot, 5000, 9000) == 0);
    CHECK(br_pivot_close(pivot) == 0);
    const struct memory_content *file = content_of(&memory, "vm.img");
    CHECK(file->size == size && memcmp(file->now, now, size) == 0);
    struct br_pivot_options options = options_of(1);
    struct br_trouble trouble;
    CHECK(br_pivot_open(&memory.base, "vm.img", NULL, &options, &pivot, &trouble) == 0);
    holds(pivot, now);
    CHECK(br_pivot_close(pivot) == 0);
    memory_free(&memory);
}

static void holes_stay_holes(void) {
    struct memory memory;
    struct br_pivot *pivot;
    memory_init(&memory, chance);
    make_content();
    CHECK(open_pivot(&memory, 1, &pivot) == 0);
    finish(pivot);
    const struct memory_content *file = content_of(&memory, "vm.img");
    for (size_t page = 0; page * 4096 < size; page++) {
        bool zero = true;
        for (size_t at = page * 4096; at < (page + 1) * 4096 && at < size; at++)
            zero = zero && content[at] == 0;
        CHECK(file->allocated[page] == !zero);
    }
    CHECK(br_pivot_close(pivot) == 0);
    memory_free(&memory);
}

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
        struct br_pivot_report report;
        br_pivot_report(pivot, &report);
        if (report.suspect) {
            CHECK(flush(pivot) == EIO);
            CHECK(br_pivot_start(pivot) == 0); /* it writes all again */
            while (flush(pivot) != 0)
                usleep(500);
        } else {
            CHECK(flush(pivot) == 0);
        }
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

static void damage_stays_out_and_heals(void) {
    struct memory memory;
    struct br_pivot *pivot;
    struct br_pivot_report report;
    enum br_pivot_did did = BR_PIVOT_COPIED;
    uint8_t data[unit];
    memory_init(&memory, chance);
    make_content();
    damaged[2] = damaged[5] = true;
    CHECK(open_pivot(&memory, 1, &pivot) == 0);
    while (did == BR_PIVOT_COPIED)
        CHECK(br_pivot_step(pivot, &did) == 0);
    br_pivot_report(pivot, &report);
    CHECK(did == BR_PIVOT_PASSED && report.damaged == 2 * unit && points_open == 1);
    CHECK(br_pivot_pread(pivot, data, 1, 2 * unit + 77) == EIO);
    CHECK(br_pivot_pread(pivot, data, unit, unit) == 0 && memcmp(data, content + unit, unit) == 0);
    CHECK(br_pivot_pwrite(pivot, data, 100, 2 * unit + 77) == EIO); /* its rest is not known */
    CHECK(br_pivot_pwrite(pivot, data, unit, 2 * unit) == 0);
    memcpy(now + 2 * unit, data, unit);
    damaged[5] = false; /* was repaired */
    finish(pivot);
    holds(pivot, now);
    CHECK(br_pivot_close(pivot) == 0);
    memory_free(&memory);
}

static void a_full_disk_stops_writes_and_the_copier_till_there_is_room(void) {
    struct memory memory;
    struct br_pivot *pivot;
    enum br_pivot_did did = BR_PIVOT_COPIED;
    uint8_t data[4096];
    memory_init(&memory, chance);
    make_content();
    CHECK(open_pivot(&memory, 1, &pivot) == 0);
    memory.room = memory_used(&memory) + 10 * 4096;
    int error = 0;
    while (!error && did == BR_PIVOT_COPIED)
        error = br_pivot_step(pivot, &did);
    CHECK(error == ENOSPC);
    memory.room = memory_used(&memory);
    memset(data, 7, sizeof data);
    CHECK(br_pivot_pwrite(pivot, data, sizeof data, 36 * 4096) == ENOSPC);
    holds(pivot, now);
    memory.room = 0;
    finish(pivot);
    holds(pivot, now);
    CHECK(br_pivot_close(pivot) == 0);
    memory_free(&memory);
}

static void what_is_not_ours_is_refused(void) {
    struct memory memory;
    struct br_pivot *pivot, *other;
    struct br_file *file;
    struct br_trouble trouble;
    memory_init(&memory, chance);
    make_content();
    CHECK(memory.base.ops->open(&memory.base, "vm.img", BR_OPEN_WRITE | BR_OPEN_CREATE, &file) == 0);
    CHECK(open_pivot(&memory, 1, &pivot) == EEXIST);
    br_file_close(&file);
    CHECK(memory.base.ops->unlink(&memory.base, "vm.img") == 0);
    CHECK(open_pivot(&memory, 1, &pivot) == 0);
    CHECK(open_pivot(&memory, 1, &other) == EWOULDBLOCK);
    CHECK(br_pivot_close(pivot) == 0);
    struct br_pivot_options options = options_of(1);
    strcpy(options.id.point, "1.8");
    CHECK(br_pivot_open(&memory.base, "vm.img", new_point(), &options, &pivot, &trouble) == ESTALE);
    struct memory_content *state = memory.contents + memory_find(&memory, "vm.img.pivot")->content;
    state->now[20] ^= 1;
    CHECK(open_pivot(&memory, 1, &pivot) == EBADMSG);
    state->now[20] ^= 1;
    CHECK(memory.base.ops->unlink(&memory.base, "vm.img") == 0);
    CHECK(open_pivot(&memory, 1, &pivot) == ENOENT);
    memory_free(&memory);
    CHECK(points_open == 0);
}

/* After a power cut the durable bits alone count, and each flipped one is found. */
static void a_flipped_bit_is_found(void) {
    struct memory memory;
    struct br_pivot *pivot;
    memory_init(&memory, chance);
    make_content();
    CHECK(open_pivot(&memory, 1, &pivot) == 0);
    CHECK(write_at_random(pivot, 0, 9000) == 0);
    CHECK(br_pivot_close(pivot) == 0);
    struct memory_content *state = memory.contents + memory_find(&memory, "vm.img.pivot")->content;
    for (size_t bit = 0; bit < 512 * 8; bit += 7) {
        state->now[8192 + bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(open_pivot(&memory, 2, &pivot) == EBADMSG);
        state->now[8192 + bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK(open_pivot(&memory, 2, &pivot) == 0);
    holds(pivot, now);
    CHECK(br_pivot_close(pivot) == 0);
    memory_free(&memory);
}

struct client {
    struct br_pivot *pivot;
    uint64_t chance, start, end; /* its part of the disk; it meets the others in granules at its ends */
    pthread_t thread;
};

static void *use(void *argument) {
    struct client *client = argument;
    uint8_t data[3 * 4096], found[3 * 4096];
    for (int round = 0; round < 300; round++) {
        uint64_t offset = client->start + random_number(&client->chance) % (client->end - client->start);
        uint64_t length = random_number(&client->chance) % sizeof data + 1;
        length = length < client->end - offset ? length : client->end - offset;
        CHECK(br_pivot_pread(client->pivot, found, length, offset) == 0);
        CHECK(memcmp(found, now + offset, length) == 0);
        memset(data, (int)random_number(&client->chance), length);
        CHECK(br_pivot_pwrite(client->pivot, data, length, offset) == 0);
        memcpy(now + offset, data, length);
        if (round % 50 == 0)
            CHECK(br_pivot_flush(client->pivot) == 0);
    }
    return NULL;
}

static void clients_and_the_copier_get_along(void) {
    struct memory memory;
    struct client clients[threads];
    struct br_pivot *pivot;
    struct br_pivot_report report;
    memory_init(&memory, chance);
    make_content();
    CHECK(open_pivot(&memory, 1, &pivot) == 0 && br_pivot_start(pivot) == 0);
    for (int i = 0; i < threads; i++) {
        clients[i] = (struct client){pivot, chance + (uint64_t)i * 977, (uint64_t)size * i / threads,
                                     (uint64_t)size * (i + 1) / threads, 0};
        CHECK(pthread_create(&clients[i].thread, NULL, use, clients + i) == 0);
    }
    for (int i = 0; i < threads; i++)
        CHECK(pthread_join(clients[i].thread, NULL) == 0);
    do {
        usleep(1000);
        br_pivot_report(pivot, &report);
    } while (report.state != BR_PIVOT_COMPLETE);
    holds(pivot, now);
    CHECK(br_pivot_close(pivot) == 0);
    CHECK(memcmp(content_of(&memory, "vm.img")->now, now, size) == 0);
    memory_free(&memory);
}

int main(void) {
    chance = test_seed() | 1;
    all_becomes_a_file_that_needs_no_point();
    holes_stay_holes();
    for (int round = 0; round < deaths; round++) {
        killed_and_cut_off_no_write_is_lost(0);
        killed_and_cut_off_no_write_is_lost(1);
    }
    cut_off_at_its_beginning_it_begins_again();
    a_call_that_fails_loses_nothing_that_was_flushed_after_it();
    damage_stays_out_and_heals();
    a_full_disk_stops_writes_and_the_copier_till_there_is_room();
    what_is_not_ours_is_refused();
    a_flipped_bit_is_found();
    clients_and_the_copier_get_along();
    puts("test_pivot: ok");
    return 0;
}
