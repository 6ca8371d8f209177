#include "fakeserver/fork.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

void
fake_child(struct fake_config *config, int listen_fd)
{
	struct fake_server *s = fake_new(config);

	/* Nothing is to be saved, so the signal itself may end us; what the parent had in mind for it does not hold here. */
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (s == NULL || fake_add_listener(s, listen_fd) < 0 || fake_run(s, -1) < 0) {
		fprintf(stderr, "nbdspec: the fake server: %s\n", strerror(errno));
		_exit(1);
	}
	_exit(0);
}
