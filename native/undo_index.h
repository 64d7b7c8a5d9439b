/* A reader's view of one undo index (docs/store.md): where the before-images of an epoch stand, and the
 * checksums that its blocks had. A sealed one is searched in its file, a few rows in memory at a time; of one
 * that still grows a summary is kept, a hundredth of it. Every row is checked before it is believed.
 *
 * All functions return 0 or an errno and say in `trouble` what is wrong. ESTALE: logs were merged, and the
 * index is another one now; whoever reads begins anew with those that there are. No two calls on one index at
 * a time.
 */
#ifndef BR_UNDO_INDEX_H
#define BR_UNDO_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool.h"

enum {
    BR_UNDO_HEADER = 64,
    BR_UNDO_ROW = 32,
    BR_UNDO_CHUNK = 128, /* rows that are read together */
    BR_GRANULE = 4096,
    BR_INDEX_NAME = 32,
};
enum br_undo_kind { BR_UNDO_DATA = 1, BR_UNDO_ZEROS, BR_UNDO_KNOWN, BR_UNDO_UNKNOWN };
enum br_undo_sort { BR_UNDO_EXTENTS, BR_UNDO_SUMS };

struct br_trouble {
    char text[320];
};

/* Says what is wrong, once, and returns `error`. */
__attribute__((format(printf, 3, 4))) int br_trouble(struct br_trouble *trouble, int error,
                                                     const char *format, ...);

struct br_undo_row {
    uint64_t first;  /* disk offset, or block */
    uint64_t source; /* of an extent: where its data stands in the log */
    uint64_t length; /* of an extent */
    uint8_t sum[16]; /* of a block */
    enum br_undo_kind kind;
};

struct br_undo_chunk; /* what some rows of a growing index reach over */

struct br_undo {
    uint64_t first, last; /* the epochs that it undoes */
    uint32_t era;         /* whose block size its checksums have */
    char index_name[BR_INDEX_NAME], log_name[48];
    struct br_pooled index, log;
    bool growing;
    /* The rest is for undo_index.c alone. */
    uint64_t device, inode; /* of the index */
    int64_t changed_ns;     /* its ctime: an inode is given out again */
    uint8_t log_id[16];
    uint32_t key;
    uint64_t count[2], hint[2];
    uint64_t seen, torn;
    struct br_undo_chunk *chunks;
    size_t chunk_count, chunk_room;
    struct br_undo_row *salvaged;
    size_t salvaged_count;
};

/* The index that is named by the epoch `first`. ENOENT, without trouble: there is no such epoch yet. */
int br_undo_open(struct br_pool *pool, uint64_t first, struct br_undo **undo, struct br_trouble *trouble);
/* Whether there is one of that name, or it can't be told; needs no lock. */
bool br_undo_exists(struct br_folder *folder, uint64_t first);
/* Of a sealed one: whether its name stands for another index by now, or for none, or it can't be told. */
bool br_undo_replaced(struct br_folder *folder, const struct br_undo *undo);
void br_undo_free(struct br_pool *pool, struct br_undo *undo);

/* See what was appended to it, and whether it was sealed meanwhile. */
int br_undo_refresh(struct br_pool *pool, struct br_undo *undo, struct br_trouble *trouble);

/* The rows that touch disk bytes, or are of blocks, [start, end); in order of their place once it is sealed.
 */
typedef int br_undo_found(void *context, struct br_undo *undo, const struct br_undo_row *row);
int br_undo_find(struct br_pool *pool, struct br_undo *undo, enum br_undo_sort sort, uint64_t start,
                 uint64_t end, br_undo_found *found, void *context, struct br_trouble *trouble);

/* Nothing in it touches [start, *next). *next may be too low, never below start; UINT64_MAX: nothing more. */
int br_undo_next(struct br_pool *pool, struct br_undo *undo, enum br_undo_sort sort, uint64_t start,
                 uint64_t *next, struct br_trouble *trouble);

/* Of a log that may be unclosed or cut: an extent row for each entry up to its last whole block; the caller
 * frees them. `log_id` is what the log must be. */
int br_undo_salvage(struct br_file *log, const char *name, const uint8_t log_id[16],
                    struct br_undo_row **rows, size_t *count, struct br_trouble *trouble);

#endif
