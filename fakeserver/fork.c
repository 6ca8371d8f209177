#include "fakeserver/fork.h"

#include "fakeserver/control.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <limits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct signal_watch {
	struct fake_server *server;
	int fd;
};

/* Those who are to end leave their clients all the time that these want: the harness ends us by SIGKILL. */
static void
on_signal(void *arg)
{
	struct signal_watch *w = arg;
	struct signalfd_siginfo info;

	if (read(w->fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP)
		fake_reload(w->server);
	else if (!fake_count(w->server).shutting_down)
		fake_shutdown(w->server, UINT_MAX);
}

static int
signal_descriptor(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

void
fake_child(struct fake_config *config, int listen_fd)
{
	struct fake_server *s = fake_new(config);
	struct signal_watch w = { s, signal_descriptor() };

	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Cases look at our sockets, where the system lets nobody but a parent do so unasked. */
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (s == NULL || fake_add_listener(s, listen_fd) < 0 || fake_watch(s, w.fd, on_signal, &w) < 0 ||
	    (config->control_fd > 0 && control_new(s, config->control_fd, 1000) == NULL) || fake_run(s, -1) < 0) {
		fprintf(stderr, "nbdspec: the fake server: %s\n", strerror(errno));
		_exit(1);
	}
	_exit(0);
}
