/* The requests to a control socket, and the right to cut.
 *
 * Whoever cuts holds the right to, from `prepare` to `finish` over several requests, so a lock that belongs
 * to a thread would not do: it is a flag under the mutex.
 */
#include "control_parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#include "tracker_text.h"

enum { cut_wait_s = 60, silence_s = 120 };

int br_control_fail(struct br_failure *failure, int error, const char *name, const char *doing) {
    *failure = (struct br_failure){.kind = BR_FAILED_CALL, .error = error, .doing = doing};
    snprintf(failure->name, sizeof failure->name, "%s", name);
    return error;
}

static int take_right(struct br_control *control, struct br_failure *failure) {
    struct timespec until;
    int error = 0;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += cut_wait_s;
    pthread_mutex_lock(&control->mutex);
    while (control->held && !control->stopped && !error)
        error = pthread_cond_timedwait(&control->changed, &control->mutex, &until);
    bool taken = !control->held;
    control->held = true;
    pthread_mutex_unlock(&control->mutex);
    return taken ? 0 : br_control_fail(failure, EBUSY, "", "cutting while another cut is under way");
}

static void let_go(struct br_control *control) {
    pthread_mutex_lock(&control->mutex);
    control->held = false;
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->mutex);
}

int br_control_cut(struct br_control *control, struct br_cut *cut, struct br_failure *failure) {
    int error = take_right(control, failure);
    if (error)
        return error;
    error = br_tracker_cut(control->tracker, cut, failure);
    let_go(control);
    return error;
}

int br_control_resize(struct br_control *control, uint64_t size, struct br_failure *failure) {
    int error = take_right(control, failure);
    if (error)
        return error;
    error = br_tracker_resize(control->tracker, size, failure);
    let_go(control);
    return error;
}

/* Whoever holds the right and says nothing for so long, stopped perhaps, loses it: nobody else could cut. */
static void bound_silence(const struct br_connection *connection) {
    struct timeval most = {.tv_sec = connection->holds ? silence_s : 0};
    setsockopt(connection->socket, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
}

static int hold(struct br_connection *connection, struct br_failure *failure) {
    int error = connection->holds ? 0 : take_right(connection->control, failure);
    connection->holds = !error;
    bound_silence(connection);
    return error;
}

static void release(struct br_connection *connection) {
    if (connection->holds)
        let_go(connection->control);
    connection->holds = false;
    bound_silence(connection);
}

/* The answers to the requests; each returns 0, or an errno with `failure` filled. */
typedef int request_fn(struct br_connection *connection, const char *argument, struct br_text *text,
                       struct br_failure *failure);

static int on_status(struct br_connection *connection, const char *argument, struct br_text *text,
                     struct br_failure *failure) {
    (void)argument;
    (void)failure;
    br_text_add(text, ", \"status\": ");
    br_text_status(text, connection->control->tracker);
    return 0;
}

static void add_cut(struct br_text *text, const struct br_control *control, const struct br_cut *cut) {
    br_text_add(text, ", \"log_limit\": %llu, \"cut\": ", (unsigned long long)control->log_limit);
    br_text_cut(text, cut);
}

static int on_cut(struct br_connection *connection, const char *argument, struct br_text *text,
                  struct br_failure *failure) {
    struct br_cut cut;
    (void)argument;
    int error = hold(connection, failure);
    if (!error)
        error = br_tracker_cut(connection->control->tracker, &cut, failure);
    release(connection);
    if (!error)
        add_cut(text, connection->control, &cut);
    return error;
}

static int on_sync(struct br_connection *connection, const char *argument, struct br_text *text,
                   struct br_failure *failure) {
    (void)argument;
    (void)text;
    int error = br_tracker_flush(connection->control->tracker);
    return error ? br_control_fail(failure, error, "", "fsync") : 0;
}

static int on_prepare(struct br_connection *connection, const char *argument, struct br_text *text,
                      struct br_failure *failure) {
    (void)text;
    int error = hold(connection, failure);
    if (!error)
        error = br_tracker_prepare(connection->control->tracker, argument, failure);
    if (error)
        release(connection);
    return error;
}

static int on_finish(struct br_connection *connection, const char *argument, struct br_text *text,
                     struct br_failure *failure) {
    struct br_cut cut;
    (void)argument;
    if (!connection->holds)
        return br_control_fail(failure, EINVAL, "",
                               "finishing a cut that was not prepared on this connection");
    int error = br_tracker_finish(connection->control->tracker, &cut, failure);
    release(connection);
    if (!error)
        add_cut(text, connection->control, &cut);
    return error;
}

static int on_log(struct br_connection *connection, const char *argument, struct br_text *text,
                  struct br_failure *failure) {
    enum br_log_mode mode;
    (void)text;
    if (!br_log_mode(argument, &mode))
        return br_control_fail(failure, EINVAL, "", "taking a log mode that is neither always nor transit");
    return br_tracker_log(connection->control->tracker, mode, failure);
}

static int on_ctime(struct br_connection *connection, const char *argument, struct br_text *text,
                    struct br_failure *failure) {
    enum br_ctime ctime;
    (void)text;
    if (!br_ctime_named(argument, &ctime))
        return br_control_fail(failure, EINVAL, "",
                               "taking a rule for ctime that is neither compare nor ignore");
    return br_tracker_ctime(connection->control->tracker, ctime, failure);
}

static const struct {
    const char *word;
    request_fn *answer;
} requests[] = {
    {"status", on_status}, {"cut", on_cut}, {"sync", on_sync},   {"prepare", on_prepare},
    {"finish", on_finish}, {"log", on_log}, {"ctime", on_ctime},
};

void br_control_answer(struct br_connection *connection, char *line, struct br_text *text) {
    struct br_failure failure;
    char *argument = strchr(line, ' ');
    if (argument)
        *argument++ = 0;
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        if (strcmp(line, requests[i].word) != 0)
            continue;
        br_text_add(text, "{\"ok\": true");
        if (requests[i].answer(connection, argument ? argument : "", text, &failure) != 0) {
            text->length = 0;
            br_text_add(text, "{\"error\": ");
            br_text_failure(text, &failure);
        }
        br_text_add(text, "}\n");
        return;
    }
    br_text_add(text,
                "{\"error\": {\"kind\": \"usage\", \"message\": \"no such control request; wanted status, "
                "cut, sync, prepare or finish\"}}\n");
}

void br_control_leave(struct br_connection *connection) {
    struct br_failure failure;
    struct br_cut cut;
    if (connection->holds) /* a cut that was not made is prepared no more by this, and its error nobody's */
        br_tracker_finish(connection->control->tracker, &cut, &failure);
    release(connection);
}
