/* Python's face of the change log's C: arguments checked, the GIL let go, one call for many blocks. What each
 * function means is told by its twin in _reference/hrl.py. A log is named by the bytes of its header. */
#include "py_args.h"
#include "py_module.h"

#include <errno.h>

#include "bytes.h"
#include "hrl_check.h"

/* The log whose header is argument `index`: 0, or -1 when it is none. */
static int take_log(const struct br_arguments *a, int index, struct hrl_log *log) {
    struct hrl_header header;
    struct hrl_fault fault;
    if (br_length(a, index) != HRL_HEADER_SIZE || !hrl_decode_header(br_bytes(a, index), &header, &fault))
        return -1;
    hrl_bind(log, &header);
    return 0;
}

/* Release, and the tuple of `built`; an errno in the fault is an OSError instead. */
static PyObject *finish(struct br_arguments *a, const struct hrl_fault *fault, PyObject *built) {
    if (fault->code != HRL_READ_FAILED) {
        br_release(a);
        return built;
    }
    Py_XDECREF(built);
    return br_finish_none(a, (int)fault->got);
}

static PyObject *hrl_walk_py(ARGUMENTS) {
    TAKE(hrl_walk, FD(fd), READ(header), OFFSET(position), WRITE(positions));
    struct hrl_log log;
    if (take_log(&a, 1, &log) < 0)
        return br_reject(&a, "header is not that of a log");
    if (a.number[2] < HRL_HEADER_SIZE || br_length(&a, 3) < 8)
        return br_reject(&a, "position must be behind the header, and positions have room for one");
    struct hrl_fault fault;
    uint64_t entries = 0, position = a.number[2];
    size_t found;
    Py_BEGIN_ALLOW_THREADS;
    found =
        hrl_walk((int)a.number[0], &log, &position, br_bytes(&a, 3), br_length(&a, 3) / 8, &entries, &fault);
    Py_END_ALLOW_THREADS;
    return finish(&a, &fault,
                  Py_BuildValue("(nKK(iKKK))", (Py_ssize_t)found, (unsigned long long)entries,
                                (unsigned long long)position, (int)fault.code, (unsigned long long)fault.at,
                                (unsigned long long)fault.wanted, (unsigned long long)fault.got));
}

static PyObject *hrl_read_py(ARGUMENTS) {
    TAKE(hrl_read, FD(fd), READ(header), READ(positions), OFFSET(end), NUMBER(number), WRITE(rows),
         WRITE(stamps), {"data", BR_FLAG, BR_KEYWORD_ONLY, 0}, {"slots", BR_FLAG, BR_KEYWORD_ONLY, 0});
    struct hrl_log log;
    if (take_log(&a, 1, &log) < 0)
        return br_reject(&a, "header is not that of a log");
    uint64_t room = br_length(&a, 5) / HRL_ROW_SIZE;
    if (room < log.room || br_length(&a, 6) / 4 < room)
        return br_reject(&a, "rows must have room for a block's entries, stamps for as many");
    struct hrl_reading reading = {.log = &log, .fd = (int)a.number[0]};
    reading.data = a.number[7];
    reading.slots = a.number[8];
    struct hrl_place place = {.end = a.number[3], .number = a.number[4]};
    struct hrl_result result;
    struct hrl_fault fault;
    Py_BEGIN_ALLOW_THREADS;
    hrl_read(&reading, &place, br_bytes(&a, 2), br_length(&a, 2) / 8, br_bytes(&a, 5), br_bytes(&a, 6), room,
             &result, &fault);
    Py_END_ALLOW_THREADS;
    return finish(&a, &fault,
                  Py_BuildValue("(nnK(iKKK))", (Py_ssize_t)result.blocks, (Py_ssize_t)result.rows,
                                (unsigned long long)result.unchecked, (int)fault.code,
                                (unsigned long long)fault.at, (unsigned long long)fault.wanted,
                                (unsigned long long)fault.got));
}

static PyObject *hrl_salvage_py(ARGUMENTS) {
    TAKE(hrl_salvage, FD(fd), READ(header), OFFSET(limit), OFFSET(budget), WRITE(state));
    struct hrl_log log;
    if (take_log(&a, 1, &log) < 0)
        return br_reject(&a, "header is not that of a log");
    if (br_length(&a, 4) != 48)
        return br_reject(&a, "state must have six numbers of 8 bytes");
    uint8_t *kept = br_bytes(&a, 4);
    struct hrl_salvage state = {.place = {br_get64(kept), br_get64(kept + 8)},
                                .last = br_get64(kept + 16),
                                .entries = br_get64(kept + 24),
                                .scan = br_get64(kept + 32),
                                .wasted = br_get64(kept + 40)};
    if (state.scan < state.place.end || state.place.end < HRL_HEADER_SIZE || state.scan > INT64_MAX)
        return br_reject(&a, "state is none");
    int done, error;
    Py_BEGIN_ALLOW_THREADS;
    done = hrl_salvage((int)a.number[0], &log, a.number[2], a.number[3], &state);
    error = done < 0 ? errno : 0;
    Py_END_ALLOW_THREADS;
    uint64_t numbers[] = {state.place.end, state.place.number, state.last,
                          state.entries,   state.scan,         state.wasted};
    for (int i = 0; i < 6; i++)
        br_put64(kept + 8 * i, numbers[i]);
    return br_finish_number(&a, error, done > 0);
}

static PyObject *hrl_encode_py(ARGUMENTS) {
    TAKE(hrl_encode, READ(header), READ(rows), READ(data), READ(stamps), WRITE(out));
    struct hrl_log log;
    if (take_log(&a, 0, &log) < 0)
        return br_reject(&a, "header is not that of a log");
    uint64_t rows = br_length(&a, 1) / HRL_ROW_SIZE;
    if (br_length(&a, 1) % HRL_ROW_SIZE != 0 || br_length(&a, 4) / HRL_ENTRY_SIZE < rows)
        return br_reject(&a, "rows must be whole, and out have 32 bytes for each");
    if (br_length(&a, 3) / 4 < rows)
        return br_reject(&a, "stamps must have 4 bytes for each row");
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = hrl_encode_rows(&log, br_bytes(&a, 1), rows, br_bytes(&a, 2), br_length(&a, 2), br_bytes(&a, 3),
                            br_bytes(&a, 4));
    Py_END_ALLOW_THREADS;
    if (error)
        return br_reject(&a,
                         "a row is outside the disk or the data, too long, or of an operation the log lacks");
    return br_finish_none(&a, 0);
}

static PyObject *hrl_block_py(ARGUMENTS) {
    TAKE(hrl_block, READ(header), WRITE(block), NUMBER(distance), NUMBER(number), NUMBER(entries));
    struct hrl_log log;
    if (take_log(&a, 0, &log) < 0)
        return br_reject(&a, "header is not that of a log");
    if (br_length(&a, 1) != log.metadata_size || a.number[4] > log.room)
        return br_reject(&a, "block must have the log's metadata size, and entries fit into it");
    hrl_encode_block(&log, br_bytes(&a, 1), a.number[2], (uint32_t)a.number[3], (uint32_t)a.number[4]);
    return br_finish_none(&a, 0);
}

#define METHOD(name, text)                                                                                   \
    { #name, (PyCFunction)(void (*)(void))name##_py, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR(text) }

static PyMethodDef methods[] = {
    METHOD(hrl_walk, "Positions of blocks, walking back."),
    METHOD(hrl_read, "Entries of blocks, checked."),
    METHOD(hrl_salvage, "Blocks of an unclosed log, looked for."),
    METHOD(hrl_encode, "Rows as entries of a log."),
    METHOD(hrl_block, "Finish a metadata block."),
    {NULL, NULL, 0, NULL},
};

int br_add_hrl(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
