/* System calls, each carried on until all is done. */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

int br_read_at(int fd, uint8_t *data, size_t length, uint64_t offset, size_t *got) {
    for (*got = 0; *got < length;) {
        ssize_t count = pread(fd, data + *got, length - *got, (off_t)(offset + *got));
        if (count == 0)
            break;
        if (count > 0)
            *got += (size_t)count;
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

int br_write_at(int fd, const uint8_t *data, size_t length, uint64_t offset) {
    for (size_t done = 0; done < length;) {
        ssize_t count = pwrite(fd, data + done, length - done, (off_t)(offset + done));
        if (count == 0)
            return EIO;
        if (count > 0)
            done += (size_t)count;
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

int br_file_size(int fd, uint64_t *size) {
    struct stat status;
    if (fstat(fd, &status) != 0)
        return errno;
    if (S_ISBLK(status.st_mode))
        return ioctl(fd, BLKGETSIZE64, size) == 0 ? 0 : errno;
    *size = (uint64_t)status.st_size;
    return 0;
}

uint64_t br_may_grow(int fd, uint64_t size, int beside) {
    struct stat file, other;
    if (fstat(fd, &file) != 0 || fstat(beside, &other) != 0 || !S_ISREG(file.st_mode) ||
        file.st_dev != other.st_dev)
        return 0;
    uint64_t allocated = (uint64_t)file.st_blocks * 512;
    return size > allocated ? size - allocated : 0;
}

int br_next_data(int fd, uint64_t start, uint64_t end, uint64_t *data, uint64_t *hole) {
    *data = *hole = end;
    if (start >= end)
        return 0;
    off_t at = lseek(fd, (off_t)start, SEEK_DATA);
    if (at < 0 && errno == ENXIO)
        return 0; /* a hole up to the end of the file */
    if (at < 0 && errno != EINVAL && errno != EOPNOTSUPP)
        return errno;
    if (at < 0)
        at = (off_t)start; /* a block device, or a file system that does not know */
    else if ((uint64_t)at >= end)
        return 0;
    off_t behind = lseek(fd, at, SEEK_HOLE);
    *data = (uint64_t)at;
    if (behind > at && (uint64_t)behind < end)
        *hole = (uint64_t)behind;
    return 0;
}

static int write_zeros(int fd, uint64_t offset, uint64_t length) {
    static const uint8_t zeros[1 << 16];
    while (length) {
        size_t size = length < sizeof zeros ? (size_t)length : sizeof zeros;
        int error = br_write_at(fd, zeros, size, offset);
        if (error)
            return error;
        offset += size;
        length -= size;
    }
    return 0;
}

static int zero_by(size_t index, int fd, uint64_t offset, uint64_t length) {
    uint64_t size;
    int error = br_file_size(fd, &size);
    if (error || offset >= size)
        return error;
    if (length > size - offset)
        length = size - offset;
    static const int modes[] = {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
    while (length && index < 2) {
        if (fallocate(fd, modes[index], (off_t)offset, (off_t)length) == 0)
            return 0;
        if (errno == EINTR)
            continue;
        if (errno != EOPNOTSUPP && errno != ENOSYS &&
            errno != EINVAL) /* EINVAL: a device's unaligned extent */
            return errno;
        index++;
    }
    return write_zeros(fd, offset, length);
}

int br_punch_hole(int fd, uint64_t offset, uint64_t length) {
    return zero_by(0, fd, offset, length);
}

int br_zero_range(int fd, uint64_t offset, uint64_t length) {
    return zero_by(1, fd, offset, length);
}
