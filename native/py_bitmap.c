/* Python's face of the bitmaps. */
#include "py_args.h"
#include "py_module.h"

#include "bitmap.h"

/* first + count <= bits of the bitmap */
static int fits(const struct br_arguments *a, uint64_t first, uint64_t count) {
    uint64_t bits = br_length(a, 0) * 8;
    return first <= bits && count <= bits - first;
}

static const char *const outside = "the bits lie outside the bitmap";

static PyObject *bitmap_set(ARGUMENTS) {
    TAKE(bitmap_set, WRITE(bitmap), NUMBER(first), NUMBER(count));
    if (!fits(&a, a.number[1], a.number[2]))
        return br_reject(&a, outside);
    Py_BEGIN_ALLOW_THREADS;
    br_bitmap_set(br_bytes(&a, 0), a.number[1], a.number[2]);
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, 0);
}

static PyObject *bitmap_clear(ARGUMENTS) {
    TAKE(bitmap_clear, WRITE(bitmap), NUMBER(first), NUMBER(count));
    if (!fits(&a, a.number[1], a.number[2]))
        return br_reject(&a, outside);
    Py_BEGIN_ALLOW_THREADS;
    br_bitmap_clear(br_bytes(&a, 0), a.number[1], a.number[2]);
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, 0);
}

static PyObject *bitmap_count(ARGUMENTS) {
    TAKE(bitmap_count, READ(bitmap), NUMBER(first), NUMBER(count));
    if (!fits(&a, a.number[1], a.number[2]))
        return br_reject(&a, outside);
    uint64_t total;
    Py_BEGIN_ALLOW_THREADS;
    total = br_bitmap_count(br_bytes(&a, 0), a.number[1], a.number[2]);
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, 0, total);
}

static PyObject *bitmap_merge(ARGUMENTS) {
    TAKE(bitmap_merge, WRITE(target), READ(source));
    if (br_length(&a, 0) != br_length(&a, 1))
        return br_reject(&a, "target and source must be of one length");
    Py_BEGIN_ALLOW_THREADS;
    br_bitmap_merge(br_bytes(&a, 0), br_bytes(&a, 1), br_length(&a, 0));
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, 0);
}

/* start <= limit <= bits of the bitmap */
static int is_stretch(const struct br_arguments *a, uint64_t start, uint64_t limit) {
    return start <= limit && limit <= br_length(a, 0) * 8;
}

static PyObject *bitmap_next(ARGUMENTS) {
    TAKE(bitmap_next, READ(bitmap), NUMBER(start), NUMBER(limit));
    if (!is_stretch(&a, a.number[1], a.number[2]))
        return br_reject(&a, outside);
    uint64_t first = 0, length = 0;
    int found;
    Py_BEGIN_ALLOW_THREADS;
    found = br_bitmap_next(br_bytes(&a, 0), a.number[1], a.number[2], &first, &length);
    Py_END_ALLOW_THREADS;
    br_release(&a);
    if (!found)
        Py_RETURN_NONE;
    return Py_BuildValue("KK", (unsigned long long)first, (unsigned long long)length);
}

static PyObject *bitmap_runs(ARGUMENTS) {
    TAKE(bitmap_runs, READ(bitmap), NUMBER(start), NUMBER(limit));
    uint64_t start = a.number[1], limit = a.number[2], room, runs;
    if (!is_stretch(&a, start, limit))
        return br_reject(&a, outside);
    Py_BEGIN_ALLOW_THREADS;
    room = br_bitmap_runs(br_bytes(&a, 0), start, limit, NULL, 0);
    Py_END_ALLOW_THREADS;
    PyObject *pairs = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(room * 16));
    if (!pairs) {
        br_release(&a);
        return NULL;
    }
    uint8_t *out = (uint8_t *)PyBytes_AsString(pairs);
    Py_BEGIN_ALLOW_THREADS;
    runs = br_bitmap_runs(br_bytes(&a, 0), start, limit, out, room);
    Py_END_ALLOW_THREADS;
    br_release(&a);
    if (runs == room)
        return pairs;
    Py_DECREF(pairs);
    PyErr_SetString(PyExc_RuntimeError, "bitmap_runs: the bitmap changed meanwhile");
    return NULL;
}

static PyMethodDef methods[] = {
    BR_METHOD(bitmap_set, "Set `count` bits from `first` on."),
    BR_METHOD(bitmap_clear, "Clear `count` bits from `first` on."),
    BR_METHOD(bitmap_count, "How many of `count` bits from `first` on are set."),
    BR_METHOD(bitmap_merge, "target |= source."),
    BR_METHOD(bitmap_next, "The next run of set bits within [start, limit) as (first, count), or None."),
    BR_METHOD(bitmap_runs, "All runs of set bits within [start, limit) as pairs of u64 (first, count)."),
    {NULL, NULL, 0, NULL},
};

int br_add_bitmaps(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
