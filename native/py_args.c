/* One place where arguments are checked, so that no binding forgets to. */
#include "py_args.h"

#include <errno.h>
#include <string.h>

static int bad(const char *function, const char *name, const char *text) {
    PyErr_Format(PyExc_ValueError, "%s: %s %s", function, name, text);
    return -1;
}

static int take_number(struct br_arguments *taken, int at, const struct br_parameter *parameter,
                       PyObject *value) {
    PyObject *whole = PyNumber_Index(value);
    if (!whole)
        return -1;
    unsigned long long number = PyLong_AsUnsignedLongLong(whole);
    Py_DECREF(whole);
    if (PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            return bad(taken->function, parameter->name, "must be from 0 to 2**64 - 1");
        }
        return -1;
    }
    if (parameter->kind == BR_OFFSET && number > INT64_MAX)
        return bad(taken->function, parameter->name, "must be from 0 to 2**63 - 1");
    taken->number[at] = number;
    return 0;
}

static int take_fd(struct br_arguments *taken, int at, PyObject *value) {
    long fd = PyLong_AsLong(value);
    if (fd == -1 && PyErr_Occurred())
        return -1;
    taken->number[at] = fd < 0 || fd > INT32_MAX ? UINT64_MAX : (uint64_t)fd;
    return 0;
}

static int take_value(struct br_arguments *taken, int at, const struct br_parameter *parameter,
                      PyObject *value) {
    switch (parameter->kind) {
    case BR_READ:
        return PyObject_GetBuffer(value, &taken->buffer[at], PyBUF_SIMPLE);
    case BR_WRITE:
        return PyObject_GetBuffer(value, &taken->buffer[at], PyBUF_WRITABLE);
    case BR_FD:
        return take_fd(taken, at, value);
    case BR_FLAG: {
        int truth = PyObject_IsTrue(value);
        taken->number[at] = truth > 0;
        return truth < 0 ? -1 : 0;
    }
    default:
        return take_number(taken, at, parameter, value);
    }
}

static int find(const struct br_parameter *parameters, PyObject *name) {
    for (int at = 0; parameters[at].name; at++)
        if (PyUnicode_CompareWithASCIIString(name, parameters[at].name) == 0)
            return at;
    return -1;
}

/* Sort the arguments by parameter; whatever is missing stays NULL. */
static int arrange(const char *function, const struct br_parameter *parameters, PyObject *const *args,
                   Py_ssize_t count, PyObject *names, PyObject **values) {
    Py_ssize_t positional = 0;
    while (parameters[positional].name && parameters[positional].optional != BR_KEYWORD_ONLY)
        positional++;
    if (count > positional) {
        PyErr_Format(PyExc_TypeError, "%s takes %zd positional arguments, %zd were given", function,
                     positional, count);
        return -1;
    }
    for (Py_ssize_t at = 0; at < count; at++)
        values[at] = args[at];
    for (Py_ssize_t index = 0; names && index < PyTuple_Size(names); index++) {
        PyObject *name = PyTuple_GetItem(names, index);
        int at = find(parameters, name);
        if (at < 0 || values[at]) {
            PyErr_Format(PyExc_TypeError, "%s: argument %R is unknown, or given twice", function, name);
            return -1;
        }
        values[at] = args[count + index];
    }
    return 0;
}

int br_take(struct br_arguments *taken, const char *function, const struct br_parameter *parameters,
            PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *values[BR_MOST_ARGUMENTS] = {NULL};
    memset(taken, 0, sizeof *taken);
    taken->function = function;
    if (arrange(function, parameters, args, count, names, values) < 0)
        return -1;
    for (int at = 0; parameters[at].name; at++) {
        if (values[at] && take_value(taken, at, &parameters[at], values[at]) == 0)
            continue;
        if (!values[at] && parameters[at].optional) {
            taken->number[at] = parameters[at].otherwise;
            continue;
        }
        if (!values[at])
            PyErr_Format(PyExc_TypeError, "%s: argument '%s' is missing", function, parameters[at].name);
        br_release(taken);
        return -1;
    }
    return 0;
}

void br_release(struct br_arguments *taken) {
    for (int at = 0; at < BR_MOST_ARGUMENTS; at++)
        if (taken->buffer[at].obj)
            PyBuffer_Release(&taken->buffer[at]);
}

PyObject *br_reject(struct br_arguments *taken, const char *text) {
    PyErr_Format(PyExc_ValueError, "%s: %s", taken->function, text);
    br_release(taken);
    return NULL;
}

static void raise_os_error(int error) {
    const char *text = error == ENODATA ? "the file ends before the extent does" : strerror(error);
    PyObject *arguments = Py_BuildValue("(is)", error, text);
    if (arguments)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
}

PyObject *br_finish_none(struct br_arguments *taken, int error) {
    br_release(taken);
    if (error) {
        raise_os_error(error);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *br_finish_number(struct br_arguments *taken, int error, uint64_t number) {
    br_release(taken);
    if (error) {
        raise_os_error(error);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(number);
}
