/*
 * A file that is written behind its owner's back: all that was put there is in it and can be read back, in order, whatever
 * the file takes, and it ends behind what is whole.
 */
#include "harness/behind.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t seed_state;

static unsigned
below(unsigned n)
{
	seed_state = seed_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (unsigned)((seed_state >> 33) % n);
}

static void
fill(uint8_t *at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		at[i] = (uint8_t)below(256);
}

static int
new_file(void)
{
	char path[] = "/tmp/unit_behind-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
	return fd;
}

static off_t
size_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_size;
}

static void
put(struct behind *b, struct buf *all, size_t n, bool whole)
{
	uint8_t *block = behind_block(b);

	assert_non_null(block);
	fill(block, n);
	buf_put(all, block, n);
	behind_put(b, block, n, whole);
}

static void
put_short(struct behind *b, struct buf *all)
{
	uint8_t data[BEHIND_SHORT];
	size_t n = 1 + below(BEHIND_SHORT);

	fill(data, n);
	buf_put(all, data, n);
	assert_int_equal(behind_put_short(b, (struct bytes){ data, n }, true), 0);
	fill(data, n);
}

/* As a connection does: some messages of a buffer are lent, then the front of it goes. */
static void
lend(struct behind *b, struct buf *all, struct buf *input)
{
	unsigned n = 1 + below(4), sizes[4], rest = below(100);
	size_t gone = 0;

	for (unsigned i = 0; i < n; i++)
		gone += sizes[i] = 1 + below(below(8) == 0 ? 3 << 20 : 64 << 10);
	buf_clear(input);
	fill(buf_grow(input, gone + rest), gone + rest);
	gone = 0;
	for (unsigned i = 0; i < n; gone += sizes[i++]) {
		struct bytes data = { input->at + gone, sizes[i] };

		assert_int_equal(behind_lend(b, data), all->len);
		buf_put(all, data.at, data.len);
	}
	if (below(2) == 0)
		put(b, all, 1 + below(1000), true);
	behind_give(b, input, gone);
	assert_int_equal(input->len, rest);
}

static void
compare(struct behind *b, const struct buf *all)
{
	size_t at = below((unsigned)all->len), n = 1 + below((unsigned)(all->len - at));
	uint8_t *data = malloc(n);

	assert_true(behind_read(b, at, n, data));
	assert_memory_equal(data, all->at + at, n);
	free(data);
}

static void
is_there_in_order(size_t ready)
{
	struct buf all = { 0 }, input = { 0 };
	int fd = new_file();
	struct behind *b = behind_new(fd, 0, ready);

	for (unsigned i = 0; i < 300; i++) {
		unsigned what = below(8);

		if (what < 3 || all.len == 0)
			put(b, &all, 1 + below(BEHIND_BLOCK), true);
		else if (what < 6)
			lend(b, &all, &input);
		else if (what == 6)
			compare(b, &all);
		else if (what == 7 && below(2) == 0)
			assert_int_equal(behind_rest(b), 0);
		else
			assert_int_equal(behind_wait(b), 0);
		if (below(4) == 0)
			put_short(b, &all);
	}
	behind_free(b);
	assert_int_equal(size_of(fd), all.len);
	b = behind_new(fd, all.len, ready);
	for (unsigned i = 0; i < 10; i++)
		compare(b, &all);
	behind_free(b);
	buf_free(&all);
	buf_free(&input);
	close(fd);
}

static void
test_all_is_there_in_order(void **state)
{
	static const size_t ready[] = { 0, 1 << 20, 8 << 20, 64 << 20 };

	(void)state;
	for (size_t i = 0; i < sizeof(ready) / sizeof(ready[0]); i++)
		is_there_in_order(ready[i]);
}

/* With memory for it nothing is written before there is time, or three quarters are in use. */
static void
test_it_waits_in_memory(void **state)
{
	struct buf all = { 0 }, input = { 0 };
	int fd = new_file();
	struct behind *b = behind_new(fd, 0, 64 << 20);
	size_t written;

	(void)state;
	while (all.len < 32 << 20)
		lend(b, &all, &input);
	assert_int_equal(size_of(fd), 0);
	assert_int_equal(behind_unwritten(b), all.len);
	compare(b, &all);
	assert_int_equal(behind_rest(b), 0);
	for (unsigned i = 0; i < 10000 && size_of(fd) < (off_t)all.len; i++)
		usleep(1000);
	assert_int_equal(size_of(fd), all.len);
	written = all.len;
	while (all.len < written + (48 << 20))
		lend(b, &all, &input);
	for (unsigned i = 0; i < 10000 && size_of(fd) == (off_t)written; i++)
		usleep(1000);
	assert_true(size_of(fd) > (off_t)written);
	compare(b, &all);
	behind_free(b);
	assert_int_equal(size_of(fd), all.len);
	buf_free(&all);
	buf_free(&input);
	close(fd);
}

/* A write that fails in the midst leaves what was whole before it, and all can still be read. */
static void
ends_at(rlim_t limit, off_t end)
{
	struct rlimit old, less;
	struct buf all = { 0 };
	int fd = new_file();
	struct behind *b = behind_new(fd, 0, 0);

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	less = (struct rlimit){ limit, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
	for (unsigned i = 0; i < 5; i++) {
		put(b, &all, 100, false);
		put(b, &all, 100, true);
	}
	assert_int_equal(behind_wait(b), EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(size_of(fd), end);
	assert_int_equal(behind_unwritten(b), 0);
	assert_null(behind_block(b));
	behind_free(b);
	buf_free(&all);
	close(fd);
}

static void
test_a_limit(void **state)
{
	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	ends_at(0, 0);
	ends_at(199, 0);
	ends_at(200, 200);
	ends_at(350, 200);
	ends_at(850, 800);
	ends_at(999, 800);
}

/* What was lent before the end came is read from where it is: from the file, or from memory. */
static void
test_what_was_lent_is_kept(void **state)
{
	struct buf first = { 0 }, second = { 0 };
	struct rlimit old, less;
	int fd = new_file();
	struct behind *b = behind_new(fd, 0, 0);
	uint8_t seen[2000], want[2000];

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	fill(want, 2000);
	buf_put(&first, want, 1000);
	buf_put(&second, want + 1000, 1000);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	less = (struct rlimit){ 1500, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
	assert_int_equal(behind_lend(b, (struct bytes){ first.at, 1000 }), 0);
	behind_give(b, &first, 1000);
	assert_int_equal(behind_lend(b, (struct bytes){ second.at, 1000 }), 1000);
	behind_give(b, &second, 1000);
	assert_int_equal(behind_wait(b), EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(size_of(fd), 1000);
	assert_true(behind_read(b, 0, 2000, seen));
	assert_memory_equal(seen, want, 2000);
	assert_true(behind_lend(b, (struct bytes){ want, 1000 }) == BEHIND_NOWHERE);
	behind_free(b);
	buf_free(&first);
	buf_free(&second);
	close(fd);
}

static void
interrupted(int sig)
{
	(void)sig;
}

/* Reads later than the writer is interrupted at. */
static pid_t
slow_reader(const int ends[2], const struct buf *all)
{
	struct timespec moment = { 0, 300000000 };
	pid_t pid = fork();
	size_t at = 0;
	ssize_t n;

	if (pid != 0)
		return pid;
	close(ends[1]);
	nanosleep(&moment, NULL);
	for (uint8_t data[4096]; (n = read(ends[0], data, sizeof(data))) > 0; at += (size_t)n)
		if (at + (size_t)n > all->len || memcmp(data, all->at + at, (size_t)n) != 0)
			_exit(1);
	_exit(at == all->len ? 0 : 2);
}

static void
test_a_pipe_that_takes_a_part(void **state)
{
	struct itimerval soon = { .it_value = { 0, 100000 } };
	struct sigaction act = { .sa_handler = interrupted };
	struct buf all = { 0 };
	struct behind *b;
	int ends[2], status;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	fill(buf_grow(&all, 200 << 10), 200 << 10);
	pid = slow_reader(ends, &all);
	close(ends[0]);
	b = behind_new(ends[1], 0, 0);
	assert_true(behind_lend(b, (struct bytes){ all.at, all.len }) == BEHIND_NOWHERE);
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	assert_int_equal(behind_wait(b), 0);
	behind_free(b);
	close(ends[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	buf_free(&all);
}

static void
test_a_pipe_that_nobody_reads(void **state)
{
	struct buf all = { 0 };
	struct behind *b;
	int ends[2];

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(pipe(ends), 0);
	b = behind_new(ends[1], 0, 0);
	put(b, &all, 100, true);
	assert_int_equal(behind_wait(b), 0);
	close(ends[0]);
	put(b, &all, 100, false);
	put(b, &all, 100, true);
	assert_int_equal(behind_wait(b), EPIPE);
	behind_free(b);
	buf_free(&all);
	close(ends[1]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_is_there_in_order),
		cmocka_unit_test(test_it_waits_in_memory),
		cmocka_unit_test(test_a_limit),
		cmocka_unit_test(test_what_was_lent_is_kept),
		cmocka_unit_test(test_a_pipe_that_takes_a_part),
		cmocka_unit_test(test_a_pipe_that_nobody_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
