/* The tracker for Python: the type _native.Tracker.
 *
 * The GIL is let go around every call of the tracker, always: its Python-made files take the GIL while they
 * hold the tracker's locks. Calls are counted, so that close waits for those under way.
 */
#include "py_args.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "py_module.h"
#include "py_tracker.h"

/* The tracker, its call counted; or NULL with an exception set. */
static struct br_tracker *enter(PyObject *self) {
    struct tracker_object *object = (struct tracker_object *)self;
    if (!object->tracker) {
        PyErr_SetString(PyExc_ValueError, "the image is closed");
        return NULL;
    }
    object->active++;
    return object->tracker;
}

static void leave(PyObject *self) {
    ((struct tracker_object *)self)->active--;
}

static PyObject *cut_text(const struct br_cut *cut) {
    struct br_text text = {0};
    br_text_cut(&text, cut);
    return br_text_object(&text);
}

static PyObject *tracker_pread(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    static const struct br_parameter parameters[] = {OFFSET(length), OFFSET(offset), {0}};
    struct br_arguments taken;
    if (br_take(&taken, "pread", parameters, args, count, names) < 0)
        return NULL;
    struct br_tracker *tracker = enter(self);
    if (!tracker)
        return NULL;
    uint64_t length = taken.number[0], offset = taken.number[1], size = br_tracker_size(tracker);
    int error = offset <= size && length <= size - offset ? 0 : ERANGE;
    PyObject *data = error ? NULL : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (data) {
        char *bytes = PyBytes_AsString(data);
        Py_BEGIN_ALLOW_THREADS;
        error = br_tracker_pread(tracker, bytes, length, offset);
        Py_END_ALLOW_THREADS;
    }
    leave(self);
    if (!error)
        return data;
    Py_XDECREF(data);
    return br_finish_none(&taken, error);
}

static PyObject *tracker_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    static const struct br_parameter parameters[] = {READ(data), OFFSET(offset), {0}};
    struct br_arguments taken;
    if (br_take(&taken, "pwrite", parameters, args, count, names) < 0)
        return NULL;
    struct br_tracker *tracker = enter(self);
    if (!tracker) {
        br_release(&taken);
        return NULL;
    }
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_tracker_pwrite(tracker, br_bytes(&taken, 0), br_length(&taken, 0), taken.number[1]);
    Py_END_ALLOW_THREADS;
    leave(self);
    return br_finish_none(&taken, error);
}

typedef int extent_fn(struct br_tracker *tracker, uint64_t offset, uint64_t length);

static PyObject *call_extent(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names,
                             const char *function, extent_fn *call) {
    static const struct br_parameter parameters[] = {OFFSET(offset), OFFSET(length), {0}};
    struct br_arguments taken;
    if (br_take(&taken, function, parameters, args, count, names) < 0)
        return NULL;
    struct br_tracker *tracker = enter(self);
    if (!tracker)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = call(tracker, taken.number[0], taken.number[1]);
    Py_END_ALLOW_THREADS;
    leave(self);
    return br_finish_none(&taken, error);
}

static PyObject *tracker_zero(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    return call_extent(self, args, count, names, "zero", br_tracker_zero);
}

static PyObject *tracker_discard(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    return call_extent(self, args, count, names, "discard", br_tracker_discard);
}

static PyObject *tracker_flush(PyObject *self, PyObject *Py_UNUSED(none)) {
    struct br_arguments taken = {.function = "flush"};
    struct br_tracker *tracker = enter(self);
    if (!tracker)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_tracker_flush(tracker);
    Py_END_ALLOW_THREADS;
    leave(self);
    return br_finish_none(&taken, error);
}

static PyObject *tracker_resize(PyObject *self, PyObject *size) {
    struct br_failure failure;
    unsigned long long bytes = PyLong_AsUnsignedLongLong(size);
    struct br_tracker *tracker = PyErr_Occurred() ? NULL : enter(self);
    if (!tracker)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_control_resize(((struct tracker_object *)self)->control, bytes, &failure);
    Py_END_ALLOW_THREADS;
    leave(self);
    if (error)
        return br_raise_failure((PyObject *)Py_TYPE(self), &failure);
    Py_RETURN_NONE;
}

static PyObject *tracker_prepare(PyObject *self, PyObject *word) {
    struct br_failure failure;
    PyObject *path = NULL;
    if (word != Py_None && !PyUnicode_FSConverter(word, &path))
        return NULL;
    struct br_tracker *tracker = enter(self);
    int error = 0;
    if (tracker) {
        const char *name = path ? PyBytes_AsString(path) : NULL;
        Py_BEGIN_ALLOW_THREADS;
        error = br_tracker_prepare(tracker, name, &failure);
        Py_END_ALLOW_THREADS;
        leave(self);
    }
    Py_XDECREF(path);
    if (!tracker)
        return NULL;
    if (error)
        return br_raise_failure((PyObject *)Py_TYPE(self), &failure);
    Py_RETURN_NONE;
}

static PyObject *tracker_log(PyObject *self, PyObject *name) {
    enum br_log_mode mode = BR_LOG_AS_BEFORE;
    struct br_failure failure;
    PyObject *bytes = PyUnicode_AsUTF8String(name);
    if (!bytes)
        return NULL;
    bool known = br_log_mode(PyBytes_AsString(bytes), &mode);
    Py_DECREF(bytes);
    if (!known)
        return PyErr_Format(PyExc_ValueError, "log mode: wanted always or transit");
    struct br_tracker *tracker = enter(self);
    if (!tracker)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_tracker_log(tracker, mode, &failure);
    Py_END_ALLOW_THREADS;
    leave(self);
    if (error)
        return br_raise_failure((PyObject *)Py_TYPE(self), &failure);
    Py_RETURN_NONE;
}

static PyObject *finish_cut(PyObject *self, int error, const struct br_cut *cut,
                            const struct br_failure *failure) {
    leave(self);
    return error ? br_raise_failure((PyObject *)Py_TYPE(self), failure) : cut_text(cut);
}

static PyObject *tracker_cut(PyObject *self, PyObject *Py_UNUSED(none)) {
    struct br_failure failure;
    struct br_cut cut;
    if (!enter(self))
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_control_cut(((struct tracker_object *)self)->control, &cut, &failure);
    Py_END_ALLOW_THREADS;
    return finish_cut(self, error, &cut, &failure);
}

static PyObject *tracker_finish(PyObject *self, PyObject *Py_UNUSED(none)) {
    struct br_failure failure;
    struct br_cut cut;
    struct br_tracker *tracker = enter(self);
    if (!tracker)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_tracker_finish(tracker, &cut, &failure);
    Py_END_ALLOW_THREADS;
    return finish_cut(self, error, &cut, &failure);
}

static PyObject *tracker_listen(PyObject *self, PyObject *args) {
    struct br_failure failure;
    PyObject *folder, *name;
    if (!PyArg_ParseTuple(args, "O&O&", PyUnicode_FSConverter, &folder, PyUnicode_FSConverter, &name))
        return NULL;
    int error = -1;
    if (enter(self)) {
        error = br_control_listen(((struct tracker_object *)self)->control, PyBytes_AsString(folder),
                                  PyBytes_AsString(name), &failure);
        leave(self);
    }
    Py_DECREF(folder);
    Py_DECREF(name);
    if (error > 0)
        return br_raise_failure((PyObject *)Py_TYPE(self), &failure);
    return error ? NULL : Py_NewRef(Py_None);
}

static PyObject *tracker_size(PyObject *self, PyObject *Py_UNUSED(none)) {
    struct br_tracker *tracker = enter(self);
    if (!tracker)
        return NULL;
    leave(self);
    return PyLong_FromUnsignedLongLong(br_tracker_size(tracker));
}

static PyObject *tracker_status(PyObject *self, PyObject *Py_UNUSED(none)) {
    struct br_text text = {0};
    struct br_tracker *tracker = enter(self);
    if (!tracker)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    br_text_status(&text, tracker);
    Py_END_ALLOW_THREADS;
    leave(self);
    return br_text_object(&text);
}

/* Answer no other process any more, take the tracker away from new calls and wait for those under way; NULL:
 * it is gone already. */
static struct br_tracker *retire(PyObject *self) {
    const struct timespec pause = {.tv_nsec = 500000};
    struct tracker_object *object = (struct tracker_object *)self;
    if (object->control) {
        Py_BEGIN_ALLOW_THREADS;
        br_control_stop(object->control);
        Py_END_ALLOW_THREADS;
    }
    struct br_tracker *tracker = object->tracker;
    object->tracker = NULL;
    while (tracker && object->active) {
        Py_BEGIN_ALLOW_THREADS;
        nanosleep(&pause, NULL);
        Py_END_ALLOW_THREADS;
    }
    return tracker;
}

static PyObject *tracker_close(PyObject *self, PyObject *Py_UNUSED(none)) {
    struct br_failure failure;
    struct br_tracker *tracker = retire(self);
    int error = 0;
    if (tracker) {
        Py_BEGIN_ALLOW_THREADS;
        error = br_tracker_close(tracker, &failure);
        Py_END_ALLOW_THREADS;
    }
    if (error)
        return br_raise_failure((PyObject *)Py_TYPE(self), &failure);
    Py_RETURN_NONE;
}

static PyObject *tracker_drop(PyObject *self, PyObject *Py_UNUSED(none)) {
    struct br_tracker *tracker = retire(self);
    if (tracker) {
        Py_BEGIN_ALLOW_THREADS;
        br_tracker_drop(tracker);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

static void tracker_dealloc(PyObject *self) {
    struct tracker_object *object = (struct tracker_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    struct br_tracker *tracker = retire(self);
    if (tracker) {
        Py_BEGIN_ALLOW_THREADS;
        br_tracker_drop(tracker);
        Py_END_ALLOW_THREADS;
    }
    if (object->control)
        br_control_free(object->control);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

#define PLAIN(name, text)                                                                                    \
    { #name, tracker_##name, METH_NOARGS, PyDoc_STR(text) }
#define FAST(name, text)                                                                                     \
    { #name, (PyCFunction)(void (*)(void))tracker_##name, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR(text) }

static PyMethodDef methods[] = {
    FAST(pread, "pread(length, offset) -> bytes"),
    FAST(pwrite, "pwrite(data, offset)"),
    FAST(zero, "zero(offset, length)"),
    FAST(discard, "discard(offset, length)"),
    PLAIN(flush, "All writes answered before are durable."),
    {"resize", tracker_resize, METH_O, PyDoc_STR("resize(size): end the epoch, change the size.")},
    {"log", tracker_log, METH_O, PyDoc_STR("log(mode): have a log always, or in transit only.")},
    {"prepare", tracker_prepare, METH_O,
     PyDoc_STR("prepare(word): get ready to be cut by file `word`, or None.")},
    PLAIN(finish, "End the epoch that the word cut: JSON, see control.h."),
    PLAIN(cut, "Cut now; returns as finish does."),
    PLAIN(size, "Bytes in the image."),
    PLAIN(status, "How the tracker is: JSON, see control.h."),
    {"listen", tracker_listen, METH_VARARGS,
     PyDoc_STR("listen(folder, name): be asked by other processes, on socket name.control.")},
    PLAIN(close, "Close in order; a second call does nothing."),
    PLAIN(drop, "Let go as the death of the process would."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     (void *)PyDoc_STR("Tracker(folder, name, *, files=None, log_limit=0, settle_only=False, suspect=False, "
                       "boot_id=None, tracking_folder=None): see native/tracker.h.")},
    {Py_tp_new, (void *)br_tracker_new},
    {Py_tp_dealloc, (void *)tracker_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "blockreplica._native.Tracker",
    .basicsize = sizeof(struct tracker_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

int br_add_tracker(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    PyObject *failure = PyErr_NewException("blockreplica._native.TrackerFailure", NULL, NULL);
    int result = type && failure ? PyModule_AddObjectRef(module, "Tracker", type) : -1;
    if (result == 0)
        result = PyModule_AddObjectRef(module, "TrackerFailure", failure);
    Py_XDECREF(type);
    Py_XDECREF(failure);
    return result;
}
