/* What the tracker's own .c files share. Nobody else includes it.
 *
 * Locks, always taken in this order:
 *     cutting   one cut or resize at a time; whoever changes `state` holds it, and `saving`
 *     a range   the image's content there (rangelock.h; the list of ranges itself is under mutex)
 *     saving    one state record at a time
 *     mutex     what is reserved and counted; held for no call to the system, but for stamps and, where the
 *               table of operations has no mapping, for the bits that are written through
 */
#ifndef BR_TRACKER_PARTS_H
#define BR_TRACKER_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "dirty_file.h"
#include "hot_regions.h"
#include "log_writer.h"
#include "rangelock.h"
#include "tracker.h"
#include "tracking_file.h"

/* One epoch in memory; there are two, because the slots are two: the one being written and the one that was
 * just ended, or is about to begin. */
struct br_epoch {
    uint64_t number;
    uint8_t id[16];
    struct br_log log; /* log.file is NULL where there is none */
    struct br_record record;
    _Atomic int log_error;
    _Atomic bool unlogged;  /* it has no log because none is wanted */
    bool recycled;          /* its log is written over a spare */
    _Atomic bool bits_lost; /* the tracking file does not have all bits and entries that memory has */
    unsigned in_flight;     /* writes */
    int64_t ended_ns;
    bool resized;       /* it began with another size */
    bool saved, sealed; /* its bitmap, its log */
};

struct br_tracker {
    struct br_folder *folder;
    struct br_file *image;
    char name[256];
    uint64_t log_limit;
    _Atomic uint64_t size;

    struct br_tracking tracking; /* bits: under mutex, but for those of an epoch without writes in flight */
    struct br_ranges ranges;
    pthread_mutex_t cutting, saving, mutex;
    pthread_cond_t drained;

    struct br_epoch epochs[2]; /* by slot */
    uint32_t current;          /* slot; under mutex */
    bool prepared, ending;     /* what the other one is for */
    const _Atomic uint64_t *word;
    void *word_map;
    _Atomic uint64_t own_word;

    struct br_hot hot; /* these under mutex, but for the sectors that are being written */
    uint8_t hot_sectors[BR_HOT_SECTORS][BR_HOT_SECTOR];
    uint64_t hot_made, hot_durable; /* generations: of what is added now, and the latest that is durable */
    bool hot_syncing, hot_evicting;
    bool hot_off; /* the whole image is hot, durably, or the condition is critical */
    unsigned hot_waiting;
    pthread_cond_t hot_changed;
    uint64_t activations, hot_syncs;

    pthread_mutex_t flushing;
    pthread_cond_t flushed;
    uint64_t flushes_begun, flushes_done; /* under flushing */
    bool flush_runs;

    uint64_t session;
    int64_t stamped_ns, seen_ns; /* under mutex: the last stamp, the last look at the clock */
    uint64_t writes;
    _Atomic bool image_failed; /* fsync of the image failed once */
    _Atomic bool gone;         /* because the process that shows it is gone, and not its disk's */
    _Atomic bool doubted;      /* so it did before the opening, in this boot: see tracker_again.c */
    _Atomic bool unnamed;      /* the hot regions do not name all that a failed fsync may have lost */
    _Atomic bool all_suspect;  /* the tracking file could not be written: see br_mark_whole */
    _Atomic bool critical;
    _Atomic bool logging;     /* the latest write's epoch had a log: the next one's CRC will be needed */
    _Atomic bool stamp_moved; /* since it was last sent to the disk */
    enum br_found found;
    uint64_t found_dirty;
    bool identity_given;
    struct br_container container;
    char *marks; /* a folder, or NULL */
};

static inline struct br_epoch *br_other(struct br_tracker *tracker) {
    return &tracker->epochs[!tracker->current];
}

/* Whether changes of the epoch go into a log. */
static inline bool br_logged(const struct br_epoch *epoch) {
    return epoch->log.file && !epoch->log_error;
}

enum { BR_NAME = 320 }; /* room for a name and a suffix; the system refuses what is too long */

/* "vm.img" + suffix, and "vm.img.000017" + suffix. */
void br_name(const struct br_tracker *tracker, const char *suffix, char name[BR_NAME]);
void br_epoch_name(const struct br_tracker *tracker, uint64_t epoch, const char *suffix, char name[BR_NAME]);
/* The epoch number in "vm.img.000017" + suffix, or 0. */
uint64_t br_epoch_in(const char *name, const char *image, const char *suffix);

/* Fill `failure`, return `error`. */
int br_fail(struct br_failure *failure, int error, const char *name, const char *doing);

/* tracker_cut.c */
/* Have slot `slot` ready to be written as epoch `number`, with a log of that suffix (NULL: without one); a
 * log that can't be created is the epoch's log_error. */
int br_epoch_begin(struct br_tracker *tracker, uint32_t slot, uint64_t number, const uint8_t previous[16],
                   const char *suffix);
/* Under mutex: move on to the next epoch if the word says so. */
void br_epoch_look(struct br_tracker *tracker);
/* Under cutting: what prepare left behind, finished (`ended`) or abandoned. */
int br_settle_cut(struct br_tracker *tracker, bool *ended, struct br_failure *failure);
/* Under cutting, no write in flight in it: make what there is of an epoch durable; `last`: none follows now.
 */
int br_epoch_end(struct br_tracker *tracker, uint32_t slot, bool last, struct br_failure *failure);
int br_cut_now(struct br_tracker *tracker, bool logged, struct br_failure *failure);
void br_last_cut(struct br_tracker *tracker, struct br_cut *cut);
/* Under saving: make the state durable, with `suspect` as it must be. */
int br_save_state(struct br_tracker *tracker);

/* tracker_log.c */
/* Begin the epoch's log as file `name`, written over a spare if there is one. */
int br_log_open(struct br_tracker *tracker, struct br_epoch *epoch, const uint8_t previous[16],
                const char *name);
/* The log goes, its room is given back, the guest's writes go on. */
void br_log_drop(struct br_tracker *tracker, struct br_epoch *epoch, int error);
/* The log `name` of an epoch in which nothing was written goes. */
void br_log_unused(struct br_tracker *tracker, struct br_epoch *epoch, const char *name);
/* Remove the oldest sealed log that has a bitmap to stand in for it; false: there is none. */
bool br_drop_sealed_log(struct br_tracker *tracker);

/* tracker_spares.c */
/* Rename a spare log to `as`, content and all; false: there is none. */
bool br_spare_take(struct br_tracker *tracker, const char *as);
/* Remove one; false: there is none. */
bool br_spare_drop(struct br_tracker *tracker);
/* A log that took a spare and was not needed becomes a spare again. */
void br_spare_return(struct br_tracker *tracker, const char *log, uint64_t epoch);

/* tracker_settle.c */
/* How the epoch that the state names ended; `now`: the image's identity, if that is `provable`. */
enum br_found br_judge(const struct br_tracking *tracking, const struct br_identity *now, bool provable,
                       const uint8_t boot[16]);
/* End the epoch that was interrupted, as tracker->found says; `now` as it was judged. The state in memory
 * moves on, artifacts are on disk. */
int br_end_interrupted(struct br_tracker *tracker, const struct br_identity *now);

/* tracker_hot.c */
/* Under mutex, which is let go meanwhile: have the regions of an extent durably hot, and keep them so. */
void br_hot_enter(struct br_tracker *tracker, uint64_t offset, uint64_t length);
/* Under mutex: the change that entered is done. */
void br_hot_leave(struct br_tracker *tracker, uint64_t offset, uint64_t length);

/* tracker_mark.c */
/* Make durable, in the tracking file, beside the image or in the folder for marks, that all of the image is
 * suspect, because its hot regions can't be made durable; critical if nowhere. */
void br_mark_whole(struct br_tracker *tracker);
/* The same, because an fsync of it failed with `error`. */
void br_mark_failed(struct br_tracker *tracker, int error);
/* Whether there is such a mark but that of the tracking file; remove it. */
bool br_marked_whole(struct br_tracker *tracker);
int br_unmark_whole(struct br_tracker *tracker);

/* tracker_again.c */
/* Under the image's lock, as the state was loaded: if an fsync of the image failed in this boot, write again
 * what may be lacking, which the next fsync then tells of; or doubt the image. What was in doubt and is not
 * any more is found suspect. */
void br_settle_failed(struct br_tracker *tracker, const uint8_t boot[16], bool may_write);

/* tracker_recover.c */
/* Finish the log of an epoch whose tracker died, which `head` found in slot `slot`, seal it and give it the
 * name of `epoch`. false: it can't be, and nothing of that name stands there. */
bool br_recover_log(struct br_tracker *tracker, uint32_t slot, const struct br_record_head *head,
                    uint64_t epoch);

/* tracker_write.c */
/* Under the range's lock, in the epoch that holds it: log what the image holds now. */
void br_log_content(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset, uint64_t length);
/* Log an extent of zeros. */
void br_log_zero(struct br_tracker *tracker, struct br_epoch *epoch, uint64_t offset, uint64_t length);
/* The tracking file does not have what memory has of an epoch: make that known. */
void br_report_lost(struct br_tracker *tracker, struct br_epoch *epoch);
/* Under mutex, before a change of the image: say in the tracking file that we are about to write. */
void br_stamp(struct br_tracker *tracker, int64_t now);

/* A change under way. */
struct br_change {
    struct br_epoch *epoch;
    uint64_t offset, length;
    uint32_t pending; /* in the open record */
};

/* Enter the current epoch for a change of an extent, marked dirty and pending: if the process dies, what the
 * image then holds there is logged. And leave it, once what was done is logged. */
void br_change_begin(struct br_tracker *tracker, struct br_change *change, uint64_t offset, uint64_t length);
void br_change_end(struct br_tracker *tracker, struct br_change *change);

#endif
