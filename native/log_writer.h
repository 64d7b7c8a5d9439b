/* The change log of one epoch, written by many threads at once: a place is reserved under the owner's lock,
 * data is put there outside of it, and confirmed under the lock once image and log have it. What is put may
 * stand in the log's tail (log_tail.h) for a while: a confirmation can bring its caller the duty to write
 * some of that into the file, before its write counts as done.
 *
 * Only br_log_reserve, br_log_confirm, br_log_written and br_log_entries need the owner's lock. Entries stand
 * in the order of their reservations, so two writes that hold overlapping range locks one after the other
 * stand in the order in which they reached the image. What is reserved and confirmed stands in the epoch's
 * open record, too.
 */
#ifndef BR_LOG_WRITER_H
#define BR_LOG_WRITER_H

#include <stdint.h>

#include "hrl.h"
#include "log_tail.h"
#include "open_record.h"
#include "ops.h"

struct br_log {
    struct br_file *file;
    struct br_record *record; /* NULL: none is kept */
    struct br_tail tail;
    struct hrl_header header;
    struct hrl_log format;
    uint64_t limit;                   /* the log never grows beyond; 0: no limit */
    uint64_t position;                /* where the next data goes */
    uint64_t entries;                 /* in finished groups */
    uint64_t last_block;              /* where the block before the open group stands */
    uint32_t number;                  /* of the open group's block */
    uint32_t open;                    /* entries in the open group */
    uint8_t block[HRL_METADATA_SIZE]; /* of the open group */
};

/* Where an entry's data goes, and the metadata block that its group's last entry brings along. */
struct br_place {
    uint64_t data_at;
    uint64_t block_at;     /* 0: none */
    uint32_t group, index; /* in the open record */
    struct br_spot data, block_spot;
    uint32_t due; /* batches of the tail that the reservation closed */
    uint8_t block[HRL_METADATA_SIZE];
};

/* Start an empty log in `file`; what stands in the file stays, behind the end of the log or under it. The log
 * keeps the file, also when this fails. */
int br_log_create(struct br_log *log, struct br_file *file, const uint8_t unique_id[16],
                  const uint8_t previous_id[16], const uint8_t tracking_id[16], uint64_t limit);

/* Reserve the entry's place. EFBIG: the log would grow beyond its limit. `lost`: the open record could not be
 * kept. */
int br_log_reserve(struct br_log *log, const struct hrl_entry *entry, struct br_place *place, bool *lost);

/* The image has what the entry says, and br_log_put was done. Returns what is due: batches of the tail, a bit
 * each; 0: nothing. */
uint32_t br_log_confirm(struct br_log *log, const struct hrl_entry *entry, const struct br_place *place);

/* Write what is due into the file; then, in any case, say that it was done. */
int br_log_write(const struct br_log *log, uint32_t due);
void br_log_written(struct br_log *log, uint32_t due);

/* Put data (may be NULL when the entry has none) and block, if any, where `place` says. */
int br_log_put(struct br_log *log, const struct hrl_entry *entry, const void *data,
               const struct br_place *place);

/* Finish the open group with its block, and write that. */
int br_log_finish_group(struct br_log *log);

/* All entries in it, and the bytes it has. */
uint64_t br_log_entries(const struct br_log *log);

/* Close the log for good, durably: its tail, last block, sync, header with its end, sync. */
int br_log_seal(struct br_log *log);

#endif
