/* The file kernels in several threads, on sparse files in memory: tables, copies, differences, errors. */
#include "../files.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../checksum.h"
#include "../cursor.h"
#include "../hash.h"
#include "../io.h"
#include "../threads.h"
#include "../window.h"
#include "check.h"

enum { size = 12 << 20, block = 65536, granule = 4096, entries = size / block };

static uint64_t seed;
static uint8_t content[size], other[size];

static int new_file(const uint8_t *data) {
    int fd = memfd_create("image", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, size) == 0);
    for (size_t at = 0; data && at < size; at += granule)
        if (memcmp(data + at, (uint8_t[granule]){0}, granule) != 0)
            CHECK(pwrite(fd, data + at, granule, (off_t)at) == granule);
    return fd;
}

/* Runs of noise and of holes. */
static void scribble(uint8_t *data) {
    memset(data, 0, size);
    for (size_t at = 0; at < size; at += random_number(&seed) % (1 << 20)) {
        size_t run = random_number(&seed) % (1 << 18);
        for (size_t end = at + run < size ? at + run : size; at < end; at++)
            data[at] = (uint8_t)(random_number(&seed) >> 40);
    }
}

static void holds(int fd, const uint8_t *data) {
    static uint8_t read_back[size];
    size_t got;
    CHECK(br_read_at(fd, read_back, size, 0, &got) == 0 && got == size);
    CHECK(memcmp(read_back, data, size) == 0);
}

#if BR_HAVE_XXHASH
static void files_are_read_copied_and_compared(unsigned threads) {
    scribble(content);
    scribble(other);
    uint8_t table[entries * 16], wanted[entries * 16], dirty[size / granule / 8] = {0};
    int source = new_file(content), stale = new_file(other), fresh = new_file(NULL);
    struct br_blocks blocks = {0, size, block, 7, threads, table};
    uint64_t amount, differing = 0;
    br_checksum_blocks(content, size, block, 7, wanted);
    CHECK(br_checksum_file(source, &blocks, &amount) == 0 && memcmp(table, wanted, sizeof table) == 0);
    for (size_t at = 0; at < size; at += granule)
        differing += memcmp(content + at, other + at, granule) != 0;
    memset(table, 1, sizeof table);
    CHECK(br_compare_files(source, stale, &blocks, granule, dirty, &amount) == 0 && amount == differing);
    CHECK(memcmp(table, wanted, sizeof table) == 0);
    for (size_t bit = 0; bit < size / granule; bit++)
        CHECK((dirty[bit / 8] >> bit % 8 & 1) ==
              (memcmp(content + bit * granule, other + bit * granule, granule) != 0));
    memset(table, 1, sizeof table);
    CHECK(br_copy_file(source, fresh, &blocks, (struct br_copy_how){0, 0}, &amount) == 0 &&
          memcmp(table, wanted, sizeof table) == 0);
    holds(fresh, content);
    CHECK(br_copy_file(source, stale, &blocks, (struct br_copy_how){1, 1}, &amount) == 0);
    holds(stale, content);
    close(source);
    close(stale);
    close(fresh);
}

static void errors_come_out_of_every_thread(void) {
    uint8_t table[entries * 16];
    uint64_t amount;
    struct br_blocks blocks = {0, size, block, 0, 4, table};
    scribble(content);
    int source = new_file(content);
    CHECK(br_checksum_file(-1, &blocks, &amount) == EBADF);
    CHECK(br_copy_file(source, -1, &blocks, (struct br_copy_how){0, 0}, &amount) == EBADF);
    CHECK(ftruncate(source, size - 1) == 0);
    CHECK(br_checksum_file(source, &blocks, &amount) == ENODATA);
    close(source);
}
#endif

static int shrink_file(void *context, void *scratch, size_t index) {
    (void)scratch;
    return index == 0 && ftruncate(*(int *)context, size / 2) != 0 ? errno : 0;
}

static void a_file_that_shrinks_meanwhile_is_found_out(void) {
    uint8_t table[entries * 16];
    int fd = new_file(NULL);
    struct br_blocks blocks = {0, size, block, 0, 1, table};
    CHECK(br_for_windows(fd, &blocks, 1, shrink_file, &fd) == ENODATA);
    close(fd);
}

/* The cursor found data; then the file shrank under it. */
static void what_a_shrunken_file_lost_is_zeros_or_an_error(void) {
    memset(content, 'x', size);
    memset(other, 'y', size);
    for (int in_zeros = 0; in_zeros < 2; in_zeros++) {
        int fd = new_file(content);
        uint64_t data;
        struct br_cursor cursor = br_cursor_open(fd, 0, size, in_zeros);
        CHECK(br_cursor_seek(&cursor, 0, &data) == 0 && data == 0 && cursor.hole == size);
        CHECK(ftruncate(fd, granule + 1) == 0);
        CHECK(br_cursor_read(&cursor, other, 0, size) == (in_zeros ? 0 : ENODATA));
        CHECK(cursor.bytes_read == granule + 1 && memcmp(other, content, granule + 1) == 0);
        for (size_t at = granule + 1; at < size; at++)
            CHECK(other[at] == (in_zeros ? 0 : 'y'));
        close(fd);
    }
}

static int count_piece(void *context, void *scratch, size_t index) {
    unsigned *counts = context;
    *(volatile char *)scratch = 1;
    __atomic_fetch_add(&counts[index], 1, __ATOMIC_RELAXED);
    return index == 77 ? ENOTTY : 0;
}

static void every_piece_is_done_once_and_an_error_ends_it(void) {
    unsigned counts[1000] = {0};
    CHECK(br_parallel(4, 77, 100, count_piece, counts) == 0);
    for (size_t index = 0; index < 77; index++)
        CHECK(counts[index] == 1);
    CHECK(br_parallel(4, 1000, 100, count_piece, counts) == ENOTTY);
    CHECK(counts[77] == 1 && br_parallel(9, 0, 1, count_piece, counts) == 0);
}

static void holes_are_punched_and_the_size_stays(void) {
    scribble(content);
    int fd = new_file(content);
    for (int round = 0; round < 50; round++) {
        uint64_t offset = random_number(&seed) % (size + 100), length = random_number(&seed) % (1 << 19);
        CHECK(br_punch_hole(fd, offset, length) == 0);
        if (offset < size)
            memset(content + offset, 0, length < size - offset ? length : size - offset);
    }
    uint64_t now;
    CHECK(br_file_size(fd, &now) == 0 && now == size);
    holds(fd, content);
    close(fd);
}

int main(void) {
    seed = test_seed();
#if BR_HAVE_XXHASH
    for (unsigned threads = 0; threads < 6; threads++)
        files_are_read_copied_and_compared(threads);
    errors_come_out_of_every_thread();
#endif
    a_file_that_shrinks_meanwhile_is_found_out();
    what_a_shrunken_file_lost_is_zeros_or_an_error();
    every_piece_is_done_once_and_an_error_ends_it();
    holes_are_punched_and_the_size_stays();
    puts("files: right");
    return 0;
}
