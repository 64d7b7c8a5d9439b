/* libFuzzer target: any bytes as a log. They are read every way there is; what salvage takes must then read
 * right.
 *
 * The header's checksum is put right first, or no input would get past it; blocks' CRCs only when the input
 * asks for it (its last byte), so that both the refusing and the accepting code are reached.
 */
#include "../hrl_check.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../bytes.h"

enum { most = 64 * 1024 };

/* Give the block at each 512 bytes the checksums that it should have. */
static void mend(const struct hrl_log *log, uint8_t *data, size_t length) {
    for (size_t at = HRL_HEADER_SIZE; at + log->metadata_size <= length; at += HRL_METADATA_UNIT) {
        uint8_t *block = data + at;
        uint32_t entries = br_get32(block + 8) % (log->room + 1);
        for (uint32_t i = 0; i < entries; i++)
            br_put32(hrl_slot(block, i) + 8, hrl_checksum(hrl_slot(block, i), HRL_ENTRY_SIZE, 8));
        hrl_encode_block(log, block, br_get64(block), br_get32(block + 24), entries);
    }
}

static void read_back(const struct hrl_log *log, int fd, const struct hrl_salvage *found) {
    size_t blocks = (size_t)found->place.number, room = (size_t)found->entries + log->room;
    uint8_t *positions = malloc(8 * blocks + 8), *forward = malloc(8 * blocks + 8);
    uint8_t *rows = malloc(room * HRL_ROW_SIZE), *stamps = malloc(room * 4);
    uint64_t position = found->last, entries = 0;
    struct hrl_fault fault;
    if (found->last && hrl_walk(fd, log, &position, positions, blocks + 1, &entries, &fault) != blocks)
        abort();
    if (entries != found->entries || position != 0)
        abort();
    for (size_t i = 0; i < blocks; i++)
        br_put64(forward + 8 * i, br_get64(positions + 8 * (blocks - 1 - i)));
    struct hrl_reading reading = {.log = log, .fd = fd, .data = true};
    struct hrl_place place = {.end = HRL_HEADER_SIZE};
    struct hrl_result result;
    if (!hrl_read(&reading, &place, forward, blocks, rows, stamps, room, &result, &fault))
        abort();
    if (result.blocks != blocks || result.rows != entries || place.end != found->place.end)
        abort();
    free(positions);
    free(forward);
    free(rows);
    free(stamps);
}

/* Read the log back from where it says it ends, whatever comes. */
static void read_from_end(const struct hrl_log *log, int fd, uint64_t end) {
    uint8_t positions[8 * 64], *rows = malloc((size_t)log->room * HRL_ROW_SIZE),
                               *stamps = malloc((size_t)log->room * 4);
    uint64_t position = end - log->metadata_size, entries = 0;
    struct hrl_fault fault;
    struct hrl_result result;
    struct hrl_reading reading = {.log = log, .fd = fd, .data = true, .slots = true};
    struct hrl_place place = {.end = HRL_HEADER_SIZE};
    size_t count = hrl_walk(fd, log, &position, positions, 64, &entries, &fault);
    hrl_read(&reading, &place, positions, count, rows, stamps, log->room, &result, &fault);
    free(rows);
    free(stamps);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length) {
    struct hrl_header header;
    struct hrl_fault fault;
    if (length <= HRL_HEADER_SIZE || length > most)
        return 0;
    uint8_t *data = malloc(length);
    memcpy(data, input, length);
    memcpy(data, "msctlog ", 8);
    br_put32(data + 40, hrl_checksum(data, HRL_HEADER_SIZE, 40));
    int fd = memfd_create("log", MFD_CLOEXEC);
    if (fd >= 0 && hrl_decode_header(data, &header, &fault)) {
        struct hrl_log log;
        hrl_bind(&log, &header);
        if (input[length - 1] & 1)
            mend(&log, data, length);
        if (write(fd, data, length) != (ssize_t)length)
            abort();
        struct hrl_salvage state = {.place = {HRL_HEADER_SIZE, 0}, .scan = HRL_HEADER_SIZE};
        while (hrl_salvage(fd, &log, length, 5000, &state) == 0)
            continue;
        read_back(&log, fd, &state);
        if (header.end >= HRL_HEADER_SIZE + log.metadata_size && header.end <= INT64_MAX)
            read_from_end(&log, fd, header.end);
    }
    close(fd);
    free(data);
    return 0;
}
