/* Where a point has holes. A block counts as one when its checksum is that of zeros and nothing says
 * otherwise: no before-image with data, no data in disk.img. Only both together: were it the table alone, a
 * page of the table that was lost would make data vanish; were it the content alone, a lost block would read
 * as zeros unnoticed by whoever skips holes. */
#include <errno.h>
#include <string.h>

#include "checksum.h"
#include "io.h"
#include "overlay_parts.h"
#include "table.h"

enum { most_windows = 16, tries = 3 };

static uint64_t down(uint64_t value, uint64_t unit) {
    return value - value % unit;
}

static int next_data(struct br_file *file, uint64_t start, uint64_t end, uint64_t *data) {
    uint64_t hole;
    int fd = file->ops->fileno ? file->ops->fileno(file) : -1;
    *data = start;
    return fd < 0 || start >= end ? 0 : br_next_data(fd, start, end, data, &hole);
}

/* Lower *quiet to where the table may say anything but zeros. */
static int quiet_table(struct br_overlay *overlay, uint64_t start, uint64_t end, uint64_t *quiet) {
    uint64_t page = (uint64_t)overlay->point.block_size * BR_PAGE_ENTRIES, first = start / page, low = 0,
             high = 0, next;
    int error = next_data(overlay->table, first * BR_PAGE_SIZE, (end / page + 1) * BR_PAGE_SIZE, &next);
    if (!error)
        error = br_overlay_missing(overlay, &low, &high);
    next = br_least(next / BR_PAGE_SIZE, low < high ? low : UINT64_MAX);
    *quiet = next <= first ? start : br_least(*quiet, next > UINT64_MAX / page ? UINT64_MAX : next * page);
    return error;
}

/* How far from `start` on there is nothing but a hole in all files: at least nothing up to *quiet. The files
 * are looked at in the order in which they are read. */
static int quiet_until(struct br_overlay *overlay, uint64_t start, uint64_t end, uint64_t *quiet,
                       struct br_trouble *trouble) {
    uint64_t each = overlay->point.block_size, next;
    int error = next_data(overlay->image, start, end, quiet);
    if (!error && *quiet > start)
        error = quiet_table(overlay, start, end, quiet);
    if (error)
        return br_trouble(trouble, error, "looking for holes: %s", strerror(error));
    if (*quiet < end && down(*quiet, each) <= start)
        return 0;
    pthread_mutex_lock(&overlay->lock);
    error = br_overlay_refresh(overlay, trouble);
    for (size_t i = 0; i < overlay->undo_count && !error && *quiet > start; i++) {
        error = br_undo_next(&overlay->pool, overlay->undos[i], BR_UNDO_EXTENTS, start, &next, trouble);
        *quiet = br_least(*quiet, next);
        next = UINT64_MAX;
        if (!error && overlay->undos[i]->era == overlay->point.era)
            error =
                br_undo_next(&overlay->pool, overlay->undos[i], BR_UNDO_SUMS, start / each, &next, trouble);
        *quiet = br_least(*quiet, next > UINT64_MAX / each ? UINT64_MAX : next * each);
    }
    pthread_mutex_unlock(&overlay->lock);
    return error;
}

/* Whether granule by granule nothing but zeros is behind the block at `at`. */
static bool is_hole(const struct br_map *map, uint64_t window_start, uint64_t at, uint64_t end, uint64_t data,
                    uint64_t hole) {
    for (; at < end; at += BR_GRANULE) {
        const struct br_piece *piece = map->pieces ? map->pieces + (at - window_start) / BR_GRANULE : NULL;
        uint64_t behind = br_least(at + BR_GRANULE, end);
        if (piece && piece->undo && (piece->kind != BR_UNDO_ZEROS || piece->next >= 0))
            return false;
        if (piece && piece->undo && piece->length >= behind - at)
            continue;
        if (data < behind && hole > at)
            return false;
    }
    return true;
}

/* The run of data in disk.img that was found last: nothing from `from` to `data`, data up to `hole`. It stays
 * true of the instant it was found at, and the indexes are looked at after that. */
struct scan {
    uint64_t from, data, hole;
    bool looked_up; /* the indexes were, since */
};

static int find_data(struct br_overlay *overlay, struct scan *scan, uint64_t start) {
    struct br_file *image = overlay->image;
    uint64_t size = overlay->point.size;
    if (start >= scan->from && start < scan->hole)
        return 0;
    *scan = (struct scan){.from = start, .data = start, .hole = size};
    return image->ops->fileno ? br_next_data(image->ops->fileno(image), start, size, &scan->data, &scan->hole)
                              : 0;
}

/* Whether content alone makes a hole of the block at `start`, and the entry that an index has for it, if any.
 */
static int look_at_block(struct br_overlay *overlay, const struct scan *scan, bool refresh, uint64_t start,
                         bool *hole, struct br_sum *sum, struct br_trouble *trouble) {
    uint64_t each = overlay->point.block_size, end = br_least(start + each, overlay->point.size);
    uint64_t window = start / overlay->window_size, within = start % overlay->window_size;
    struct br_map *map;
    pthread_mutex_lock(&overlay->lock);
    int error = refresh ? br_overlay_refresh(overlay, trouble) : 0;
    if (!error)
        error = br_overlay_map(overlay, window, &map, trouble);
    /* Behind the run's end within the block there may be more data: it counts as such. */
    *hole =
        !error && is_hole(map, start - within, start, end, scan->data, scan->hole < end ? end : scan->hole);
    if (*hole && map->sums && map->sums[within / each].kind)
        *sum = map->sums[within / each];
    pthread_mutex_unlock(&overlay->lock);
    return error;
}

/* Whether the block at `start` is a hole. The table is read only where it might be. */
static int judge(struct br_overlay *overlay, struct scan *scan, uint64_t start, bool *result,
                 struct br_trouble *trouble) {
    static const uint8_t zeros[16];
    struct br_sum sum;
    int error = find_data(overlay, scan, start);
    if (error)
        return br_trouble(trouble, error, "looking for holes: %s", strerror(error));
    error = look_at_block(overlay, scan, !scan->looked_up, start, result, &sum, trouble);
    scan->looked_up = true;
    if (error || !*result)
        return error;
    error = br_overlay_table(overlay, start / overlay->point.block_size, 1, &sum, trouble);
    if (!error)
        error = look_at_block(overlay, scan, true, start, result, &sum, trouble);
    if (sum.kind != BR_UNDO_KNOWN || memcmp(sum.entry, zeros, sizeof zeros) != 0)
        *result = false;
    return error;
}

static int look(struct br_overlay *overlay, uint64_t offset, uint64_t end, bool *hole, uint64_t *run,
                struct br_trouble *trouble) {
    uint64_t each = overlay->point.block_size, at = down(offset, each);
    uint64_t left = most_windows * (overlay->window_size / each);
    int error = 0;
    bool first = true;
    struct scan scan = {0};
    *hole = false;
    while (at < end && left-- && !error) {
        uint64_t quiet = at, behind = at + each;
        if (first || *hole)
            error = quiet_until(overlay, at, end, &quiet, trouble);
        bool found = quiet >= end || down(quiet, each) > at;
        if (found)
            behind = quiet >= end ? end : down(quiet, each);
        else if (!error)
            error = judge(overlay, &scan, at, &found, trouble);
        if (error || (!first && found != *hole))
            break;
        *hole = found;
        first = false;
        at = behind;
    }
    *run = br_least(at, end) - offset;
    return first ? error : 0;
}

int br_overlay_extent(struct br_overlay *overlay, uint64_t offset, uint64_t length, bool *hole,
                      uint64_t *run) {
    if (offset > overlay->point.size || length > overlay->point.size - offset)
        return EINVAL;
    struct br_trouble trouble;
    int error = ESTALE;
    for (int left = tries; left && error == ESTALE; left--) {
        trouble.text[0] = 0;
        error = look(overlay, offset, offset + length, hole, run, &trouble);
        if (error == ESTALE && br_overlay_renew(overlay) != 0)
            error = ENOMEM;
    }
    if (error)
        br_overlay_tell(overlay, &trouble);
    return error == ESTALE ? EIO : error;
}
