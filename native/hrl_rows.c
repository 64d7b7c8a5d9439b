/* Many entries encoded in one call, for writers that have their data in one buffer. */
#include <errno.h>

#include "bytes.h"
#include "bytesum.h"
#include "hrl_check.h"

static const uint64_t disk_limit = INT64_MAX;

/* The row as an entry, its checksums still missing, and where its data begins (NULL: none). false when the
 * log can't hold it. The row is read once: another thread may write to it meanwhile, and must not get past
 * the checks so. */
static bool take(const struct hrl_log *log, const uint8_t *row, const uint8_t *data, size_t size,
                 struct hrl_entry *entry, const uint8_t **at) {
    uint64_t offset = br_get64(row), length = br_get64(row + 8), source = br_get64(row + 16);
    uint32_t operation = br_get32(row + 28);
    if (length > UINT32_MAX || offset > disk_limit || length > disk_limit - offset)
        return false;
    if (operation != HRL_WRITE && !(operation == HRL_ZERO && log->version == HRL_VERSION_2_1))
        return false;
    if (operation == HRL_WRITE && (source > size || length > size - source))
        return false;
    *entry =
        (struct hrl_entry){.offset = offset, .length = (uint32_t)length, .operation = (uint8_t)operation};
    *at = operation == HRL_WRITE ? data + source : NULL;
    return true;
}

int hrl_encode_rows(const struct hrl_log *log, const uint8_t *rows, size_t count, const uint8_t *data,
                    size_t length, const uint8_t *stamps, uint8_t *out) {
    for (size_t i = 0; i < count; i++) {
        struct hrl_entry entry;
        const uint8_t *at;
        if (!take(log, rows + i * HRL_ROW_SIZE, data, length, &entry, &at))
            return EINVAL;
        entry.timestamp = br_get32(stamps + 4 * i);
        if (log->version == HRL_VERSION_2_1)
            entry.crc = hrl_entry_crc(entry.offset, entry.length, entry.operation, at);
        else
            entry.data_checksum = ~br_byte_sum(at, entry.length);
        hrl_encode_entry(&entry, out + i * HRL_ENTRY_SIZE);
    }
    return 0;
}
