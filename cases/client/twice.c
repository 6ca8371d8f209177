#include "cases/client/twice.h"

#include "cases/client/referee.h"
#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/names.h"
#include "harness/nbd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the server's terms ---- */

static void
serve(struct twice *w)
{
	drive_serve(w->d, "size=1M", "name=b,size=1M", NULL);
}

/* A driver has no state of its own, but its client's library may: what is to be measured needs a process that saw nothing. */
void
twice_serve(struct twice *w)
{
	/* Where a point was broken off drive_serve sees to that. */
	if (!w->d->open && *driver_error(w->d->driver) == '\0')
		drive_end_driver(w->d, R(client_transmission_no_disconnect));
	serve(w);
}

/* What the session before has written is not to be found. */
static void
refill(struct fake_export *e)
{
	static uint8_t contents[TWICE_DISK];
	enum disk_state failed;

	if (contents[0] == 0)
		driver_pattern(DRIVE_PATTERN, 0, sizeof(contents), contents);
	if (!disk_write(e->disk, 0, sizeof(contents), contents, &failed))
		abort();
}

void
twice_apply(struct twice *w, unsigned export, const struct terms *terms)
{
	struct fake_export *e = &w->d->exports[export];
	struct fake_config *c = &w->d->config;

	refill(e);
	e->flags = NBD_FLAG_HAS_FLAGS | terms->flags;
	e->size = terms->size != 0 ? terms->size : TWICE_SIZE;
	e->block = terms->block;
	e->contexts = terms->contexts;
	free(e->description);
	e->description = terms->description != NULL ? strdup(terms->description) : NULL;
	c->oldstyle = terms->oldstyle;
	memset(c->knob, 0, sizeof(c->knob));
	for (size_t i = 0; i < terms->n_knobs; i++)
		c->knob[terms->knobs[i]] = true;
}

/* ---- what is told of a session ---- */

static void
tell_answer(FILE *f, const char *word, const struct driver_answer *a)
{
	static const char *const results[] = { "ok", "error", "unsupported" };
	char *text = strdup(a->text), *next = text, *known;
	bool connects = strcmp(word, "connect") == 0;

	fprintf(f, "%s: %s\n", word, results[a->result]);
	/* Which error it is may hang on who has noticed it first. */
	while (a->result == DRIVER_OK && (known = strsep(&next, " ")) != NULL)
		if (*known != '\0')
			fprintf(f, "%s: %s%s\n", word, connects ? "" : "ok ", known);
	free(text);
}

static void
tell_flags(FILE *f, struct bytes data)
{
	struct client_flags m;

	wire_get_client_flags(wire_over(data), &m);
	fprintf(f, "sends the client flags 0x%x\n", m.flags);
}

static void
tell_option(FILE *f, struct bytes data)
{
	char name[NAME_MAX_TEXT];
	struct option o;

	wire_get_option(wire_over(data), &o);
	fprintf(f, "sends %s, %u bytes of data with the digest %08x\n", name_text(NAME_OPTION, o.option, name),
	        o.length, driver_digest(o.data.at, o.data.len));
}

static void
tell_request(FILE *f, struct bytes data)
{
	char name[NAME_MAX_TEXT];
	struct request q;

	wire_get_request(wire_over(data), &q);
	fprintf(f, "sends %s, flags 0x%x, of %" PRIu64 " bytes at %" PRIu64 "\n", name_text(NAME_COMMAND, q.type, name),
	        q.flags, q.length, q.offset);
}

/* Leaves of them those that the client has a request on, if any. */
static void
keep_used(struct wire all, bool told[UINT16_MAX + 1])
{
	static bool used[UINT16_MAX + 1];
	struct trace_record r;
	bool any = false;

	memset(used, 0, sizeof(used));
	while (trace_next(&all, &r))
		if (r.kind == TRACE_MESSAGE && r.message == MSG_REQUEST && told[r.connection])
			any = used[r.connection] = true;
	if (any)
		memcpy(told, used, sizeof(used));
}

/* By it a client begins or continues a connection. */
static bool
goes_on(const struct trace_record *r)
{
	struct request q;

	if (r->kind == TRACE_MESSAGE && r->direction == TO_SERVER)
		return !request_in(r, &q) || q.type != NBD_CMD_DISC;
	return r->kind == TRACE_CONNECT;
}

/* Of the connections from before the answer to connect, the newest, and those on which the client goes on; all later ones. */
static void
find_connected(struct twice *w, struct wire all, bool connected[UINT16_MAX + 1])
{
	const uint8_t *answered = all.at + (w->answered - w->from);
	struct trace_record r;
	uint16_t newest = 0;

	while (trace_next(&all, &r)) {
		if (all.at > answered)
			connected[r.connection] |= goes_on(&r);
		else if (r.kind == TRACE_CONNECT)
			newest = r.connection;
	}
	connected[newest] = true;
}

/*
 * A connection that is given up unused, beside one that is used, is told nothing of: a client that lost the one before it may
 * open another as it closes its handle, and when that comes is chance. Likewise one that it has opened by itself in the
 * lost one's place, be it used (qemu 5.2 sends a last FLUSH on it), and gives up once it is told to connect.
 */
static void
tell_sent(struct twice *w, FILE *f)
{
	static bool told[UINT16_MAX + 1];
	struct wire all = drive_records(w->d);
	size_t skipped = (size_t)(w->from - w->d->from);
	bool reconnected = w->answered > w->from;
	struct trace_record r;

	all = wire(all.at + skipped, all.left - skipped);
	memset(told, !reconnected, sizeof(told));
	if (reconnected)
		find_connected(w, all, told);
	keep_used(all, told);
	while (trace_next(&all, &r)) {
		if (r.kind != TRACE_MESSAGE || r.direction != TO_SERVER || !told[r.connection])
			continue;
		if (r.message == MSG_CLIENT_FLAGS)
			tell_flags(f, r.data);
		else if (r.message == MSG_OPTION)
			tell_option(f, r.data);
		else if (r.message == MSG_REQUEST)
			tell_request(f, r.data);
	}
}

static bool
is_setting(const char *word)
{
	return strncmp(word, "set ", 4) == 0;
}

void
twice_settings(struct twice *w, unsigned handle)
{
	for (size_t i = 0; i < w->n_words; i++)
		if (is_setting(w->words[i]))
			ask(w->d, handle, "%s", w->words[i]);
}

void
twice_begin(struct twice *w)
{
	drive_records(w->d);
	w->from = trace_end(w->d->config.trace);
}

char *
twice_tell(struct twice *w, unsigned handle, const struct driver_answer *connected)
{
	struct driver_answer a;
	size_t length;
	char *text;
	FILE *f = open_memstream(&text, &length);

	if (f == NULL)
		abort();
	tell_answer(f, "connect", connected);
	for (size_t i = 0; i < w->n_words && connected->result == DRIVER_OK; i++) {
		if (is_setting(w->words[i]))
			continue;
		a = ask(w->d, handle, "%s", w->words[i]);
		tell_answer(f, w->words[i], &a);
	}
	tell_sent(w, f);
	fclose(f);
	return text;
}

char *
twice_session(struct twice *w, unsigned handle, unsigned export)
{
	char *uri = drive_uri(w->d, w->d->exports[export].name);
	struct driver_answer a;

	twice_begin(w);
	a = ask(w->d, handle, "connect %s", uri);
	free(uri);
	return twice_tell(w, handle, &a);
}

void
twice_leave(struct twice *w, unsigned handle)
{
	ask(w->d, handle, "disconnect");
	if (driver_has(w->d->driver, "close", NULL))
		ask(w->d, handle, "close");
}

/* ---- ways from one session to the next ---- */

char *
twice_alone(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	(void)one;
	twice_apply(w, 0, two);
	twice_settings(w, w->handle);
	told = twice_session(w, w->handle, 0);
	twice_leave(w, w->handle);
	return told;
}

char *
twice_reconnect(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	twice_apply(w, 0, one);
	twice_settings(w, w->handle);
	free(twice_session(w, w->handle, 0));
	ask(w->d, w->handle, "disconnect");
	twice_apply(w, 0, two);
	told = twice_session(w, w->handle, 0);
	twice_leave(w, w->handle);
	return told;
}

/* ---- the comparison ---- */

static size_t
line_length(const char *at)
{
	return strcspn(at, "\n");
}

/* The first line that differs, and of which session it is. */
void
twice_differ(struct twice *w, const char *a, const char *b, const char *of_a, const char *of_b)
{
	char want[300], got[300];
	size_t same = 0;

	for (size_t i = 0; a[i] != '\0' && a[i] == b[i]; i++)
		if (a[i] == '\n')
			same = i + 1;
	snprintf(want, sizeof(want), "'%.*s', as %s", (int)line_length(a + same), a + same, of_a);
	snprintf(got, sizeof(got), "'%.*s' %s", (int)line_length(b + same), b + same, of_b);
	broken_values(w->d->t, w->r, want, got);
}

_Noreturn static void
differ(struct twice *w, const struct terms *one, const struct terms *two, const char *alone, const char *told)
{
	char first[160], second[160];

	snprintf(first, sizeof(first), "in a first session with %s", two->name);
	snprintf(second, sizeof(second), "after a session with %s", one->name);
	twice_differ(w, alone, told, first, second);
}

static char *
fresh(struct twice *w, twice_way *way, const struct terms *one, const struct terms *two)
{
	twice_serve(w);
	w->handle++;
	return way(w, one, two);
}

/*
 * It may be that the client is not the same each time, for reasons of its own, such as what was under way when it was cut
 * off: no verdict may hang on that. That it keeps what was is to be said before the referee says which rule it breaks by it.
 */
static void
confirm(struct twice *w, const struct terms *one, const struct terms *two, const char *told)
{
	char *alone, *again;

	drive_mark(w->d);
	drive_finish(w->d);
	alone = fresh(w, w->alone, NULL, two);
	drive_finish(w->d);
	again = fresh(w, w->way, one, two);
	if (strcmp(alone, w->measure) == 0 && strcmp(again, told) == 0)
		differ(w, one, two, alone, told);
	note(w->d->t, "after a session with %s, one with %s is not the same each time", one->name, two->name);
	free(alone);
	free(again);
}

static void
compare(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	w->handle++;
	told = w->way(w, one, two);
	w->pairs++;
	if (strcmp(told, w->measure) != 0)
		confirm(w, one, two, told);
	free(told);
}

static void
measure(struct twice *w, const struct terms *two)
{
	twice_serve(w);
	w->handle = 1;
	/* It may be skipped. */
	free(w->measure);
	w->measure = NULL;
	w->measure = w->alone(w, NULL, two);
	/* What a process keeps for ever from its first session would be just what is right. */
	drive_finish(w->d);
	twice_serve(w);
}

void
twice_pair(struct twice *w, const struct terms *one, const struct terms *two)
{
	measure(w, two);
	compare(w, one, two);
	drive_finish(w->d);
}

void
twice_among(struct twice *w, const struct terms *rows, size_t n, size_t few)
{
	size_t most = client_pairwise(w->d->client) ? few : n;
	volatile unsigned pairs = 0;

	for (volatile size_t two = 0; two < most; two++)
		POINT(w->d->t, "then %s", rows[two].name) {
			w->pairs = 0;
			measure(w, &rows[two]);
			/* Rows that tell nothing stand first: what a process keeps for ever is to be another row's. */
			for (size_t one = most; one-- > 0;)
				if (one != two)
					compare(w, &rows[one], &rows[two]);
			drive_finish(w->d);
			pairs += w->pairs;
		}
	observe(w->d->t, w->r, "%u ordered pairs, of two sessions each", pairs);
}

/* ---- the operations ---- */

struct twice *
twice_new(struct test *t, const char *const *words)
{
	struct twice *w = calloc(1, sizeof(*w));

	if (w == NULL)
		abort();
	w->d = drive_new(t);
	w->r = R(client_forgets_prior_session);
	w->way = twice_reconnect;
	w->alone = twice_alone;
	while (words[w->n_words] != NULL && w->n_words < TWICE_WORDS) {
		w->words[w->n_words] = words[w->n_words];
		w->n_words++;
	}
	return w;
}

static bool
keeps_within(const struct terms *terms, const struct request *q)
{
	uint64_t size = terms->size != 0 ? terms->size : TWICE_SIZE;
	uint32_t minimum = terms->block.minimum != 0 ? terms->block.minimum : 1;
	uint32_t maximum = terms->block.maximum != 0 ? terms->block.maximum : NBD_DEFAULT_MAX_PAYLOAD;

	return q->type == NBD_CMD_DISC || (q->offset <= size && q->length <= size - q->offset && q->length <= maximum &&
	                                   q->offset % minimum == 0 && q->length % minimum == 0);
}

static bool
kept_within(struct twice *w, const struct terms *terms)
{
	struct wire all = drive_records(w->d);
	struct trace_record r;
	struct request q;
	bool kept = true;

	while (trace_next(&all, &r))
		if (r.kind == TRACE_MESSAGE && r.message == MSG_REQUEST) {
			wire_get_request(wire_over(r.data), &q);
			kept &= keeps_within(terms, &q);
		}
	return kept;
}

void
twice_try(struct twice *w, const struct terms *terms, const char *word)
{
	serve(w);
	twice_apply(w, 0, terms);
	w->handle++;
	twice_settings(w, w->handle);
	ask(w->d, w->handle, "connect %s", w->d->uri);
	ask(w->d, w->handle, "%s", word);
	twice_leave(w, w->handle);
	if (kept_within(w, terms) && w->n_words < TWICE_WORDS)
		w->words[w->n_words++] = word;
	else
		note(w->d->t, "what is sent is left to the client's user: %s", word);
	/* Whether it may leave that to him is for other cases. */
	drive_mark(w->d);
	drive_finish(w->d);
}
