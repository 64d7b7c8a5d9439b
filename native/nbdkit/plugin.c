/* The nbdkit plugin: an NBD front of the tracker.
 *
 *     nbdkit -f -U vm.sock _nbdkit.so image=/path/vm.img [tracking-dir=DIR] [log-limit=BYTES] [log=always]
 *            [ctime=compare|ignore] [marks=DIR] [outlive=true] [remove=PATH ...] [container=/path/vm.qcow2
 * served-by=PID]
 *
 * `container`: the image is what our child PID shows of that file; it ends behind the tracker (daemon.c).
 *
 * nbdkit may fork into the background, and locks and threads belong to a process: the image is opened after
 * that, and closed, which seals its log, when the last connection has ended. Whoever started nbdkit may have
 * to understand why it did not begin: a failure of the tracker is told as JSON (tracker_text.h) behind the
 * word "blockreplica".
 *
 * Requests come from many threads and connections at once. The tracker keeps overlapping ones apart, and
 * there is nothing between it and the image that belongs to one connection: so a flush on any connection
 * covers all.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "../control.h"
#include "../tracker_text.h"
#include "daemon.h"
#include "hangup.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

enum { most_removed = 8, tries = 10, zero_step = 1 << 20 };
static const struct timespec pause_between_tries = {.tv_nsec = 30000000};

static char *image, *container, *tracking_dir, *marks, *removed[most_removed];
static size_t removed_count;
static struct br_options options;
static int served_by;
static struct br_tracker *tracker;
static struct br_control *control;
static bool tells_extents, outlive;
static _Atomic int64_t complained; /* second of the last error that was told */

static int take_path(char **path, const char *value) {
    free(*path);
    *path = nbdkit_absolute_path(value);
    return *path ? 0 : -1;
}

static int plugin_config(const char *key, const char *value) {
    if (strcmp(key, "image") == 0)
        return take_path(&image, value);
    if (strcmp(key, "container") == 0)
        return take_path(&container, value);
    if (strcmp(key, "served-by") == 0)
        return nbdkit_parse_int(key, value, &served_by);
    if (strcmp(key, "tracking-dir") == 0)
        return take_path(&tracking_dir, value);
    if (strcmp(key, "marks") == 0)
        return take_path(&marks, value);
    if (strcmp(key, "log") == 0 && br_log_mode(value, &options.log))
        return 0;
    if (strcmp(key, "ctime") == 0 && br_ctime_named(value, &options.ctime))
        return 0;
    if (strcmp(key, "log-limit") == 0) {
        int64_t limit = nbdkit_parse_size(value);
        options.log_limit = limit < 0 ? 0 : (uint64_t)limit;
        return limit < 0 ? -1 : 0;
    }
    if (strcmp(key, "outlive") == 0) {
        int value_is = nbdkit_parse_bool(value);
        outlive = value_is > 0;
        return value_is < 0 ? -1 : 0;
    }
    if (strcmp(key, "remove") == 0 && removed_count < most_removed)
        return take_path(&removed[removed_count++], value);
    nbdkit_error("%s=%s: no parameter of this plugin, or no value of it", key, value);
    return -1;
}

static int plugin_config_complete(void) {
    if (image && !container == !served_by)
        return 0;
    nbdkit_error(image ? "container and served-by go together" : "image=PATH is missing");
    return -1;
}

/* The folder of an absolute path, and its last name, as two strings in `room`. */
static const char *split_path(char *room, const char **name) {
    char *slash = strrchr(room, '/');
    *slash = 0;
    *name = slash + 1;
    return *room ? room : "/";
}

static int open_folder(const char *image_folder, const char *name, struct br_folder **folder) {
    struct br_folder *others;
    int error = br_folder_posix(image_folder, folder);
    if (error || !tracking_dir)
        return error;
    error = br_folder_posix(tracking_dir, &others);
    if (!error)
        return br_folder_split(*folder, name, others, folder);
    br_folder_close(folder);
    return error;
}

/* The file whose content is the image. */
static int open_container(void) {
    struct br_folder *folder;
    const char *name;
    char room[strlen(container) + 1];
    strcpy(room, container);
    int error = br_folder_posix(split_path(room, &name), &folder);
    if (error)
        return error;
    error = folder->ops->open(folder, name, BR_OPEN_WRITE, &options.container.file);
    br_folder_close(&folder);
    return error;
}

/* Whoever only looks at a tracking file holds its lock for an instant. */
static int open_tracker(const char *image_folder, const char *name, struct br_failure *failure) {
    for (int left = tries;; left--) {
        struct br_folder *folder;
        int error = container ? open_container() : 0;
        if (!error)
            error = open_folder(image_folder, name, &folder);
        if (error) {
            *failure = (struct br_failure){.error = error, .doing = "opening the folder"};
            return error;
        }
        error = br_tracker_open(folder, name, &options, &tracker, failure);
        if (!error || failure->kind != BR_FAILED_BUSY || left == 1)
            return error;
        nanosleep(&pause_between_tries, NULL);
    }
}

static void tell_failure(const struct br_failure *failure) {
    struct br_text text = {0};
    br_text_failure(&text, failure);
    nbdkit_error("blockreplica %s", text.failed ? "{}" : text.bytes);
    br_text_free(&text);
}

/* -1 after saying what failed. */
static int failed(int error, const char *doing) {
    errno = error;
    nbdkit_error("%s: %m", doing);
    return -1;
}

static int plugin_after_fork(void) {
    struct br_failure failure;
    const char *name;
    if (outlive) /* nbdkit in the foreground wants to end with its parent, even when it is not told so */
        prctl(PR_SET_PDEATHSIG, 0);
    char room[strlen(image) + 1];
    strcpy(room, image);
    const char *folder = split_path(room, &name);
    int error = 0;
    options.marks = marks;
    if (container) {
        options.container.release = br_daemon_end;
        error = br_daemon_watch(served_by);
    }
    if (error)
        return failed(error, "watching the process that shows the image");
    error = open_tracker(folder, name, &failure);
    if (!error && br_control_new(tracker, options.log_limit, &control) != 0) {
        nbdkit_error("no memory");
        return -1;
    }
    if (!error)
        error = br_control_listen(control, tracking_dir ? tracking_dir : folder, name, &failure);
    if (error) {
        tell_failure(&failure);
        return -1;
    }
    bool hole;
    uint64_t run;
    error = br_hangup_start();
    if (error)
        return failed(error, "listening for signals");
    tells_extents = br_tracker_size(tracker) && br_tracker_extent(tracker, 0, 1, &hole, &run) == 0;
    return 0;
}

/* Also behind an after_fork that failed, and when nbdkit is told to end before it served. */
static void close_tracker(void) {
    struct br_failure failure;
    br_hangup_stop();
    if (control)
        br_control_free(control);
    control = NULL;
    if (tracker && br_tracker_close(tracker, &failure) != 0)
        tell_failure(&failure);
    tracker = NULL;
    if (container)
        br_daemon_end(NULL);
}

static void plugin_unload(void) {
    close_tracker();
    for (size_t i = 0; i < removed_count; i++) {
        remove(removed[i]);
        free(removed[i]);
    }
    free(image);
    free(container);
    free(tracking_dir);
    free(marks);
}

static void *plugin_open(int readonly) {
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle) {
    (void)handle;
    return (int64_t)br_tracker_size(tracker);
}

static int yes(void *handle) {
    (void)handle;
    return 1;
}

static int no(void *handle) {
    (void)handle;
    return 0;
}

static int plugin_can_fua(void *handle) {
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int plugin_can_cache(void *handle) {
    (void)handle;
    return NBDKIT_CACHE_EMULATE;
}

static int plugin_can_extents(void *handle) {
    (void)handle;
    return tells_extents;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum) {
    (void)handle;
    *minimum = 1;
    *preferred = 4096;
    *maximum = UINT32_MAX;
    return 0;
}

static const char *plugin_export_description(void *handle) {
    (void)handle;
    return nbdkit_printf_intern("blockreplica: %s, tracked", image);
}

/* The answer to a request that failed; told in the log once a second at the most, or a guest could fill that.
 */
static int finish(int error, const char *doing, uint64_t offset, uint64_t count) {
    if (!error)
        return 0;
    int64_t now = time(NULL);
    if (error != EOPNOTSUPP && atomic_exchange(&complained, now) != now) {
        errno = error;
        nbdkit_error("%s: %s %" PRIu64 " bytes at offset %" PRIu64 ": %m", image, doing, count, offset);
    }
    nbdkit_set_error(error);
    return -1;
}

/* `error` of a change, or of the flush that makes it durable. */
static int finish_change(int error, uint32_t flags, const char *doing, uint64_t offset, uint64_t count) {
    if (!error && flags & NBDKIT_FLAG_FUA)
        error = br_tracker_flush(tracker);
    return finish(error, doing, offset, count);
}

static int plugin_pread(void *handle, void *data, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    (void)flags;
    return finish(br_tracker_pread(tracker, data, count, offset), "reading", offset, count);
}

static int plugin_pwrite(void *handle, const void *data, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    return finish_change(br_tracker_pwrite(tracker, data, count, offset), flags, "writing", offset, count);
}

static int plugin_flush(void *handle, uint32_t flags) {
    (void)handle;
    (void)flags;
    return finish(br_tracker_flush(tracker), "flushing", 0, 0);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    return finish_change(br_tracker_discard(tracker, offset, count), flags, "trimming", offset, count);
}

static int write_zeros(uint64_t offset, uint64_t count) {
    static const char zeros[zero_step];
    int error = 0;
    while (count && !error) {
        size_t step = count < zero_step ? (size_t)count : zero_step;
        error = br_tracker_pwrite(tracker, zeros, step, offset);
        offset += step;
        count -= step;
    }
    return error;
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    bool keep = !(flags & NBDKIT_FLAG_MAY_TRIM);
    int error = br_tracker_zero_fast(tracker, offset, count, keep);
    if (error == EOPNOTSUPP && !(flags & NBDKIT_FLAG_FAST_ZERO))
        error = keep ? write_zeros(offset, count) : br_tracker_zero(tracker, offset, count);
    return finish_change(error, flags, "zeroing", offset, count);
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents) {
    (void)handle;
    while (count) {
        bool hole;
        uint64_t run;
        int error = br_tracker_extent(tracker, offset, count, &hole, &run);
        if (error)
            return finish(error, "looking for holes in", offset, count);
        uint32_t type = hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
        if (nbdkit_add_extent(extents, offset, run, type) < 0)
            return -1;
        if (flags & NBDKIT_FLAG_REQ_ONE)
            return 0;
        offset += run;
        count -= (uint32_t)run;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "blockreplica",
    .longname = "blockreplica tracked image",
    .description = "A disk image whose every change also goes into its change log",
    .unload = plugin_unload,
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = "image=PATH         the image (required)\n"
                   "tracking-dir=DIR   where its tracking file and logs are\n"
                   "log-limit=SIZE     of one epoch's log\n"
                   "log=always         keep a change log\n"
                   "container=PATH     the file whose content the image is, and\n"
                   "served-by=PID      the child that shows it\n"
                   "outlive=BOOL       do not end with the parent process\n"
                   "remove=PATH        remove this file, or empty folder, at the end",
    .magic_config_key = "image",
    .after_fork = plugin_after_fork,
    .cleanup = close_tracker,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .can_write = yes,
    .can_flush = yes,
    .can_trim = yes,
    .can_zero = yes,
    .can_fast_zero = yes,
    .can_multi_conn = yes,
    .can_fua = plugin_can_fua,
    .can_cache = plugin_can_cache,
    .can_extents = plugin_can_extents,
    .is_rotational = no,
    .block_size = plugin_block_size,
    .export_description = plugin_export_description,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .extents = plugin_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
