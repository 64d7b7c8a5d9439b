/* Kernels over an extent of a file: straight from the descriptor, in several threads, holes never read. Only
 * in builds with xxhash.h (BR_HAVE_XXHASH in hash.h). All return 0 or an errno; ENODATA: the file ends before
 * the extent does. */
#ifndef BR_FILES_H
#define BR_FILES_H

#include <stddef.h>
#include <stdint.h>

/* The extent, and the table that is built of it. */
struct br_blocks {
    uint64_t offset, length; /* offset + length <= INT64_MAX */
    size_t block_size;       /* from 1 to BR_MOST_BLOCK_SIZE; the last block may be short */
    uint64_t seed;
    unsigned threads; /* 0: one for each CPU */
    uint8_t *table;   /* BR_ENTRY_SIZE bytes a block; see checksum.h */
};

#define BR_MOST_BLOCK_SIZE (64u << 20)

/* The table of what `fd` holds. */
int br_checksum_file(int fd, const struct br_blocks *blocks, uint64_t *bytes_read);

/* Copy to the same offset of `target`, building the table. Only runs of 4 KiB that are not zero are written.
 * With `punch`, the target's data behind zeros of the source is punched out; without it the target must read
 * as zeros there already. The target's size grows only as far as data is written. Writeback is begun,
 * unless the copy is `lazy`; nothing is synced. */
struct br_copy_how {
    int punch, lazy;
};
int br_copy_file(int source, int target, const struct br_blocks *blocks, struct br_copy_how how,
                 uint64_t *bytes_written);

/* Compare, building the table of the primary; sets bit i of `dirty` where granule i (from blocks->offset on)
 * differs. The block size is a multiple of the granule. A replica that ends early goes on in zeros. */
int br_compare_files(int primary, int replica, const struct br_blocks *blocks, size_t granule, uint8_t *dirty,
                     uint64_t *differing);

#endif
