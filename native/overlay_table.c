/* The checksum table's side of a point. A page is read while it may be being written; then it fails its CRC,
 * and the next look sees it whole. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "crc32c.h"
#include "overlay_parts.h"
#include "table.h"

enum { tries = 8 };

/* A page as it stands, zeros behind the end. */
static int read_page(struct br_overlay *overlay, uint64_t page, uint64_t size, uint8_t *raw) {
    uint64_t at = page * BR_PAGE_SIZE;
    size_t there = at < size ? (size_t)br_least(size - at, BR_PAGE_SIZE) : 0;
    memset(raw + there, 0, BR_PAGE_SIZE - there);
    return there ? overlay->table->ops->pread(overlay->table, raw, there, at) : 0;
}

static int read_good(struct br_overlay *overlay, uint64_t page, uint8_t *raw, uint8_t *entries, bool *good,
                     struct br_trouble *trouble) {
    *good = false;
    for (int left = tries; left && !*good; left--) {
        uint64_t size;
        int error = overlay->table->ops->size(overlay->table, &size);
        if (!error)
            error = read_page(overlay, page, size, raw);
        if (error == ENODATA)
            continue;
        if (error)
            return br_trouble(trouble, error, "checksums: reading page %llu: %s", (unsigned long long)page,
                              strerror(error));
        uint8_t bad = 0;
        *good = br_unpack_table(raw, 1, page, overlay->point.table_key, entries, &bad) == 0;
    }
    return 0;
}

int br_overlay_missing(struct br_overlay *overlay, uint64_t *low, uint64_t *high) {
    uint64_t table, image;
    int error = overlay->table->ops->size(overlay->table, &table);
    if (!error)
        error = overlay->image->ops->size(overlay->image, &image);
    if (error)
        return error;
    *low = table / BR_PAGE_SIZE;
    uint64_t blocks = br_block_count(image, overlay->point.block_size);
    *high = (blocks + BR_PAGE_ENTRIES - 1) / BR_PAGE_ENTRIES;
    return 0;
}

int br_overlay_table(struct br_overlay *overlay, uint64_t first, size_t count, struct br_sum *sums,
                     struct br_trouble *trouble) {
    uint8_t raw[BR_PAGE_SIZE], entries[BR_PAGE_BYTES];
    uint64_t low, high;
    for (size_t done = 0; done < count;) {
        uint64_t page = (first + done) / BR_PAGE_ENTRIES;
        size_t at = (size_t)((first + done) % BR_PAGE_ENTRIES);
        size_t some = (size_t)br_least(count - done, BR_PAGE_ENTRIES - at);
        bool good;
        int error = read_good(overlay, page, raw, entries, &good, trouble);
        if (!error)
            error = br_overlay_missing(overlay, &low, &high);
        if (error)
            return br_trouble(trouble, error, "checksums: %s", strerror(error));
        if (page >= low && page < high)
            good = false;
        for (size_t i = 0; i < some; i++) {
            sums[done + i].kind = good ? BR_UNDO_KNOWN : 0;
            memcpy(sums[done + i].entry, (good ? entries : raw) + (at + i) * BR_ENTRY_SIZE, BR_ENTRY_SIZE);
        }
        done += some;
    }
    return 0;
}

bool br_overlay_proves(struct br_overlay *overlay, uint64_t first, size_t count, const uint8_t *entries) {
    uint8_t raw[BR_PAGE_SIZE], packed[BR_PAGE_SIZE];
    uint64_t size, page = first / BR_PAGE_ENTRIES;
    if (overlay->table->ops->size(overlay->table, &size) != 0 || read_page(overlay, page, size, raw) != 0)
        return false;
    memcpy(packed, raw, BR_PAGE_BYTES);
    memcpy(packed + first % BR_PAGE_ENTRIES * BR_ENTRY_SIZE, entries, count * BR_ENTRY_SIZE);
    uint8_t again[BR_PAGE_SIZE];
    br_pack_table(packed, 1, page, overlay->point.table_key, again);
    return memcmp(again + BR_PAGE_SIZE - 4, raw + BR_PAGE_SIZE - 4, 4) == 0;
}
