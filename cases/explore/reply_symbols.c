/* The alphabet of replies: what a server may say to an option, and what it may not. */
#include "cases/explore/replies.h"

#include "cases/client/script.h"
#include "harness/nbd.h"

#include <string.h>

enum form {
	PLAIN, /* the type, and nothing else */
	TEXT,
	WITH_DATA,
	HALF, /* of a header, and the end */
	CLOSE,
	ELSEWHERE, /* for another option */
	MAGIC,     /* a wrong one */
	EXPORT,
	EXPORT_OTHER, /* half the size, and read-only */
	EXPORT_CUT,
	EXPORT_LONG,
	NAME,
	DESCRIPTION,
	SIZES,
	SIZES_ODD,
	SIZES_CUT,
	UNKNOWN_INFO,
	NO_INFO,
	LISTED,
	LISTED_CUT,
	LISTED_BEYOND,
	CONTEXT,
	CONTEXT_OTHER,
	CONTEXT_CUT,
};

#define ERROR_(name, type)                                                                                             \
	{ "ERR_" name, true, false, type, PLAIN },                                                                     \
	{                                                                                                              \
		"ERR_" name ":text", true, true, type, TEXT                                                            \
	}

const struct reply_symbol reply_symbols[] = {
	{ "ACK", true, false, NBD_REP_ACK, PLAIN },
	{ "ACK:data", true, false, NBD_REP_ACK, WITH_DATA },
	ERROR_("UNSUP", NBD_REP_ERR_UNSUP),
	ERROR_("POLICY", NBD_REP_ERR_POLICY),
	ERROR_("INVALID", NBD_REP_ERR_INVALID),
	ERROR_("PLATFORM", NBD_REP_ERR_PLATFORM),
	ERROR_("TLS_REQD", NBD_REP_ERR_TLS_REQD),
	ERROR_("UNKNOWN", NBD_REP_ERR_UNKNOWN),
	ERROR_("SHUTDOWN", NBD_REP_ERR_SHUTDOWN),
	ERROR_("BLOCK_SIZE_REQD", NBD_REP_ERR_BLOCK_SIZE_REQD),
	ERROR_("TOO_BIG", NBD_REP_ERR_TOO_BIG),
	ERROR_("EXT_HEADER_REQD", NBD_REP_ERR_EXT_HEADER_REQD),
	ERROR_("unknown", NBD_REP_ERROR_BIT | 0x1234),
	ERROR_("highest", UINT32_MAX),
	{ "close", true, false, 0, CLOSE },
	{ "half", true, false, 0, HALF },
	{ "INFO_EXPORT", false, false, NBD_REP_INFO, EXPORT },
	{ "INFO_EXPORT:other", false, false, NBD_REP_INFO, EXPORT_OTHER },
	{ "INFO_EXPORT:cut", false, false, NBD_REP_INFO, EXPORT_CUT },
	{ "INFO_EXPORT:long", false, false, NBD_REP_INFO, EXPORT_LONG },
	{ "INFO_NAME", false, false, NBD_REP_INFO, NAME },
	{ "INFO_DESCRIPTION", false, false, NBD_REP_INFO, DESCRIPTION },
	{ "INFO_BLOCK_SIZE", false, false, NBD_REP_INFO, SIZES },
	{ "INFO_BLOCK_SIZE:odd", false, false, NBD_REP_INFO, SIZES_ODD },
	{ "INFO_BLOCK_SIZE:cut", false, false, NBD_REP_INFO, SIZES_CUT },
	{ "INFO:unknown", false, false, NBD_REP_INFO, UNKNOWN_INFO },
	{ "INFO:empty", false, false, NBD_REP_INFO, NO_INFO },
	{ "SERVER", false, false, NBD_REP_SERVER, LISTED },
	{ "SERVER:cut", false, false, NBD_REP_SERVER, LISTED_CUT },
	{ "SERVER:beyond", false, false, NBD_REP_SERVER, LISTED_BEYOND },
	{ "META_CONTEXT", false, false, NBD_REP_META_CONTEXT, CONTEXT },
	{ "META_CONTEXT:other", false, false, NBD_REP_META_CONTEXT, CONTEXT_OTHER },
	{ "META_CONTEXT:cut", false, false, NBD_REP_META_CONTEXT, CONTEXT_CUT },
	{ "unknown", false, false, 0x1234, PLAIN },
	{ "unknown:data", false, false, 0x1234, WITH_DATA },
	{ "elsewhere", false, false, NBD_REP_ACK, ELSEWHERE },
	{ "magic", false, false, NBD_REP_ACK, MAGIC },
};
const unsigned n_reply_symbols = sizeof(reply_symbols) / sizeof(reply_symbols[0]);

const struct replied replied[N_REPLIED] = {
	{ "STRUCTURED_REPLY", NBD_OPT_STRUCTURED_REPLY, false },
	{ "SET_META_CONTEXT", NBD_OPT_SET_META_CONTEXT, false },
	{ "GO", NBD_OPT_GO, false },
	{ "INFO", NBD_OPT_INFO, false },
	{ "LIST", NBD_OPT_LIST, false },
	{ "LIST_META_CONTEXT", NBD_OPT_LIST_META_CONTEXT, false },
	{ "EXPORT_NAME", NBD_OPT_EXPORT_NAME, true },
	{ "ABORT", NBD_OPT_ABORT, true },
};

int
reply_symbol_named(const char *name, size_t len)
{
	for (unsigned i = 0; i < n_reply_symbols; i++)
		if (strlen(reply_symbols[i].name) == len && strncmp(reply_symbols[i].name, name, len) == 0)
			return (int)i;
	return -1;
}

/* ---- what is lawful ---- */

static bool
tells_infos(const struct answered *a)
{
	return a->option == NBD_OPT_GO || a->option == NBD_OPT_INFO;
}

static unsigned
asked_infos(const struct option *o)
{
	struct opt_go go;
	unsigned bits = 0;

	if (wire_get_opt_go(wire_over(o->data), &go) != WIRE_EXACT)
		return 0;
	for (size_t i = 0; i < go.n_infos; i++)
		bits |= opt_go_info(&go, i) < 8 ? 1u << opt_go_info(&go, i) : 0;
	return bits;
}

void
answered_begin(struct answered *a, const struct option *o, unsigned nth)
{
	*a = (struct answered){ .option = o->option, .nth = nth };
	if (tells_infos(a))
		a->asked = asked_infos(o) | 1u << NBD_INFO_EXPORT;
}

/* What comes twice the text does not speak of. */
static void
tell_info(struct answered *a, uint16_t type)
{
	a->unlawful |= !tells_infos(a) || (a->infos & 1u << type) != 0;
	a->infos |= 1u << type;
}

/* Is this context among those that the client asks for? */
static bool
is_queried(const struct option *o)
{
	static const char name[] = "base:allocation";
	struct opt_meta_context m;
	struct wire w;

	if (wire_get_opt_meta_context(wire_over(o->data), &m) != WIRE_EXACT)
		return false;
	w = wire_over(m.queries);
	for (uint32_t i = 0; i < m.n_queries; i++) {
		struct bytes q = opt_meta_context_query(&w);

		if ((q.len == strlen(name) && memcmp(q.at, name, q.len) == 0) ||
		    (o->option == NBD_OPT_LIST_META_CONTEXT && q.len == 5 && memcmp(q.at, name, q.len) == 0))
			return true;
	}
	return o->option == NBD_OPT_LIST_META_CONTEXT && m.n_queries == 0;
}

static bool
takes_contexts(const struct answered *a)
{
	return a->option == NBD_OPT_SET_META_CONTEXT || a->option == NBD_OPT_LIST_META_CONTEXT;
}

void
answered_honestly(struct answered *a)
{
	/* The export's size and flags come, and what was asked for; and the contexts. */
	if (tells_infos(a))
		a->unlawful |= (a->infos & a->asked) != 0;
	else if (takes_contexts(a))
		a->unlawful |= a->n_contexts > 0;
}

/* ---- saying ---- */

static const struct info_export *
told_export(struct conn *c, const struct fake_export *e, struct answered *a, bool other)
{
	a->has_export = true;
	a->export = (struct info_export){ e->size, session_flags(c, e) };
	if (other)
		a->export = (struct info_export){ e->size / 2, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY };
	return &a->export;
}

static void
say_info_export(struct conn *c, const struct fake_export *e, struct answered *a, enum form form)
{
	struct buf b = { 0 };

	tell_info(a, NBD_INFO_EXPORT);
	wire_put_info_export(&b, told_export(c, e, a, form == EXPORT_OTHER));
	if (form == EXPORT_LONG)
		buf_put(&b, "", 1);
	a->unlawful |= form == EXPORT_LONG || form == EXPORT_CUT;
	say_info(c, NBD_INFO_EXPORT, b.at, b.len - (form == EXPORT_CUT));
	buf_free(&b);
}

static void
say_info_symbol(struct conn *c, const struct fake_export *e, struct answered *a, enum form form)
{
	static const uint8_t sizes[12] = { 0, 0, 2, 0, 0, 0, 16, 0, 0, 32, 0, 0 };

	if (form == NAME || form == DESCRIPTION) {
		tell_info(a, form == NAME ? NBD_INFO_NAME : NBD_INFO_DESCRIPTION);
		say_info(c, form == NAME ? NBD_INFO_NAME : NBD_INFO_DESCRIPTION, "its name", 8);
	} else if (form == SIZES || form == SIZES_CUT) {
		tell_info(a, NBD_INFO_BLOCK_SIZE);
		a->unlawful |= form == SIZES_CUT;
		say_info(c, NBD_INFO_BLOCK_SIZE, sizes, sizeof(sizes) - (form == SIZES_CUT));
	} else if (form == SIZES_ODD) {
		a->unlawful = true;
		say_block_size(c, 3, 5, 7);
	} else if (form == UNKNOWN_INFO) {
		a->unlawful |= !tells_infos(a);
		a->has_unknown_info = true;
		say_info(c, 0x1234, "anything", 8);
	} else if (form == NO_INFO) {
		a->unlawful = true;
		say_reply(c, NBD_REP_INFO, NULL, 0);
	} else {
		say_info_export(c, e, a, form);
	}
}

static void
say_listed(struct conn *c, struct answered *a, enum form form)
{
	a->unlawful |= a->option != NBD_OPT_LIST || form != LISTED;
	a->n_listed++;
	if (form == LISTED)
		say_server(c, bytes_of("listed"), (struct bytes){ 0 });
	else if (form == LISTED_CUT)
		say_reply(c, NBD_REP_SERVER, "\0\0", 3);
	else
		say_reply(c, NBD_REP_SERVER,
		          "\xff\xff\xff\xff"
		          "name",
		          8);
}

/* The first of a name counts; another of it is what the text does not speak of. */
static void
say_context_symbol(struct conn *c, struct answered *a, enum form form, const struct option *o, struct fake_export *e)
{
	uint32_t id = CONTEXT_ID + a->n_contexts;

	a->unlawful |= !takes_contexts(a) || form != CONTEXT || a->n_contexts > 0;
	a->unlawful = a->unlawful || !is_queried(o);
	a->n_contexts++;
	if (form == CONTEXT_CUT) {
		say_reply(c, NBD_REP_META_CONTEXT, "\0\0", 3);
		return;
	}
	say_context(c, id, bytes_of(form == CONTEXT ? "base:allocation" : "x-nbdspec:nobody-asked"));
	if (a->option != NBD_OPT_SET_META_CONTEXT || form != CONTEXT || a->n_contexts > 1)
		return;
	c->contexts[0] = (struct selected_context){ id, META_ALLOCATION };
	c->context_export = e;
}

static void
say_wrongly(struct conn *c, struct answered *a, enum form form)
{
	struct outgoing m = option_reply_start(c, NBD_REP_ACK, PAYLOAD_RAW);

	a->unlawful = true;
	if (form == ELSEWHERE)
		m.reply.option = a->option == NBD_OPT_LIST ? NBD_OPT_INFO : NBD_OPT_LIST;
	else
		m.reply.magic = NBD_OPTION_REPLY_MAGIC ^ 1;
	say_message(c, &m);
}

/* What is agreed now, as far as the server has a part in it. */
static void
agree(struct conn *c, struct answered *a, struct fake_export *e)
{
	a->final = NBD_REP_ACK;
	switch (a->option) {
	case NBD_OPT_STRUCTURED_REPLY:
		c->structured = true;
		break;
	case NBD_OPT_SET_META_CONTEXT:
		c->n_contexts = a->n_contexts > 0 && c->context_export != NULL;
		break;
	case NBD_OPT_INFO:
		a->unlawful |= !a->has_export;
		break;
	case NBD_OPT_GO:
		a->unlawful |= !a->has_export;
		say_entered(c, e);
		if (a->has_export)
			c->flags = a->export.flags;
		break;
	}
}

static void
say_end(struct conn *c, const struct reply_symbol *s, struct answered *a, struct fake_export *e)
{
	if (s->form == CLOSE || s->form == HALF) {
		a->closed = true;
		a->unlawful |= s->form == HALF;
		if (s->form == HALF)
			say_bytes(c, "\0\3\xe8\x89\x04\x55\x65\xa9\0", 10);
		say_close(c);
	} else if (s->type == NBD_REP_ACK) {
		a->unlawful |= s->form == WITH_DATA;
		say_reply(c, NBD_REP_ACK, "data", s->form == WITH_DATA ? 4 : 0);
		agree(c, a, e);
	} else {
		a->final = s->type;
		a->unlawful |= s->type == NBD_REP_ERR_BLOCK_SIZE_REQD &&
		               (!tells_infos(a) || (a->asked & 1u << NBD_INFO_BLOCK_SIZE) != 0);
		say_error(c, s->type, s->form == TEXT ? "this cannot be, says the server" : "");
		if (a->option == NBD_OPT_SET_META_CONTEXT)
			c->n_contexts = 0;
	}
}

void
say_reply_symbol(struct conn *c, const struct reply_symbol *s, struct answered *a, const struct option *o,
                 struct fake_export *e)
{
	enum form form = (enum form)s->form;

	a->chosen = true;
	if (s->ends) {
		say_end(c, s, a, e);
	} else if (form == ELSEWHERE || form == MAGIC) {
		say_wrongly(c, a, form);
	} else if (s->type == NBD_REP_INFO) {
		say_info_symbol(c, e, a, form);
	} else if (s->type == NBD_REP_SERVER) {
		say_listed(c, a, form);
	} else if (s->type == NBD_REP_META_CONTEXT) {
		say_context_symbol(c, a, form, o, e);
	} else {
		a->unlawful = true;
		say_reply(c, s->type, "data", form == WITH_DATA ? 4 : 0);
	}
}
