/* qemu-storage-daemon shows the content of a container as the image, and keeps some of it in memory: so it
 * ends in order, behind the tracker and before the container's identity is recorded. What a daemon had in
 * memory that ended before is lost, as if the power had gone; then nothing can be served any more either, and
 * nbdkit ends too.
 *
 * It is our child because whoever became nbdkit had begun it. It asked the system for a SIGTERM at our death,
 * so nothing outlives us when we are killed.
 */
#include "daemon.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t daemon_pid;
static pthread_t thread;
static _Atomic bool told;
static bool watched;
static int result;

static void *watch(void *argument) {
    siginfo_t info = {0};
    int error = 0;
    (void)argument;
    while (waitid(P_PID, (id_t)daemon_pid, &info, WEXITED | WNOWAIT) < 0 && !error)
        error = errno == EINTR ? 0 : errno;
    bool in_order = !error && told && info.si_code == CLD_EXITED && info.si_status == 0;
    result = in_order ? 0 : error ? error : EIO;
    if (!told)
        kill(getpid(), SIGTERM);
    return NULL;
}

int br_daemon_watch(int pid) {
    sigset_t all, old;
    daemon_pid = pid;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    watched = !error;
    return error;
}

int br_daemon_end(void *unused) {
    (void)unused;
    if (!watched)
        return result;
    told = true;
    kill(daemon_pid, SIGTERM); /* no stranger: it keeps its number until it is waited for below */
    pthread_join(thread, NULL);
    waitpid(daemon_pid, NULL, WNOHANG);
    watched = false;
    return result;
}
