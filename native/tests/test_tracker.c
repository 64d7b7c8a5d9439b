/* The tracker under threads: logs, replayed, are the image; bitmaps name every difference; cuts are instants.
 */
#include "../tracker.h"

#include <pthread.h>
#include <stdatomic.h>

#include "logs.h"

enum { size = 1 << 19, threads = 6, rounds = 20000, resizes = 12, most = 700, granule = 1 << 16 };

static uint64_t seed;
static struct br_tracker *tracker;
static _Atomic bool writing;

static void make_image(void) {
    clear_folder();
    int fd = open(path_of("vm.img"), O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, size) == 0);
    close(fd);
}

static void open_tracker(uint64_t log_limit) {
    struct br_folder *opened;
    struct br_failure failure;
    struct br_options options = {.log_limit = log_limit};
    CHECK(br_folder_posix(folder, &opened) == 0);
    CHECK(br_tracker_open(opened, "vm.img", &options, &tracker, &failure) == 0);
}

static void close_tracker(void) {
    struct br_failure failure;
    CHECK(br_tracker_close(tracker, &failure) == 0);
}

static void *write_at_random(void *number) {
    uint64_t state = seed + (uintptr_t)number * 7919 + 1;
    uint8_t data[most];
    for (int round = 0; round < rounds; round++) {
        uint64_t length = random_number(&state) % most, offset = random_number(&state) % (size - most);
        uint64_t what = random_number(&state) % 16;
        if (what == 0)
            CHECK(br_tracker_zero(tracker, offset, length) == 0);
        else if (what == 1)
            CHECK(br_tracker_discard(tracker, offset, length) == 0);
        else if (what == 2)
            CHECK(br_tracker_pread(tracker, data, length, offset) == 0);
        else {
            memset(data, (int)random_number(&state), length);
            br_put64(data, state);
            CHECK(br_tracker_pwrite(tracker, data, length, offset) == 0);
        }
    }
    return NULL;
}

static void *cut_again_and_again(void *unused) {
    struct br_cut cut;
    struct br_failure failure;
    struct br_status status;
    (void)unused;
    while (writing) {
        CHECK(br_tracker_cut(tracker, &cut, &failure) == 0);
        br_tracker_status(tracker, &status);
        CHECK(status.epoch > cut.epoch && status.condition == BR_TRACKING);
        usleep(3000);
    }
    return NULL;
}

static void run_writers(bool with_cuts) {
    pthread_t thread[threads], cutter;
    writing = true;
    for (uintptr_t number = 0; number < threads; number++)
        CHECK(pthread_create(&thread[number], NULL, write_at_random, (void *)number) == 0);
    if (with_cuts)
        CHECK(pthread_create(&cutter, NULL, cut_again_and_again, NULL) == 0);
    for (int number = 0; number < threads; number++)
        CHECK(pthread_join(thread[number], NULL) == 0);
    writing = false;
    if (with_cuts)
        CHECK(pthread_join(cutter, NULL) == 0);
}

static void overlapping_writes_land_in_the_same_order_in_image_and_log(void) {
    uint64_t length, epochs;
    struct br_status status;
    make_image();
    open_tracker(UINT64_MAX);
    run_writers(true);
    br_tracker_status(tracker, &status);
    epochs = status.dirty ? status.epoch : status.epoch - 1;
    CHECK(status.condition == BR_TRACKING && epochs > 1);
    close_tracker();
    uint8_t *image = slurp("vm.img", &length), *copy = calloc(1, size);
    for (uint64_t epoch = 1; epoch <= epochs; epoch++)
        replay(epoch, copy, size);
    CHECK(length == size && memcmp(image, copy, size) == 0);
    free(image);
    free(copy);
}

static bool marked(const uint8_t *bitmap, uint64_t offset) {
    uint64_t bit = offset / granule;
    return bitmap[4096 + bit / 8] >> bit % 8 & 1;
}

static void a_tracker_that_died_leaves_every_change_in_the_log_and_in_the_dirty_bitmap(void) {
    uint64_t length, bits;
    make_image();
    open_tracker(UINT64_MAX);
    run_writers(false);
    br_tracker_drop(tracker); /* as kill -9 would */
    open_tracker(UINT64_MAX);
    close_tracker();
    uint8_t *image = slurp("vm.img", &length), *bitmap = slurp("vm.img.000001.dirty", &bits);
    for (uint64_t offset = 0; offset < size; offset++)
        CHECK(image[offset] == 0 || marked(bitmap, offset));
    uint8_t *copy = calloc(1, size);
    replay(1, copy, size);
    CHECK(memcmp(image, copy, size) == 0);
    free(copy);
    free(image);
    free(bitmap);
}

static void a_log_over_its_limit_never_fails_a_write(void) {
    struct br_status status;
    struct br_cut cut;
    struct br_failure failure;
    make_image();
    open_tracker(100000);
    run_writers(false);
    br_tracker_status(tracker, &status);
    CHECK(status.condition == BR_BITMAP_ONLY && status.log_error != 0);
    CHECK(br_tracker_cut(tracker, &cut, &failure) == 0);
    CHECK(access(path_of("vm.img.000001.dirty"), F_OK) == 0 &&
          access(path_of("vm.img.000001.hrl"), F_OK) != 0);
    br_tracker_status(tracker, &status);
    CHECK(status.condition == BR_TRACKING);
    close_tracker();
}

static void *resize_again_and_again(void *unused) {
    struct br_failure failure;
    (void)unused;
    for (int round = 0; round < resizes; round++)
        CHECK(br_tracker_resize(tracker, size + (uint64_t)(round % 3) * granule, &failure) == 0);
    CHECK(br_tracker_resize(tracker, size, &failure) == 0);
    return NULL;
}

static void writers_and_resizes_do_not_disturb_each_other(void) {
    pthread_t resizer;
    uint64_t length;
    make_image();
    open_tracker(UINT64_MAX);
    CHECK(pthread_create(&resizer, NULL, resize_again_and_again, NULL) == 0);
    run_writers(true);
    CHECK(pthread_join(resizer, NULL) == 0);
    close_tracker();
    uint8_t *image = slurp("vm.img", &length);
    CHECK(length == size);
    free(image);
}

int main(void) {
    make_folder("tracker");
    seed = test_seed();
    overlapping_writes_land_in_the_same_order_in_image_and_log();
    a_tracker_that_died_leaves_every_change_in_the_log_and_in_the_dirty_bitmap();
    a_log_over_its_limit_never_fails_a_write();
    writers_and_resizes_do_not_disturb_each_other();
    remove_folder();
    puts("test_tracker: ok");
    return 0;
}
