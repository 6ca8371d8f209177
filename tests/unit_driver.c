/* Drivers that are a few words of shell: what the harness does with their lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "harness/driver.h"
#include "harness/wire.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define GREETING(depth) "echo nbdspec-driver 1 sh 0 depth=" #depth " handles=1 connect disconnect read; "
#define EACH            "while read tag handle operation rest; do "

static struct driver *
start(const char *script)
{
	char *argv[] = { (char *)"bash", (char *)"-c", (char *)script, NULL }, error[512];
	struct driver *d = driver_start(argv, &(struct driver_options){ .factor = 1 }, error);

	assert_non_null(d);
	assert_true(driver_greet(d));
	return d;
}

static void
greeting(void **state)
{
	struct driver *d = start(
		"echo nbdspec-driver 1 x 2.0 depth=99999 handles=3 connect disconnect read+df write+fua+flags; cat");

	(void)state;
	assert_string_equal(driver_name(d), "x");
	assert_string_equal(driver_version(d), "2.0");
	assert_int_equal(driver_depth(d), DRIVER_DEPTH_MOST);
	assert_int_equal(driver_handles(d), 3);
	assert_true(driver_has(d, "write", NULL) && driver_has(d, "write", "flags") && driver_has(d, "read", "df"));
	assert_false(driver_has(d, "writ", NULL) || driver_has(d, "write", "flag") || driver_has(d, "read", "fua"));
	assert_false(driver_has(d, "fua", NULL) || driver_has(d, "connect", "df"));
	driver_stop(d);
}

static void
answers(void **state)
{
	struct driver *d =
		start(GREETING(9) EACH "case $operation in good) echo $tag ok a=b c;; bad) echo $tag error EIO why;; "
	                               "*) echo $tag unsupported;; esac; done");
	struct driver_answer a;

	(void)state;
	assert_true(driver_ask(d, &a, 1, "good"));
	assert_int_equal(a.result, DRIVER_OK);
	assert_string_equal(a.text, "a=b c");
	assert_true(driver_ask(d, &a, 1, "bad %d", 7));
	assert_int_equal(a.result, DRIVER_ERROR);
	assert_string_equal(a.text, "EIO why");
	assert_true(driver_ask(d, &a, 1, "else"));
	assert_int_equal(a.result, DRIVER_UNSUPPORTED);
	assert_int_equal(driver_take(d, &a, 0), DRIVER_NOTHING);
	assert_string_equal(driver_error(d), "");
	assert_true(driver_end(d));
	driver_stop(d);
}

/* More than a pipe takes, to a driver that does not read at first. */
static void
many(void **state)
{
	struct driver *d = start(GREETING(4096) "sleep 0.1; " EACH "echo $tag ok $rest; done");
	bool seen[DRIVER_DEPTH_MOST + 1] = { false };
	struct driver_answer a;

	(void)state;
	for (unsigned i = 1; i <= DRIVER_DEPTH_MOST; i++)
		assert_int_equal(driver_send(d, 1, "read %0100u", i), i);
	assert_int_equal(driver_in_flight(d), DRIVER_DEPTH_MOST);
	for (unsigned i = 1; i <= DRIVER_DEPTH_MOST; i++) {
		struct pollfd p = { .fd = driver_fd(d), .events = POLLIN };

		while (driver_take(d, &a, 0) == DRIVER_NOTHING)
			assert_int_equal(poll(&p, 1, 5000), 1);
		assert_false(seen[a.tag]);
		seen[a.tag] = true;
		assert_int_equal(strtoul(a.text, NULL, 10), a.tag);
	}
	assert_int_equal(driver_in_flight(d), 0);
	driver_stop(d);
}

/* With depth=1 there is never a second line to be read. */
static void
depth(void **state)
{
	struct driver *d = start(GREETING(1) EACH "if read -t 0.05 more; then exit 1; fi; echo $tag ok; done");
	struct driver_answer a;

	(void)state;
	for (unsigned i = 1; i <= 3; i++)
		assert_int_equal(driver_send(d, i, "read 0 512"), i);
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(driver_take(d, &a, -1), DRIVER_TOOK);
		assert_int_equal(a.tag, i);
	}
	driver_stop(d);
}

/* What a child of ours has asked is not asked again, and what it has taken is not there any more. */
static void
forked(void **state)
{
	struct driver *d = start(GREETING(9) EACH "echo $tag ok $operation; done");
	struct driver_answer a;
	int status;
	pid_t pid;

	(void)state;
	assert_true(driver_ask(d, &a, 1, "first"));
	pid = fork();
	if (pid == 0) {
		bool ok = driver_ask(d, &a, 1, "second") && a.tag == 2 && strcmp(a.text, "second") == 0;

		driver_send(d, 1, "third");
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(driver_in_flight(d), 1);
	assert_int_equal(driver_take(d, &a, -1), DRIVER_TOOK);
	assert_string_equal(a.text, "third");
	assert_int_equal(driver_send(d, 1, "fourth"), 4);
	driver_stop(d);
}

/* What it says before it dies is heard. */
static void
last_words(void **state)
{
	struct driver *d = start(GREETING(9) EACH "echo $tag ok; echo $tag ok again; echo alas >&2; exit 3; done");
	struct driver_answer a;

	(void)state;
	driver_send(d, 1, "one");
	driver_send(d, 1, "two");
	assert_int_equal(driver_take(d, &a, -1), DRIVER_TOOK);
	assert_int_equal(driver_take(d, &a, -1), DRIVER_BROKEN);
	assert_string_equal(driver_error(d),
	                    "the driver answers '1 ok again': nothing with this tag waits for an answer");
	assert_int_equal(driver_send(d, 1, "three"), 0);
	driver_stop(d);
	d = start(GREETING(9) "exec >&-; sleep 1000");
	assert_false(driver_ask(d, &a, 1, "one"));
	assert_string_equal(driver_error(d),
	                    "the driver has closed its standard output instead of answering '1 1 one'");
	driver_stop(d);
	d = start(GREETING(9) EACH "echo $tag ok; echo alas >&2; exit 3; done");
	assert_true(driver_ask(d, &a, 1, "one"));
	assert_false(driver_ask(d, &a, 1, "two"));
	assert_string_equal(driver_error(d),
	                    "the driver ended with exit status 3 instead of answering '2 1 two'; it printed: alas");
	driver_stop(d);
}

static void
contents(void **state)
{
	uint8_t data[40];

	(void)state;
	assert_int_equal(driver_digest((const uint8_t *)"123456789", 9), 0xcbf43926);
	driver_pattern(7, 4096, 32, data);
	assert_memory_equal(data, "00070000000001000007000000000101", 32);
	driver_pattern(0xfffe, UINT64_C(0x7ffffffffffffff0) - 3, 7, data);
	assert_memory_equal(data,
	                    "ffe"
	                    "fffe",
	                    7);
	driver_pattern(0, 3, 7, data);
	assert_memory_equal(data, "\0\0\0\0\0\0\0", 7);
}

static void
words(void **state)
{
	static const char text[] = " a=b:c, %é\x01";
	char *word = driver_escape(text), line[100], *value;

	(void)state;
	assert_string_equal(word, "%20a%3db%3ac%2c%20%25%c3%a9%01");
	snprintf(line, sizeof(line), "size=1 x=%s y=", word);
	value = driver_value(line, "x");
	assert_string_equal(value, text);
	free(value);
	value = driver_value(line, "y");
	assert_string_equal(value, "");
	assert_null(driver_value(line, "siz"));
	assert_null(driver_value(line, "z"));
	free(value);
	free(word);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greeting), cmocka_unit_test(answers), cmocka_unit_test(many),
		cmocka_unit_test(depth),    cmocka_unit_test(forked),  cmocka_unit_test(last_words),
		cmocka_unit_test(contents), cmocka_unit_test(words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
