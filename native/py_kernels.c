/* Python's face of the kernels: check the arguments, let go of the GIL, one call. What each function does and
 * means is told by its twin in _reference/. */
#include "py_args.h"
#include "py_module.h"

#include <errno.h>
#include <limits.h>

#include "bitmap.h"
#include "bytesum.h"
#include "checksum.h"
#include "coalesce.h"
#include "compare.h"
#include "cpu.h"
#include "crc32c.h"
#include "hash.h"
#include "table.h"

#if BR_HAVE_XXHASH
static PyObject *checksum_buffer(ARGUMENTS) {
    TAKE(checksum_buffer, READ(data), NUMBER(block_size), WRITE(out), OPTION(seed),
         {"threads", BR_NUMBER, BR_KEYWORD_ONLY, 1});
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
    TAKE(crc32c, READ(data), {"value", BR_NUMBER, BR_OPTIONAL, 0});
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

static PyObject *compare_tables(ARGUMENTS) {
    TAKE(compare_tables, READ(a), READ(b), WRITE(dirty));
    uint64_t entries = br_length(&a, 0) / BR_ENTRY_SIZE, differing;
    if (br_length(&a, 0) != br_length(&a, 1) || br_length(&a, 0) % BR_ENTRY_SIZE != 0)
        return br_reject(&a, "a and b must be of one length, 16 bytes an entry");
    if (br_length(&a, 2) < br_block_count(entries, 8))
        return br_reject(&a, "dirty must have a bit for each entry");
    Py_BEGIN_ALLOW_THREADS;
    differing = br_compare_tables(br_bytes(&a, 0), br_bytes(&a, 1), entries, br_bytes(&a, 2));
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, 0, differing);
}

static PyObject *compare_buffers(ARGUMENTS) {
    TAKE(compare_buffers, READ(a), READ(b), NUMBER(granule), WRITE(dirty));
    uint64_t granule = a.number[2], differing;
    if (br_length(&a, 0) != br_length(&a, 1))
        return br_reject(&a, "a and b must be of one length");
    if (granule == 0)
        return br_reject(&a, "granule must be at least 1");
    if (br_length(&a, 3) < br_block_count(br_block_count(br_length(&a, 0), granule), 8))
        return br_reject(&a, "dirty must have a bit for each granule");
    Py_BEGIN_ALLOW_THREADS;
    differing =
        br_compare_buffers(br_bytes(&a, 0), br_bytes(&a, 1), br_length(&a, 0), granule, br_bytes(&a, 3), 0);
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, 0, differing);
}

static PyObject *find_zeros(ARGUMENTS) {
    TAKE(find_zeros, READ(data), NUMBER(granule), WRITE(zeros));
    uint64_t granule = a.number[1], found;
    if (granule == 0)
        return br_reject(&a, "granule must be at least 1");
    if (br_length(&a, 2) < br_block_count(br_block_count(br_length(&a, 0), granule), 8))
        return br_reject(&a, "zeros must have a bit for each granule");
    Py_BEGIN_ALLOW_THREADS;
    found = br_find_zeros(br_bytes(&a, 0), br_length(&a, 0), granule, br_bytes(&a, 2));
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, 0, found);
}

static PyObject *coalesce(ARGUMENTS) {
    TAKE(coalesce, READ(entries), WRITE(out));
    size_t rows = br_length(&a, 0) / BR_ROW_SIZE, out_rows = 0;
    if (br_length(&a, 0) % BR_ROW_SIZE != 0)
        return br_reject(&a, "entries must be rows of 32 bytes");
    if (br_length(&a, 1) / BR_ROW_SIZE / 2 < rows)
        return br_reject(&a, "out must have room for twice the rows");
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_coalesce(br_bytes(&a, 0), rows, br_bytes(&a, 1), &out_rows);
    Py_END_ALLOW_THREADS;
    if (error == EINVAL)
        return br_reject(&a, "an entry has an unknown operation, or reaches beyond 2**64");
    return br_finish_number(&a, error, out_rows);
}

/* Whether argument `pages` is whole pages and argument `entries` has 4080 bytes for each; `key` is
 * argument 2. */
static const char *check_table(const struct br_arguments *a, int pages, int entries) {
    if (br_length(a, pages) % BR_PAGE_SIZE != 0)
        return "pages must be whole pages of 4096 bytes";
    if (br_length(a, entries) != br_length(a, pages) / BR_PAGE_SIZE * BR_PAGE_BYTES)
        return "entries must have 4080 bytes for each page";
    if (a->number[2] > UINT32_MAX)
        return "key must be below 2**32";
    return NULL;
}

static PyObject *pack_table(ARGUMENTS) {
    TAKE(pack_table, READ(entries), NUMBER(first_page), NUMBER(key), WRITE(pages));
    const char *wrong = check_table(&a, 3, 0);
    if (wrong)
        return br_reject(&a, wrong);
    Py_BEGIN_ALLOW_THREADS;
    br_pack_table(br_bytes(&a, 0), br_length(&a, 3) / BR_PAGE_SIZE, a.number[1], (uint32_t)a.number[2],
                  br_bytes(&a, 3));
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, 0);
}

/* The numbers of the set bits as a list. */
static PyObject *list_bits(const uint8_t *bitmap, size_t limit) {
    PyObject *list = PyList_New(0);
    uint64_t bit, run;
    for (uint64_t at = 0; list && br_bitmap_next(bitmap, at, limit, &bit, &run); at = bit + 1) {
        PyObject *number = PyLong_FromUnsignedLongLong(bit);
        if (!number || PyList_Append(list, number) < 0)
            Py_CLEAR(list);
        Py_XDECREF(number);
    }
    return list;
}

static PyObject *unpack_table(ARGUMENTS) {
    TAKE(unpack_table, READ(pages), NUMBER(first_page), NUMBER(key), WRITE(entries));
    const char *wrong = check_table(&a, 0, 3);
    if (wrong)
        return br_reject(&a, wrong);
    size_t pages = br_length(&a, 0) / BR_PAGE_SIZE;
    uint8_t *bad = PyMem_Calloc(pages / 8 + 1, 1);
    if (!bad) {
        br_release(&a);
        return PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS;
    br_unpack_table(br_bytes(&a, 0), pages, a.number[1], (uint32_t)a.number[2], br_bytes(&a, 3), bad);
    Py_END_ALLOW_THREADS;
    br_release(&a);
    PyObject *list = list_bits(bad, pages);
    PyMem_Free(bad);
    return list;
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
    BR_METHOD(compare_tables, "Set a bit for each checksum that differs; returns how many."),
    BR_METHOD(compare_buffers, "Set a bit for each granule that differs; returns how many."),
    BR_METHOD(find_zeros, "Set a bit for each granule of zeros; returns how many."),
    BR_METHOD(coalesce, "Log entries into the extents that remain; returns how many."),
    BR_METHOD(pack_table, "Checksum entries into pages with number and CRC."),
    BR_METHOD(unpack_table, "The reverse; returns the indexes of bad pages."),
    {"select_variant", select_variant, METH_O, PyDoc_STR("Force the CPU variant of that name.")},
    {"variant", variant, METH_NOARGS, PyDoc_STR("The CPU variant in use.")},
    {"variants", variants, METH_NOARGS, PyDoc_STR("The CPU variants that this CPU runs, best last.")},
    {NULL, NULL, 0, NULL},
};

int br_add_kernels(PyObject *module) {
    if (PyModule_AddFunctions(module, methods) < 0 || br_add_bitmaps(module) < 0)
        return -1;
    return br_add_file_kernels(module);
}
