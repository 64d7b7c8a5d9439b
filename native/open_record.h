/* The open record of an epoch: what stands in its log and is told by no metadata block yet.
 *
 * A metadata block stands behind its data, so a log that is cut off anywhere has data that nothing describes.
 * The record keeps that in the tracking file, where it outlives the process: the last groups of entries, each
 * entry reserved before its data goes anywhere and confirmed after the image has it. What was never confirmed
 * is finished at the next open with what the image holds then (recover.c).
 *
 * One record a slot, at BR_RECORDS_AT + slot * BR_RECORD_SIZE:
 *       0   8  epoch; 0: none        32   4  1: the epoch has a log
 *       8   8  session               36   4  groups that are known no more: not 0: the log can't be finished
 *      16  16  UUID of the epoch     40   4  CRC-32C of bytes 0 to 32
 *                                    64  64 * 16  changes whose entry is not known yet: offset, length (0:
 * none) 2048  4 * 16  what of the log is not in its file yet (log_tail.h) 4096  16 groups of 4352 bytes,
 * group n at n % 16: 0   8  where its data begins in the log     16   4 its number, that of its block; 0:
 * none 8   8  where the block before it stands     20   4  1: block and data stand in the log and image 256
 * 127 entries as in a metadata block, but for byte 30: 0 none, 1 reserved, 2 confirmed
 *
 * All calls under the owner's lock. Those that return int return an errno when the file was not changed.
 */
#ifndef BR_OPEN_RECORD_H
#define BR_OPEN_RECORD_H

#include "hrl.h"
#include "tracking_file.h"

enum {
    BR_GROUPS = 16,
    BR_GROUP_SIZE = 4352,
    BR_GROUP_ENTRIES = 127,
    BR_PENDING = 64,
};
enum br_entry_state { BR_ENTRY_NONE, BR_ENTRY_RESERVED, BR_ENTRY_CONFIRMED };

struct br_record {
    struct br_tracking *tracking;
    uint32_t slot;
    uint32_t left[BR_GROUPS]; /* what keeps each group from being settled */
    struct br_late {          /* groups that were not settled when their place was needed */
        uint32_t number, left;
    } late[BR_GROUPS];
    uint32_t lost; /* those, or more than can be counted */
};

/* A new epoch: without a log, or with an empty one whose first data goes to `begin` (0: no log). */
int br_record_begin(struct br_record *record, uint64_t epoch, uint64_t session, const uint8_t id[16],
                    uint64_t begin, uint64_t last_block);
/* The epoch has no log any more, or not all of it. */
int br_record_no_log(struct br_record *record);

int br_record_group(struct br_record *record, uint32_t number, uint64_t begin, uint64_t last_block);
int br_record_reserve(struct br_record *record, uint32_t number, uint32_t index,
                      const uint8_t entry[HRL_ENTRY_SIZE]);
/* The image has what the entry says, and the log its data; with `block`, also the group's block. */
int br_record_confirm(struct br_record *record, uint32_t number, uint32_t index, bool block);

/* A change whose entry is known only after it: returns its place. */
int br_record_pend(struct br_record *record, uint64_t offset, uint64_t length, uint32_t *place);
int br_record_unpend(struct br_record *record, uint32_t place);

/* Reading. */
struct br_record_head {
    uint64_t epoch, session;
    uint8_t id[16];
    bool has_log; /* and it can be finished */
};
/* false: there is none. */
bool br_record_read(const struct br_tracking *tracking, uint32_t slot, struct br_record_head *head);

struct br_record_group {
    uint64_t begin, last_block;
    uint32_t number, count;
    bool settled;
};
/* false: there is no such group. */
bool br_record_read_group(const struct br_tracking *tracking, uint32_t slot, uint32_t number,
                          struct br_record_group *group);
enum br_entry_state br_record_read_entry(const struct br_tracking *tracking, uint32_t slot, uint32_t number,
                                         uint32_t index, uint8_t entry[HRL_ENTRY_SIZE]);
uint32_t br_record_newest(const struct br_tracking *tracking, uint32_t slot);
bool br_record_read_pending(const struct br_tracking *tracking, uint32_t slot, uint32_t place,
                            uint64_t *offset, uint64_t *length);

#endif
