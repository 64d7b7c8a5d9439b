/* Whole reads and writes at an offset, and where a file has data. All return 0 or an errno. */
#ifndef BR_IO_H
#define BR_IO_H

#include <stddef.h>
#include <stdint.h>

/* Read until `length` bytes are there or the file ends; *got says how many came. */
int br_read_at(int fd, uint8_t *data, size_t length, uint64_t offset, size_t *got);

/* Write all of it. A write that makes no progress is EIO. */
int br_write_at(int fd, const uint8_t *data, size_t length, uint64_t offset);

/* Bytes in a file or a block device. */
int br_file_size(int fd, uint64_t *size);

/* Bytes by which a sparse file may still grow up to `size`, if that takes room from where file `beside`
 * stands, else 0. A block device takes none. */
uint64_t br_may_grow(int fd, uint64_t size, int beside);

/* The first run of data within [start, end), as [*data, *hole); both are `end` where there is none. What the
 * system cannot tell counts as data. Moves the descriptor's own file position. */
int br_next_data(int fd, uint64_t start, uint64_t end, uint64_t *data, uint64_t *hole);

/* Make [offset, offset + length) read as zeros; as a hole where that can be, else by writing zeros. Never
 * changes the size and touches nothing behind the end. */
int br_punch_hole(int fd, uint64_t offset, uint64_t length);

/* The same without a hole: for file systems whose holes need not read as zeros. */
int br_zero_range(int fd, uint64_t offset, uint64_t length);

/* Batches of extents: rows of file offset u64, length u64, buffer offset u64, little-endian. */
#define BR_EXTENT_SIZE 24

/* Whether every row lies within the buffer and below file offset 2^63. */
int br_extents_fit(const uint8_t *rows, size_t count, uint64_t buffer_size);

/* In the order of the rows; what lies behind the end of the file reads as zeros. */
int br_read_extents(int fd, const uint8_t *rows, size_t count, uint8_t *buffer);
int br_write_extents(int fd, const uint8_t *rows, size_t count, const uint8_t *buffer);

#endif
