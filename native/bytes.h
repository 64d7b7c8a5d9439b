/* Little-endian integers at any address. */
#ifndef BR_BYTES_H
#define BR_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t br_get32(const void *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return le32toh(value);
}

static inline uint64_t br_get64(const void *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return le64toh(value);
}

static inline void br_put32(void *at, uint32_t value) {
    value = htole32(value);
    memcpy(at, &value, 4);
}

static inline void br_put64(void *at, uint64_t value) {
    value = htole64(value);
    memcpy(at, &value, 8);
}

#endif
