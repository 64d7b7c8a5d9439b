/* What tells whether an image is still the one that was tracked, and what tells others that it is tracked. */
#ifndef BR_IDENTITY_H
#define BR_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

struct br_identity {
    uint64_t inode;
    uint64_t size;
    int64_t mtime_ns, ctime_ns; /* since 1970 */
    uint64_t generation;        /* of the inode; 0 where the file system tells none */
};

/* The identity of an open file; ENOTSUP: not a regular file, nothing about it proves anything. */
int br_identity_of(int fd, struct br_identity *identity);

/* The same, once the clock that stamps files has moved on: whoever writes after this returns leaves an mtime
 * or ctime that differs. Waits some milliseconds at the most. */
int br_identity_settled(int fd, struct br_identity *identity);

/* Whether an open file is one that a process shows by FUSE, and not the empty one beneath it, which is what
 * its name means again once that process has ended. */
bool br_is_shown(int fd);

/* Keep QEMU from beginning to write an open file, until it is closed; whoever writes it already goes on. 0 or
 * an errno. */
int br_image_keep(int fd);

/* Whether they are of one file with one content. `ignore_ctime`: one whose ctime alone changed (its owner,
 * its links) counts as that. */
bool br_identity_equal(const struct br_identity *a, const struct br_identity *b, bool ignore_ctime);

/* The kernel's id of this boot, zeros when it tells none. */
void br_boot_id(uint8_t id[16]);

/* Wall clock in nanoseconds since 1970: the one that stamps files (coarse), and the exact one. */
int64_t br_stamp_clock(void);
int64_t br_wall_clock(void);

/* A random (version 4) UUID. 0 or errno. */
int br_random_uuid(uint8_t uuid[16]);

/* Take the locks by which QEMU tells that an image is in use, so that it refuses the image while `fd` is
 * open. EWOULDBLOCK: somebody holds locks that exclude ours. */
int br_image_lock(int fd);

#endif
