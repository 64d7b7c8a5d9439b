/* Parameters, beginning and end of a pivot. The lease of the point is a descriptor that we were given: it is
 * closed with the point, and then nothing of ours keeps the store. */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../identity.h"
#include "../overlay_file.h"
#include "pivoted.h"

static char *path;
static struct br_pivot_options options;
static struct br_pivot *pivot;
static struct br_folder *folder;
static int lease = -1;

static int take_relationship(const char *value) {
    unsigned byte;
    for (size_t at = 0; at < 16; at++) {
        if (sscanf(value + 2 * at, "%2x", &byte) != 1) {
            nbdkit_error("pivot-relationship: wanted 32 hexadecimal digits");
            return -1;
        }
        options.id.relationship[at] = (uint8_t)byte;
    }
    return 0;
}

static int take_point(const char *value) {
    if (strlen(value) >= sizeof options.id.point) {
        nbdkit_error("pivot-point: is too long");
        return -1;
    }
    strcpy(options.id.point, value);
    return 0;
}

static int take(const char *key, const char *value) {
    if (strcmp(key, "pivot") == 0) {
        path = nbdkit_absolute_path(value);
        return path ? 0 : -1;
    }
    if (strcmp(key, "pivot-relationship") == 0)
        return strlen(value) == 32 ? take_relationship(value) : -1;
    if (strcmp(key, "pivot-point") == 0)
        return take_point(value);
    if (strcmp(key, "pivot-disk") == 0)
        return nbdkit_parse_uint32_t(key, value, &options.id.disk);
    if (strcmp(key, "pivot-rate") == 0)
        return nbdkit_parse_uint64_t(key, value, &options.rate);
    if (strcmp(key, "pivot-lease") == 0)
        return nbdkit_parse_int(key, value, &lease);
    return 1;
}

int br_pivoted_config(const char *key, const char *value) {
    int result = take(key, value);
    return result == 1 ? 0 : result == 0 ? 1 : -1;
}

bool br_pivoted_wanted(void) {
    return path;
}

struct br_pivot *br_pivoted(void) {
    return pivot;
}

static void released(void *context) {
    (void)context;
    if (lease >= 0)
        close(lease);
    lease = -1;
}

static int complain(int error, const char *text) {
    nbdkit_error("%s: %s [errno %d]", path, text, error);
    return -1;
}

int br_pivoted_begin(const struct br_point *point, struct br_overlay *overlay) {
    char room[strlen(path) + 1], again[strlen(path) + 1];
    struct br_trouble trouble;
    struct br_file *file = NULL;
    options.id.size = point->size;
    options.unit = point->block_size ? point->block_size : BR_PIVOT_GRANULE;
    options.released = released;
    br_boot_id(options.boot);
    int error = overlay ? br_overlay_file(overlay, point->size, &file) : 0;
    if (error)
        return complain(error, strerror(error));
    error = br_folder_posix(dirname(strcpy(room, path)), &folder);
    if (error) {
        br_file_close(&file);
        return complain(error, strerror(error));
    }
    error = br_pivot_open(folder, basename(strcpy(again, path)), file, &options, &pivot, &trouble);
    if (error)
        return complain(error, trouble.text);
    error = br_pivot_start(pivot);
    return error ? complain(error, strerror(error)) : 0;
}

void br_pivoted_end(void) {
    int error = pivot ? br_pivot_close(pivot) : 0;
    pivot = NULL;
    br_folder_close(&folder);
    if (error)
        complain(error, "could not be made durable at the end");
    free(path);
    path = NULL;
}
