/* Files and folders as tables of operations: the tracker touches nothing else.
 *
 * ops_posix.c is the table of the real system, py_ops.c one that calls Python objects, so that a test can
 * fail, lose, tear and reorder what the tracker does, and so that an image may be more than one file. A
 * program puts its own first member `ops` in front of whatever it needs.
 *
 * Every operation returns 0 or an errno. Reads and writes are whole or fail; a write that fails may have been
 * done in part. All may be called by several threads at once.
 */
#ifndef BR_OPS_H
#define BR_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct br_file;
struct br_folder;

/* What became of an extent that was discarded. */
enum br_discarded {
    BR_READS_ZERO, /* it reads as zeros now */
    BR_UNTOUCHED,  /* nothing happened */
    BR_UNKNOWN,    /* its content is whatever it is */
};

struct br_file_ops {
    int (*pread)(struct br_file *file, void *data, size_t length, uint64_t offset); /* ENODATA: ends before */
    int (*pwrite)(struct br_file *file, const void *data, size_t length, uint64_t offset);
    int (*zero)(struct br_file *file, uint64_t offset, uint64_t length);
    int (*discard)(struct br_file *file, uint64_t offset, uint64_t length, enum br_discarded *result);
    int (*sync)(struct br_file *file);
    int (*size)(struct br_file *file, uint64_t *size);
    int (*truncate)(struct br_file *file, uint64_t size);
    int (*lock)(struct br_file *file); /* exclusive, until close; EWOULDBLOCK: somebody else has it */
    /* Optional (NULL): have room for the first `length` bytes, growing the file to that, so that writing them
     * can't fail for want of it. */
    int (*reserve)(struct br_file *file, uint64_t length);
    /* Optional (NULL, or EOPNOTSUPP): map the first `length` bytes, shared, such that a store can't fail.
     * Where that can't be had, whoever needs a mapping keeps a copy in memory and writes it through. */
    int (*map)(struct br_file *file, uint64_t length, void **address);
    /* Optional (NULL, or EOPNOTSUPP): make the extent read as zeros without writing them; `keep`: its room
     * stays allocated. */
    int (*zero_fast)(struct br_file *file, uint64_t offset, uint64_t length, bool keep);
    /* Optional (NULL, or EOPNOTSUPP): whether there is a hole at `offset`, and how far in `length` that is
     * so. */
    int (*extent)(struct br_file *file, uint64_t offset, uint64_t length, bool *hole, uint64_t *run);
    int (*fileno)(struct br_file *file); /* the descriptor for fstat and locks, -1: there is none */
    void (*close)(struct br_file *file);
};

struct br_file {
    const struct br_file_ops *ops;
};

enum { BR_OPEN_WRITE = 1, BR_OPEN_CREATE = 2 }; /* CREATE: if it is missing */

/* Names are those of files in the folder, without a slash. */
struct br_folder_ops {
    int (*open)(struct br_folder *folder, const char *name, int flags, struct br_file **file);
    int (*rename)(struct br_folder *folder, const char *from, const char *to);
    int (*unlink)(struct br_folder *folder, const char *name); /* a missing file is no error */
    int (*sync)(struct br_folder *folder);
    int (*list)(struct br_folder *folder, void (*each)(void *context, const char *name), void *context);
    /* Optional (NULL): bytes that are free, and that there are, in the file system. */
    int (*room)(struct br_folder *folder, uint64_t *free, uint64_t *total);
    void (*close)(struct br_folder *folder);
};

struct br_folder {
    const struct br_folder_ops *ops;
};

/* A folder of the real file system. */
int br_folder_posix(const char *path, struct br_folder **folder);

/* Folder `others`, in which `name` is that of folder `image`. Takes both over in any case. */
int br_folder_split(struct br_folder *image, const char *name, struct br_folder *others,
                    struct br_folder **folder);

/* Close and forget, if it is there. */
void br_file_close(struct br_file **file);
void br_folder_close(struct br_folder **folder);

#endif
