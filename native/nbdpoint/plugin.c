/* The nbdkit plugin of a recovery point: the overlay, read over NBD.
 *
 *     nbdkit -f -U point.sock _nbdpoint.so folder=/store/vm/disk0 epoch=17 newest=41 size=BYTES
 * block-size=65536 table-key=N seed=-FD [remove=PATH ...]
 *
 * The seed of the checksums is kept from guests, so it is read from a descriptor (nbdkit's password syntax)
 * and stands in no process list. Whoever starts nbdkit holds the lease on the point and lets nbdkit inherit
 * it: it lasts as long as the process. There is no Python in here, and nothing is ever written into the
 * replica; nbdkit's cow filter makes the disk writable, or a pivot (pivoted.h), which copies it on the way.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "../nbdkit/hangup.h"
#include "../overlay.h"
#include "pivoted.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

enum { most_removed = 8, most_open = 4096, spare_descriptors = 256 };

static char *folder, *removed[most_removed];
static size_t removed_count;
static struct br_point point;
static struct br_overlay *overlay;
static bool outlive;
static uint32_t ttl;               /* seconds; 0: for ever */
static _Atomic int64_t complained; /* second of the last error that was told */

static int take_path(char **path, const char *value) {
    free(*path);
    *path = nbdkit_absolute_path(value);
    return *path ? 0 : -1;
}

static int take_seed(const char *value) {
    char *text = NULL;
    if (nbdkit_read_password(value, &text) < 0)
        return -1;
    int result = nbdkit_parse_uint64_t("seed", text, &point.seed);
    free(text);
    return result;
}

static int plugin_config(const char *key, const char *value) {
    if (strcmp(key, "folder") == 0)
        return take_path(&folder, value);
    if (strcmp(key, "epoch") == 0)
        return nbdkit_parse_uint64_t(key, value, &point.epoch);
    if (strcmp(key, "newest") == 0)
        return nbdkit_parse_uint64_t(key, value, &point.newest);
    if (strcmp(key, "size") == 0)
        return nbdkit_parse_uint64_t(key, value, &point.size);
    if (strcmp(key, "block-size") == 0)
        return nbdkit_parse_uint32_t(key, value, &point.block_size);
    if (strcmp(key, "table-key") == 0)
        return nbdkit_parse_uint32_t(key, value, &point.table_key);
    if (strcmp(key, "era") == 0)
        return nbdkit_parse_uint32_t(key, value, &point.era);
    if (strcmp(key, "ttl") == 0)
        return nbdkit_parse_uint32_t(key, value, &ttl);
    if (strcmp(key, "seed") == 0)
        return take_seed(value);
    if (strcmp(key, "serves") == 0) /* for whoever reads the list of processes */
        return 0;
    if (strcmp(key, "outlive") == 0) {
        int value_is = nbdkit_parse_bool(value);
        outlive = value_is > 0;
        return value_is < 0 ? -1 : 0;
    }
    if (strcmp(key, "remove") == 0 && removed_count < most_removed)
        return take_path(&removed[removed_count++], value);
    int pivoted = br_pivoted_config(key, value);
    if (pivoted)
        return pivoted > 0 ? 0 : -1;
    nbdkit_error("unknown parameter %s", key);
    return -1;
}

static int plugin_config_complete(void) {
    if ((folder && point.block_size && point.epoch) || (!folder && br_pivoted_wanted()))
        return 0;
    nbdkit_error("folder, epoch or block-size is missing");
    return -1;
}

/* Once a second at the most, or whoever reads a damaged block again and again could fill the log. */
static void tell(void *context, const char *text) {
    (void)context;
    int64_t now = time(NULL);
    if (atomic_exchange(&complained, now) != now)
        nbdkit_error("%s: %s", folder, text);
}

/* Logs and indexes are opened on demand; the more may stay open, the less often. */
static size_t descriptors(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    if (limit.rlim_cur > most_open + spare_descriptors)
        return most_open;
    return limit.rlim_cur > 2 * spare_descriptors ? (size_t)limit.rlim_cur - spare_descriptors : 0;
}

/* The signal that ends nbdkit, sent by the clock: so it ends in the same way. */
static int end_in_time(void) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGTERM};
    const struct itimerspec when = {.it_value.tv_sec = ttl};
    timer_t timer;
    if (!ttl)
        return 0;
    if (timer_create(CLOCK_BOOTTIME, &event, &timer) != 0 || timer_settime(timer, 0, &when, NULL) != 0)
        return errno;
    return 0;
}

static int open_point(void) {
    point.folder = folder;
    point.tell = tell;
    point.most_open = descriptors();
    int error = br_overlay_open(&point, &overlay);
    if (!error)
        return 0;
    errno = error;
    nbdkit_error("%s: opening the point: %m [errno %d]", folder, error);
    return -1;
}

static int plugin_after_fork(void) {
    if (outlive) /* nbdkit in the foreground wants to end with its parent, even when it is not told so */
        prctl(PR_SET_PDEATHSIG, 0);
    if (folder && open_point() != 0)
        return -1;
    if (br_pivoted_wanted()) {
        struct br_overlay *taken = overlay;
        overlay = NULL;
        if (br_pivoted_begin(&point, taken) != 0)
            return -1;
    }
    int error = br_hangup_start();
    if (!error)
        error = end_in_time();
    if (!error)
        return 0;
    errno = error;
    nbdkit_error("listening for signals: %m");
    return -1;
}

static void close_overlay(void) {
    br_hangup_stop();
    br_pivoted_end();
    if (overlay)
        br_overlay_close(overlay);
    overlay = NULL;
}

static void plugin_unload(void) {
    close_overlay();
    for (size_t i = 0; i < removed_count; i++) {
        remove(removed[i]); /* a folder, too, when it is empty */
        free(removed[i]);
    }
    free(folder);
}

static void *plugin_open(int readonly) {
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle) {
    (void)handle;
    return (int64_t)point.size;
}

static int yes(void *handle) {
    (void)handle;
    return 1;
}

static int no(void *handle) {
    (void)handle;
    return 0;
}

/* What clients may do to a pivot; of a mere point nothing. */
static int changes(void *handle) {
    (void)handle;
    return br_pivoted() != NULL;
}

static int plugin_can_fua(void *handle) {
    return changes(handle) ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE;
}

static int plugin_can_cache(void *handle) {
    (void)handle;
    return NBDKIT_CACHE_EMULATE;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum) {
    (void)handle;
    *minimum = 1;
    *preferred = point.block_size && !br_pivoted() ? point.block_size : 4096;
    *maximum = UINT32_MAX;
    return 0;
}

static const char *plugin_export_description(void *handle) {
    (void)handle;
    if (!folder)
        return "blockreplica: an image that was a point";
    return nbdkit_printf_intern("blockreplica: %s, epoch %" PRIu64, folder, point.epoch);
}

static int finish(int error) {
    if (!error)
        return 0;
    nbdkit_set_error(error);
    return -1;
}

static int plugin_pread(void *handle, void *data, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    (void)flags;
    if (br_pivoted())
        return finish(br_pivot_pread(br_pivoted(), data, count, offset));
    return finish(br_overlay_pread(overlay, data, count, offset));
}

/* `error` of a change, or of the flush that makes it durable. */
static int finish_change(int error, uint32_t flags) {
    if (!error && flags & NBDKIT_FLAG_FUA)
        error = br_pivot_flush(br_pivoted());
    return finish(error);
}

static int plugin_pwrite(void *handle, const void *data, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    return finish_change(br_pivot_pwrite(br_pivoted(), data, count, offset), flags);
}

static int plugin_flush(void *handle, uint32_t flags) {
    (void)handle;
    (void)flags;
    return finish(br_pivot_flush(br_pivoted()));
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    return finish_change(br_pivot_discard(br_pivoted(), offset, count), flags);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    bool keep = !(flags & NBDKIT_FLAG_MAY_TRIM);
    return finish_change(br_pivot_zero(br_pivoted(), offset, count, keep), flags);
}

static int extent_at(uint64_t offset, uint64_t length, bool *hole, uint64_t *run) {
    if (br_pivoted())
        return br_pivot_extent(br_pivoted(), offset, length, hole, run);
    return br_overlay_extent(overlay, offset, length, hole, run);
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents) {
    (void)handle;
    bool hole;
    for (uint64_t at = offset, end = offset + count, run; at < end; at += run) {
        int error = extent_at(at, end - at, &hole, &run);
        if (error)
            return at == offset ? finish(error) : 0;
        uint32_t type = hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
        if (nbdkit_add_extent(extents, at, run, type) < 0)
            return -1;
        if (flags & NBDKIT_FLAG_REQ_ONE || at - offset > UINT32_C(256) << 20)
            return 0;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "blockreplica-point",
    .longname = "blockreplica recovery point",
    .description = "A recovery point of a replica, proved by its checksums as it is read",
    .unload = plugin_unload,
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = "folder=PATH        of the replica's disk (required)\n"
                   "epoch=N            of the point (required)\n"
                   "newest=N           epoch of the newest point\n"
                   "size=BYTES         of the disk at the point\n"
                   "block-size=BYTES   of a checksum (required)\n"
                   "table-key=N        of the checksum table\n"
                   "era=N              of the point: which checksum table\n"
                   "seed=-FD           the checksums' seed, read from a descriptor\n"
                   "ttl=SECONDS        end then\n"
                   "pivot=PATH         write there, and copy the point there; with\n"
                   "pivot-relationship=HEX, pivot-point=ID, pivot-disk=N: which it is,\n"
                   "pivot-rate=BYTES   a second, of copying\n"
                   "pivot-lease=FD     close this when the point is needed no more\n"
                   "serves=WORD        tells a list of processes what is served\n"
                   "outlive=BOOL       do not end with the parent process\n"
                   "remove=PATH        remove this file at the end",
    .after_fork = plugin_after_fork,
    .cleanup = close_overlay,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .can_write = changes,
    .can_flush = changes,
    .can_trim = changes,
    .can_zero = changes,
    .can_fast_zero = no,
    .can_fua = plugin_can_fua,
    .can_multi_conn = yes,
    .can_cache = plugin_can_cache,
    .can_extents = yes,
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
