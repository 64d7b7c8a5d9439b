/* The change log's format: the specification's worked example, every flipped bit, every cut, and reading
 * back. */
#include "../hrl_check.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../bytes.h"
#include "../crc32c.h"
#include "check.h"

enum { size = 512, groups = 3, entries_in_all = 6 };

static const uint8_t unique_id[16] = "sixteen bytes id";

/* A file with one log: an empty block, then one block for each group of 1, 2, 3 entries. */
struct sample {
    int fd;
    struct hrl_header header;
    struct hrl_log log;
    uint64_t blocks[groups + 1], end;
};

static void put(int fd, const void *data, size_t length, uint64_t at) {
    CHECK(pwrite(fd, data, length, (off_t)at) == (ssize_t)length);
}

static void add_group(struct sample *sample, uint32_t number) {
    uint8_t block[size], data[64];
    for (uint32_t i = 0; i < number; i++) {
        struct hrl_entry entry = {.offset = number * 1000 + i, .length = 7 * i + number, .timestamp = number};
        entry.operation = i == 2 && sample->log.version == HRL_VERSION_2_1 ? HRL_ZERO : HRL_WRITE;
        memset(data, 'a' + (int)i, sizeof data);
        if (sample->log.version == HRL_VERSION_2_1)
            entry.crc = hrl_entry_crc(entry.offset, entry.length, entry.operation, data);
        else
            entry.data_checksum = hrl_checksum(data, entry.length, entry.length);
        hrl_encode_entry(&entry, hrl_slot(block, i));
        put(sample->fd, data, hrl_data_length(&entry), sample->end);
        sample->end += hrl_data_length(&entry);
    }
    uint64_t before = number ? sample->blocks[number - 1] : sample->end;
    hrl_encode_block(&sample->log, block, sample->end - before, number, number);
    put(sample->fd, block, size, sample->end);
    sample->blocks[number] = sample->end;
    sample->end += size;
}

static struct sample new_sample(uint32_t version) {
    struct sample sample = {.fd = memfd_create("log", MFD_CLOEXEC), .end = HRL_HEADER_SIZE};
    CHECK(sample.fd >= 0);
    hrl_init_header(&sample.header, version);
    memcpy(sample.header.unique_id, unique_id, 16);
    sample.header.metadata_size = size;
    hrl_bind(&sample.log, &sample.header);
    for (uint32_t number = 0; number <= groups; number++)
        add_group(&sample, number);
    return sample;
}

/* All of the sample's blocks, checked with their data; the fault's code. */
static enum hrl_fault_code read_all(const struct sample *sample, struct hrl_result *result) {
    uint8_t positions[8 * (groups + 1)], rows[16 * HRL_ROW_SIZE], stamps[16 * 4];
    for (int i = 0; i <= groups; i++)
        br_put64(positions + 8 * i, sample->blocks[i]);
    struct hrl_reading reading = {.log = &sample->log, .fd = sample->fd, .data = true, .slots = true};
    struct hrl_place place = {.end = HRL_HEADER_SIZE};
    struct hrl_fault fault;
    bool good = hrl_read(&reading, &place, positions, groups + 1, rows, stamps, 16, result, &fault);
    CHECK(good == (fault.code == HRL_OK));
    if (good) {
        CHECK(place.end == sample->end && place.number == groups + 1);
        CHECK(br_get64(rows + 5 * HRL_ROW_SIZE) == 3002 && br_get32(stamps + 5 * 4) == 3);
        CHECK(br_get64(rows + 16) == HRL_HEADER_SIZE + size);
    }
    return fault.code;
}

static struct hrl_salvage salvage(const struct sample *sample, uint64_t limit, uint64_t budget) {
    struct hrl_salvage state = {.place = {HRL_HEADER_SIZE, 0}, .scan = HRL_HEADER_SIZE};
    int done;
    while ((done = hrl_salvage(sample->fd, &sample->log, limit, budget, &state)) == 0)
        continue;
    CHECK(done == 1);
    return state;
}

static void the_worked_example_has_its_checksums(void) {
    static const uint32_t example[][3] = {{4096, 4294966608u}, {4096, 4294966558u}, {4096, 4294966571u},
                                          {4096, 4294966460u}, {4096, 4294966674u}, {2048, 4294966933u}};
    static const uint64_t offsets[] = {3626348544, 8026886144, 3699798016, 3700805632, 4111884288, 139466752};
    for (int i = 0; i < 6; i++) {
        struct hrl_entry entry = {.offset = offsets[i], .length = example[i][0], .timestamp = 539842381};
        uint8_t raw[HRL_ENTRY_SIZE];
        entry.operation = HRL_WRITE;
        hrl_encode_entry(&entry, raw);
        CHECK(br_get32(raw + 8) == example[i][1]);
    }
    struct sample sample = new_sample(HRL_VERSION_2);
    uint8_t block[HRL_METADATA_SIZE] = {0};
    sample.log.metadata_size = HRL_METADATA_SIZE;
    hrl_encode_block(&sample.log, block, 324096, 1, 58);
    CHECK(br_get32(block + 12) == 4294966991u);
    hrl_encode_block(&sample.log, block, 0, 0, 0);
    CHECK(br_get32(block + 12) == 4294967295u);
    close(sample.fd);
}

static void a_header_comes_back(void) {
    struct hrl_header header, back;
    struct hrl_fault fault;
    uint8_t raw[HRL_HEADER_SIZE];
    hrl_init_header(&header, HRL_VERSION_2_1);
    memcpy(header.unique_id, unique_id, 16);
    header.end = 1234567890123;
    header.error_code = -5;
    header.total_entries = 77;
    header.file_type = HRL_FILE_UNDO;
    hrl_encode_header(&header, raw);
    CHECK(hrl_decode_header(raw, &back, &fault));
    CHECK(memcmp(&header, &back, sizeof header) == 0);
    for (size_t bit = 0; bit < 8 * sizeof raw; bit++) {
        raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(!hrl_decode_header(raw, &back, &fault));
        raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void clocks_are_clamped(void) {
    CHECK(hrl_timestamp(INT64_MIN) == 0 && hrl_timestamp(946684799) == 0 && hrl_timestamp(946684801) == 1);
    CHECK(hrl_timestamp(INT64_MAX) == UINT32_MAX &&
          hrl_timestamp(946684800 + (int64_t)UINT32_MAX) == UINT32_MAX);
}

static void what_was_written_is_read(uint32_t version) {
    struct sample sample = new_sample(version);
    struct hrl_result result;
    CHECK(read_all(&sample, &result) == HRL_OK);
    CHECK(result.blocks == groups + 1 && result.rows == entries_in_all && result.unchecked == 0);
    uint8_t positions[8 * (groups + 1)];
    uint64_t position = sample.blocks[groups], entries = 0;
    struct hrl_fault fault;
    CHECK(hrl_walk(sample.fd, &sample.log, &position, positions, 2, &entries, &fault) == 2);
    CHECK(position == sample.blocks[1] && entries == 5 && fault.code == HRL_OK);
    CHECK(hrl_walk(sample.fd, &sample.log, &position, positions, 4, &entries, &fault) == 2);
    CHECK(position == 0 && entries == 6 && br_get64(positions + 8) == sample.blocks[0]);
    close(sample.fd);
}

static void every_flipped_bit_is_found(void) {
    struct sample sample = new_sample(HRL_VERSION_2_1);
    for (uint64_t at = HRL_HEADER_SIZE; at < sample.end; at++) {
        uint8_t was, bent;
        CHECK(pread(sample.fd, &was, 1, (off_t)at) == 1);
        for (int bit = 0; bit < 8; bit++) {
            struct hrl_result result;
            bent = was ^ (uint8_t)(1 << bit);
            put(sample.fd, &bent, 1, at);
            CHECK(read_all(&sample, &result) != HRL_OK);
            CHECK(salvage(&sample, sample.end, UINT32_MAX).place.end <= at);
        }
        put(sample.fd, &was, 1, at);
    }
    close(sample.fd);
}

static void a_log_cut_at_any_byte_keeps_its_whole_blocks(uint32_t version) {
    struct sample sample = new_sample(version);
    for (uint64_t cut = sample.end;; cut--) {
        struct hrl_salvage found = salvage(&sample, cut, cut % 200);
        uint64_t whole = 0, entries = 0;
        while (whole <= groups && sample.blocks[whole] + size <= cut)
            entries += whole++;
        CHECK(found.place.number == whole && found.entries == entries);
        CHECK(found.last == (whole ? sample.blocks[whole - 1] : 0));
        if (cut == HRL_HEADER_SIZE)
            break;
        CHECK(ftruncate(sample.fd, (off_t)cut - 1) == 0);
    }
    close(sample.fd);
}

static void blocks_of_another_life_are_not_taken(void) {
    struct sample sample = new_sample(HRL_VERSION_2_1);
    sample.header.unique_id[15] ^= 1;
    hrl_bind(&sample.log, &sample.header); /* the prefix in the blocks is still the same */
    CHECK(salvage(&sample, sample.end, UINT32_MAX).place.number == 0);
    close(sample.fd);
}

static void rows_outside_their_data_are_refused(void) {
    struct sample sample = new_sample(HRL_VERSION_2_1);
    uint8_t row[HRL_ROW_SIZE] = {0}, stamp[4] = {0}, out[HRL_ENTRY_SIZE];
    br_put64(row + 8, 4);
    br_put32(row + 28, HRL_WRITE);
    CHECK(hrl_encode_rows(&sample.log, row, 1, unique_id, 4, stamp, out) == 0);
    CHECK(br_get32(out + 26) == hrl_entry_crc(0, 4, HRL_WRITE, unique_id));
    CHECK(hrl_encode_rows(&sample.log, row, 1, unique_id, 3, stamp, out) != 0);
    br_put64(row + 16, UINT64_MAX - 1);
    CHECK(hrl_encode_rows(&sample.log, row, 1, unique_id, 4, stamp, out) != 0);
    br_put32(row + 28, HRL_ZERO);
    CHECK(hrl_encode_rows(&sample.log, row, 1, NULL, 0, stamp, out) == 0);
    br_put64(row, INT64_MAX);
    CHECK(hrl_encode_rows(&sample.log, row, 1, NULL, 0, stamp, out) != 0);
    close(sample.fd);
}

int main(void) {
    the_worked_example_has_its_checksums();
    a_header_comes_back();
    clocks_are_clamped();
    every_flipped_bit_is_found();
    blocks_of_another_life_are_not_taken();
    rows_outside_their_data_are_refused();
    static const uint32_t versions[] = {HRL_VERSION_1, HRL_VERSION_2, HRL_VERSION_2_1};
    for (int i = 0; i < 3; i++) {
        what_was_written_is_read(versions[i]);
        a_log_cut_at_any_byte_keeps_its_whole_blocks(versions[i]);
    }
    puts("hrl: right");
    return 0;
}
