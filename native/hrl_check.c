/* The chain, the blocks and the data of a log, read by pread: a file that somebody cuts meanwhile is a fault,
 * not a signal. Every position is checked against the one before it, so a walk always moves, and ends. */
#include "hrl_check.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "bytes.h"
#include "bytesum.h"
#include "crc32c.h"

/* Exactly `length` bytes. */
static bool read_at(int fd, void *buffer, size_t length, uint64_t at, struct hrl_fault *fault) {
    size_t done = 0;
    while (done < length) {
        ssize_t count = pread(fd, (uint8_t *)buffer + done, length - done, (off_t)(at + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return hrl_fail(fault, HRL_READ_FAILED, at, 0, (uint64_t)errno);
        if (count == 0)
            return hrl_fail(fault, HRL_CUT_SHORT, at, at + length, at + done);
        done += (size_t)count;
    }
    return true;
}

size_t hrl_walk(int fd, const struct hrl_log *log, uint64_t *position, uint8_t *positions, size_t room,
                uint64_t *entries, struct hrl_fault *fault) {
    size_t count = 0;
    *fault = (struct hrl_fault){.code = HRL_OK};
    while (count < room && *position != 0) {
        uint8_t header[HRL_BLOCK_HEADER_SIZE];
        struct hrl_block block;
        if (!read_at(fd, header, sizeof header, *position, fault))
            break;
        if (!hrl_decode_block_header(log, header, &block, fault)) {
            fault->at += *position;
            break;
        }
        uint64_t most = *position - HRL_HEADER_SIZE;
        if (block.distance != 0 && (block.distance < log->metadata_size || block.distance > most)) {
            hrl_fail(fault, HRL_BAD_PREVIOUS, *position, most, block.distance);
            break;
        }
        br_put64(positions + 8 * count++, *position);
        *entries += block.entries;
        *position = block.distance ? *position - block.distance : 0;
    }
    return count;
}

/* What stands at `at` in the file, at most `most` bytes and at least one: its length, or 0 with the fault. */
static size_t look(struct hrl_reading *reading, uint64_t at, size_t most, const uint8_t **bytes,
                   struct hrl_fault *fault) {
    if (at < reading->at || at - reading->at >= reading->filled) {
        ssize_t count;
        do
            count = pread(reading->fd, reading->window, HRL_WINDOW_SIZE, (off_t)at);
        while (count < 0 && errno == EINTR);
        reading->at = at;
        reading->filled = count > 0 ? (size_t)count : 0;
        if (count < 0)
            hrl_fail(fault, HRL_READ_FAILED, at, 0, (uint64_t)errno);
        if (count == 0)
            hrl_fail(fault, HRL_CUT_SHORT, at, at + most, at);
        if (count <= 0)
            return 0;
    }
    size_t skip = (size_t)(at - reading->at), there = reading->filled - skip;
    *bytes = reading->window + skip;
    return there < most ? there : most;
}

/* The data of one entry, which stands at `at`, piece by piece. */
static bool check_entry_data(struct hrl_reading *reading, const struct hrl_entry *entry, uint64_t at,
                             struct hrl_fault *fault) {
    bool extended = reading->log->version == HRL_VERSION_2_1;
    uint32_t crc = hrl_entry_crc_start(entry->offset, entry->length, entry->operation), sum = 0;
    uint32_t left = hrl_data_length(entry);
    for (uint64_t from = at; left > 0;) {
        const uint8_t *bytes;
        size_t piece = look(reading, from, left, &bytes, fault);
        if (piece == 0)
            return false;
        crc = extended ? br_crc32c(crc, bytes, piece) : crc;
        sum += entry->data_checksum ? br_byte_sum(bytes, piece) : 0;
        from += piece;
        left -= (uint32_t)piece;
    }
    if (extended && crc != entry->crc)
        return hrl_fail(fault, HRL_BAD_ENTRY_CRC, at, crc, entry->crc);
    if (entry->data_checksum && ~sum != entry->data_checksum)
        return hrl_fail(fault, HRL_BAD_DATA_CHECKSUM, at, ~sum, entry->data_checksum);
    return true;
}

/* Whether the data of `entry` is covered by nothing, so that reading it would prove nothing. */
static bool unchecked_data(const struct hrl_log *log, const struct hrl_entry *entry) {
    return log->version != HRL_VERSION_2_1 && entry->data_checksum == 0 && entry->length > 0;
}

bool hrl_check_data(struct hrl_reading *reading, const struct hrl_place *place, const uint8_t *block,
                    uint64_t *unchecked, struct hrl_fault *fault) {
    uint64_t at = place->end;
    for (uint32_t i = 0, entries = br_get32(block + 8); i < entries; i++) {
        struct hrl_entry entry;
        if (!hrl_decode_entry(reading->log, hrl_slot((uint8_t *)block, i), &entry, fault))
            return false;
        if (unchecked_data(reading->log, &entry))
            *unchecked += 1;
        else if (!check_entry_data(reading, &entry, at, fault))
            return false;
        at += hrl_data_length(&entry);
    }
    return true;
}

bool hrl_read_block(const struct hrl_reading *reading, const struct hrl_place *place, uint64_t position,
                    uint8_t *block, struct hrl_fault *fault) {
    if (position < place->end)
        return hrl_fail(fault, HRL_BAD_PREVIOUS, position, place->end, position);
    if (!read_at(reading->fd, block, reading->log->metadata_size, position, fault))
        return false;
    bool first = place->number == 0;
    if (hrl_check_block(reading->log, block, position - place->end, first, (uint32_t)place->number,
                        reading->slots, fault))
        return true;
    fault->at += position;
    return false;
}

static void put_row(uint8_t *row, const struct hrl_entry *entry, uint64_t data) {
    br_put64(row, entry->offset);
    br_put64(row + 8, entry->length);
    br_put64(row + 16, entry->operation == HRL_WRITE ? data : UINT64_MAX);
    br_put32(row + 24, 0);
    br_put32(row + 28, entry->operation);
}

/* The entries of a block that has been checked; `data` is where theirs begins. */
static void take_rows(const struct hrl_log *log, const uint8_t *block, uint64_t data, uint8_t *rows,
                      uint8_t *stamps) {
    for (uint32_t i = 0, entries = br_get32(block + 8); i < entries; i++) {
        struct hrl_entry entry;
        struct hrl_fault fault;
        if (!hrl_decode_entry(log, hrl_slot((uint8_t *)block, i), &entry, &fault))
            return;
        put_row(rows + (size_t)i * HRL_ROW_SIZE, &entry, data);
        br_put32(stamps + (size_t)i * 4, entry.timestamp);
        data += hrl_data_length(&entry);
    }
}

/* What came of one block. */
enum taken { taken, no_room, bad };

static enum taken take_block(struct hrl_reading *reading, struct hrl_place *place, uint64_t position,
                             uint8_t *block, uint8_t *rows, uint8_t *stamps, size_t room,
                             struct hrl_result *result, struct hrl_fault *fault) {
    if (!hrl_read_block(reading, place, position, block, fault))
        return bad;
    uint32_t entries = br_get32(block + 8);
    if (entries > room - result->rows)
        return no_room;
    if (reading->data && !hrl_check_data(reading, place, block, &result->unchecked, fault))
        return bad;
    take_rows(reading->log, block, place->end, rows + result->rows * HRL_ROW_SIZE, stamps + result->rows * 4);
    result->rows += entries;
    result->blocks++;
    *place = (struct hrl_place){position + reading->log->metadata_size, place->number + 1};
    return taken;
}

bool hrl_read(struct hrl_reading *reading, struct hrl_place *place, const uint8_t *positions, size_t count,
              uint8_t *rows, uint8_t *stamps, size_t room, struct hrl_result *result,
              struct hrl_fault *fault) {
    *result = (struct hrl_result){0};
    *fault = (struct hrl_fault){.code = HRL_OK};
    reading->filled = 0;
    reading->window = malloc(HRL_WINDOW_SIZE);
    uint8_t *block = malloc(reading->log->metadata_size);
    enum taken last = taken;
    if (!block || !reading->window)
        last = hrl_fail(fault, HRL_READ_FAILED, place->end, 0, ENOMEM) ? taken : bad;
    while (last == taken && result->blocks < count)
        last = take_block(reading, place, br_get64(positions + 8 * result->blocks), block, rows, stamps, room,
                          result, fault);
    free(block);
    free(reading->window);
    reading->window = NULL;
    return last != bad;
}
