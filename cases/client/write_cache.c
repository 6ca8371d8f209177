/*
 * What a block device makes of FLUSH and FUA: the server's volatile cache is the device's, or the device has none. Linux took
 * NBD_FLAG_SEND_FLUSH over to the next server, which had no such cache, and each FLUSH to it failed.
 */
#include "cases/client/drive.h"
#include "fakeserver/cache.h"
#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

/* Of a client that says so, as a block device does. */
static void
expect_write_cache(struct drive *d, enum requirement_id r, const struct driver_answer *connected, const char *want)
{
	char *is = known(connected, "queue.write_cache");

	if (is != NULL && strcmp(is, want) != 0)
		broken_values(d->t, r, want, is);
	free(is);
}

/* `flag` of write; `flushes`: it must have flush too. */
static struct drive *
begin(struct test *t, const char *flag, bool flushes)
{
	struct drive *d = drive_new(t);

	drive_needs(d, "write", flag);
	if (flushes)
		drive_needs(d, "flush", NULL);
	drive_serve(d, "", NULL);
	return d;
}

static struct driver_answer
enter(struct drive *d, uint16_t flags)
{
	struct driver_answer a;

	d->exports[0].flags = NBD_FLAG_HAS_FLAGS | flags;
	a = ask(d, 1, "connect %s", d->uri);
	EXPECT(d->t, R(baseline_client_info_go), a.result == DRIVER_OK, "'connect' is answered 'error %s'", a.text);
	return a;
}

CASE_DRIVER(write_cache, flush_then_none,
            "After a session with FLUSH one without it sends no FLUSH, and its device has no write cache",
            R(client_forgets_prior_session), R(flush_only_where_advertised))
{
	struct drive *d = begin(t, NULL, true);
	struct driver_answer a;

	a = enter(d, NBD_FLAG_SEND_FLUSH);
	expect_write_cache(d, R(client_uses_exposed_features), &a, "write back");
	must(d, R(baseline_client_write), 1, "write 4096 4096 7");
	must(d, R(baseline_client_write), 1, "flush");
	EXPECT(t, R(baseline_client_write), drive_sent(d, NBD_CMD_FLUSH, 0) > 0,
	       "'flush' is 'ok', and no NBD_CMD_FLUSH came");
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_mark(d);
	a = enter(d, 0);
	expect_write_cache(d, R(client_forgets_prior_session), &a, "write through");
	must(d, R(baseline_client_write), 1, "write 8192 4096 7");
	/* It may well be an error to the user. */
	ask(d, 1, "flush");
	EXPECT_EQ(t, R(client_forgets_prior_session), drive_sent(d, NBD_CMD_FLUSH, 0), 0);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

/* The cases of flags tell of it too, but only of a client that breaks no other rule in the sessions before. */
CASE_DRIVER(write_cache, fua_without_flush,
            "Where FUA is offered and FLUSH is not, what was asked with fua has it, or fails", R(baseline_client_write))
{
	struct drive *d = begin(t, "fua", false);
	struct driver_answer a;

	enter(d, NBD_FLAG_SEND_FUA);
	a = ask(d, 1, "write 4096 4096 7 fua");
	if (a.result == DRIVER_OK && drive_sent(d, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA) == 0)
		broken_values(t, R(baseline_client_write), "NBD_CMD_FLAG_FUA, or an error",
		              "'ok', and NBD_CMD_WRITE without it");
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

/* Linux: the next session's fsync returned the write-back error of a device that is gone. */
CASE_DRIVER(write_cache, error_forgotten,
            "Where writes have failed behind a cache of the client's the next session's flush knows nothing of it",
            R(client_forgets_prior_session), R(baseline_client_simple_replies))
{
	struct drive *d = begin(t, NULL, true);
	struct driver_answer write, flush;

	if (driver_has(d->driver, "set", "cached"))
		ask(d, 1, "set cached=on");
	enter(d, NBD_FLAG_SEND_FLUSH);
	fake_fail(d->fake, NBD_CMD_WRITE, UINT32_MAX, NBD_EIO, false);
	write = ask(d, 1, "write 4096 4096 7");
	flush = ask(d, 1, "flush");
	EXPECT(t, R(baseline_client_simple_replies), write.result != DRIVER_OK || flush.result != DRIVER_OK,
	       "'write' and 'flush' are 'ok', and the server has failed the write");
	/* This one is nobody's to tell: the session ends first. */
	ask(d, 1, "write 8192 4096 7");
	ask(d, 1, "disconnect");
	fake_fail(d->fake, NBD_CMD_WRITE, 0, 0, false);
	enter(d, NBD_FLAG_SEND_FLUSH);
	must(d, R(client_forgets_prior_session), 1, "flush");
	must(d, R(client_forgets_prior_session), 1, "write 12288 4096 7");
	must(d, R(client_forgets_prior_session), 1, "flush");
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

/* ---- power cuts ---- */

static const struct promise {
	const char *name, *words[2], *flag;
	uint16_t flags; /* of transmission */
	enum requirement_id r;
} promises[] = {
	{ "flush", { "write 8192 16384 7", "flush" }, NULL, NBD_FLAG_SEND_FLUSH, R(client_flush_awaits_replies) },
	{ "flush, where FUA is offered",
	  { "write 8192 16384 7", "flush" },
	  NULL,
	  NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA,
	  R(client_flush_awaits_replies) },
	{ "fua",
	  { "write 8192 16384 7 fua", NULL },
	  "fua",
	  NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA,
	  R(baseline_client_write) },
	{ "fua, where it is not offered",
	  { "write 8192 16384 7 fua", NULL },
	  "fua",
	  NBD_FLAG_SEND_FLUSH,
	  R(baseline_client_write) },
};

/* The disk forgets whatever it may. */
static void
cut_behind(struct drive *d, const struct promise *p)
{
	enum { OFFSET = 8192, LENGTH = 16384 };
	struct fake_export *e = &d->exports[0];
	uint8_t data[LENGTH];
	bool kept = true;

	e->cache = cache_new(e->disk, &(struct cache_config){ .most = CACHE_MOST_DEFAULT,
	                                                      .tear_unit = TEAR_UNIT_DEFAULT,
	                                                      .flush_covers_all = true });
	enter(d, p->flags);
	for (size_t i = 0; i < 2 && p->words[i] != NULL && kept; i++)
		kept = ask(d, 1, "%s", p->words[i]).result == DRIVER_OK;
	fake_cut_power(d->fake, CUT_DROP);
	driver_pattern(7, OFFSET, LENGTH, data);
	if (kept && disk_digest(e, OFFSET, LENGTH) != driver_digest(data, LENGTH))
		broken_values(d->t, p->r, "the data are on the disk after a power cut", "'ok', and they are lost");
	ask(d, 1, "disconnect");
	observe(d->t, p->r, kept ? "'ok', and the data survive a power cut" : "an error, which promises nothing");
}

CASE_DRIVER(write_cache, power_cut,
            "What flush, or a write with fua, has called done survives a power cut right after it",
            R(client_flush_awaits_replies), R(baseline_client_write))
{
	struct drive *d = drive_new(t);

	drive_needs(d, "write", NULL);
	drive_needs(d, "flush", NULL);
	for (volatile size_t i = 0; i < sizeof(promises) / sizeof(promises[0]); i++)
		POINT(t, "%s", promises[i].name) {
			if (promises[i].flag != NULL)
				drive_needs(d, "write", promises[i].flag);
			drive_serve(d, "", NULL);
			cut_behind(d, &promises[i]);
			drive_finish(d);
		}
}
