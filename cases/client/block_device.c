/*
 * What is a block device's own: several connections to one disk, of which one may die, and a limit on the time that a request may
 * take. What had gone over the connection that died goes over another, or is an error; it is not lost in silence.
 */
#include "cases/client/script.h"
#include "fakeserver/core.h"
#include "harness/client.h"
#include "harness/clock.h"
#include "harness/nbd.h"

enum { CONNECTIONS = 3, LENGTH = 4096, REQUESTS = 12, TIMEOUT_S = 1, HELD_MS = 2500, QUIET_MS = 100 };

static struct drive *
begin(struct test *t, const char *setting)
{
	struct drive *d = drive_new(t);

	drive_needs(d, "set", setting);
	drive_needs(d, "write", NULL);
	drive_needs(d, "flush", NULL);
	return d;
}

/* A request that has a limit of its own is given up when that is reached, and its answer may take as long as any behind it. */
static struct driver_answer
take_within_limit(struct drive *d)
{
	struct driver_answer a;

	if (!drive_take_soon(d, &a, (int)(TIMEOUT_S * 1000 / client_factor(d->client))))
		a = drive_take(d);
	return a;
}

/* ---- several connections ---- */

/* The connection that dies is that of the first command; what comes over it once it keeps back is not answered any more. */
struct dying {
	unsigned number; /* 0: not known yet */
	bool keeps_back;
	unsigned kept;
};

static bool
keep_back(void *arg, struct conn *c, const struct incoming *m)
{
	struct dying *dying = arg;

	if (m->kind != MSG_REQUEST || m->request.type == NBD_CMD_DISC)
		return false;
	if (dying->number == 0)
		dying->number = c->number;
	if (!dying->keeps_back || c->number != dying->number)
		return false;
	dying->kept++;
	return say_nothing(c);
}

/* Where one dies a limit is set, without which Linux waits for ever. */
static void
enter(struct drive *d, struct dying *dying)
{
	drive_serve(d, "size=1M,flags=SEND_FLUSH+SEND_FUA+CAN_MULTI_CONN", NULL);
	if (dying != NULL)
		drive_follow(d, &(struct script){ .take = keep_back, .arg = dying });
	must(d, R(baseline_client_info_go), 1, "set connections=%d", CONNECTIONS);
	if (dying != NULL && driver_has(d->driver, "set", "timeout"))
		must(d, R(baseline_client_info_go), 1, "set timeout=%d", TIMEOUT_S);
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	if (drive_connections(d) < CONNECTIONS)
		skip(d->t, "connections", "the client makes do with %u", drive_connections(d));
}

/* Writes that are in flight at once. */
struct writes {
	unsigned n, answered, pattern, tags[REQUESTS];
	bool ok[REQUESTS];
};

static void
send_writes(struct drive *d, struct writes *w, unsigned pattern)
{
	unsigned depth = driver_depth(d->driver);

	*w = (struct writes){ .n = depth < REQUESTS ? depth : REQUESTS, .pattern = pattern };
	for (unsigned i = 0; i < w->n; i++)
		w->tags[i] = drive_send(d, 1, "write %u %d %u", i * LENGTH, LENGTH, pattern);
}

static void
note_answer(struct writes *w, const struct driver_answer *a)
{
	for (unsigned i = 0; i < w->n; i++)
		if (w->tags[i] == a->tag)
			w->ok[i] = a->result == DRIVER_OK;
	w->answered++;
}

/* How many have succeeded; each of them is on the disk. */
static unsigned
judge_writes(struct drive *d, struct writes *w)
{
	uint8_t data[LENGTH];
	unsigned n_ok = 0;

	while (w->answered < w->n) {
		struct driver_answer a = take_within_limit(d);

		note_answer(w, &a);
	}
	for (unsigned i = 0; i < w->n; i++) {
		driver_pattern(w->pattern, i * LENGTH, LENGTH, data);
		if (w->ok[i] && disk_digest(&d->exports[0], i * LENGTH, LENGTH) != driver_digest(data, LENGTH))
			broken(d->t, R(baseline_client_write), "'write %u %d %u' is 'ok', and is not on the disk",
			       i * LENGTH, LENGTH, w->pattern);
		n_ok += w->ok[i];
	}
	return n_ok;
}

static unsigned
all_writes(struct drive *d, unsigned pattern)
{
	struct writes w;

	send_writes(d, &w, pattern);
	return judge_writes(d, &w);
}

/* A client whose writes all have FUA need not flush. */
static void
expect_flushed(struct drive *d)
{
	EXPECT(d->t, R(client_flush_awaits_replies),
	       drive_sent(d, NBD_CMD_FLUSH, 0) > 0 ||
	               drive_sent(d, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA) == drive_sent(d, NBD_CMD_WRITE, 0),
	       "'flush' succeeds after a write without FUA, and no NBD_CMD_FLUSH came");
}

CASE_DRIVER(block_device, several_connections,
            "What goes over several connections of a handle is done, and a flush covers all of it",
            R(baseline_client_write), R(client_flush_awaits_replies))
{
	struct drive *d = begin(t, "connections");
	struct writes w;

	enter(d, NULL);
	send_writes(d, &w, 7);
	EXPECT(t, R(baseline_client_write), judge_writes(d, &w) == w.n,
	       "a write fails, and the server has failed none");
	must(d, R(client_flush_awaits_replies), 1, "flush");
	expect_flushed(d);
	must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, REQUESTS * LENGTH);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

/* On a machine that stands still any request may. */
static bool
may_have_timed_out(struct drive *d, int64_t began)
{
	return driver_has(d->driver, "set", "timeout") && now_ms() >= began + TIMEOUT_S * 1000;
}

static void
one_dies(struct drive *d, bool in_flight)
{
	static struct dying dying;
	unsigned before = 0, after;
	struct driver_answer a;
	struct writes w;
	int64_t began;

	dying = (struct dying){ .number = 0 };
	enter(d, &dying);
	began = now_ms();
	EXPECT(d->t, R(baseline_client_write), all_writes(d, 6) > 0 || may_have_timed_out(d, began),
	       "no write succeeds, and the server has failed none");
	dying.keeps_back = in_flight;
	if (in_flight) {
		send_writes(d, &w, 7);
		while (w.answered < w.n && drive_take_soon(d, &a, QUIET_MS))
			note_answer(&w, &a);
	}
	fake_disconnect(d->fake, dying.number);
	if (in_flight)
		before = judge_writes(d, &w);
	after = all_writes(d, 8);
	if (ask(d, 1, "flush").result == DRIVER_OK && after > 0)
		expect_flushed(d);
	observe(d->t, R(client_transmission_no_disconnect),
	        "%u requests were unanswered, and %u writes of them and others succeed; of those behind %u", dying.kept,
	        before, after);
	ask(d, 1, "disconnect");
	/* How it gives a request up is for its user to know. */
	if (may_have_timed_out(d, began))
		d->excused = R(client_transmission_no_disconnect);
	drive_finish(d);
}

CASE_DRIVER(block_device, one_connection_dies,
            "When one of several connections dies, what it has not answered goes over another, or is an error",
            R(baseline_client_write), R(client_flush_awaits_replies), R(client_transmission_no_disconnect))
{
	struct drive *d = begin(t, "connections");

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "nothing in flight" : "requests in flight")
			one_dies(d, i == 1);
}

/* ---- timeouts ---- */

CASE_DRIVER(block_device, timeout_forgotten, "A limit on the time that requests may take holds for its session alone",
            R(client_forgets_prior_session), R(baseline_client_read))
{
	struct drive *d = begin(t, "timeout");
	struct driver_answer a;
	bool early;

	drive_serve(d, "", NULL);
	must(d, R(baseline_client_info_go), 1, "set timeout=%d", TIMEOUT_S);
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	/* How it gives the request up is for its user to know. */
	d->excused = R(client_transmission_no_disconnect);
	d->hold = true;
	drive_send(d, 1, "read 0 4096");
	a = take_within_limit(d);
	d->hold = false;
	EXPECT(t, R(baseline_client_read), a.result == DRIVER_ERROR,
	       "a read succeeds that the server has not answered");
	ask(d, 1, "disconnect");
	must(d, R(baseline_client_info_go), 1, "set timeout=0");
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	d->hold = true;
	drive_send(d, 1, "read 0 4096");
	early = drive_take_soon(d, &a, (int)(HELD_MS / client_factor(d->client)));
	d->hold = false;
	if (!early)
		a = drive_take(d);
	EXPECT(t, R(client_forgets_prior_session), a.result == DRIVER_OK,
	       "a read fails that nobody has set a limit for: %s", a.text);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}
