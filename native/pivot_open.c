/* Beginning and going on: what stands there is ours, or it is left alone.
 *
 * `.pivot` comes first, durably and with all the room it will need; only then the file is made. So a file
 * without `.pivot` was made by somebody else, and a `.pivot` without its file is one of which the power took
 * the rest (state NEW), or whose file somebody removed.
 */
#include "pivot_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "identity.h"
#include "threads.h"

struct names {
    char state[300], fresh[300];
};

static int name_them(const char *name, struct names *names, struct br_trouble *trouble) {
    if (strlen(name) > 240)
        return br_trouble(trouble, ENAMETOOLONG, "%.80s...: the name is too long", name);
    snprintf(names->state, sizeof names->state, "%s.pivot", name);
    snprintf(names->fresh, sizeof names->fresh, "%s.pivot.new", name);
    return 0;
}

static int lock_state(struct br_pivot *pivot, struct br_trouble *trouble) {
    int error = pivot->state->ops->lock(pivot->state);
    if (error == EWOULDBLOCK)
        return br_trouble(trouble, error, ".pivot: another process serves it");
    return error ? br_trouble(trouble, error, ".pivot: locking: %s", strerror(error)) : 0;
}

static bool is_there(struct br_folder *folder, const char *name) {
    struct br_file *file = NULL;
    int error = folder->ops->open(folder, name, 0, &file);
    br_file_close(&file);
    return error != ENOENT;
}

static int write_fresh(struct br_pivot *pivot) {
    struct br_file *state = pivot->state;
    uint8_t header[BR_PIVOT_SECTOR];
    uint64_t room = BR_PIVOT_HEADER + br_pivot_live_room(pivot) + pivot->sectors * BR_PIVOT_SECTOR;
    int error = br_random_uuid(pivot->uuid);
    if (!error)
        error = state->ops->truncate(state, 0);
    if (!error && state->ops->reserve)
        error = state->ops->reserve(state, room);
    if (!error)
        error = state->ops->truncate(state, room);
    br_pivot_put_header(pivot, header);
    if (!error)
        error = state->ops->pwrite(state, header, sizeof header, 0);
    if (!error)
        error = br_pivot_note(pivot);
    return error ? error : state->ops->sync(state);
}

/* The lock is taken on the new file and stays with it when it gets its name. */
static int create_state(struct br_pivot *pivot, const char *name, const struct names *names,
                        struct br_trouble *trouble) {
    struct br_folder *folder = pivot->folder;
    if (is_there(folder, name))
        return br_trouble(trouble, EEXIST, "is there already, and not from serve-point");
    int error = folder->ops->open(folder, names->fresh, BR_OPEN_WRITE | BR_OPEN_CREATE, &pivot->state);
    if (error)
        return br_trouble(trouble, error, ".pivot: creating: %s", strerror(error));
    error = lock_state(pivot, trouble);
    if (error)
        return error;
    if (is_there(folder, names->state))
        return br_trouble(trouble, EWOULDBLOCK, ".pivot: another process has just begun it");
    error = write_fresh(pivot);
    if (!error)
        error = folder->ops->rename(folder, names->fresh, names->state);
    if (!error)
        error = folder->ops->sync(folder);
    if (!error)
        return 0;
    folder->ops->unlink(folder, names->fresh);
    return br_trouble(trouble, error, ".pivot: creating: %s", strerror(error));
}

static int open_state(struct br_pivot *pivot, const char *name, bool *same_boot, struct br_trouble *trouble) {
    struct names names;
    int error = name_them(name, &names, trouble);
    if (error)
        return error;
    error = pivot->folder->ops->open(pivot->folder, names.state, BR_OPEN_WRITE, &pivot->state);
    *same_boot = true;
    if (error == ENOENT)
        return create_state(pivot, name, &names, trouble);
    if (error)
        return br_trouble(trouble, error, ".pivot: opening: %s", strerror(error));
    error = lock_state(pivot, trouble);
    if (!error)
        error = br_pivot_take_header(pivot, trouble);
    if (error)
        return error;
    error = br_pivot_take_note(pivot, same_boot);
    return error ? br_trouble(trouble, error, ".pivot: reading: %s", strerror(error)) : 0;
}

/* Whether nobody has put anything into it. */
static bool is_empty(struct br_file *file, uint64_t wanted) {
    uint64_t size, run = 0;
    bool hole = false;
    if (file->ops->size(file, &size) != 0 || (size != 0 && size != wanted))
        return false;
    return size == 0 ||
           (file->ops->extent && file->ops->extent(file, 0, size, &hole, &run) == 0 && hole && run >= size);
}

static int make_file(struct br_pivot *pivot, const char *name, struct br_trouble *trouble) {
    struct br_folder *folder = pivot->folder;
    int error = folder->ops->open(folder, name, BR_OPEN_WRITE | BR_OPEN_CREATE, &pivot->file);
    if (!error && !is_empty(pivot->file, pivot->size))
        return br_trouble(trouble, EEXIST, "is there already, and not from serve-point");
    if (!error)
        error = pivot->file->ops->truncate(pivot->file, pivot->size);
    if (!error)
        error = pivot->file->ops->sync(pivot->file);
    if (!error)
        error = folder->ops->sync(folder);
    pivot->said = BR_PIVOT_COPYING;
    if (!error)
        error = br_pivot_note(pivot);
    if (!error)
        error = pivot->state->ops->sync(pivot->state);
    return error ? br_trouble(trouble, error, "creating: %s", strerror(error)) : 0;
}

static int open_file(struct br_pivot *pivot, const char *name, struct br_trouble *trouble) {
    uint64_t size;
    if (pivot->said == BR_PIVOT_NEW)
        return make_file(pivot, name, trouble);
    int error = pivot->folder->ops->open(pivot->folder, name, BR_OPEN_WRITE, &pivot->file);
    if (error == ENOENT)
        return br_trouble(trouble, error, "is gone, and its .pivot is still there");
    if (!error)
        error = pivot->file->ops->size(pivot->file, &size);
    if (error)
        return br_trouble(trouble, error, "opening: %s", strerror(error));
    if (size != pivot->size)
        return br_trouble(trouble, ESTALE, "has %llu bytes, the disk %llu", (unsigned long long)size,
                          (unsigned long long)pivot->size);
    return 0;
}

/* So that nobody begins a machine on what is not whole. */
static int lock_file(struct br_pivot *pivot, struct br_trouble *trouble) {
    int fd = pivot->file->ops->fileno ? pivot->file->ops->fileno(pivot->file) : -1;
    int error = fd < 0 ? 0 : br_image_lock(fd);
    if (error == EWOULDBLOCK)
        return br_trouble(trouble, error, "another program, such as QEMU, uses it");
    return error ? br_trouble(trouble, error, "locking: %s", strerror(error)) : 0;
}

static int open_all(struct br_pivot *pivot, const char *name, struct br_trouble *trouble) {
    bool same_boot;
    int error = open_state(pivot, name, &same_boot, trouble);
    if (!error)
        error = open_file(pivot, name, trouble);
    if (!error)
        error = lock_file(pivot, trouble);
    if (error)
        return error;
    pivot->complete = pivot->said == BR_PIVOT_COMPLETE;
    if (pivot->complete) {
        pivot->owned = pivot->size;
        br_pivot_release(pivot);
        return 0;
    }
    if (!pivot->point)
        return br_trouble(trouble, EINVAL, "is not complete, and there is no point");
    error = br_pivot_load(pivot, same_boot, trouble);
    pivot->said = BR_PIVOT_COPYING;
    if (!error && br_pivot_note(pivot) != 0)
        error = br_trouble(trouble, EIO, ".pivot: can't be written");
    return error;
}

static struct br_pivot *make(struct br_folder *folder, const struct br_pivot_options *options) {
    struct br_pivot *pivot = calloc(1, sizeof *pivot);
    if (!pivot)
        return NULL;
    pivot->options = *options;
    pivot->folder = folder;
    pivot->size = options->id.size;
    pivot->granules = (pivot->size + BR_PIVOT_GRANULE - 1) / BR_PIVOT_GRANULE;
    uint64_t bytes = (pivot->granules + 7) / 8;
    pivot->sectors = (bytes + BR_PIVOT_SECTOR_BITS - 1) / BR_PIVOT_SECTOR_BITS;
    pivot->bits = calloc(1, bytes + 1);
    pivot->changed = calloc(1, pivot->sectors + 1);
    uint64_t room = options->unit > BR_PIVOT_STEP ? options->unit : BR_PIVOT_STEP;
    pivot->buffer = malloc(room);
    br_short_mutex_init(&pivot->ranges_lock);
    br_ranges_init(&pivot->ranges, &pivot->ranges_lock);
    pthread_mutex_init(&pivot->bits_lock, NULL);
    pthread_mutex_init(&pivot->flush_lock, NULL);
    pthread_mutex_init(&pivot->report_lock, NULL);
    pthread_mutex_init(&pivot->stop_lock, NULL);
    pthread_cond_init(&pivot->stop_cond, NULL);
    pthread_rwlock_init(&pivot->point_lock, NULL);
    return pivot;
}

static void destroy(struct br_pivot *pivot) {
    br_pivot_release(pivot);
    br_file_close(&pivot->file);
    br_file_close(&pivot->state);
    pthread_mutex_destroy(&pivot->ranges_lock);
    pthread_mutex_destroy(&pivot->bits_lock);
    pthread_mutex_destroy(&pivot->flush_lock);
    pthread_mutex_destroy(&pivot->report_lock);
    pthread_mutex_destroy(&pivot->stop_lock);
    pthread_cond_destroy(&pivot->stop_cond);
    pthread_rwlock_destroy(&pivot->point_lock);
    free(pivot->bits);
    free(pivot->changed);
    free(pivot->buffer);
    free(pivot);
}

int br_pivot_open(struct br_folder *folder, const char *name, struct br_file *point,
                  const struct br_pivot_options *options, struct br_pivot **result,
                  struct br_trouble *trouble) {
    trouble->text[0] = 0;
    bool fits = options->unit && options->unit % BR_PIVOT_GRANULE == 0 && options->id.size <= INT64_MAX;
    struct br_pivot *pivot = fits ? make(folder, options) : NULL;
    if (!pivot) {
        br_file_close(&point);
        return br_trouble(trouble, fits ? ENOMEM : EINVAL, fits ? "no memory" : "unit or size");
    }
    pivot->point = point;
    int error = pivot->bits && pivot->changed && pivot->buffer ? open_all(pivot, name, trouble)
                                                               : br_trouble(trouble, ENOMEM, "no memory");
    if (error) {
        destroy(pivot);
        return error;
    }
    *result = pivot;
    return 0;
}

void br_pivot_report(struct br_pivot *pivot, struct br_pivot_report *report) {
    *report = (struct br_pivot_report){
        .state = (enum br_pivot_state)pivot->said,
        .error = pivot->error,
        .suspect = pivot->suspect,
        .owned = pivot->owned,
        .copied = pivot->copied,
        .damaged = pivot->damaged,
    };
}

int br_pivot_close(struct br_pivot *pivot) {
    pthread_mutex_lock(&pivot->stop_lock);
    pivot->stop = true;
    pthread_cond_broadcast(&pivot->stop_cond);
    pthread_mutex_unlock(&pivot->stop_lock);
    if (pivot->started)
        pthread_join(pivot->thread, NULL);
    int error = br_pivot_flush(pivot);
    if (!pivot->complete)
        br_pivot_note(pivot);
    destroy(pivot);
    return error;
}
