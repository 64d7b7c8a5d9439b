/* nbdkit, told to end, waits until its clients hang up; one that is idle, as a machine's disk may be for
 * hours, never does, and then whoever ends it loses patience and kills it, and the log is not sealed.
 *
 * So we listen for the same signals, then end the reading side of every connection: requests under way are
 * answered, no further one is read. nbdkit does not tell which sockets are its clients', so they are looked
 * for among our descriptors; again and again, because one may have been accepted just now. Connections of the
 * control socket end as well, as they would a moment later.
 */
#include "hangup.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { interval_ms = 100 };

static const int signals[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};
enum { signal_count = sizeof signals / sizeof *signals };

static struct sigaction before[signal_count];
static int wake = -1;
static pthread_t thread;
static _Atomic bool stopping;

static void ring(void) {
    const uint64_t one = 1;
    ssize_t written = write(wake, &one, sizeof one);
    (void)written; /* it can only be full, which rings too */
}

static void on_signal(int number, siginfo_t *info, void *context) {
    int error = errno;
    ring();
    for (int i = 0; i < signal_count; i++) {
        if (signals[i] != number)
            continue;
        if (before[i].sa_flags & SA_SIGINFO)
            before[i].sa_sigaction(number, info, context);
        else if (before[i].sa_handler != SIG_DFL && before[i].sa_handler != SIG_IGN)
            before[i].sa_handler(number);
    }
    errno = error;
}

static void hang_up(void) {
    struct sockaddr_storage peer;
    const struct dirent *entry;
    DIR *open = opendir("/proc/self/fd");
    while (open && (entry = readdir(open))) {
        int fd = atoi(entry->d_name), listens = 1;
        socklen_t room = sizeof listens, length = sizeof peer;
        if (fd > STDERR_FILENO && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &room) == 0 &&
            !listens && getpeername(fd, (struct sockaddr *)&peer, &length) == 0)
            shutdown(fd, SHUT_RD);
    }
    if (open)
        closedir(open);
}

static void *hangup_thread(void *argument) {
    struct pollfd rung = {.fd = wake, .events = POLLIN};
    (void)argument;
    while (poll(&rung, 1, -1) < 0)
        ;
    while (!stopping) {
        hang_up();
        poll(NULL, 0, interval_ms);
    }
    return NULL;
}

int br_hangup_start(void) {
    sigset_t all, old;
    stopping = false;
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0)
        return errno;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&thread, NULL, hangup_thread, NULL);
    if (error) {
        close(wake);
        wake = -1;
    }
    for (int i = 0; i < signal_count && !error; i++) {
        sigaction(signals[i], NULL, &before[i]);
        struct sigaction ours = {.sa_sigaction = on_signal,
                                 .sa_mask = before[i].sa_mask,
                                 .sa_flags = (before[i].sa_flags & ~(int)SA_RESETHAND) | SA_SIGINFO};
        if ((before[i].sa_flags & SA_SIGINFO) ||
            (before[i].sa_handler != SIG_DFL && before[i].sa_handler != SIG_IGN))
            sigaction(signals[i], &ours, NULL);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return error;
}

void br_hangup_stop(void) {
    if (wake < 0)
        return;
    for (int i = 0; i < signal_count; i++)
        sigaction(signals[i], &before[i], NULL);
    stopping = true;
    ring();
    pthread_join(thread, NULL);
    close(wake);
    wake = -1;
}
