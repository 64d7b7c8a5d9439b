/* The open record.
 *
 * What a dead process leaves must be readable at every instant, so each change is one store at its end: an
 * entry counts from its state byte on, a group from its number on, a record from its epoch on. Stores of one
 * thread reach the shared mapping in their order if the compiler leaves them so, hence the fences.
 *
 * A group's place is needed again sixteen groups later. Where an entry of it is still under way then, nobody
 * waits: the record says that it does not know all, until the late group is settled.
 */
#include "open_record.h"

#include <stdatomic.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

enum {
    epoch_at = 0,
    session_at = 8,
    id_at = 16,
    log_at = 32,
    lost_at = 36,
    crc_at = 40,
    head_size = 32,
    pending_at = 64,
    groups_at = BR_PAGE,
    begin_at = 0,
    last_at = 8,
    number_at = 16,
    settled_at = 20,
    entries_at = 256,
    state_at = 30,
    uncounted = BR_GROUPS + 1 /* `lost` for good */
};

static uint64_t place_of(uint32_t slot) {
    return BR_RECORDS_AT + (uint64_t)slot * BR_RECORD_SIZE;
}

static uint64_t group_at(uint32_t slot, uint32_t number) {
    return place_of(slot) + groups_at + number % BR_GROUPS * BR_GROUP_SIZE;
}

static uint64_t entry_at(uint32_t slot, uint32_t number, uint32_t index) {
    return group_at(slot, number) + entries_at + (uint64_t)index * HRL_ENTRY_SIZE;
}

/* What was stored before stands before what is stored after, for whoever reads the file. */
static void in_order(void) {
    atomic_thread_fence(memory_order_release);
}

static int put_number(struct br_record *record, uint64_t at, uint32_t value) {
    br_put32(record->tracking->base + at, value);
    return br_tracking_write_through(record->tracking, at, 4);
}

/* In memory alone: an empty group. */
static void start_group(struct br_record *record, uint32_t number, uint64_t begin, uint64_t last_block) {
    uint8_t *base = record->tracking->base + group_at(record->slot, number);
    record->left[number % BR_GROUPS] = BR_GROUP_ENTRIES + 1;
    br_put32(base + number_at, 0);
    in_order();
    memset(base + entries_at, 0, BR_GROUP_SIZE - entries_at);
    br_put64(base + begin_at, begin);
    br_put64(base + last_at, last_block);
    br_put32(base + settled_at, 0);
    in_order();
    br_put32(base + number_at, number);
}

int br_record_begin(struct br_record *record, uint64_t epoch, uint64_t session, const uint8_t id[16],
                    uint64_t begin, uint64_t last_block) {
    uint64_t at = place_of(record->slot);
    uint8_t *base = record->tracking->base + at;
    br_put64(base + epoch_at, 0);
    in_order();
    memset(base + session_at, 0, BR_RECORD_SIZE - session_at);
    br_put64(base + session_at, session);
    memcpy(base + id_at, id, 16);
    memset(record->left, 0, sizeof record->left);
    memset(record->late, 0, sizeof record->late);
    record->lost = 0;
    if (begin)
        start_group(record, 1, begin, last_block);
    br_put32(base + log_at, begin != 0);
    in_order();
    br_put64(base + epoch_at, epoch);
    br_put32(base + crc_at, br_crc32c(0, base, head_size));
    in_order();
    return br_tracking_write_through(record->tracking, at, BR_RECORD_SIZE);
}

int br_record_no_log(struct br_record *record) {
    int error = put_number(record, place_of(record->slot) + log_at, 0);
    in_order();
    return error;
}

static int set_lost(struct br_record *record, uint32_t lost) {
    record->lost = lost;
    int error = put_number(record, place_of(record->slot) + lost_at, lost);
    in_order();
    return error;
}

/* A group that is not settled gives up its place. */
static int give_up(struct br_record *record, uint32_t number, uint32_t left) {
    for (int i = 0; i < BR_GROUPS && record->lost < uncounted; i++)
        if (!record->late[i].number) {
            record->late[i] = (struct br_late){number, left};
            return set_lost(record, record->lost + 1);
        }
    return set_lost(record, uncounted);
}

int br_record_group(struct br_record *record, uint32_t number, uint64_t begin, uint64_t last_block) {
    uint64_t at = group_at(record->slot, number);
    uint32_t before = br_get32(record->tracking->base + at + number_at);
    uint32_t left = record->left[number % BR_GROUPS];
    int error = before && left ? give_up(record, before, left) : 0;
    start_group(record, number, begin, last_block);
    int failed = br_tracking_write_through(record->tracking, at, BR_GROUP_SIZE);
    return error ? error : failed;
}

int br_record_reserve(struct br_record *record, uint32_t number, uint32_t index,
                      const uint8_t entry[HRL_ENTRY_SIZE]) {
    uint64_t at = entry_at(record->slot, number, index);
    uint8_t *base = record->tracking->base + at;
    memcpy(base, entry, state_at);
    in_order();
    base[state_at] = BR_ENTRY_RESERVED;
    return br_tracking_write_through(record->tracking, at, HRL_ENTRY_SIZE);
}

/* An entry of a group that gave up its place. */
static int confirm_late(struct br_record *record, uint32_t number, uint32_t done) {
    for (int i = 0; i < BR_GROUPS; i++)
        if (record->late[i].number == number) {
            record->late[i].left -= done;
            if (record->late[i].left)
                return 0;
            record->late[i].number = 0;
            return record->lost == uncounted ? 0 : set_lost(record, record->lost - 1);
        }
    return 0;
}

int br_record_confirm(struct br_record *record, uint32_t number, uint32_t index, bool block) {
    uint64_t group = group_at(record->slot, number), at = entry_at(record->slot, number, index) + state_at;
    uint8_t *base = record->tracking->base;
    uint32_t *left = &record->left[number % BR_GROUPS], done = block ? 2 : 1;
    if (br_get32(base + group + number_at) != number)
        return confirm_late(record, number, done);
    in_order();
    base[at] = BR_ENTRY_CONFIRMED;
    *left -= done;
    if (*left)
        return br_tracking_write_through(record->tracking, at, 1);
    return put_number(record, group + settled_at, 1);
}

static uint64_t pending_place(uint32_t slot, uint32_t place) {
    return place_of(slot) + pending_at + (uint64_t)place * 16;
}

int br_record_pend(struct br_record *record, uint64_t offset, uint64_t length, uint32_t *place) {
    for (*place = 0; *place < BR_PENDING; ++*place) {
        uint64_t at = pending_place(record->slot, *place);
        uint8_t *base = record->tracking->base + at;
        if (br_get64(base + 8))
            continue;
        br_put64(base, offset);
        in_order();
        br_put64(base + 8, length);
        return br_tracking_write_through(record->tracking, at, 16);
    }
    return set_lost(record, uncounted);
}

int br_record_unpend(struct br_record *record, uint32_t place) {
    if (place >= BR_PENDING)
        return 0;
    uint64_t at = pending_place(record->slot, place);
    in_order();
    br_put64(record->tracking->base + at + 8, 0);
    return br_tracking_write_through(record->tracking, at, 16);
}

bool br_record_read(const struct br_tracking *tracking, uint32_t slot, struct br_record_head *head) {
    const uint8_t *base = tracking->base + place_of(slot);
    *head = (struct br_record_head){
        .epoch = br_get64(base + epoch_at),
        .session = br_get64(base + session_at),
        .has_log = br_get32(base + log_at) == 1 && br_get32(base + lost_at) == 0,
    };
    memcpy(head->id, base + id_at, 16);
    return head->epoch && br_get32(base + crc_at) == br_crc32c(0, base, head_size);
}

enum br_entry_state br_record_read_entry(const struct br_tracking *tracking, uint32_t slot, uint32_t number,
                                         uint32_t index, uint8_t entry[HRL_ENTRY_SIZE]) {
    const uint8_t *base = tracking->base + entry_at(slot, number, index);
    memcpy(entry, base, HRL_ENTRY_SIZE);
    memset(entry + state_at, 0, HRL_ENTRY_SIZE - state_at);
    return base[state_at];
}

bool br_record_read_group(const struct br_tracking *tracking, uint32_t slot, uint32_t number,
                          struct br_record_group *group) {
    const uint8_t *base = tracking->base + group_at(slot, number);
    uint8_t entry[HRL_ENTRY_SIZE];
    if (!number || br_get32(base + number_at) != number)
        return false;
    *group = (struct br_record_group){
        .begin = br_get64(base + begin_at),
        .last_block = br_get64(base + last_at),
        .number = number,
        .settled = br_get32(base + settled_at) == 1,
    };
    while (group->count < BR_GROUP_ENTRIES &&
           br_record_read_entry(tracking, slot, number, group->count, entry) != BR_ENTRY_NONE)
        group->count++;
    return true;
}

uint32_t br_record_newest(const struct br_tracking *tracking, uint32_t slot) {
    uint32_t newest = 0;
    for (uint32_t i = 0; i < BR_GROUPS; i++) {
        uint32_t number = br_get32(tracking->base + group_at(slot, i) + number_at);
        newest = number > newest ? number : newest;
    }
    return newest;
}

bool br_record_read_pending(const struct br_tracking *tracking, uint32_t slot, uint32_t place,
                            uint64_t *offset, uint64_t *length) {
    const uint8_t *base = tracking->base + pending_place(slot, place);
    *offset = br_get64(base);
    *length = br_get64(base + 8);
    return *length != 0;
}
