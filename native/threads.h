/* Many pieces of work in a few threads, inside one call. */
#ifndef BR_THREADS_H
#define BR_THREADS_H

#include <stddef.h>

/* Does piece `index`; `scratch` is this thread's own memory, page-aligned. Returns 0 or an errno. */
typedef int br_work_fn(void *context, void *scratch, size_t index);

/* Runs work for every index below `count`, each once, in at most `threads` threads (0: one for each CPU, see
 * br_cpu_count), the calling one among them. Indexes are taken in ascending order. After an error no further
 * index is taken. Returns 0, or the errno of one piece that failed, or ENOMEM. */
int br_parallel(unsigned threads, size_t count, size_t scratch_size, br_work_fn *work, void *context);

#endif
