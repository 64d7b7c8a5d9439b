/* A folder in memory that loses what a power cut takes: each sector that was not synced is, by chance, old or
 * new; names are those of the last sync of the folder, or the newer ones. A call may be made to fail, or to
 * be the last one that anybody made. Files may be mapped: what is stored there waits for a sync as well. */
#ifndef BR_TESTS_MEMORY_H
#define BR_TESTS_MEMORY_H

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../ops.h"
#include "check.h"

#ifndef MEMORY_FILES
#define MEMORY_FILES 6
#define MEMORY_ROOM (1 << 20)
#endif
enum { memory_files = MEMORY_FILES, memory_room = MEMORY_ROOM, memory_sector = 512, memory_page = 4096 };

struct memory_content {
    uint8_t *now, *durable;
    uint8_t dirty[memory_room / memory_sector], allocated[memory_room / memory_page];
    uint64_t size, durable_size, top; /* top: nothing was ever behind it */
    bool locked, resized, mapped;
    int fd; /* of `now` */
};

struct memory_name {
    char name[40];
    int content; /* -1: none */
};

struct memory {
    struct br_folder base;
    pthread_mutex_t lock;
    struct memory_content contents[memory_files];
    int made;
    struct memory_name names[memory_files], durable_names[memory_files];
    uint64_t chance;
    long calls, dies_at, fails_at, synced; /* of changes; 0: never */
    int fails_with;
    bool lost_on_failed_sync;
    uint64_t room; /* bytes that may be allocated; 0: no limit */
};

struct memory_file {
    struct br_file base;
    struct memory *memory;
    struct memory_content *content;
    bool has_lock;
};

static inline bool memory_dead(struct memory *memory) {
    return memory->dies_at && memory->calls >= memory->dies_at;
}

static inline void memory_write_back(struct memory_content *content, size_t sector) {
    memcpy(content->durable + sector * memory_sector, content->now + sector * memory_sector, memory_sector);
    content->dirty[sector] = 0;
}

/* What was stored into a mapping is dirty; the system writes some of it back whenever it likes. */
static inline void memory_look(struct memory *memory, struct memory_content *content, bool writes_back) {
    for (size_t at = 0; content->mapped && at < content->top / memory_sector; at++)
        if (memcmp(content->now + at * memory_sector, content->durable + at * memory_sector, memory_sector)) {
            content->dirty[at] = 1;
            if (writes_back && random_number(&memory->chance) % 4 == 0)
                memory_write_back(content, at);
        }
}

/* Before a call that changes something: the errno it fails with, or 0. */
static inline int memory_begin(struct memory *memory) {
    pthread_mutex_lock(&memory->lock);
    if (memory_dead(memory))
        return EIO;
    memory->calls++;
    if (random_number(&memory->chance) % 8 == 0)
        for (int i = 0; i < memory->made; i++)
            memory_look(memory, memory->contents + i, true);
    return memory->fails_at && memory->calls == memory->fails_at ? memory->fails_with : 0;
}

static inline int memory_end(struct memory *memory, int error) {
    pthread_mutex_unlock(&memory->lock);
    return error;
}

static inline struct memory_file *memory_of(struct br_file *file) {
    return (struct memory_file *)file;
}

static inline void memory_reach(struct memory_content *content, uint64_t end) {
    uint64_t top = (end + memory_page - 1) / memory_page * memory_page;
    content->top = top > content->top ? top : content->top;
}

static inline uint64_t memory_used(const struct memory *memory) {
    uint64_t used = 0;
    for (int i = 0; i < memory->made; i++)
        for (size_t page = 0; page < memory_room / memory_page; page++)
            used += memory->contents[i].allocated[page] ? memory_page : 0;
    return used;
}

static inline int memory_pread(struct br_file *file, void *data, size_t length, uint64_t offset) {
    struct memory_content *content = memory_of(file)->content;
    pthread_mutex_lock(&memory_of(file)->memory->lock);
    int error = offset > content->size || length > content->size - offset ? ENODATA : 0;
    if (!error)
        memcpy(data, content->now + offset, length);
    return memory_end(memory_of(file)->memory, error);
}

static inline int memory_put(struct br_file *file, const void *data, size_t length, uint64_t offset) {
    struct memory *memory = memory_of(file)->memory;
    struct memory_content *content = memory_of(file)->content;
    int error = memory_begin(memory);
    size_t low = offset / memory_page, high = (offset + length + memory_page - 1) / memory_page;
    CHECK(offset + length <= memory_room);
    memory_reach(content, offset + length);
    uint64_t more = 0;
    for (size_t page = low; page < high; page++)
        more += content->allocated[page] || !data ? 0 : memory_page;
    if (!error && more && memory->room && memory_used(memory) + more > memory->room)
        error = ENOSPC;
    if (error)
        return memory_end(memory, error);
    if (data)
        memcpy(content->now + offset, data, length);
    else
        memset(content->now + offset, 0, length);
    for (size_t page = low; page < high; page++)
        if (data)
            content->allocated[page] = 1;
        else if (page * memory_page >= offset && (page + 1) * memory_page <= offset + length)
            content->allocated[page] = 0;
    for (size_t at = offset / memory_sector; length && at <= (offset + length - 1) / memory_sector; at++) {
        content->dirty[at] = 1;
        if (random_number(&memory->chance) % 8 == 0)
            memory_write_back(content, at); /* the system does that whenever it likes */
    }
    if (data && offset + length > content->size)
        content->size = offset + length;
    return memory_end(memory, 0);
}

static inline int memory_zero(struct br_file *file, uint64_t offset, uint64_t length) {
    return memory_put(file, NULL, (size_t)length, offset);
}

static inline int memory_discard(struct br_file *file, uint64_t offset, uint64_t length,
                                 enum br_discarded *result) {
    *result = BR_READS_ZERO;
    return memory_zero(file, offset, length);
}

static inline int memory_sync(struct br_file *file) {
    struct memory *memory = memory_of(file)->memory;
    struct memory_content *content = memory_of(file)->content;
    int error = memory_begin(memory);
    bool loses = error && memory->lost_on_failed_sync && memory->calls == memory->fails_at;
    memory_look(memory, content, false);
    for (size_t sector = 0; sector < content->top / memory_sector; sector++)
        if (content->dirty[sector] && loses)
            content->dirty[sector] = 0; /* it is not on the disk, and nobody knows any more */
        else if (content->dirty[sector] && !error)
            memory_write_back(content, sector);
    if (!error)
        content->durable_size = content->size;
    memory->synced += !error;
    return memory_end(memory, error);
}

static inline int memory_size(struct br_file *file, uint64_t *size) {
    *size = memory_of(file)->content->size;
    return 0;
}

static inline int memory_truncate(struct br_file *file, uint64_t size) {
    struct memory *memory = memory_of(file)->memory;
    struct memory_content *content = memory_of(file)->content;
    int error = memory_begin(memory);
    if (!error && size < content->size) {
        memset(content->now + size, 0, content->size - size);
        for (size_t at = size / memory_sector; at < content->top / memory_sector; at++)
            content->dirty[at] = 1;
    }
    if (!error)
        content->size = size;
    memory_reach(content, content->size);
    return memory_end(memory, error);
}

static inline int memory_lock(struct br_file *file) {
    struct memory_file *own = memory_of(file);
    if (own->content->locked)
        return EWOULDBLOCK;
    own->content->locked = own->has_lock = true;
    return 0;
}

static inline int memory_extent(struct br_file *file, uint64_t offset, uint64_t length, bool *hole,
                                uint64_t *run) {
    struct memory_content *content = memory_of(file)->content;
    pthread_mutex_lock(&memory_of(file)->memory->lock);
    uint64_t page = offset / memory_page;
    *hole = !content->allocated[page];
    for (page++; page * memory_page < offset + length && content->allocated[page] == !*hole;)
        page++;
    *run = page * memory_page < offset + length ? page * memory_page - offset : length;
    return memory_end(memory_of(file)->memory, 0);
}

static inline int memory_map(struct br_file *file, uint64_t length, void **address) {
    struct memory_content *content = memory_of(file)->content;
    CHECK(length <= memory_room);
    *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, content->fd, 0);
    CHECK(*address != MAP_FAILED);
    memory_reach(content, length);
    content->mapped = true;
    return 0;
}

static inline int memory_fileno(struct br_file *file) {
    return memory_of(file)->content->fd;
}

static inline void memory_close(struct br_file *file) {
    if (memory_of(file)->has_lock)
        memory_of(file)->content->locked = false;
    free(file);
}

static const struct br_file_ops memory_file_ops = {
    .pread = memory_pread,
    .pwrite = memory_put,
    .zero = memory_zero,
    .discard = memory_discard,
    .sync = memory_sync,
    .size = memory_size,
    .truncate = memory_truncate,
    .lock = memory_lock,
    .extent = memory_extent,
    .close = memory_close,
};

static inline struct memory_name *memory_find(struct memory *memory, const char *name) {
    for (int i = 0; i < memory_files; i++)
        if (memory->names[i].content >= 0 && strcmp(memory->names[i].name, name) == 0)
            return memory->names + i;
    return NULL;
}

static inline struct memory_name *memory_add(struct memory *memory, const char *name, int content) {
    struct memory_name *at = memory->names;
    while (at->content >= 0)
        CHECK(++at < memory->names + memory_files);
    CHECK(strlen(name) < sizeof at->name);
    strcpy(at->name, name);
    at->content = content;
    return at;
}

static inline int memory_open(struct br_folder *folder, const char *name, int flags, struct br_file **file) {
    struct memory *memory = (struct memory *)folder;
    struct memory_name *found = memory_find(memory, name);
    if (!found && !(flags & BR_OPEN_CREATE))
        return ENOENT;
    if (!found) {
        int error = memory_begin(memory);
        if (error)
            return memory_end(memory, error);
        CHECK(memory->made < memory_files);
        struct memory_content *fresh = memory->contents + memory->made;
        fresh->fd = memfd_create("content", MFD_CLOEXEC);
        CHECK(fresh->fd >= 0 && ftruncate(fresh->fd, memory_room) == 0);
        fresh->now = mmap(NULL, memory_room, PROT_READ | PROT_WRITE, MAP_SHARED, fresh->fd, 0);
        CHECK(fresh->now != MAP_FAILED);
        fresh->durable = calloc(1, memory_room);
        found = memory_add(memory, name, memory->made++);
        memory_end(memory, 0);
    }
    struct memory_file *opened = malloc(sizeof *opened);
    *opened = (struct memory_file){{&memory_file_ops}, memory, memory->contents + found->content, false};
    *file = &opened->base;
    return 0;
}

static inline int memory_unlink(struct br_folder *folder, const char *name) {
    struct memory *memory = (struct memory *)folder;
    int error = memory_begin(memory);
    struct memory_name *found = memory_find(memory, name);
    if (found && !error)
        found->content = -1;
    return memory_end(memory, error);
}

static inline int memory_rename(struct br_folder *folder, const char *from, const char *to) {
    struct memory *memory = (struct memory *)folder;
    int error = memory_begin(memory);
    struct memory_name *found = memory_find(memory, from), *over = memory_find(memory, to);
    if (!error) {
        CHECK(found && found != over);
        if (over)
            over->content = -1;
        strcpy(found->name, to);
    }
    return memory_end(memory, error);
}

static inline int memory_sync_folder(struct br_folder *folder) {
    struct memory *memory = (struct memory *)folder;
    int error = memory_begin(memory);
    if (!error)
        memcpy(memory->durable_names, memory->names, sizeof memory->names);
    return memory_end(memory, error);
}

static inline int memory_list(struct br_folder *folder, void (*each)(void *context, const char *name),
                              void *context) {
    struct memory *memory = (struct memory *)folder;
    for (int i = 0; i < memory_files; i++)
        if (memory->names[i].content >= 0)
            each(context, memory->names[i].name);
    return 0;
}

static inline void memory_close_folder(struct br_folder *folder) {
    (void)folder; /* it lives on */
}

static const struct br_folder_ops memory_folder_ops = {
    .open = memory_open,
    .rename = memory_rename,
    .unlink = memory_unlink,
    .sync = memory_sync_folder,
    .list = memory_list,
    .close = memory_close_folder,
};

static inline void memory_init(struct memory *memory, uint64_t chance) {
    memset(memory, 0, sizeof *memory);
    memory->base.ops = &memory_folder_ops;
    memory->chance = chance | 1;
    pthread_mutex_init(&memory->lock, NULL);
    for (int i = 0; i < memory_files; i++)
        memory->names[i].content = memory->durable_names[i].content = -1;
}

static inline void memory_free(struct memory *memory) {
    for (int i = 0; i < memory->made; i++) {
        munmap(memory->contents[i].now, memory_room);
        close(memory->contents[i].fd);
        free(memory->contents[i].durable);
    }
    pthread_mutex_destroy(&memory->lock);
}

#endif
