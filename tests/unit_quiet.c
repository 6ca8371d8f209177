/* What the fake server publishes of itself, and how long a client waits for it. */
#include "harness/clock.h"
#include "harness/process.h"
#include "harness/quiet.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { WORK_MS = 400 };

static void
test_room(void **state)
{
	struct quiet *q = quiet_new();

	(void)state;
	assert_non_null(q);
	atomic_store(&q->accepts, 2);
	assert_false(quiet_waits_for_room(q, 2));
	quiet_be_full(q, true);
	assert_true(quiet_waits_for_room(q, 2));
	assert_false(quiet_waits_for_room(q, 1));
	quiet_be_full(q, false);
	assert_false(quiet_waits_for_room(q, 2));
	quiet_be_full(q, true);
	quiet_reset(q);
	assert_false(quiet_waits_for_room(q, 0));
	quiet_free(q);
}

/* A server that is busy for a while before it sees the end, or sleeps and never sees it. */
static bool
is_awaited(bool busy)
{
	struct quiet *q = quiet_new();
	pid_t pid = q != NULL ? fork() : -1;
	int64_t until = now_ms() + WORK_MS;
	bool ended;
	int fd;

	assert_true(pid >= 0);
	if (pid == 0) {
		while (busy && now_ms() < until)
			;
		if (busy)
			quiet_end(q, 0);
		for (;;)
			pause();
	}
	fd = process_open(pid);
	assert_true(fd >= 0);
	quiet_await_end(q, 0, pid, fd);
	ended = atomic_load(&q->ended[0]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(fd);
	quiet_free(q);
	return ended;
}

static void
test_end(void **state)
{
	(void)state;
	assert_true(is_awaited(true));
	assert_false(is_awaited(false));
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_room), cmocka_unit_test(test_end) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
