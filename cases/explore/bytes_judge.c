/*
 * What comes, held against what was sent, as far as both can be followed: behind what is no message of ours a server may
 * take the bytes for anything, or leave, and nothing of what follows is judged.
 */
#include "cases/explore/bytes.h"

#include "harness/names.h"
#include "harness/sum.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_REPLY = 1 << 20, MOST_CHUNK = 64 << 20 };

struct request_state {
	const struct request *q;
	bool owed, done;
	bool ambiguous; /* another one has the same cookie */
};

struct judge {
	struct judgement *j;
	const struct bytes_facts *f;
	struct bytes came;
	size_t at; /* of .came, so much is taken */
	struct link *l;
	const struct shadow *shadow;
	struct token *token;
	unsigned n, next; /* tokens, and the one that is looked at */
	uint32_t client_flags;
	bool structured, stop;
	bool entered_early; /* transmission, by an option that is not all there */
	struct request_state *requests;
	unsigned n_requests;
	bool lost;      /* behind the requests stands what is none */
	uint64_t kinds; /* of replies, a bit for each of their sums */
};

#define BREACH(j_, r, expected, ...)                                                                                   \
	do {                                                                                                           \
		add_product_breach(&(j_)->j->breaches, -1, BREACH_STREAM, r, expected, __VA_ARGS__);                   \
		(j_)->stop = true;                                                                                     \
	} while (0)

/* n bytes that nobody has taken, or NULL: then there are no more, and nothing more can be said. */
static const uint8_t *
need(struct judge *j, size_t n)
{
	if (j->came.len - j->at >= n)
		return j->came.at + j->at;
	j->stop = true;
	return NULL;
}

static void
take(struct judge *j, enum message_kind kind, uint64_t cookie, size_t n)
{
	if (j->l != NULL)
		link_record(j->l, kind, false, cookie, (struct bytes){ j->came.at + j->at, n });
	j->at += n;
}

/* ---- option haggling ---- */

static bool
was_asked(const struct judge *j, uint32_t option, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to && j->token[i].kind == TOKEN_OPTION; i++)
		if (j->token[i].headed && j->token[i].option.option == option)
			return true;
	return false;
}

static void
wrong_option(struct judge *j, const struct option_reply *r, uint32_t option)
{
	char want[NAME_MAX_TEXT], got[NAME_MAX_TEXT];

	name_text(NAME_OPTION, option, want);
	name_text(NAME_OPTION, r->option, got);
	if (was_asked(j, r->option, 1, j->next))
		BREACH(j,
		       r->option == NBD_OPT_INFO || r->option == NBD_OPT_GO ? R(info_final_reply)
		                                                            : R(option_reply_echoes_option),
		       "one final reply to each option", "another reply to %.60s", got);
	else if (was_asked(j, r->option, j->next, j->n))
		BREACH(j, R(option_gets_reply), "a reply to each option, in their order", "%.60s before one to %.60s",
		       got, want);
	else
		BREACH(j, R(option_reply_echoes_option), "a reply to an option that was sent", "one to %.60s", got);
}

static void
agree(struct judge *j, const struct option_reply *r)
{
	if (r->type != NBD_REP_ACK) {
		j->stop |= r->option == NBD_OPT_ABORT;
		return;
	}
	j->structured |= r->option == NBD_OPT_STRUCTURED_REPLY;
	j->j->transmission |= r->option == NBD_OPT_GO;
	/* What follows is not in plain text, or has other headers, or is nothing. */
	j->stop |= r->option == NBD_OPT_STARTTLS || r->option == NBD_OPT_EXTENDED_HEADERS || r->option == NBD_OPT_ABORT;
}

/* True behind the final one. */
static bool
take_option_reply(struct judge *j, const struct option *o)
{
	const uint8_t *at = need(j, OPTION_REPLY_HEADER_SIZE);
	struct option_reply r;

	if (at == NULL)
		return false;
	wire_get_option_reply(wire(at, OPTION_REPLY_HEADER_SIZE), &r);
	if (r.magic != NBD_OPTION_REPLY_MAGIC)
		BREACH(j, R(option_reply_magic), "the magic of an option reply", "0x%016" PRIx64, r.magic);
	else if (r.option != o->option)
		wrong_option(j, &r, o->option);
	else if (r.length > MOST_REPLY)
		BREACH(j, R(option_reply_length), "a reply with its data", "one with a length of %" PRIu32, r.length);
	if (j->stop || need(j, OPTION_REPLY_HEADER_SIZE + r.length) == NULL)
		return false;
	take(j, MSG_OPTION_REPLY, 0, OPTION_REPLY_HEADER_SIZE + r.length);
	j->j->shape = sum_number(j->j->shape, (uint64_t)o->option << 32 | r.type);
	if (r.type != NBD_REP_ACK && (r.type & NBD_REP_ERROR_BIT) == 0)
		return false;
	j->j->owed = 0;
	agree(j, &r);
	return true;
}

/* It has no header: ten bytes, or none from a server that leaves. */
static void
take_export_name(struct judge *j)
{
	uint32_t no_zeroes = j->f->handshake_flags & j->client_flags & NBD_FLAG_NO_ZEROES;
	size_t n = EXPORT_NAME_REPLY_SIZE + (no_zeroes ? 0 : NBD_EXPORT_NAME_PADDING);

	if (need(j, n) == NULL)
		return;
	take(j, MSG_EXPORT_NAME_REPLY, 0, n);
	j->j->transmission = true;
	j->j->shape = sum_number(j->j->shape, NBD_OPT_EXPORT_NAME);
}

static void
haggle(struct judge *j)
{
	bool fixed = (j->f->handshake_flags & j->client_flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0;

	for (; j->next < j->n && !j->stop && !j->j->transmission; j->next++) {
		const struct token *t = &j->token[j->next];
		bool last = false;

		/* Newstyle that is not fixed knows one option, and the text says nothing of others there (proto.md:1180). */
		j->stop |= t->kind != TOKEN_OPTION || !t->headed || (!fixed && t->option.option != NBD_OPT_EXPORT_NAME);
		j->j->owed = !j->stop && t->whole;
		if (!j->stop && t->option.option == NBD_OPT_EXPORT_NAME)
			take_export_name(j);
		else
			while (!j->stop && !last)
				last = take_option_reply(j, &t->option);
		j->entered_early = !t->whole;
		j->j->owed = j->stop ? j->j->owed : 0;
	}
}

/* ---- transmission ---- */

static void
collect_requests(struct judge *j)
{
	unsigned i = j->next;

	j->requests = calloc(j->n + 1, sizeof(*j->requests));
	if (j->requests == NULL)
		abort();
	for (; i < j->n; i++) {
		const struct token *t = &j->token[i];
		struct request_state *s = &j->requests[j->n_requests];

		if (t->kind != TOKEN_REQUEST || !t->headed || t->request.type == NBD_CMD_DISC)
			break;
		*s = (struct request_state){ .q = &t->request, .owed = t->whole };
		for (unsigned k = 0; k < j->n_requests; k++)
			if (j->requests[k].q->cookie == t->request.cookie)
				j->requests[k].ambiguous = s->ambiguous = true;
		j->n_requests++;
		j->j->owed += s->owed;
	}
	j->lost = i < j->n;
}

static struct request_state *
find_request(struct judge *j, uint64_t cookie)
{
	for (unsigned i = 0; i < j->n_requests; i++) {
		struct request_state *s = &j->requests[i];

		if (s->q->cookie != cookie)
			continue;
		j->stop |= s->ambiguous;
		if (!s->ambiguous && s->done && !j->lost)
			BREACH(j, R(each_request_one_reply), "one reply to each request",
			       "another one with the cookie 0x%" PRIx64, cookie);
		return s->done || s->ambiguous ? NULL : s;
	}
	if (j->entered_early)
		BREACH(j, R(option_data_consumed), "no reply before all of the option's data has come",
		       "one with the cookie 0x%" PRIx64, cookie);
	else if (!j->lost)
		BREACH(j, R(cookie_echoed), "the cookie of a request that was sent", "0x%016" PRIx64, cookie);
	return NULL;
}

static void
saw_kind(struct judge *j, const struct request_state *s, uint32_t kind, uint32_t value)
{
	uint64_t sum = sum_number(sum_number(s->q->type, kind), value);

	j->kinds |= UINT64_C(1) << (sum >> 7) % 64;
}

static void
finish(struct judge *j, struct request_state *s)
{
	s->done = true;
	j->j->owed -= s->owed;
}

static void
judge_data(struct judge *j, uint64_t offset, const uint8_t *data, size_t len, enum requirement_id r)
{
	struct item read = { .q = { .type = NBD_CMD_READ, .offset = offset, .length = (uint32_t)len },
		             .data = (uint8_t *)data };
	uint64_t at = offset;

	if (j->shadow == NULL || len == 0 || shadow_allows(j->shadow, &read, NULL, 0, &at))
		return;
	BREACH(j, r, "what the export holds, in the reply to a READ", "byte %" PRIu64 " of it is 0x%02x", at,
	       data[at - offset]);
}

static void
take_simple(struct judge *j)
{
	const uint8_t *at = need(j, SIMPLE_REPLY_SIZE);
	struct request_state *s = NULL;
	struct simple_reply r;
	size_t n;

	if (at == NULL)
		return;
	wire_get_simple_reply(wire(at, SIMPLE_REPLY_SIZE), &r);
	s = find_request(j, r.cookie);
	if (s == NULL) {
		j->stop = true;
		return;
	}
	if (j->structured && s->q->type == NBD_CMD_READ) {
		BREACH(j, R(read_reply_structured), "a structured reply to a READ", "a simple one");
		return;
	}
	n = s->q->type == NBD_CMD_READ && r.error == NBD_SUCCESS ? s->q->length : 0;
	at = need(j, SIMPLE_REPLY_SIZE + n);
	if (at == NULL)
		return;
	judge_data(j, s->q->offset, at + SIMPLE_REPLY_SIZE, n, R(read_returns_data));
	take(j, MSG_SIMPLE_REPLY, r.cookie, SIMPLE_REPLY_SIZE + n);
	saw_kind(j, s, 0, r.error);
	finish(j, s);
}

static void
judge_chunk(struct judge *j, const struct request_state *s, const struct chunk *c)
{
	uint64_t start = s->q->offset, end = start + s->q->length;
	struct chunk_offset_data d;

	if (s->q->type != NBD_CMD_READ || c->type != NBD_REPLY_TYPE_OFFSET_DATA)
		return;
	if (wire_get_chunk_offset_data(wire_over(c->data), &d) == WIRE_SHORT || d.offset < start || d.offset > end ||
	    d.data.len > end - d.offset)
		BREACH(j, R(data_chunk_in_bounds), "data within the range of the READ",
		       "%zu bytes from offset %" PRIu64, d.data.len, d.offset);
	else
		judge_data(j, d.offset, d.data.at, d.data.len, R(data_chunk_contents));
}

static uint32_t
error_of(const struct chunk *c)
{
	struct wire w = wire_over(c->data);

	return c->type >> 15 ? wire_be32(&w) : 0;
}

static void
take_chunk(struct judge *j)
{
	const uint8_t *at = need(j, CHUNK_HEADER_SIZE);
	struct request_state *s;
	struct chunk c;

	if (at == NULL)
		return;
	wire_get_chunk(wire(at, CHUNK_HEADER_SIZE), &c);
	s = find_request(j, c.cookie);
	if (s == NULL) {
		j->stop = true;
		return;
	}
	if (!j->structured)
		BREACH(j, R(simple_reply_required), "a simple reply, for no others were agreed on", "a structured one");
	else if (c.length > MOST_CHUNK)
		BREACH(j, R(structured_chunk_length), "a chunk with its payload", "one with a length of %" PRIu64,
		       c.length);
	if (j->stop || (at = need(j, CHUNK_HEADER_SIZE + c.length)) == NULL)
		return;
	wire_get_chunk(wire(at, CHUNK_HEADER_SIZE + c.length), &c);
	judge_chunk(j, s, &c);
	take(j, MSG_CHUNK, c.cookie, CHUNK_HEADER_SIZE + c.length);
	saw_kind(j, s, c.type, error_of(&c));
	if ((c.flags & NBD_REPLY_FLAG_DONE) != 0)
		finish(j, s);
}

static void
take_reply(struct judge *j)
{
	const uint8_t *at = need(j, 4);
	struct wire w;
	uint32_t magic;

	if (at == NULL)
		return;
	w = wire(at, 4);
	magic = wire_be32(&w);
	if (magic == NBD_SIMPLE_REPLY_MAGIC)
		take_simple(j);
	else if (magic == NBD_STRUCTURED_REPLY_MAGIC)
		take_chunk(j);
	else
		BREACH(j, j->structured ? R(structured_reply_magic) : R(simple_reply_magic), "the magic of a reply",
		       "0x%08" PRIx32, magic);
}

/* ---- all of it ---- */

static void
take_greeting(struct judge *j)
{
	const uint8_t *at = need(j, GREETING_SIZE);
	struct greeting g;

	if (at == NULL)
		return;
	wire_get_greeting(wire(at, GREETING_SIZE), &g);
	if (g.magic != NBD_MAGIC || g.option_magic != NBD_OPTION_MAGIC)
		BREACH(j, R(greeting_magic), "the magics of newstyle", "0x%016" PRIx64 " 0x%016" PRIx64, g.magic,
		       g.option_magic);
	else if (g.flags != j->f->handshake_flags)
		BREACH(j, R(handshake_flags_sent), "the handshake flags of other times", "0x%04x", g.flags);
	take(j, MSG_GREETING, 0, GREETING_SIZE);
}

void
judge(struct judgement *to, const struct bytes_facts *f, struct bytes sent, struct bytes came, const struct shadow *s,
      struct link *l)
{
	static struct token tokens[MOST_TOKENS];
	struct judge j = { .j = to, .f = f, .came = came, .l = l, .shadow = s, .token = tokens };

	*to = (struct judgement){ 0 };
	j.n = tokenize(sent, tokens);
	take_greeting(&j);
	if (!j.stop && j.n > 0 && tokens[0].whole) {
		struct wire w = wire(sent.at, CLIENT_FLAGS_SIZE);

		j.client_flags = wire_be32(&w);
		j.next = 1;
		haggle(&j);
	}
	if (!j.stop && to->transmission) {
		collect_requests(&j);
		while (!j.stop && j.at < came.len)
			take_reply(&j);
		to->shape = sum_number(to->shape, j.kinds);
	}
	if (l != NULL && j.at < came.len)
		link_record(l, MSG_RAW, false, 0, (struct bytes){ came.at + j.at, came.len - j.at });
	free(j.requests);
}
