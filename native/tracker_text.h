/* What a tracker tells, as JSON objects: the same for a control socket, for Python, for whoever started a
 * plugin. */
#ifndef BR_TRACKER_TEXT_H
#define BR_TRACKER_TEXT_H

#include "text.h"
#include "tracker.h"

void br_text_status(struct br_text *text, struct br_tracker *tracker);
void br_text_cut(struct br_text *text, const struct br_cut *cut);
void br_text_failure(struct br_text *text, const struct br_failure *failure);

/* "compare" or "ignore". */
bool br_ctime_named(const char *name, enum br_ctime *ctime);

/* The log mode of that name. */
bool br_log_mode(const char *name, enum br_log_mode *mode);

#endif
