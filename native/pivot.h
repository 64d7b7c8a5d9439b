/* A recovery point that becomes a plain image while it is used: reads come from the file where it has been
 * written or copied, else from the point; writes go to the file; a copier brings over the rest, until the
 * point is needed no more.
 *
 * Beside the file `NAME` stands `NAME.pivot`, which says what the file has of its own (layout:
 * docs/store.md). Whoever dies and begins again with the same names goes on, with all writes that were
 * answered, or, where the power was cut, all that were flushed.
 *
 * All functions return 0 or an errno, and may be called by several threads at once, but for open, start and
 * close.
 */
#ifndef BR_PIVOT_H
#define BR_PIVOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops.h"
#include "undo_index.h"

struct br_pivot;

enum { BR_PIVOT_GRANULE = 4096, BR_PIVOT_POINT_ROOM = 64 };

enum br_pivot_state {
    BR_PIVOT_NEW,      /* the file was perhaps not made yet */
    BR_PIVOT_COPYING,  /* or was, when it was last seen */
    BR_PIVOT_WAITING,  /* for room, or for what else failed: `error` */
    BR_PIVOT_DAMAGED,  /* all is there but what the point can't give; it is tried again now and then */
    BR_PIVOT_COMPLETE, /* the file is a whole image, durably; the point was let go of */
};

/* Which disk of which point. A file that was begun for another one is refused. */
struct br_pivot_id {
    uint8_t relationship[16];
    char point[BR_PIVOT_POINT_ROOM]; /* its id; zeros behind it */
    uint32_t disk;
    uint64_t size; /* of the disk at the point */
};

struct br_pivot_options {
    struct br_pivot_id id;
    uint8_t boot[16];   /* what memory was lost with; zeros: never trust it */
    uint32_t unit;      /* bytes of the point that are damaged together; a multiple of the granule */
    uint64_t rate;      /* of the copier, bytes read of the point a second; 0: no limit */
    uint32_t retry_ms;  /* after something failed; 0: 2 s */
    uint32_t damage_ms; /* until damaged blocks are tried again; 0: 30 s */
    void (*released)(void *context); /* the point was closed, from any thread */
    void *context;
};

struct br_pivot_report {
    enum br_pivot_state state;
    int error;              /* what it waits for */
    bool suspect;           /* a sync of the file failed; all of it is being written again */
    uint64_t owned, copied; /* bytes that the file has; of them by the copier of this process */
    uint64_t damaged;       /* bytes that the point can't give, as of the last pass */
};

/* Begin with file `name` of `folder`, which is there only with its `.pivot`, or go on. `point`: reads,
 * extents and size are used; may be NULL for a file that is complete. The folder stays the caller's; the
 * point is closed once it is needed no more, at the latest by close; also after an error.
 *
 * EEXIST: a file of that name that is not ours. EWOULDBLOCK: somebody else has it. ESTALE: it is another
 * point's. EBADMSG: `.pivot` is not what it should be. EPROTO: a newer version's. `trouble` has the words. */
int br_pivot_open(struct br_folder *folder, const char *name, struct br_file *point,
                  const struct br_pivot_options *options, struct br_pivot **pivot,
                  struct br_trouble *trouble);

/* Begin to copy, in a thread of its own. */
int br_pivot_start(struct br_pivot *pivot);

/* Stop copying, make all durable, close. An errno where it could not be made durable. */
int br_pivot_close(struct br_pivot *pivot);

/* Extents lie within the disk. EIO of a read: the point is damaged there. */
int br_pivot_pread(struct br_pivot *pivot, void *data, size_t length, uint64_t offset);
int br_pivot_pwrite(struct br_pivot *pivot, const void *data, size_t length, uint64_t offset);
int br_pivot_zero(struct br_pivot *pivot, uint64_t offset, uint64_t length, bool keep);
int br_pivot_discard(struct br_pivot *pivot, uint64_t offset, uint64_t length); /* whole granules only */
int br_pivot_extent(struct br_pivot *pivot, uint64_t offset, uint64_t length, bool *hole, uint64_t *run);

/* All that was answered before is durable. After one that failed they all fail until the file was written
 * again as a whole: a system that lost data does not know any more which. */
int br_pivot_flush(struct br_pivot *pivot);

void br_pivot_report(struct br_pivot *pivot, struct br_pivot_report *report);

/* One step of the copier, for tests; the thread does nothing else. */
enum br_pivot_did {
    BR_PIVOT_COPIED, /* a part */
    BR_PIVOT_PASSED, /* to the end of the disk; what is missing is damaged */
    BR_PIVOT_DONE,   /* complete */
};
int br_pivot_step(struct br_pivot *pivot, enum br_pivot_did *did);

#endif
