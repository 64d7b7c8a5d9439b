/* What tests of the tracker share: a folder of their own, and sealed logs that are checked and applied. */
#ifndef LOGS_H
#define LOGS_H

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../bytes.h"
#include "../hrl.h"
#include "check.h"

static char folder[PATH_MAX];

static inline char *path_of(const char *name) {
    static char path[PATH_MAX + 300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static inline uint8_t *slurp(const char *name, uint64_t *length) {
    struct stat status;
    int fd = open(path_of(name), O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &status) == 0);
    *length = (uint64_t)status.st_size;
    uint8_t *content = malloc(*length + 1);
    CHECK(content && pread(fd, content, *length, 0) == (ssize_t)*length);
    close(fd);
    return content;
}

static inline void clear_folder(void) {
    DIR *open = opendir(folder);
    CHECK(open);
    for (struct dirent *entry; (entry = readdir(open));)
        if (entry->d_name[0] != '.')
            unlink(path_of(entry->d_name));
    closedir(open);
}

/* Entries of one block, applied. Returns the bytes of data that they have in the log. */
static uint64_t apply_block(const struct hrl_log *format, const uint8_t *block, const uint8_t *data,
                            uint8_t *image, uint64_t size) {
    struct hrl_block header;
    struct hrl_entry entry;
    struct hrl_fault fault;
    uint64_t used = 0;
    CHECK(hrl_decode_block_header(format, block, &header, &fault));
    for (uint32_t i = 0; i < header.entries; i++) {
        CHECK(hrl_decode_entry(format, block + 32 + 32 * i, &entry, &fault));
        CHECK(entry.offset <= size && entry.length <= size - entry.offset);
        CHECK(entry.crc == hrl_entry_crc(entry.offset, entry.length, entry.operation, data + used));
        if (entry.operation == HRL_ZERO)
            memset(image + entry.offset, 0, entry.length);
        else
            memcpy(image + entry.offset, data + used, entry.length);
        used += hrl_data_length(&entry);
    }
    return used;
}

/* Apply a sealed log to `image`, which has `size` bytes. */
static inline void replay_log(const uint8_t *log, uint64_t length, uint8_t *image, uint64_t size) {
    uint64_t blocks = 0;
    static uint64_t at[1 << 16];
    struct hrl_header header;
    struct hrl_log format;
    struct hrl_fault fault;
    CHECK(hrl_decode_header(log, &header, &fault) && header.end && header.end <= length);
    hrl_bind(&format, &header);
    for (uint64_t here = header.end - HRL_METADATA_SIZE;; here -= br_get64(log + here)) {
        at[blocks++] = here;
        if (br_get64(log + here) == 0)
            break;
    }
    uint64_t data = HRL_HEADER_SIZE;
    while (blocks--) {
        data += apply_block(&format, log + at[blocks], log + data, image, size);
        CHECK(data == at[blocks]);
        data += HRL_METADATA_SIZE;
    }
    CHECK(header.end == data);
}

/* That of an epoch. */
static inline void replay(uint64_t epoch, uint8_t *image, uint64_t size) {
    char name[64];
    uint64_t length;
    snprintf(name, sizeof name, "vm.img.%06llu.hrl", (unsigned long long)epoch);
    uint8_t *log = slurp(name, &length);
    replay_log(log, length, image, size);
    free(log);
}

static inline void make_folder(const char *name) {
    const char *temporary = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/%s.XXXXXX", temporary ? temporary : "/tmp", name);
    CHECK(mkdtemp(folder));
}

static inline void remove_folder(void) {
    clear_folder();
    CHECK(rmdir(folder) == 0);
}

#endif
