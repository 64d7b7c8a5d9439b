/* Bitmaps against one byte a bit. */
#include "../bitmap.h"

#include <string.h>

#include "check.h"

enum { bytes = 37, bits = 8 * bytes };

static uint64_t seed;

static void compare(const uint8_t *bitmap, const uint8_t *model) {
    uint64_t at = 0, first, count, total = 0, runs = 0;
    while (br_bitmap_next(bitmap, at, bits, &first, &count)) {
        CHECK(count > 0 && first + count <= bits && (first == 0 || !model[first - 1] || first == at));
        for (uint64_t bit = at; bit < first + count; bit++)
            CHECK(model[bit] == (bit >= first));
        at = first + count;
        CHECK(at == bits || !model[at]);
        total += count;
        runs++;
    }
    for (; at < bits; at++)
        CHECK(!model[at]);
    CHECK(br_bitmap_count(bitmap, 0, bits) == total);
    CHECK(br_bitmap_runs(bitmap, 0, bits, NULL, 0) == runs);
    uint8_t *pairs = malloc(16 * runs + 1); /* exact room: the sanitizer sees one too many */
    CHECK(br_bitmap_runs(bitmap, 0, bits, pairs, runs) == runs);
    CHECK(br_bitmap_runs(bitmap, 0, bits, pairs, runs / 2) == runs);
    free(pairs);
}

int main(void) {
    seed = test_seed();
    uint8_t *bitmap = calloc(bytes, 1), model[bits] = {0};
    for (int round = 0; round < 20000; round++) {
        uint64_t first = random_number(&seed) % (bits + 1);
        uint64_t count = random_number(&seed) % (bits - first + 1);
        int value = (int)(random_number(&seed) & 1);
        (value ? br_bitmap_set : br_bitmap_clear)(bitmap, first, count);
        memset(model + first, value, count);
        uint64_t wanted = 0;
        first = random_number(&seed) % (bits + 1);
        count = random_number(&seed) % (bits - first + 1);
        for (uint64_t bit = first; bit < first + count; bit++)
            wanted += model[bit];
        CHECK(br_bitmap_count(bitmap, first, count) == wanted);
        compare(bitmap, model);
    }
    free(bitmap);
    puts("bitmap: right");
    return 0;
}
