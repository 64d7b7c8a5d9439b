/* The table of operations over an overlay; whatever would change it is refused. */
#include "overlay_file.h"

#include <errno.h>
#include <stdlib.h>

struct overlay_file {
    struct br_file base;
    struct br_overlay *overlay;
    uint64_t size;
};

static struct overlay_file *own(struct br_file *file) {
    return (struct overlay_file *)file;
}

static int file_pread(struct br_file *file, void *data, size_t length, uint64_t offset) {
    return br_overlay_pread(own(file)->overlay, data, length, offset);
}

static int file_extent(struct br_file *file, uint64_t offset, uint64_t length, bool *hole, uint64_t *run) {
    return br_overlay_extent(own(file)->overlay, offset, length, hole, run);
}

static int file_size(struct br_file *file, uint64_t *size) {
    *size = own(file)->size;
    return 0;
}

static int no_pwrite(struct br_file *file, const void *data, size_t length, uint64_t offset) {
    (void)file, (void)data, (void)length, (void)offset;
    return EROFS;
}

static int no_zero(struct br_file *file, uint64_t offset, uint64_t length) {
    (void)file, (void)offset, (void)length;
    return EROFS;
}

static int no_discard(struct br_file *file, uint64_t offset, uint64_t length, enum br_discarded *result) {
    *result = BR_UNTOUCHED;
    return no_zero(file, offset, length);
}

static int no_truncate(struct br_file *file, uint64_t size) {
    return no_zero(file, size, 0);
}

static int no_need(struct br_file *file) {
    (void)file;
    return 0;
}

static int no_fileno(struct br_file *file) {
    (void)file;
    return -1;
}

static void file_close(struct br_file *file) {
    br_overlay_close(own(file)->overlay);
    free(file);
}

static const struct br_file_ops overlay_ops = {
    .pread = file_pread,
    .pwrite = no_pwrite,
    .zero = no_zero,
    .discard = no_discard,
    .sync = no_need,
    .size = file_size,
    .truncate = no_truncate,
    .lock = no_need,
    .extent = file_extent,
    .fileno = no_fileno,
    .close = file_close,
};

int br_overlay_file(struct br_overlay *overlay, uint64_t size, struct br_file **result) {
    struct overlay_file *file = malloc(sizeof *file);
    if (!file) {
        br_overlay_close(overlay);
        return ENOMEM;
    }
    *file = (struct overlay_file){.base.ops = &overlay_ops, .overlay = overlay, .size = size};
    *result = &file->base;
    return 0;
}
