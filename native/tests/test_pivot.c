/* A point that becomes a file while it is used: nothing damaged gets into the file, full disks pass, what is
 * not ours is refused. */
#include "pivots.h"

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
    damage_stays_out_and_heals();
    a_full_disk_stops_writes_and_the_copier_till_there_is_room();
    what_is_not_ours_is_refused();
    a_flipped_bit_is_found();
    clients_and_the_copier_get_along();
    puts("test_pivot: ok");
    return 0;
}
