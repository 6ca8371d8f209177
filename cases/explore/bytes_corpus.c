/* Well-formed sessions, for mutations to begin with. */
#include "cases/explore/bytes.h"

#include "harness/test.h"

#include <stdlib.h>
#include <string.h>

enum { UNKNOWN_OPTION = 0x7f, MOST_BLOCK = 65536 };

struct writer {
	struct buf *b;
	const struct bytes_facts *f;
	uint64_t cookie;
};

static void
put_flags(struct writer *w, uint32_t without)
{
	wire_put_client_flags(w->b, &(struct client_flags){ w->f->handshake_flags & KNOWN_FLAGS & ~without });
}

static void
put_opt(struct writer *w, uint32_t option, struct buf *data)
{
	wire_put_option(w->b,
	                &(struct option){ NBD_OPTION_MAGIC, option, (uint32_t)data->len, { data->at, data->len } });
	buf_free(data);
}

static void
put_plain(struct writer *w, uint32_t option)
{
	put_opt(w, option, &(struct buf){ 0 });
}

static void
put_entry(struct writer *w, uint32_t option, struct bytes name)
{
	static const uint16_t infos[] = { NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE };
	struct buf data = { 0 };

	if (option == NBD_OPT_EXPORT_NAME)
		put_bytes(&data, name);
	else
		put_go(&data, name, infos, COUNT(infos));
	put_opt(w, option, &data);
}

static void
put_contexts(struct writer *w, uint32_t option, const char *query)
{
	struct buf data = { 0 };

	put_meta_context(&data, w->f->name, &query, query != NULL);
	put_opt(w, option, &data);
}

static void
put_command(struct writer *w, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length)
{
	struct request q = { .magic = NBD_REQUEST_MAGIC,
		             .flags = flags,
		             .type = type,
		             .cookie = ++w->cookie,
		             .offset = offset,
		             .length = length };
	uint8_t *payload = NULL;

	if (!w->f->writes && is_write(type))
		return;
	if (type == NBD_CMD_WRITE) {
		payload = malloc(length + 1);
		if (payload == NULL)
			abort();
		fill_pattern(payload, length, offset, 1);
		q.data = (struct bytes){ payload, length };
	}
	wire_put_request(w->b, &q);
	free(payload);
}

/* One of each, with a flag that belongs to it, as far as the server has told that it knows it. */
static void
put_all_commands(struct writer *w)
{
	uint16_t has = w->f->flags, fua = has & NBD_FLAG_SEND_FUA ? NBD_CMD_FLAG_FUA : 0;
	uint32_t n = w->f->block;
	uint64_t at = w->f->target;

	put_command(w, NBD_CMD_READ, 0, 0, n);
	put_command(w, NBD_CMD_WRITE, fua, at, n);
	if (has & NBD_FLAG_SEND_FLUSH)
		put_command(w, NBD_CMD_FLUSH, 0, 0, 0);
	if (has & NBD_FLAG_SEND_TRIM)
		put_command(w, NBD_CMD_TRIM, fua, at, n);
	if (has & NBD_FLAG_SEND_CACHE)
		put_command(w, NBD_CMD_CACHE, 0, 0, n);
	if (has & NBD_FLAG_SEND_WRITE_ZEROES)
		put_command(w, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, at, n);
	put_command(w, NBD_CMD_READ, 0, at, n);
}

static void
put_pipeline(struct writer *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (i % 3 == 1)
			put_command(w, NBD_CMD_WRITE, 0, w->f->target, w->f->block);
		else
			put_command(w, NBD_CMD_READ, 0, i % 2 ? w->f->target : 0, w->f->block);
}

/* ---- sessions ---- */

static void
by_go(struct writer *w)
{
	put_entry(w, NBD_OPT_GO, w->f->name);
	put_command(w, NBD_CMD_READ, 0, 0, w->f->block);
}

static void
by_export_name(struct writer *w)
{
	put_entry(w, NBD_OPT_EXPORT_NAME, w->f->name);
	put_pipeline(w, 3);
}

static void
list(struct writer *w)
{
	put_plain(w, NBD_OPT_LIST);
	put_plain(w, NBD_OPT_ABORT);
}

static void
info(struct writer *w)
{
	put_entry(w, NBD_OPT_INFO, w->f->name);
	put_entry(w, NBD_OPT_INFO, unknown_export_name());
	put_entry(w, NBD_OPT_GO, unknown_export_name());
	put_entry(w, NBD_OPT_GO, w->f->name);
}

static void
contexts(struct writer *w)
{
	put_plain(w, NBD_OPT_STRUCTURED_REPLY);
	put_contexts(w, NBD_OPT_LIST_META_CONTEXT, NULL);
	put_contexts(w, NBD_OPT_LIST_META_CONTEXT, "base:");
	put_contexts(w, NBD_OPT_SET_META_CONTEXT, "base:allocation");
	put_entry(w, NBD_OPT_GO, w->f->name);
	put_command(w, NBD_CMD_BLOCK_STATUS, 0, 0, w->f->block);
	put_command(w, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, w->f->target, w->f->block);
	put_command(w, NBD_CMD_READ, w->f->flags & NBD_FLAG_SEND_DF ? NBD_CMD_FLAG_DF : 0, 0, w->f->block);
}

static void
unknown(struct writer *w)
{
	struct buf data = { 0 };

	buf_put(&data, "payload", 7);
	put_opt(w, UNKNOWN_OPTION, &data);
	put_plain(w, NBD_OPT_PEEK_EXPORT);
	by_go(w);
	put_command(w, 0x3f, 0, 0, 0);
}

static void
starttls(struct writer *w)
{
	put_plain(w, NBD_OPT_STARTTLS);
}

static void
extended(struct writer *w)
{
	put_plain(w, NBD_OPT_EXTENDED_HEADERS);
}

static void
commands(struct writer *w)
{
	put_entry(w, NBD_OPT_GO, w->f->name);
	put_all_commands(w);
}

static void
structured_commands(struct writer *w)
{
	put_plain(w, NBD_OPT_STRUCTURED_REPLY);
	put_entry(w, NBD_OPT_GO, w->f->name);
	put_all_commands(w);
}

static void
pipelined(struct writer *w)
{
	put_plain(w, NBD_OPT_STRUCTURED_REPLY);
	put_entry(w, NBD_OPT_GO, w->f->name);
	put_pipeline(w, 12);
}

static void
nothing(struct writer *w __attribute__((unused)))
{
}

static const struct whole_session {
	void (*put)(struct writer *w);
	uint32_t without; /* client flags */
	bool requests;    /* NBD_CMD_DISC stands behind */
} sessions[] = {
	{ by_go, 0, true },
	{ by_export_name, 0, true },
	{ by_export_name, NBD_FLAG_C_NO_ZEROES, true },
	{ by_export_name, NBD_FLAG_C_FIXED_NEWSTYLE, true },
	{ list, 0, false },
	{ info, 0, true },
	{ contexts, 0, true },
	{ unknown, 0, true },
	{ starttls, 0, false },
	{ extended, 0, false },
	{ commands, 0, true },
	{ structured_commands, 0, true },
	{ pipelined, 0, true },
	{ nothing, 0, false },
};

unsigned
session_count(void)
{
	return COUNT(sessions);
}

void
put_session(struct buf *b, const struct bytes_facts *f, unsigned i)
{
	struct writer w = { b, f, 0 };

	put_flags(&w, sessions[i].without);
	sessions[i].put(&w);
	if (sessions[i].requests)
		put_command(&w, NBD_CMD_DISC, 0, 0, 0);
}
