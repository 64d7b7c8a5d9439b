/* Writing a log of version 2.1.
 *
 * Everything that a metadata block holds is known when its last entry is reserved, so whoever reserves that
 * entry gets the finished block with his place, writes it next to his data, and nobody waits for anybody. A
 * block may so reach the file before data that it describes: the entries' CRCs tell, and only a sealed log is
 * trusted.
 */
#include "log_writer.h"

#include <errno.h>
#include <string.h>

#include "identity.h"

static int put_header(struct br_log *log) {
    uint8_t bytes[HRL_HEADER_SIZE];
    hrl_encode_header(&log->header, bytes);
    return log->file->ops->pwrite(log->file, bytes, sizeof bytes, 0);
}

int br_log_create(struct br_log *log, struct br_file *file, const uint8_t unique_id[16],
                  const uint8_t previous_id[16], const uint8_t tracking_id[16], uint64_t limit) {
    memset(log, 0, sizeof *log);
    log->file = file;
    log->limit = limit;
    hrl_init_header(&log->header, HRL_VERSION_2_1);
    log->header.timestamp = log->header.modified = hrl_timestamp(br_wall_clock() / 1000000000);
    memcpy(log->header.unique_id, unique_id, 16);
    memcpy(log->header.previous_id, previous_id, 16);
    memcpy(log->header.data_write_guid, tracking_id, 16);
    hrl_bind(&log->format, &log->header);
    int error = put_header(log);
    hrl_encode_block(&log->format, log->block, 0, 0, 0);
    if (!error)
        error = file->ops->pwrite(file, log->block, HRL_METADATA_SIZE, HRL_HEADER_SIZE);
    log->last_block = HRL_HEADER_SIZE;
    log->position = HRL_HEADER_SIZE + HRL_METADATA_SIZE;
    log->number = 1;
    return error;
}

/* Finish the open group with its block at the current position. */
static void finish_group(struct br_log *log) {
    hrl_encode_block(&log->format, log->block, log->position - log->last_block, log->number, log->open);
    log->last_block = log->position;
    log->position += HRL_METADATA_SIZE;
    log->entries += log->open;
    log->number++;
    log->open = 0;
}

int br_log_reserve(struct br_log *log, const struct hrl_entry *entry, struct br_place *place, bool *lost) {
    uint64_t after = log->position + hrl_data_length(entry) + HRL_METADATA_SIZE;
    if (after > (log->limit ? log->limit : (uint64_t)INT64_MAX))
        return EFBIG;
    uint8_t *slot = hrl_slot(log->block, log->open);
    hrl_encode_entry(entry, slot);
    place->data_at = log->position;
    place->block_at = 0;
    place->group = log->number;
    place->index = log->open++;
    place->due = 0;
    place->data = br_tail_take(&log->tail, log->position, hrl_data_length(entry), &place->due);
    if (log->record && br_record_reserve(log->record, place->group, place->index, slot) != 0)
        *lost = true;
    log->position += hrl_data_length(entry);
    if (log->open < log->format.room)
        return 0;
    place->block_at = log->position;
    place->block_spot = br_tail_take(&log->tail, log->position, HRL_METADATA_SIZE, &place->due);
    finish_group(log);
    memcpy(place->block, log->block, HRL_METADATA_SIZE);
    if (log->record && br_record_group(log->record, log->number, log->position, log->last_block) != 0)
        *lost = true;
    return 0;
}

/* What is not known to be confirmed is read again after a death: an error costs no more than that. */
uint32_t br_log_confirm(struct br_log *log, const struct hrl_entry *entry, const struct br_place *place) {
    uint32_t due = place->due;
    if (log->record)
        br_record_confirm(log->record, place->group, place->index, place->block_at != 0);
    if (place->data.bytes)
        br_tail_filled(&log->tail, &place->data, entry->length, &due);
    if (place->block_at && place->block_spot.bytes)
        br_tail_filled(&log->tail, &place->block_spot, HRL_METADATA_SIZE, &due);
    return due;
}

/* A piece, where its reservation says. */
static int put_piece(struct br_log *log, const struct br_spot *spot, const void *bytes, uint32_t length,
                     uint64_t at) {
    if (!spot->bytes)
        return log->file->ops->pwrite(log->file, bytes, length, at);
    memcpy(spot->bytes, bytes, length);
    return 0;
}

int br_log_put(struct br_log *log, const struct hrl_entry *entry, const void *data,
               const struct br_place *place) {
    int error = 0;
    if (hrl_data_length(entry))
        error = put_piece(log, &place->data, data, entry->length, place->data_at);
    if (!error && place->block_at)
        error = put_piece(log, &place->block_spot, place->block, HRL_METADATA_SIZE, place->block_at);
    return error;
}

int br_log_write(const struct br_log *log, uint32_t due) {
    int error = 0;
    for (uint32_t batch = 0; batch < BR_TAIL_BATCHES && !error; batch++)
        if (due >> batch & 1)
            error = br_tail_write(&log->tail, batch, log->file);
    return error;
}

void br_log_written(struct br_log *log, uint32_t due) {
    for (uint32_t batch = 0; batch < BR_TAIL_BATCHES; batch++)
        if (due >> batch & 1)
            br_tail_free(&log->tail, batch);
}

int br_log_finish_group(struct br_log *log) {
    uint64_t at = log->position;
    finish_group(log);
    return log->file->ops->pwrite(log->file, log->block, HRL_METADATA_SIZE, at);
}

uint64_t br_log_entries(const struct br_log *log) {
    return log->entries + log->open;
}

int br_log_seal(struct br_log *log) {
    struct br_file *file = log->file;
    uint32_t due = 0;
    br_tail_close(&log->tail, &due);
    int error = br_log_write(log, due);
    br_log_written(log, due);
    if (!error && log->open)
        error = br_log_finish_group(log);
    if (!error)
        error = file->ops->sync(file);
    if (error)
        return error;
    log->header.end = log->header.current_size = log->position;
    log->header.total_entries = log->entries;
    log->header.modified = hrl_timestamp(br_wall_clock() / 1000000000);
    error = put_header(log);
    return error ? error : file->ops->sync(file);
}
