/* The mark that all of an image is suspect, in the first place that takes it: the tracking file's state; a
 * file beside the image, among the tracker's other ones; a file in a folder of the host's, which is on
 * another disk, or so one hopes. Whoever opens the image looks at all three, and needs to be told of the same
 * folder: there the mark is named after the tracking UUID. It is removed once the state says what it said.
 */
#include "tracker_parts.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "bytes.h"

static void name_in(const struct br_tracker *tracker, bool beside, char name[BR_NAME]) {
    if (beside) {
        br_name(tracker, ".whole", name);
        return;
    }
    for (int i = 0; i < 16; i++)
        snprintf(name + 2 * (size_t)i, 3, "%02x", tracker->tracking.state.tracking_id[i]);
    snprintf(name + 32, 7, ".whole");
}

static int make(struct br_folder *folder, const char *name) {
    struct br_file *file = NULL;
    int error = folder->ops->open(folder, name, BR_OPEN_WRITE | BR_OPEN_CREATE, &file);
    if (!error)
        error = file->ops->sync(file);
    br_file_close(&file);
    return error ? error : folder->ops->sync(folder);
}

/* The folder for marks, which is opened only where it is needed: it may be made while the tracker lives. */
static struct br_folder *open_marks(const struct br_tracker *tracker) {
    struct br_folder *folder;
    return tracker->marks && br_folder_posix(tracker->marks, &folder) == 0 ? folder : NULL;
}

static int make_elsewhere(struct br_tracker *tracker) {
    char name[BR_NAME];
    if (tracker->marks)
        mkdir(tracker->marks, 0700);
    struct br_folder *folder = open_marks(tracker);
    if (!folder)
        return -1;
    name_in(tracker, false, name);
    int error = make(folder, name);
    br_folder_close(&folder);
    return error;
}

/* Under saving. */
static void make_known(struct br_tracker *tracker) {
    char name[BR_NAME];
    name_in(tracker, true, name);
    if (br_save_state(tracker) != 0 && make(tracker->folder, name) != 0 && make_elsewhere(tracker) != 0)
        tracker->critical = true;
}

void br_mark_whole(struct br_tracker *tracker) {
    pthread_mutex_lock(&tracker->saving);
    tracker->all_suspect = true;
    tracker->unnamed = true;
    make_known(tracker);
    pthread_mutex_unlock(&tracker->saving);
}

/* A file of a FUSE file system whose process has ended. */
static bool is_gone(const struct br_tracker *tracker, int error) {
    return tracker->container.file && (error == ENOTCONN || error == ECONNABORTED);
}

void br_mark_failed(struct br_tracker *tracker, int error) {
    pthread_mutex_lock(&tracker->saving);
    tracker->gone = is_gone(tracker, error);
    tracker->image_failed = true;
    make_known(tracker);
    pthread_mutex_unlock(&tracker->saving);
}

static bool is_there(struct br_folder *folder, const char *name) {
    struct br_file *file;
    if (folder->ops->open(folder, name, 0, &file) != 0)
        return false;
    br_file_close(&file);
    return true;
}

bool br_marked_whole(struct br_tracker *tracker) {
    char name[BR_NAME];
    name_in(tracker, true, name);
    if (is_there(tracker->folder, name))
        return true;
    struct br_folder *folder = open_marks(tracker);
    name_in(tracker, false, name);
    bool there = folder && is_there(folder, name);
    br_folder_close(&folder);
    return there;
}

static int take_away(struct br_folder *folder, const char *name) {
    int error = folder->ops->unlink(folder, name);
    return error ? error : folder->ops->sync(folder);
}

int br_unmark_whole(struct br_tracker *tracker) {
    char name[BR_NAME];
    name_in(tracker, true, name);
    int error = take_away(tracker->folder, name);
    struct br_folder *folder = open_marks(tracker);
    name_in(tracker, false, name);
    if (folder && !error)
        error = take_away(folder, name);
    br_folder_close(&folder);
    return error;
}
