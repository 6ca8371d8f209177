/*
 * What the client tells its user: an error reply is an error to the user of exactly that request, and success is
 * told of nothing that the server has not answered.
 */
#include "cases/client/drive.h"
#include "cases/client/refuse.h"
#include "harness/client.h"
#include "harness/names.h"
#include "harness/nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOT = 8192, LENGTH = 4096, SLOTS = 32, NOBODY = 99 };

static const struct operation {
	const char *words, *name, *flag;
	uint16_t type;
	bool hint;                      /* to do nothing is a success of it */
	bool needed;                    /* a client that has failed once at it may not call it impossible */
	bool settled;                   /* what its success says is known from the reply alone */
	enum requirement_id understood; /* what a client breaks that does not understand its reply */
} operations[] = {
	{ "read 0 4096", "read", NULL, NBD_CMD_READ, false, true, true, R(baseline_client_read) },
	{ "read 0 4096 df", "read", "df", NBD_CMD_READ, false, false, true, R(baseline_client_read) },
	{ "write 8192 4096 7", "write", NULL, NBD_CMD_WRITE, false, true, false, R(baseline_client_write) },
	{ "write 8192 4096 8 fua", "write", "fua", NBD_CMD_WRITE, false, true, true, R(baseline_client_write) },
	{ "flush", "flush", NULL, NBD_CMD_FLUSH, false, true, true, R(baseline_client_write) },
	{ "trim 16384 4096", "trim", NULL, NBD_CMD_TRIM, true, false, false, R(baseline_client_write) },
	{ "trim 16384 4096 fua", "trim", "fua", NBD_CMD_TRIM, true, false, true, R(baseline_client_write) },
	{ "zero 24576 4096", "zero", NULL, NBD_CMD_WRITE_ZEROES, false, false, false, R(baseline_client_write) },
	{ "zero 24576 4096 fua", "zero", "fua", NBD_CMD_WRITE_ZEROES, false, false, true, R(baseline_client_write) },
	{ "cache 32768 4096", "cache", NULL, NBD_CMD_CACHE, true, false, false, R(baseline_client_read) },
	{ "block_status 0 65536", "block_status", NULL, NBD_CMD_BLOCK_STATUS, false, false, true,
	  R(client_error_chunk_fails_reply) },
};
enum { N_OPERATIONS = sizeof(operations) / sizeof(operations[0]) };

/* Every error of proto.md:2317-2326 but NBD_ESHUTDOWN, and one that it does not name. */
static const uint32_t errors[] = { NBD_EPERM,  NBD_EIO,       NBD_ENOMEM,  NBD_EINVAL,
	                           NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP, 4242 };
enum { N_ERRORS = sizeof(errors) / sizeof(errors[0]), UNKNOWN_ERROR = 4242 };

enum style { STRUCTURED, SIMPLE_ERRORS, MESSAGES, SIMPLE, N_STYLES };
static const char *const styles[] = { "error chunks", "simple replies among structured ones",
	                              "error chunks with a text", "simple replies" };

static enum requirement_id
fails_reply(enum style style)
{
	return style == SIMPLE ? R(baseline_client_simple_replies) : R(client_error_chunk_fails_reply);
}

/* Without structured replies there is no DF and no BLOCK_STATUS, and with them no READ gets a simple one. */
static bool
has_style(const struct operation *o, enum style style)
{
	if (style == SIMPLE_ERRORS)
		return o->type != NBD_CMD_READ;
	return style != SIMPLE || (o->type != NBD_CMD_BLOCK_STATUS && (o->flag == NULL || strcmp(o->flag, "df") != 0));
}

/* "write+fua" */
static const char *
label(const struct operation *o)
{
	static char text[40];

	snprintf(text, sizeof(text), "%s%s%s", o->name, o->flag != NULL ? "+" : "", o->flag != NULL ? o->flag : "");
	return text;
}

/* ---- what came over the wire since drive_mark ---- */

struct tally {
	unsigned requests, errors, connections;
	uint32_t last_error;
	bool left;
};

static uint32_t
error_of(const struct trace_record *r)
{
	struct chunk_error error = { 0 };
	struct simple_reply simple;
	struct chunk m;

	if (r->message == MSG_SIMPLE_REPLY) {
		wire_get_simple_reply(wire_over(r->data), &simple);
		return simple.error;
	}
	wire_get_chunk(wire_over(r->data), &m);
	if ((m.type & 0x8000) != 0)
		wire_get_chunk_error(wire_over(m.data), &error);
	return error.error;
}

static struct tally
look(struct drive *d)
{
	struct wire w = drive_records(d);
	struct tally n = { 0 };
	struct trace_record r;
	struct request q;

	while (trace_next(&w, &r)) {
		n.left |= r.kind == TRACE_CLOSED || r.kind == TRACE_RESET;
		n.connections += r.kind == TRACE_CONNECT;
		if (r.kind != TRACE_MESSAGE)
			continue;
		if (r.message == MSG_REQUEST) {
			wire_get_request(wire_over(r.data), &q);
			n.left |= q.type == NBD_CMD_DISC;
			n.requests += q.type != NBD_CMD_DISC;
		} else if (r.message == MSG_SIMPLE_REPLY || r.message == MSG_CHUNK) {
			n.last_error = error_of(&r);
			n.errors += n.last_error != NBD_SUCCESS;
		}
	}
	return n;
}

/* ---- set-up ---- */

static void
serve_in_style(struct drive *d, enum style style)
{
	drive_serve(d, "", NULL);
	d->config.knob[KNOB_no_structured_replies] = style == SIMPLE;
	d->config.knob[KNOB_simple_errors] = style == SIMPLE_ERRORS;
	d->config.knob[KNOB_error_messages] = style == MESSAGES;
}

static void
enter(struct drive *d, unsigned handle)
{
	if (driver_has(d->driver, "set", "context"))
		ask(d, handle, "set context=base:allocation");
	must(d, R(baseline_client_info_go), handle, "connect %s", d->uri);
}

/* Skips the point where the client does not send this command here. */
static void
needs_sent(struct drive *d, const struct operation *o)
{
	struct driver_answer a;

	drive_needs(d, o->name, o->flag);
	drive_mark(d);
	a = ask(d, 1, "%s", o->words);
	if (a.result != DRIVER_OK || look(d).requests == 0)
		skip(d->t, o->name, "the client does not send it here: %s", a.text);
}

/* ---- one request at a time ---- */

/* The last reply was this error, and the client did nothing about it. */
static void
judge_told(struct drive *d, const struct operation *o, const struct driver_answer *a, uint32_t error,
           enum requirement_id r)
{
	char name[NAME_MAX_TEXT], text[NAME_MAX_TEXT + 100];
	struct tally n = look(d);

	if (a->result == DRIVER_ERROR || n.last_error == NBD_SUCCESS)
		return;
	/* The server need not do what it is hinted at, and says so. */
	if (o->hint && error == NBD_ENOTSUP)
		return;
	snprintf(text, sizeof(text), "'%s' is answered 'ok' after %s", o->words, name_text(NAME_ERROR, error, name));
	broken_values(d->t, r, "an error to the user", text);
}

/* The names are the client's own; which one it takes is of interest. */
static void
judge_name(struct drive *d, const struct driver_answer *a, uint32_t error, bool *said)
{
	char name[NAME_MAX_TEXT];
	size_t len = strcspn(a->text, " ");
	const char *want = name_of(NAME_ERROR, error == UNKNOWN_ERROR ? NBD_EINVAL : error) + 4;

	if (*said || a->result != DRIVER_ERROR || (strncmp(a->text, want, len) == 0 && want[len] == '\0') ||
	    (error == NBD_ENOTSUP && strncmp(a->text, "EOPNOTSUPP", len) == 0))
		return;
	*said = true;
	observe(d->t, R(unexpected_error_as_einval), "%s is told to the user as '%.*s'",
	        name_text(NAME_ERROR, error, name), (int)len, a->text);
}

/* Afterwards the same request succeeds. False: the client has left, or will not ask for it again. */
static bool
goes_on(struct drive *d, const struct operation *o, uint32_t error)
{
	char name[NAME_MAX_TEXT], text[NAME_MAX_TEXT + 240];
	struct driver_answer a = ask(d, 1, "%s", o->words);
	struct tally n = look(d);

	if (a.result == DRIVER_OK)
		return true;
	snprintf(text, sizeof(text), "after %s the next '%s' is answered 'error %.100s'",
	         name_text(NAME_ERROR, error, name), o->words, a.text);
	if (n.last_error == NBD_SUCCESS && n.errors < n.requests)
		broken_values(d->t, o->understood, "an error is told of the request that failed, and of no other",
		              text);
	if (n.left && error == UNKNOWN_ERROR)
		deviates(d->t, R(unexpected_error_as_einval), "the client goes on", text);
	else if (!n.left && o->needed)
		broken_values(d->t, o->understood, "the next request is sent", text);
	else
		observe(d->t, R(client_disc_any_time), "%s", text);
	return false;
}

/* The second of three fails. */
static void
fail_one(struct drive *d, const struct operation *o, enum style style, uint32_t error, bool *said)
{
	struct driver_answer a;

	must(d, o->understood, 1, "%s", o->words);
	drive_mark(d);
	fake_fail(d->fake, o->type, 1, error, false);
	a = ask(d, 1, "%s", o->words);
	judge_told(d, o, &a, error, fails_reply(style));
	judge_name(d, &a, error, said);
	if (!goes_on(d, o, error)) {
		ask(d, 1, "close");
		enter(d, 1);
	}
	must_read_disk(d, R(client_no_data_after_error), 1, &d->exports[0], 40960, LENGTH);
}

CASE_DRIVER(truth, errors,
            "Each error that the server replies is an error to the user of that request, and the next one succeeds",
            R(client_error_chunk_fails_reply), R(baseline_client_simple_replies), R(unexpected_error_as_einval),
            R(client_no_data_after_error), R(client_transmission_no_disconnect), R(baseline_client_read),
            R(baseline_client_write), R(client_reads_chunk_length))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_OPERATIONS * N_STYLES; i++) {
		const struct operation *volatile o = &operations[i / N_STYLES];

		if (!has_style(o, i % N_STYLES))
			continue;
		POINT(t, "%s, %s", label(o), styles[i % N_STYLES]) {
			bool said = false;

			serve_in_style(d, i % N_STYLES);
			enter(d, 1);
			needs_sent(d, o);
			for (unsigned k = 0; k < N_ERRORS; k++)
				fail_one(d, o, i % N_STYLES, errors[k], &said);
			must(d, R(baseline_client_disc), 1, "disconnect");
			drive_finish(d);
		}
	}
}

/* ---- many at a time ---- */

/* One lot of requests: which of them fail, by their offsets, and with what. */
static struct plan {
	uint32_t error[SLOTS]; /* 0: none */
	uint16_t type[SLOTS];
	unsigned tag[SLOTS];
	bool answered[SLOTS];
} plan;

static void
fail_by_offset(struct lie_use *l, struct conn *c, struct disk_op *m)
{
	uint32_t error = m->type != NBD_CMD_FLUSH && m->offset / SLOT < SLOTS ? plan.error[m->offset / SLOT] : 0;

	(void)l;
	(void)c;
	if (error == 0)
		return;
	m->skip = true;
	m->error = error;
}

static void
fail_as_planned(struct drive *d)
{
	static const struct lie lie = { .name = "fail_by_offset", .place = ON_DISK, .disk = fail_by_offset };
	static struct lie_use use = { .lie = &lie, .nth = 1 };

	d->config.lies = &use;
	d->config.n_lies = 1;
	drive_restart_server(d);
}

/* READs, and what else the driver has; every third fails, and no two of the same kind with the same error. */
static void
send_slot(struct drive *d, unsigned slot, unsigned handle)
{
	static const struct {
		const char *name, *rest;
		uint16_t type;
	} kinds[] = { { "read", "", NBD_CMD_READ },
		      { "write", " 9", NBD_CMD_WRITE },
		      { "read", "", NBD_CMD_READ },
		      { "zero", "", NBD_CMD_WRITE_ZEROES } };
	static const uint32_t with[] = { NBD_EIO, NBD_ENOSPC, NBD_EPERM, NBD_ENOMEM };
	unsigned k = driver_has(d->driver, kinds[slot % 4].name, NULL) ? slot % 4 : 0;

	plan.error[slot] = slot % 3 == 1 ? with[slot / 3 % 4] : 0;
	plan.type[slot] = kinds[k].type;
	plan.answered[slot] = false;
	plan.tag[slot] = drive_send(d, handle, "%s %u %d%s", kinds[k].name, slot * SLOT, LENGTH, kinds[k].rest);
}

static void
judge_slot(struct drive *d, unsigned slot, const struct driver_answer *a, enum requirement_id fails)
{
	uint32_t digest = plan.type[slot] == NBD_CMD_READ ? disk_digest(&d->exports[0], slot * SLOT, LENGTH) : 0;
	char text[300], name[NAME_MAX_TEXT];

	plan.answered[slot] = true;
	snprintf(text, sizeof(text), "%s at %u is answered '%s %.100s', and its reply was %s",
	         name_of(NAME_COMMAND, plan.type[slot]), slot * SLOT, a->result == DRIVER_OK ? "ok" : "error", a->text,
	         name_text(NAME_ERROR, plan.error[slot], name));
	if (plan.error[slot] != 0 && a->result == DRIVER_OK)
		broken_values(d->t, fails, "an error to the user", text);
	if (plan.error[slot] == 0 && a->result == DRIVER_ERROR)
		broken_values(d->t, R(client_takes_replies_unordered), "success to the user of this request", text);
	if (plan.type[slot] == NBD_CMD_READ && a->result == DRIVER_OK && strtoul(a->text, NULL, 16) != digest)
		broken_values(d->t, R(client_takes_replies_unordered), "the data of this request", text);
}

static void
take_slots(struct drive *d, enum requirement_id fails)
{
	for (unsigned n = 0; n < SLOTS; n++) {
		struct driver_answer a = drive_take(d);
		unsigned slot = 0;

		while (slot < SLOTS && (plan.tag[slot] != a.tag || plan.answered[slot]))
			slot++;
		if (slot == SLOTS)
			harness_error(d->t, "an answer to nothing: tag %u", a.tag);
		judge_slot(d, slot, &a, fails);
	}
}

static void
run_slots(struct drive *d, unsigned handles, enum requirement_id fails)
{
	d->hold = true;
	for (unsigned slot = 0; slot < SLOTS; slot++)
		send_slot(d, slot, 1 + slot / 2 % handles);
	d->hold = false;
	take_slots(d, fails);
	memset(&plan, 0, sizeof(plan));
	for (unsigned h = 1; h <= handles; h++) {
		must_read_disk(d, R(client_no_data_after_error), h, &d->exports[0], 0, SLOTS * SLOT);
		must(d, R(baseline_client_disc), h, "disconnect");
	}
}

CASE_DRIVER(
	truth, in_flight,
	"Where some of many requests in flight fail, each error goes to the user of its own request and to no other",
	R(client_takes_replies_unordered), R(client_takes_interleaved_chunks), R(client_error_chunk_fails_reply),
	R(baseline_client_simple_replies), R(client_no_data_after_error), R(client_distinct_cookies),
	R(client_transmission_no_disconnect))
{
	static const struct {
		const char *text;
		enum knob knob;
	} orders[] = { { "in order", N_KNOBS },
		       { "in reverse order", KNOB_replies_out_of_order },
		       { "in any order", KNOB_replies_shuffled },
		       { "in pieces", KNOB_chunks_interleaved },
		       { "carried out in any order", KNOB_requests_out_of_order } };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 5 * 2 * 2; i++)
		POINT(t, "%s, %s, %s", orders[i / 4].text, i / 2 % 2 == 0 ? "one handle" : "four handles",
		      styles[i % 2 == 0 ? STRUCTURED : SIMPLE]) {
			unsigned handles = i / 2 % 2 == 0 ? 1 : 4;

			if (driver_handles(d->driver) < handles)
				skip(t, "handles", "the driver has %u handles", driver_handles(d->driver));
			serve_in_style(d, i % 2 == 0 ? STRUCTURED : SIMPLE);
			if (orders[i / 4].knob != N_KNOBS)
				d->config.knob[orders[i / 4].knob] = true;
			fail_as_planned(d);
			for (unsigned h = 1; h <= handles; h++)
				enter(d, h);
			run_slots(d, handles, fails_reply(i % 2 == 0 ? STRUCTURED : SIMPLE));
			drive_finish(d);
		}
}
