/* The tracking file.
 *
 * There is one copy of the state, written in place: with two copies a damaged new one would make the old one
 * count, and its epoch number would be given to a second set of changes. A state whose CRC is wrong therefore
 * means a new tracking UUID, and that means resync: never "assume clean".
 *
 * Where the table of operations has no mapping, memory holds the bytes and every change is written through at
 * once, so that a test sees the intent before the write that it is for.
 */
#include "tracking_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bytes.h"
#include "crc32c.h"

enum {
    state_size = 512,
    state_crc = 508,

    stamps_size = 512,
    flag_clean = 1,
    flag_suspect = 2,
    flag_transit = 4,
    flag_contained = 8,
    flag_failed = 16,
    flag_anywhere = 32,
    flag_ignore_ctime = 64,
};

static const uint8_t magic[8] = "brtrack";

static uint64_t pages_for(uint64_t covered) {
    uint64_t granules = covered / BR_GRANULE + (covered % BR_GRANULE != 0);
    return granules / BR_PAGE_BITS + (granules % BR_PAGE_BITS != 0 || granules == 0);
}

static uint64_t length_for(uint64_t covered) {
    return BR_SLOTS_AT + 2 * BR_PAGE * pages_for(covered);
}

static void encode(const struct br_state *state, uint8_t out[state_size]) {
    memset(out, 0, state_size);
    memcpy(out, magic, sizeof magic);
    br_put32(out + 8, BR_TRACKING_VERSION);
    br_put32(out + 12, BR_GRANULE);
    memcpy(out + 16, state->tracking_id, 16);
    br_put64(out + 32, state->epoch);
    br_put64(out + 40, state->size);
    br_put64(out + 48, state->covered);
    memcpy(out + 56, state->chain, 16);
    memcpy(out + 72, state->boot, 16);
    br_put32(out + 88, state->pid);
    br_put32(out + 92, (state->clean ? flag_clean : 0) | (state->suspect ? flag_suspect : 0) |
                           (state->transit ? flag_transit : 0) | (state->contained ? flag_contained : 0) |
                           (state->failed ? flag_failed : 0) | (state->anywhere ? flag_anywhere : 0) |
                           (state->ignore_ctime ? flag_ignore_ctime : 0));
    br_put32(out + 96, state->slot);
    br_put64(out + 104, state->identity.inode);
    br_put64(out + 112, state->identity.size);
    br_put64(out + 120, (uint64_t)state->identity.mtime_ns);
    br_put64(out + 128, (uint64_t)state->identity.ctime_ns);
    br_put64(out + 136, state->identity.generation);
    br_put64(out + 144, (uint64_t)state->cut_ns);
    br_put64(out + 152, state->session);
    br_put32(out + state_crc, br_crc32c(0, out, state_crc));
}

static void decode(const uint8_t *in, struct br_state *state) {
    uint32_t flags = br_get32(in + 92);
    *state = (struct br_state){
        .epoch = br_get64(in + 32),
        .size = br_get64(in + 40),
        .covered = br_get64(in + 48),
        .pid = br_get32(in + 88),
        .clean = flags & flag_clean,
        .suspect = flags & flag_suspect,
        .transit = flags & flag_transit,
        .contained = flags & flag_contained,
        .failed = flags & flag_failed,
        .anywhere = flags & flag_anywhere,
        .ignore_ctime = flags & flag_ignore_ctime,
        .slot = br_get32(in + 96),
        .identity = {br_get64(in + 104), br_get64(in + 112), (int64_t)br_get64(in + 120),
                     (int64_t)br_get64(in + 128), br_get64(in + 136)},
        .cut_ns = (int64_t)br_get64(in + 144),
        .session = br_get64(in + 152),
    };
    memcpy(state->tracking_id, in + 16, 16);
    memcpy(state->chain, in + 56, 16);
    memcpy(state->boot, in + 72, 16);
}

static bool plausible(const struct br_state *state, const uint8_t *in, uint64_t file_size) {
    return br_get32(in + 12) == BR_GRANULE && state->slot < 2 && state->epoch > 0 &&
           state->epoch < INT64_MAX && state->covered < INT64_MAX && state->size <= state->covered &&
           length_for(state->covered) <= file_size;
}

int br_tracking_load(struct br_tracking *tracking, enum br_loaded *loaded, uint32_t *version) {
    uint8_t bytes[state_size];
    uint64_t size;
    *version = BR_TRACKING_VERSION;
    int error = tracking->file->ops->size(tracking->file, &size);
    *loaded = size == 0 ? BR_EMPTY : BR_DAMAGED;
    if (error || size < BR_SLOTS_AT)
        return error;
    error = tracking->file->ops->pread(tracking->file, bytes, sizeof bytes, 0);
    if (error)
        return error;
    if (memcmp(bytes, magic, sizeof magic) != 0 ||
        br_get32(bytes + state_crc) != br_crc32c(0, bytes, state_crc))
        return 0;
    *version = br_get32(bytes + 8);
    if (*version != BR_TRACKING_VERSION) {
        *loaded = *version > BR_TRACKING_VERSION ? BR_NEWER : BR_DAMAGED;
        return 0;
    }
    decode(bytes, &tracking->state);
    if (plausible(&tracking->state, bytes, size))
        *loaded = BR_LOADED;
    return 0;
}

int br_tracking_save(struct br_tracking *tracking) {
    uint8_t bytes[state_size];
    encode(&tracking->state, bytes);
    int error = tracking->file->ops->pwrite(tracking->file, bytes, sizeof bytes, 0);
    return error ? error : tracking->file->ops->sync(tracking->file);
}

static void let_go(struct br_tracking *tracking) {
    if (tracking->base && tracking->mapped)
        munmap(tracking->base, tracking->length);
    else
        free(tracking->base);
    tracking->base = NULL;
}

/* Map the file, or read what it has into memory. */
static int take_hold(struct br_tracking *tracking, uint64_t length) {
    struct br_file *file = tracking->file;
    void *address = NULL;
    int error = file->ops->map ? file->ops->map(file, length, &address) : EOPNOTSUPP;
    tracking->mapped = !error;
    tracking->base = address;
    if (error != EOPNOTSUPP)
        return error;
    tracking->base = calloc(1, length);
    return tracking->base ? file->ops->pread(file, tracking->base, length, 0) : ENOMEM;
}

static uint64_t popcount(const uint8_t *bytes, uint64_t length) {
    uint64_t count = 0, word;
    for (uint64_t at = 0; at < length; at += sizeof word) {
        memcpy(&word, bytes + at, sizeof word);
        count += (uint64_t)__builtin_popcountll(word);
    }
    return count;
}

static void recount(struct br_tracking *tracking) {
    for (uint32_t slot = 0; slot < 2; slot++) {
        tracking->marked[slot] = 0;
        for (uint64_t page = 0; page < br_tracking_pages(tracking); page++)
            tracking->marked[slot] += popcount(br_tracking_page(tracking, slot, page), BR_PAGE);
    }
}

int br_tracking_cover(struct br_tracking *tracking, uint64_t covered) {
    struct br_file *file = tracking->file;
    uint64_t size, length = length_for(covered);
    if (tracking->base && length == tracking->length) {
        tracking->state.covered = covered;
        return 0;
    }
    int error = file->ops->size(file, &size);
    if (!error && size < length) /* never shorter: bits beyond `covered` are cleared, and harmless */
        error = file->ops->reserve ? file->ops->reserve(file, length) : file->ops->truncate(file, length);
    if (error)
        return error;
    struct br_tracking before = *tracking;
    error = take_hold(tracking, length);
    if (error) { /* writes go on with what they had */
        if (!tracking->mapped)
            free(tracking->base);
        *tracking = before;
        return error;
    }
    let_go(&before);
    tracking->length = length;
    tracking->state.covered = covered;
    recount(tracking);
    return 0;
}

void br_tracking_close(struct br_tracking *tracking) {
    let_go(tracking);
    br_file_close(&tracking->file);
}

uint64_t br_tracking_granules(const struct br_tracking *tracking) {
    uint64_t covered = tracking->state.covered;
    return covered / BR_GRANULE + (covered % BR_GRANULE != 0);
}

uint64_t br_tracking_pages(const struct br_tracking *tracking) {
    return (tracking->length - BR_SLOTS_AT) / (2 * BR_PAGE);
}

static uint64_t page_at(uint32_t slot, uint64_t page) {
    return BR_SLOTS_AT + (2 * page + slot) * BR_PAGE;
}

const uint8_t *br_tracking_page(const struct br_tracking *tracking, uint32_t slot, uint64_t page) {
    return tracking->base + page_at(slot, page);
}

int br_tracking_write_through(struct br_tracking *tracking, uint64_t at, uint64_t length) {
    if (tracking->mapped)
        return 0;
    return tracking->file->ops->pwrite(tracking->file, tracking->base + at, length, at);
}

/* Set bits first to last (inclusive) of a page; returns how many were not set before. */
static uint64_t set_bits(uint8_t *page, uint32_t first, uint32_t last) {
    uint64_t fresh = 0;
    for (uint32_t at = first / 8; at <= last / 8; at++) {
        uint8_t mask = 0xff;
        if (at == first / 8)
            mask &= (uint8_t)(0xff << first % 8);
        if (at == last / 8)
            mask &= (uint8_t)(0xff >> (7 - last % 8));
        uint8_t unset = (uint8_t)(mask & ~page[at]);
        fresh += (uint64_t)__builtin_popcount(unset);
        if (unset) /* a store would make a page dirty again that the kernel has just written: a fault */
            page[at] |= mask;
    }
    return fresh;
}

int br_tracking_mark(struct br_tracking *tracking, uint32_t slot, uint64_t offset, uint64_t length) {
    uint64_t first = offset / BR_GRANULE, last = (offset + length - 1) / BR_GRANULE;
    int error = 0;
    for (uint64_t page = first / BR_PAGE_BITS; page <= last / BR_PAGE_BITS; page++) {
        uint32_t from = page == first / BR_PAGE_BITS ? (uint32_t)(first % BR_PAGE_BITS) : 0;
        uint32_t to = page == last / BR_PAGE_BITS ? (uint32_t)(last % BR_PAGE_BITS) : BR_PAGE_BITS - 1;
        uint64_t at = page_at(slot, page);
        uint64_t fresh = set_bits(tracking->base + at, from, to);
        tracking->marked[slot] += fresh;
        if (fresh) {
            int failed = br_tracking_write_through(tracking, at + from / 8, to / 8 - from / 8 + 1);
            error = failed ? failed : error;
        }
    }
    return error;
}

int br_tracking_merge(struct br_tracking *tracking, uint32_t into, uint32_t from) {
    int error = 0;
    for (uint64_t page = 0; page < br_tracking_pages(tracking) && !error; page++) {
        uint8_t *target = tracking->base + page_at(into, page);
        const uint8_t *source = br_tracking_page(tracking, from, page);
        for (uint32_t at = 0; at < BR_PAGE; at++)
            target[at] |= source[at];
        error = br_tracking_write_through(tracking, page_at(into, page), BR_PAGE);
    }
    recount(tracking);
    return error;
}

int br_tracking_clear(struct br_tracking *tracking, uint32_t slot) {
    int error = 0;
    for (uint64_t page = 0; page < br_tracking_pages(tracking) && !error; page++) {
        if (popcount(br_tracking_page(tracking, slot, page), BR_PAGE) == 0)
            continue;
        memset(tracking->base + page_at(slot, page), 0, BR_PAGE);
        error = br_tracking_write_through(tracking, page_at(slot, page), BR_PAGE);
    }
    tracking->marked[slot] = 0;
    return error;
}

/* Where the stamps of a session stand, or would: those of the state's session keep their place. */
static uint64_t stamps_of(const struct br_tracking *tracking, uint64_t session) {
    for (int i = 0; i < 2; i++)
        if (br_get64(tracking->base + BR_STAMPS_AT + i * stamps_size) == session)
            return BR_STAMPS_AT + (uint64_t)i * stamps_size;
    bool first = br_get64(tracking->base + BR_STAMPS_AT) != tracking->state.session;
    return BR_STAMPS_AT + (first ? 0 : stamps_size);
}

int br_tracking_stamp(struct br_tracking *tracking, struct br_stamps stamps) {
    uint64_t at = stamps_of(tracking, stamps.session);
    br_put64(tracking->base + at + 8, (uint64_t)stamps.clock_ns);
    br_put64(tracking->base + at + 16, (uint64_t)stamps.mtime_ns);
    br_put64(tracking->base + at, stamps.session);
    return br_tracking_write_through(tracking, at, 24);
}

struct br_stamps br_tracking_stamps(const struct br_tracking *tracking) {
    const uint8_t *at = tracking->base + stamps_of(tracking, tracking->state.session);
    return (struct br_stamps){br_get64(at), (int64_t)br_get64(at + 8), (int64_t)br_get64(at + 16)};
}
