/* Threads live for one call: starting one costs some 20 microseconds, a call takes milliseconds, and nothing
 * is left to be stopped at exit or after a fork. They block all signals: those belong to the interpreter's
 * threads. */
#include "threads.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "cpu.h"

#define MOST_THREADS 64

struct crew {
    size_t next, count, scratch_size;
    br_work_fn *work;
    void *context;
    int error;
};

static void fail(struct crew *crew, int error) {
    int none = 0;
    __atomic_compare_exchange_n(&crew->error, &none, error, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void *run(void *argument) {
    struct crew *crew = argument;
    void *scratch = NULL;
    if (crew->scratch_size && posix_memalign(&scratch, 4096, crew->scratch_size) != 0) {
        fail(crew, ENOMEM);
        return NULL;
    }
    while (__atomic_load_n(&crew->error, __ATOMIC_RELAXED) == 0) {
        size_t index = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED);
        if (index >= crew->count)
            break;
        int error = crew->work(crew->context, scratch, index);
        if (error)
            fail(crew, error);
    }
    free(scratch);
    return NULL;
}

int br_parallel(unsigned threads, size_t count, size_t scratch_size, br_work_fn *work, void *context) {
    struct crew crew = {0, count, scratch_size, work, context, 0};
    pthread_t helpers[MOST_THREADS];
    size_t started = 0, wanted = threads ? threads : br_cpu_count();
    if (wanted > count)
        wanted = count;
    if (wanted > MOST_THREADS)
        wanted = MOST_THREADS;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started + 1 < wanted && pthread_create(&helpers[started], NULL, run, &crew) == 0)
        started++; /* fewer threads than wanted do the same work */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (count)
        run(&crew);
    while (started)
        pthread_join(helpers[--started], NULL);
    return crew.error;
}
