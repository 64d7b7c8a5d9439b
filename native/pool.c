/* The one that was used longest ago goes first. It is looked for only when a file is opened, which costs more
 * than looking through the list. */
#include "pool.h"

#include <errno.h>
#include <stdlib.h>

void br_pool_init(struct br_pool *pool, struct br_folder *folder, size_t most) {
    *pool = (struct br_pool){.folder = folder, .most = most ? most : 1};
}

static void close_at(struct br_pool *pool, size_t at) {
    br_file_close(&pool->open[at]->file);
    pool->open[at] = pool->open[--pool->count];
}

static void make_room(struct br_pool *pool) {
    while (pool->count >= pool->most) {
        size_t oldest = pool->count;
        for (size_t at = 0; at < pool->count; at++)
            if (!pool->open[at]->users &&
                (oldest == pool->count || pool->open[at]->used < pool->open[oldest]->used))
                oldest = at;
        if (oldest == pool->count)
            return;
        close_at(pool, oldest);
    }
}

static int have_slot(struct br_pool *pool) {
    if (pool->count < pool->room)
        return 0;
    size_t room = pool->room ? 2 * pool->room : 16;
    struct br_pooled **grown = realloc(pool->open, room * sizeof *grown);
    if (!grown)
        return ENOMEM;
    pool->open = grown;
    pool->room = room;
    return 0;
}

int br_pool_get(struct br_pool *pool, struct br_pooled *pooled) {
    if (!pooled->file) {
        make_room(pool);
        int error = have_slot(pool);
        if (!error)
            error = pool->folder->ops->open(pool->folder, pooled->name, 0, &pooled->file);
        if (error)
            return error;
        pool->open[pool->count++] = pooled;
    }
    pooled->users++;
    pooled->used = ++pool->clock;
    return 0;
}

void br_pool_put(struct br_pooled *pooled) {
    pooled->users--;
}

void br_pool_drop(struct br_pool *pool, struct br_pooled *pooled) {
    for (size_t at = 0; at < pool->count; at++)
        if (pool->open[at] == pooled) {
            close_at(pool, at);
            return;
        }
}

void br_pool_close(struct br_pool *pool) {
    while (pool->count)
        close_at(pool, pool->count - 1);
    free(pool->open);
    pool->open = NULL;
    pool->room = 0;
}
