/* Folders whose operations are methods of Python objects (`Files` and `File` of files.py, or a test's). */
#ifndef BR_PY_OPS_H
#define BR_PY_OPS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "ops.h"

/* The folder `path` (a pathlib.Path) as `files` sees it. 0 or errno; takes references. Its operations take
 * the GIL, so nobody may hold the GIL while he waits for a lock under which they are called. */
int br_folder_python(PyObject *files, PyObject *path, struct br_folder **folder);

#endif
