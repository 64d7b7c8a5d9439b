/* The module blockreplica._native: nothing but the list of what goes into it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "py_module.h"

static int execute(PyObject *module) {
    if (br_add_kernels(module) < 0 || br_add_hrl(module) < 0 || br_add_tracker(module) < 0 ||
        br_add_overlay(module) < 0)
        return -1;
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_native",
                                        .m_doc = "The C core of blockreplica.", .m_size = 0,
                                        .m_slots = slots};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&definition);
}
