#include "cases/client/judge.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct verdicts {
	struct test *t;
	enum requirement_id broken[ALSO_MOST + 2]; /* each MUST that the first act breaks that breaks one */
	unsigned n;
	char *text;
};

static bool
is_should(enum requirement_id r)
{
	return requirement(r)->level == LEVEL_SHOULD || requirement(r)->level == LEVEL_SHOULD_NOT;
}

static void
on_broken(void *arg, uint16_t connection, enum requirement_id r, const char *text)
{
	struct verdicts *v = arg;
	char *line;

	if (asprintf(&line, "connection %u: %s", connection, text) < 0)
		abort();
	if (is_should(r)) {
		warns(v->t, r, "%s", line);
		breaks_too(v->t, r, line);
	} else if (v->n == 0) {
		v->broken[v->n++] = r;
		v->text = line;
		return;
	}
	if (v->n > 0 && v->n <= ALSO_MOST && strcmp(v->text, line) == 0)
		v->broken[v->n++] = r;
	free(line);
}

static void *
map_trace(struct test *t, const struct trace *trace, off_t end)
{
	void *map = mmap(NULL, (size_t)end, PROT_READ, MAP_SHARED, trace->fd, 0);

	if (map == MAP_FAILED)
		harness_error(t, "cannot read the trace: %s", strerror(errno));
	return map;
}

struct wire
trace_records(struct test *t, const struct trace *trace, off_t from)
{
	static void *map;
	static size_t mapped;

	if (map != NULL)
		munmap(map, mapped);
	mapped = (size_t)trace_end(trace);
	map = map_trace(t, trace, (off_t)mapped);
	return wire((uint8_t *)map + from, mapped - (size_t)from);
}

unsigned
options_in(struct wire records, uint32_t option)
{
	struct trace_record r;
	struct option o;
	unsigned n = 0;

	while (trace_next(&records, &r))
		if (r.kind == TRACE_MESSAGE && r.message == MSG_OPTION) {
			wire_get_option(wire_over(r.data), &o);
			n += o.option == option;
		}
	return n;
}

unsigned
options_sent(struct test *t, const struct trace *trace, off_t from, uint32_t option)
{
	return options_in(trace_records(t, trace, from), option);
}

bool
goes_forward(struct test *t, const struct trace *trace, off_t from, uint64_t until, uint64_t ms)
{
	off_t end = trace_end(trace);
	uint64_t reached = 0, grew = 0;
	struct trace_record record;
	struct request request;
	void *map = map_trace(t, trace, end);
	struct wire w = wire((uint8_t *)map + from, (size_t)(end - from));

	while (trace_next(&w, &record)) {
		if (request_in(&record, &request) && request.offset > reached) {
			reached = request.offset;
			grew = record.ns;
		}
	}
	munmap(map, (size_t)end);
	return grew > 0 && grew + ms * 1000000 > until;
}

void
judge_trace(struct test *t, const struct trace *trace, off_t from, const struct referee_setup *setup)
{
	struct verdicts v = { .t = t };
	struct referee *referee;
	off_t end = trace_end(trace);
	struct trace_record record;
	struct wire w;
	void *map = map_trace(t, trace, end);

	referee = referee_new(setup, on_broken, &v);
	w = wire((uint8_t *)map + from, (size_t)(end - from));
	while (trace_next(&w, &record))
		referee_see(referee, &record);
	referee_end(referee);
	munmap(map, (size_t)end);
	if (v.n > 0)
		broken_all(t, v.broken, v.text);
}
