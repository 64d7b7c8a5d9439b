/* Spare logs: vm.img.spare.<number>, logs that nobody needs any more, kept to be written over.
 *
 * A file that grows costs allocation and new pages with every write; one whose blocks and page-cache pages
 * exist costs neither. So a log that all targets have passed gets a spare's name (tracking/cursors.py) and
 * the next epoch takes it as it is, without truncating it: every block of version 2.1 names the log that it
 * belongs to, so what stands behind the end is never taken for a part of it.
 *
 * Only what has the header of such a log is taken or removed: an image may have any name.
 */
#include "tracker_parts.h"

#include <stdio.h>
#include <string.h>

struct smallest {
    char image[BR_NAME];
    uint64_t after, number;
};

static void look_for_smallest(void *context, const char *name) {
    struct smallest *smallest = context;
    uint64_t number = br_epoch_in(name, smallest->image, "");
    if (number > smallest->after && (!smallest->number || number < smallest->number))
        smallest->number = number;
}

static void spare_name(const struct br_tracker *tracker, uint64_t number, char name[BR_NAME]) {
    snprintf(name, BR_NAME, "%s.spare.%06llu", tracker->name, (unsigned long long)number);
}

static bool is_log(struct br_folder *folder, const char *name) {
    uint8_t bytes[HRL_HEADER_SIZE];
    struct hrl_header header;
    struct hrl_fault fault;
    struct br_file *file;
    if (folder->ops->open(folder, name, 0, &file) != 0)
        return false;
    bool log = file->ops->pread(file, bytes, sizeof bytes, 0) == 0 &&
               hrl_decode_header(bytes, &header, &fault) && header.version == HRL_VERSION_2_1 &&
               header.file_type == HRL_FILE_LOG && header.metadata_size == HRL_METADATA_SIZE;
    br_file_close(&file);
    return log;
}

/* The next spare's number above `after`, 0: there is none; and its name. */
static uint64_t next_spare(struct br_tracker *tracker, uint64_t after, char name[BR_NAME]) {
    struct smallest smallest = {.after = after};
    br_name(tracker, ".spare", smallest.image);
    do {
        if (smallest.number)
            smallest.after = smallest.number;
        smallest.number = 0;
        if (tracker->folder->ops->list(tracker->folder, look_for_smallest, &smallest) != 0 ||
            !smallest.number)
            return 0;
        spare_name(tracker, smallest.number, name);
    } while (!is_log(tracker->folder, name));
    return smallest.number;
}

bool br_spare_take(struct br_tracker *tracker, const char *as) {
    char name[BR_NAME];
    struct br_folder *folder = tracker->folder;
    for (uint64_t number = 0; (number = next_spare(tracker, number, name));)
        if (folder->ops->rename(folder, name, as) == 0)
            return true;
    return false;
}

bool br_spare_drop(struct br_tracker *tracker) {
    char name[BR_NAME];
    return next_spare(tracker, 0, name) && tracker->folder->ops->unlink(tracker->folder, name) == 0;
}

void br_spare_return(struct br_tracker *tracker, const char *log, uint64_t epoch) {
    char name[BR_NAME];
    spare_name(tracker, epoch, name);
    if (!is_log(tracker->folder, log) || tracker->folder->ops->rename(tracker->folder, log, name) != 0)
        tracker->folder->ops->unlink(tracker->folder, log);
}
