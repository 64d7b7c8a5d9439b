/* What the tracker's own .c files share. Nobody else includes it.
 *
 * Locks, always taken in this order:
 *     cutting   one cut or resize at a time; whoever changes `state` holds it, and `saving`
 *     a range   the image's content there (rangelock.h)
 *     saving    one state record at a time
 *     mutex     what is reserved and counted; held for no call to the system, but for stamps and, where the
 *               table of operations has no mapping, for the bits that are written through
 */
#ifndef BR_TRACKER_PARTS_H
#define BR_TRACKER_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "dirty_file.h"
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

    uint64_t session;
    int64_t stamped_ns, seen_ns; /* under mutex: the last stamp, the last look at the clock */
    uint64_t writes;
    _Atomic bool image_failed; /* fsync of the image failed once */
    _Atomic bool critical;
    enum br_found found;
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
/* Have slot `slot` ready to be written as epoch `number`; a log that can't be created is the epoch's
 * log_error. */
int br_epoch_begin(struct br_tracker *tracker, uint32_t slot, uint64_t number, const uint8_t previous[16],
                   const char *suffix);
/* Under mutex: move on to the next epoch if the word says so. */
void br_epoch_look(struct br_tracker *tracker);
/* Under cutting: what prepare left behind, finished (`ended`) or abandoned. */
int br_settle_cut(struct br_tracker *tracker, bool *ended, struct br_failure *failure);
/* Under cutting, no write in flight in it: make what there is of an epoch durable; `last`: none follows now.
 */
int br_epoch_end(struct br_tracker *tracker, uint32_t slot, bool last, struct br_failure *failure);
int br_cut_now(struct br_tracker *tracker, struct br_failure *failure);
void br_last_cut(struct br_tracker *tracker, struct br_cut *cut);
/* Under saving: make the state durable, with `suspect` as it must be. */
int br_save_state(struct br_tracker *tracker);
/* Remove the oldest sealed log that has a bitmap to stand in for it; false: there is none. */
bool br_drop_sealed_log(struct br_tracker *tracker);
/* The log goes, its room is given back, the guest's writes go on. */
void br_log_drop(struct br_tracker *tracker, struct br_epoch *epoch, int error);

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
    uint32_t pending; /* in the open record */
};

/* Enter the current epoch for a change of an extent, marked dirty and pending: if the process dies, what the
 * image then holds there is logged. And leave it, once what was done is logged. */
void br_change_begin(struct br_tracker *tracker, struct br_change *change, uint64_t offset, uint64_t length);
void br_change_end(struct br_tracker *tracker, struct br_change *change);

#endif
