/* When the copier works, and what it does when something fails: it says so, waits, and tries again. A full
 * disk, a store that is out of reach for a while, a damaged block that is repaired: it goes on by itself. */
#include "pivot_parts.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

enum { say_every_ms = 500, default_retry_ms = 2000, default_damage_ms = 30000, rewrite_step = BR_PIVOT_STEP };

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Returns whether to stop, at once or within that time. */
static bool wait(struct br_pivot *pivot, uint64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&pivot->stop_lock);
    while (ms && !pivot->stop)
        if (pthread_cond_clockwait(&pivot->stop_cond, &pivot->stop_lock, CLOCK_MONOTONIC, &until) ==
            ETIMEDOUT)
            break;
    bool stop = pivot->stop;
    pthread_mutex_unlock(&pivot->stop_lock);
    return stop;
}

static void say(struct br_pivot *pivot, enum br_pivot_state state, int error) {
    pivot->said = (int)state;
    pivot->error = error;
    br_pivot_note(pivot); /* if it can't be said, nobody hears that either */
}

/* The caller holds the range. A hole is made again, for it may have been data on the disk. */
static int rewrite_held(struct br_pivot *pivot, uint64_t start, uint64_t end) {
    struct br_file *file = pivot->file;
    int error = 0;
    for (uint64_t run; start < end && !error; start += run) {
        bool hole = false;
        run = end - start;
        if (file->ops->extent && file->ops->extent(file, start, end - start, &hole, &run) != 0)
            hole = false, run = end - start;
        if (hole) {
            error = file->ops->zero(file, start, run);
            continue;
        }
        error = file->ops->pread(file, pivot->buffer, (size_t)run, start);
        if (!error)
            error = file->ops->pwrite(file, pivot->buffer, (size_t)run, start);
    }
    return error;
}

/* What the system lost reads as it was written, from its cache, and is not on the disk: only what is written
 * again is made durable by the next sync. */
int br_pivot_rewrite(struct br_pivot *pivot) {
    int error = 0;
    for (uint64_t at = 0, end; at < pivot->size && !error; at = end) {
        struct br_range range;
        end = br_pivot_least(at + rewrite_step, pivot->size);
        br_range_lock(&pivot->ranges, &range, at, end - at);
        error = rewrite_held(pivot, at, end);
        br_range_unlock(&pivot->ranges, &range);
        if (wait(pivot, 0))
            return EINTR;
    }
    return error ? error : br_pivot_flush_all(pivot, true);
}

/* Keep to the rate: how long the bytes that were copied since `began` should have taken. */
static bool pace(struct br_pivot *pivot, uint64_t began, uint64_t before) {
    uint64_t rate = pivot->options.rate, took = now_ms() - began;
    if (!rate)
        return wait(pivot, 0);
    double due = (double)(pivot->bytes_read - before) * 1000 / (double)rate;
    return wait(pivot, due > (double)took ? (uint64_t)due - took : 0);
}

/* Until something is to be said or waited for; returns whether to stop. */
static bool work(struct br_pivot *pivot) {
    const struct br_pivot_options *options = &pivot->options;
    enum br_pivot_did did = BR_PIVOT_COPIED;
    uint64_t began = now_ms(), before = pivot->bytes_read;
    int error = 0;
    while (!error && did == BR_PIVOT_COPIED && now_ms() - began < say_every_ms) {
        error = pivot->suspect ? br_pivot_rewrite(pivot) : br_pivot_step(pivot, &did);
        if (pace(pivot, began, before))
            return true;
    }
    if (error) {
        say(pivot, pivot->complete ? BR_PIVOT_COMPLETE : BR_PIVOT_WAITING, error);
        return wait(pivot, options->retry_ms ? options->retry_ms : default_retry_ms);
    }
    if (did == BR_PIVOT_DONE) /* then only a sync that failed gives it work */
        return wait(pivot, options->retry_ms ? options->retry_ms : default_retry_ms);
    bool damaged = did == BR_PIVOT_PASSED && pivot->damaged;
    say(pivot, damaged || (pivot->damaged && did == BR_PIVOT_COPIED) ? BR_PIVOT_DAMAGED : BR_PIVOT_COPYING,
        0);
    return damaged && wait(pivot, options->damage_ms ? options->damage_ms : default_damage_ms);
}

static void *run(void *argument) {
    struct br_pivot *pivot = argument;
    while (!work(pivot))
        ;
    return NULL;
}

int br_pivot_start(struct br_pivot *pivot) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* nbdkit's own threads take them */
    int error = pthread_create(&pivot->thread, NULL, run, pivot);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pivot->started = !error;
    return error;
}
