/* Python's face of the overlay: what native/overlay.h says, OSError with the words for what is wrong. */
#include "py_args.h"
#include "py_module.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "overlay.h"

struct overlay_object {
    PyObject_HEAD struct br_overlay *overlay;
    unsigned busy; /* calls under way; changed with the GIL held */
    pthread_mutex_t lock;
    char told[320];
};

static void tell(void *context, const char *text) {
    struct overlay_object *self = context;
    pthread_mutex_lock(&self->lock);
    strncpy(self->told, text, sizeof self->told - 1);
    pthread_mutex_unlock(&self->lock);
}

static PyObject *raise_told(struct overlay_object *self, int error) {
    char text[320];
    pthread_mutex_lock(&self->lock);
    memcpy(text, self->told, sizeof text);
    pthread_mutex_unlock(&self->lock);
    PyObject *arguments = Py_BuildValue("(is)", error, text[0] ? text : strerror(error));
    if (arguments)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
    return NULL;
}

static int take_point(PyObject *args, PyObject *keywords, PyObject **folder, struct br_point *point) {
    static char *names[] = {"folder", "epoch",     "newest",    "size", "block_size",
                            "seed",   "table_key", "most_open", "era",  NULL};
    unsigned long long epoch = 0, newest = 0, size = 0, seed = 0, most_open = 0;
    unsigned int block_size = 0, table_key = 0, era = 0; /* a block size of 0 is refused */
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O&|$KKKIKIKI:Overlay", names, PyUnicode_FSConverter,
                                     folder, &epoch, &newest, &size, &block_size, &seed, &table_key,
                                     &most_open, &era))
        return -1;
    *point = (struct br_point){.folder = PyBytes_AsString(*folder),
                               .epoch = epoch,
                               .newest = newest,
                               .size = size,
                               .block_size = block_size,
                               .seed = seed,
                               .table_key = table_key,
                               .era = era,
                               .most_open = (size_t)most_open,
                               .tell = tell};
    return 0;
}

static PyObject *overlay_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    struct br_point point;
    PyObject *folder = NULL;
    if (take_point(args, keywords, &folder, &point) < 0)
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *made = allocate(type, 0);
    if (made) {
        struct overlay_object *self = (struct overlay_object *)made;
        pthread_mutex_init(&self->lock, NULL);
        point.context = self;
        int error;
        Py_BEGIN_ALLOW_THREADS;
        error = br_overlay_open(&point, &self->overlay);
        Py_END_ALLOW_THREADS;
        if (error) {
            raise_told(self, error);
            Py_CLEAR(made);
        }
    }
    Py_DECREF(folder);
    return made;
}

static struct overlay_object *enter(PyObject *object) {
    struct overlay_object *self = (struct overlay_object *)object;
    if (!self->overlay) {
        PyErr_SetString(PyExc_ValueError, "the point is closed");
        return NULL;
    }
    self->busy++;
    return self;
}

static PyObject *overlay_pread_into(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                    PyObject *names) {
    static const struct br_parameter parameters[] = {WRITE(buffer), OFFSET(offset), {0}};
    struct br_arguments a;
    if (br_take(&a, "pread_into", parameters, args, count, names) < 0)
        return NULL;
    struct overlay_object *self = enter(object);
    int error = 0;
    if (self) {
        Py_BEGIN_ALLOW_THREADS;
        error = br_overlay_pread(self->overlay, br_bytes(&a, 0), br_length(&a, 0), a.number[1]);
        Py_END_ALLOW_THREADS;
        self->busy--;
    }
    br_release(&a);
    if (!self)
        return NULL;
    return error ? raise_told(self, error) : Py_NewRef(Py_None);
}

static PyObject *overlay_extent(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    static const struct br_parameter parameters[] = {OFFSET(offset), OFFSET(length), {0}};
    struct br_arguments a;
    if (br_take(&a, "extent", parameters, args, count, names) < 0)
        return NULL;
    struct overlay_object *self = enter(object);
    if (!self)
        return NULL;
    bool hole = false;
    uint64_t run = 0;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_overlay_extent(self->overlay, a.number[0], a.number[1], &hole, &run);
    Py_END_ALLOW_THREADS;
    self->busy--;
    if (error)
        return raise_told(self, error);
    return Py_BuildValue("(NK)", PyBool_FromLong(hole), (unsigned long long)run);
}

static PyObject *overlay_close(PyObject *object, PyObject *Py_UNUSED(none)) {
    struct overlay_object *self = (struct overlay_object *)object;
    if (self->busy) {
        PyErr_SetString(PyExc_ValueError, "the point is being read");
        return NULL;
    }
    if (self->overlay)
        br_overlay_close(self->overlay);
    self->overlay = NULL;
    return Py_NewRef(Py_None);
}

static void overlay_dealloc(PyObject *object) {
    struct overlay_object *self = (struct overlay_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->overlay)
        br_overlay_close(self->overlay);
    pthread_mutex_destroy(&self->lock);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"pread_into", (PyCFunction)(void (*)(void))overlay_pread_into, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Fill a buffer from an offset.")},
    {"extent", (PyCFunction)(void (*)(void))overlay_extent, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Whether there is a hole at an offset, and for how many bytes.")},
    {"close", overlay_close, METH_NOARGS, PyDoc_STR("Close all files.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Overlay(folder, *, epoch, newest, size, block_size, seed, table_key, "
                                  "most_open=0, era=0): see native/overlay.h.")},
    {Py_tp_new, (void *)overlay_new},
    {Py_tp_dealloc, (void *)overlay_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "blockreplica._native.Overlay",
    .basicsize = sizeof(struct overlay_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

int br_add_overlay(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    int result = type ? PyModule_AddObjectRef(module, "Overlay", type) : -1;
    Py_XDECREF(type);
    return result;
}
