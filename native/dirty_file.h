/* A saved dirty bitmap, `vm.img.<epoch>.dirty`: which granules an ended epoch may have changed.
 *
 *       0   8  magic "brdirty" and a zero          48   8  granules marked
 *       8   4  version, 1                          56   8  covered: bytes of image that the bits stand for
 *      12   4  granule, 65536                      64  16  UUID of the epoch
 *      16  16  tracking UUID                       80   4  CRC-32C of the bitmap
 *      32   8  epoch                               84  16  UUID of the epoch before it
 *      40   8  size of the image at its end       100   4  how it ended: 0 by a cut or in order, 1 its
 *                                                       tracker died, 2 the machine went down
 *                                                 104 ...  zero; 4092 4: CRC-32C of bytes 0 to 4092
 *    4096  (granules covered + 7) / 8 bytes: bit n % 8 of byte n / 8 is granule n; sparse where zero
 *
 * `covered` is more than the size where the image shrank in that epoch. bitmap.py reads it.
 */
#ifndef BR_DIRTY_FILE_H
#define BR_DIRTY_FILE_H

#include "tracking_file.h"

enum { BR_DIRTY_VERSION = 1, BR_DIRTY_HEADER = 4096 };

enum br_ended { BR_ENDED_BY_CUT, BR_ENDED_BY_DEATH, BR_ENDED_BY_POWER };

/* Save `slot` of the epoch that tracking->state describes as `name`, durably up to the folder's sync, which
 * is the caller's. The state's chain is still that of the epoch before it. `epoch_id` is the epoch's UUID. 0
 * or errno; after an error there may be `name`.new. */
int br_dirty_save(struct br_folder *folder, const char *name, const struct br_tracking *tracking,
                  uint32_t slot, const uint8_t epoch_id[16], enum br_ended ended);

#endif
