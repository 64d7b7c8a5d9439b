/* Hanging up on NBD clients when the server is told to end. */
#ifndef BR_HANGUP_H
#define BR_HANGUP_H

/* Begin to listen for the signals that end nbdkit. 0 or an errno. */
int br_hangup_start(void);

/* Give the signals back. Does nothing where it was not begun. */
void br_hangup_stop(void);

#endif
