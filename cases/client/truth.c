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

enum { SLOT = 8192, LENGTH = 4096, SLOTS = 32, NOBODY = 99, MOMENT_MS = 50 };

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

/* Set by enter: structured replies are agreed. */
static bool structured;

static enum requirement_id
fails_reply(void)
{
	return structured ? R(client_error_chunk_fails_reply) : R(baseline_client_simple_replies);
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
	if (driver_has(d->driver, "set", "context")) {
		ask(d, handle, "set context=");
		ask(d, handle, "set context=base%%3aallocation");
	}
	must(d, R(baseline_client_info_go), handle, "connect %s", d->uri);
	structured = !d->config.knob[KNOB_no_structured_replies] && drive_options(d, NBD_OPT_STRUCTURED_REPLY) > 0;
}

/* A FLUSH that has nothing to flush may be left out. */
static void
prepare(struct drive *d, const struct operation *o)
{
	if (o->type == NBD_CMD_FLUSH && driver_has(d->driver, "write", NULL))
		ask(d, 1, "write 49152 4096 5");
}

/* Skips the point where the client does not send this command here. */
static void
needs_sent(struct drive *d, const struct operation *o)
{
	struct driver_answer a;

	drive_needs(d, o->name, o->flag);
	prepare(d, o);
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

	if (*said || a->result != DRIVER_ERROR || strncmp(a->text, "OTHER", len) == 0 ||
	    (strncmp(a->text, want, len) == 0 && want[len] == '\0') ||
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
fail_one(struct drive *d, const struct operation *o, uint32_t error, bool *said)
{
	struct driver_answer a;

	prepare(d, o);
	must(d, o->understood, 1, "%s", o->words);
	prepare(d, o);
	drive_mark(d);
	fake_fail(d->fake, o->type, 1, error, false);
	a = ask(d, 1, "%s", o->words);
	judge_told(d, o, &a, error, fails_reply());
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
				fail_one(d, o, errors[k], &said);
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

/* Which of these the answer is to; it is taken off. */
static unsigned
slot_of(struct drive *d, const struct driver_answer *a)
{
	unsigned slot = 0;

	while (slot < SLOTS - 1 && (plan.tag[slot] != a->tag || plan.answered[slot]))
		slot++;
	if (plan.tag[slot] != a->tag || plan.answered[slot])
		harness_error(d->t, "an answer to nothing: tag %u", a->tag);
	plan.answered[slot] = true;
	return slot;
}

static void
judge_slot(struct drive *d, unsigned slot, const struct driver_answer *a, enum requirement_id fails)
{
	uint32_t digest = plan.type[slot] == NBD_CMD_READ ? disk_digest(&d->exports[0], slot * SLOT, LENGTH) : 0;
	char text[300], name[NAME_MAX_TEXT];

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
take_slots(struct drive *d)
{
	for (unsigned n = 0; n < SLOTS; n++) {
		struct driver_answer a = drive_take(d);

		judge_slot(d, slot_of(d, &a), &a, fails_reply());
	}
}

static void
run_slots(struct drive *d, unsigned handles)
{
	d->hold = true;
	for (unsigned slot = 0; slot < SLOTS; slot++)
		send_slot(d, slot, 1 + slot / 2 % handles);
	d->hold = false;
	take_slots(d);
	memset(&plan, 0, sizeof(plan));
	for (unsigned h = 1; h <= handles; h++) {
		must_read_disk(d, R(client_no_data_after_error), h, &d->exports[0], 0, 2 * SLOT);
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
			run_slots(d, handles);
			drive_finish(d);
		}
}

/* ---- no answer before the reply ---- */

/* Nothing that needs the server: its answer shows that the driver has seen what came before it. */
static bool
answers_early(struct drive *d, unsigned tag, struct driver_answer *a)
{
	if (driver_depth(d->driver) > 1) {
		drive_send(d, NOBODY, "frobnicate");
		*a = drive_take(d);
		if (a->tag == tag) {
			drive_take(d);
			return true;
		}
	}
	return drive_take_soon(d, a, driver_depth(d->driver) > 1 ? 2 : 20);
}

static void
hold_one(struct drive *d, const struct operation *o)
{
	char text[200];
	struct driver_answer a;
	unsigned tag;
	bool early;

	d->hold = true;
	tag = drive_send(d, 1, "%s", o->words);
	early = answers_early(d, tag, &a);
	d->hold = false;
	if (!early)
		a = drive_take(d);
	snprintf(text, sizeof(text), "'%s' is answered '%s %.100s' before its reply", o->words,
	         a.result == DRIVER_OK ? "ok" : "error", a.text);
	if (early && (o->settled || a.result != DRIVER_OK))
		broken_values(d->t, o->understood, "no answer before the server's reply", text);
	if (early)
		observe(d->t, R(client_disc_any_time), "%s", text);
	else if (a.result != DRIVER_OK)
		broken_values(d->t, o->understood, "'ok', as the server's reply was", a.text);
}

CASE_DRIVER(truth, held, "While the server has not replied, nobody is told that his request is done",
            R(baseline_client_read), R(baseline_client_write), R(client_error_chunk_fails_reply))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_OPERATIONS; i++)
		POINT(t, "%s", label(&operations[i])) {
			drive_serve(d, "", NULL);
			enter(d, 1);
			needs_sent(d, &operations[i]);
			prepare(d, &operations[i]);
			hold_one(d, &operations[i]);
			must(d, R(baseline_client_disc), 1, "disconnect");
			drive_finish(d);
		}
}

/* ---- the end of the server ---- */

/* The client may have sent NBD_CMD_DISC by itself; if not, it does when its user disconnects. */
static void
judge_soft_disconnect(struct drive *d, unsigned handle)
{
	ask(d, handle, "disconnect");
	EXPECT(d->t, R(client_disconnects_on_eshutdown), drive_sent_disc(d) > 0,
	       "after NBD_ESHUTDOWN and 'disconnect' no NBD_CMD_DISC came");
}

CASE_DRIVER(truth, eshutdown, "NBD_ESHUTDOWN is an error to the user, and the session ends by NBD_CMD_DISC",
            R(client_disconnects_on_eshutdown), R(client_error_chunk_fails_reply), R(baseline_client_simple_replies))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2 * N_OPERATIONS; i++) {
		const struct operation *volatile o = &operations[i / 2];
		volatile enum style style = i % 2 == 0 ? STRUCTURED : SIMPLE;

		if (!has_style(o, style))
			continue;
		POINT(t, "%s, %s", label(o), styles[style]) {
			struct driver_answer a;

			serve_in_style(d, style);
			enter(d, 1);
			needs_sent(d, o);
			prepare(d, o);
			drive_mark(d);
			fake_fail(d->fake, o->type, 1, NBD_ESHUTDOWN, false);
			a = ask(d, 1, "%s", o->words);
			judge_told(d, o, &a, NBD_ESHUTDOWN, fails_reply());
			judge_soft_disconnect(d, 1);
			drive_finish(d);
		}
	}
}

static void
send_reads(struct drive *d, unsigned n)
{
	memset(&plan, 0, sizeof(plan));
	for (unsigned slot = 0; slot < n; slot++) {
		plan.type[slot] = NBD_CMD_READ;
		plan.tag[slot] = drive_send(d, 1 + slot % 2, "read %u %d", slot * SLOT, LENGTH);
	}
}

CASE_DRIVER(truth, shutdown,
            "When the server is shut down with requests in flight each gets an error, and afterwards the client "
            "connects again",
            R(client_disconnects_on_eshutdown), R(client_error_chunk_fails_reply), R(baseline_client_info_go))
{
	struct drive *d = drive_new(t);

	if (driver_handles(d->driver) < 2)
		skip(t, "handles", "the driver has one handle");
	drive_serve(d, "", NULL);
	enter(d, 1);
	enter(d, 2);
	d->hold = true;
	send_reads(d, 8);
	fake_shutdown(d->fake, 60000);
	d->hold = false;
	for (unsigned n = 0; n < 8; n++) {
		struct driver_answer a = drive_take(d);

		slot_of(d, &a);
		if (a.result == DRIVER_OK)
			broken_values(t, fails_reply(), "an error to the user",
			              "a READ that got NBD_ESHUTDOWN is answered 'ok'");
	}
	judge_soft_disconnect(d, 1);
	ask(d, 2, "disconnect");
	drive_finish(d);
	drive_restart_server(d);
	drive_mark(d);
	enter(d, 1);
	must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, LENGTH);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

/* ---- the end of a connection ---- */

/* The whole lot on handle 1 and 2; handle 1 loses its connection. */
static void
lose_one(struct drive *d, bool all)
{
	d->hold = true;
	send_reads(d, 8);
	fake_disconnect(d->fake, all ? 0 : 1);
	if (all)
		drive_stop_server(d);
	d->hold = false;
	for (unsigned n = 0; n < 8; n++) {
		struct driver_answer a = drive_take(d);
		unsigned slot = slot_of(d, &a);
		bool lost = all || slot % 2 == 0;

		if (lost && a.result == DRIVER_OK && (all || look(d).connections == 0))
			broken_values(d->t, R(baseline_client_read), "an error to the user",
			              "a READ whose connection ended before its reply is answered 'ok'");
		if (!lost)
			judge_slot(d, slot, &a, R(baseline_client_read));
	}
}

CASE_DRIVER(
	truth, connection_lost,
	"Where a connection ends each request in flight on it is an error to the user, and the client connects again",
	R(baseline_client_read), R(client_takes_replies_unordered), R(baseline_client_info_go),
	R(client_transmission_no_disconnect))
{
	struct drive *d = drive_new(t);

	if (driver_handles(d->driver) < 2)
		skip(t, "handles", "the driver has one handle");
	for (volatile int all = 0; all < 2; all++)
		POINT(t, "%s", all ? "the server is gone" : "one of two connections") {
			drive_serve(d, "", NULL);
			enter(d, 1);
			enter(d, 2);
			drive_mark(d);
			lose_one(d, all);
			if (all)
				drive_restart_server(d);
			ask(d, 1, "disconnect");
			enter(d, 1);
			must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, LENGTH);
			ask(d, 1, "disconnect");
			ask(d, 2, "disconnect");
			drive_mark(d);
			drive_finish(d);
		}
}

/* The reply to the next command of this type ends after .arg bytes, and the connection with it. */
static void
cut_reply(struct lie_use *l, struct conn *c, struct outgoing *m)
{
	if ((m->kind == MSG_SIMPLE_REPLY || m->kind == MSG_CHUNK) && lie_now(l, c)) {
		m->cut = l->arg;
		m->after = AFTER_CLOSE;
	}
}

static void
cut_at(struct drive *d, uint16_t type, unsigned bytes)
{
	static const struct lie lie = { .name = "cut_reply", .place = ON_OUTGOING, .outgoing = cut_reply };
	static struct lie_use use;

	use = (struct lie_use){ .lie = &lie, .nth = 2, .times = 1, .has_command = true, .command = type, .arg = bytes };
	d->config.lies = &use;
	d->config.n_lies = 1;
	drive_restart_server(d);
}

static void
cut_one(struct drive *d, const struct operation *o, enum style style, unsigned bytes)
{
	unsigned whole = 16;
	struct driver_answer a;

	serve_in_style(d, style);
	cut_at(d, o->type, bytes);
	enter(d, 1);
	if (o->type == NBD_CMD_READ)
		whole = LENGTH + (structured ? 28 : 16);
	needs_sent(d, o);
	if (drive_sent(d, o->type, 0) == 0)
		skip(d->t, o->name, "the client does it by another command");
	prepare(d, o);
	drive_mark(d);
	if (bytes < whole) {
		a = ask(d, 1, "%s", o->words);
		if (a.result == DRIVER_OK && look(d).connections == 0)
			broken(d->t, o->understood,
			       "'%s' is answered 'ok' after %u bytes of its reply, and the end of the connection",
			       o->words, bytes);
		ask(d, 1, "disconnect");
		enter(d, 1);
	}
	must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 40960, LENGTH);
	ask(d, 1, "disconnect");
	drive_mark(d);
	drive_finish(d);
}

CASE_DRIVER(
	truth, reply_cut,
	"Where the connection ends within a reply the request is an error to the user, and the client connects again",
	R(baseline_client_read), R(baseline_client_write), R(client_error_chunk_fails_reply),
	R(baseline_client_info_go), R(client_transmission_no_disconnect))
{
	static const unsigned cuts[] = { 0, 1, 4, 8, 15, 16, 19, 20, 27, 28, 29, 540, 4111, 4123 };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2 * N_OPERATIONS; i++) {
		const struct operation *volatile o = &operations[i / 2];
		volatile enum style style = i % 2 == 0 ? STRUCTURED : SIMPLE;

		if (!has_style(o, style))
			continue;
		POINT(t, "%s, %s", label(o), styles[style])
			for (unsigned k = 0; k < (o->type == NBD_CMD_READ ? sizeof(cuts) / sizeof(cuts[0]) : 5); k++)
				cut_one(d, o, style, cuts[k]);
	}
}

/* ---- the end of a session ---- */

CASE_DRIVER(truth, disc_in_flight,
            "The user disconnects with requests in flight: NBD_CMD_DISC comes once they are answered, and no wrong "
            "data is 'ok'",
            R(client_disc_after_inflight), R(baseline_client_disc), R(client_takes_replies_unordered))
{
	struct drive *d = drive_new(t);
	unsigned disconnect;

	if (driver_depth(d->driver) < 9)
		skip(t, "depth", "the driver has %u requests in flight at most", driver_depth(d->driver));
	drive_serve(d, "", NULL);
	enter(d, 1);
	memset(&plan, 0, sizeof(plan));
	d->hold = true;
	for (unsigned slot = 0; slot < 8; slot++) {
		plan.type[slot] = NBD_CMD_READ;
		plan.tag[slot] = drive_send(d, 1, "read %u %d", slot * SLOT, LENGTH);
	}
	disconnect = drive_send(d, 1, "disconnect");
	/* If it does not wait for the replies, that is to be seen in every run. */
	drive_pause(d, MOMENT_MS);
	d->hold = false;
	for (unsigned n = 0; n < 9; n++) {
		struct driver_answer a = drive_take(d);

		if (a.tag == disconnect)
			EXPECT(t, R(baseline_client_disc), a.result == DRIVER_OK, "'disconnect' is answered 'error %s'",
			       a.text);
		else if (a.result == DRIVER_OK)
			judge_slot(d, slot_of(d, &a), &a, R(baseline_client_read));
	}
	EXPECT_EQ(t, R(baseline_client_disc), drive_sent_disc(d), 1);
	drive_finish(d);
}

/* ---- a READ that fails although data came ---- */

/* Which chunk of the reply becomes the error, and of what type. */
static struct {
	unsigned nth, seen;
	uint16_t type;
} turned;

static void
turn_chunk(struct lie_use *l, struct conn *c, struct outgoing *m)
{
	if (m->kind != MSG_CHUNK || !lie_now(l, c) || ++turned.seen != turned.nth)
		return;
	m->chunk.type = turned.type;
	m->payload = turned.type == NBD_REPLY_TYPE_ERROR ? PAYLOAD_ERROR : PAYLOAD_ERROR_OFFSET;
	if (m->payload == PAYLOAD_ERROR)
		m->error = (struct chunk_error){ .error = NBD_EIO };
	else
		m->error_offset = (struct chunk_error_offset){ .error = NBD_EIO, .offset = m->request->offset };
}

static void
fail_within_reply(struct drive *d, unsigned nth, uint16_t type)
{
	static const struct lie lie = { .name = "turn_chunk", .place = ON_OUTGOING, .outgoing = turn_chunk };
	static struct lie_use use;

	turned.nth = nth;
	turned.seen = 0;
	turned.type = type;
	use = (struct lie_use){ .lie = &lie, .nth = 1, .has_command = true, .command = NBD_CMD_READ };
	d->config.lies = &use;
	d->config.n_lies = 1;
	d->config.knob[KNOB_read_halves] = true;
	d->config.knob[KNOB_read_ends_with_none] = true;
	drive_restart_server(d);
}

CASE_DRIVER(
	truth, read_error_among_data,
	"A READ with an error chunk before, between or behind its data is an error to the user, and the next is right",
	R(client_error_chunk_fails_reply), R(read_error_voids_data), R(error_chunk_no_partial_success),
	R(client_transmission_no_disconnect), R(client_reads_chunk_length))
{
	static const char *const places[] = { "before", "between", "behind" };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 6; i++)
		POINT(t, "%s %s", i % 2 == 0 ? "ERROR" : "ERROR_OFFSET", places[i / 2]) {
			enum requirement_id r =
				i % 2 == 0 ? R(read_error_voids_data) : R(client_error_chunk_fails_reply);
			struct driver_answer a;

			drive_serve(d, "", NULL);
			fail_within_reply(d, 1 + i / 2,
			                  i % 2 == 0 ? NBD_REPLY_TYPE_ERROR : NBD_REPLY_TYPE_ERROR_OFFSET);
			enter(d, 1);
			if (!structured)
				skip(t, "structured replies", "the client does not negotiate them");
			a = ask(d, 1, "read 0 4096");
			/* Whoever sets NBD_CMD_FLAG_DF gets fewer chunks. */
			if (turned.seen < turned.nth)
				skip(t, "chunks", "the reply has only %u", turned.seen);
			EXPECT(t, r, a.result == DRIVER_ERROR, "'read 0 4096' is answered 'ok %s'", a.text);
			must_read_disk(d, R(client_reads_chunk_length), 1, &d->exports[0], 8192, LENGTH);
			must(d, R(baseline_client_disc), 1, "disconnect");
			drive_finish(d);
		}
}

/* ---- refusals in the haggling ---- */

static const uint32_t refusals[] = { NBD_REP_ERR_UNSUP,    NBD_REP_ERR_POLICY,   NBD_REP_ERR_INVALID,
	                             NBD_REP_ERR_PLATFORM, NBD_REP_ERR_TLS_REQD, NBD_REP_ERR_UNKNOWN,
	                             NBD_REP_ERR_SHUTDOWN, NBD_REP_ERR_TOO_BIG,  NBD_REP_ERROR_BIT | 0x77 };
enum { N_REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

CASE_DRIVER(truth, go_refused, "Where NBD_OPT_GO is refused the user is told of a session only if there is one",
            R(baseline_client_info_go), R(go_falls_back), R(client_aborts_on_shutdown), R(client_abandons_softly),
            R(client_handshake_no_hard_disconnect))
{
	static const uint32_t go[] = { NBD_OPT_GO, 0 };
	struct drive *d = drive_new(t);
	char name[NAME_MAX_TEXT];

	for (volatile unsigned i = 0; i < N_REFUSALS; i++)
		POINT(t, "%s", name_text(NAME_REPLY, refusals[i], name)) {
			struct driver_answer a;

			drive_serve(d, "", NULL);
			refuse_options(d, refusals[i], go);
			a = ask(d, 1, "connect %s", d->uri);
			if (a.result == DRIVER_OK && drive_options(d, NBD_OPT_EXPORT_NAME) == 0)
				broken_values(t, R(baseline_client_info_go), "an error to the user",
				              "'ok', and no session");
			if (a.result == DRIVER_OK)
				must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, LENGTH);
			ask(d, 1, "disconnect");
			drive_finish(d);
		}
}

/* What was told before an error counts for nothing. */
static void
judge_refused(struct drive *d, const char *words, enum requirement_id r)
{
	struct driver_answer a = ask(d, 1, "%s", words);

	if (a.result == DRIVER_OK && *a.text != '\0')
		broken_values(d->t, r, "an error to the user", a.text);
	if (a.result == DRIVER_OK)
		observe(d->t, R(client_haggling_soft_disconnect), "'%s' is refused, and answered 'ok'", words);
}

CASE_DRIVER(truth, option_refused,
            "Where LIST, INFO or LIST_META_CONTEXT is refused the user is told so, and the haggling goes on",
            R(baseline_client_list), R(baseline_client_info_go), R(list_meta_error_voids_replies),
            R(client_aborts_on_shutdown), R(client_handshake_no_hard_disconnect))
{
	static const struct {
		const char *words;
		uint32_t option[2];
		enum requirement_id r;
	} asked[] = { { "list", { NBD_OPT_LIST, 0 }, R(baseline_client_list) },
		      { "info", { NBD_OPT_INFO, 0 }, R(baseline_client_info_go) },
		      { "contexts", { NBD_OPT_LIST_META_CONTEXT, 0 }, R(list_meta_error_voids_replies) } };
	struct drive *d = drive_new(t);
	char name[NAME_MAX_TEXT];

	for (volatile unsigned i = 0; i < 3 * N_REFUSALS; i++)
		POINT(t, "%s, %s", asked[i / N_REFUSALS].words, name_text(NAME_REPLY, refusals[i % N_REFUSALS], name)) {
			uint32_t type = refusals[i % N_REFUSALS];

			drive_needs(d, "haggle", NULL);
			drive_needs(d, asked[i / N_REFUSALS].words, NULL);
			drive_serve(d, "", NULL);
			refuse_options(d, type, asked[i / N_REFUSALS].option);
			must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
			judge_refused(d, asked[i / N_REFUSALS].words, asked[i / N_REFUSALS].r);
			if (type != NBD_REP_ERR_SHUTDOWN && driver_has(d->driver, "go", NULL))
				must(d, R(baseline_client_info_go), 1, "go");
			ask(d, 1, "disconnect");
			drive_finish(d);
		}
}
