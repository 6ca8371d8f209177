/* Delta debugging: what a failing state lacks is reduced to the least with which it still fails. */
#ifndef NBDSPEC_CRASH_REDUCE_H
#define NBDSPEC_CRASH_REDUCE_H

#include "harness/crash/difference.h"

/* `fails` shows the state and judges it; where it says false for all from some moment on, what is there by then stays. */
void difference_reduce(struct difference *d, bool (*fails)(void *arg, const struct difference *d), void *arg);

#endif
