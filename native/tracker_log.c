/* The file of an epoch's log: made or taken from the spares, given up, let go. */
#include "io.h"
#include "tracker_parts.h"

#include <errno.h>

enum { least_log_limit = 1 << 20, reserve_share = 64, most_reserve = 1 << 30, least_share = 16 };

/* What logs may take of `free` bytes: what the image may still need by growing is not theirs, nor is a
 * reserve. An image that may outgrow its disk would never have a log: a small part stays, for as long as
 * nobody needs it, since a full disk takes the log from us before the image feels it. cursors.py says the
 * same of spares. */
static uint64_t room_for(const struct br_tracker *tracker, struct br_file *log, uint64_t free,
                         uint64_t total) {
    struct br_file *grows = tracker->container.file ? tracker->container.file : tracker->image;
    uint64_t wanted = br_may_grow(grows->ops->fileno(grows), tracker->size, log->ops->fileno(log));
    uint64_t reserve = total / reserve_share < most_reserve ? total / reserve_share : most_reserve;
    uint64_t above = free > reserve ? free - reserve : 0, least = above / least_share;
    uint64_t left = above > wanted ? above - wanted : 0;
    return left > least ? left : least;
}

/* What an epoch's log may have: the limit, and no more than there is room, together with what the file has
 * already. */
static uint64_t log_limit(const struct br_tracker *tracker, struct br_file *file) {
    uint64_t half = tracker->size / 2, free, total, have = 0;
    uint64_t limit = tracker->log_limit       ? tracker->log_limit
                     : half < least_log_limit ? least_log_limit
                                              : half;
    struct br_folder *folder = tracker->folder;
    if (!folder->ops->room || folder->ops->room(folder, &free, &total) != 0)
        return limit;
    file->ops->size(file, &have);
    uint64_t most = have + room_for(tracker, file, free, total);
    return limit < most ? limit : most ? most : 1;
}

int br_log_open(struct br_tracker *tracker, struct br_epoch *epoch, const uint8_t previous[16],
                const char *name) {
    struct br_folder *folder = tracker->folder;
    struct br_file *file = NULL;
    epoch->recycled = br_spare_take(tracker, name);
    int error = folder->ops->open(folder, name, BR_OPEN_WRITE | BR_OPEN_CREATE, &file);
    if (!error && !epoch->recycled)
        error = file->ops->truncate(file, 0);
    if (!error)
        error = br_log_create(&epoch->log, file, epoch->id, previous, tracker->tracking.state.tracking_id,
                              log_limit(tracker, file));
    else
        br_file_close(&file);
    if (error) {
        br_file_close(&epoch->log.file);
        folder->ops->unlink(folder, name);
    }
    return error;
}

void br_log_drop(struct br_tracker *tracker, struct br_epoch *epoch, int error) {
    pthread_mutex_lock(&tracker->mutex);
    bool first = !epoch->log_error;
    if (first)
        epoch->log_error = error;
    int lost = first ? br_record_no_log(&epoch->record) : 0;
    pthread_mutex_unlock(&tracker->mutex);
    if (lost) /* the file calls a log whole that is not */
        br_report_lost(tracker, epoch);
    if (first && epoch->log.file) /* the image may need the room */
        epoch->log.file->ops->truncate(epoch->log.file, 0);
}

struct oldest {
    const char *image;
    uint64_t after, epoch; /* the smallest epoch above `after` that has a log */
};

static void look_for_oldest(void *context, const char *name) {
    struct oldest *oldest = context;
    uint64_t epoch = br_epoch_in(name, oldest->image, ".hrl");
    if (epoch > oldest->after && (!oldest->epoch || epoch < oldest->epoch))
        oldest->epoch = epoch;
}

static bool exists(struct br_folder *folder, const char *name) {
    struct br_file *file;
    if (folder->ops->open(folder, name, 0, &file) != 0)
        return false;
    br_file_close(&file);
    return true;
}

bool br_drop_sealed_log(struct br_tracker *tracker) {
    char log[BR_NAME], dirty[BR_NAME];
    struct br_folder *folder = tracker->folder;
    for (struct oldest oldest = {.image = tracker->name};; oldest.after = oldest.epoch) {
        oldest.epoch = 0;
        if (folder->ops->list(folder, look_for_oldest, &oldest) != 0 || !oldest.epoch)
            return false;
        br_epoch_name(tracker, oldest.epoch, ".hrl", log);
        br_epoch_name(tracker, oldest.epoch, ".dirty", dirty);
        if (exists(folder, dirty))
            return folder->ops->unlink(folder, log) == 0;
    }
}

void br_log_unused(struct br_tracker *tracker, struct br_epoch *epoch, const char *name) {
    br_file_close(&epoch->log.file);
    if (epoch->recycled && !epoch->log_error)
        br_spare_return(tracker, name, epoch->number);
    else
        tracker->folder->ops->unlink(tracker->folder, name);
}
