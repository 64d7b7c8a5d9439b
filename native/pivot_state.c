/* The file `.pivot`: what the image has of its own, once as of now and once as of the last sync.
 *
 * The live bits are written before a guest's write is answered, without a sync: the page cache keeps them
 * when the process is killed, as it keeps the data. When the power is cut nobody knows which of both reached
 * the disk, so then only the durable bits count: they are written after a sync of the data that they speak
 * of, a sector at a time, each with a CRC. Bits are only ever set, so an older sector is never wrong, only
 * poorer.
 */
#include "pivot_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bitmap.h"
#include "bytes.h"
#include "crc32c.h"
#include "zero.h"

static const uint8_t magic[8] = "brpivot";
enum { at_crc = BR_PIVOT_SECTOR - 4, at_note = BR_PIVOT_SECTOR };

static uint64_t live_bytes(const struct br_pivot *pivot) {
    return (pivot->granules + 7) / 8;
}

static uint64_t durable_at(const struct br_pivot *pivot, uint64_t sector) {
    return BR_PIVOT_HEADER + br_pivot_live_room(pivot) + sector * BR_PIVOT_SECTOR;
}

void br_pivot_put_header(const struct br_pivot *pivot, uint8_t out[BR_PIVOT_SECTOR]) {
    const struct br_pivot_id *id = &pivot->options.id;
    memset(out, 0, BR_PIVOT_SECTOR);
    memcpy(out, magic, sizeof magic);
    br_put32(out + 8, BR_PIVOT_VERSION);
    br_put32(out + 12, BR_PIVOT_GRANULE);
    br_put64(out + 16, id->size);
    memcpy(out + 24, pivot->uuid, 16);
    memcpy(out + 40, id->relationship, 16);
    br_put32(out + 56, id->disk);
    memcpy(out + 64, id->point, BR_PIVOT_POINT_ROOM);
    br_put32(out + at_crc, br_crc32c(0, out, at_crc));
}

int br_pivot_take_header(struct br_pivot *pivot, struct br_trouble *trouble) {
    uint8_t found[BR_PIVOT_SECTOR], wanted[BR_PIVOT_SECTOR];
    int error = pivot->state->ops->pread(pivot->state, found, sizeof found, 0);
    if (error && error != ENODATA)
        return br_trouble(trouble, error, ".pivot: reading: %s", strerror(error));
    if (error || memcmp(found, magic, sizeof magic) != 0)
        return br_trouble(trouble, EBADMSG, ".pivot: is not what serve-point writes");
    if (br_get32(found + 8) > BR_PIVOT_VERSION)
        return br_trouble(trouble, EPROTO, ".pivot: version %u is newer than %d", br_get32(found + 8),
                          BR_PIVOT_VERSION);
    if (br_get32(found + at_crc) != br_crc32c(0, found, at_crc))
        return br_trouble(trouble, EBADMSG, ".pivot: its header does not match its CRC");
    memcpy(pivot->uuid, found + 24, sizeof pivot->uuid);
    br_pivot_put_header(pivot, wanted);
    if (memcmp(found, wanted, sizeof wanted) != 0)
        return br_trouble(trouble, ESTALE, ".pivot: was begun for another point or disk");
    return 0;
}

int br_pivot_note(struct br_pivot *pivot) {
    uint8_t out[BR_PIVOT_SECTOR] = {0};
    pthread_mutex_lock(&pivot->report_lock);
    br_put32(out, (uint32_t)pivot->said);
    br_put32(out + 4, pivot->suspect);
    memcpy(out + 8, pivot->options.boot, 16);
    br_put64(out + 24, pivot->owned);
    br_put64(out + 32, pivot->copied);
    br_put64(out + 40, pivot->damaged);
    br_put32(out + 48, (uint32_t)pivot->error);
    br_put32(out + at_crc, br_crc32c(0, out, at_crc));
    int error = pivot->state->ops->pwrite(pivot->state, out, sizeof out, at_note);
    pthread_mutex_unlock(&pivot->report_lock);
    return error;
}

int br_pivot_take_note(struct br_pivot *pivot, bool *same_boot) {
    static const uint8_t unknown[16];
    uint8_t found[BR_PIVOT_SECTOR];
    int error = pivot->state->ops->pread(pivot->state, found, sizeof found, at_note);
    *same_boot = false;
    if (error)
        return error;
    if (br_get32(found + at_crc) != br_crc32c(0, found, at_crc)) {
        pivot->said = BR_PIVOT_COPYING; /* torn by a power cut: so it was there to be written */
        return 0;
    }
    pivot->said = (int)br_pivot_least(br_get32(found), BR_PIVOT_COMPLETE);
    *same_boot = memcmp(found + 8, unknown, 16) != 0 && memcmp(found + 8, pivot->options.boot, 16) == 0;
    pivot->suspect = *same_boot && br_get32(found + 4);
    return 0;
}

static uint32_t sector_crc(const struct br_pivot *pivot, uint64_t sector, const uint8_t *bits) {
    uint8_t place[24];
    memcpy(place, pivot->uuid, 16);
    br_put64(place + 16, sector);
    return br_crc32c(br_crc32c(0, place, sizeof place), bits, BR_PIVOT_SECTOR_BITS);
}

/* The bits of a sector; the last one may have fewer, and zeros behind them. */
static void put_sector(const struct br_pivot *pivot, uint64_t sector, uint8_t out[BR_PIVOT_SECTOR]) {
    uint64_t at = sector * BR_PIVOT_SECTOR_BITS;
    size_t length = (size_t)br_pivot_least(BR_PIVOT_SECTOR_BITS, live_bytes(pivot) - at);
    memset(out, 0, BR_PIVOT_SECTOR);
    memcpy(out, pivot->bits + at, length);
    br_put32(out + BR_PIVOT_SECTOR_BITS, sector_crc(pivot, sector, out));
}

static int load_sector(struct br_pivot *pivot, uint64_t sector, struct br_trouble *trouble) {
    uint8_t found[BR_PIVOT_SECTOR];
    uint64_t at = sector * BR_PIVOT_SECTOR_BITS;
    int error = pivot->state->ops->pread(pivot->state, found, sizeof found, durable_at(pivot, sector));
    if (error && error != ENODATA)
        return br_trouble(trouble, error, ".pivot: reading: %s", strerror(error));
    if (!error && br_is_zero(found, sizeof found))
        return 0; /* was never written */
    if (error || br_get32(found + BR_PIVOT_SECTOR_BITS) != sector_crc(pivot, sector, found))
        return br_trouble(trouble, EBADMSG,
                          ".pivot: sector %llu does not match its CRC; what the file holds is not known",
                          (unsigned long long)sector);
    memcpy(pivot->bits + at, found, (size_t)br_pivot_least(BR_PIVOT_SECTOR_BITS, live_bytes(pivot) - at));
    return 0;
}

/* The bytes that `count` granules from `first` on have: the disk's last one may be short. */
static uint64_t bytes_of(const struct br_pivot *pivot, uint64_t first, uint64_t count) {
    return br_pivot_least((first + count) * BR_PIVOT_GRANULE, pivot->size) - first * BR_PIVOT_GRANULE;
}

int br_pivot_load(struct br_pivot *pivot, bool same_boot, struct br_trouble *trouble) {
    struct br_file *state = pivot->state;
    uint64_t length = live_bytes(pivot);
    int error = 0;
    if (same_boot)
        error = state->ops->pread(state, pivot->bits, length, BR_PIVOT_HEADER);
    for (uint64_t sector = 0; sector < pivot->sectors && !same_boot && !error; sector++)
        error = load_sector(pivot, sector, trouble);
    if (!same_boot && !error)
        error = state->ops->pwrite(state, pivot->bits, length, BR_PIVOT_HEADER);
    if (error)
        return error == EBADMSG ? error : br_trouble(trouble, error, ".pivot: %s", strerror(error));
    for (uint64_t sector = 0; sector < pivot->sectors; sector++) {
        uint64_t at = sector * BR_PIVOT_SECTOR_BITS;
        pivot->changed[sector] =
            !br_is_zero(pivot->bits + at, (size_t)br_pivot_least(BR_PIVOT_SECTOR_BITS, length - at));
    }
    pivot->owned = 0;
    for (uint64_t at = 0, first, count; br_bitmap_next(pivot->bits, at, pivot->granules, &first, &count);
         at = first + count)
        pivot->owned += bytes_of(pivot, first, count);
    return 0;
}

static int set_some(struct br_pivot *pivot, uint64_t first, uint64_t count) {
    uint8_t bytes[1024] = {0};
    uint64_t low = first / 8, high = (first + count - 1) / 8, had = 0;
    for (uint64_t at = low; at <= high; at++)
        bytes[at - low] = pivot->bits[at];
    had = br_bitmap_count(bytes, first % 8, count);
    if (had == count)
        return 0;
    uint64_t missing = 0, gap, run;
    for (uint64_t at = first; at < first + count; at += gap)
        if (!br_pivot_owned(pivot, at, first + count - at, &gap))
            missing += bytes_of(pivot, at, gap);
    br_bitmap_set(bytes, first % 8, count);
    int error = pivot->state->ops->pwrite(pivot->state, bytes, high - low + 1, BR_PIVOT_HEADER + low);
    if (error)
        return error;
    for (uint64_t at = low; at <= high; at += run) {
        run = br_pivot_least(BR_PIVOT_SECTOR_BITS - at % BR_PIVOT_SECTOR_BITS, high + 1 - at);
        pivot->changed[at / BR_PIVOT_SECTOR_BITS] = 1;
        for (uint64_t byte = at; byte < at + run; byte++)
            __atomic_store_n(pivot->bits + byte, bytes[byte - low], __ATOMIC_RELEASE);
    }
    pivot->owned += missing;
    return 0;
}

int br_pivot_own(struct br_pivot *pivot, uint64_t first, uint64_t count) {
    int error = 0;
    pthread_mutex_lock(&pivot->bits_lock);
    for (uint64_t some; count && !error; first += some, count -= some) {
        some = br_pivot_least(count, 8000 - first % 8);
        error = set_some(pivot, first, some);
    }
    pthread_mutex_unlock(&pivot->bits_lock);
    return error;
}

int br_pivot_gather(struct br_pivot *pivot, struct br_pivot_sectors *sectors) {
    size_t count = 0;
    int error = 0;
    *sectors = (struct br_pivot_sectors){0};
    pthread_mutex_lock(&pivot->bits_lock);
    for (uint64_t sector = 0; sector < pivot->sectors; sector++)
        count += pivot->changed[sector];
    if (count) {
        sectors->content = malloc(count * BR_PIVOT_SECTOR);
        sectors->number = malloc(count * sizeof *sectors->number);
        error = sectors->content && sectors->number ? 0 : ENOMEM;
    }
    for (uint64_t sector = 0; sector < pivot->sectors && count && !error; sector++) {
        if (!pivot->changed[sector])
            continue;
        put_sector(pivot, sector, sectors->content + sectors->count * BR_PIVOT_SECTOR);
        sectors->number[sectors->count++] = sector;
        pivot->changed[sector] = 0;
    }
    pthread_mutex_unlock(&pivot->bits_lock);
    if (error)
        br_pivot_forget(sectors);
    return error;
}

int br_pivot_store(struct br_pivot *pivot, const struct br_pivot_sectors *sectors) {
    struct br_file *state = pivot->state;
    int error = 0;
    for (size_t at = 0, run; at < sectors->count && !error; at += run) {
        for (run = 1; at + run < sectors->count && sectors->number[at + run] == sectors->number[at] + run;)
            run++;
        error = state->ops->pwrite(state, sectors->content + at * BR_PIVOT_SECTOR, run * BR_PIVOT_SECTOR,
                                   durable_at(pivot, sectors->number[at]));
    }
    return error || !sectors->count ? error : state->ops->sync(state);
}

void br_pivot_put_back(struct br_pivot *pivot, struct br_pivot_sectors *sectors) {
    pthread_mutex_lock(&pivot->bits_lock);
    for (size_t at = 0; at < sectors->count; at++)
        pivot->changed[sectors->number[at]] = 1;
    pthread_mutex_unlock(&pivot->bits_lock);
    br_pivot_forget(sectors);
}

void br_pivot_forget(struct br_pivot_sectors *sectors) {
    free(sectors->content);
    free(sectors->number);
    *sectors = (struct br_pivot_sectors){0};
}
