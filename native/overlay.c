/* Reading whole blocks of a point, each proved before it is handed out; and parts of blocks, out of a few
 * that were proved and are kept, so that small reads one behind the other cost one checksum.
 *
 * In what order things are read is all that makes it right (rule 15): disk.img and the checksum table first,
 * the undo indexes after them. What a delta overwrote before we read it had its before-image published
 * earlier still. A block that does not fit its checksum is read again, for a shrinking disk may have got in
 * between; then it is damaged, and nobody gets it.
 */
#include "overlay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "hash.h"
#include "overlay_parts.h"
#include "rangelock.h"

enum { least_window = 4 << 20, map_bytes = 8 << 20, cache_bytes = 8 << 20, tries = 3 };

void br_overlay_tell(struct br_overlay *overlay, const struct br_trouble *trouble) {
    if (overlay->point.tell && trouble->text[0])
        overlay->point.tell(overlay->point.context, trouble->text);
}

static int add_part(struct br_answer *answer, struct br_part part) {
    struct br_part *last = answer->count ? answer->parts + answer->count - 1 : NULL;
    if (last && last->log == part.log && last->at + last->length == part.at &&
        (!part.log || last->source + last->length == part.source)) {
        last->length += part.length;
        return 0;
    }
    if (answer->count == answer->room) {
        size_t room = answer->room ? 2 * answer->room : 32;
        struct br_part *grown = realloc(answer->parts, room * sizeof *grown);
        if (!grown)
            return ENOMEM;
        answer->parts = grown;
        answer->room = room;
    }
    answer->parts[answer->count++] = part;
    return 0;
}

/* What of one granule comes from logs. */
static int add_granule(struct br_answer *answer, const struct br_map *map, const struct br_piece *piece,
                       uint64_t offset) {
    size_t done = 0, wanted = (size_t)br_least(BR_GRANULE, answer->end - offset);
    int error = 0;
    for (; piece && done < wanted && !error; piece = br_next_piece(map, piece)) {
        size_t length = (size_t)br_least(piece->length, wanted);
        if (length <= done)
            continue;
        error = add_part(answer, (struct br_part){
                                     .log = piece->kind == BR_UNDO_DATA ? &piece->undo->log : NULL,
                                     .source = piece->kind == BR_UNDO_DATA ? piece->source + done : 0,
                                     .at = (size_t)(offset - answer->start) + done,
                                     .length = length - done,
                                 });
        done = length;
    }
    return error;
}

static int open_log(struct br_overlay *overlay, struct br_part *part, struct br_trouble *trouble) {
    int error = part->log ? br_pool_get(&overlay->pool, part->log) : 0;
    if (!error)
        return 0;
    br_trouble(trouble, error, "undo/%s: %s; points before its epoch can't be read where it changed the disk",
               part->log->name, error == ENOENT ? "the undo log is missing" : strerror(error));
    return error == ENOENT ? ESTALE : error;
}

static void put_logs(struct br_answer *answer, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (answer->parts[i].log)
            br_pool_put(answer->parts[i].log);
}

/* Look up what the indexes say of the answer's extent; its logs are open then. */
static int look_up(struct br_overlay *overlay, struct br_answer *answer, struct br_trouble *trouble) {
    uint64_t window = answer->start / overlay->window_size, each = overlay->point.block_size;
    size_t within = (size_t)(answer->start % overlay->window_size), opened = 0;
    struct br_map *map;
    uint64_t settled = br_overlay_settled(overlay); /* before the lock: all requests share it */
    pthread_mutex_lock(&overlay->lock);
    int error = br_overlay_follow(overlay, settled, trouble);
    if (!error)
        error = br_overlay_map(overlay, window, &map, trouble);
    if (!error && map->pieces) {
        const struct br_piece *piece = map->pieces + within / BR_GRANULE;
        for (uint64_t at = answer->start; at < answer->end && !error; at += BR_GRANULE, piece++)
            if (piece->undo)
                error = add_granule(answer, map, piece, at);
        const struct br_sum *sums = map->sums + within / each;
        for (size_t i = 0; i < br_block_count(answer->end - answer->start, each); i++)
            if (sums[i].kind)
                answer->sums[i] = sums[i];
    }
    while (!error && opened < answer->count && !(error = open_log(overlay, answer->parts + opened, trouble)))
        opened++;
    pthread_mutex_unlock(&overlay->lock);
    if (error)
        put_logs(answer, opened);
    return error;
}

static int read_parts(const struct br_answer *answer, uint8_t *data, struct br_trouble *trouble) {
    for (size_t i = 0; i < answer->count; i++) {
        const struct br_part *part = answer->parts + i;
        if (!part->log) {
            memset(data + part->at, 0, part->length);
            continue;
        }
        struct br_file *file = part->log->file;
        int error = file->ops->pread(file, data + part->at, part->length, part->source);
        if (error)
            return br_trouble(trouble, EIO, "undo/%s: wanted %zu bytes of a before-image at %llu: %s",
                              part->log->name, part->length, (unsigned long long)part->source,
                              error == ENODATA ? "it ends before" : strerror(error));
    }
    return 0;
}

/* disk.img as it is now, zeros behind its end. */
static int read_image(struct br_overlay *overlay, uint8_t *data, uint64_t start, uint64_t end,
                      struct br_trouble *trouble) {
    uint64_t size;
    int error = overlay->image->ops->size(overlay->image, &size);
    size_t there = error || size <= start ? 0 : (size_t)(br_least(size, end) - start);
    if (!error && there)
        error = overlay->image->ops->pread(overlay->image, data, there, start);
    if (error && error != ENODATA)
        return br_trouble(trouble, error, "disk.img: reading at offset %llu: %s", (unsigned long long)start,
                          strerror(error));
    memset(data + there, 0, (size_t)(end - start) - there);
    return 0;
}

/* The first block that nothing proves, or `count`. */
static size_t first_wrong(struct br_overlay *overlay, const struct br_answer *answer, const uint8_t *table,
                          size_t count) {
    uint64_t first = answer->start / overlay->point.block_size;
    for (size_t i = 0; i < count; i++) {
        const struct br_sum *sum = answer->sums + i;
        bool same = memcmp(sum->entry, table + i * BR_ENTRY_SIZE, BR_ENTRY_SIZE) == 0;
        if (sum->kind != BR_UNDO_UNKNOWN && same)
            continue;
        if (sum->kind != 0 || !br_overlay_proves(overlay, first + i, 1, table + i * BR_ENTRY_SIZE))
            return i;
    }
    return count;
}

static int prove(struct br_overlay *overlay, const struct br_answer *answer, const uint8_t *data,
                 struct br_trouble *trouble) {
    uint64_t each = overlay->point.block_size;
    size_t length = (size_t)(answer->end - answer->start), count = (size_t)br_block_count(length, each);
    uint8_t *table = malloc(count * BR_ENTRY_SIZE);
    if (!table)
        return br_trouble(trouble, ENOMEM, "no memory");
    br_checksum_blocks(data, length, each, overlay->point.seed, table);
    size_t wrong = first_wrong(overlay, answer, table, count);
    free(table);
    if (wrong == count)
        return 0;
    return br_trouble(
        trouble, EBADMSG,
        "the replica's content does not match the point's checksums, or they are lost, at offset "
        "%llu; it is not served; run verify",
        (unsigned long long)(answer->start + wrong * each));
}

static int read_once(struct br_overlay *overlay, struct br_answer *answer, uint8_t *data,
                     struct br_trouble *trouble) {
    uint64_t each = overlay->point.block_size;
    size_t count = (size_t)br_block_count(answer->end - answer->start, each);
    answer->count = 0;
    int error = read_image(overlay, data, answer->start, answer->end, trouble);
    if (!error)
        error = br_overlay_table(overlay, answer->start / each, count, answer->sums, trouble);
    if (!error)
        error = look_up(overlay, answer, trouble);
    if (error)
        return error;
    error = read_parts(answer, data, trouble);
    put_logs(answer, answer->count);
    return error ? error : prove(overlay, answer, data, trouble);
}

/* Whole blocks, in one window. */
static int read_blocks(struct br_overlay *overlay, uint8_t *data, uint64_t start, uint64_t end) {
    struct br_answer answer = {.start = start, .end = end};
    answer.sums =
        malloc((size_t)br_block_count(end - start, overlay->point.block_size) * sizeof *answer.sums);
    if (!answer.sums)
        return ENOMEM;
    struct br_trouble trouble;
    int error = EBADMSG;
    for (int left = tries; left && (error == EBADMSG || error == ESTALE); left--) {
        trouble.text[0] = 0;
        error = read_once(overlay, &answer, data, &trouble);
        if (error == ESTALE && br_overlay_renew(overlay) != 0)
            error = ENOMEM;
    }
    free(answer.sums);
    free(answer.parts);
    if (error)
        br_overlay_tell(overlay, &trouble);
    return error == EBADMSG || error == ESTALE ? EIO : error;
}

static bool copy_cached(struct br_overlay *overlay, uint64_t block, uint8_t *data, size_t within,
                        size_t length) {
    pthread_mutex_lock(&overlay->cache_lock);
    struct br_cached *found = NULL;
    for (size_t i = 0; i < overlay->cached_count && !found; i++)
        if (overlay->cached[i].block == block)
            found = overlay->cached + i;
    if (found) {
        found->used = ++overlay->clock;
        memcpy(data, found->data + within, length);
    }
    pthread_mutex_unlock(&overlay->cache_lock);
    return found;
}

/* Keep a block in the place of the one that was not used for longest; `data` is swapped for a free buffer. */
static uint8_t *keep(struct br_overlay *overlay, uint64_t block, uint8_t *data) {
    pthread_mutex_lock(&overlay->cache_lock);
    struct br_cached *oldest = overlay->cached;
    for (size_t i = 1; i < overlay->cached_count; i++)
        if (overlay->cached[i].used < oldest->used)
            oldest = overlay->cached + i;
    uint8_t *freed = oldest->data;
    *oldest = (struct br_cached){block, ++overlay->clock, data};
    pthread_mutex_unlock(&overlay->cache_lock);
    return freed;
}

static int read_part(struct br_overlay *overlay, uint8_t *data, uint64_t offset, size_t length) {
    uint64_t each = overlay->point.block_size, block = offset / each, start = block * each;
    if (copy_cached(overlay, block, data, (size_t)(offset - start), length))
        return 0;
    pthread_mutex_t *loading = overlay->loading + block % BR_LOADERS;
    pthread_mutex_lock(loading);
    int error = 0;
    if (!copy_cached(overlay, block, data, (size_t)(offset - start), length)) {
        uint8_t *whole = malloc(each);
        error =
            whole ? read_blocks(overlay, whole, start, br_least(start + each, overlay->point.size)) : ENOMEM;
        if (!error) {
            memcpy(data, whole + (offset - start), length);
            whole = keep(overlay, block, whole);
        }
        free(whole);
    }
    pthread_mutex_unlock(loading);
    return error;
}

int br_overlay_pread(struct br_overlay *overlay, void *data, size_t length, uint64_t offset) {
    uint64_t each = overlay->point.block_size, end = offset + length;
    if (offset > overlay->point.size || length > overlay->point.size - offset)
        return EINVAL;
    int error = 0;
    for (uint8_t *to = data; offset < end && !error;) {
        uint64_t window_end = (offset / overlay->window_size + 1) * overlay->window_size;
        uint64_t behind = br_least(end, window_end);
        bool last = behind == overlay->point.size;
        if (offset % each == 0 && (last || behind - offset >= each)) {
            behind = last ? behind : behind - behind % each;
            error = read_blocks(overlay, to, offset, behind);
        } else {
            behind = br_least(behind, offset - offset % each + each);
            error = read_part(overlay, to, offset, (size_t)(behind - offset));
        }
        to += behind - offset;
        offset = behind;
    }
    return error;
}

static int open_files(struct br_overlay *overlay, struct br_trouble *trouble) {
    const char *folder = overlay->point.folder;
    size_t room = strlen(folder) + sizeof "/undo";
    char table[32] = "checksums";
    if (overlay->point.era)
        snprintf(table, sizeof table, "checksums.%" PRIu32, overlay->point.era);
    char *undo = malloc(room);
    if (!undo)
        return ENOMEM;
    snprintf(undo, room, "%s/undo", folder);
    int error = br_folder_posix(folder, &overlay->folder);
    if (!error)
        error = br_folder_posix(undo, &overlay->undo_folder);
    free(undo);
    if (!error)
        error = overlay->folder->ops->open(overlay->folder, "disk.img", 0, &overlay->image);
    if (!error)
        error = overlay->folder->ops->open(overlay->folder, table, 0, &overlay->table);
    if (error)
        return br_trouble(trouble, error, "%s: opening: %s", folder, strerror(error));
    size_t most = overlay->point.most_open ? overlay->point.most_open : 256;
    br_pool_init(&overlay->pool, overlay->undo_folder, most);
    error = br_overlay_refresh(overlay, trouble);
    uint64_t next = br_overlay_next_epoch(overlay);
    if (!error && next <= overlay->point.newest)
        error =
            br_trouble(trouble, EIO,
                       "undo/%06llu.index: the undo index is missing; points before epoch %llu can't be read",
                       (unsigned long long)next, (unsigned long long)next);
    return error;
}

static int make_rooms(struct br_overlay *overlay) {
    uint64_t each = overlay->point.block_size;
    overlay->window_size = each > least_window ? each : least_window;
    size_t map = (size_t)(overlay->window_size / BR_GRANULE) * sizeof(struct br_piece);
    overlay->map_count = map_bytes / map ? map_bytes / map : 1;
    overlay->cached_count = cache_bytes / each > 1 ? (size_t)(cache_bytes / each) : 2;
    if (overlay->cached_count > 256)
        overlay->cached_count = 256;
    overlay->maps = calloc(overlay->map_count, sizeof *overlay->maps);
    overlay->cached = calloc(overlay->cached_count, sizeof *overlay->cached);
    if (!overlay->maps || !overlay->cached)
        return ENOMEM;
    for (size_t i = 0; i < overlay->map_count; i++)
        overlay->maps[i].window = UINT64_MAX;
    for (size_t i = 0; i < overlay->cached_count; i++)
        overlay->cached[i].block = UINT64_MAX;
    return 0;
}

int br_overlay_open(const struct br_point *point, struct br_overlay **result) {
    if (!BR_HAVE_XXHASH)
        return ENOTSUP;
    uint32_t each = point->block_size;
    if (each < BR_GRANULE || each > 4 << 20 || (each & (each - 1)) || point->size > INT64_MAX)
        return EINVAL;
    struct br_overlay *overlay = calloc(1, sizeof *overlay);
    if (!overlay)
        return ENOMEM;
    overlay->point = *point;
    br_short_mutex_init(&overlay->lock);
    pthread_mutex_init(&overlay->cache_lock, NULL);
    for (int i = 0; i < BR_LOADERS; i++)
        pthread_mutex_init(overlay->loading + i, NULL);
    struct br_trouble trouble = {""};
    int error = make_rooms(overlay);
    if (!error)
        error = open_files(overlay, &trouble);
    if (error) {
        br_overlay_tell(overlay, &trouble);
        br_overlay_close(overlay);
        return error;
    }
    *result = overlay;
    return 0;
}

void br_overlay_close(struct br_overlay *overlay) {
    for (size_t i = 0; i < overlay->undo_count; i++)
        br_undo_free(&overlay->pool, overlay->undos[i]);
    for (size_t i = 0; i < overlay->retired_count; i++)
        br_undo_free(&overlay->pool, overlay->retired[i]);
    free(overlay->retired);
    br_pool_close(&overlay->pool);
    for (size_t i = 0; overlay->maps && i < overlay->map_count; i++)
        br_map_clear(overlay->maps + i);
    br_map_clear(&overlay->scratch);
    for (size_t i = 0; overlay->cached && i < overlay->cached_count; i++)
        free(overlay->cached[i].data);
    free(overlay->undos);
    free(overlay->maps);
    free(overlay->cached);
    br_file_close(&overlay->image);
    br_file_close(&overlay->table);
    br_folder_close(&overlay->undo_folder);
    br_folder_close(&overlay->folder);
    free(overlay);
}
