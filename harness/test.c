/* The verdicts of a case, its points, and the process that it runs in. */
#include "harness/test.h"

#include "harness/clock.h"
#include "harness/exploration.h"
#include "harness/section.h"
#include "harness/test_private.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

SECTION_LIST(case, struct case_def, nbdspec_cases)

const struct case_def *
case_at(size_t i)
{
	return section_sorted(case_section(), i);
}

const struct case_def *
case_named(const char *id)
{
	const struct case_def *c;

	for (size_t i = 0; (c = case_at(i)) != NULL; i++)
		if (strcmp(c->id, id) == 0)
			return c;
	return NULL;
}

/* ---- telling the runner ---- */

static void
send_report(struct test *t, const struct report_header *head, const char *const strings[REPORT_STRINGS])
{
	struct report_header h = *head;
	struct buf b = { 0 };
	ssize_t n;

	for (int i = 0; i < REPORT_STRINGS; i++)
		h.length[i] = (uint32_t)(strings != NULL && strings[i] != NULL ? strlen(strings[i]) : 0);
	buf_put(&b, &h, sizeof(h));
	for (int i = 0; i < REPORT_STRINGS; i++)
		if (h.length[i] > 0)
			buf_put(&b, strings[i], h.length[i]);
	for (size_t at = 0; at < b.len; at += (size_t)n) {
		n = write(t->private->report_fd, b.at + at, b.len - at);
		if (n <= 0)
			_exit(1); /* the runner is gone */
	}
	buf_free(&b);
}

void
report_ended(struct test *t)
{
	struct test_private *p = t->private;
	struct pollfd connection = { .fd = t->s != NULL ? t->s->fd : -1, .events = POLLRDHUP };
	struct pollfd process = { .fd = p->cut.pidfd, .events = POLLIN };
	const char *strings[REPORT_STRINGS] = { NULL };
	char *words;

	if (p->server != &p->cut || p->cut.pid <= 0 || p->cut.pid == p->ended || p->cut.target->via == VIA_FORK ||
	    poll(&process, 1, poll(&connection, 1, 0) > 0 ? CLOSED_MS : 0) <= 0)
		return;
	words = server_fault(&p->cut);
	strings[REPORT_MESSAGE] = words;
	if (words != NULL) {
		p->ended = p->cut.pid;
		send_report(t, &(struct report_header){ .type = REPORT_ENDED }, strings);
	}
	free(words);
}

static void
send_outcome(struct test *t)
{
	struct test_private *p = t->private;
	struct outcome *o = &p->outcome;
	const char *strings[REPORT_STRINGS] = { p->point, o->message, o->expected, o->got, o->feature, o->again };
	struct report_header h = {
		.type = REPORT_RESULT,
		.verdict = o->verdict,
		.requirement = o->requirement,
		.gone = o->gone,
		.duration_us = now_us() - p->started_us,
		.trace_from = p->trace_from,
		.trace_to = trace_end(&p->trace),
	};

	for (int i = 0; i < ALSO_MOST; i++)
		h.also[i] = o->also[i];
	if (o->verdict >= VERDICT_WARN)
		report_ended(t);
	send_report(t, &h, strings);
	p->trace_from = h.trace_to;
	p->started_us = now_us();
	free(o->message);
	free(o->expected);
	free(o->got);
	free(o->feature);
	free(o->again);
	*o = (struct outcome){ .verdict = VERDICT_PASS };
}

void
report_served(struct test *t)
{
	if (t->private->server->starting && t->s->number == 1)
		send_report(t, &(struct report_header){ .type = REPORT_SERVED }, NULL);
}

/* The runner is told first, so that it takes nothing amiss that follows. */
void
report_terminated(struct test *t)
{
	send_report(t, &(struct report_header){ .type = REPORT_TERMINATED }, NULL);
}

/* What a server of ours that has ended by itself says of that comes before the next one is started, too. */
void
report_cut(struct test *t)
{
	report_ended(t);
	send_report(t, &(struct report_header){ .type = REPORT_CUT }, NULL);
}

void
report_changed(struct test *t)
{
	send_report(t, &(struct report_header){ .type = REPORT_CHANGED }, NULL);
}

void
report_untimed(struct test *t)
{
	send_report(t, &(struct report_header){ .type = REPORT_UNTIMED }, NULL);
}

void
terminate_server(struct test *t)
{
	const struct server *server = t->private->server;

	if (server->pid <= 0)
		skip(t, "shutdown", "the server was not started by nbdspec, which therefore does not end it");
	report_terminated(t);
	note(t, "SIGTERM is sent to the server");
	if (!server_terminate(server, t->s->fd))
		skip(t, "shutdown", "the server has ended before it was asked to");
}

bool
server_refuses_clients(struct test *t)
{
	bool listens = server_listens(t->private->server);

	note(t, listens ? "the server still accepts connections" : "the server accepts no connections any more");
	return !listens;
}

_Noreturn void
run_case(const struct case_def *def, const struct server *server, int trace_fd, int report_fd)
{
	struct test_private p = { .server = server, .report_fd = report_fd, .factor = server->target->factor };
	struct test t = { .def = def, .private = &p };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	p.trace = (struct trace){ .fd = trace_fd, .snap = 1u << 16 };
	p.started_us = now_us();
	trace_text(&p.trace, TRACE_CASE, 0, def->id);
	p.trace_from = trace_end(&p.trace);
	if (sigsetjmp(p.top, 0) == 0)
		def->run(&t);
	if (p.points == 0 || p.outcome.verdict != VERDICT_PASS || p.outcome.message != NULL)
		send_outcome(&t);
	report_ended(&t);
	send_report(&t, &(struct report_header){ .type = REPORT_DONE }, NULL);
	_exit(0);
}

_Noreturn void
end_case(struct test *t)
{
	struct test_private *p = t->private;

	if (p->in_point)
		siglongjmp(p->jump, 1);
	siglongjmp(p->top, 1);
}

/* ---- points ---- */

void
point_begin(struct test *t, const char *fmt, ...)
{
	struct test_private *p = t->private;
	va_list ap;

	if (p->fails >= FAILS_ENOUGH)
		return;
	/* What stood before the first point belongs to the case as a whole. */
	if (p->points++ == 0 && p->outcome.verdict != VERDICT_PASS)
		send_outcome(t);
	close_sessions(t);
	va_start(ap, fmt);
	if (vasprintf(&p->point, fmt, ap) < 0)
		abort();
	va_end(ap);
	p->in_point = true;
	p->started_us = now_us();
	trace_text(&p->trace, TRACE_POINT, 0, p->point);
}

bool
point_open(struct test *t)
{
	return t->private->in_point;
}

static bool
is_broken(const struct outcome *o, enum requirement_id r)
{
	for (int i = 0; i < ALSO_MOST && o->also[i] != REQUIREMENT_NONE; i++)
		if (o->also[i] == r)
			return true;
	return o->requirement == r;
}

static void
count_fail(struct test_private *p)
{
	const enum requirement_id *r = p->server->target->breaks;

	if (r == NULL || p->outcome.verdict < VERDICT_WARN)
		return;
	while (*r != REQUIREMENT_NONE && !is_broken(&p->outcome, *r))
		r++;
	p->fails += *r != REQUIREMENT_NONE ? FAILS_ENOUGH : p->outcome.verdict == VERDICT_FAIL;
}

void
point_end(struct test *t)
{
	struct test_private *p = t->private;

	if (!p->in_point)
		return;
	p->in_point = false;
	p->blame = REQUIREMENT_NONE;
	count_fail(p);
	send_outcome(t);
	free(p->point);
	p->point = NULL;
	close_sessions(t);
}

sigjmp_buf *
point_jump(struct test *t)
{
	return &t->private->jump;
}

/* ---- verdicts ---- */

static char *
format(const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	return text;
}

/* The worst verdict stays, and of equals the first. */
static void
settle(struct test *t, enum verdict v, enum requirement_id r, char *message, char *expected, char *got, char *feature)
{
	struct outcome *o = &t->private->outcome;

	if (v <= o->verdict && o->verdict != VERDICT_PASS) {
		free(message);
		free(expected);
		free(got);
		free(feature);
		return;
	}
	free(o->message);
	free(o->expected);
	free(o->got);
	free(o->feature);
	*o = (struct outcome){ .verdict = v,
		               .requirement = r,
		               .message = message,
		               .expected = expected,
		               .got = got,
		               .feature = feature,
		               .gone = o->gone };
}

/* What the extension's text says in its own words of what the standard demands as well. */
static enum requirement_id
with_extended_headers(enum requirement_id r)
{
	switch (r) {
	case R(cookie_echoed):
	case R(structured_chunks_same_cookie):
		return R(ext_cookie_echoed);
	case R(structured_chunk_length):
	case R(each_request_one_reply):
	case R(done_set_on_last):
	case R(done_chunk_last):
	case R(done_clear_before_last):
	case R(none_chunk_empty):
		return R(ext_chunk_layout);
	case R(error_chunk_message_limit):
		return R(ext_error_text_limit);
	case R(df_one_content_chunk):
	case R(command_payload_constraints):
		return R(ext_payload_constraints);
	case R(error_chunk_length):
	case R(error_chunk_nonzero):
	case R(error_chunk_layout):
	case R(error_offset_nonzero):
		return R(ext_errors_in_chunks);
	case R(read_covers_range):
	case R(none_chunk_means_success):
		return R(ext_read_in_chunks);
	default:
		return r;
	}
}

/* Within a probe everything that goes wrong breaks what the probe was for. */
static enum requirement_id
blamed(const struct test *t, enum requirement_id r)
{
	if (t->private->blame != REQUIREMENT_NONE)
		return t->private->blame;
	return t->s != NULL && t->s->extended ? with_extended_headers(r) : r;
}

enum verdict
verdict_of(enum requirement_id r)
{
	switch (requirement(r)->level) {
	case LEVEL_MAY:
		return VERDICT_INFO;
	case LEVEL_SHOULD:
	case LEVEL_SHOULD_NOT:
		return VERDICT_WARN;
	default:
		return VERDICT_FAIL;
	}
}

void
broken(struct test *t, enum requirement_id r, const char *fmt, ...)
{
	va_list ap;

	r = blamed(t, r);
	va_start(ap, fmt);
	settle(t, verdict_of(r), r, format(fmt, ap), NULL, NULL, NULL);
	va_end(ap);
	end_case(t);
}

void
breaks_too(struct test *t, enum requirement_id r, const char *text)
{
	struct outcome *o = &t->private->outcome;
	int i = 0;

	if (o->message == NULL || strcmp(o->message, text) != 0 || o->requirement == r)
		return;
	while (i < ALSO_MOST && o->also[i] != REQUIREMENT_NONE && o->also[i] != r)
		i++;
	if (i < ALSO_MOST)
		o->also[i] = r;
}

void
broken_all(struct test *t, const enum requirement_id *r, const char *text)
{
	enum requirement_id first = blamed(t, *r);

	settle(t, verdict_of(first), first, strdup(text), NULL, NULL, NULL);
	for (; *r != REQUIREMENT_NONE; r++)
		breaks_too(t, *r, text);
	end_case(t);
}

static void
settle_values(struct test *t, enum requirement_id r, const char *expected, const char *got)
{
	r = blamed(t, r);
	settle(t, verdict_of(r), r, NULL, strdup(expected), strdup(got), NULL);
}

void
broken_values(struct test *t, enum requirement_id r, const char *expected, const char *got)
{
	settle_values(t, r, expected, got);
	end_case(t);
}

void
broken_finding(struct test *t, const enum requirement_id *r, const char *expected, const char *got, const char *again)
{
	struct outcome *o = &t->private->outcome;

	settle_values(t, *r, expected, got);
	o->again = strdup(again);
	for (int i = 0; i + 1 < ALSO_MOST && r[i] != REQUIREMENT_NONE; i++)
		o->also[i] = r[i + 1];
	end_case(t);
}

void
deviates(struct test *t, enum requirement_id r, const char *expected, const char *got)
{
	settle_values(t, r, expected, got);
	if (verdict_of(blamed(t, r)) == VERDICT_FAIL)
		end_case(t);
}

void
expect_failed(struct test *t, enum requirement_id r, const char *fmt, ...)
{
	va_list ap;

	r = blamed(t, r);
	va_start(ap, fmt);
	settle(t, verdict_of(r), r, format(fmt, ap), NULL, NULL, NULL);
	va_end(ap);
	if (verdict_of(r) == VERDICT_FAIL)
		end_case(t);
}

void
expect_number(struct test *t, enum requirement_id r, const char *what, uint64_t got, uint64_t want)
{
	char e[160], g[160];

	if (got == want)
		return;
	snprintf(e, sizeof(e), "%s is %" PRIu64 " (0x%" PRIx64 ")", what, want, want);
	snprintf(g, sizeof(g), "%" PRIu64 " (0x%" PRIx64 ")", got, got);
	deviates(t, r, e, g);
}

void
expect_one_of(struct test *t, enum requirement_id r, enum name_kind kind, uint64_t got, const uint64_t *want, size_t n)
{
	char text[NAME_MAX_TEXT], expected[1024] = "";

	for (size_t i = 0; i < n; i++)
		if (want[i] == got)
			return;
	for (size_t i = 0; i < n; i++)
		snprintf(expected + strlen(expected), sizeof(expected) - strlen(expected), "%s%s",
		         i == 0       ? ""
		         : i + 1 == n ? " or "
		                      : ", ",
		         name_text(kind, want[i], text));
	deviates(t, r, expected, name_text(kind, got, text));
}

void
warns(struct test *t, enum requirement_id r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	settle(t, VERDICT_WARN, r, format(fmt, ap), NULL, NULL, NULL);
	va_end(ap);
}

void
observe(struct test *t, enum requirement_id r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	settle(t, VERDICT_INFO, r, format(fmt, ap), NULL, NULL, NULL);
	va_end(ap);
}

void
tell(struct test *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	settle(t, VERDICT_PASS, REQUIREMENT_NONE, format(fmt, ap), NULL, NULL, NULL);
	va_end(ap);
}

void
sum_up(struct test *t, bool whole, const char *text)
{
	settle(t, whole ? VERDICT_PASS : VERDICT_ERROR, REQUIREMENT_NONE, strdup(text), NULL, NULL, NULL);
}

void
skip(struct test *t, const char *feature, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	settle(t, VERDICT_SKIP, REQUIREMENT_NONE, format(fmt, ap), NULL, NULL, strdup(feature));
	va_end(ap);
	end_case(t);
}

void
harness_error(struct test *t, const char *fmt, ...)
{
	const char *strings[REPORT_STRINGS] = { NULL };
	va_list ap;

	va_start(ap, fmt);
	strings[REPORT_MESSAGE] = format(fmt, ap);
	va_end(ap);
	send_report(t,
	            &(struct report_header){
			    .type = REPORT_BROKEN, .verdict = VERDICT_ERROR, .gone = t->private->outcome.gone },
	            strings);
	_exit(0);
}

void
note(struct test *t, const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	text = format(fmt, ap);
	va_end(ap);
	trace_text(&t->private->trace, TRACE_NOTE, t->s ? t->s->number : 0, text);
	free(text);
}
