/* What an unclosed log still holds.
 *
 * A block's distance from the one before is stated only inside the block, so the next one has to be looked
 * for, at every byte: data may have any length. What is taken must fit in everything it says, and nothing
 * behind a gap is taken.
 *
 * The work stays linear in the file. Each byte is passed over once; a candidate costs a comparison of eight
 * bytes or two, then its 32-byte header, and only a header that fits whole makes the block be read. That a
 * file is forged so that many fit and yet are no blocks is met by a limit on the bytes wasted so: salvage
 * then ends where it is, which loses entries and never takes a wrong one. The data of a block is read when
 * the block fits; when it does not match, salvage is over, so that no byte of data is read twice either.
 */
#include "hrl_check.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "bytes.h"

enum { window_size = 1 << 20, wasted_free = 64 << 20, wasted_share = 4 };

/* Checksums of 28 bytes are at least this: rejects nearly all that is no header by one comparison. */
static const uint32_t least_checksum = ~(28u * 255u);

struct search {
    const struct hrl_log *log;
    struct hrl_salvage *state;
    uint64_t limit;
    struct hrl_reading reading;
    uint8_t *block,
        *window; /* the window holds what stands at `base`; places in its first `count` can be looked at */
    uint64_t base;
    size_t count;
};

enum verdict { nothing, found, finished, broken };

/* The first place from `from` on, in the window, that may be a header. */
static size_t next_candidate(const struct search *search, size_t from) {
    const uint8_t *window = search->window;
    bool extended = search->log->version == HRL_VERSION_2_1;
    uint64_t prefix = br_get64(search->log->unique_id), last = search->state->last;
    for (size_t at = from; at < search->count; at++) {
        if (extended && br_get64(window + at + 16) != prefix)
            continue;
        uint64_t distance = last ? search->base + at - last : 0;
        if (br_get64(window + at) == distance && br_get32(window + at + 12) >= least_checksum)
            return at;
    }
    return search->count;
}

/* Whether the header at `at` could be that of the next block; reads nothing. */
static bool header_fits(const struct search *search, const uint8_t *at) {
    struct hrl_fault fault;
    struct hrl_block header;
    if (!hrl_decode_block_header(search->log, at, &header, &fault))
        return false;
    return search->log->version != HRL_VERSION_2_1 || header.number == (uint32_t)search->state->place.number;
}

/* What a block that did not check out says about going on. */
static enum verdict refused(const struct hrl_fault *fault, enum verdict otherwise) {
    if (fault->code != HRL_READ_FAILED)
        return otherwise;
    errno = (int)fault->got;
    return broken;
}

/* Judge the candidate at `position` by its whole block, then by its data. */
static enum verdict judge(struct search *search, uint64_t position) {
    struct hrl_salvage *state = search->state;
    struct hrl_fault fault;
    uint64_t unchecked = 0;
    if (search->limit - position < search->log->metadata_size)
        return finished;
    if (!hrl_read_block(&search->reading, &state->place, position, search->block, &fault)) {
        state->wasted += search->log->metadata_size;
        return refused(&fault, nothing);
    }
    if (!hrl_check_data(&search->reading, &state->place, search->block, &unchecked, &fault))
        return refused(&fault, finished);
    state->last = position;
    state->entries += br_get32(search->block + 8);
    state->place = (struct hrl_place){position + search->log->metadata_size, state->place.number + 1};
    state->scan = state->place.end;
    return found;
}

/* Have state->scan in the window; `finished` where no block can stand any more. */
static enum verdict fill(struct search *search) {
    uint64_t scan = search->state->scan;
    if (scan >= search->base && scan - search->base < search->count)
        return nothing;
    if (scan > search->limit || search->limit - scan < search->log->metadata_size)
        return finished;
    uint64_t left = search->limit - scan; /* at least a block, at most the window was made for */
    size_t wanted = left < window_size ? (size_t)left : window_size;
    ssize_t filled;
    do
        filled = pread(search->reading.fd, search->window, wanted, (off_t)scan);
    while (filled < 0 && errno == EINTR);
    if (filled < 0)
        return broken;
    search->base = scan;
    search->count = filled < HRL_BLOCK_HEADER_SIZE ? 0 : (size_t)filled - (HRL_BLOCK_HEADER_SIZE - 1);
    return search->count ? nothing : finished;
}

/* Go on from state->scan to the next block, or to the end of the window. */
static enum verdict pass(struct search *search) {
    struct hrl_salvage *state = search->state;
    enum verdict verdict = fill(search);
    while (verdict == nothing) {
        if (state->wasted > wasted_free && state->wasted / wasted_share > search->limit)
            return finished;
        size_t at = next_candidate(search, (size_t)(state->scan - search->base));
        state->scan = search->base + at;
        if (at == search->count)
            return nothing;
        verdict = header_fits(search, search->window + at) ? judge(search, search->base + at) : nothing;
        if (verdict == nothing)
            state->scan++;
        if (state->scan - search->base >= search->count)
            return verdict;
    }
    return verdict;
}

int hrl_salvage(int fd, const struct hrl_log *log, uint64_t limit, uint64_t budget,
                struct hrl_salvage *state) {
    struct search search = {.log = log, .state = state, .limit = limit};
    search.reading =
        (struct hrl_reading){.log = log, .fd = fd, .data = true, .window = malloc(HRL_WINDOW_SIZE)};
    search.block = malloc(log->metadata_size);
    search.window = malloc(limit < window_size ? (size_t)limit + 1 : window_size);
    enum verdict verdict = broken;
    if (search.reading.window && search.block && search.window)
        for (uint64_t begin = state->scan; state->scan - begin <= budget;)
            if ((verdict = pass(&search)) == finished || verdict == broken)
                break;
    int error = errno;
    free(search.reading.window);
    free(search.block);
    free(search.window);
    errno = error;
    return verdict == finished ? 1 : verdict == broken ? -1 : 0;
}
