/* Drawing the map of a window: the indexes after the point, oldest first, each fills what those before left
 * empty. The sealed ones are drawn once; one that is growing is drawn onto a copy, for every request anew. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "overlay_parts.h"

struct drawing {
    struct br_overlay *overlay;
    struct br_map *map;
    uint64_t start, end; /* disk bytes of the window */
};

static size_t granules(const struct br_overlay *overlay) {
    return (size_t)(overlay->window_size / BR_GRANULE);
}

static size_t blocks(const struct br_overlay *overlay) {
    return (size_t)(overlay->window_size / overlay->point.block_size);
}

void br_map_clear(struct br_map *map) {
    free(map->pieces);
    free(map->sums);
    free(map->more);
    *map = (struct br_map){.window = UINT64_MAX};
}

static int have_pieces(struct drawing *drawing) {
    struct br_map *map = drawing->map;
    if (!map->pieces)
        map->pieces = calloc(granules(drawing->overlay), sizeof *map->pieces);
    if (!map->sums)
        map->sums = calloc(blocks(drawing->overlay), sizeof *map->sums);
    return map->pieces && map->sums ? 0 : ENOMEM;
}

/* Room for one more piece; whoever holds a pointer into `more` must look it up again. */
static int add_more(struct br_map *map, const struct br_piece *piece, int32_t *at) {
    if (map->more_count == map->more_room) {
        size_t room = map->more_room ? 2 * map->more_room : 4;
        struct br_piece *grown = realloc(map->more, room * sizeof *grown);
        if (!grown)
            return ENOMEM;
        map->more = grown;
        map->more_room = room;
    }
    map->more[map->more_count] = *piece;
    *at = (int32_t)map->more_count++;
    return 0;
}

/* Put a newer piece behind those that the granule has, if it has bytes that they have not. */
static int put_piece(struct br_map *map, struct br_piece *first, const struct br_piece *piece) {
    if (!first->undo) {
        *first = *piece;
        return 0;
    }
    if (first->length >= piece->length)
        return 0;
    int32_t last = -1, at;
    for (int32_t next = first->next; next >= 0; next = map->more[next].next) {
        last = next;
        if (map->more[next].length >= piece->length)
            return 0;
    }
    int error = add_more(map, piece, &at);
    if (!error && last < 0)
        first->next = at;
    else if (!error)
        map->more[last].next = at;
    return error;
}

static int draw_extent(void *context, struct br_undo *undo, const struct br_undo_row *row) {
    struct drawing *drawing = context;
    int error = have_pieces(drawing);
    uint64_t behind = br_least(row->first + row->length, drawing->end);
    uint64_t at = row->first > drawing->start ? row->first : drawing->start;
    for (; at < behind && !error; at += BR_GRANULE) {
        struct br_piece piece = {
            .undo = undo,
            .source = row->source + (at - row->first),
            .length = (uint16_t)br_least(BR_GRANULE, behind - at),
            .kind = (uint8_t)row->kind,
            .next = -1,
        };
        error = put_piece(drawing->map, drawing->map->pieces + (at - drawing->start) / BR_GRANULE, &piece);
    }
    return error;
}

static int draw_sum(void *context, struct br_undo *undo, const struct br_undo_row *row) {
    struct drawing *drawing = context;
    (void)undo;
    if (have_pieces(drawing) != 0)
        return ENOMEM;
    struct br_sum *sum =
        drawing->map->sums + (row->first - drawing->start / drawing->overlay->point.block_size);
    if (!sum->kind) {
        memcpy(sum->entry, row->sum, sizeof sum->entry);
        sum->kind = (uint8_t)row->kind;
    }
    return 0;
}

static int draw(struct drawing *drawing, struct br_undo *undo, struct br_trouble *trouble) {
    struct br_pool *pool = &drawing->overlay->pool;
    uint64_t each = drawing->overlay->point.block_size;
    int error = br_undo_find(pool, undo, BR_UNDO_EXTENTS, drawing->start, drawing->end, draw_extent, drawing,
                             trouble);
    if (!error && undo->era == drawing->overlay->point.era)
        error = br_undo_find(pool, undo, BR_UNDO_SUMS, drawing->start / each, drawing->end / each, draw_sum,
                             drawing, trouble);
    return error == ENOMEM ? br_trouble(trouble, error, "no memory") : error;
}

static int copy_map(struct br_overlay *overlay, const struct br_map *map, struct br_map *copy) {
    struct drawing drawing = {.overlay = overlay, .map = copy};
    copy->window = map->window;
    copy->more_count = 0;
    if (have_pieces(&drawing) != 0)
        return ENOMEM;
    memset(copy->pieces, 0, granules(overlay) * sizeof *copy->pieces);
    memset(copy->sums, 0, blocks(overlay) * sizeof *copy->sums);
    if (!map->pieces)
        return 0;
    memcpy(copy->pieces, map->pieces, granules(overlay) * sizeof *copy->pieces);
    memcpy(copy->sums, map->sums, blocks(overlay) * sizeof *copy->sums);
    int32_t at;
    for (size_t i = 0; i < map->more_count; i++)
        if (add_more(copy, map->more + i, &at) != 0)
            return ENOMEM;
    return 0;
}

int br_overlay_map(struct br_overlay *overlay, uint64_t window, struct br_map **result,
                   struct br_trouble *trouble) {
    struct br_map *map = overlay->maps + window % overlay->map_count;
    if (map->window != window)
        br_map_clear(map);
    map->window = window;
    uint64_t start = window * overlay->window_size;
    struct drawing drawing = {overlay, map, start, start + overlay->window_size};
    size_t last = overlay->undo_count;
    bool growing = last && overlay->undos[last - 1]->growing;
    while (map->drawn < last - growing) {
        int error = draw(&drawing, overlay->undos[map->drawn], trouble);
        if (error) {
            br_map_clear(map); /* half of an index may be in it */
            return error;
        }
        map->drawn++;
    }
    *result = map;
    if (!growing)
        return 0;
    drawing.map = *result = &overlay->scratch;
    if (copy_map(overlay, map, &overlay->scratch) != 0)
        return br_trouble(trouble, ENOMEM, "no memory");
    return draw(&drawing, overlay->undos[last - 1], trouble);
}

static int append(struct br_overlay *overlay, struct br_undo *undo) {
    if (overlay->undo_count == overlay->undo_room) {
        size_t room = overlay->undo_room ? 2 * overlay->undo_room : 16;
        struct br_undo **grown = realloc(overlay->undos, room * sizeof *grown);
        if (!grown)
            return ENOMEM;
        overlay->undos = grown;
        overlay->undo_room = room;
    }
    overlay->undos[overlay->undo_count++] = undo;
    return 0;
}

uint64_t br_overlay_next_epoch(const struct br_overlay *overlay) {
    size_t count = overlay->undo_count;
    return (count ? overlay->undos[count - 1]->last : overlay->point.epoch) + 1;
}

int br_overlay_renew(struct br_overlay *overlay) {
    pthread_mutex_lock(&overlay->lock);
    size_t count = overlay->retired_count + overlay->undo_count;
    struct br_undo **retired = realloc(overlay->retired, (count + 1) * sizeof *retired);
    if (retired) {
        memcpy(retired + overlay->retired_count, overlay->undos, overlay->undo_count * sizeof *retired);
        overlay->retired = retired;
        overlay->retired_count = count;
        overlay->undo_count = 0;
        overlay->awaited = 0;
        for (size_t i = 0; i < overlay->map_count; i++)
            br_map_clear(overlay->maps + i);
    }
    pthread_mutex_unlock(&overlay->lock);
    return retired ? 0 : ENOMEM;
}

/* A sealed index grows again where its sync ended before its point: the next sync takes it up. What was drawn
 * of it is drawn anew then. */
static int look_again(struct br_overlay *overlay, struct br_undo *undo, struct br_trouble *trouble) {
    if (undo->growing)
        return br_undo_refresh(&overlay->pool, undo, trouble);
    if (br_undo_replaced(overlay->undo_folder, undo))
        return br_trouble(trouble, ESTALE, "undo/%s: is another one now", undo->index_name);
    return 0;
}

/* Each index tells which epoch comes after it, so the first gap is the end. */
static int see_all(struct br_overlay *overlay, struct br_trouble *trouble) {
    for (;;) {
        size_t count = overlay->undo_count;
        int error = count ? look_again(overlay, overlay->undos[count - 1], trouble) : 0;
        if (error)
            return error;
        struct br_undo *undo = NULL;
        uint64_t next = br_overlay_next_epoch(overlay);
        error = br_undo_open(&overlay->pool, next, &undo, trouble);
        if (error == ENOENT)
            return 0;
        if (!error && count) /* it was sealed before that one began */
            error = look_again(overlay, overlay->undos[count - 1], trouble);
        if (!error)
            error = append(overlay, undo);
        if (error && undo)
            br_undo_free(&overlay->pool, undo);
        if (error)
            return br_trouble(trouble, error, "undo/%06llu.index: %s", (unsigned long long)next,
                              strerror(error));
    }
}

int br_overlay_refresh(struct br_overlay *overlay, struct br_trouble *trouble) {
    int error = see_all(overlay, trouble);
    size_t count = overlay->undo_count;
    bool sealed = !error && (!count || !overlay->undos[count - 1]->growing);
    overlay->awaited = sealed ? br_overlay_next_epoch(overlay) : 0;
    return error;
}

uint64_t br_overlay_settled(struct br_overlay *overlay) {
    uint64_t epoch = overlay->awaited;
    return epoch && !br_undo_exists(overlay->undo_folder, epoch) ? epoch : 0;
}

int br_overlay_follow(struct br_overlay *overlay, uint64_t settled, struct br_trouble *trouble) {
    size_t count = overlay->undo_count;
    if (settled && settled == overlay->awaited &&
        !(count && br_undo_replaced(overlay->undo_folder, overlay->undos[count - 1])))
        return 0;
    return br_overlay_refresh(overlay, trouble);
}
