/* Gathering the end of a log.
 *
 * After the death of the process every batch that is not free is written into the log again, whatever its
 * entries' states are: pieces that were never copied belong to entries that were never confirmed, and those
 * get what the image holds after it (tracker_recover.c). So a batch says how much of it counts before the
 * entry is recorded, and is free only once its bytes are in the file: a second writing of them changes
 * nothing, because no other bytes ever belong there.
 *
 * A batch ends where the log's position is a multiple of its size: large aligned writes get large folios in
 * the page cache, which makes them cheap.
 */
#include "log_tail.h"

#include <errno.h>
#include <stdatomic.h>

#include "bytes.h"
#include "hrl.h"

enum { headers_at = 2048, header_size = 16, length_at = 8 };

static uint64_t header_at(uint32_t slot, uint32_t batch) {
    return BR_RECORDS_AT + (uint64_t)slot * BR_RECORD_SIZE + headers_at + (uint64_t)batch * header_size;
}

static uint64_t bytes_at(uint32_t slot, uint32_t batch) {
    return BR_TAILS_AT + (uint64_t)slot * BR_TAIL_SIZE + (uint64_t)batch * BR_TAIL_BATCH;
}

static uint32_t number_of(const struct br_tail *tail, const struct br_batch *batch) {
    return (uint32_t)(batch - tail->batches);
}

/* How much of a batch counts, for whoever reads the file. */
static void tell(const struct br_tail *tail, const struct br_batch *batch, uint32_t length) {
    atomic_thread_fence(memory_order_release);
    br_put32(tail->tracking->base + header_at(tail->slot, number_of(tail, batch)) + length_at, length);
    atomic_thread_fence(memory_order_release);
}

void br_tail_begin(struct br_tail *tail, struct br_tracking *tracking, uint32_t slot) {
    *tail = (struct br_tail){.tracking = tracking->mapped ? tracking : NULL, .slot = slot};
}

static void open_batch(struct br_tail *tail, uint64_t position) {
    for (struct br_batch *batch = tail->batches; batch < tail->batches + BR_TAIL_BATCHES; batch++)
        if (!batch->used) {
            *batch = (struct br_batch){.begin = position, .used = true};
            br_put64(tail->tracking->base + header_at(tail->slot, number_of(tail, batch)), position);
            tail->open = batch;
            return;
        }
}

/* Bytes that still go into the open batch. */
static uint64_t room_in(const struct br_batch *batch) {
    return BR_TAIL_BATCH - batch->begin % BR_TAIL_BATCH - batch->taken;
}

struct br_spot br_tail_take(struct br_tail *tail, uint64_t position, uint64_t length, uint32_t *due) {
    struct br_spot nowhere = {NULL, 0};
    if (!tail->tracking || !length)
        return nowhere;
    if (tail->open && (length > BR_TAIL_MOST || length > room_in(tail->open)))
        br_tail_close(tail, due);
    if (length > BR_TAIL_MOST)
        return nowhere;
    if (!tail->open)
        open_batch(tail, position);
    struct br_batch *batch = tail->open;
    if (!batch || length > room_in(batch)) { /* a piece over the boundary is put into the log itself */
        if (batch)
            br_tail_close(tail, due);
        return nowhere;
    }
    uint32_t number = number_of(tail, batch);
    struct br_spot spot = {tail->tracking->base + bytes_at(tail->slot, number) + batch->taken, number};
    batch->taken += (uint32_t)length;
    tell(tail, batch, batch->taken);
    return spot;
}

static void look_whether_due(const struct br_tail *tail, const struct br_batch *batch, uint32_t *due) {
    if (batch->closed && batch->filled == batch->taken)
        *due |= 1u << number_of(tail, batch);
}

void br_tail_filled(struct br_tail *tail, const struct br_spot *spot, uint32_t length, uint32_t *due) {
    struct br_batch *batch = &tail->batches[spot->batch];
    batch->filled += length;
    if (room_in(batch) == 0 && tail->open == batch) /* nobody need come to find it full */
        br_tail_close(tail, due);
    else
        look_whether_due(tail, batch, due);
}

void br_tail_close(struct br_tail *tail, uint32_t *due) {
    struct br_batch *batch = tail->open;
    tail->open = NULL;
    if (!batch)
        return;
    batch->closed = true;
    look_whether_due(tail, batch, due);
}

int br_tail_write(const struct br_tail *tail, uint32_t number, struct br_file *log) {
    const struct br_batch *batch = &tail->batches[number];
    const uint8_t *bytes = tail->tracking->base + bytes_at(tail->slot, number);
    return batch->taken ? log->ops->pwrite(log, bytes, batch->taken, batch->begin) : 0;
}

void br_tail_free(struct br_tail *tail, uint32_t number) {
    tell(tail, &tail->batches[number], 0);
    tail->batches[number].used = false;
}

int br_tail_restore(const struct br_tracking *tracking, uint32_t slot, struct br_file *log) {
    int error = 0;
    for (uint32_t batch = 0; batch < BR_TAIL_BATCHES && !error; batch++) {
        const uint8_t *header = tracking->base + header_at(slot, batch);
        uint64_t begin = br_get64(header);
        uint32_t length = br_get32(header + length_at);
        if (!length)
            continue;
        if (begin < HRL_HEADER_SIZE + HRL_METADATA_SIZE || begin > INT64_MAX / 2 || length > BR_TAIL_BATCH)
            return EBADMSG;
        error = log->ops->pwrite(log, tracking->base + bytes_at(slot, batch), length, begin);
    }
    return error;
}
