/* Python's face of the kernels: check the arguments, let go of the GIL, one call. What each function does and
 * means is told by its twin in _reference.py. */
#include "py_args.h"
#include "py_module.h"

#include <errno.h>
#include <limits.h>

#include "bytesum.h"
#include "checksum.h"
#include "cpu.h"
#include "crc32c.h"
#include "hash.h"

#define ARGUMENTS PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names

/* Opens a binding: takes its arguments into `a`, or returns with the exception. */
#define TAKE(function, ...)                                                                                  \
    static const struct br_parameter parameters[] = {__VA_ARGS__, {NULL, BR_FLAG, 0, 0}};                    \
    struct br_arguments a;                                                                                   \
    (void)module;                                                                                            \
    if (br_take(&a, #function, parameters, args, count, names) < 0)                                          \
    return NULL

#define READ(name)                                                                                           \
    { #name, BR_READ, 0, 0 }
#define WRITE(name)                                                                                          \
    { #name, BR_WRITE, 0, 0 }
#define NUMBER(name)                                                                                         \
    { #name, BR_NUMBER, 0, 0 }
#define OPTION(name)                                                                                         \
    { #name, BR_NUMBER, 1, 0 }

#if BR_HAVE_XXHASH
static PyObject *checksum_buffer(ARGUMENTS) {
    TAKE(checksum_buffer, READ(data), NUMBER(block_size), WRITE(out), OPTION(seed),
         {"threads", BR_NUMBER, 1, 1});
    uint64_t length = br_length(&a, 0), block_size = a.number[1], threads = a.number[4];
    if (block_size == 0)
        return br_reject(&a, "block_size must be at least 1");
    if (br_length(&a, 2) / BR_ENTRY_SIZE < br_block_count(length, block_size))
        return br_reject(&a, "out must have 16 bytes for each block");
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_checksum_buffer(br_bytes(&a, 0), length, block_size, a.number[3],
                               threads > INT_MAX ? INT_MAX : (unsigned)threads, br_bytes(&a, 2));
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, error);
}
#endif

static PyObject *byte_sum(ARGUMENTS) {
    TAKE(byte_sum, READ(data));
    uint32_t sum;
    Py_BEGIN_ALLOW_THREADS;
    sum = br_byte_sum(br_bytes(&a, 0), br_length(&a, 0));
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, 0, sum);
}

static PyObject *crc32c(ARGUMENTS) {
    TAKE(crc32c, READ(data), OPTION(value));
    if (a.number[1] > UINT32_MAX)
        return br_reject(&a, "value must be below 2**32");
    uint32_t crc;
    Py_BEGIN_ALLOW_THREADS;
    crc = br_crc32c((uint32_t)a.number[1], br_bytes(&a, 0), br_length(&a, 0));
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, 0, crc);
}

static PyObject *crc32c_rows(ARGUMENTS) {
    TAKE(crc32c_rows, READ(data), NUMBER(row_size), NUMBER(length), WRITE(out), OPTION(value));
    uint64_t row_size = a.number[1], length = a.number[2];
    if (row_size == 0 || br_length(&a, 0) % row_size != 0)
        return br_reject(&a, "data must be whole rows");
    if (length > row_size)
        return br_reject(&a, "length must be at most row_size");
    if (br_length(&a, 3) / 4 < br_length(&a, 0) / row_size)
        return br_reject(&a, "out must have 4 bytes for each row");
    if (a.number[4] > UINT32_MAX)
        return br_reject(&a, "value must be below 2**32");
    Py_BEGIN_ALLOW_THREADS;
    br_crc32c_rows((uint32_t)a.number[4], br_bytes(&a, 0), br_length(&a, 0) / row_size, row_size, length,
                   br_bytes(&a, 3));
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, 0);
}

static PyObject *select_variant(PyObject *module, PyObject *name) {
    (void)module;
    const char *text = PyUnicode_AsUTF8AndSize(name, NULL);
    if (!text)
        return NULL;
    int error = br_cpu_select(text);
    if (error)
        return PyErr_Format(PyExc_ValueError, "kernel variant '%s': %s", text,
                            error == ENOENT ? "there is none of that name" : "this CPU cannot run it");
    Py_RETURN_NONE;
}

static PyObject *variant(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    return PyUnicode_FromString(br_cpu()->name);
}

static PyObject *variants(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    const char *names[BR_CPU_VARIANTS];
    size_t count = br_cpu_names(names);
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (size_t index = 0; tuple && index < count; index++) {
        PyObject *name = PyUnicode_FromString(names[index]);
        if (!name || PyTuple_SetItem(tuple, (Py_ssize_t)index, name) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyMethodDef methods[] = {
#if BR_HAVE_XXHASH
    BR_METHOD(checksum_buffer, "Checksum table of a buffer."),
#endif
    BR_METHOD(byte_sum, "Sum of all bytes modulo 2**32."),
    BR_METHOD(crc32c, "CRC-32C behind bytes whose CRC is `value`."),
    BR_METHOD(crc32c_rows, "CRC-32C of the first bytes of each row."),
    {"select_variant", select_variant, METH_O, PyDoc_STR("Force the CPU variant of that name.")},
    {"variant", variant, METH_NOARGS, PyDoc_STR("The CPU variant in use.")},
    {"variants", variants, METH_NOARGS, PyDoc_STR("The CPU variants that this CPU runs, best last.")},
    {NULL, NULL, 0, NULL},
};

int br_add_kernels(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
