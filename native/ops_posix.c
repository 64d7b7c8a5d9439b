/* The real file system's table of operations: plain calls, done whole, repeated after a signal. */
#include "ops.h"

#include "io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

struct posix_file {
    struct br_file base;
    int fd;
};

struct posix_folder {
    struct br_folder base;
    int fd;
};

static int fd_of(struct br_file *file) {
    return ((struct posix_file *)file)->fd;
}

static int fd_of_folder(struct br_folder *folder) {
    return ((struct posix_folder *)folder)->fd;
}

static int posix_pread(struct br_file *file, void *data, size_t length, uint64_t offset) {
    size_t got;
    int error = br_read_at(fd_of(file), data, length, offset, &got);
    return error || got == length ? error : ENODATA;
}

static int posix_pwrite(struct br_file *file, const void *data, size_t length, uint64_t offset) {
    return br_write_at(fd_of(file), data, length, offset);
}

static int allocate(int fd, int mode, uint64_t offset, uint64_t length) {
    int result;
    do
        result = fallocate(fd, mode, (off_t)offset, (off_t)length);
    while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

static int posix_zero(struct br_file *file, uint64_t offset, uint64_t length) {
    return br_punch_hole(fd_of(file), offset, length);
}

/* A punched hole reads as zeros, on files and (the kernel sees to it) on block devices. */
static int posix_discard(struct br_file *file, uint64_t offset, uint64_t length, enum br_discarded *result) {
    int error = allocate(fd_of(file), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    *result = error ? BR_UNTOUCHED : BR_READS_ZERO;
    return error == EOPNOTSUPP || error == ENOSYS ? 0 : error;
}

static int posix_zero_fast(struct br_file *file, uint64_t offset, uint64_t length, bool keep) {
    int mode = keep ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
    int error = allocate(fd_of(file), mode | FALLOC_FL_KEEP_SIZE, offset, length);
    return error == ENOSYS || error == EINVAL ? EOPNOTSUPP : error; /* EINVAL: a device's unaligned extent */
}

/* QEMU's FUSE export answers a punched hole with success where its format did nothing, or only in part. */
static int fuse_zero(struct br_file *file, uint64_t offset, uint64_t length) {
    return br_zero_range(fd_of(file), offset, length);
}

static int fuse_discard(struct br_file *file, uint64_t offset, uint64_t length, enum br_discarded *result) {
    int error = posix_discard(file, offset, length, result);
    *result = BR_UNKNOWN;
    return error;
}

static int fuse_zero_fast(struct br_file *file, uint64_t offset, uint64_t length, bool keep) {
    (void)keep;
    return posix_zero_fast(file, offset, length, true);
}

static int posix_extent(struct br_file *file, uint64_t offset, uint64_t length, bool *hole, uint64_t *run) {
    uint64_t end = offset + length;
    off_t data = lseek(fd_of(file), (off_t)offset, SEEK_DATA);
    if (data < 0 && errno != ENXIO) /* ENXIO: no data from here on */
        return errno == EINVAL ? EOPNOTSUPP : errno;
    *hole = data < 0 || (uint64_t)data > offset;
    off_t next = *hole ? data : lseek(fd_of(file), (off_t)offset, SEEK_HOLE);
    *run = next > (off_t)offset && (uint64_t)next < end ? (uint64_t)next - offset : length;
    return 0;
}

static int posix_sync(struct br_file *file) {
    return fdatasync(fd_of(file)) < 0 ? errno : 0;
}

static int posix_size(struct br_file *file, uint64_t *size) {
    return br_file_size(fd_of(file), size);
}

static int posix_truncate(struct br_file *file, uint64_t size) {
    return ftruncate(fd_of(file), (off_t)size) < 0 ? errno : 0;
}

static int posix_lock(struct br_file *file) {
    return flock(fd_of(file), LOCK_EX | LOCK_NB) < 0 ? errno : 0;
}

/* btrfs writes elsewhere what it overwrites, and so may need room where there was enough: unless told not to,
 * while the file is empty. */
static void overwrite_in_place(int fd) {
    struct statfs system;
    int flags;
    if (fstatfs(fd, &system) == 0 && system.f_type == BTRFS_SUPER_MAGIC &&
        ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
}

static int posix_reserve(struct br_file *file, uint64_t length) {
    uint64_t size;
    int error = posix_size(file, &size);
    if (!error && size == 0)
        overwrite_in_place(fd_of(file));
    if (!error)
        error = allocate(fd_of(file), 0, 0, length);
    if (error == EOPNOTSUPP || error == ENOSYS)
        error = posix_fallocate(fd_of(file), 0, (off_t)length);
    return error;
}

/* A store that finds no room, or a page that can't be read again, kills the process. So only file systems
 * that keep the room they gave are mapped, and the pages are locked, if we may. */
static int posix_map(struct br_file *file, uint64_t length, void **address) {
    struct statfs system;
    if (fstatfs(fd_of(file), &system) < 0)
        return errno;
    if (system.f_type != EXT4_SUPER_MAGIC && system.f_type != XFS_SUPER_MAGIC && system.f_type != TMPFS_MAGIC)
        return EOPNOTSUPP;
    *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd_of(file), 0);
    if (*address == MAP_FAILED)
        return errno;
    mlock(*address, length);
    return 0;
}

static int posix_fileno(struct br_file *file) {
    return fd_of(file);
}

static void posix_close(struct br_file *file) {
    close(fd_of(file));
    free(file);
}

static const struct br_file_ops posix_file_ops = {
    .pread = posix_pread,
    .pwrite = posix_pwrite,
    .zero = posix_zero,
    .discard = posix_discard,
    .zero_fast = posix_zero_fast,
    .extent = posix_extent,
    .sync = posix_sync,
    .size = posix_size,
    .truncate = posix_truncate,
    .lock = posix_lock,
    .reserve = posix_reserve,
    .map = posix_map,
    .fileno = posix_fileno,
    .close = posix_close,
};

static const struct br_file_ops fuse_file_ops = {
    .pread = posix_pread,
    .pwrite = posix_pwrite,
    .zero = fuse_zero,
    .discard = fuse_discard,
    .zero_fast = fuse_zero_fast,
    .extent = posix_extent,
    .sync = posix_sync,
    .size = posix_size,
    .truncate = posix_truncate,
    .lock = posix_lock,
    .reserve = posix_reserve,
    .map = posix_map,
    .fileno = posix_fileno,
    .close = posix_close,
};

static const struct br_file_ops *ops_for(int fd) {
    struct statfs system;
    return fstatfs(fd, &system) == 0 && system.f_type == FUSE_SUPER_MAGIC ? &fuse_file_ops : &posix_file_ops;
}

static int posix_open(struct br_folder *folder, const char *name, int flags, struct br_file **file) {
    int how =
        O_CLOEXEC | (flags & BR_OPEN_WRITE ? O_RDWR : O_RDONLY) | (flags & BR_OPEN_CREATE ? O_CREAT : 0);
    int fd = openat(fd_of_folder(folder), name, how, 0666);
    if (fd < 0)
        return errno;
    struct posix_file *opened = malloc(sizeof *opened);
    if (!opened) {
        close(fd);
        return ENOMEM;
    }
    *opened = (struct posix_file){.base.ops = ops_for(fd), .fd = fd};
    *file = &opened->base;
    return 0;
}

static int posix_rename(struct br_folder *folder, const char *from, const char *to) {
    int fd = fd_of_folder(folder);
    return renameat(fd, from, fd, to) < 0 ? errno : 0;
}

static int posix_unlink(struct br_folder *folder, const char *name) {
    if (unlinkat(fd_of_folder(folder), name, 0) == 0 || errno == ENOENT)
        return 0;
    return errno;
}

static int posix_sync_folder(struct br_folder *folder) {
    return fsync(fd_of_folder(folder)) < 0 ? errno : 0;
}

static int posix_list(struct br_folder *folder, void (*each)(void *context, const char *name),
                      void *context) {
    int fd = openat(fd_of_folder(folder), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *open = fd < 0 ? NULL : fdopendir(fd);
    if (!open) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return error;
    }
    const struct dirent *entry;
    for (errno = 0; (entry = readdir(open)); errno = 0)
        each(context, entry->d_name);
    int error = errno;
    closedir(open);
    return error;
}

static int posix_room(struct br_folder *folder, uint64_t *free, uint64_t *total) {
    struct statvfs system;
    if (fstatvfs(fd_of_folder(folder), &system) < 0)
        return errno;
    *free = (uint64_t)system.f_bavail * system.f_frsize;
    *total = (uint64_t)system.f_blocks * system.f_frsize;
    return 0;
}

static void posix_close_folder(struct br_folder *folder) {
    close(fd_of_folder(folder));
    free(folder);
}

static const struct br_folder_ops posix_folder_ops = {
    .open = posix_open,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .sync = posix_sync_folder,
    .list = posix_list,
    .room = posix_room,
    .close = posix_close_folder,
};

int br_folder_posix(const char *path, struct br_folder **folder) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    struct posix_folder *opened = malloc(sizeof *opened);
    if (!opened) {
        close(fd);
        return ENOMEM;
    }
    *opened = (struct posix_folder){.base.ops = &posix_folder_ops, .fd = fd};
    *folder = &opened->base;
    return 0;
}

void br_file_close(struct br_file **file) {
    if (*file)
        (*file)->ops->close(*file);
    *file = NULL;
}

void br_folder_close(struct br_folder **folder) {
    if (*folder)
        (*folder)->ops->close(*folder);
    *folder = NULL;
}
