/* The process that shows the image, where that is the content of a container. */
#ifndef BR_DAEMON_H
#define BR_DAEMON_H

/* From now on nbdkit ends when child `pid` does. 0 or an errno. */
int br_daemon_watch(int pid);

/* End the child and wait for that. 0, or an errno where it did not end in order, or had ended before; a
 * second call says the same. As `release` of a br_container. */
int br_daemon_end(void *unused);

#endif
