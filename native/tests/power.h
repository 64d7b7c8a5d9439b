/* What a folder in memory (memory.h) has after its machine stood still, and after it lost power. */
#ifndef BR_TESTS_POWER_H
#define BR_TESTS_POWER_H

#include "memory.h"

/* No further call does anything. */
static inline void memory_die(struct memory *memory) {
    pthread_mutex_lock(&memory->lock);
    memory->dies_at = memory->calls;
    pthread_mutex_unlock(&memory->lock);
}

/* The machine lives again; calls no longer fail. Files that were open are to be closed first. */
static inline void memory_revive(struct memory *memory) {
    memory->dies_at = memory->fails_at = 0;
}

static inline void memory_cut_content(struct memory *memory, struct memory_content *content) {
    memory_look(memory, content, false);
    if (random_number(&memory->chance) % 2)
        content->durable_size = content->size;
    for (size_t at = 0; at < content->top / memory_sector; at++)
        if (content->dirty[at] && random_number(&memory->chance) % 2)
            memory_write_back(content, at);
    content->size = content->durable_size;
    memory_reach(content, content->size);
    memcpy(content->now, content->durable, content->top);
    memset(content->now + content->size, 0, content->top - content->size);
    memset(content->dirty, 0, sizeof content->dirty);
    content->mapped = false;
    for (size_t page = 0; page < content->top / memory_page; page++) {
        content->allocated[page] = 0;
        for (size_t at = 0; at < memory_page; at++)
            content->allocated[page] |= content->now[page * memory_page + at] != 0;
    }
}

static inline void memory_cut_power(struct memory *memory) {
    memory_revive(memory);
    for (int i = 0; i < memory->made; i++)
        memory_cut_content(memory, memory->contents + i);
    if (random_number(&memory->chance) % 2)
        memcpy(memory->names, memory->durable_names, sizeof memory->names);
    memcpy(memory->durable_names, memory->names, sizeof memory->names);
}

#endif
