/* The control socket of a tracker: how another process asks it for a cut.
 *
 * A request is one line of words, the answer one line of JSON: {"ok": true, ...} or {"error": {...}}, where
 * the error is a failure as tracker_text.h has it, or {"kind": "usage", "message": text}.
 *
 *     status              {"status": {...}}
 *     cut                 cut now: {"cut": {...}, "log_limit": bytes}
 *     sync                make the image's writes durable
 *     prepare PATH        get ready to be cut by the epoch word in file PATH
 *     ctime compare|ignore  from now on, durably, take or ignore a ctime of the image that alone changed
 *     log always|transit  have that log mode from the next epoch on; a log that transit needs no more goes
 *     finish              end the epoch that the word cut: {"cut": {...}}
 *
 * From `prepare` to `finish` the connection has the right to cut alone. One that ends in between leaves a cut
 * that was made finished, and one that was not made forgotten.
 */
#ifndef BR_CONTROL_H
#define BR_CONTROL_H

#include "tracker.h"

struct br_control;

/* For `tracker`, which was opened with that log_limit (every cut tells it) and must outlive it. Whether it
 * listens or not, it holds the right to cut. */
int br_control_new(struct br_tracker *tracker, uint64_t log_limit, struct br_control **control);

/* Answer from now on, on socket `name`.control in folder `folder`, instead of a socket that a dead tracker
 * left. */
int br_control_listen(struct br_control *control, const char *folder, const char *name,
                      struct br_failure *failure);

/* br_tracker_cut and br_tracker_resize, by whoever gets the right to; EBUSY: somebody else kept it for a
 * minute. */
int br_control_cut(struct br_control *control, struct br_cut *cut, struct br_failure *failure);
int br_control_resize(struct br_control *control, uint64_t size, struct br_failure *failure);

/* Answer nobody any more; returns once no request is being worked on. May be called again, by any thread. */
void br_control_stop(struct br_control *control);

/* Stop, and free. */
void br_control_free(struct br_control *control);

#endif
