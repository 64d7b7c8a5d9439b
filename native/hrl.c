/* [MS-HRL] structures, encoded and checked.
 *
 * Two things are less plain than the tables. The byte sum of a block's header covers the header's reserved
 * bytes, and so in 2.1 the CRC among them; the CRC therefore counts both itself and that checksum as zero,
 * and the checksum is computed last. And an entry's checksum covers its CRC, so the CRC comes first there
 * too.
 *
 * A check looks at one field at a time, cheapest first, and stops at the first fault: salvage calls it at
 * many places that are no block.
 */
#include "hrl.h"

#include "bytes.h"
#include "bytesum.h"
#include "crc32c.h"

static const uint8_t cookie[8] = {'m', 's', 'c', 't', 'l', 'o', 'g', ' '};
static const uint8_t creator[4] = {'b', 'r', 'e', 'p'};

enum { creator_version = 0x00010000 };
enum { header_checksum = 40, block_checksum = 12, entry_checksum = 8, block_crc = 28, header_used = 126 };

static const uint64_t disk_limit = INT64_MAX; /* offsets are off_t in the end */
static const int64_t epoch_2000 = 946684800;

static uint16_t get16(const uint8_t *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

/* The index of the first byte that is not zero, or `length`. */
static size_t zeros(const uint8_t *data, size_t length) {
    size_t at = 0;
    while (at + 8 <= length && br_get64(data + at) == 0)
        at += 8;
    while (at < length && data[at] == 0)
        at++;
    return at;
}

uint32_t hrl_checksum(const uint8_t *data, size_t length, size_t skip) {
    uint32_t sum = br_byte_sum(data, length);
    if (skip < length)
        sum -= br_byte_sum(data + skip, 4);
    return ~sum;
}

/* The same for the 32 bytes of an entry or a block header, where a call would cost more than the sum. */
static uint32_t checksum32(const uint8_t *data, size_t skip) {
    uint32_t sum = 0;
    for (size_t i = 0; i < 32; i++)
        sum += data[i];
    return ~(sum - data[skip] - data[skip + 1] - data[skip + 2] - data[skip + 3]);
}

uint32_t hrl_timestamp(int64_t unix_seconds) {
    if (unix_seconds < epoch_2000)
        return 0;
    int64_t seconds = unix_seconds - epoch_2000;
    return seconds > UINT32_MAX ? UINT32_MAX : (uint32_t)seconds;
}

bool hrl_metadata_size_valid(uint64_t size) {
    return size >= HRL_METADATA_UNIT && size <= HRL_METADATA_MAX && size % HRL_METADATA_UNIT == 0;
}

void hrl_init_header(struct hrl_header *header, uint32_t version) {
    *header = (struct hrl_header){.version = version, .metadata_size = HRL_METADATA_SIZE};
    memcpy(header->creator, creator, sizeof creator);
    header->creator_version = creator_version;
}

void hrl_encode_header(const struct hrl_header *header, uint8_t out[HRL_HEADER_SIZE]) {
    memset(out, 0, HRL_HEADER_SIZE);
    memcpy(out, cookie, sizeof cookie);
    br_put32(out + 8, header->version);
    br_put32(out + 12, header->timestamp);
    memcpy(out + 16, header->creator, 4);
    br_put32(out + 20, header->creator_version);
    br_put64(out + 24, header->original_size);
    br_put64(out + 32, header->current_size);
    br_put64(out + 44, header->end);
    br_put32(out + 52, (uint32_t)header->error_code);
    br_put32(out + 56, header->metadata_size);
    memcpy(out + 60, header->unique_id, 16);
    memcpy(out + 76, header->previous_id, 16);
    br_put32(out + 92, header->modified);
    br_put64(out + 96, header->total_entries);
    br_put32(out + 104, header->file_type);
    out[108] = (uint8_t)header->flags;
    out[109] = (uint8_t)(header->flags >> 8);
    if (header->version != HRL_VERSION_1)
        memcpy(out + 110, header->data_write_guid, 16);
    br_put32(out + header_checksum, hrl_checksum(out, HRL_HEADER_SIZE, header_checksum));
}

static void read_header(const uint8_t *in, struct hrl_header *header) {
    *header = (struct hrl_header){
        .version = br_get32(in + 8),
        .timestamp = br_get32(in + 12),
        .creator_version = br_get32(in + 20),
        .original_size = br_get64(in + 24),
        .current_size = br_get64(in + 32),
        .end = br_get64(in + 44),
        .error_code = (int32_t)br_get32(in + 52),
        .metadata_size = br_get32(in + 56),
        .modified = br_get32(in + 92),
        .total_entries = br_get64(in + 96),
        .file_type = br_get32(in + 104),
        .flags = get16(in + 108),
    };
    memcpy(header->creator, in + 16, 4);
    memcpy(header->unique_id, in + 60, 16);
    memcpy(header->previous_id, in + 76, 16);
    if (header->version != HRL_VERSION_1)
        memcpy(header->data_write_guid, in + 110, 16);
}

bool hrl_decode_header(const uint8_t in[HRL_HEADER_SIZE], struct hrl_header *header,
                       struct hrl_fault *fault) {
    if (memcmp(in, cookie, 7) != 0 || (in[7] != ' ' && in[7] != 0))
        return hrl_fail(fault, HRL_BAD_COOKIE, 0, br_get64(cookie), br_get64(in));
    uint32_t checksum = hrl_checksum(in, HRL_HEADER_SIZE, header_checksum);
    if (checksum != br_get32(in + header_checksum))
        return hrl_fail(fault, HRL_BAD_HEADER_CHECKSUM, header_checksum, checksum,
                        br_get32(in + header_checksum));
    read_header(in, header);
    if (header->version != HRL_VERSION_1 && header->version != HRL_VERSION_2 &&
        header->version != HRL_VERSION_2_1)
        return hrl_fail(fault, HRL_BAD_VERSION, 8, HRL_VERSION_2, header->version);
    if (!hrl_metadata_size_valid(header->metadata_size))
        return hrl_fail(fault, HRL_BAD_METADATA_SIZE, 56, HRL_METADATA_SIZE, header->metadata_size);
    if (header->file_type > HRL_FILE_UNDO)
        return hrl_fail(fault, HRL_BAD_FILE_TYPE, 104, HRL_FILE_LOG, header->file_type);
    size_t clean = header_used + zeros(in + header_used, HRL_HEADER_SIZE - header_used);
    if (header->version == HRL_VERSION_2_1 && clean < HRL_HEADER_SIZE)
        return hrl_fail(fault, HRL_BAD_RESERVED, clean, 0, in[clean]);
    return true;
}

void hrl_bind(struct hrl_log *log, const struct hrl_header *header) {
    log->version = header->version;
    log->metadata_size = header->metadata_size;
    log->room = (header->metadata_size - HRL_BLOCK_HEADER_SIZE) / HRL_ENTRY_SIZE;
    memcpy(log->unique_id, header->unique_id, 16);
    log->seed = br_crc32c(0, header->unique_id, 16);
}

uint32_t hrl_entry_crc_start(uint64_t offset, uint32_t length, uint8_t operation) {
    uint8_t prefix[13];
    br_put64(prefix, offset);
    br_put32(prefix + 8, length);
    prefix[12] = operation;
    return br_crc32c(0, prefix, sizeof prefix);
}

uint32_t hrl_entry_crc(uint64_t offset, uint32_t length, uint8_t operation, const void *data) {
    uint32_t crc = hrl_entry_crc_start(offset, length, operation);
    return operation == HRL_WRITE ? br_crc32c(crc, data, length) : crc;
}

void hrl_encode_entry(const struct hrl_entry *entry, uint8_t out[HRL_ENTRY_SIZE]) {
    memset(out, 0, HRL_ENTRY_SIZE);
    br_put64(out, entry->offset);
    br_put32(out + 12, entry->length);
    br_put32(out + 16, entry->timestamp);
    out[20] = entry->operation;
    br_put32(out + 21, entry->data_checksum);
    br_put32(out + 26, entry->crc);
    br_put32(out + entry_checksum, checksum32(out, entry_checksum));
}

bool hrl_decode_entry(const struct hrl_log *log, const uint8_t in[HRL_ENTRY_SIZE], struct hrl_entry *entry,
                      struct hrl_fault *fault) {
    bool extended = log->version == HRL_VERSION_2_1;
    uint32_t checksum = checksum32(in, entry_checksum);
    if (checksum != br_get32(in + entry_checksum))
        return hrl_fail(fault, HRL_BAD_ENTRY_CHECKSUM, entry_checksum, checksum,
                        br_get32(in + entry_checksum));
    if (in[20] != HRL_WRITE && !(extended && in[20] == HRL_ZERO))
        return hrl_fail(fault, HRL_BAD_OPERATION, 20, HRL_WRITE, in[20]);
    if (in[25] != 0)
        return hrl_fail(fault, HRL_BAD_LOCATION, 25, 0, in[25]);
    if (extended && get16(in + 30) != 0)
        return hrl_fail(fault, HRL_BAD_RESERVED, 30, 0, get16(in + 30));
    *entry = (struct hrl_entry){
        .offset = br_get64(in),
        .length = br_get32(in + 12),
        .timestamp = br_get32(in + 16),
        .operation = in[20],
        .data_checksum = br_get32(in + 21),
        .crc = extended ? br_get32(in + 26) : 0,
    };
    if (entry->offset > disk_limit || entry->length > disk_limit - entry->offset)
        return hrl_fail(fault, HRL_BAD_EXTENT, 0, disk_limit, entry->offset);
    return true;
}

/* The CRC of a block: of its header, with checksum and CRC counted as zero, and of its valid entries. */
static uint32_t crc_of_block(const struct hrl_log *log, const uint8_t *block, uint32_t entries) {
    uint8_t header[HRL_BLOCK_HEADER_SIZE];
    memcpy(header, block, sizeof header);
    br_put32(header + block_checksum, 0);
    br_put32(header + block_crc, 0);
    uint32_t crc = br_crc32c(log->seed, header, sizeof header);
    return br_crc32c(crc, block + HRL_BLOCK_HEADER_SIZE, (size_t)entries * HRL_ENTRY_SIZE);
}

void hrl_encode_block(const struct hrl_log *log, uint8_t *block, uint64_t distance, uint32_t number,
                      uint32_t entries) {
    memset(block, 0, HRL_BLOCK_HEADER_SIZE);
    uint8_t *unused = hrl_slot(block, entries);
    memset(unused, 0, (size_t)(block + log->metadata_size - unused));
    br_put64(block, distance);
    br_put32(block + 8, entries);
    if (log->version == HRL_VERSION_2_1) {
        memcpy(block + 16, log->unique_id, 8);
        br_put32(block + 24, number);
        br_put32(block + block_crc, crc_of_block(log, block, entries));
    }
    br_put32(block + block_checksum, checksum32(block, block_checksum));
}

bool hrl_decode_block_header(const struct hrl_log *log, const uint8_t in[HRL_BLOCK_HEADER_SIZE],
                             struct hrl_block *block, struct hrl_fault *fault) {
    uint32_t checksum = checksum32(in, block_checksum);
    if (checksum != br_get32(in + block_checksum))
        return hrl_fail(fault, HRL_BAD_BLOCK_CHECKSUM, block_checksum, checksum,
                        br_get32(in + block_checksum));
    bool extended = log->version == HRL_VERSION_2_1;
    if (extended && memcmp(in + 16, log->unique_id, 8) != 0)
        return hrl_fail(fault, HRL_BAD_BINDING, 16, br_get64(log->unique_id), br_get64(in + 16));
    if (br_get32(in + 8) > log->room)
        return hrl_fail(fault, HRL_BAD_COUNT, 8, log->room, br_get32(in + 8));
    *block = (struct hrl_block){.distance = br_get64(in), .entries = br_get32(in + 8)};
    if (extended) {
        block->number = br_get32(in + 24);
        block->crc = br_get32(in + block_crc);
    }
    return true;
}

/* Every valid entry, and that their data fills `gap`. */
static bool check_entries(const struct hrl_log *log, const uint8_t *block, uint32_t entries, uint64_t gap,
                          struct hrl_fault *fault) {
    uint64_t data = 0; /* at most 2^15 entries of less than 2^32 bytes */
    struct hrl_entry entry;
    for (uint32_t i = 0; i < entries; i++) {
        uint32_t at = HRL_BLOCK_HEADER_SIZE + i * HRL_ENTRY_SIZE;
        if (!hrl_decode_entry(log, block + at, &entry, fault)) {
            fault->at += at;
            return false;
        }
        data += hrl_data_length(&entry);
    }
    return data == gap || hrl_fail(fault, HRL_BAD_DISTANCE, 0, gap, data);
}

bool hrl_check_block(const struct hrl_log *log, const uint8_t *block, uint64_t gap, bool first,
                     uint32_t number, bool slots, struct hrl_fault *fault) {
    struct hrl_block header;
    bool extended = log->version == HRL_VERSION_2_1;
    uint64_t distance = first ? 0 : gap + log->metadata_size;
    if (br_get64(block) != distance)
        return hrl_fail(fault, HRL_BAD_PREVIOUS, 0, distance, br_get64(block));
    if (!hrl_decode_block_header(log, block, &header, fault))
        return false;
    if (extended && header.number != number)
        return hrl_fail(fault, HRL_BAD_NUMBER, 24, number, header.number);
    if (!check_entries(log, block, header.entries, gap, fault))
        return false;
    uint32_t crc = extended ? crc_of_block(log, block, header.entries) : 0;
    if (crc != header.crc)
        return hrl_fail(fault, HRL_BAD_BLOCK_CRC, block_crc, crc, header.crc);
    size_t used = HRL_BLOCK_HEADER_SIZE + (size_t)header.entries * HRL_ENTRY_SIZE;
    size_t clean = used + zeros(block + used, log->metadata_size - used);
    if ((slots || extended) && clean < log->metadata_size)
        return hrl_fail(fault, HRL_BAD_UNUSED_SLOT, clean, 0, block[clean]);
    return true;
}
