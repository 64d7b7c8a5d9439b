/* A point as a file that is only read. */
#ifndef BR_OVERLAY_FILE_H
#define BR_OVERLAY_FILE_H

#include "ops.h"
#include "overlay.h"

/* Takes the overlay, of `size` bytes, over in any case: closing the file closes it. 0 or ENOMEM. */
int br_overlay_file(struct br_overlay *overlay, uint64_t size, struct br_file **file);

#endif
