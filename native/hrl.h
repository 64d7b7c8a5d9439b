/* The change log's format, [MS-HRL] 2.0 and our 2.1: encode and check its three structures.
 *
 *     header (4096) | metadata block 0 | data ... | metadata block 1 | data ... | metadata block 2 | ...
 *
 * A metadata block describes the data that stands *before* it. Nothing here reads or writes a file;
 * hrl_check.h does. docs/format.md has the offset tables. All integers on disk are little-endian, UUIDs stand
 * as their sixteen bytes.
 *
 * How a writer uses it: encode a header with `end` 0, write it, `hrl_bind` a log to it; put an empty block
 * (number 0) at HRL_HEADER_SIZE; then for each group of writes: the data one behind the other, the entries
 * encoded into a block buffer by `hrl_encode_entry` at `hrl_slot`, and behind the data the block, finished by
 * `hrl_encode_block`. To seal: write the last block, fdatasync, encode the header with `end` and
 * `total_entries`, write it, fdatasync.
 */
#ifndef HRL_H
#define HRL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HRL_HEADER_SIZE = 4096,
    HRL_BLOCK_HEADER_SIZE = 32,
    HRL_ENTRY_SIZE = 32,
    HRL_METADATA_SIZE = 4096, /* what we write; readers take any multiple of HRL_METADATA_UNIT ... */
    HRL_METADATA_UNIT = 512,
    HRL_METADATA_MAX =
        1 << 20, /* ... up to this: a bound of ours, so that a header can't ask for any memory */
    HRL_VERSION_1 = 0x00010000,   /* read only; without the data-write GUID */
    HRL_VERSION_2 = 0x00020000,   /* strict */
    HRL_VERSION_2_1 = 0x00020001, /* zero entries, CRCs, blocks bound to their log */
    HRL_WRITE = 1,                /* entry operations */
    HRL_ZERO = 2,                 /* 2.1 only: `length` bytes became zero, no data in the log */
    HRL_FILE_LOG = 0,             /* file types */
    HRL_FILE_UNDO = 1,
};

/* What is wrong, the Python side's FAULTS has the words. Values are part of the interface: append only. */
enum hrl_fault_code {
    HRL_OK = 0,
    HRL_BAD_COOKIE,
    HRL_BAD_VERSION,
    HRL_BAD_HEADER_CHECKSUM,
    HRL_BAD_METADATA_SIZE,
    HRL_BAD_FILE_TYPE,
    HRL_BAD_RESERVED,
    HRL_BAD_END,
    HRL_BAD_PREVIOUS,
    HRL_BAD_COUNT,
    HRL_BAD_BLOCK_CHECKSUM,
    HRL_BAD_BINDING,
    HRL_BAD_NUMBER,
    HRL_BAD_BLOCK_CRC,
    HRL_BAD_UNUSED_SLOT,
    HRL_BAD_ENTRY_CHECKSUM,
    HRL_BAD_OPERATION,
    HRL_BAD_LOCATION,
    HRL_BAD_EXTENT,
    HRL_BAD_DISTANCE,
    HRL_BAD_ENTRY_CRC,
    HRL_BAD_DATA_CHECKSUM,
    HRL_CUT_SHORT,
    HRL_READ_FAILED, /* got: errno */
};

/* `at` is an offset in the file, or in the structure for functions that see only that. */
struct hrl_fault {
    enum hrl_fault_code code;
    uint64_t at, wanted, got;
};

static inline bool hrl_fail(struct hrl_fault *fault, enum hrl_fault_code code, uint64_t at, uint64_t wanted,
                            uint64_t got) {
    *fault = (struct hrl_fault){.code = code, .at = at, .wanted = wanted, .got = got};
    return false;
}

struct hrl_header {
    uint32_t version;
    uint32_t timestamp, modified; /* seconds since 2000-01-01 00:00:00 UTC */
    uint8_t creator[4];
    uint32_t creator_version;
    uint64_t original_size, current_size;
    uint64_t end; /* EOLLocation; 0: not closed */
    int32_t error_code;
    uint32_t metadata_size;
    uint8_t unique_id[16], previous_id[16];
    uint64_t total_entries;
    uint32_t file_type;
    uint16_t flags;
    uint8_t data_write_guid[16]; /* zero in version 1 */
};

/* Sets what every log of ours has: version, creator, metadata size; all else zero. */
void hrl_init_header(struct hrl_header *header, uint32_t version);
void hrl_encode_header(const struct hrl_header *header, uint8_t out[HRL_HEADER_SIZE]);
/* false: nothing in `header` may be used, and `fault` says why. Does not judge `end` against a file. */
bool hrl_decode_header(const uint8_t in[HRL_HEADER_SIZE], struct hrl_header *header, struct hrl_fault *fault);
bool hrl_metadata_size_valid(uint64_t size);

/* What blocks and entries need to know of the log that they belong to. */
struct hrl_log {
    uint32_t version;
    uint32_t metadata_size;
    uint32_t room; /* entries in one block */
    uint8_t unique_id[16];
    uint32_t seed; /* CRC-32C of unique_id: blocks of 2.1 start from it */
};

void hrl_bind(struct hrl_log *log, const struct hrl_header *header);

struct hrl_entry {
    uint64_t offset;
    uint32_t length;
    uint32_t timestamp;
    uint8_t operation;
    uint32_t data_checksum; /* 0: absent, as Hyper-V leaves it */
    uint32_t crc;           /* 2.1; 0 in strict logs */
};

/* CRC-32C of offset, length, operation and the data (none for a zero entry). In pieces: start, then br_crc32c
 * over each piece in turn. */
uint32_t hrl_entry_crc_start(uint64_t offset, uint32_t length, uint8_t operation);
uint32_t hrl_entry_crc(uint64_t offset, uint32_t length, uint8_t operation, const void *data);
void hrl_encode_entry(const struct hrl_entry *entry, uint8_t out[HRL_ENTRY_SIZE]);
/* Checks the entry's own checksum, its operation, location and extent; not the data. */
bool hrl_decode_entry(const struct hrl_log *log, const uint8_t in[HRL_ENTRY_SIZE], struct hrl_entry *entry,
                      struct hrl_fault *fault);
/* Bytes that stand in the log for the entry. */
static inline uint32_t hrl_data_length(const struct hrl_entry *entry) {
    return entry->operation == HRL_WRITE ? entry->length : 0;
}

static inline uint8_t *hrl_slot(uint8_t *block, uint32_t index) {
    return block + HRL_BLOCK_HEADER_SIZE + (size_t)index * HRL_ENTRY_SIZE;
}

/* Finish a block of metadata_size bytes whose first `entries` slots are encoded: writes its header, zeroes
 * the other slots. `distance` is from the block before to this one, 0 for the first; `number` counts from 0.
 */
void hrl_encode_block(const struct hrl_log *log, uint8_t *block, uint64_t distance, uint32_t number,
                      uint32_t entries);

/* A block's header, checked by its own checksum and against the log it must belong to; `number` is not looked
 * at in strict logs. */
struct hrl_block {
    uint64_t distance;
    uint32_t entries;
    uint32_t number;
    uint32_t crc;
};
bool hrl_decode_block_header(const struct hrl_log *log, const uint8_t in[HRL_BLOCK_HEADER_SIZE],
                             struct hrl_block *block, struct hrl_fault *fault);

/* Whole check of a block that stands `gap` bytes behind the end of the block before it (or of the header):
 * header, CRC, every entry, unused slots (with `slots`; always in 2.1), and that the entries' data fills the
 * gap exactly. `first`: no block stands before it. Returns false with `fault->at` relative to the block. */
bool hrl_check_block(const struct hrl_log *log, const uint8_t *block, uint64_t gap, bool first,
                     uint32_t number, bool slots, struct hrl_fault *fault);

/* The [MS-HRL] checksum of `length` bytes without the four at `skip` (skip >= length: of all). */
uint32_t hrl_checksum(const uint8_t *data, size_t length, size_t skip);

/* Seconds since 1970 as the format's seconds since 2000, clamped to what 32 bits hold: a clock that is wrong
 * must not stop a write. */
uint32_t hrl_timestamp(int64_t unix_seconds);

#endif
