/* Finishing the log of a tracker that died, from its open record.
 *
 * What the record calls confirmed stands in log and image. For what was only reserved, nobody knows how much
 * of it reached the log or the image; nobody was told that it was done either. So its entry gets what the
 * image holds now, in the same place: a later entry that overlaps it comes behind it in the log as ever, and
 * where none does, log and image agree. A zero entry keeps saying zero, and what is not zero is appended;
 * so is what was pending. Then every block that the file may lack is written, and the log is sealed.
 *
 * The record is only read, and the same image gives the same log: whoever dies in here begins again. What
 * does not add up ends here, and the dirty bitmap stands in for the log. First of all the file gets the tail
 * of the log that had not reached it.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "zero.h"

enum { piece_size = 1 << 20 };

struct recovery {
    struct br_tracker *tracker;
    uint32_t slot;
    struct br_log log;
    uint8_t *piece; /* piece_size bytes */
};

/* The log with this id, under any of the names that it may have; `name` is that. */
static int find_log(struct br_tracker *tracker, uint64_t epoch, const uint8_t id[16], struct br_log *log,
                    char name[BR_NAME]) {
    static const char *const suffixes[] = {".hrl", ".hrl.next", NULL};
    struct br_folder *folder = tracker->folder;
    uint8_t bytes[HRL_HEADER_SIZE];
    struct hrl_fault fault;
    for (int i = 0; i < 3; i++) {
        struct br_file *file = NULL;
        if (suffixes[i])
            br_name(tracker, suffixes[i], name);
        else
            br_epoch_name(tracker, epoch, ".hrl", name);
        if (folder->ops->open(folder, name, BR_OPEN_WRITE, &file) != 0)
            continue;
        if (file->ops->pread(file, bytes, sizeof bytes, 0) == 0 &&
            hrl_decode_header(bytes, &log->header, &fault) && log->header.version == HRL_VERSION_2_1 &&
            log->header.metadata_size == HRL_METADATA_SIZE && memcmp(log->header.unique_id, id, 16) == 0) {
            log->file = file;
            hrl_bind(&log->format, &log->header);
            return 0;
        }
        br_file_close(&file);
    }
    return ENOENT;
}

/* The extent as the image holds it, piece by piece, into the log at `at`; its CRC. */
static int copy_content(struct recovery *recovery, struct hrl_entry *entry, uint64_t at) {
    struct br_file *image = recovery->tracker->image, *log = recovery->log.file;
    uint32_t crc = hrl_entry_crc_start(entry->offset, entry->length, HRL_WRITE);
    int error = 0;
    for (uint32_t done = 0, step; done < entry->length && !error; done += step) {
        step = entry->length - done < piece_size ? entry->length - done : piece_size;
        error = image->ops->pread(image, recovery->piece, step, entry->offset + done);
        crc = br_crc32c(crc, recovery->piece, step);
        if (!error)
            error = log->ops->pwrite(log, recovery->piece, step, at + done);
    }
    entry->crc = crc;
    return error;
}

/* One entry of a group, whose data stands at `at`, into the log's block. */
static int take_entry(struct recovery *recovery, uint32_t number, uint32_t index, uint64_t *at) {
    struct br_log *log = &recovery->log;
    uint8_t *bytes = hrl_slot(log->block, index);
    struct hrl_entry entry;
    struct hrl_fault fault;
    enum br_entry_state state =
        br_record_read_entry(&recovery->tracker->tracking, recovery->slot, number, index, bytes);
    if (!hrl_decode_entry(&log->format, bytes, &entry, &fault))
        return EBADMSG;
    int error = 0;
    if (state != BR_ENTRY_CONFIRMED && entry.operation == HRL_WRITE) {
        error = copy_content(recovery, &entry, *at);
        hrl_encode_entry(&entry, bytes);
    }
    *at += hrl_data_length(&entry);
    return error;
}

/* Bring a group into log->block, and its block into the file unless it is the `open` one. */
static int take_group(struct recovery *recovery, const struct br_record_group *group, bool open) {
    struct br_log *log = &recovery->log;
    log->position = group->begin;
    log->last_block = group->last_block;
    log->number = group->number;
    log->entries = (uint64_t)(group->number - 1) * BR_GROUP_ENTRIES;
    if (group->last_block + HRL_METADATA_SIZE != group->begin || (!open && group->count != BR_GROUP_ENTRIES))
        return EBADMSG;
    int error = 0;
    for (uint32_t i = 0; i < group->count && !error; i++)
        error = take_entry(recovery, group->number, i, &log->position);
    log->open = group->count;
    return error || (open && log->open < BR_GROUP_ENTRIES) ? error : br_log_finish_group(log);
}

/* All groups that are not settled, oldest first; the newest stays open. */
static int take_groups(struct recovery *recovery) {
    const struct br_tracking *tracking = &recovery->tracker->tracking;
    uint32_t newest = br_record_newest(tracking, recovery->slot);
    uint64_t expected = 0;
    int error = newest ? 0 : EBADMSG;
    for (uint32_t number = newest > BR_GROUPS ? newest - BR_GROUPS + 1 : 1; number <= newest && !error;
         number++) {
        struct br_record_group group = {0};
        if (!br_record_read_group(tracking, recovery->slot, number, &group) && number < newest &&
            newest > BR_GROUPS && number == newest - BR_GROUPS + 1)
            continue; /* its place was about to be taken */
        if (group.number != number || (expected && group.begin != expected))
            return EBADMSG;
        expected = 0;
        if (group.settled && number < newest)
            continue;
        error = take_group(recovery, &group, number == newest);
        expected = recovery->log.position;
    }
    return error;
}

/* Append what the image holds in an extent; `zeros`: what is zero there is in the log already. */
static int append_content(struct recovery *recovery, uint64_t offset, uint64_t length, bool zeros) {
    struct br_file *image = recovery->tracker->image;
    struct br_place place;
    bool lost;
    int error = 0;
    for (uint64_t done = 0, step; done < length && !error; done += step) {
        step = length - done < piece_size ? length - done : piece_size;
        struct hrl_entry entry = {
            .offset = offset + done, .length = (uint32_t)step, .timestamp = recovery->log.header.timestamp};
        error = image->ops->pread(image, recovery->piece, step, offset + done);
        if (error)
            break;
        bool zero = br_is_zero(recovery->piece, step);
        if (zero && zeros)
            continue;
        entry.operation = zero ? HRL_ZERO : HRL_WRITE;
        entry.crc = hrl_entry_crc(entry.offset, entry.length, entry.operation, recovery->piece);
        error = br_log_reserve(&recovery->log, &entry, &place, &lost);
        if (!error)
            error = br_log_put(&recovery->log, &entry, recovery->piece, &place);
    }
    return error;
}

/* Zero entries that were never confirmed, and changes that were pending. */
static int append_rest(struct recovery *recovery) {
    const struct br_tracking *tracking = &recovery->tracker->tracking;
    uint32_t newest = br_record_newest(tracking, recovery->slot);
    struct br_record_group group;
    uint64_t offset, length;
    int error = 0;
    for (uint32_t number = newest > BR_GROUPS ? newest - BR_GROUPS + 1 : 1; number <= newest; number++)
        for (uint32_t i = 0; br_record_read_group(tracking, recovery->slot, number, &group) &&
                             !group.settled && i < group.count && !error;
             i++) {
            uint8_t bytes[HRL_ENTRY_SIZE];
            struct hrl_entry entry;
            struct hrl_fault fault;
            if (br_record_read_entry(tracking, recovery->slot, number, i, bytes) != BR_ENTRY_CONFIRMED &&
                hrl_decode_entry(&recovery->log.format, bytes, &entry, &fault) && entry.operation == HRL_ZERO)
                error = append_content(recovery, entry.offset, entry.length, true);
        }
    for (uint32_t place = 0; place < BR_PENDING && !error; place++)
        if (br_record_read_pending(tracking, recovery->slot, place, &offset, &length))
            error = append_content(recovery, offset, length, false);
    return error;
}

static int finish_log(struct recovery *recovery) {
    recovery->piece = malloc(piece_size);
    int error = recovery->piece ? 0 : ENOMEM;
    if (!error)
        error = br_tail_restore(&recovery->tracker->tracking, recovery->slot, recovery->log.file);
    if (!error)
        error = take_groups(recovery);
    if (!error)
        error = append_rest(recovery);
    free(recovery->piece);
    return error ? error : br_log_seal(&recovery->log);
}

bool br_recover_log(struct br_tracker *tracker, uint32_t slot, const struct br_record_head *head,
                    uint64_t epoch) {
    struct recovery recovery = {.tracker = tracker, .slot = slot};
    struct br_folder *folder = tracker->folder;
    char found[BR_NAME], sealed[BR_NAME];
    br_epoch_name(tracker, epoch, ".hrl", sealed);
    int error = head->has_log ? find_log(tracker, epoch, head->id, &recovery.log, found) : ENOENT;
    if (!error)
        error = finish_log(&recovery);
    br_file_close(&recovery.log.file);
    if (!error && strcmp(found, sealed) != 0)
        error = folder->ops->rename(folder, found, sealed);
    if (error)
        folder->ops->unlink(folder, sealed);
    return !error;
}
