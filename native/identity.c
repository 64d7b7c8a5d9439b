/* Identity of an image, and QEMU's image locks.
 *
 * File times are stamped by a clock of some milliseconds a tick. Two writes within one tick leave the same
 * times, so an identity that is read in the tick of the last write would also fit a later foreign write.
 * br_identity_settled waits that tick out.
 *
 * QEMU (block/file-posix.c describes it) locks one byte for every permission that it uses (100 + n), and one
 * for every permission that it denies to others (200 + n), both shared and by open file description; then it
 * tests that nobody denies what it uses or uses what it denies. We do as it does, as a user who reads, writes
 * and resizes and lets nobody else write or resize.
 */
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum { used = 100, denied = 200, consistent_read = 0, write_it = 1, resize_it = 3 };

static int64_t nanoseconds(struct timespec time) {
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int64_t br_stamp_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return nanoseconds(now);
}

int64_t br_wall_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return nanoseconds(now);
}

int br_identity_of(int fd, struct br_identity *identity) {
    struct stat stat;
    if (fd < 0)
        return ENOTSUP;
    if (fstat(fd, &stat) < 0)
        return errno;
    if (!S_ISREG(stat.st_mode))
        return ENOTSUP;
    long generation[1] = {0}; /* the kernel writes four bytes, whatever the request's number says */
    unsigned number = 0;
    if (ioctl(fd, FS_IOC_GETVERSION, generation) == 0)
        memcpy(&number, generation, sizeof number);
    *identity = (struct br_identity){
        .inode = stat.st_ino,
        .size = (uint64_t)stat.st_size,
        .mtime_ns = nanoseconds(stat.st_mtim),
        .ctime_ns = nanoseconds(stat.st_ctim),
        .generation = number,
    };
    return 0;
}

int br_identity_settled(int fd, struct br_identity *identity) {
    const struct timespec pause = {.tv_nsec = 1000000};
    int error = br_identity_of(fd, identity);
    /* Fifty pauses outlast any tick; times further ahead come from a clock that was set back since, and then
     * the next write's time differs anyway. */
    for (int i = 0; i < 50 && !error; i++) {
        int64_t now = br_stamp_clock();
        if (now > identity->mtime_ns && now > identity->ctime_ns)
            return 0;
        nanosleep(&pause, NULL);
        error = br_identity_of(fd, identity);
    }
    return error;
}

bool br_identity_equal(const struct br_identity *a, const struct br_identity *b, bool ignore_ctime) {
    return a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           (ignore_ctime || a->ctime_ns == b->ctime_ns) && a->generation == b->generation;
}

static int hex(char digit) {
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

void br_boot_id(uint8_t id[16]) {
    char text[64] = {0};
    memset(id, 0, 16);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    for (ssize_t at = 0, nibble = 0; at < length && nibble < 32; at++)
        if (hex(text[at]) >= 0) {
            id[nibble / 2] = (uint8_t)(id[nibble / 2] << 4 | hex(text[at]));
            nibble++;
        }
}

int br_random_uuid(uint8_t uuid[16]) {
    ssize_t length;
    do
        length = getrandom(uuid, 16, 0);
    while (length < 0 && errno == EINTR);
    if (length != 16)
        return length < 0 ? errno : EIO;
    uuid[7] = (uint8_t)((uuid[7] & 0x0f) | 0x40); /* the format keeps UUIDs as GUIDs: this is the third
                                                     field's high byte */
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
    return 0;
}

static int lock_byte(int fd, int byte) {
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? errno : 0;
}

/* EWOULDBLOCK: somebody else has a lock on the byte. */
static int test_byte(int fd, int byte) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return errno;
    return lock.l_type == F_UNLCK ? 0 : EWOULDBLOCK;
}

int br_image_lock(int fd) {
    static const int ours[] = {used + consistent_read, used + write_it, used + resize_it, denied + write_it,
                               denied + resize_it};
    static const int theirs[] = {denied + consistent_read, denied + write_it, denied + resize_it,
                                 used + write_it, used + resize_it};
    int error = 0;
    for (size_t i = 0; i < 5 && !error; i++)
        error = lock_byte(fd, ours[i]);
    for (size_t i = 0; i < 5 && !error; i++)
        error = test_byte(fd, theirs[i]);
    return error == EAGAIN || error == EACCES ? EWOULDBLOCK : error;
}

bool br_is_shown(int fd) {
    struct statfs system;
    return fstatfs(fd, &system) == 0 && system.f_type == FUSE_SUPER_MAGIC;
}

int br_image_keep(int fd) {
    int error = lock_byte(fd, denied + write_it);
    return error ? error : lock_byte(fd, denied + resize_it);
}
