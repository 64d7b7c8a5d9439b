/* Python's face of the kernels that work on file descriptors. */
#include "py_args.h"
#include "py_module.h"

#include <limits.h>

#include "blend.h"
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
         WRITE(out), OPTION(seed), OPTION(threads), {"punch", BR_FLAG, BR_KEYWORD_ONLY, 0},
         {"lazy", BR_FLAG, BR_KEYWORD_ONLY, 0});
    struct br_blocks blocks;
    const char *wrong = take_blocks(&a, 2, 5, 6, &blocks);
    if (wrong)
        return br_reject(&a, wrong);
    struct br_copy_how how = {a.number[8] != 0, a.number[9] != 0};
    uint64_t written = 0;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_copy_file((int)a.number[0], (int)a.number[1], &blocks, how, &written);
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

/* Whether the arguments of blend_blocks fit one another; NULL, or what does not. */
static const char *take_blend(const struct br_arguments *a, struct br_blend *blend) {
    if (br_length(a, 3) % 8 != 0 || br_length(a, 6) % 8 != 0)
        return "blocks and granules must be numbers of 8 bytes";
    if (br_length(a, 4) % BR_EXTENT_SIZE != 0)
        return "rows must be of 24 bytes";
    *blend = (struct br_blend){
        .fd = (int)a->number[0],
        .size = a->number[1],
        .block_size = (size_t)a->number[2],
        .seed = a->number[12],
        .threads = a->number[13] > INT_MAX ? INT_MAX : (unsigned)a->number[13],
        .again = a->number[14] != 0,
        .blocks = br_bytes(a, 3),
        .rows = br_bytes(a, 4),
        .data = br_bytes(a, 5),
        .granules = br_bytes(a, 6),
        .block_count = br_length(a, 3) / 8,
        .row_count = br_length(a, 4) / BR_EXTENT_SIZE,
        .data_size = br_length(a, 5),
        .granule_count = br_length(a, 6) / 8,
        .old = br_bytes(a, 7),
        .new = br_bytes(a, 8),
        .marks = br_bytes(a, 9),
        .before = br_bytes(a, 10),
        .after = br_bytes(a, 11),
    };
    size_t granules = blend->granule_count, blocks = blend->block_count;
    if (br_length(a, 7) / BR_GRANULE < granules || br_length(a, 8) / BR_GRANULE < granules)
        return "old and new must have 4096 bytes for each granule";
    if (br_length(a, 9) < granules)
        return "marks must have a byte for each granule";
    if (br_length(a, 10) / BR_ENTRY_SIZE < blocks || br_length(a, 11) / BR_ENTRY_SIZE < blocks)
        return "before and after must have 16 bytes for each block";
    return br_blend_wrong(blend);
}

static PyObject *blend_blocks(ARGUMENTS) {
    TAKE(blend_blocks, FD(fd), OFFSET(size), NUMBER(block_size), READ(blocks), READ(rows), READ(data),
         READ(granules), WRITE(old), WRITE(new), WRITE(marks), WRITE(before), WRITE(after), OPTION(seed),
         OPTION(threads), {"again", BR_FLAG, BR_KEYWORD_ONLY, 0});
    struct br_blend blend;
    const char *wrong = take_blend(&a, &blend);
    if (wrong)
        return br_reject(&a, wrong);
    int error;
    Py_BEGIN_ALLOW_THREADS;
    error = br_blend_blocks(&blend);
    Py_END_ALLOW_THREADS;
    return br_finish_number(&a, error, blend.changed);
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
    BR_METHOD(blend_blocks, "Lay writes over blocks of a file; returns their bytes that change it."),
#endif
    BR_METHOD(read_extents, "Read a batch of extents into a buffer."),
    BR_METHOD(write_extents, "Write a batch of extents from a buffer."),
    BR_METHOD(punch_hole, "Make an extent of a file read as zeros."),
    {NULL, NULL, 0, NULL},
};

int br_add_file_kernels(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
