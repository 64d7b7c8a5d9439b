/* CRC-32C in portable C: eight table lookups for eight bytes. table[k][b] is what byte b does to the register
 * when k more bytes follow it. */
#include "crc32c.h"

#include <pthread.h>
#include <string.h>

#include "bytes.h"

#define POLYNOMIAL 0x82F63B78u /* 0x1EDC6F41, bits reversed */

static uint32_t table[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_table(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        table[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++)
            table[k][byte] = table[k - 1][byte] >> 8 ^ table[0][table[k - 1][byte] & 255];
}

uint32_t br_crc32c_scalar(uint32_t value, const uint8_t *data, size_t length) {
    pthread_once(&once, fill_table);
    uint32_t crc = ~value;
    for (; length >= 8; data += 8, length -= 8) {
        uint32_t low = br_get32(data) ^ crc, high = br_get32(data + 4);
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^
              table[4][low >> 24] ^ table[3][high & 255] ^ table[2][high >> 8 & 255] ^
              table[1][high >> 16 & 255] ^ table[0][high >> 24];
    }
    for (; length; data++, length--)
        crc = crc >> 8 ^ table[0][(crc ^ *data) & 255];
    return ~crc;
}

void br_crc32c_rows(uint32_t value, const uint8_t *rows, size_t count, size_t row_size, size_t length,
                    uint8_t *out) {
    br_crc_fn *crc32c = br_cpu()->crc32c;
    for (size_t row = 0; row < count; row++)
        br_put32(out + 4 * row, crc32c(value, rows + row * row_size, length));
}
