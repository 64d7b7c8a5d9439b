/* The end of an open log that is not in its file yet: small pieces, gathered into large writes.
 *
 * A write of 4 KiB into the page cache costs mostly its call, so what small entries bring along is copied
 * into batches in the mapped tracking file, where it outlives the process, and each full batch goes into the
 * log by one call. Large pieces are put into the log at once, and so is everything where the tracking file is
 * not mapped, or all batches are on their way.
 *
 * A batch stands for a stretch of the log that belongs to nobody else. It is open, then closed; whoever
 * brings a closed one its last piece gets the duty (a bit in `due`) to write it:
 *
 *     mutex: br_tail_take, record the entry    br_tail_take may say that another batch is due
 *            copy
 *     mutex: br_tail_filled                    may say that this one is due
 *            br_tail_write of each that is due
 *     mutex: br_tail_free of those
 *
 * What a batch has: u64 its place in the log, u32 bytes (0: it is free), u32 zero; four of those from
 * 2048 on in the open record of the slot (open_record.h), and the bytes themselves at
 * BR_TAILS_AT + slot * BR_TAIL_SIZE + batch * BR_TAIL_BATCH.
 */
#ifndef BR_LOG_TAIL_H
#define BR_LOG_TAIL_H

#include "tracking_file.h"

enum {
    BR_TAIL_BATCHES = 4,
    BR_TAIL_BATCH = BR_TAIL_SIZE / BR_TAIL_BATCHES,
    BR_TAIL_MOST = 16384, /* bytes of a piece that is gathered */
};

struct br_tail {
    struct br_tracking *tracking; /* NULL: nothing is gathered */
    uint32_t slot;
    struct br_batch {
        uint64_t begin;
        uint32_t taken, filled;
        bool used, closed;
    } batches[BR_TAIL_BATCHES];
    struct br_batch *open; /* NULL: none */
};

/* Where a piece goes. */
struct br_spot {
    uint8_t *bytes; /* NULL: into the log, at once */
    uint32_t batch;
};

/* For a new epoch whose record has just begun. */
void br_tail_begin(struct br_tail *tail, struct br_tracking *tracking, uint32_t slot);
/* Room for the next `length` bytes of the log, which belong at `position`. */
struct br_spot br_tail_take(struct br_tail *tail, uint64_t position, uint64_t length, uint32_t *due);
/* The bytes of a spot are there. */
void br_tail_filled(struct br_tail *tail, const struct br_spot *spot, uint32_t length, uint32_t *due);
/* Nothing more goes into the open batch. */
void br_tail_close(struct br_tail *tail, uint32_t *due);
/* Not under the mutex: write a batch that is due. */
int br_tail_write(const struct br_tail *tail, uint32_t batch, struct br_file *log);
void br_tail_free(struct br_tail *tail, uint32_t batch);

/* What the batches of a slot had when their tracker died, into its log. 0 or errno. */
int br_tail_restore(const struct br_tracking *tracking, uint32_t slot, struct br_file *log);

#endif
