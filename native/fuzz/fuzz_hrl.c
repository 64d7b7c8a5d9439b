/* libFuzzer target: a log made by a few commands, then damaged by others. It is read every way there is.
 *
 * Each three bytes of the input are a command: add an entry, end the group with its block, change a byte of
 * what was made, cut it. What salvage takes must read right; where nothing was damaged, it must take every
 * group.
 */
#include "../hrl_check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../bytes.h"

enum { most = 96 * 1024, longest = 64, most_blocks = 256 };

struct made {
    struct hrl_header header;
    struct hrl_log log;
    uint8_t data[most];
    size_t size, last;
    uint8_t block[3 * HRL_METADATA_UNIT];
    uint32_t open, blocks, entries; /* in the open group; in finished ones */
    bool damaged;
};

static void end_group(struct made *made) {
    if (made->size + made->log.metadata_size + longest > most || made->blocks == most_blocks)
        return;
    uint64_t distance = made->blocks ? made->size - made->last : 0;
    hrl_encode_block(&made->log, made->block, distance, made->blocks, made->open);
    memcpy(made->data + made->size, made->block, made->log.metadata_size);
    made->last = made->size;
    made->size += made->log.metadata_size;
    made->blocks++;
    made->entries += made->open;
    made->open = 0;
}

static void add_entry(struct made *made, uint8_t length, uint8_t offset, bool zero) {
    if (made->open == made->log.room)
        end_group(made);
    if (made->open == made->log.room || made->size + longest > most - made->log.metadata_size)
        return;
    struct hrl_entry entry = {
        .offset = (uint64_t)offset << 40, .length = length % longest, .timestamp = length};
    entry.operation = zero && made->log.version == HRL_VERSION_2_1 ? HRL_ZERO : HRL_WRITE;
    uint8_t *data = made->data + made->size;
    memset(data, offset, hrl_data_length(&entry));
    if (made->log.version == HRL_VERSION_2_1)
        entry.crc = hrl_entry_crc(entry.offset, entry.length, entry.operation, data);
    else if (offset & 1)
        entry.data_checksum = hrl_checksum(data, entry.length, entry.length);
    hrl_encode_entry(&entry, hrl_slot(made->block, made->open++));
    made->size += hrl_data_length(&entry);
}

static void damage(struct made *made, uint8_t where, uint8_t what) {
    size_t body = made->size - HRL_HEADER_SIZE;
    if (body == 0)
        return;
    /* mostly near the last block, where fields are */
    size_t at = made->size - 1 - (where < 128 ? where % body : where * (size_t)251 % body);
    made->damaged |= what != 0;
    made->data[at] ^= what;
}

static void obey(struct made *made, const uint8_t *command) {
    switch (command[0] % 8) {
    case 0:
    case 1:
        end_group(made);
        break;
    case 2:
    case 3:
    case 4:
        add_entry(made, command[1], command[2], command[0] % 8 == 4);
        break;
    case 5:
    case 6:
        damage(made, command[1], command[2]);
        break;
    default:
        if (command[1] == 0 && made->size - HRL_HEADER_SIZE > command[2]) {
            made->size -= command[2];
            made->damaged = true;
        }
    }
}

static void start(struct made *made, const uint8_t *input) {
    static const uint32_t versions[] = {HRL_VERSION_2_1, HRL_VERSION_2, HRL_VERSION_1, HRL_VERSION_2_1};
    memset(made, 0, sizeof *made);
    hrl_init_header(&made->header, versions[input[0] % 4]);
    made->header.metadata_size = HRL_METADATA_UNIT * (1 + input[1] % 3);
    memset(made->header.unique_id, input[2], 16);
    hrl_bind(&made->log, &made->header);
    made->size = HRL_HEADER_SIZE;
}

/* What salvage found, walked back and read forward. */
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

/* From where the log may say that it ends, whatever comes. */
static void read_from(const struct hrl_log *log, int fd, uint64_t position) {
    uint8_t positions[8 * most_blocks];
    uint8_t *rows = malloc((size_t)log->room * HRL_ROW_SIZE), *stamps = malloc((size_t)log->room * 4);
    uint64_t entries = 0;
    struct hrl_fault fault;
    struct hrl_result result;
    struct hrl_reading reading = {.log = log, .fd = fd, .data = true, .slots = true};
    struct hrl_place place = {.end = HRL_HEADER_SIZE};
    size_t count = hrl_walk(fd, log, &position, positions, most_blocks, &entries, &fault);
    hrl_read(&reading, &place, positions, count, rows, stamps, log->room, &result, &fault);
    free(rows);
    free(stamps);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length) {
    static struct made made;
    if (length < 6)
        return 0;
    start(&made, input);
    for (size_t at = 3; at + 3 <= length; at += 3)
        obey(&made, input + at);
    int fd = memfd_create("log", MFD_CLOEXEC);
    if (fd < 0 || write(fd, made.data, made.size) != (ssize_t)made.size)
        abort();
    struct hrl_salvage found = {.place = {HRL_HEADER_SIZE, 0}, .scan = HRL_HEADER_SIZE};
    while (hrl_salvage(fd, &made.log, made.size, 5000, &found) == 0)
        continue;
    if (!made.damaged && made.log.version == HRL_VERSION_2_1)
        if (found.place.number != made.blocks || found.entries != made.entries)
            abort();
    read_back(&made.log, fd, &found);
    read_from(&made.log, fd, made.last ? made.last : HRL_HEADER_SIZE);
    close(fd);
    return 0;
}
