/* What the control socket's two .c files share. Nobody else includes it. */
#ifndef BR_CONTROL_PARTS_H
#define BR_CONTROL_PARTS_H

#include <pthread.h>

#include "control.h"
#include "text.h"

struct br_connection {
    struct br_control *control;
    struct br_connection *next;
    int socket; /* -1: done with, the thread is about to end */
    bool holds; /* the right to cut */
    pthread_t thread;
};

struct br_control {
    struct br_tracker *tracker;
    uint64_t log_limit; /* as the tracker was told */
    pthread_mutex_t mutex, stopping;
    pthread_cond_t changed;
    bool held, stopped;
    struct br_connection *connections;
    int folder, listener;
    char name[256];
    pthread_t thread;
};

/* Fill `failure`, return `error`. */
int br_control_fail(struct br_failure *failure, int error, const char *name, const char *doing);

/* Add the answer to a request, which is taken to pieces. */
void br_control_answer(struct br_connection *connection, char *line, struct br_text *text);

/* Leave things in order behind a connection that ended. */
void br_control_leave(struct br_connection *connection);

#endif
