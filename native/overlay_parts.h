/* What the files of the overlay have in common. */
#ifndef BR_OVERLAY_PARTS_H
#define BR_OVERLAY_PARTS_H

#include <pthread.h>

#include "overlay.h"
#include "undo_index.h"

/* The map of one window of the disk, drawn from sealed indexes, which never change: so it stays right, and
 * only grows as epochs follow. A granule may need several pieces where the disk ended within it; an older one
 * has the bytes from the granule's start, those behind them are the next one's. */
struct br_piece {
    struct br_undo *undo; /* NULL: none */
    uint64_t source;      /* in its log */
    uint16_t length;
    uint8_t kind;
    int32_t next; /* in `more`; -1: none */
};

struct br_sum {
    uint8_t entry[16];
    uint8_t kind; /* 0: the table's counts */
};

struct br_map {
    uint64_t window; /* its number; UINT64_MAX: none */
    size_t drawn;    /* so many of the indexes, oldest first */
    struct br_piece *pieces;
    struct br_sum *sums; /* both NULL while there is nothing */
    struct br_piece *more;
    size_t more_count, more_room;
};

/* A stretch of an answer that comes from a log, or is zeros (`log` NULL). */
struct br_part {
    struct br_pooled *log;
    uint64_t source;
    size_t at, length;
};

struct br_answer {
    uint64_t start, end; /* disk bytes, in one window, whole blocks */
    struct br_part *parts;
    size_t count, room;
    struct br_sum *sums; /* of its blocks */
};

struct br_cached {
    uint64_t block; /* UINT64_MAX: none */
    uint64_t used;
    uint8_t *data;
};

enum { BR_LOADERS = 16 };

struct br_overlay {
    struct br_point point;
    struct br_folder *folder, *undo_folder;
    struct br_file *image, *table;
    uint64_t window_size;
    pthread_mutex_t lock; /* of all up to the next */
    struct br_pool pool;
    struct br_undo **undos; /* those of the epochs behind the point, in order; only the last may be growing */
    size_t undo_count, undo_room;
    _Atomic uint64_t awaited; /* see br_overlay_settled; stored under the lock, read without it */
    struct br_undo **retired; /* those that were merged since; somebody may be reading their logs */
    size_t retired_count;
    struct br_map *maps;
    size_t map_count;
    struct br_map scratch;
    pthread_mutex_t cache_lock; /* of the blocks */
    struct br_cached *cached;
    size_t cached_count;
    uint64_t clock;
    pthread_mutex_t loading[BR_LOADERS]; /* so that requests for parts of one block read it once */
};

static inline uint64_t br_least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* Logs were merged: begin anew with the indexes there are. Takes the lock itself. */
int br_overlay_renew(struct br_overlay *overlay);
/* The epoch behind those that the indexes undo. */
uint64_t br_overlay_next_epoch(const struct br_overlay *overlay);
/* See all indexes there are by now. The caller holds the lock, as for all of these. */
int br_overlay_refresh(struct br_overlay *overlay, struct br_trouble *trouble);
/* Without the lock: the epoch that a refresh would look for, if there is no index of it yet and all before it
 * are known and sealed; else 0. Whoever then takes the lock and finds that epoch still awaited needs no
 * refresh.
 */
uint64_t br_overlay_settled(struct br_overlay *overlay);
/* Under the lock: a refresh, where it is needed after that. */
int br_overlay_follow(struct br_overlay *overlay, uint64_t settled, struct br_trouble *trouble);
/* The map of a window as of the last refresh; stays until the lock is let go. */
int br_overlay_map(struct br_overlay *overlay, uint64_t window, struct br_map **map,
                   struct br_trouble *trouble);
/* What is behind a piece in the same granule, or NULL. */
static inline struct br_piece *br_next_piece(const struct br_map *map, const struct br_piece *piece) {
    return piece->next < 0 ? NULL : map->more + piece->next;
}
void br_map_clear(struct br_map *map);

/* Entries of blocks [first, first + count) of the table as `kind` BR_UNDO_KNOWN, or 0 where the page is bad.
 */
int br_overlay_table(struct br_overlay *overlay, uint64_t first, size_t count, struct br_sum *sums,
                     struct br_trouble *trouble);
/* The pages [*low, *high) that the table must have for the image, and has not: they say nothing. */
int br_overlay_missing(struct br_overlay *overlay, uint64_t *low, uint64_t *high);
/* Whether a bad page of the table is whole once the `count` entries from block `first` on are these. */
bool br_overlay_proves(struct br_overlay *overlay, uint64_t first, size_t count, const uint8_t *entries);

/* Tell it, if there is anything to tell. */
void br_overlay_tell(struct br_overlay *overlay, const struct br_trouble *trouble);

#endif
