/*
 * What a block device makes of FLUSH and FUA: the server's volatile cache is the device's, or the device has none. Linux took
 * NBD_FLAG_SEND_FLUSH over to the next server, which had no such cache, and each FLUSH to it failed.
 */
#include "cases/client/drive.h"
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
