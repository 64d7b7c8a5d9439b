/* What module.c puts together. Each function adds its part to the module: 0, or -1 with an exception set. */
#ifndef BR_PY_MODULE_H
#define BR_PY_MODULE_H

int br_add_kernels(PyObject *module);
int br_add_hrl(PyObject *module);
int br_add_tracker(PyObject *module);
int br_add_overlay(PyObject *module);

/* Parts of br_add_kernels. */
int br_add_bitmaps(PyObject *module);
int br_add_file_kernels(PyObject *module);

#endif
