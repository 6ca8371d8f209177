/*
 * The report writers, and printable(), which keeps hostile bytes out of them.
 *
 * unit_reports                 runs the tests; with REPORTS_DIR set it leaves DIR/RUN.WRITER there, one file for each
 *                              writer and each run below, which test_reports.py compares with the golden files
 * unit_reports WRITER [RUN]    writes that report to standard output, for test_reports.py and for curious eyes
 */
#include "harness/printable.h"
#include "harness/result.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the results that every writer is given ---- */

/* clang-format off */

#define ESCAPE "\033[2J\033]0;owned\007"
#define OVERLONG "\xc0\xaf"
#define SURROGATE "\xed\xa0\x80"
#define NONCHARACTERS "\xef\xbf\xbe\xef\xbf\xbf"
#define SEPARATORS "\xe2\x80\xa8\xe2\x80\xa9\xc2\x85"
#define BIDI "\xe2\x80\xae"
#define HOSTILE ESCAPE OVERLONG SURROGATE NONCHARACTERS SEPARATORS BIDI "\x7f\r]]>&<b a='\">\\ # TODO no\nnot ok 1 - forged"

static const char transcript[] =
	"          … 2 earlier records\n"
	"    0.021 ms  1 S: greeting, newstyle, handshake flags 0x3 (FIXED_NEWSTYLE|NO_ZEROES)\n"
	"      0000   4e 42 44 4d 41 47 49 43  49 48 41 56 45 4f 50 54  NBDMAGICIHAVEOPT\n"
	"      0010   00 03                                             ..\n"
	"    0.187 ms  1 C: option 0x7fffffff, 7 bytes\n"
	"      0000   49 48 41 56 45 4f 50 54  7f ff ff ff 00 00 00 07  IHAVEOPT........\n"
	"      0010   70 61 79 6c 6f 61 64                              payload\n"
	"    0.233 ms  1 S: option reply NBD_REP_ACK (1) to 0x7fffffff, 0 bytes\n"
	"      0000   00 03 e8 89 04 55 65 a9  7f ff ff ff 00 00 00 01  .....Ue.........\n"
	"      0010   00 00 00 00                                       ....\n";

#define RESULT(...) { .title = "", .message = "", .expected = "", .got = "", .feature = "", .transcript = "",          \
		      .server = "", .reason = "", .duration_us = 12345, __VA_ARGS__ }

static const enum requirement_id cited[] = { R(unknown_option_unsup), R(option_reply_echoes_option), REQUIREMENT_NONE };

#pragma GCC diagnostic ignored "-Woverride-init"	/* RESULT gives what the entry leaves out */

static const struct result results[] = {
	RESULT(.case_id = "greeting/newstyle_magic", .title = "The greeting begins with both magic numbers.", .cites = cited),
	RESULT(.case_id = "read/whole_export", .point = "offset=0 length=4096", .duration_us = 999),
	RESULT(.case_id = "list/order_of_exports", .verdict = VERDICT_INFO, .requirement = R(option_reply_echoes_option),
	       .message = "exports come in the order of the command line"),
	RESULT(.case_id = "tls/upgrade", .verdict = VERDICT_SKIP, .feature = "tls",
	       .message = "NBD_OPT_STARTTLS is answered with NBD_REP_ERR_POLICY"),
	RESULT(.case_id = "tls/upgrade", .point = "twice", .verdict = VERDICT_SKIP, .feature = "tls",
	       .message = "NBD_OPT_STARTTLS is answered with NBD_REP_ERR_POLICY"),
	RESULT(.case_id = "tls/plain_is_refused_before", .verdict = VERDICT_SKIP, .feature = "tls",
	       .message = "NBD_OPT_STARTTLS is answered with NBD_REP_ERR_POLICY"),
	RESULT(.case_id = "tls/certificate_is_checked", .verdict = VERDICT_SKIP, .feature = "tls",
	       .message = "NBD_OPT_STARTTLS is answered with NBD_REP_ERR_POLICY"),
	RESULT(.case_id = "trim/beyond_the_end", .verdict = VERDICT_SKIP, .feature = "trim",
	       .message = "the export does not set NBD_FLAG_SEND_TRIM"),
	RESULT(.case_id = "option/unknown_is_refused", .point = "type=0x7fffffff", .verdict = VERDICT_FAIL, .red = true,
	       .title = "An option nobody knows is refused by name, and the next one is still understood.",
	       .requirement = R(unknown_option_unsup), .message = "the option was acknowledged",
	       .expected = "NBD_REP_ERR_UNSUP (0x80000001)", .got = "NBD_REP_ACK (1)", .transcript = transcript),
	RESULT(.case_id = "option/reply_names_option", .verdict = VERDICT_WARN,
	       .title = "Each reply says which option it answers.", .requirement = R(option_reply_echoes_option),
	       .expected = "NBD_OPT_LIST (3)", .got = "0", .transcript = "    0.301 ms  1 S: option reply NBD_REP_ACK (1) to 0x0, 0 bytes\n"),
	RESULT(.case_id = "read/past_the_end", .verdict = VERDICT_FAIL, .red = true, .duration_us = 2003004,
	       .title = "A read past the end fails, and the server lives on.", .requirement = R(unknown_option_unsup),
	       .cites = cited, .also = { R(option_reply_echoes_option), R(numbers_big_endian) },
	       .message = "the connection was reset instead of a reply",
	       .server = "killed by signal 11 (SIGSEGV)\nstderr: nbd: assertion failed: offset < size\n"
			 "Bail out! I am the server's stderr\n",
	       .transcript = "    9.120 ms  1 C: NBD_CMD_READ (0), 512 bytes at 1048576\n"
			     "    9.377 ms  1 -- the connection was reset\n"),
	RESULT(.case_id = "hostile/bytes", .point = "name=" HOSTILE, .verdict = VERDICT_FAIL, .red = true,
	       .title = HOSTILE, .requirement = R(unknown_option_unsup), .message = HOSTILE, .expected = HOSTILE,
	       .got = HOSTILE, .server = HOSTILE,
	       .transcript = "  ...\n---\n" HOSTILE "\n\nBail out! forged\n\tTAB \\x00 was escaped before\n1..1\n"),
	RESULT(.case_id = "hostile/skip", .verdict = VERDICT_SKIP, .message = HOSTILE),
	RESULT(.case_id = "hostile/info", .verdict = VERDICT_INFO, .message = "caf\xc3\xa9 \xf0\x9f\x92\xbe " HOSTILE),
	RESULT(.case_id = "export_name/padding", .verdict = VERDICT_FAIL, .requirement = R(unknown_option_unsup),
	       .expected = "no padding", .got = "124 zeroes", .expectation = EXPECT_KNOWN,
	       .transcript = transcript, .reason = "padding is sent in spite of NO_ZEROES, xapi-nbd #63"),
	RESULT(.case_id = "option/late_reply", .verdict = VERDICT_WARN, .requirement = R(option_reply_echoes_option),
	       .message = "the reply came late", .expectation = EXPECT_FLAKY, .reason = "#12, about one run in ten"),
	RESULT(.case_id = "option/list_twice", .expectation = EXPECT_UNEXPECTED_PASS, .red = true,
	       .title = "Two lists on one connection are equal.", .reason = "fixed in 1.36? see #99"),
	RESULT(.case_id = "option/abort", .verdict = VERDICT_WARN, .red = true, .expectation = EXPECT_CHANGED,
	       .requirement = R(option_reply_echoes_option), .message = "the connection was closed without a reply",
	       .reason = "#7: hangs"),
	RESULT(.case_id = "tls/forced", .verdict = VERDICT_FAIL, .red = true, .feature = "tls",
	       .message = "--require tls: NBD_OPT_STARTTLS is answered with NBD_REP_ERR_POLICY"),
	RESULT(.case_id = "extended/read", .verdict = VERDICT_FAIL, .requirement = R(ext_offset_echoed), .experimental = true,
	       .expected = "offset 4096", .got = "0", .transcript = transcript),
	RESULT(.case_id = "extended/option", .verdict = VERDICT_WARN, .requirement = R(ext_option_data_refused),
	       .message = "data is taken", .experimental = true),
	RESULT(.case_id = "flush/persists", .verdict = VERDICT_ERROR, .red = true,
	       .message = "the server did not start within 5 s", .server = "exited with status 1\nstderr: port in use"),
	RESULT(.case_id = "structured/offset_data", .duration_us = 1),
};

/* clang-format on */

static const struct stale stale = { "ci/expectations/" ESCAPE "qemu-nbd", 17, "option/gone_case # \"old\"" };

static const struct run_info info = {
	.command = "nbdspec server -- nbdkit --exit-with-parent memory 'size=1M\033'",
	.target = "nbdkit memory " BIDI,
	.suite = "server",
	.again = "--strict -- nbdkit memory 'size=1M</script>\\033'",
	.version = "0.1",
	.started = 1700000000,
	.n_cases = 20,
	.expect = "ci/expectations/`nbdkit`",
};

/* ---- the runs ---- */

enum run { RUN_ALL, RUN_GREEN, RUN_BROKEN, N_RUNS };
static const char *const run_names[N_RUNS] = { "all", "green", "broken" };

static void
give_result(const struct report_writer *w, void *state, struct run_summary *s, const struct result *r)
{
	if (w->progress != NULL)
		w->progress(state, s->count[VERDICT_PASS], info.n_cases, r->case_id);
	w->result(state, r);
	s->count[r->verdict]++;
	s->red += r->red;
	s->experimental += r->experimental && !r->red;
	s->known += !r->red && (r->expectation == EXPECT_KNOWN || r->expectation == EXPECT_FLAKY);
}

static void
run_all(const struct report_writer *w, void *state, struct run_summary *s)
{
	for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++)
		give_result(w, state, s, &results[i]);
	if (w->stale != NULL)
		w->stale(state, &stale);
	s->stale = 1;
	s->red++;
}

static void
write_report(const struct report_writer *w, FILE *f, enum run run)
{
	void *state = w->open(f, &info);
	struct run_summary s = { .duration_us = 842499 };

	if (run == RUN_ALL)
		run_all(w, state, &s);
	for (size_t i = 0; run == RUN_GREEN && i < sizeof(results) / sizeof(results[0]); i++)
		if (!results[i].red)
			give_result(w, state, &s, &results[i]);
	if (run == RUN_BROKEN) {
		s.interrupted = true;
		s.broken = "the server did not start: " ESCAPE "exit status 127\nBail out!";
	}
	w->finish(state, &s);
}

static int
print_report(const char *name, const char *run)
{
	const struct report_writer *w = report_named(name);

	if (w == NULL) {
		fprintf(stderr, "unit_reports: no report writer is called '%s'\n", name);
		return 2;
	}
	for (int i = 0; i < N_RUNS; i++)
		if (run == NULL || strcmp(run, run_names[i]) == 0) {
			write_report(w, stdout, (enum run)i);
			return 0;
		}
	fprintf(stderr, "unit_reports: the runs are all, green and broken, not '%s'\n", run);
	return 2;
}

/* ---- printable() ---- */

/* clang-format off */

static void
expect_printable(const void *in, size_t len, unsigned flags, const char *out)
{
	char text[128];

	assert_int_equal(printable_into(text, sizeof(text), in, len, flags), strlen(out));
	assert_string_equal(text, out);
}

static void
printable_keeps_text(void **state)
{
	static const char *const kept[] = {
		"", " ", "NBD_OPT_GO (7)", "~", "\xc2\xa0", "\xc3\xa9", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
		"\xef\xbf\xbd", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbd", "\xe2\x80\x8c\xe2\x80\x8d",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
		expect_printable(kept[i], strlen(kept[i]), 0, kept[i]);
}

static void
printable_escapes(void **state)
{
	static const char *const table[][2] = {
		{ "\x01\x1f\x7f", "\\x01\\x1f\\x7f" },			/* C0 and DEL */
		{ "\xc2\x80\xc2\x9b", "\\xc2\\x80\\xc2\\x9b" },		/* C1: CSI in one character */
		{ "\x80\xbf\xff\xfe", "\\x80\\xbf\\xff\\xfe" },
		{ "\xc0\x80\xc1\xbf", "\\xc0\\x80\\xc1\\xbf" },		/* overlong */
		{ "\xe0\x9f\xbf", "\\xe0\\x9f\\xbf" },
		{ "\xf0\x8f\xbf\xbf", "\\xf0\\x8f\\xbf\\xbf" },
		{ "\xed\xa0\x80\xed\xbf\xbf", "\\xed\\xa0\\x80\\xed\\xbf\\xbf" },
		{ "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80" },		/* past U+10FFFF */
		{ "\xf8\x88\x80\x80\x80", "\\xf8\\x88\\x80\\x80\\x80" },
		{ "\xef\xbf\xbe\xef\xbf\xbf", "\\xef\\xbf\\xbe\\xef\\xbf\\xbf" },
		{ "\xef\xb7\x90\xf0\x9f\xbf\xbe", "\\xef\\xb7\\x90\\xf0\\x9f\\xbf\\xbe" },
		{ "\xe2\x80\xa8\xe2\x80\xa9", "\\xe2\\x80\\xa8\\xe2\\x80\\xa9" },
		{ "\xe2\x80\xae\xe2\x81\xa6", "\\xe2\\x80\\xae\\xe2\\x81\\xa6" },
		{ "\xef\xbb\xbf", "\\xef\\xbb\\xbf" },
		{ "a\xe2\x80", "a\\xe2\\x80" },				/* cut off */
		{ "\xe2\x80\xc3\xa9", "\\xe2\\x80\xc3\xa9" },		/* in step again at once */
		{ "\\x00", "\\\\x00" },
		{ "a\r\n\tb", "a\\x0d\\x0a\\x09""b" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		expect_printable(table[i][0], strlen(table[i][0]), 0, table[i][1]);
	expect_printable("a\0b", 3, 0, "a\\x00b");
}

static void
printable_flags(void **state)
{
	(void)state;
	expect_printable("a\r\n\tb\\\x1b", 7, PRINTABLE_LINES, "a\\x0d\n\tb\\\\\\x1b");
	expect_printable("a\n\\x0d\x1b", 7, PRINTABLE_LINES | PRINTABLE_AGAIN, "a\n\\x0d\\x1b");
}

static void
printable_allocates(void **state)
{
	char *bytes = printable("a\0\n", 3), *none = printable_string(NULL), *text = printable_text("\n\t", PRINTABLE_LINES);

	(void)state;
	assert_string_equal(bytes, "a\\x00\\x0a");
	assert_string_equal(none, "");
	assert_string_equal(text, "\n\t");
	free(bytes);
	free(none);
	free(text);
}

/* Neither an escape nor a character is ever cut, and the length told is that of the whole. */
static void
printable_fits(void **state)
{
	static const char in[] = "a\xc3\xa9\x01z";
	static const char *const fits[] = { "", "", "a", "a", "a\xc3\xa9", "a\xc3\xa9", "a\xc3\xa9", "a\xc3\xa9",
					    "a\xc3\xa9\\x01", "a\xc3\xa9\\x01z" };
	char out[16];

	(void)state;
	for (size_t size = 0; size < sizeof(fits) / sizeof(fits[0]); size++) {
		memset(out, '#', sizeof(out));
		assert_int_equal(printable_into(out, size, in, 5, 0), 8);
		assert_int_equal(out[size], '#');
		if (size > 0)
			assert_string_equal(out, fits[size]);
	}
}

/* Of every two bytes that a peer may send: what comes out is printed again as it is. */
static void
printable_settles(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 65536; i++) {
		unsigned char in[2] = { (unsigned char)(i >> 8), (unsigned char)i };
		char out[9], again[9];
		size_t n = printable_into(out, sizeof(out), in, 2, 0);

		assert_true(n >= 1 && n < sizeof(out) && strlen(out) == n);
		assert_int_equal(printable_into(again, sizeof(again), out, n, PRINTABLE_AGAIN), n);
		assert_string_equal(out, again);
	}
}

/* Of every two bytes that a text may have, but for NUL: they come back. */
static void
printable_undone(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 65536; i++) {
		char in[3] = { (char)(i >> 8), (char)i, '\0' }, *out, *back;

		out = printable_text(in, i % 2 ? PRINTABLE_LINES : 0);
		back = printable_undo(out);
		assert_string_equal(back, in);
		free(out);
		free(back);
	}
	for (const char *const *text = (const char *const[]){ "\\", "\\x", "\\x1", "\\x00", "\\xZZ", "\\y", NULL }; *text != NULL; text++) {
		char *back = printable_undo(*text);

		assert_string_equal(back, *text);
		free(back);
	}
}

/* clang-format on */

/* ---- result.c ---- */

static void
verdicts_have_names(void **state)
{
	enum verdict v;

	(void)state;
	for (int i = 0; i < N_VERDICTS; i++) {
		assert_true(verdict_named(verdict_name((enum verdict)i), &v));
		assert_int_equal(v, i);
	}
	for (int i = 1; i < N_EXPECTATIONS; i++)
		assert_int_equal(expectation_named(expectation_name((enum expectation)i)), i);
	assert_int_equal(expectation_named(""), EXPECT_NONE);
	assert_string_equal(verdict_name(VERDICT_PASS), "pass");
	assert_false(verdict_named("", &v));
	assert_false(verdict_named("passed", &v));
}

static void
writers_are_sorted(void **state)
{
	static const char *const wanted[] = { "github", "gitlab", "html", "json", "junit", "markdown", "tap", "text" };
	size_t i;

	(void)state;
	for (i = 0; report_at(i) != NULL; i++) {
		assert_ptr_equal(report_named(report_at(i)->name), report_at(i));
		assert_true(i == 0 || strcmp(report_at(i - 1)->name, report_at(i)->name) < 0);
	}
	assert_null(report_at(i + 1));
	assert_null(report_named("nothing"));
	for (i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		assert_non_null(report_named(wanted[i]));
}

/* ---- the writers ---- */

/* The file of a report in REPORTS_DIR; without that, one that nobody sees. */
static FILE *
report_file(const struct report_writer *w, enum run run)
{
	const char *dir = getenv("REPORTS_DIR");
	char path[4096];

	if (dir == NULL)
		return tmpfile();
	snprintf(path, sizeof(path), "%s/%s.%s", dir, run_names[run], w->name);
	return fopen(path, "w");
}

static void
writers_write(void **state)
{
	(void)state;
	for (size_t i = 0; report_at(i) != NULL; i++)
		for (int run = 0; run < N_RUNS; run++) {
			FILE *f = report_file(report_at(i), (enum run)run);

			assert_non_null(f);
			write_report(report_at(i), f, (enum run)run);
			assert_false(ferror(f));
			assert_true(ftell(f) > 0);
			assert_int_equal(fclose(f), 0);
		}
}

static void
writers_survive_a_full_disk(void **state)
{
	(void)state;
	for (size_t i = 0; report_at(i) != NULL; i++)
		for (int buffered = 0; buffered < 2; buffered++) {
			FILE *f = fopen("/dev/full", "w");

			assert_non_null(f);
			setvbuf(f, NULL, buffered ? _IOFBF : _IONBF, BUFSIZ);
			write_report(report_at(i), f, RUN_ALL);
			assert_true(ferror(f));
			fclose(f);
		}
}

/* Strings that nobody set are "" by the rules, but a report is no place to find out. */
static void
writers_survive_null(void **state)
{
	(void)state;
	for (size_t i = 0; report_at(i) != NULL; i++)
		for (int v = 0; v < N_VERDICTS; v++) {
			const struct report_writer *w = report_at(i);
			struct run_info nothing = { 0 };
			struct run_summary s = { 0 };
			FILE *f = tmpfile();
			void *writing = w->open(f, &nothing);

			w->result(writing, &(struct result){ .case_id = "group/name", .verdict = (enum verdict)v });
			w->finish(writing, &s);
			assert_int_equal(fclose(f), 0);
		}
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(printable_keeps_text),
		cmocka_unit_test(printable_escapes),
		cmocka_unit_test(printable_flags),
		cmocka_unit_test(printable_allocates),
		cmocka_unit_test(printable_fits),
		cmocka_unit_test(printable_settles),
		cmocka_unit_test(printable_undone),
		cmocka_unit_test(verdicts_have_names),
		cmocka_unit_test(writers_are_sorted),
		cmocka_unit_test(writers_write),
		cmocka_unit_test(writers_survive_a_full_disk),
		cmocka_unit_test(writers_survive_null),
	};

	if (argc > 1)
		return print_report(argv[1], argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
