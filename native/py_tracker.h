/* What the files of the type _native.Tracker share. */
#ifndef BR_PY_TRACKER_H
#define BR_PY_TRACKER_H

#include "py_args.h"

#include "control.h"
#include "tracker_text.h"

struct tracker_object {
    PyObject_HEAD struct br_tracker *tracker; /* NULL: closed */
    struct br_control *control;               /* lives as long as the object */
    Py_ssize_t active;                        /* calls under way; under the GIL */
};

/* A str of the text, which is freed. */
PyObject *br_text_object(struct br_text *text);
/* Raise TrackerFailure(text): a failure as tracker_text.h has it. */
PyObject *br_raise_failure(PyObject *type, const struct br_failure *failure);
/* Tracker.__new__ */
PyObject *br_tracker_new(PyTypeObject *type, PyObject *args, PyObject *keywords);

#endif
