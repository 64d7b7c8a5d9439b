/* Whatever stands in a tracking file: an open takes it over or begins anew, and the image can be written,
 * cut, closed.
 *
 * The files are in memory, and have no descriptors: nothing is locked, and no image is proved unchanged. So
 * an open never comes to finishing a log; whatever an open record says, that is tried for itself.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes.h"
#include "../crc32c.h"
#include "../tracker_parts.h"

enum { files = 32, image_size = 300000, most = 1 << 22 };

struct memory {
    struct br_file base;
    char name[64];
    uint8_t *data;
    uint64_t size;
};

static struct memory disk[files];

static struct memory *of(struct br_file *file) {
    return (struct memory *)file;
}

static int resize(struct memory *file, uint64_t size) {
    if (size > most)
        return EFBIG;
    file->data = realloc(file->data, size + 1);
    if (!file->data)
        abort();
    if (size > file->size)
        memset(file->data + file->size, 0, size - file->size);
    file->size = size;
    return 0;
}

static int memory_pread(struct br_file *file, void *data, size_t length, uint64_t offset) {
    if (offset > of(file)->size || length > of(file)->size - offset)
        return ENODATA;
    memcpy(data, of(file)->data + offset, length);
    return 0;
}

static int memory_pwrite(struct br_file *file, const void *data, size_t length, uint64_t offset) {
    if (offset > most || length > most - offset)
        return ENOSPC;
    int error = offset + length > of(file)->size ? resize(of(file), offset + length) : 0;
    if (!error)
        memcpy(of(file)->data + offset, data, length);
    return error;
}

static int memory_zero(struct br_file *file, uint64_t offset, uint64_t length) {
    memset(of(file)->data + offset, 0, length);
    return 0;
}

static int memory_discard(struct br_file *file, uint64_t offset, uint64_t length, enum br_discarded *result) {
    (void)file, (void)offset, (void)length;
    *result = BR_UNTOUCHED;
    return 0;
}

static int memory_sync(struct br_file *file) {
    (void)file;
    return 0;
}

static int memory_size(struct br_file *file, uint64_t *size) {
    *size = of(file)->size;
    return 0;
}

static int memory_truncate(struct br_file *file, uint64_t size) {
    return resize(of(file), size);
}

static int memory_fileno(struct br_file *file) {
    (void)file;
    return -1;
}

static void memory_close(struct br_file *file) {
    (void)file;
}

static const struct br_file_ops file_ops = {
    .pread = memory_pread,
    .pwrite = memory_pwrite,
    .zero = memory_zero,
    .discard = memory_discard,
    .sync = memory_sync,
    .size = memory_size,
    .truncate = memory_truncate,
    .lock = memory_sync,
    .fileno = memory_fileno,
    .close = memory_close,
};

static struct memory *find(const char *name) {
    for (int i = 0; i < files; i++)
        if (strcmp(disk[i].name, name) == 0)
            return &disk[i];
    return NULL;
}

static struct memory *create(const char *name) {
    struct memory *file = find(name);
    if (!file)
        file = find("");
    if (!file || strlen(name) >= sizeof file->name)
        return NULL;
    memcpy(file->name, name, strlen(name) + 1);
    file->base.ops = &file_ops;
    return file;
}

static int folder_open(struct br_folder *folder, const char *name, int flags, struct br_file **file) {
    (void)folder;
    struct memory *found = flags & BR_OPEN_CREATE ? create(name) : find(name);
    *file = found ? &found->base : NULL;
    return found ? 0 : ENOENT;
}

static void drop(struct memory *file) {
    free(file->data);
    memset(file, 0, sizeof *file);
}

static int folder_unlink(struct br_folder *folder, const char *name) {
    (void)folder;
    if (find(name))
        drop(find(name));
    return 0;
}

static int folder_rename(struct br_folder *folder, const char *from, const char *to) {
    if (!find(from))
        return ENOENT;
    folder_unlink(folder, to);
    memcpy(find(from)->name, to, strlen(to) + 1);
    return 0;
}

static int folder_sync(struct br_folder *folder) {
    (void)folder;
    return 0;
}

static int folder_list(struct br_folder *folder, void (*each)(void *context, const char *name),
                       void *context) {
    (void)folder;
    for (int i = 0; i < files; i++)
        if (disk[i].name[0])
            each(context, disk[i].name);
    return 0;
}

static void folder_close(struct br_folder *folder) {
    (void)folder;
}

static const struct br_folder_ops folder_ops = {
    .open = folder_open,
    .rename = folder_rename,
    .unlink = folder_unlink,
    .sync = folder_sync,
    .list = folder_list,
    .close = folder_close,
};

static void use(struct br_tracker *tracker) {
    struct br_failure failure;
    struct br_cut cut;
    struct br_status status;
    br_tracker_pwrite(tracker, "written", 7, 70000);
    br_tracker_cut(tracker, &cut, &failure);
    br_tracker_zero(tracker, 1000, 250000);
    br_tracker_resize(tracker, image_size / 2, &failure);
    br_tracker_status(tracker, &status);
    br_tracker_close(tracker, &failure);
}

/* Get past magic, CRC and lengths, so that what stands behind them is reached. */
static void forge(struct memory *file) {
    if (file->size < 32768)
        resize(file, 32768);
    memcpy(file->data, "brtrack", 8);
    br_put32(file->data + 8, BR_TRACKING_VERSION);
    br_put32(file->data + 12, BR_GRANULE);
    uint64_t covered = br_get64(file->data + 48) % (1ull << 33);
    br_put64(file->data + 48, covered);
    br_put64(file->data + 40, br_get64(file->data + 40) % (covered + 1));
    br_put32(file->data + 96, br_get32(file->data + 96) % 2);
    br_put32(file->data + 508, br_crc32c(0, file->data, 508));
}

/* Finish a log from an open record whose head, groups and their entries begin with pieces of the input. */
static void recover(struct br_folder *folder, const uint8_t *data, size_t size) {
    enum { head = 64, tail_headers = 2048, group = 256 + 3 * HRL_ENTRY_SIZE };
    static const uint8_t id[16];
    struct br_record_head record = {.epoch = 1, .has_log = true};
    struct br_tracker *tracker = calloc(1, sizeof *tracker);
    struct memory *log = create("vm.img.hrl");
    struct br_log begun;
    uint8_t *base = calloc(1, BR_SLOTS_AT), *at = base + BR_RECORDS_AT;
    if (!tracker || !base || !log || br_log_create(&begun, &log->base, id, id, id, 0) != 0)
        abort();
    tracker->folder = folder;
    tracker->image = &find("vm.img")->base;
    tracker->tracking.base = base;
    memcpy(tracker->name, "vm.img", 7);
    const size_t places[] = {tail_headers, head, BR_PAGE, BR_PAGE + BR_GROUP_SIZE,
                             BR_PAGE + 2 * BR_GROUP_SIZE};
    const size_t lengths[] = {BR_TAIL_BATCHES * 16, 4 * 16, group, group, group};
    for (int i = 0; i < 5; i++) {
        size_t length = lengths[i] < size ? lengths[i] : size;
        memcpy(at + places[i], data, length);
        data += length;
        size -= length;
    }
    br_recover_log(tracker, 0, &record, 1);
    free(base);
    free(tracker);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct br_folder folder = {&folder_ops};
    struct br_failure failure;
    struct br_options options = {0};
    struct br_tracker *tracker;
    if (size < 1 || size > most)
        return -1;
    resize(create("vm.img"), image_size);
    struct memory *file = create("vm.img.tracking");
    resize(file, size - 1);
    memcpy(file->data, data + 1, size - 1);
    if (data[0] & 1)
        forge(file);
    if (data[0] & 2)
        recover(&folder, data + 1, size - 1);
    for (int round = data[0] & 2; round < 2; round++)
        if (br_tracker_open(&folder, "vm.img", &options, &tracker, &failure) == 0)
            use(tracker);
    for (int i = 0; i < files; i++)
        drop(&disk[i]);
    return 0;
}
