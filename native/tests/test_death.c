/* A tracker that is killed, at each of its writes and at any instant: log and image agree when it is opened
 * again (correctness.md, rule 1), also what stood in the tail of the log alone (log_tail.h).
 *
 * The tracking file is mapped here, as it is in an export. Python's tests play the same deaths without a
 * mapping, where each store is a call.
 */
#include "../tracker.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "logs.h"

enum { size = 1 << 20, writes = 600, threads = 4, deaths = 25, longest_life_us = 60000 };

static uint64_t seed;
static long steps_left;
static struct br_tracker *tracker;

/* The file system's own operations, but the process dies before a write. */
static struct br_file_ops mortal_file;
static struct br_folder_ops mortal_folder;
static const struct br_file_ops *file_ops;
static const struct br_folder_ops *folder_ops;

static int mortal_pwrite(struct br_file *file, const void *data, size_t length, uint64_t offset) {
    if (steps_left-- == 0)
        raise(SIGKILL);
    return file_ops->pwrite(file, data, length, offset);
}

static int mortal_open(struct br_folder *opened, const char *name, int flags, struct br_file **file) {
    int error = folder_ops->open(opened, name, flags, file);
    if (error)
        return error;
    file_ops = (*file)->ops;
    mortal_file = *file_ops;
    mortal_file.pwrite = mortal_pwrite;
    (*file)->ops = &mortal_file;
    return 0;
}

static void open_tracker(bool mortal) {
    struct br_folder *opened;
    struct br_failure failure;
    struct br_options options = {.log_limit = UINT64_MAX};
    CHECK(br_folder_posix(folder, &opened) == 0);
    if (mortal) {
        folder_ops = opened->ops;
        mortal_folder = *folder_ops;
        mortal_folder.open = mortal_open;
        opened->ops = &mortal_folder;
    }
    CHECK(br_tracker_open(opened, "vm.img", &options, &tracker, &failure) == 0);
}

/* Small pieces that are gathered, pieces over a batch's boundary, and large ones that are not gathered. */
static void change_something(uint64_t *state) {
    static _Thread_local uint8_t data[40000];
    uint64_t what = random_number(state) % 16;
    uint64_t most = what == 0 ? sizeof data : what < 6 ? 12000 : 4096;
    uint64_t length = what > 10 ? 4096 : 1 + random_number(state) % most;
    uint64_t offset = random_number(state) % (size - length);
    memset(data, (int)(1 + random_number(state) % 255), length);
    if (what == 6)
        CHECK(br_tracker_zero(tracker, offset, length) == 0);
    else if (what == 7)
        CHECK(br_tracker_discard(tracker, offset, length) == 0);
    else
        CHECK(br_tracker_pwrite(tracker, data, length, offset) == 0);
}

static void live(void) {
    struct br_cut cut;
    struct br_failure failure;
    uint64_t state = seed;
    for (int round = 0; round < writes; round++) {
        change_something(&state);
        if (round == writes / 4)
            CHECK(br_tracker_cut(tracker, &cut, &failure) == 0);
    }
}

static void *live_on(void *number) {
    uint64_t state = seed + (uintptr_t)number * 7919 + 1;
    for (;;)
        change_something(&state);
    return NULL;
}

static void make_image(void) {
    clear_folder();
    int fd = open(path_of("vm.img"), O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, size) == 0);
    close(fd);
}

/* Every epoch has its log, and all of them, applied, are the image. */
static void judge(void) {
    uint64_t length;
    struct br_status status;
    open_tracker(false);
    br_tracker_status(tracker, &status);
    uint8_t *image = slurp("vm.img", &length), *copy = calloc(1, size);
    for (uint64_t epoch = 1; epoch <= status.last.epoch; epoch++)
        replay(epoch, copy, size);
    CHECK(length == size && memcmp(image, copy, size) == 0);
    free(image);
    free(copy);
    struct br_failure failure;
    CHECK(br_tracker_close(tracker, &failure) == 0);
}

/* Whether it was killed. */
static bool wait_for(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void a_death_before_any_write_leaves_log_and_image_alike(void) {
    uint64_t state = seed;
    bool died = true;
    for (long step = 0; died; step += 1 + (long)(random_number(&state) % 11)) {
        make_image();
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            steps_left = step;
            open_tracker(true);
            live();
            _exit(0);
        }
        died = wait_for(child);
        judge();
    }
}

static void a_death_at_any_instant_leaves_log_and_image_alike(void) {
    uint64_t state = seed;
    for (int round = 0; round < deaths; round++) {
        make_image();
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            pthread_t thread;
            open_tracker(false);
            for (uintptr_t number = 0; number < threads; number++)
                CHECK(pthread_create(&thread, NULL, live_on, (void *)number) == 0);
            pause();
        }
        usleep((useconds_t)(random_number(&state) % longest_life_us));
        CHECK(kill(child, SIGKILL) == 0);
        CHECK(wait_for(child));
        judge();
    }
}

int main(void) {
    make_folder("death");
    seed = test_seed();
    a_death_before_any_write_leaves_log_and_image_alike();
    a_death_at_any_instant_leaves_log_and_image_alike();
    remove_folder();
    puts("test_death: ok");
    return 0;
}
