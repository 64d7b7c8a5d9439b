/* Opening an undo index, and following one that grows until the sorted one takes its place. The file that
 * grows stays open till then: what is opened by its name later may be the other. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bytes.h"
#include "crc32c.h"
#include "undo_parts.h"

static const uint64_t open_count = UINT64_MAX;
static const char magic[8] = "brepundo";

int br_trouble(struct br_trouble *trouble, int error, const char *format, ...) {
    if (!trouble->text[0]) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(trouble->text, sizeof trouble->text, format, arguments);
        va_end(arguments);
    }
    return error;
}

int br_undo_failed(const struct br_undo *undo, int error, struct br_trouble *trouble) {
    if (error == ENODATA)
        return br_trouble(trouble, EIO, "%s: ends before its last row", undo->index_name);
    return br_trouble(trouble, error, "%s: reading: %s", undo->index_name, strerror(error));
}

static int identify(const struct br_undo *undo, struct stat *status) {
    struct br_file *file = undo->index.file;
    *status = (struct stat){0};
    return fstat(file->ops->fileno(file), status) < 0 ? errno : 0;
}

static int64_t changed_ns(const struct stat *status) {
    return status->st_ctim.tv_sec * INT64_C(1000000000) + status->st_ctim.tv_nsec;
}

int br_undo_get(struct br_pool *pool, struct br_undo *undo, struct br_trouble *trouble) {
    bool opened = !undo->index.file;
    struct stat status;
    int error = br_pool_get(pool, &undo->index);
    if (error == ENOENT)
        return br_trouble(trouble, ESTALE, "undo/%s: is missing", undo->index_name);
    if (error || !opened)
        return error ? br_undo_failed(undo, error, trouble) : 0;
    error = identify(undo, &status);
    if (!error && status.st_dev == undo->device && status.st_ino == undo->inode)
        return 0;
    br_pool_put(&undo->index);
    br_pool_drop(pool, &undo->index);
    return error ? br_undo_failed(undo, error, trouble)
                 : br_trouble(trouble, ESTALE, "undo/%s: is another one now", undo->index_name);
}

static void forget(struct br_undo *undo) {
    free(undo->chunks);
    free(undo->salvaged);
    undo->chunks = NULL;
    undo->salvaged = NULL;
    undo->seen = undo->chunk_count = undo->chunk_room = undo->salvaged_count = 0;
    undo->torn = UINT64_MAX;
    memset(undo->hint, 0, sizeof undo->hint);
}

static void name_log(struct br_undo *undo) {
    unsigned long long first = undo->first, last = undo->last;
    if (first == last)
        snprintf(undo->log_name, sizeof undo->log_name, "%06llu.hrl", first);
    else
        snprintf(undo->log_name, sizeof undo->log_name, "%06llu-%06llu.hrl", first, last);
}

/* Read the header of the open index. */
static int load(struct br_undo *undo, struct br_trouble *trouble) {
    uint8_t raw[BR_UNDO_HEADER];
    struct br_file *file = undo->index.file;
    struct stat status;
    int error = file->ops->pread(file, raw, sizeof raw, 0);
    if (!error)
        error = identify(undo, &status);
    if (error)
        return error == ENODATA
                   ? br_trouble(trouble, EIO, "%s: wanted a header of 64 bytes", undo->index_name)
                   : br_undo_failed(undo, error, trouble);
    if (memcmp(raw, magic, 8) != 0 || br_get32(raw + 8) != 1 || br_get32(raw + 12) != BR_UNDO_ROW ||
        br_get32(raw + 60) != br_crc32c(0, raw, 60))
        return br_trouble(trouble, EIO, "%s: wanted the header of an index of version 1 with its CRC",
                          undo->index_name);
    memcpy(undo->log_id, raw + 16, 16);
    undo->key = br_crc32c(0, undo->log_id, 16);
    bool growing = br_get64(raw + 32) == open_count;
    undo->count[0] = growing ? 0 : br_get64(raw + 32);
    undo->count[1] = growing ? 0 : br_get64(raw + 40);
    uint64_t size = (uint64_t)status.st_size;
    undo->device = status.st_dev;
    undo->inode = status.st_ino;
    undo->changed_ns = changed_ns(&status);
    undo->last = br_get64(raw + 48) ? br_get64(raw + 48) : undo->first;
    undo->era = br_get32(raw + 56);
    name_log(undo);
    uint64_t rows = (size - BR_UNDO_HEADER) / BR_UNDO_ROW;
    if (undo->last < undo->first)
        return br_trouble(trouble, EIO, "%s: undoes epochs up to %llu", undo->index_name,
                          (unsigned long long)undo->last);
    if (!growing &&
        (undo->count[0] > rows || undo->count[1] != rows - undo->count[0] || size % BR_UNDO_ROW != 0))
        return br_trouble(trouble, EIO, "%s: wanted %llu+%llu rows, got %llu bytes", undo->index_name,
                          (unsigned long long)undo->count[0], (unsigned long long)undo->count[1],
                          (unsigned long long)size);
    undo->growing = growing;
    return 0;
}

static void close_index(struct br_pool *pool, struct br_undo *undo) {
    if (undo->growing)
        br_pool_put(&undo->index);
    undo->growing = false;
    br_pool_drop(pool, &undo->index);
}

/* ENOENT is no trouble: there is none. */
static int open_index(struct br_pool *pool, struct br_undo *undo, struct br_trouble *trouble) {
    int error = br_pool_get(pool, &undo->index);
    if (error)
        return error == ENOENT ? error : br_undo_failed(undo, error, trouble);
    error = load(undo, trouble);
    if (error || !undo->growing)
        br_pool_put(&undo->index);
    return error;
}

static void name_index(char name[BR_INDEX_NAME], uint64_t first) {
    snprintf(name, BR_INDEX_NAME, "%06llu.index", (unsigned long long)first);
}

bool br_undo_exists(struct br_folder *folder, uint64_t first) {
    char name[BR_INDEX_NAME];
    struct br_file *file = NULL;
    name_index(name, first);
    int error = folder->ops->open(folder, name, 0, &file);
    br_file_close(&file);
    return error != ENOENT;
}

bool br_undo_replaced(struct br_folder *folder, const struct br_undo *undo) {
    struct br_file *file = NULL;
    struct stat status = {0};
    int error = folder->ops->open(folder, undo->index_name, 0, &file);
    if (!error && fstat(file->ops->fileno(file), &status) < 0)
        error = errno;
    br_file_close(&file);
    return error || status.st_dev != undo->device || status.st_ino != undo->inode ||
           changed_ns(&status) != undo->changed_ns;
}

int br_undo_open(struct br_pool *pool, uint64_t first, struct br_undo **result, struct br_trouble *trouble) {
    struct br_undo *undo = calloc(1, sizeof *undo);
    if (!undo)
        return br_trouble(trouble, ENOMEM, "no memory");
    undo->first = undo->last = first;
    name_index(undo->index_name, first);
    undo->index.name = undo->index_name;
    undo->log.name = undo->log_name;
    forget(undo);
    int error = open_index(pool, undo, trouble);
    if (!error)
        error = br_undo_refresh(pool, undo, trouble);
    if (error) {
        br_undo_free(pool, undo);
        return error;
    }
    *result = undo;
    return 0;
}

void br_undo_free(struct br_pool *pool, struct br_undo *undo) {
    close_index(pool, undo);
    br_pool_drop(pool, &undo->log);
    forget(undo);
    free(undo);
}

/* The next row of the file, which is whole. */
static int summarise(struct br_undo *undo, const struct br_undo_row *row) {
    size_t at = (size_t)(undo->seen / BR_UNDO_CHUNK);
    if (at == undo->chunk_room) {
        size_t room = at ? 2 * at : 16;
        struct br_undo_chunk *grown = realloc(undo->chunks, room * sizeof *grown);
        if (!grown)
            return ENOMEM;
        undo->chunks = grown;
        undo->chunk_room = room;
    }
    struct br_undo_chunk *chunk = undo->chunks + at;
    if (at == undo->chunk_count) {
        *chunk = (struct br_undo_chunk){.low = {UINT64_MAX, UINT64_MAX}};
        undo->chunk_count++;
    }
    enum br_undo_sort sort = br_undo_sort_of(row->kind);
    uint64_t behind = br_undo_behind(row);
    if (row->first < chunk->low[sort])
        chunk->low[sort] = row->first;
    if (behind > chunk->high[sort])
        chunk->high[sort] = behind;
    undo->seen++;
    return 0;
}

/* Take rows up to row `count` of the file; *whole: all of them were right. */
static int take_appended(struct br_undo *undo, uint64_t count, bool *whole, struct br_trouble *trouble) {
    uint8_t raw[BR_UNDO_CHUNK * BR_UNDO_ROW];
    struct br_undo_row row;
    int error = 0;
    *whole = true;
    while (undo->seen < count && *whole && !error) {
        size_t some = br_undo_some(count - undo->seen);
        error = br_undo_raw(undo, undo->seen, some, raw, trouble);
        for (size_t i = 0; i < some && *whole && !error; i++)
            if ((*whole = br_undo_decode(undo, raw + i * BR_UNDO_ROW, &row)))
                error = summarise(undo, &row);
    }
    return error == ENOMEM ? br_trouble(trouble, error, "no memory") : error;
}

static int salvage(struct br_pool *pool, struct br_undo *undo, uint64_t count, struct br_trouble *trouble) {
    if (undo->torn == count)
        return 0;
    int error = br_pool_get(pool, &undo->log);
    if (error)
        return br_trouble(trouble, EIO, "%s: rows are damaged, and its log: %s", undo->index_name,
                          strerror(error));
    struct br_undo_row *rows;
    size_t found;
    error = br_undo_salvage(undo->log.file, undo->log_name, undo->log_id, &rows, &found, trouble);
    br_pool_put(&undo->log);
    if (error)
        return error;
    free(undo->salvaged);
    undo->salvaged = rows;
    undo->salvaged_count = found;
    undo->torn = count;
    return 0;
}

int br_undo_refresh(struct br_pool *pool, struct br_undo *undo, struct br_trouble *trouble) {
    while (undo->growing) {
        struct stat status;
        int error = identify(undo, &status);
        if (error)
            return br_undo_failed(undo, error, trouble);
        if (status.st_nlink) {
            uint64_t count = ((uint64_t)status.st_size - BR_UNDO_HEADER) / BR_UNDO_ROW;
            bool whole = true;
            error = take_appended(undo, count, &whole, trouble);
            return error || whole ? error : salvage(pool, undo, count, trouble);
        }
        close_index(pool, undo);
        forget(undo);
        error = open_index(pool, undo, trouble);
        if (error)
            return br_undo_failed(undo, error, trouble);
    }
    return 0;
}
