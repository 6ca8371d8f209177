/* The beginnings of a session: the three styles of the handshake, their flags, and NBD_OPT_EXPORT_NAME. */
#include "cases/client/haggle.h"

#include "harness/nbd.h"

#include <inttypes.h>
#include <stdlib.h>

static const struct style {
	const char *name;
	bool oldstyle, no_fixed, no_no_zeroes;
} styles[] = {
	{ "fixed newstyle", false, false, false }, { "fixed newstyle without NO_ZEROES", false, false, true },
	{ "newstyle", false, true, false },        { "newstyle without NO_ZEROES", false, true, true },
	{ "oldstyle", true, false, false },
};
enum { N_STYLES = sizeof(styles) / sizeof(styles[0]), FIXED_STYLES = 2 };

static void
serve_style(struct drive *d, const struct style *s)
{
	drive_serve(d, "", NULL);
	d->config.oldstyle = s->oldstyle;
	d->config.knob[KNOB_no_fixed_newstyle] = s->no_fixed;
	d->config.knob[KNOB_no_no_zeroes] = s->no_no_zeroes;
}

/* Only fixed newstyle is owed; who takes no other leaves. */
static void
judge_refusal(struct drive *d, const struct style *s)
{
	observe(d->t, R(interop_export_name_used), "the client does not take a server that is %s", s->name);
	ask(d, 1, "close");
	EXPECT(d->t, R(oldstyle_unhappy_client_leaves), !s->oldstyle || all_ended(d),
	       "the client refuses an oldstyle server, and keeps the connection: it is to close it");
}

CASE_DRIVER(greeting, styles,
            "Whatever style a server's greeting has, the client enters transmission in that style or leaves, and reads "
            "what is there",
            R(baseline_client_fixed_newstyle), R(oldstyle_client_silent), R(oldstyle_unhappy_client_leaves),
            R(client_flags_sent), R(nonfixed_only_export_name), R(client_fixed_newstyle_flag),
            R(client_no_zeroes_unoffered), R(no_other_client_flags), R(baseline_client_read))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_STYLES; i++)
		POINT(t, "%s", styles[i].name) {
			serve_style(d, &styles[i]);
			d->owed = i < FIXED_STYLES ? R(baseline_client_fixed_newstyle)
			                           : R(client_transmission_no_disconnect);
			if (i < FIXED_STYLES)
				session_must_work(d, R(baseline_client_fixed_newstyle));
			else if (!session_works(d, R(baseline_client_read)))
				judge_refusal(d, &styles[i]);
			drive_finish(d);
		}
}

CASE_DRIVER(greeting, large_oldstyle_export, "The size that an oldstyle server tells has 64 bits",
            R(numbers_big_endian))
{
	struct drive *d = drive_new(t);
	struct driver_answer a;
	char *size;

	drive_serve(d, "size=5G", NULL);
	d->config.oldstyle = true;
	a = ask(d, 1, "connect %s", d->uri);
	if (a.result != DRIVER_OK)
		skip(t, "oldstyle", "the client does not take an oldstyle server: %s", a.text);
	size = known(&a, "size");
	EXPECT(t, R(numbers_big_endian), size == NULL || strtoull(size, NULL, 10) == d->exports[0].size,
	       "the client tells a size of %s, and the server one of %" PRIu64, size, d->exports[0].size);
	free(size);
	must_read_disk(d, R(numbers_big_endian), 1, &d->exports[0], UINT64_C(4) << 30, 4096);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

/* ---- the flags ---- */

enum { KNOWN_HANDSHAKE_FLAGS = 2, HANDSHAKE_FLAGS = 16 };

static void
add_handshake_flags(void *arg, struct conn *c, struct outgoing *m)
{
	(void)c;
	if (m->kind == MSG_GREETING)
		m->greeting.flags |= *(const uint16_t *)arg;
}

static void
unknown_flags(struct drive *d, uint16_t flags)
{
	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .edit = add_handshake_flags, .arg = &flags });
	d->owed = R(client_ignores_handshake_flags);
	if (!session_works(d, R(client_ignores_handshake_flags)))
		deviates(d->t, R(client_ignores_handshake_flags), "'connect' is answered 'ok', as without these flags",
		         "'error'");
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(greeting, unknown_handshake_flags,
            "Handshake flags that nobody knows are ignored: the session goes on as without them",
            R(client_ignores_handshake_flags), R(no_other_client_flags))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned bit = KNOWN_HANDSHAKE_FLAGS; bit <= HANDSHAKE_FLAGS; bit++)
		POINT(t, bit < HANDSHAKE_FLAGS ? "bit %u" : "all from bit 2 on", bit)
			unknown_flags(d, bit < HANDSHAKE_FLAGS ? (uint16_t)(1u << bit) : 0xfffc);
}

CASE_DRIVER(greeting, client_flags,
            "Whichever client flags the user forgoes, the session is in the style that was agreed, and what is read is "
            "right",
            R(client_no_zeroes_unoffered), R(no_other_client_flags), R(client_fixed_newstyle_flag),
            R(nonfixed_only_export_name), R(baseline_client_read))
{
	struct drive *d = drive_new(t);

	drive_needs(d, "set", "fixed-newstyle");
	drive_needs(d, "set", "no-zeroes");
	for (volatile unsigned i = 0; i < 4 * (N_STYLES - 1); i++)
		POINT(t, "%s, fixed-newstyle=%s, no-zeroes=%s", styles[i / 4].name, i & 2 ? "on" : "off",
		      i & 1 ? "on" : "off") {
			serve_style(d, &styles[i / 4]);
			must(d, R(no_other_client_flags), 1, "set fixed-newstyle=%s", i & 2 ? "on" : "off");
			must(d, R(no_other_client_flags), 1, "set no-zeroes=%s", i & 1 ? "on" : "off");
			if (!session_works(d, R(baseline_client_read)))
				observe(t, R(interop_export_name_used), "the client does not connect in this way");
			drive_finish(d);
		}
}

/* ---- NBD_OPT_EXPORT_NAME ---- */

/* As servers do that are older than these options (proto.md:1331). */
static bool
lack_options(void *arg, struct conn *c, const struct incoming *m)
{
	uint32_t known = *(const uint32_t *)arg;

	if (m->kind != MSG_OPTION || m->option.option <= NBD_OPT_LIST || m->option.option == known)
		return false;
	return say_error(c, NBD_REP_ERR_UNSUP, "");
}

static void
fall_back(struct drive *d, bool no_no_zeroes, uint32_t known)
{
	drive_serve(d, "", NULL);
	d->config.knob[KNOB_no_no_zeroes] = no_no_zeroes;
	drive_follow(d, &(struct script){ .take = lack_options, .arg = &known });
	d->owed = R(go_falls_back);
	if (!session_works(d, R(interop_export_name_used)))
		deviates(d->t, R(interop_export_name_used),
		         "the client connects by NBD_OPT_EXPORT_NAME where the server does not know NBD_OPT_GO",
		         "'error'");
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(greeting, falls_back,
            "A server that does not know NBD_OPT_GO is entered by NBD_OPT_EXPORT_NAME, and what is read is right",
            R(go_falls_back), R(interop_export_name_used), R(structured_reply_unsup_handled))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 4; i++)
		POINT(t, "%s structured replies%s", i & 1 ? "without" : "with", i & 2 ? ", with the padding" : "")
			fall_back(d, (i & 2) != 0, i & 1 ? 0 : NBD_OPT_STRUCTURED_REPLY);
}

CASE_DRIVER(greeting, go_padding,
            "After NBD_OPT_GO is acknowledged the client is in transmission, and no padding is awaited, agreed or not",
            R(go_client_enters_transmission), R(go_preferred), R(go_then_no_options))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < FIXED_STYLES; i++)
		POINT(t, "%s", styles[i].name) {
			serve_style(d, &styles[i]);
			d->owed = R(go_client_enters_transmission);
			session_must_work(d, R(go_client_enters_transmission));
			drive_finish(d);
		}
}
