/* Many log entries, in the order written, into the extents that remain: the last write wins. */
#ifndef BR_COALESCE_H
#define BR_COALESCE_H

#include <stddef.h>
#include <stdint.h>

/* One row, little-endian: offset u64, length u64, source u64, log u32, operation u32. */
#define BR_ROW_SIZE 32
enum br_operation { BR_WRITE_OPERATION = 1, BR_ZERO_OPERATION = 2 };

/* `count` rows in, at most 2 * count rows out, sorted by offset, none overlapping another. The source of a
 * write that loses its beginning moves with it, a zero keeps its own. Pieces that touch and go on in the same
 * log are one row. O(count log count) time, O(count) memory. Returns 0; EINVAL: a row has another operation,
 * or an end beyond 2^64 - 1; ENOMEM; E2BIG: more than 2^32 - 1 rows. */
int br_coalesce(const uint8_t *rows, size_t count, uint8_t *out, size_t *out_count);

#endif
