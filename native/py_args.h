/* Arguments of a binding: Python objects in, C values out, the same checks for every function. */
#ifndef BR_PY_ARGS_H
#define BR_PY_ARGS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* What a parameter must be. */
enum br_kind {
    BR_READ,   /* a contiguous buffer */
    BR_WRITE,  /* a contiguous writable buffer */
    BR_NUMBER, /* an integer from 0 to 2^64 - 1, else ValueError */
    BR_OFFSET, /* an integer from 0 to 2^63 - 1, else ValueError */
    BR_FD,     /* a file descriptor; whether it is open is for the system to say */
    BR_FLAG,   /* anything that is true or false */
};

struct br_parameter {
    const char *name;
    enum br_kind kind;
    enum { BR_REQUIRED, BR_KEYWORD_ONLY, BR_OPTIONAL } optional; /* the last: by position too */
    uint64_t otherwise;                                          /* its value where it is not given */
};

#define BR_MOST_ARGUMENTS 16

/* What came of the call's arguments, in the order of the parameters. Buffers are held until br_release. */
struct br_arguments {
    const char *function;
    uint64_t number[BR_MOST_ARGUMENTS];
    Py_buffer buffer[BR_MOST_ARGUMENTS]; /* .obj is NULL where the parameter is no buffer */
};

/* Take the arguments of a METH_FASTCALL | METH_KEYWORDS call. Required parameters come first, by position or
 * name. 0, or -1 with an exception set and nothing held. `parameters` ends with a NULL name. */
int br_take(struct br_arguments *taken, const char *function, const struct br_parameter *parameters,
            PyObject *const *args, Py_ssize_t count, PyObject *names);

/* Let go of the buffers. */
void br_release(struct br_arguments *taken);

/* Raise ValueError("function: text"), release, return NULL. */
PyObject *br_reject(struct br_arguments *taken, const char *text);

/* Release and return None when error is 0, else raise OSError(error). */
PyObject *br_finish_none(struct br_arguments *taken, int error);

/* Release and return an int, or raise as br_finish_none does. */
PyObject *br_finish_number(struct br_arguments *taken, int error, uint64_t number);

/* The bytes and the length of the buffer argument `index`. */
static inline uint8_t *br_bytes(const struct br_arguments *taken, int index) {
    return (uint8_t *)taken->buffer[index].buf;
}

static inline uint64_t br_length(const struct br_arguments *taken, int index) {
    return (uint64_t)taken->buffer[index].len;
}

/* The parameters of a binding. */
#define ARGUMENTS PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names

/* Opens a binding: takes its arguments into `a`, or returns with the exception. */
#define TAKE(function, ...)                                                                                  \
    static const struct br_parameter parameters[] = {__VA_ARGS__, {NULL, BR_FLAG, BR_REQUIRED, 0}};          \
    struct br_arguments a;                                                                                   \
    (void)module;                                                                                            \
    if (br_take(&a, #function, parameters, args, count, names) < 0)                                          \
    return NULL

#define READ(name)                                                                                           \
    { #name, BR_READ, BR_REQUIRED, 0 }
#define WRITE(name)                                                                                          \
    { #name, BR_WRITE, BR_REQUIRED, 0 }
#define NUMBER(name)                                                                                         \
    { #name, BR_NUMBER, BR_REQUIRED, 0 }
#define OPTION(name)                                                                                         \
    { #name, BR_NUMBER, BR_KEYWORD_ONLY, 0 }
#define FD(name)                                                                                             \
    { #name, BR_FD, BR_REQUIRED, 0 }
#define OFFSET(name)                                                                                         \
    { #name, BR_OFFSET, BR_REQUIRED, 0 }

/* One line of a method table. */
#define BR_METHOD(name, text)                                                                                \
    { #name, (PyCFunction)(void (*)(void))name, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR(text) }

#endif
