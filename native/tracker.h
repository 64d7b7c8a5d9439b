/* The tracker: every change of an image goes into the image and into the change log of the epoch it belongs
 * to.
 *
 * Beside image `vm.img` stand: vm.img.hrl, the open log; vm.img.<epoch>.hrl, sealed logs;
 * vm.img.<epoch>.dirty, the dirty bitmap of each ended epoch, for where its log is damaged or missing;
 * vm.img.tracking, see tracking_file.h. An ended epoch with neither log nor bitmap means that the whole image
 * may have changed.
 *
 * The same C serves Python (py_tracker.c) and, in time, other fronts. All functions may be called from
 * several threads at once, but for open, close and drop. Functions that return int return 0 or an errno;
 * those with a `failure` tell more there.
 */
#ifndef BR_TRACKER_H
#define BR_TRACKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops.h"

struct br_tracker;
struct br_identity;

/* Where the image is what another process shows of a file (a raw disk of a qcow2): `file` is that file, which
 * the tracker takes over in any case. Its identity is the one that counts, and only an end in order proves
 * anything: `release` ends that process once all is written; the file is locked against QEMU from the opening
 * until its identity was recorded, so that nobody writes in between. Whatever it returns but 0: nothing is
 * proved. */
struct br_container {
    struct br_file *file;
    int (*release)(void *context);
    void *context;
};

enum br_failure_kind {
    BR_FAILED_CALL,  /* the system failed `doing` to file `name`: `error` */
    BR_FAILED_BUSY,  /* `name` is held by process `number` (0: by somebody) */
    BR_FAILED_NEWER, /* `name` has version `number`, which this code does not know */
};

struct br_failure {
    enum br_failure_kind kind;
    int error;
    char name[256];
    const char *doing;
    uint64_t number;
};

/* When an image has a change log. In transit mode an epoch has its dirty bitmap alone, unless a cut began it:
 * whoever cuts is about to send what is dirty, and needs a log of what is written meanwhile. */
enum br_log_mode {
    BR_LOG_AS_BEFORE, /* as the tracking file says */
    BR_LOG_ALWAYS,
    BR_LOG_TRANSIT,
};

/* What a ctime says that alone changed: somebody may have written the image past its mtime, or, where that is
 * ignored, no more than that its owner changed. */
enum br_ctime {
    BR_CTIME_AS_BEFORE, /* as the tracking file says */
    BR_CTIME_COMPARE,
    BR_CTIME_IGNORE,
};

struct br_options {
    enum br_log_mode log;
    enum br_ctime ctime;
    uint64_t log_limit; /* of one epoch's log, bytes; 0: half of the image, 1 MiB at the least */
    /* Do not track: only settle what an open would find (an image changed untracked, a tracker that died) and
     * record the image's identity. The image is opened for reading and not locked against QEMU. */
    bool settle_only;
    /* With settle_only: an fsync of the image failed elsewhere; have the next open take all of it for
     * suspect. */
    bool suspect;
    uint32_t hot_regions; /* of 4 MiB, that may differ after a loss of power; 0: 2048; at most 3968 */
    const char
        *marks; /* a folder on another disk, NULL: none; made if it is needed and missing. Where neither
                   the tracking file nor its folder take the mark that all of the image is suspect */
    const uint8_t *boot_id;             /* NULL: the kernel's; for tests */
    const struct br_identity *identity; /* NULL: the image's own; for tests */
    struct br_container container;      /* of zeros: the image is a file itself */
};

/* A cut. Where `epoch` is 0, nothing was ever cut. */
struct br_cut {
    uint8_t tracking_id[16];
    uint64_t epoch;    /* the one that ended */
    uint64_t size;     /* of the image */
    uint8_t chain[16]; /* UUID of that epoch, and of its log */
    int64_t time_ns;   /* since 1970 */
};

enum br_condition {
    BR_TRACKING,    /* bitmap and log */
    BR_BITMAP_ONLY, /* the log failed, or grew beyond its limit: till the next cut */
    BR_WHOLE_IMAGE, /* an fsync of the image failed, or the tracking file can't be written: everything is
                       suspect till the image is opened anew, and perhaps till the next boot */
    BR_CRITICAL,    /* a crash now would lose changes: the tracking file can't be written */
};

/* What an open found of the image's past. */
enum br_found {
    BR_FOUND_NOTHING, /* it is tracked for the first time */
    BR_FOUND_CLOSED,  /* it was closed in order, and nobody touched it since */
    BR_FOUND_DIED,    /* its tracker died; log or bitmap say what was written */
    BR_FOUND_SUSPECT, /* anything may have been written */
    BR_FOUND_DAMAGED, /* the tracking file was damaged: a new tracking UUID began */
    BR_FOUND_POWER,   /* the machine went down; hot regions and durable bits say what may differ */
};

struct br_status {
    enum br_condition condition;
    bool transit;                                  /* the log mode */
    int log_error;                                 /* why there is no log */
    uint64_t epoch, size, log_size, dirty, writes; /* bytes; writes since open */
    struct br_cut last;
    enum br_found found;
    uint64_t found_dirty; /* bytes of image that the epochs ended by the opening name */
    uint32_t hot;         /* regions now */
    uint64_t activations; /* regions made hot since open, and the fsyncs that this took */
    uint64_t hot_syncs;
};

/* Start tracking image `name` of `folder`, which the tracker takes over in any case. `failure` is filled on
 * error. */
int br_tracker_open(struct br_folder *folder, const char *name, const struct br_options *options,
                    struct br_tracker **tracker, struct br_failure *failure);

/* End the epoch if anything was written, record the image's identity, let go. Lets go on error too; then the
 * next open takes the image for suspect as far as it must. */
int br_tracker_close(struct br_tracker *tracker, struct br_failure *failure);

/* Let go of everything as the death of the process would. */
void br_tracker_drop(struct br_tracker *tracker);

/* ERANGE: not within the image. */
int br_tracker_pread(struct br_tracker *tracker, void *data, size_t length, uint64_t offset);
int br_tracker_pwrite(struct br_tracker *tracker, const void *data, size_t length, uint64_t offset);
int br_tracker_zero(struct br_tracker *tracker, uint64_t offset, uint64_t length);
int br_tracker_discard(struct br_tracker *tracker, uint64_t offset, uint64_t length);
/* As zero, but only where that takes no writing of zeros, else EOPNOTSUPP and nothing is changed. `keep`: the
 * room stays allocated. */
int br_tracker_zero_fast(struct br_tracker *tracker, uint64_t offset, uint64_t length, bool keep);
/* Whether the image has a hole at `offset`, and for how many of the `length` > 0 bytes; EOPNOTSUPP: it can't
 * tell. */
int br_tracker_extent(struct br_tracker *tracker, uint64_t offset, uint64_t length, bool *hole,
                      uint64_t *run);

/* All writes answered before are durable. After one failure it fails for as long as the tracker is open. */
int br_tracker_flush(struct br_tracker *tracker);

/* A cut in three steps, so that several images can be cut at one instant. `prepare` makes everything ready;
 * from then on each write looks at an epoch word: the eight bytes, zero, of file `word` (NULL: one of its
 * own). Storing 1 there is the instant. `finish` ends the old epoch; no write is ever stopped. A prepare
 * where another one stands finishes or abandons that first. finish without a cut: EINVAL, and nothing is
 * prepared any more. */
int br_tracker_prepare(struct br_tracker *tracker, const char *word, struct br_failure *failure);
int br_tracker_finish(struct br_tracker *tracker, struct br_cut *cut, struct br_failure *failure);
/* All three steps with a word of its own. */
int br_tracker_cut(struct br_tracker *tracker, struct br_cut *cut, struct br_failure *failure);

/* Have this log mode from the next epoch on, durably; in transit mode the log of the epoch that is being
 * written goes at once, the bitmap goes on. */
int br_tracker_log(struct br_tracker *tracker, enum br_log_mode mode, struct br_failure *failure);

/* From now on, durably, take or ignore a ctime that alone changed. */
int br_tracker_ctime(struct br_tracker *tracker, enum br_ctime ctime, struct br_failure *failure);

/* End the epoch at the old size, change the size, go on. Writes wait meanwhile. */
int br_tracker_resize(struct br_tracker *tracker, uint64_t size, struct br_failure *failure);

uint64_t br_tracker_size(struct br_tracker *tracker);
void br_tracker_status(struct br_tracker *tracker, struct br_status *status);

#endif
