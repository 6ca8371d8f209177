/* The fake client as a driver (docs/driver-protocol.md), and as a plain command. */
#ifndef NBDSPEC_FAKESERVER_CLIENT_DRIVER_H
#define NBDSPEC_FAKESERVER_CLIENT_DRIVER_H

#include "harness/wire.h"

struct fc_session;

int fc_driver_run(void);					/* until the end of input; an exit status */
int fc_copy_run(const char *from, const char *to);		/* one of them a URI; an exit status */
void fc_put_known(struct buf *b, const struct fc_session *s);	/* " size=…": what is known */

#endif
