/* Every variant of the CPU gives the same bits as the definition, at every length and alignment. */
#include "../bytesum.h"

#include <string.h>

#include "../checksum.h"
#include "../crc32c.h"
#include "../hash.h"
#include "../table.h"
#include "check.h"

enum { most = 9000 };

static uint8_t noise[most + 16];

static uint32_t crc_bit_by_bit(uint32_t value, const uint8_t *data, size_t length) {
    uint32_t crc = ~value;
    for (size_t at = 0; at < length; at++) {
        crc ^= data[at];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

static void sums_are_right_at_every_length(void) {
    for (size_t length = 0; length <= most; length += length < 2100 ? 1 : 97) {
        /* a block of its own, so that the sanitizer sees a read behind it */
        uint8_t *copy = malloc(length + length % 13 + 1), *data = copy + length % 13;
        memcpy(data, noise, length);
        CHECK(br_crc32c(77, data, length) == crc_bit_by_bit(77, data, length));
        uint32_t sum = 0;
        for (size_t at = 0; at < length; at++)
            sum += data[at];
        CHECK(br_byte_sum(data, length) == sum);
        free(copy);
    }
}

#if BR_HAVE_XXHASH
static void tables_are_those_of_the_first_variant(void) {
    static uint8_t wanted[most * 16], table[most * 16];
    static const size_t blocks[] = {1, 16, 100, 240, 241, 1024, 1025, most};
    for (size_t index = 0; index < sizeof blocks / sizeof *blocks; index++) {
        const char *name = br_cpu()->name;
        CHECK(br_cpu_select("scalar") == 0);
        br_checksum_blocks(noise + 1, most, blocks[index], 42, wanted);
        CHECK(br_cpu_select(name) == 0);
        CHECK(br_checksum_buffer(noise + 1, most, blocks[index], 42, 3, table) == 0);
        CHECK(memcmp(table, wanted, br_block_count(most, blocks[index]) * 16) == 0);
    }
}
#endif

static void a_page_with_any_flipped_bit_is_bad(void) {
    static uint8_t page[BR_PAGE_SIZE], entries[BR_PAGE_BYTES];
    br_pack_table(noise, 1, 3, 9, page);
    for (size_t bit = 0; bit < 8 * BR_PAGE_SIZE; bit += 37) {
        uint8_t bad = 0;
        page[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(br_unpack_table(page, 1, 3, 9, entries, &bad) == 1 && bad == 1 && entries[0] == 0);
        page[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(br_unpack_table(page, 1, 3, 9, entries, &bad) == 0 &&
              memcmp(entries, noise, BR_PAGE_BYTES) == 0);
    }
}

int main(void) {
    uint64_t seed = test_seed();
    for (size_t at = 0; at < sizeof noise; at++)
        noise[at] = (uint8_t)(random_number(&seed) >> 32);
    const char *names[BR_CPU_VARIANTS];
    size_t count = br_cpu_names(names);
    CHECK(count >= 1 && br_cpu_select("none such") != 0);
    for (size_t index = 0; index < count; index++) {
        CHECK(br_cpu_select(names[index]) == 0 && strcmp(br_cpu()->name, names[index]) == 0);
        sums_are_right_at_every_length();
#if BR_HAVE_XXHASH
        tables_are_those_of_the_first_variant();
#endif
        a_page_with_any_flipped_bit_is_bad();
        printf("sums: %s is right\n", names[index]);
    }
    return 0;
}
