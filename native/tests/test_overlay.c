/* The overlay against stores made by hand (stores.h): every point reads as its model, while a delta is
 * applied and after logs were merged; a flipped bit is never handed out (rules 15 to 17, invariant 11). */
#include "../overlay_parts.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "stores.h"

#ifdef __SANITIZE_THREAD__
enum { flips = 40, reads = 60, live_epochs = 2 };
#else
enum { flips = 400, reads = 300, live_epochs = 5 };
#endif

enum { epochs = 4, most_read = 90000, readers = 4 };

static uint64_t chance;

static _Thread_local bool expecting; /* an error */

static void tell(void *context, const char *text) {
    (void)context;
    if (!expecting)
        fprintf(stderr, "%s\n", text);
}

static struct br_overlay *open_point(uint64_t epoch, uint64_t newest, size_t most_open) {
    struct br_point point = {
        .folder = store,
        .epoch = epoch,
        .newest = newest,
        .size = size,
        .block_size = block,
        .table_key = table_key,
        .seed = sum_seed,
        .most_open = most_open,
        .tell = tell,
    };
    struct br_overlay *overlay = NULL;
    int error = br_overlay_open(&point, &overlay);
    CHECK(error ? overlay == NULL : overlay != NULL);
    return overlay;
}

static void reads_as(struct br_overlay *overlay, uint64_t epoch, int count, uint64_t *random) {
    static _Thread_local uint8_t data[most_read];
    for (int i = 0; i < count; i++) {
        uint64_t offset = random_number(random) % size;
        size_t length = least((size_t)(random_number(random) % most_read) + 1, size - offset);
        CHECK(br_overlay_pread(overlay, data, length, offset) == 0);
        CHECK(memcmp(data, points[epoch] + offset, length) == 0);
    }
}

static void every_point_reads_as_it_was(void) {
    for (uint64_t epoch = 1; epoch <= epochs; epoch++) {
        for (size_t most_open = 0; most_open < 2; most_open++) {
            struct br_overlay *overlay = open_point(epoch, epochs, most_open);
            reads_as(overlay, epoch, reads, &chance);
            uint8_t byte;
            CHECK(br_overlay_pread(overlay, &byte, 1, size) == EINVAL);
            CHECK(br_overlay_pread(overlay, &byte, 1, UINT64_MAX) == EINVAL);
            br_overlay_close(overlay);
        }
    }
}

/* What is told to be a hole reads as zeros, and there are some. */
static void holes_are_zeros(void) {
    for (uint64_t epoch = 1; epoch <= epochs; epoch++) {
        struct br_overlay *overlay = open_point(epoch, epochs, 0);
        uint64_t run, holes = 0;
        bool hole;
        for (uint64_t at = 0; at < size; at += run) {
            CHECK(br_overlay_extent(overlay, at, size - at, &hole, &run) == 0);
            CHECK(run > 0 && run <= size - at);
            CHECK(!hole || is_zero(points[epoch] + at, run));
            holes += hole ? run : 0;
        }
        CHECK(holes > size / 4);
        br_overlay_close(overlay);
    }
}

/* Read by blocks; returns how many are refused. What is told to be a hole is one. */
static size_t right_or_refused(uint64_t epoch) {
    uint8_t data[block];
    size_t refused = 0;
    expecting = true;
    struct br_overlay *overlay = open_point(epoch, epochs, 0);
    for (uint64_t at = 0; overlay && at < size; at += block) {
        size_t length = least(block, size - at);
        if (br_overlay_pread(overlay, data, length, at) != 0)
            refused++;
        else
            CHECK(memcmp(data, points[epoch] + at, length) == 0);
        bool hole;
        uint64_t run;
        if (br_overlay_extent(overlay, at, length, &hole, &run) == 0 && hole)
            CHECK(is_zero(points[epoch] + at, run));
    }
    if (overlay)
        br_overlay_close(overlay);
    expecting = false;
    return overlay ? refused : 1;
}

static void a_flipped_bit_is_never_handed_out(void) {
    static const char *names[] = {"disk.img", "checksums", "undo/000002.hrl", "undo/000003.index"};
    size_t refused = 0;
    for (int i = 0; i < flips; i++) {
        struct stat status;
        uint8_t byte;
        int fd = open(in_store(names[i % 4]), O_RDWR);
        CHECK(fd >= 0 && fstat(fd, &status) == 0);
        off_t at = (off_t)(random_number(&chance) % (uint64_t)status.st_size);
        CHECK(pread(fd, &byte, 1, at) == 1);
        byte ^= (uint8_t)(1 << i / 4 % 8);
        put(fd, &byte, 1, (uint64_t)at);
        refused += right_or_refused(1) + right_or_refused(3);
        byte ^= (uint8_t)(1 << i / 4 % 8);
        put(fd, &byte, 1, (uint64_t)at);
        close(fd);
    }
    CHECK(refused > flips / 4); /* else nothing is checked */
}

static void a_missing_index_is_an_error(void) {
    char name[64];
    give_name(undo_name(name, 3, ".index"), "undo/aside");
    expecting = true;
    CHECK(open_point(1, epochs, 0) == NULL);
    expecting = false;
    struct br_overlay *overlay = open_point(3, epochs, 0);
    reads_as(overlay, 3, 5, &chance);
    br_overlay_close(overlay);
    give_name("undo/aside", undo_name(name, 3, ".index"));
}

struct reader {
    struct br_overlay *overlay;
    uint64_t epoch, chance;
    pthread_t thread;
};

static _Atomic bool done;

static void *read_on(void *argument) {
    struct reader *reader = argument;
    do
        reads_as(reader->overlay, reader->epoch, 5, &reader->chance);
    while (!done);
    return NULL;
}

/* Rule 15: two readers of each of two points, while epochs are applied, sealed and followed by others. */
static void readers_never_wait_and_are_never_wrong_while_epochs_are_applied(void) {
    struct reader all[readers];
    struct br_overlay *overlays[2] = {open_point(1, epochs, 2), open_point(epochs, epochs, 0)};
    done = false;
    for (int i = 0; i < readers; i++) {
        all[i] = (struct reader){overlays[i % 2], i % 2 ? epochs : 1, chance + (uint64_t)i * 1234567, 0};
        CHECK(pthread_create(&all[i].thread, NULL, read_on, all + i) == 0);
    }
    for (uint64_t epoch = epochs + 1; epoch <= epochs + live_epochs; epoch++)
        make_epoch(epoch, 40, &chance);
    done = true;
    for (int i = 0; i < readers; i++)
        CHECK(pthread_join(all[i].thread, NULL) == 0);
    br_overlay_close(overlays[0]);
    br_overlay_close(overlays[1]);
}

static struct undo live;
static uint64_t live_start, live_steps;
static const struct br_file_ops *plain;

/* The delta goes on in the extent that is being read: a granule of it that it has not written yet. */
static void write_on(void) {
    uint64_t at = live_start + live_steps++ * 5 % 16 * granule;
    apply(&live, at, 3000, &chance);
}

static int read_in_the_midst(struct br_file *file, void *data, size_t length, uint64_t offset) {
    write_on();
    int error = plain->pread(file, data, length, offset);
    write_on();
    return error;
}

/* Rule 15: image and table first, undo indexes after them, so that what is overwritten before and after every
 * read of the two is undone, and no second try is needed. */
static void rule_15_what_is_overwritten_between_two_steps_of_a_read_is_undone(bool in_table) {
    enum { length = 16 * granule };
    static uint8_t data[length];
    struct br_overlay *overlay = open_point(epochs, epochs, 0);
    struct br_file *file = in_table ? overlay->table : overlay->image;
    plain = file->ops;
    struct br_file_ops ops = *plain;
    ops.pread = read_in_the_midst;
    file->ops = &ops;
    begin_undo(&live, epochs + 1, epochs + 1, ".index");
    for (live_start = 0; live_start < 8 * length; live_start += length) {
        live_steps = 0;
        CHECK(br_overlay_pread(overlay, data, length, live_start) == 0);
        CHECK(memcmp(data, points[epochs] + live_start, length) == 0);
        CHECK(live_steps >= 2);
    }
    seal(&live);
    file->ops = plain;
    br_overlay_close(overlay);
}

static bool begun;

static int begin_in_the_midst(struct br_file *file, void *data, size_t length, uint64_t offset) {
    if (!begun)
        begin_undo(&live, epochs + 1, epochs + 1, ".index");
    begun = true;
    return read_in_the_midst(file, data, length, offset);
}

/* Rule 15: that no epoch is there yet may be asked without a lock, but not before image and table are read.
 */
static void rule_15_an_epoch_that_begins_while_a_block_is_read_is_seen(bool in_table) {
    enum { length = 16 * granule };
    static uint8_t data[length];
    struct br_overlay *overlay = open_point(epochs, epochs, 0);
    struct br_file *file = in_table ? overlay->table : overlay->image;
    plain = file->ops;
    struct br_file_ops ops = *plain;
    ops.pread = begin_in_the_midst;
    file->ops = &ops;
    begun = false;
    live_start = live_steps = 0;
    CHECK(br_overlay_pread(overlay, data, length, live_start) == 0);
    CHECK(memcmp(data, points[epochs] + live_start, length) == 0);
    CHECK(begun);
    seal(&live);
    file->ops = plain;
    br_overlay_close(overlay);
}

static const struct br_folder_ops *plain_folder;
static bool ended;

/* The reader looks for the next epoch: the one before it goes on, and ends, and that one begins. */
static int open_when_it_has_begun(struct br_folder *folder, const char *name, int flags,
                                  struct br_file **file) {
    char next[64];
    if (!ended && strcmp(name, strchr(undo_name(next, epochs + 2, ".index"), '/') + 1) == 0) {
        ended = true;
        write_on();
        seal(&live);
        memcpy(points[epochs + 1], now, size);
        begin_undo(&live, epochs + 2, epochs + 2, ".index");
        write_on();
    }
    return plain_folder->open(folder, name, flags, file);
}

/* Only the last index is looked at again: what comes to one before its end must be seen before the next
 * counts. */
static void rule_15_an_epoch_that_ends_while_a_reader_looks_for_the_next_is_seen_whole(void) {
    struct br_overlay *overlay = open_point(epochs, epochs, 0);
    begin_undo(&live, epochs + 1, epochs + 1, ".index");
    live_start = live_steps = 0;
    write_on();
    reads_as(overlay, epochs, 1, &chance);
    plain_folder = overlay->undo_folder->ops;
    struct br_folder_ops ops = *plain_folder;
    ops.open = open_when_it_has_begun;
    overlay->undo_folder->ops = &ops;
    ended = false;
    reads_as(overlay, epochs, reads, &chance);
    CHECK(ended);
    overlay->undo_folder->ops = plain_folder;
    seal(&live);
    br_overlay_close(overlay);
}

/* Logs 2 and 3 become one, as pruning does it: whoever has the old ones open, or must open them anew, goes
 * on. */
static void readers_go_on_when_logs_were_merged(void) {
    static struct undo undo;
    struct br_overlay *overlays[2] = {open_point(1, epochs, 1), open_point(1, epochs, 0)};
    reads_as(overlays[0], 1, 3, &chance);
    reads_as(overlays[1], 1, reads, &chance);
    begin_undo(&undo, 2, 3, ".merging");
    for (size_t at = 0; at < granules; at++)
        if (saved[2][at] || saved[3][at])
            save(&undo, at, points[1]);
    seal(&undo);
    remove_undo(2, ".merging");
    remove_undo(2, ".hrl");
    remove_undo(3, ".index");
    remove_undo(3, ".hrl");
    for (int i = 0; i < 2; i++) {
        reads_as(overlays[i], 1, reads, &chance);
        br_overlay_close(overlays[i]);
    }
}

static void told_holes_are_zeros(uint64_t epoch, uint64_t newest) {
    struct br_overlay *overlay = open_point(epoch, newest, 0);
    uint64_t run;
    bool hole;
    for (uint64_t at = 0; at < size; at += run) {
        CHECK(br_overlay_extent(overlay, at, size - at, &hole, &run) == 0);
        CHECK(run > 0 && (!hole || is_zero(points[epoch] + at, run)));
    }
    br_overlay_close(overlay);
}

/* disk.img lost all it had: the table knows better. Then an epoch empties the disk, and image and table are
 * holes: what is behind them is in undo logs alone. */
static void holes_of_the_newest_content_are_none_of_the_points_before(void) {
    static struct undo undo;
    CHECK(ftruncate(image_fd, 0) == 0 && ftruncate(image_fd, size) == 0);
    told_holes_are_zeros(epochs, epochs);
    begin_undo(&undo, epochs + 1, epochs + 1, ".index");
    for (size_t at = 0; at < granules; at++)
        save(&undo, at, points[epochs]);
    seal(&undo);
    CHECK(ftruncate(table_fd, 0) == 0 && ftruncate(table_fd, pages * BR_PAGE_SIZE) == 0);
    for (uint64_t epoch = 1; epoch <= epochs; epoch++)
        told_holes_are_zeros(epoch, epochs + 1);
}

int main(void) {
    chance = test_seed() | 1;
    make_store(epochs, &chance);
    every_point_reads_as_it_was();
    holes_are_zeros();
    a_flipped_bit_is_never_handed_out();
    a_missing_index_is_an_error();
    readers_never_wait_and_are_never_wrong_while_epochs_are_applied();
    readers_go_on_when_logs_were_merged();
    remove_store();
    make_store(epochs, &chance);
    holes_of_the_newest_content_are_none_of_the_points_before();
    remove_store();
    for (int in_table = 0; in_table < 2; in_table++) {
        make_store(epochs, &chance);
        rule_15_what_is_overwritten_between_two_steps_of_a_read_is_undone(in_table);
        remove_store();
        make_store(epochs, &chance);
        rule_15_an_epoch_that_begins_while_a_block_is_read_is_seen(in_table);
        remove_store();
    }
    make_store(epochs, &chance);
    rule_15_an_epoch_that_ends_while_a_reader_looks_for_the_next_is_seen_whole();
    remove_store();
    puts("test_overlay: ok");
    return 0;
}
