/* Cuts: how one epoch ends and the next begins while writes go on.
 *
 * A write enters an epoch under the mutex and leaves it when it is done; which epoch, the word says. So once
 * the word is set, no write enters the old epoch any more, those in it finish one by one, and when the last
 * one has left, log and bitmap of the epoch are complete. They are made durable first; then the state says
 * that the epoch ended; then the slot is cleared. Whatever dies in between, the slots still hold all of the
 * epoch that the state says is being written, and perhaps more:
 *
 *     died before the state was saved    epoch N goes on; the open that follows ends it with both slots
 *     died before the slot was cleared   epoch N + 1 has N's bits too
 */
#include "tracker_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The slot's open record now speaks of this epoch. */
static int begin_record(struct br_tracker *tracker, struct br_epoch *epoch) {
    pthread_mutex_lock(&tracker->mutex);
    struct br_log *log = br_logged(epoch) ? &epoch->log : NULL;
    int error = br_record_begin(&epoch->record, epoch->number, tracker->session, epoch->id,
                                log ? log->position : 0, log ? log->last_block : 0);
    epoch->log.record = &epoch->record;
    br_tail_begin(&epoch->log.tail, &tracker->tracking, epoch->record.slot);
    pthread_mutex_unlock(&tracker->mutex);
    if (error)
        br_report_lost(tracker, epoch);
    return 0;
}

int br_epoch_begin(struct br_tracker *tracker, uint32_t slot, uint64_t number, const uint8_t previous[16],
                   const char *suffix) {
    char name[BR_NAME];
    struct br_epoch *epoch = &tracker->epochs[slot];
    memset(epoch, 0, sizeof *epoch);
    epoch->number = number;
    int error = br_random_uuid(epoch->id);
    if (error)
        return error;
    epoch->record.tracking = &tracker->tracking;
    epoch->record.slot = slot;
    epoch->unlogged = !suffix;
    epoch->log_error = ECANCELED;
    if (suffix) {
        br_name(tracker, suffix, name);
        epoch->log_error = br_log_open(tracker, epoch, previous, name);
    }
    return begin_record(tracker, epoch);
}

void br_epoch_look(struct br_tracker *tracker) {
    if (!tracker->prepared || *tracker->word == 0)
        return;
    tracker->epochs[tracker->current].ended_ns = br_wall_clock();
    tracker->current = !tracker->current;
    tracker->prepared = false;
    tracker->ending = true;
}

int br_save_state(struct br_tracker *tracker) {
    struct br_state *state = &tracker->tracking.state;
    state->failed = (tracker->image_failed && !tracker->gone) || tracker->doubted;
    state->anywhere = state->failed && (tracker->doubted || tracker->unnamed);
    state->suspect = tracker->image_failed || tracker->all_suspect || tracker->epochs[0].bits_lost ||
                     tracker->epochs[1].bits_lost;
    return br_tracking_save(&tracker->tracking);
}

/* The log becomes vm.img.<epoch>.hrl, or goes. */
static void seal(struct br_tracker *tracker, struct br_epoch *epoch, bool trusted) {
    char open[BR_NAME], sealed[BR_NAME];
    struct br_folder *folder = tracker->folder;
    br_name(tracker, ".hrl", open);
    br_epoch_name(tracker, epoch->number, ".hrl", sealed);
    int error = trusted ? epoch->log_error : ECANCELED;
    if (!error)
        error = br_log_seal(&epoch->log);
    br_file_close(&epoch->log.file);
    if (!error)
        error = folder->ops->rename(folder, open, sealed);
    if (error)
        folder->ops->unlink(folder, open);
    epoch->log_error = error;
    epoch->sealed = true;
}

/* The log that was prepared takes the name of the open one. */
static void promote(struct br_tracker *tracker, struct br_epoch *next) {
    char prepared[BR_NAME], open[BR_NAME];
    br_name(tracker, ".hrl.next", prepared);
    br_name(tracker, ".hrl", open);
    int error = next->log.file ? tracker->folder->ops->rename(tracker->folder, prepared, open) : 0;
    if (error)
        br_log_drop(tracker, next, error);
}

static int save_bitmap(struct br_tracker *tracker, uint32_t slot) {
    char name[BR_NAME];
    struct br_epoch *epoch = &tracker->epochs[slot];
    br_epoch_name(tracker, epoch->number, ".dirty", name);
    if (tracker->image_failed)
        return tracker->folder->ops->unlink(tracker->folder, name);
    int error = epoch->saved ? 0
                             : br_dirty_save(tracker->folder, name, &tracker->tracking, slot, epoch->id,
                                             BR_ENDED_BY_CUT);
    epoch->saved = !error;
    return error;
}

/* The bitmap first, because the log may need all the room there is. If then there is no log, the bitmap needs
 * room more than logs that have theirs. */
static int save_artifacts(struct br_tracker *tracker, uint32_t slot, bool last) {
    struct br_epoch *epoch = &tracker->epochs[slot];
    int error = save_bitmap(tracker, slot);
    if (!epoch->sealed) {
        seal(tracker, epoch, !tracker->image_failed);
        if (!last)
            promote(tracker, &tracker->epochs[!slot]);
        if (error && epoch->log_error)
            error = save_bitmap(tracker, slot);
    }
    while ((error == ENOSPC || error == EDQUOT) &&
           (br_spare_drop(tracker) || (epoch->log_error && br_drop_sealed_log(tracker))))
        error = save_bitmap(tracker, slot);
    return tracker->folder->ops->sync(tracker->folder);
}

static int advance_state(struct br_tracker *tracker, const struct br_epoch *epoch, uint32_t slot) {
    pthread_mutex_lock(&tracker->saving);
    struct br_state before = tracker->tracking.state, *state = &tracker->tracking.state;
    state->epoch = epoch->number + 1;
    state->slot = !slot;
    state->cut_ns = epoch->ended_ns;
    state->covered = state->size;
    memcpy(state->chain, epoch->id, 16);
    int error = br_save_state(tracker);
    if (error)
        *state = before;
    pthread_mutex_unlock(&tracker->saving);
    return error;
}

int br_epoch_end(struct br_tracker *tracker, uint32_t slot, bool last, struct br_failure *failure) {
    char name[BR_NAME];
    struct br_epoch *epoch = &tracker->epochs[slot];
    br_name(tracker, ".tracking", name);
    int error = save_artifacts(tracker, slot, last);
    if (error)
        return br_fail(failure, error, name, "making the log and the dirty bitmap durable");
    error = advance_state(tracker, epoch, slot);
    if (error)
        return br_fail(failure, error, name, "recording the cut");
    error = br_tracking_clear(&tracker->tracking, slot);
    if (error) /* too much dirty in an epoch to come is harmless, but that the file can't be written is not */
        tracker->critical = true;
    epoch->bits_lost = false;
    pthread_mutex_lock(&tracker->mutex);
    tracker->ending = false;
    pthread_mutex_unlock(&tracker->mutex);
    return 0;
}

/* Once nothing is prepared. */
static void forget_word(struct br_tracker *tracker) {
    if (tracker->word_map)
        munmap(tracker->word_map, sizeof(uint64_t));
    tracker->word_map = NULL;
    tracker->word = NULL;
}

static void abandon(struct br_tracker *tracker) {
    char name[BR_NAME];
    forget_word(tracker);
    br_name(tracker, ".hrl.next", name);
    br_log_unused(tracker, br_other(tracker), name);
}

int br_settle_cut(struct br_tracker *tracker, bool *ended, struct br_failure *failure) {
    pthread_mutex_lock(&tracker->mutex);
    br_epoch_look(tracker);
    bool prepared = tracker->prepared;
    *ended = tracker->ending;
    tracker->prepared = false; /* from here on no write looks at the word any more */
    while (*ended && br_other(tracker)->in_flight)
        pthread_cond_wait(&tracker->drained, &tracker->mutex);
    pthread_mutex_unlock(&tracker->mutex);
    if (prepared)
        abandon(tracker);
    if (!*ended)
        return 0;
    forget_word(tracker);
    return br_epoch_end(tracker, !tracker->current, false, failure);
}

/* A page that finds no room kills whoever touches it first (a hole in tmpfs, even by reading): touch it now.
 */
static int touch(void *map) {
#ifndef MADV_POPULATE_READ
    enum { MADV_POPULATE_READ = 22 };
#endif
    if (madvise(map, sizeof(uint64_t), MADV_POPULATE_READ) == 0 || errno == EINVAL) /* before Linux 5.14 */
        return 0;
    return errno == EFAULT || errno == ENOMEM ? ENOSPC : errno;
}

/* Map a word that was not set yet. */
static int map_word(const char *path, void **map) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    off_t size = lseek(fd, 0, SEEK_END);
    *map = size < (off_t)sizeof(uint64_t) ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    int error = size < (off_t)sizeof(uint64_t) ? ENODATA : errno;
    close(fd);
    if (*map == MAP_FAILED)
        return error;
    error = touch(*map);
    if (!error && *(const _Atomic uint64_t *)*map == 0)
        return 0;
    munmap(*map, sizeof(uint64_t));
    return error ? error : EINVAL;
}

/* Under cutting, with nothing prepared or ending. */
static int prepare(struct br_tracker *tracker, void *word, bool logged) {
    struct br_epoch *now = &tracker->epochs[tracker->current];
    const char *suffix = logged ? ".hrl.next" : NULL;
    int error = br_epoch_begin(tracker, !tracker->current, now->number + 1, now->id, suffix);
    if (error)
        return error;
    pthread_mutex_lock(&tracker->mutex);
    tracker->own_word = 0;
    tracker->word_map = word;
    tracker->word = word ? word : &tracker->own_word;
    tracker->prepared = true;
    pthread_mutex_unlock(&tracker->mutex);
    return 0;
}

int br_tracker_prepare(struct br_tracker *tracker, const char *word, struct br_failure *failure) {
    bool ended;
    void *map = NULL;
    pthread_mutex_lock(&tracker->cutting);
    int error = br_settle_cut(tracker, &ended, failure);
    if (!error && word) {
        error = map_word(word, &map);
        if (error)
            br_fail(failure, error, word, "mapping the epoch word");
    }
    if (!error) {
        error = prepare(tracker, map, true);
        if (error)
            br_fail(failure, error, tracker->name, "preparing a cut");
        if (error && map)
            munmap(map, sizeof(uint64_t));
    }
    pthread_mutex_unlock(&tracker->cutting);
    return error;
}

void br_last_cut(struct br_tracker *tracker, struct br_cut *cut) {
    const struct br_state *state = &tracker->tracking.state;
    *cut = (struct br_cut){.epoch = state->epoch - 1, .size = state->size, .time_ns = state->cut_ns};
    memcpy(cut->tracking_id, state->tracking_id, 16);
    memcpy(cut->chain, state->chain, 16);
}

int br_tracker_finish(struct br_tracker *tracker, struct br_cut *cut, struct br_failure *failure) {
    bool ended;
    pthread_mutex_lock(&tracker->cutting);
    int error = br_settle_cut(tracker, &ended, failure);
    if (!error && !ended)
        error = br_fail(failure, EINVAL, tracker->name, "finishing a cut that was not made");
    if (!error)
        br_last_cut(tracker, cut);
    pthread_mutex_unlock(&tracker->cutting);
    return error;
}

int br_cut_now(struct br_tracker *tracker, bool logged, struct br_failure *failure) {
    bool ended;
    int error = br_settle_cut(tracker, &ended, failure);
    if (error)
        return error;
    error = prepare(tracker, NULL, logged);
    if (error)
        return br_fail(failure, error, tracker->name, "preparing a cut");
    tracker->own_word = 1;
    return br_settle_cut(tracker, &ended, failure);
}

int br_tracker_cut(struct br_tracker *tracker, struct br_cut *cut, struct br_failure *failure) {
    pthread_mutex_lock(&tracker->cutting);
    int error = br_cut_now(tracker, true, failure);
    if (!error)
        br_last_cut(tracker, cut);
    pthread_mutex_unlock(&tracker->cutting);
    return error;
}

int br_tracker_log(struct br_tracker *tracker, enum br_log_mode mode, struct br_failure *failure) {
    char name[BR_NAME];
    pthread_mutex_lock(&tracker->cutting);
    pthread_mutex_lock(&tracker->saving);
    struct br_state *state = &tracker->tracking.state;
    bool before = state->transit, wanted = mode == BR_LOG_AS_BEFORE ? before : mode == BR_LOG_TRANSIT;
    state->transit = wanted;
    int error = wanted == before ? 0 : br_save_state(tracker);
    if (error)
        state->transit = before;
    pthread_mutex_unlock(&tracker->saving);
    if (!error && wanted) {
        pthread_mutex_lock(&tracker->mutex);
        struct br_epoch *epoch = &tracker->epochs[tracker->current];
        epoch->unlogged = true;
        pthread_mutex_unlock(&tracker->mutex);
        br_log_drop(tracker, epoch, ECANCELED);
    }
    pthread_mutex_unlock(&tracker->cutting);
    if (!error)
        return 0;
    br_name(tracker, ".tracking", name);
    return br_fail(failure, error, name, "recording the log mode");
}

int br_tracker_ctime(struct br_tracker *tracker, enum br_ctime ctime, struct br_failure *failure) {
    char name[BR_NAME];
    pthread_mutex_lock(&tracker->saving);
    struct br_state *state = &tracker->tracking.state;
    bool before = state->ignore_ctime;
    state->ignore_ctime = ctime == BR_CTIME_AS_BEFORE ? before : ctime == BR_CTIME_IGNORE;
    int error = state->ignore_ctime == before ? 0 : br_save_state(tracker);
    if (error)
        state->ignore_ctime = before;
    pthread_mutex_unlock(&tracker->saving);
    br_name(tracker, ".tracking", name);
    return error ? br_fail(failure, error, name, "recording whether ctime is ignored") : 0;
}
