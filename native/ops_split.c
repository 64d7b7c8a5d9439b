/* A folder in which one name stands elsewhere: the image, whose tracker's files have a folder of their own.
 */
#include "ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct split_folder {
    struct br_folder base;
    struct br_folder *image, *others;
    char *name;
};

static struct br_folder *others(struct br_folder *folder) {
    return ((struct split_folder *)folder)->others;
}

static int split_open(struct br_folder *folder, const char *name, int flags, struct br_file **file) {
    const struct split_folder *split = (const struct split_folder *)folder;
    struct br_folder *there = strcmp(name, split->name) == 0 ? split->image : split->others;
    return there->ops->open(there, name, flags, file);
}

static int split_rename(struct br_folder *folder, const char *from, const char *to) {
    return others(folder)->ops->rename(others(folder), from, to);
}

static int split_unlink(struct br_folder *folder, const char *name) {
    return others(folder)->ops->unlink(others(folder), name);
}

static int split_sync(struct br_folder *folder) {
    return others(folder)->ops->sync(others(folder));
}

static int split_room(struct br_folder *folder, uint64_t *free, uint64_t *total) {
    struct br_folder *there = others(folder);
    return there->ops->room ? there->ops->room(there, free, total) : EOPNOTSUPP;
}

static int split_list(struct br_folder *folder, void (*each)(void *context, const char *name),
                      void *context) {
    return others(folder)->ops->list(others(folder), each, context);
}

static void split_close(struct br_folder *folder) {
    struct split_folder *split = (struct split_folder *)folder;
    br_folder_close(&split->image);
    br_folder_close(&split->others);
    free(split->name);
    free(split);
}

static const struct br_folder_ops split_ops = {
    .open = split_open,
    .rename = split_rename,
    .unlink = split_unlink,
    .sync = split_sync,
    .list = split_list,
    .room = split_room,
    .close = split_close,
};

int br_folder_split(struct br_folder *image, const char *name, struct br_folder *others,
                    struct br_folder **folder) {
    struct split_folder *made = malloc(sizeof *made);
    char *copy = strdup(name);
    if (!made || !copy) {
        free(made);
        free(copy);
        br_folder_close(&image);
        br_folder_close(&others);
        return ENOMEM;
    }
    *made = (struct split_folder){.base.ops = &split_ops, .image = image, .others = others, .name = copy};
    *folder = &made->base;
    return 0;
}
