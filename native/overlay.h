/* A recovery point, read: the first undo log after it that has a granule, else disk.img; nothing is handed
 * out that does not match the point's checksums. Readers never wait for writers: a delta may be applied, half
 * applied or taken up again meanwhile (rule 15). The caller sees to it that the point is not pruned.
 *
 * All functions return 0 or an errno, and may be called by several threads at once. EIO: damaged or
 * unreadable; `tell` has the words.
 */
#ifndef BR_OVERLAY_H
#define BR_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct br_overlay;

struct br_point {
    const char *folder;  /* of the replica's disk: disk.img, checksums, undo/ */
    uint64_t epoch;      /* of the point */
    uint64_t newest;     /* of the newest point: up to there no undo index may be missing */
    uint64_t size;       /* of the disk at the point */
    uint32_t block_size; /* of a checksum */
    uint32_t table_key;  /* of the checksum table's pages */
    uint32_t era;        /* of the point: which table, and which indexes' checksums, prove it */
    uint64_t seed;       /* of the checksums */
    size_t most_open;    /* files of undo logs and indexes at a time; 0: 256 */
    void (*tell)(void *context, const char *text); /* what is wrong; from any thread */
    void *context;
};

/* ENOTSUP: this build can't compute checksums. */
int br_overlay_open(const struct br_point *point, struct br_overlay **overlay);
void br_overlay_close(struct br_overlay *overlay);

/* Bytes [offset, offset + length) of the point, which lie within it. */
int br_overlay_pread(struct br_overlay *overlay, void *data, size_t length, uint64_t offset);

/* Whether the disk is a hole at `offset`, and for how many bytes that holds, at most `length` (> 0). A hole
 * reads as zeros. The run may be shorter than it could be: a call looks through a bounded part of the disk.
 */
int br_overlay_extent(struct br_overlay *overlay, uint64_t offset, uint64_t length, bool *hole,
                      uint64_t *run);

#endif
