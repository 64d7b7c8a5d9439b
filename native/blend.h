/* What a batch of writes makes of the blocks that it touches: each block read once from its file,
 * checksummed, laid over with its rows, compared, and checksummed again, all while it is in the core's cache.
 * Only in builds with xxhash.h (BR_HAVE_XXHASH in hash.h). */
#ifndef BR_BLEND_H
#define BR_BLEND_H

#include <stddef.h>
#include <stdint.h>

#define BR_GRANULE 4096

/* Numbers are u64, rows as in io.h (offset, length, place in `data`), all little-endian. */
struct br_blend {
    int fd;
    uint64_t size; /* of the disk; what the file does not have of it reads as zeros */
    size_t
        block_size; /* a multiple of the granule, at most BR_MOST_BLOCK_SIZE; the last block may be short */
    uint64_t seed;
    unsigned threads; /* 0: one for each CPU */
    int again;        /* every granule counts as changed */
    const uint8_t *blocks, *rows, *data, *granules;
    size_t block_count, row_count, data_size, granule_count;
    uint8_t *old,
        *new;       /* a granule each for each of `granules`: content before, and after where it changes */
    uint8_t *marks; /* a byte for each of `granules`, of BR_BLEND_* */
    uint8_t *before, *after; /* a table entry for each of `blocks` */
    uint64_t changed;        /* comes out: bytes of the rows that lie in changed granules */
};

/* OLD_ZERO: its old content is all zero; NEW_ZERO (told of changed ones only): its new content is. */
enum { BR_BLEND_CHANGED = 1, BR_BLEND_OLD_ZERO = 2, BR_BLEND_NEW_ZERO = 4 };

/* NULL when the numbers ascend, each once, within the disk; when rows are not empty, sorted, without overlap,
 * and within disk and data; when `granules` has all that the rows touch, and `blocks` all that `granules` lie
 * in. Else what is wrong. */
const char *br_blend_wrong(const struct br_blend *blend);

/* 0 or an errno. Nothing is written to the file. */
int br_blend_blocks(struct br_blend *blend);

#endif
