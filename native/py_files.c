/* Python's face of the kernels that work on file descriptors. */
#include "py_args.h"
#include "py_module.h"

#include <limits.h>

#include "checksum.h"
#include "files.h"
#include "hash.h"
#include "io.h"

#if BR_HAVE_XXHASH
/* Offset, length, block size stand at `at`, the table at `at` + 3 or behind, then seed and threads at
 * `options`. Returns NULL when all is in range, else what is wrong. */
static const char *take_blocks(const struct br_arguments *a, int at, int table, int options,
                               struct br_blocks *blocks) {
    uint64_t offset = a->number[at], length = a->number[at + 1], block_size = a->number[at + 2];
    uint64_t threads = a->number[options + 1];
    if (length > INT64_MAX - offset)
        return "the extent must end below 2**63";
    if (block_size == 0 || block_size > BR_MOST_BLOCK_SIZE)
        return "block_size must be from 1 to 64 MiB";
    if (br_length(a, table) / BR_ENTRY_SIZE < br_block_count(length, block_size))
        return "out must have 16 bytes for each block";
    *blocks = (struct br_blocks){offset,
                                 length,
                                 (size_t)block_size,
                                 a->number[options],
                                 threads > INT_MAX ? INT_MAX : (unsigned)threads,
                                 br_bytes(a, table)};
    return NULL;
}

static PyObject *checksum_file(ARGUMENTS) {
    TAKE(checksum_file, FD(fd), OFFSET(offset), OFFSET(length), NUMBER(block_size), WRITE(out), OPTION(seed),
         OPTION(threads));
    struct br_blocks blocks;
    const char *wrong = take_blocks(&a, 1, 4, 5, &blocks);
    if (wrong)
        return br_reject(&a, wrong);
    uint64_t bytes_read = 0;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_checksum_file((int)a.number[0], &blocks, &bytes_read);
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, error, bytes_read);
}

static PyObject *copy_file(ARGUMENTS) {
    TAKE(copy_file, FD(source_fd), FD(target_fd), OFFSET(offset), OFFSET(length), NUMBER(block_size),
         WRITE(out), OPTION(seed), OPTION(threads), {"punch", BR_FLAG, BR_KEYWORD_ONLY, 0});
    struct br_blocks blocks;
    const char *wrong = take_blocks(&a, 2, 5, 6, &blocks);
    if (wrong)
        return br_reject(&a, wrong);
    uint64_t written = 0;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_copy_file((int)a.number[0], (int)a.number[1], &blocks, a.number[8] != 0, &written);
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, error, written);
}

static PyObject *compare_files(ARGUMENTS) {
    TAKE(compare_files, FD(primary_fd), FD(replica_fd), OFFSET(offset), OFFSET(length), NUMBER(block_size),
         NUMBER(granule), WRITE(out), WRITE(dirty), OPTION(seed), OPTION(threads));
    struct br_blocks blocks;
    const char *wrong = take_blocks(&a, 2, 6, 8, &blocks);
    if (wrong)
        return br_reject(&a, wrong);
    uint64_t granule = a.number[5], differing = 0;
    if (granule == 0 || blocks.block_size % granule != 0)
        return br_reject(&a, "granule must divide block_size");
    if (br_length(&a, 7) < br_block_count(br_block_count(blocks.length, granule), 8))
        return br_reject(&a, "dirty must have a bit for each granule");
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error =
        br_compare_files((int)a.number[0], (int)a.number[1], &blocks, granule, br_bytes(&a, 7), &differing);
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, error, differing);
}
#endif

/* Whether argument 1 is rows of extents that fit argument 2; raises and releases where it is not. */
static int check_extents(struct br_arguments *a) {
    const char *wrong = NULL;
    if (br_length(a, 1) % BR_EXTENT_SIZE != 0)
        wrong = "extents must be rows of 24 bytes";
    else if (!br_extents_fit(br_bytes(a, 1), br_length(a, 1) / BR_EXTENT_SIZE, br_length(a, 2)))
        wrong = "an extent reaches beyond the buffer, or beyond 2**63";
    if (wrong)
        br_reject(a, wrong);
    return wrong == NULL;
}

static PyObject *read_extents(ARGUMENTS) {
    TAKE(read_extents, FD(fd), READ(extents), WRITE(buffer));
    if (!check_extents(&a))
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_read_extents((int)a.number[0], br_bytes(&a, 1), br_length(&a, 1) / BR_EXTENT_SIZE,
                            br_bytes(&a, 2));
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, error);
}

static PyObject *write_extents(ARGUMENTS) {
    TAKE(write_extents, FD(fd), READ(extents), READ(buffer));
    if (!check_extents(&a))
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_write_extents((int)a.number[0], br_bytes(&a, 1), br_length(&a, 1) / BR_EXTENT_SIZE,
                             br_bytes(&a, 2));
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, error);
}

static PyObject *punch_hole(ARGUMENTS) {
    TAKE(punch_hole, FD(fd), OFFSET(offset), OFFSET(length));
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_punch_hole((int)a.number[0], a.number[1], a.number[2]);
    Py_END_ALLOW_THREADS;
    return br_finish_none(&a, error);
}

static PyMethodDef methods[] = {
#if BR_HAVE_XXHASH
    BR_METHOD(checksum_file, "Checksum table of a file extent; returns the bytes read."),
    BR_METHOD(copy_file, "Copy a file extent, building its checksum table; returns the bytes written."),
    BR_METHOD(compare_files, "Compare a file extent of two files; returns how many granules differ."),
#endif
    BR_METHOD(read_extents, "Read a batch of extents into a buffer."),
    BR_METHOD(write_extents, "Write a batch of extents from a buffer."),
    BR_METHOD(punch_hole, "Make an extent of a file read as zeros."),
    {NULL, NULL, 0, NULL},
};

int br_add_file_kernels(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
