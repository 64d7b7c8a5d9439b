/* The blend of a batch in several threads: what it hands out is what plain memory says. */
#include "../blend.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../bytes.h"
#include "../checksum.h"
#include "../hash.h"
#include "check.h"

#if BR_HAVE_XXHASH
enum { size = (8 << 20) - 1000, block = 65536, most = 2048, entries = (size + block - 1) / block };

static uint8_t held[size + 4096], then[size + 4096], data[4 << 20];
static uint8_t old[most * BR_GRANULE], new[most * BR_GRANULE], marks[most];
static uint8_t before[entries * 16], after[entries * 16], tables[2][entries * 16];
static uint8_t rows[most * 24], blocks[entries * 8], granules[most * 8];
static struct br_blend blend;

/* Rows of any length and place; they go into `then` and, with all that they touch, into the plan. */
static void plan(uint64_t *seed) {
    size_t used = 0;
    uint64_t behind = 0, block_behind = 0; /* what is listed already */
    memcpy(then, held, sizeof then);
    for (uint64_t at = 0, length; at < size && used < sizeof data - 20000;
         at += random_number(seed) % 100000) {
        length = 1 + random_number(seed) % 20000;
        length = length < size - at ? length : size - at;
        memset(data + used, (int)(random_number(seed) % 3), length);
        memcpy(then + at, data + used, length);
        uint8_t *row = rows + 24 * blend.row_count++;
        br_put64(row, at), br_put64(row + 8, length), br_put64(row + 16, used);
        for (uint64_t one = at / BR_GRANULE; one <= (at + length - 1) / BR_GRANULE; one++)
            if (one >= behind)
                br_put64(granules + 8 * blend.granule_count++, one), behind = one + 1;
        for (uint64_t one = at / block; one <= (at + length - 1) / block; one++)
            if (one >= block_behind)
                br_put64(blocks + 8 * blend.block_count++, one), block_behind = one + 1;
        used += length, at += length;
    }
}

static void is_what_memory_says(void) {
    br_checksum_blocks(held, size, block, 7, tables[0]);
    br_checksum_blocks(then, size, block, 7, tables[1]);
    for (size_t at = 0; at < blend.granule_count; at++) {
        const uint8_t *was = held + br_get64(granules + 8 * at) * BR_GRANULE;
        const uint8_t *is = then + br_get64(granules + 8 * at) * BR_GRANULE;
        int changed = memcmp(was, is, BR_GRANULE) != 0;
        CHECK((marks[at] & BR_BLEND_CHANGED) == changed);
        CHECK(memcmp(old + at * BR_GRANULE, was, BR_GRANULE) == 0);
        CHECK(!changed || memcmp(new + at *BR_GRANULE, is, BR_GRANULE) == 0);
    }
    for (size_t at = 0; at < blend.block_count; at++) {
        uint64_t number = br_get64(blocks + 8 * at);
        CHECK(memcmp(before + 16 * at, tables[0] + 16 * number, 16) == 0);
        CHECK(memcmp(after + 16 * at, tables[1] + 16 * number, 16) == 0);
    }
}

int main(void) {
    uint64_t seed = test_seed();
    int fd = memfd_create("image", MFD_CLOEXEC);
    for (unsigned threads = 1; threads <= 4; threads++) {
        for (size_t at = 0; at < size; at++)
            held[at] = (uint8_t)(at / 50000 % 2 ? random_number(&seed) % 3 : 0);
        CHECK(pwrite(fd, held, size, 0) == size);
        blend = (struct br_blend){.fd = fd,
                                  .size = size,
                                  .block_size = block,
                                  .seed = 7,
                                  .threads = threads,
                                  .blocks = blocks,
                                  .rows = rows,
                                  .data = data,
                                  .granules = granules,
                                  .data_size = sizeof data,
                                  .old = old,
                                  .new = new,
                                  .marks = marks,
                                  .before = before,
                                  .after = after};
        plan(&seed);
        CHECK(br_blend_wrong(&blend) == NULL);
        CHECK(br_blend_blocks(&blend) == 0);
        is_what_memory_says();
        blend.data_size = 1;
        CHECK(br_blend_wrong(&blend) != NULL);
    }
    close(fd);
    return 0;
}
#else
int main(void) {
    return 0;
}
#endif
