/* The plugin's side of a point that becomes an image (../pivot.h). */
#ifndef BR_PIVOTED_H
#define BR_PIVOTED_H

#include <stdbool.h>

#include "../overlay.h"
#include "../pivot.h"

/* Whether `key` was a parameter of ours: 1, 0 if not, -1 after an error that was told. */
int br_pivoted_config(const char *key, const char *value);
/* Whether there is one; whether the parameters make one. */
bool br_pivoted_wanted(void);
/* Begin. `overlay`, taken over, may be NULL for one that is complete. 0, or -1 after an error that was told.
 */
int br_pivoted_begin(const struct br_point *point, struct br_overlay *overlay);
struct br_pivot *br_pivoted(void);
/* End in order, and say what went wrong with that. */
void br_pivoted_end(void);

#endif
