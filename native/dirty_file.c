/* Saving a dirty bitmap: beside, synced, then renamed, so that the name always means a whole file. */
#include "dirty_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

static const uint8_t magic[8] = "brdirty";

static void encode(const struct br_tracking *tracking, uint32_t slot, const uint8_t epoch_id[16],
                   enum br_ended ended, uint32_t bitmap_crc, uint8_t out[BR_DIRTY_HEADER]) {
    const struct br_state *state = &tracking->state;
    memset(out, 0, BR_DIRTY_HEADER);
    memcpy(out, magic, sizeof magic);
    br_put32(out + 8, BR_DIRTY_VERSION);
    br_put32(out + 12, BR_GRANULE);
    memcpy(out + 16, state->tracking_id, 16);
    br_put64(out + 32, state->epoch);
    br_put64(out + 40, state->size);
    br_put64(out + 48, tracking->marked[slot]);
    br_put64(out + 56, state->covered);
    memcpy(out + 64, epoch_id, 16);
    br_put32(out + 80, bitmap_crc);
    memcpy(out + 84, state->chain, 16);
    br_put32(out + 100, ended);
    br_put32(out + BR_DIRTY_HEADER - 4, br_crc32c(0, out, BR_DIRTY_HEADER - 4));
}

static bool is_zero(const uint8_t *page, uint64_t length) {
    return length == 0 || (page[0] == 0 && memcmp(page, page + 1, length - 1) == 0);
}

static int write_all(struct br_file *file, const struct br_tracking *tracking, uint32_t slot,
                     const uint8_t epoch_id[16], enum br_ended ended) {
    uint8_t header[BR_DIRTY_HEADER];
    uint64_t length = (br_tracking_granules(tracking) + 7) / 8;
    uint32_t crc = 0;
    int error = file->ops->truncate(file, 0);
    if (!error)
        error = file->ops->truncate(file, BR_DIRTY_HEADER + length);
    for (uint64_t page = 0; page * BR_PAGE < length && !error; page++) {
        const uint8_t *bits = br_tracking_page(tracking, slot, page);
        uint64_t count = length - page * BR_PAGE < BR_PAGE ? length - page * BR_PAGE : BR_PAGE;
        crc = br_crc32c(crc, bits, count);
        if (!is_zero(bits, count))
            error = file->ops->pwrite(file, bits, count, BR_DIRTY_HEADER + page * BR_PAGE);
    }
    if (error)
        return error;
    encode(tracking, slot, epoch_id, ended, crc, header);
    error = file->ops->pwrite(file, header, sizeof header, 0);
    return error ? error : file->ops->sync(file);
}

int br_dirty_save(struct br_folder *folder, const char *name, const struct br_tracking *tracking,
                  uint32_t slot, const uint8_t epoch_id[16], enum br_ended ended) {
    char temporary[512];
    struct br_file *file;
    if (snprintf(temporary, sizeof temporary, "%s.new", name) >= (int)sizeof temporary)
        return ENAMETOOLONG;
    int error = folder->ops->open(folder, temporary, BR_OPEN_WRITE | BR_OPEN_CREATE, &file);
    if (error)
        return error;
    error = write_all(file, tracking, slot, epoch_id, ended);
    br_file_close(&file);
    if (!error)
        error = folder->ops->rename(folder, temporary, name);
    if (error)
        folder->ops->unlink(folder, temporary);
    return error;
}
