#include "harness/crash/recording.h"

#include "harness/nbd.h"
#include "harness/sum.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NBD_REPLY_TYPE_ERROR_BIT = 1 << 15 }; /* proto.md:1890 */

#define NOTE_FORMAT "export size %" PRIu64 " minimum %" PRIu64 " multi-conn %d"

struct in_flight {
	uint64_t cookie;
	uint32_t number;
	uint16_t connection;
	bool failed; /* by a chunk that was not the last */
};

struct loader {
	struct recording *r;
	const char *path;
	char *error;
	bool told; /* of the disk */
	struct in_flight *in_flight;
	size_t n_in_flight;
};

static bool
wrong(const struct loader *l, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(l->error, 512, "%.100s: %s", l->path, text);
	return false;
}

char *
recording_note(uint64_t size, uint64_t minimum, bool multi_conn)
{
	char *text;

	if (asprintf(&text, NOTE_FORMAT, size, minimum, multi_conn) < 0)
		abort();
	return text;
}

const char *
recorded_kind_name(enum history_kind kind)
{
	static const char *const names[] = { "nothing", "WRITE", "WRITE_ZEROES", "TRIM", "FLUSH" };

	return names[kind];
}

/* Grows by doubling: `n` are in it, and one more is about to be. */
static void *
grown(void *array, size_t n, size_t size)
{
	if (n >= 16 && (n & (n - 1)) != 0)
		return array;
	if (n > 0 && n < 16)
		return array;
	array = reallocarray(array, n == 0 ? 16 : 2 * n, size);
	if (array == NULL)
		abort();
	return array;
}

static void
add_event(struct recording *r, int what, uint32_t which)
{
	r->events = grown(r->events, r->n_events, sizeof(*r->events));
	r->events[r->n_events].what = what;
	r->events[r->n_events++].which = which;
}

/* ---- requests ---- */

static enum history_kind
kind_of(const struct request *q)
{
	switch (q->type) {
	case NBD_CMD_WRITE:
		return HISTORY_WRITE;
	case NBD_CMD_WRITE_ZEROES:
		return HISTORY_ZEROES;
	case NBD_CMD_TRIM:
		return HISTORY_TRIM;
	case NBD_CMD_FLUSH:
		return HISTORY_FLUSH;
	default:
		return HISTORY_INITIAL;
	}
}

static void
add_command(struct loader *l, uint16_t connection, enum history_kind kind, const struct request *q)
{
	struct recording *r = l->r;
	struct recorded_command c = { .kind = kind,
		                      .fua = (q->flags & NBD_CMD_FLAG_FUA) != 0,
		                      .connection = connection,
		                      .received = r->n_events,
		                      .answered = NEVER };

	if (kind != HISTORY_FLUSH) {
		c.offset = q->offset;
		c.length = q->length;
		c.data = kind == HISTORY_WRITE ? q->data.at : NULL;
	}
	r->commands = grown(r->commands, r->n_commands + 1u, sizeof(*r->commands));
	r->commands[++r->n_commands] = c;
	l->in_flight = grown(l->in_flight, l->n_in_flight, sizeof(*l->in_flight));
	l->in_flight[l->n_in_flight++] =
		(struct in_flight){ .cookie = q->cookie, .number = r->n_commands, .connection = connection };
	add_event(r, EVENT_RECEIVED, r->n_commands);
}

static bool
take_request(struct loader *l, const struct trace_record *t)
{
	struct request q;
	bool extended = t->message == MSG_EXTENDED_REQUEST;
	enum wire_end end =
		extended ? wire_get_extended_request(wire_over(t->data), &q) : wire_get_request(wire_over(t->data), &q);
	enum history_kind kind = kind_of(&q);

	if (t->length > t->data.len && kind == HISTORY_WRITE)
		return wrong(l,
		             "keeps but %zu bytes of a WRITE of %" PRIu64
		             "; record it with all data ('nbdspec crash record')",
		             t->data.len, q.length);
	if (end != WIRE_EXACT || q.magic != (extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC) ||
	    kind == HISTORY_INITIAL)
		return true;
	if (!l->told)
		return wrong(l,
		             "a write comes before the note of the disk's size; record it with 'nbdspec crash record'");
	/* The server refuses what does not lie on the disk. */
	if (kind != HISTORY_FLUSH && (q.length == 0 || q.offset > l->r->size || q.length > l->r->size - q.offset))
		return true;
	if (l->r->n_events >= NEVER - 2)
		return wrong(l, "has too many requests");
	add_command(l, t->connection, kind, &q);
	return true;
}

/* ---- replies ---- */

static struct in_flight *
find_in_flight(struct loader *l, uint16_t connection, uint64_t cookie)
{
	for (size_t i = 0; i < l->n_in_flight; i++)
		if (l->in_flight[i].cookie == cookie && l->in_flight[i].connection == connection)
			return &l->in_flight[i];
	return NULL;
}

static void
take_reply(struct loader *l, const struct trace_record *t)
{
	struct simple_reply s = { 0 };
	struct chunk c = { .flags = NBD_REPLY_FLAG_DONE };
	struct in_flight *f;
	struct recorded_command *command;

	if (t->message == MSG_SIMPLE_REPLY)
		wire_get_simple_reply(wire_over(t->data), &s);
	else if (t->message == MSG_EXTENDED_CHUNK)
		wire_get_extended_chunk(wire_over(t->data), &c);
	else
		wire_get_chunk(wire_over(t->data), &c);
	f = find_in_flight(l, t->connection, t->message == MSG_SIMPLE_REPLY ? s.cookie : c.cookie);
	if (f == NULL)
		return;
	f->failed |= s.error != 0 || (c.type & NBD_REPLY_TYPE_ERROR_BIT) != 0;
	if ((c.flags & NBD_REPLY_FLAG_DONE) == 0)
		return;
	command = &l->r->commands[f->number];
	command->answered = l->r->n_events;
	command->success = !f->failed;
	add_event(l->r, EVENT_ANSWERED, f->number);
	memmove(f, f + 1, (size_t)(l->in_flight + l->n_in_flight - (f + 1)) * sizeof(*f));
	l->n_in_flight--;
}

/* What was not answered by now never will be. */
static void
take_end(struct loader *l, uint16_t connection)
{
	size_t kept = 0;

	for (size_t i = 0; i < l->n_in_flight; i++)
		if (l->in_flight[i].connection != connection)
			l->in_flight[kept++] = l->in_flight[i];
	l->n_in_flight = kept;
}

/* ---- notes and marks ---- */

static bool
take_note(struct loader *l, const struct trace_record *t)
{
	char text[128];
	uint64_t size, minimum;
	int multi_conn;

	snprintf(text, sizeof(text), "%.*s", t->data.len < 127 ? (int)t->data.len : 127, (const char *)t->data.at);
	if (strncmp(text, "export size ", 12) != 0)
		return true;
	if (l->told)
		return wrong(l, "tells of two exports; a recording is of one");
	if (sscanf(text, "export size %" SCNu64 " minimum %" SCNu64 " multi-conn %d", &size, &minimum, &multi_conn) !=
	            3 ||
	    size == 0 || size > INT64_MAX || minimum == 0 || (minimum & (minimum - 1)) != 0 || minimum > 65536)
		return wrong(l, "its note of the disk is not understood: '%.100s'", text);
	l->r->size = size;
	l->r->minimum = minimum;
	l->r->multi_conn = multi_conn != 0;
	l->told = true;
	return true;
}

static void
take_mark(struct loader *l, const struct trace_record *t)
{
	struct recording *r = l->r;

	if (bytes_equal(t->data, BYTES_OF(RECORDING_BEGIN))) {
		r->begin = r->n_events;
		return;
	}
	r->marks = grown(r->marks, r->n_marks, sizeof(*r->marks));
	r->marks[r->n_marks] = (struct recorded_mark){ .text = t->data, .event = r->n_events };
	add_event(r, EVENT_MARK, r->n_marks++);
}

static bool
take_record(struct loader *l, const struct trace_record *t)
{
	switch (t->kind) {
	case TRACE_MESSAGE:
		if ((t->message == MSG_REQUEST || t->message == MSG_EXTENDED_REQUEST) && t->direction == TO_SERVER)
			return take_request(l, t);
		if ((t->message == MSG_SIMPLE_REPLY || t->message == MSG_CHUNK || t->message == MSG_EXTENDED_CHUNK) &&
		    t->direction == TO_CLIENT)
			take_reply(l, t);
		return true;
	case TRACE_CONNECT:
	case TRACE_CLOSED:
	case TRACE_RESET:
	case TRACE_DISCONNECT:
		take_end(l, t->connection);
		return true;
	case TRACE_NOTE:
		return take_note(l, t);
	case TRACE_MARK:
		take_mark(l, t);
		return true;
	default:
		return true;
	}
}

/* ---- the file ---- */

static bool
map_file(struct loader *l)
{
	int fd = open(l->path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	bool ok = fd >= 0 && fstat(fd, &st) == 0;

	if (ok && !S_ISREG(st.st_mode)) {
		close(fd);
		return wrong(l, "is not a file");
	}
	if (ok && st.st_size > 0) {
		l->r->map_size = (size_t)st.st_size;
		l->r->map = mmap(NULL, l->r->map_size, PROT_READ, MAP_PRIVATE, fd, 0);
		ok = l->r->map != MAP_FAILED;
	}
	if (!ok)
		wrong(l, "%s", strerror(errno));
	if (!ok)
		l->r->map = NULL;
	if (fd >= 0)
		close(fd);
	return ok;
}

static bool
take_file(struct loader *l)
{
	struct wire w = wire(l->r->map, l->r->map_size);
	struct trace_record t;

	if (!trace_check(&w))
		return wrong(l, "is not a trace of nbdspec; make one with 'nbdspec crash record'");
	while (trace_next(&w, &t))
		if (!take_record(l, &t))
			return false;
	l->r->left_over = w.left;
	if (!l->told)
		return wrong(l, "has no note of the disk's size; record it with 'nbdspec crash record'");
	if (l->r->n_commands == 0)
		return wrong(l, "has no write in it: there is nothing to lose");
	return true;
}

bool
recording_load(struct recording *r, const char *path, char error[512])
{
	struct loader l = { .r = r, .path = path, .error = error };
	bool ok;

	*r = (struct recording){ .commands = grown(NULL, 0, sizeof(*r->commands)) };
	ok = map_file(&l) && take_file(&l);
	free(l.in_flight);
	if (!ok)
		recording_free(r);
	return ok;
}

void
recording_free(struct recording *r)
{
	free(r->commands);
	free(r->events);
	free(r->marks);
	if (r->map != NULL)
		munmap(r->map, r->map_size);
	*r = (struct recording){ 0 };
}

bool
recording_write_marks(const struct recording *r, const char *path, char error[512])
{
	FILE *f = fopen(path, "wxe");
	bool ok = f != NULL;

	for (uint32_t i = 0; i < r->n_marks && ok; i++)
		ok = fprintf(f, "%.*s\n", (int)r->marks[i].text.len, (const char *)r->marks[i].text.at) >= 0;
	if (f != NULL && fclose(f) != 0)
		ok = false;
	if (!ok)
		snprintf(error, 512, "%.300s: %s", path, strerror(errno));
	return ok;
}

static uint64_t
sum_command(uint64_t sum, const struct recorded_command *c)
{
	sum = sum_number(sum,
	                 (uint64_t)c->connection << 32 | (uint64_t)c->kind << 2 | (uint64_t)c->fua << 1 | c->success);
	sum = sum_number(sum, (uint64_t)c->received << 32 | c->answered);
	sum = sum_number(sum_number(sum, c->offset), c->length);
	return c->data != NULL ? sum_bytes(sum, c->data, c->length) : sum;
}

uint64_t
recording_identity(const struct recording *r)
{
	uint64_t sum = sum_number(sum_number(r->size, r->minimum * 2 + r->multi_conn), r->begin);

	for (uint32_t i = 1; i <= r->n_commands; i++)
		sum = sum_command(sum, &r->commands[i]);
	for (uint32_t i = 0; i < r->n_marks; i++) {
		const struct recorded_mark *m = &r->marks[i];

		sum = sum_number(sum_number(sum, m->event), m->text.len);
		sum = sum_bytes(sum, m->text.at, m->text.len);
	}
	return sum;
}
