/* The sum that [MS-HRL] builds its checksums on. */
#ifndef BR_BYTESUM_H
#define BR_BYTESUM_H

#include <stddef.h>
#include <stdint.h>

/* The sum of all bytes, modulo 2^32. The format stores its complement. */
uint32_t br_byte_sum(const void *data, size_t length);

#endif
