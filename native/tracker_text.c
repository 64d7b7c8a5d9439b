/* What a tracker tells, as JSON objects. */
#include "tracker_text.h"

#include <string.h>
#include <unistd.h>

static const char *const conditions[] = {"tracking", "bitmap only", "whole image", "critical"};
static const char *const founds[] = {"nothing", "closed", "died", "suspect", "damaged", "power"};
static const char *const log_modes[] = {"as before", "always", "transit"};
static const char *const kinds[] = {"call", "busy", "newer"};

static void number(struct br_text *text, const char *name, uint64_t value) {
    br_text_add(text, ", \"%s\": %llu", name, (unsigned long long)value);
}

void br_text_status(struct br_text *text, struct br_tracker *tracker) {
    struct br_status status;
    br_tracker_status(tracker, &status);
    br_text_add(text,
                "{\"state\": \"%s\", \"found\": \"%s\", \"tracking_id\": ", conditions[status.condition],
                founds[status.found]);
    br_text_uuid(text, status.last.tracking_id);
    number(text, "pid", (uint64_t)getpid());
    number(text, "epoch", status.epoch);
    number(text, "size", status.size);
    number(text, "log_bytes", status.log_size);
    br_text_add(text, ", \"log\": \"%s\"", log_modes[status.transit ? BR_LOG_TRANSIT : BR_LOG_ALWAYS]);
    number(text, "log_error", (uint64_t)status.log_error);
    number(text, "dirty_bytes", status.dirty);
    number(text, "writes", status.writes);
    number(text, "found_dirty_bytes", status.found_dirty);
    number(text, "hot", status.hot);
    number(text, "activations", status.activations);
    number(text, "hot_syncs", status.hot_syncs);
    br_text_add(text, ", \"last_cut_ns\": %lld}", (long long)status.last.time_ns);
}

void br_text_cut(struct br_text *text, const struct br_cut *cut) {
    br_text_add(text, "{\"tracking_id\": ");
    br_text_uuid(text, cut->tracking_id);
    number(text, "epoch", cut->epoch);
    number(text, "size", cut->size);
    br_text_add(text, ", \"time_ns\": %lld, \"chain\": ", (long long)cut->time_ns);
    br_text_uuid(text, cut->chain);
    br_text_add(text, "}");
}

void br_text_failure(struct br_text *text, const struct br_failure *failure) {
    br_text_add(text, "{\"kind\": \"%s\", \"errno\": %d, \"name\": ", kinds[failure->kind], failure->error);
    br_text_string(text, failure->name);
    br_text_add(text, ", \"doing\": ");
    br_text_string(text, failure->doing);
    number(text, "number", failure->number);
    br_text_add(text, "}");
}

bool br_log_mode(const char *name, enum br_log_mode *mode) {
    for (*mode = BR_LOG_ALWAYS; *mode <= BR_LOG_TRANSIT; (*mode)++)
        if (name && strcmp(name, log_modes[*mode]) == 0)
            return true;
    return false;
}

bool br_ctime_named(const char *name, enum br_ctime *ctime) {
    *ctime = strcmp(name, "ignore") == 0    ? BR_CTIME_IGNORE
             : strcmp(name, "compare") == 0 ? BR_CTIME_COMPARE
                                            : BR_CTIME_AS_BEFORE;
    return *ctime != BR_CTIME_AS_BEFORE;
}
