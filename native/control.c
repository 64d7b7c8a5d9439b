/* The control socket: a thread that accepts, a thread for each connection.
 *
 * The socket stands beside the tracker's files, whose path may be longer than a socket address: it is bound
 * under a short name through a descriptor of the folder and then renamed.
 *
 * Whoever cuts holds the right to, from `prepare` to `finish` over several requests, so a lock that belongs
 * to a thread would not do: it is a flag under the mutex. Signals are left to the threads of the program.
 */
#include "control_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { line_limit = 1 << 16, backlog = 1024 };

int br_control_new(struct br_tracker *tracker, uint64_t log_limit, struct br_control **made) {
    struct br_control *control = calloc(1, sizeof *control);
    pthread_condattr_t monotonic;
    if (!control)
        return ENOMEM;
    *control = (struct br_control){.tracker = tracker, .log_limit = log_limit, .folder = -1, .listener = -1};
    pthread_mutex_init(&control->mutex, NULL);
    pthread_mutex_init(&control->stopping, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&control->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *made = control;
    return 0;
}

static bool send_all(int socket, const char *bytes, size_t length) {
    while (length) {
        ssize_t sent = send(socket, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        bytes += sent;
        length -= (size_t)sent;
    }
    return true;
}

/* Answer the lines in the `filled` bytes; returns how many of them are still the beginning of one, -1: hang
 * up. */
static ssize_t answer_lines(struct br_connection *connection, char *buffer, size_t filled) {
    char *begin = buffer, *end = buffer + filled, *newline;
    while ((newline = memchr(begin, '\n', (size_t)(end - begin))) || end - begin == line_limit) {
        struct br_text text = {0};
        char *stop = newline ? newline : end - 1; /* too long a line: no request is, so it is none */
        *stop = 0;
        br_control_answer(connection, begin, &text);
        bool sent = !text.failed && send_all(connection->socket, text.bytes, text.length);
        br_text_free(&text);
        if (!sent || !newline)
            return -1;
        begin = newline + 1;
    }
    memmove(buffer, begin, (size_t)(end - begin));
    return end - begin;
}

static void serve(struct br_connection *connection) {
    char *buffer = malloc(line_limit);
    ssize_t filled = buffer ? 0 : -1;
    while (filled >= 0) {
        ssize_t got = recv(connection->socket, buffer + filled, line_limit - (size_t)filled, 0);
        if (got < 0 && errno == EINTR)
            continue;
        filled = got > 0 ? answer_lines(connection, buffer, (size_t)(filled + got)) : -1;
    }
    free(buffer);
}

static void *connection_thread(void *argument) {
    struct br_connection *connection = argument;
    struct br_control *control = connection->control;
    serve(connection);
    br_control_leave(connection);
    pthread_mutex_lock(&control->mutex);
    close(connection->socket);
    connection->socket = -1;
    pthread_mutex_unlock(&control->mutex);
    return NULL;
}

/* Under mutex, which is let go meanwhile: join the threads of connections that are done, or of all. Joined,
 * because the code that they run may be unloaded afterwards. */
static void join_connections(struct br_control *control, bool all) {
    for (struct br_connection **link = &control->connections; *link;) {
        struct br_connection *one = *link;
        if (!all && one->socket >= 0) {
            link = &one->next;
            continue;
        }
        *link = one->next;
        pthread_mutex_unlock(&control->mutex);
        pthread_join(one->thread, NULL);
        free(one);
        pthread_mutex_lock(&control->mutex);
        link = &control->connections;
    }
}

/* A thread that hears no signals. */
static int start(pthread_t *thread, void *(*body)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static void welcome(struct br_control *control, int socket) {
    struct br_connection *connection = malloc(sizeof *connection);
    if (!connection) {
        close(socket);
        return;
    }
    pthread_mutex_lock(&control->mutex);
    join_connections(control, false);
    *connection = (struct br_connection){.control = control, .next = control->connections, .socket = socket};
    if (control->stopped || start(&connection->thread, connection_thread, connection) != 0) {
        close(socket);
        free(connection);
    } else {
        control->connections = connection;
    }
    pthread_mutex_unlock(&control->mutex);
}

static bool stopped(struct br_control *control) {
    pthread_mutex_lock(&control->mutex);
    bool stopped = control->stopped;
    pthread_mutex_unlock(&control->mutex);
    return stopped;
}

static void *accept_thread(void *argument) {
    const struct timespec pause = {.tv_nsec = 50000000};
    struct br_control *control = argument;
    while (!stopped(control)) {
        int socket = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC);
        if (socket >= 0)
            welcome(control, socket);
        else if (errno != EINTR && errno != ECONNABORTED)
            nanosleep(&pause, NULL); /* out of descriptors: somebody will give one back */
    }
    return NULL;
}

/* A listening socket that stands at `name` in the folder. */
static int bind_socket(struct br_control *control) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char temporary[64];
    static _Atomic unsigned count;
    snprintf(temporary, sizeof temporary, ".br-%d-%u", (int)getpid(), count++);
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", control->folder, temporary);
    control->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (control->listener < 0 ||
        bind(control->listener, (const struct sockaddr *)&address, sizeof address) < 0)
        return errno;
    if (listen(control->listener, backlog) == 0 &&
        renameat(control->folder, temporary, control->folder, control->name) == 0)
        return 0;
    int error = errno;
    unlinkat(control->folder, temporary, 0);
    return error;
}

static void close_sockets(struct br_control *control) {
    if (control->listener >= 0)
        close(control->listener);
    if (control->folder >= 0)
        close(control->folder);
    control->listener = control->folder = -1;
}

int br_control_listen(struct br_control *control, const char *folder, const char *name,
                      struct br_failure *failure) {
    int length = snprintf(control->name, sizeof control->name, "%s.control", name);
    if (length < 0 || (size_t)length >= sizeof control->name)
        return br_control_fail(failure, ENAMETOOLONG, "", "opening the control socket");
    control->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int error = control->folder < 0 ? errno : bind_socket(control);
    if (!error) {
        error = start(&control->thread, accept_thread, control);
        if (error)
            unlinkat(control->folder, control->name, 0);
    }
    if (!error)
        return 0;
    close_sockets(control);
    return br_control_fail(failure, error, control->name, "opening the control socket");
}

void br_control_stop(struct br_control *control) {
    pthread_mutex_lock(&control->stopping);
    pthread_mutex_lock(&control->mutex);
    control->stopped = true;
    for (const struct br_connection *one = control->connections; one; one = one->next)
        shutdown(one->socket, SHUT_RDWR);
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->mutex);
    if (control->listener >= 0) {
        unlinkat(control->folder, control->name, 0);
        shutdown(control->listener, SHUT_RDWR);
        pthread_join(control->thread, NULL);
        close_sockets(control);
    }
    pthread_mutex_lock(&control->mutex);
    join_connections(control, true);
    pthread_mutex_unlock(&control->mutex);
    pthread_mutex_unlock(&control->stopping);
}

void br_control_free(struct br_control *control) {
    br_control_stop(control);
    pthread_cond_destroy(&control->changed);
    pthread_mutex_destroy(&control->mutex);
    pthread_mutex_destroy(&control->stopping);
    free(control);
}
