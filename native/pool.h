/* Files opened on demand, no more than so many at a time: a point may stand behind thousands of undo logs.
 * Whoever calls holds a lock of his own, but for a put; between get and put a file stays open. */
#ifndef BR_POOL_H
#define BR_POOL_H

#include <stdatomic.h>

#include "ops.h"

struct br_pooled {
    const char *name; /* in the pool's folder; the owner's, and stays */
    struct br_file *file;
    _Atomic unsigned users;
    uint64_t used;
};

struct br_pool {
    struct br_folder *folder;
    struct br_pooled **open;
    size_t count, room, most;
    uint64_t clock;
};

/* `most` files stay open; more only while that many are in use. */
void br_pool_init(struct br_pool *pool, struct br_folder *folder, size_t most);
/* Have it open: 0, and pooled->file is there until as many puts; or an errno. */
int br_pool_get(struct br_pool *pool, struct br_pooled *pooled);
void br_pool_put(struct br_pooled *pooled);
/* Close it, which nobody uses: its name is another file now. */
void br_pool_drop(struct br_pool *pool, struct br_pooled *pooled);
/* Close all. */
void br_pool_close(struct br_pool *pool);

#endif
