/* The table of operations that calls Python.
 *
 * An exception becomes the errno of the OSError that it is, or that caused it; what has none is EIO. Data is
 * copied into and out of bytes objects: a test's disk may keep what it was given.
 */
#include "py_ops.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct py_file {
    struct br_file base;
    PyObject *file;
};

struct py_folder {
    struct br_folder base;
    PyObject *files, *path;
};

static PyObject *object_of(struct br_file *file) {
    return ((struct py_file *)file)->file;
}

static int number_of(PyObject *error) {
    PyObject *number = PyObject_GetAttrString(error, "errno");
    long value = number && number != Py_None ? PyLong_AsLong(number) : 0;
    Py_XDECREF(number);
    PyErr_Clear();
    return value > 0 && value < 4096 ? (int)value : EIO;
}

/* The pending exception as an errno; it is cleared. */
static int take_exception(void) {
    PyObject *type, *value, *trace;
    int number = EIO;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    Py_XINCREF(value);
    for (PyObject *error = value; error;) {
        PyObject *cause =
            PyErr_GivenExceptionMatches(error, PyExc_OSError) ? NULL : PyException_GetCause(error);
        if (!cause && PyErr_GivenExceptionMatches(error, PyExc_OSError))
            number = number_of(error);
        Py_DECREF(error);
        error = cause;
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return number;
}

/* The errno of a call whose result does not matter. */
static int finish(PyObject *result) {
    int error = result ? 0 : take_exception();
    Py_XDECREF(result);
    return error;
}

static int finish_number(PyObject *result, uint64_t *number) {
    if (result)
        *number = PyLong_AsUnsignedLongLong(result);
    int error = !result || PyErr_Occurred() ? take_exception() : 0;
    Py_XDECREF(result);
    return error;
}

static int finish_truth(PyObject *result, int *truth) {
    *truth = result ? PyObject_IsTrue(result) : -1;
    int error = *truth < 0 ? take_exception() : 0;
    Py_XDECREF(result);
    return error;
}

static int py_pread(struct br_file *file, void *data, size_t length, uint64_t offset) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *read =
        PyObject_CallMethod(object_of(file), "pread", "nK", (Py_ssize_t)length, (unsigned long long)offset);
    char *bytes = NULL;
    Py_ssize_t count = 0;
    int error = read && PyBytes_AsStringAndSize(read, &bytes, &count) == 0 ? 0 : take_exception();
    if (!error && (size_t)count != length)
        error = ENODATA;
    if (!error)
        memcpy(data, bytes, length);
    Py_XDECREF(read);
    PyGILState_Release(gil);
    return error;
}

static int py_pwrite(struct br_file *file, const void *data, size_t length, uint64_t offset) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)length);
    int error =
        bytes
            ? finish(PyObject_CallMethod(object_of(file), "pwrite", "OK", bytes, (unsigned long long)offset))
            : take_exception();
    Py_XDECREF(bytes);
    PyGILState_Release(gil);
    return error;
}

static int py_zero(struct br_file *file, uint64_t offset, uint64_t length) {
    PyGILState_STATE gil = PyGILState_Ensure();
    int error = finish(PyObject_CallMethod(object_of(file), "zero", "KK", (unsigned long long)offset,
                                           (unsigned long long)length));
    PyGILState_Release(gil);
    return error;
}

/* `discard` is optional, and returns whether the extent reads as zeros now. */
static int py_discard(struct br_file *file, uint64_t offset, uint64_t length, enum br_discarded *result) {
    PyGILState_STATE gil = PyGILState_Ensure();
    int zeros = 1, error = 0;
    PyObject *method = PyObject_GetAttrString(object_of(file), "discard");
    if (method)
        error = finish_truth(
            PyObject_CallFunction(method, "KK", (unsigned long long)offset, (unsigned long long)length),
            &zeros);
    bool missing = !method;
    Py_XDECREF(method);
    PyErr_Clear();
    PyGILState_Release(gil);
    if (missing)
        error = py_zero(file, offset, length);
    *result = zeros == 1 ? BR_READS_ZERO : BR_UNKNOWN;
    return error;
}

static int py_sync(struct br_file *file) {
    PyGILState_STATE gil = PyGILState_Ensure();
    int error = finish(PyObject_CallMethod(object_of(file), "sync", NULL));
    PyGILState_Release(gil);
    return error;
}

static int py_size(struct br_file *file, uint64_t *size) {
    PyGILState_STATE gil = PyGILState_Ensure();
    int error = finish_number(PyObject_CallMethod(object_of(file), "size", NULL), size);
    PyGILState_Release(gil);
    return error;
}

static int py_truncate(struct br_file *file, uint64_t size) {
    PyGILState_STATE gil = PyGILState_Ensure();
    int error = finish(PyObject_CallMethod(object_of(file), "truncate", "K", (unsigned long long)size));
    PyGILState_Release(gil);
    return error;
}

static int py_lock(struct br_file *file) {
    PyGILState_STATE gil = PyGILState_Ensure();
    int locked, error = finish_truth(PyObject_CallMethod(object_of(file), "lock", NULL), &locked);
    PyGILState_Release(gil);
    return error || locked ? error : EWOULDBLOCK;
}

static int py_fileno(struct br_file *file) {
    uint64_t fd = 0;
    PyGILState_STATE gil = PyGILState_Ensure();
    int error = finish_number(PyObject_CallMethod(object_of(file), "fileno", NULL), &fd);
    PyGILState_Release(gil);
    return error || fd > INT32_MAX ? -1 : (int)fd;
}

static void py_close(struct br_file *file) {
    PyGILState_STATE gil = PyGILState_Ensure();
    finish(PyObject_CallMethod(object_of(file), "close", NULL));
    Py_DECREF(object_of(file));
    PyGILState_Release(gil);
    free(file);
}

static const struct br_file_ops py_file_ops = {
    .pread = py_pread,
    .pwrite = py_pwrite,
    .zero = py_zero,
    .discard = py_discard,
    .sync = py_sync,
    .size = py_size,
    .truncate = py_truncate,
    .lock = py_lock,
    .fileno = py_fileno,
    .close = py_close,
};

/* The folder's path / name. */
static PyObject *path_of(const struct py_folder *folder, const char *name) {
    PyObject *text = PyUnicode_DecodeFSDefault(name);
    PyObject *path = text ? PyNumber_TrueDivide(folder->path, text) : NULL;
    Py_XDECREF(text);
    return path;
}

static PyObject *call_open(const struct py_folder *folder, const char *name, int flags) {
    PyObject *path = path_of(folder, name), *result = NULL;
    PyObject *method = PyObject_GetAttrString(folder->files, "open");
    PyObject *arguments = path ? Py_BuildValue("(O)", path) : NULL;
    PyObject *keywords = Py_BuildValue("{s:O,s:O}", "write", flags & BR_OPEN_WRITE ? Py_True : Py_False,
                                       "create", flags & BR_OPEN_CREATE ? Py_True : Py_False);
    if (method && arguments && keywords)
        result = PyObject_Call(method, arguments, keywords);
    Py_XDECREF(path);
    Py_XDECREF(method);
    Py_XDECREF(arguments);
    Py_XDECREF(keywords);
    return result;
}

static int py_open(struct br_folder *folder, const char *name, int flags, struct br_file **file) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *opened = call_open((struct py_folder *)folder, name, flags);
    struct py_file *made = opened ? malloc(sizeof *made) : NULL;
    int error = opened ? 0 : take_exception();
    if (made) {
        *made = (struct py_file){.base.ops = &py_file_ops, .file = opened};
        *file = &made->base;
    } else {
        Py_XDECREF(opened);
        error = error ? error : ENOMEM;
    }
    PyGILState_Release(gil);
    return error;
}

static int py_rename(struct br_folder *folder, const char *from, const char *to) {
    const struct py_folder *here = (struct py_folder *)folder;
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *source = path_of(here, from), *target = path_of(here, to);
    int error = source && target ? finish(PyObject_CallMethod(here->files, "rename", "OO", source, target))
                                 : take_exception();
    Py_XDECREF(source);
    Py_XDECREF(target);
    PyGILState_Release(gil);
    return error;
}

static int py_unlink(struct br_folder *folder, const char *name) {
    const struct py_folder *here = (struct py_folder *)folder;
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *path = path_of(here, name);
    int error = path ? finish(PyObject_CallMethod(here->files, "unlink", "O", path)) : take_exception();
    Py_XDECREF(path);
    PyGILState_Release(gil);
    return error;
}

static int py_sync_folder(struct br_folder *folder) {
    const struct py_folder *here = (struct py_folder *)folder;
    PyGILState_STATE gil = PyGILState_Ensure();
    int error = finish(PyObject_CallMethod(here->files, "sync_folder", "O", here->path));
    PyGILState_Release(gil);
    return error;
}

static int each_name(PyObject *names, void (*each)(void *context, const char *name), void *context) {
    Py_ssize_t count = names ? PySequence_Size(names) : -1;
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *name = PySequence_GetItem(names, at);
        PyObject *bytes = name ? PyUnicode_EncodeFSDefault(name) : NULL;
        if (bytes)
            each(context, PyBytes_AsString(bytes));
        Py_XDECREF(name);
        Py_XDECREF(bytes);
        if (!bytes)
            return take_exception();
    }
    return count < 0 ? take_exception() : 0;
}

static int py_list(struct br_folder *folder, void (*each)(void *context, const char *name), void *context) {
    const struct py_folder *here = (struct py_folder *)folder;
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *names = PyObject_CallMethod(here->files, "names", "O", here->path);
    int error = each_name(names, each, context);
    Py_XDECREF(names);
    PyGILState_Release(gil);
    return error;
}

static void py_close_folder(struct br_folder *folder) {
    struct py_folder *here = (struct py_folder *)folder;
    PyGILState_STATE gil = PyGILState_Ensure();
    Py_DECREF(here->files);
    Py_DECREF(here->path);
    PyGILState_Release(gil);
    free(here);
}

static const struct br_folder_ops py_folder_ops = {
    .open = py_open,
    .rename = py_rename,
    .unlink = py_unlink,
    .sync = py_sync_folder,
    .list = py_list,
    .close = py_close_folder,
};

int br_folder_python(PyObject *files, PyObject *path, struct br_folder **folder) {
    struct py_folder *made = malloc(sizeof *made);
    if (!made)
        return ENOMEM;
    Py_INCREF(files);
    Py_INCREF(path);
    *made = (struct py_folder){.base.ops = &py_folder_ops, .files = files, .path = path};
    *folder = &made->base;
    return 0;
}
