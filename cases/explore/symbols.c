/* The alphabet of explorations: what a client may say in option haggling, right and wrong. */
#include "cases/explore/model.h"

#include <string.h>

#define OPTION(name_, option_, ...)                                                                                    \
	{                                                                                                              \
		.name = name_, .option = NBD_OPT_##option_, __VA_ARGS__                                                \
	}
#define ENDS .ends = true

/* The first ending is what a sequence gets that has none. An unknown option has a number that nobody uses. */
const struct symbol symbols[] = {
	OPTION("GO", GO, .data = DATA_GO, ENDS),
	OPTION("STRUCTURED_REPLY", STRUCTURED_REPLY),
	OPTION("SET_META_CONTEXT", SET_META_CONTEXT, .data = DATA_META, .asked = ASKED_BASE),
	OPTION("SET_META_CONTEXT:nothing", SET_META_CONTEXT, .data = DATA_META),
	OPTION("SET_META_CONTEXT:no-such", SET_META_CONTEXT, .data = DATA_META, .asked = ASKED_NO_SUCH),
	OPTION("SET_META_CONTEXT:all", SET_META_CONTEXT, .data = DATA_META, .asked = ASKED_ALL),
	OPTION("SET_META_CONTEXT:other", SET_META_CONTEXT, .data = DATA_META, .asked = ASKED_BASE, .of = OF_OTHER),
	OPTION("SET_META_CONTEXT:unknown", SET_META_CONTEXT, .data = DATA_META, .asked = ASKED_BASE, .of = OF_UNKNOWN),
	OPTION("SET_META_CONTEXT:cut", SET_META_CONTEXT, .data = DATA_META, .asked = ASKED_BASE, .flaw = FLAW_CUT),
	OPTION("SET_META_CONTEXT:name-length", SET_META_CONTEXT, .data = DATA_META, .asked = ASKED_BASE,
	       .flaw = FLAW_NAME_LENGTH),
	OPTION("SET_META_CONTEXT:extra", SET_META_CONTEXT, .data = DATA_META, .asked = ASKED_BASE, .flaw = FLAW_EXTRA),
	OPTION("SET_META_CONTEXT:empty", SET_META_CONTEXT, .data = DATA_META, .flaw = FLAW_EMPTY),
	OPTION("LIST_META_CONTEXT", LIST_META_CONTEXT, .data = DATA_META),
	OPTION("LIST_META_CONTEXT:base", LIST_META_CONTEXT, .data = DATA_META, .asked = ASKED_BASE),
	OPTION("LIST_META_CONTEXT:unknown", LIST_META_CONTEXT, .data = DATA_META, .of = OF_UNKNOWN),
	OPTION("LIST_META_CONTEXT:cut", LIST_META_CONTEXT, .data = DATA_META, .asked = ASKED_BASE, .flaw = FLAW_CUT),
	OPTION("LIST_META_CONTEXT:extra", LIST_META_CONTEXT, .data = DATA_META, .flaw = FLAW_EXTRA),
	OPTION("LIST_META_CONTEXT:empty", LIST_META_CONTEXT, .data = DATA_META, .flaw = FLAW_EMPTY),
	OPTION("INFO", INFO, .data = DATA_GO),
	OPTION("INFO:bare", INFO, .data = DATA_GO, .bare = true),
	OPTION("INFO:other", INFO, .data = DATA_GO, .of = OF_OTHER),
	OPTION("INFO:unknown", INFO, .data = DATA_GO, .of = OF_UNKNOWN),
	OPTION("INFO:cut", INFO, .data = DATA_GO, .flaw = FLAW_CUT),
	OPTION("INFO:name-length", INFO, .data = DATA_GO, .flaw = FLAW_NAME_LENGTH),
	OPTION("INFO:empty", INFO, .data = DATA_GO, .flaw = FLAW_EMPTY),
	OPTION("GO:unknown", GO, .data = DATA_GO, .of = OF_UNKNOWN),
	OPTION("GO:cut", GO, .data = DATA_GO, .flaw = FLAW_CUT),
	OPTION("GO:empty", GO, .data = DATA_GO, .flaw = FLAW_EMPTY),
	OPTION("LIST", LIST),
	OPTION("LIST+data", LIST, .flaw = FLAW_DATA),
	OPTION("STRUCTURED_REPLY+data", STRUCTURED_REPLY, .flaw = FLAW_DATA),
	OPTION("STARTTLS", STARTTLS),
	OPTION("STARTTLS+data", STARTTLS, .flaw = FLAW_DATA),
	OPTION("PEEK_EXPORT", PEEK_EXPORT),
	OPTION("EXTENDED_HEADERS", EXTENDED_HEADERS),
	{ .name = "UNKNOWN", .option = 0x6e627365 },
	{ .name = "UNKNOWN+data", .option = 0x6e627365, .flaw = FLAW_DATA },
	{ .name = "visitor", .kind = SYMBOL_VISITOR },
	{ .name = "visitor:contexts", .kind = SYMBOL_VISITOR, .contexts = true },
	OPTION("GO:bare", GO, .data = DATA_GO, .bare = true, ENDS),
	OPTION("GO:other", GO, .data = DATA_GO, .of = OF_OTHER, ENDS),
	OPTION("EXPORT_NAME", EXPORT_NAME, .data = DATA_NAME, ENDS),
	OPTION("EXPORT_NAME:padded", EXPORT_NAME, .data = DATA_NAME, .padded = true, ENDS),
	OPTION("EXPORT_NAME:other", EXPORT_NAME, .data = DATA_NAME, .of = OF_OTHER, ENDS),
	OPTION("EXPORT_NAME:default", EXPORT_NAME, .data = DATA_NAME, .of = OF_DEFAULT, ENDS),
	OPTION("EXPORT_NAME:unknown", EXPORT_NAME, .data = DATA_NAME, .of = OF_UNKNOWN, ENDS),
	OPTION("ABORT", ABORT, ENDS),
	OPTION("ABORT+data", ABORT, .flaw = FLAW_DATA, ENDS),
	{ .name = "close", .kind = SYMBOL_CLOSE, ENDS },
	{ .name = "half", .kind = SYMBOL_HALF, .option = NBD_OPT_SET_META_CONTEXT, ENDS },
};

_Static_assert(COUNT(symbols) <= MOST_SYMBOLS, "a set of symbols has 64 bits");

unsigned
symbol_count(void)
{
	return COUNT(symbols);
}

const struct symbol *
symbol_named(const char *name, size_t len)
{
	for (size_t i = 0; i < COUNT(symbols); i++)
		if (strlen(symbols[i].name) == len && memcmp(symbols[i].name, name, len) == 0)
			return &symbols[i];
	return NULL;
}

bool
symbol_applies(const struct symbol *s, const struct facts *f)
{
	if (s->kind == SYMBOL_VISITOR)
		return f->visitors && (!s->contexts || f->export[OF_OWN].base > 0);
	if (s->of == OF_OTHER || s->of == OF_DEFAULT)
		return f->export[s->of].there;
	if (s->asked == ASKED_ALL)
		return f->n_selected > 1;
	return !s->padded || (f->handshake_flags & NBD_FLAG_NO_ZEROES) != 0;
}

static void
put_query(struct buf *b, struct bytes query)
{
	put_be32(b, (uint32_t)query.len);
	put_bytes(b, query);
}

static void
put_queries(struct buf *b, const struct symbol *s, const struct facts *f)
{
	put_be32(b, s->asked == ASKED_NOTHING ? 0 : s->asked == ASKED_ALL ? f->n_all : 1);
	if (s->asked == ASKED_BASE)
		put_query(b, BYTES_OF("base:allocation"));
	if (s->asked == ASKED_NO_SUCH)
		put_query(b, BYTES_OF("x-nbdspec-none:leaf"));
	for (unsigned i = 0; s->asked == ASKED_ALL && i < f->n_all; i++)
		put_query(b, f->all[i]);
}

static void
put_bait(struct buf *b)
{
	wire_put_option(b, &(struct option){ .magic = NBD_OPTION_MAGIC, .option = BAIT_OPTION });
}

void
put_symbol(struct buf *b, const struct symbol *s, const struct facts *f)
{
	struct bytes name = f->export[s->of].name;

	if (s->flaw == FLAW_DATA)
		put_bait(b);
	if (s->data == DATA_NONE || s->flaw == FLAW_EMPTY)
		return;
	if (s->data != DATA_NAME)
		put_be32(b, s->flaw == FLAW_NAME_LENGTH ? UINT32_MAX : (uint32_t)name.len);
	put_bytes(b, name);
	if (s->data == DATA_META)
		put_queries(b, s, f);
	if (s->data == DATA_GO)
		put_be16(b, !s->bare);
	if (s->data == DATA_GO && !s->bare)
		put_be16(b, NBD_INFO_BLOCK_SIZE);
	if (s->flaw == FLAW_EXTRA)
		put_bait(b);
	b->len -= s->flaw == FLAW_CUT;
}
