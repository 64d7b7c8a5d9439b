/* Opening a tracker from Python: its arguments, the folders that they mean, and the failure when it can't be.
 */
#include "py_tracker.h"

#include "identity.h"
#include "py_ops.h"

PyObject *br_text_object(struct br_text *text) {
    PyObject *made = text->failed ? PyErr_NoMemory() : PyUnicode_FromString(text->bytes);
    br_text_free(text);
    return made;
}

PyObject *br_raise_failure(PyObject *type, const struct br_failure *failure) {
    PyObject *module = PyType_GetModule((PyTypeObject *)type);
    PyObject *exception = module ? PyObject_GetAttrString(module, "TrackerFailure") : NULL;
    struct br_text text = {0};
    br_text_failure(&text, failure);
    PyObject *told = br_text_object(&text);
    if (exception && told)
        PyErr_SetObject(exception, told);
    Py_XDECREF(exception);
    Py_XDECREF(told);
    return NULL;
}

/* A folder as the caller asked for it: `files` None means the real system. */
static int make_folder(PyObject *path, PyObject *files, struct br_folder **folder) {
    PyObject *bytes = NULL;
    if (files != Py_None)
        return br_folder_python(files, path, folder);
    if (!PyUnicode_FSConverter(path, &bytes))
        return -1;
    int error = br_folder_posix(PyBytes_AsString(bytes), folder);
    Py_DECREF(bytes);
    return error;
}

/* The folder of the image and of the tracker's files, which may be two. */
static int make_folders(PyObject *image, const char *name, PyObject *others, PyObject *files,
                        struct br_folder **folder) {
    struct br_folder *second;
    int error = make_folder(image, files, folder);
    if (error || others == Py_None)
        return error;
    error = make_folder(others, files, &second);
    if (!error)
        return br_folder_split(*folder, name, second, folder);
    br_folder_close(folder);
    return error;
}

struct opening {
    PyObject *folder, *name, *files, *boot, *tracking_folder;
    PyObject *marks; /* bytes, to be let go of */
    struct br_options options;
    struct br_identity identity;
};

static int take_opening(PyObject *args, PyObject *keywords, struct opening *opening) {
    static char *names[] = {"folder",  "name",    "files",           "log_limit",   "settle_only",
                            "suspect", "boot_id", "tracking_folder", "hot_regions", "identity",
                            "log",     "marks",   "ctime",           NULL};
    unsigned long long limit = 0, number[5] = {0};
    unsigned hot = 0;
    int settle_only = 0, suspect = 0;
    const char *mode = NULL, *ctime = NULL;
    *opening = (struct opening){.files = Py_None, .boot = Py_None, .tracking_folder = Py_None};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO|$OKppOOI(KKKKK)zO&z", names, &opening->folder,
                                     &opening->name, &opening->files, &limit, &settle_only, &suspect,
                                     &opening->boot, &opening->tracking_folder, &hot, &number[0], &number[1],
                                     &number[2], &number[3], &number[4], &mode, PyUnicode_FSConverter,
                                     &opening->marks, &ctime))
        return -1;
    if (opening->boot != Py_None && (!PyBytes_Check(opening->boot) || PyBytes_Size(opening->boot) != 16)) {
        PyErr_SetString(PyExc_ValueError, "boot_id must be 16 bytes");
        return -1;
    }
    opening->identity =
        (struct br_identity){number[0], number[1], (int64_t)number[2], (int64_t)number[3], number[4]};
    opening->options = (struct br_options){
        .log_limit = limit,
        .settle_only = settle_only,
        .suspect = suspect,
        .hot_regions = hot,
        .marks = opening->marks ? PyBytes_AsString(opening->marks) : NULL,
        .identity = number[0] ? &opening->identity : NULL,
        .boot_id = opening->boot == Py_None ? NULL : (const uint8_t *)PyBytes_AsString(opening->boot),
    };
    if (ctime && !br_ctime_named(ctime, &opening->options.ctime)) {
        PyErr_Format(PyExc_ValueError, "ctime %s: wanted compare or ignore", ctime);
        return -1;
    }
    if (!mode || br_log_mode(mode, &opening->options.log))
        return 0;
    PyErr_Format(PyExc_ValueError, "log %s: wanted always or transit", mode);
    return -1;
}

static PyObject *open_with(PyTypeObject *type, struct opening *opening, const char *name) {
    struct br_failure failure;
    struct br_folder *folder = NULL;
    struct br_tracker *tracker = NULL;
    int error = make_folders(opening->folder, name, opening->tracking_folder, opening->files, &folder);
    if (error < 0)
        return NULL;
    if (error) {
        failure = (struct br_failure){.kind = BR_FAILED_CALL, .error = error, .doing = "opening the folder"};
        return br_raise_failure((PyObject *)type, &failure);
    }
    Py_BEGIN_ALLOW_THREADS;
    error = br_tracker_open(folder, name, &opening->options, &tracker, &failure);
    Py_END_ALLOW_THREADS;
    if (error)
        return br_raise_failure((PyObject *)type, &failure);
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct tracker_object *self = (struct tracker_object *)allocate(type, 0);
    if (self && tracker && br_control_new(tracker, opening->options.log_limit, &self->control) == 0) {
        self->tracker = tracker;
    } else if (tracker) {
        br_tracker_drop(tracker);
        Py_CLEAR(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

PyObject *br_tracker_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    struct opening opening;
    PyObject *name = NULL, *self = NULL;
    if (take_opening(args, keywords, &opening) == 0 && PyUnicode_FSConverter(opening.name, &name))
        self = open_with(type, &opening, PyBytes_AsString(name));
    Py_XDECREF(name);
    Py_XDECREF(opening.marks);
    return self;
}
