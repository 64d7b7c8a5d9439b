/* The power goes, at any call of a tracker whose tracking file is mapped, as an export's is: what a cut
 * returned is there with its log, also what of that log stood in the mapping alone till the cut (log_tail.h);
 * the epochs since then name all that differs, by bits that were stored into the mapping (correctness.md, 2);
 * and what was flushed is on the disk (invariant 3).
 *
 * Python's tests (tests/tracking/test_power.py) play the same without a mapping, where each store is a call.
 */
#define MEMORY_FILES 40
#define MEMORY_ROOM (24 << 20)

#include "../tracker.h"

#include "../dirty_file.h"
#include "../identity.h"
#include "logs.h"
#include "power.h"

#ifdef __SANITIZE_THREAD__ /* slow, and all of it has one thread */
enum { lives = 2 };
#else
enum { lives = 16 };
#endif
enum { size = MEMORY_ROOM, regions = 6, hot = 3, changes = 120, longest_life = 700, cuts = 3 };

static uint64_t seed;
static struct memory memory;
static struct br_tracker *tracker;
static struct br_identity identity;
static struct br_file_ops mapped_file;
static struct br_folder_ops folder_ops;
static int (*plain_open)(struct br_folder *, const char *, int, struct br_file **);

/* What is known of the life: the image at each cut that returned, from zeros on; and at the last flush. */
static uint8_t *at_cut[cuts + 2], *flushed, *touched;
static uint64_t known;

static int mapped_open(struct br_folder *opened, const char *name, int flags, struct br_file **file) {
    int error = plain_open(opened, name, flags, file);
    if (!error)
        (*file)->ops = &mapped_file;
    return error;
}

static int open_tracker(const char boot[16]) {
    struct br_failure failure;
    struct br_options options = {.log = BR_LOG_ALWAYS, .log_limit = UINT64_MAX, .hot_regions = hot};
    options.boot_id = (const uint8_t *)boot;
    options.identity = &identity;
    return br_tracker_open(&memory.base, "vm.img", &options, &tracker, &failure);
}

static struct memory_content *content_of(const char *name) {
    struct memory_name *found = memory_find(&memory, name);
    return found ? memory.contents + found->content : NULL;
}

static uint8_t *image(void) {
    return content_of("vm.img")->now;
}

static void make_image(uint64_t chance) {
    struct br_file *file;
    memory_init(&memory, chance);
    folder_ops = memory_folder_ops;
    plain_open = folder_ops.open;
    folder_ops.open = mapped_open;
    memory.base.ops = &folder_ops;
    CHECK(mapped_open(&memory.base, "vm.img", BR_OPEN_CREATE, &file) == 0);
    CHECK(memory_truncate(file, size) == 0 && memory_sync(file) == 0);
    CHECK(memory_sync_folder(&memory.base) == 0);
    memory_close(file);
    identity = (struct br_identity){.inode = 7, .size = size};
    identity.mtime_ns = identity.ctime_ns = br_wall_clock();
    memset(at_cut[0], 0, size);
    memset(flushed, 0, size);
    memset(touched, 0, size / memory_sector);
    known = 0;
}

static void write_something(uint64_t *state) {
    static uint8_t data[40000];
    uint64_t length = 1 + random_number(state) % (random_number(state) % 8 ? 6000 : sizeof data);
    uint64_t offset = (random_number(state) % regions << 22) + random_number(state) % (1 << 18);
    memset(data, (int)(1 + random_number(state) % 255), length);
    for (uint64_t at = offset / memory_sector; at <= (offset + length - 1) / memory_sector; at++)
        touched[at] = 1;
    if (random_number(state) % 8)
        br_tracker_pwrite(tracker, data, length, offset);
    else
        br_tracker_zero(tracker, offset, length);
}

static void live(uint64_t state) {
    struct br_cut cut;
    struct br_failure failure;
    for (int change = 0; change < changes && !memory_dead(&memory); change++) {
        write_something(&state);
        if (change % 31 == 30 && br_tracker_flush(tracker) == 0) {
            memcpy(flushed, image(), size);
            memset(touched, 0, size / memory_sector);
        }
        if (change % 37 != 36)
            continue;
        memcpy(at_cut[known + 1], image(), size);
        if (br_tracker_cut(tracker, &cut, &failure) != 0 || memory_dead(&memory))
            break;
        known++;
        CHECK(cut.epoch == known);
    }
}

/* Which granules the bitmap of an epoch names; all of them where there is none. */
static void mark_dirty(uint64_t epoch, bool dirty[size / BR_GRANULE]) {
    char name[64];
    snprintf(name, sizeof name, "vm.img.%06llu.dirty", (unsigned long long)epoch);
    struct memory_content *content = content_of(name);
    CHECK(content && content->size == BR_DIRTY_HEADER + size / BR_GRANULE / 8);
    for (uint64_t at = 0; at < size / BR_GRANULE; at++)
        dirty[at] |= content->now[BR_DIRTY_HEADER + at / 8] >> at % 8 & 1;
}

static void judge(void) {
    struct br_status status;
    bool dirty[size / BR_GRANULE] = {false};
    br_tracker_status(tracker, &status);
    CHECK(status.found == BR_FOUND_POWER && status.last.epoch >= known);
    for (uint64_t epoch = 1; epoch <= known; epoch++) {
        char name[64];
        snprintf(name, sizeof name, "vm.img.%06llu.hrl", (unsigned long long)epoch);
        struct memory_content *log = content_of(name);
        CHECK(log);
        replay_log(log->now, log->size, at_cut[epoch - 1], size);
        CHECK(memcmp(at_cut[epoch - 1], at_cut[epoch], size) == 0);
    }
    for (uint64_t epoch = known + 1; epoch <= status.last.epoch; epoch++)
        mark_dirty(epoch, dirty);
    bool all = true;
    for (uint64_t at = 0; at < size / BR_GRANULE; all &= dirty[at], at++)
        CHECK(dirty[at] ||
              memcmp(image() + at * BR_GRANULE, at_cut[known] + at * BR_GRANULE, BR_GRANULE) == 0);
    CHECK(!all);
    for (uint64_t at = 0; at < size / memory_sector; at++)
        CHECK(touched[at] ||
              memcmp(image() + at * memory_sector, flushed + at * memory_sector, memory_sector) == 0);
}

static void rule_2_after_a_loss_of_power_what_was_stored_in_the_mapping_tells_all_that_differs(void) {
    uint64_t state = seed;
    for (int round = 0; round < lives; round++) {
        make_image(random_number(&state));
        CHECK(open_tracker("this boot......") == 0);
        memory.dies_at = memory.calls + 1 + (long)(random_number(&state) % longest_life);
        live(random_number(&state));
        memory_die(&memory);
        br_tracker_drop(tracker);
        memory_cut_power(&memory);
        CHECK(open_tracker("another boot...") == 0);
        judge();
        br_tracker_drop(tracker);
        memory_free(&memory);
    }
}

int main(void) {
    seed = test_seed();
    mapped_file = memory_file_ops;
    mapped_file.map = memory_map;
    mapped_file.fileno = memory_fileno;
    for (int i = 0; i < cuts + 2; i++)
        CHECK((at_cut[i] = malloc(size)));
    flushed = malloc(size);
    touched = malloc(size / memory_sector);
    CHECK(flushed && touched);
    rule_2_after_a_loss_of_power_what_was_stored_in_the_mapping_tells_all_that_differs();
    for (int i = 0; i < cuts + 2; i++)
        free(at_cut[i]);
    free(flushed);
    free(touched);
    puts("test_power: ok");
    return 0;
}
