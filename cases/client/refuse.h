/* An honest server, but for options that it refuses. */
#ifndef NBDSPEC_CASES_REFUSE_H
#define NBDSPEC_CASES_REFUSE_H

#include "cases/client/drive.h"

/*
 * Each of these options, ended by a 0 and borrowed, gets this error reply (NBD_REP_ERR_…) and nothing else; the haggling
 * goes on. From now on, until the next drive_serve; what is connected is dropped.
 */
void refuse_options(struct drive *d, uint32_t type, const uint32_t *options);

#endif
