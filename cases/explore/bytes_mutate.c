/* What is done to the bytes of a session. All of it follows from the seed and the number of the run. */
#include "cases/explore/bytes.h"

#include "harness/random.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_FIELDS = 16, RANDOM_BYTES = 32 };

/* ---- where the numbers are ---- */

enum field_role { FIELD_MAGIC, FIELD_LENGTH, FIELD_OFFSET, FIELD_OPTION, FIELD_COMMAND, FIELD_FLAGS, FIELD_COOKIE };
struct field {
	enum field_role role;
	size_t at;     /* in the stream */
	unsigned size; /* bytes */
};

struct fields {
	struct field f[MOST_FIELDS];
	unsigned n;
};

static void
add_field(struct fields *fs, const struct token *t, enum field_role role, size_t at, unsigned size)
{
	if (fs->n < MOST_FIELDS && at + size <= t->len)
		fs->f[fs->n++] = (struct field){ role, t->at + at, size };
}

/* The data of INFO, GO and those of contexts begins with a name, and numbers stand behind that. */
static void
add_data_fields(struct fields *fs, const struct token *t)
{
	uint32_t option = t->option.option;
	struct wire w = wire_over(t->option.data);
	uint32_t name = wire_be32(&w);
	bool contexts = option == NBD_OPT_LIST_META_CONTEXT || option == NBD_OPT_SET_META_CONTEXT;

	if (option != NBD_OPT_INFO && option != NBD_OPT_GO && !contexts)
		return;
	add_field(fs, t, FIELD_LENGTH, OPTION_HEADER_SIZE, 4);
	if (name > t->len)
		return;
	add_field(fs, t, FIELD_LENGTH, OPTION_HEADER_SIZE + 4 + name, contexts ? 4 : 2);
	if (contexts)
		add_field(fs, t, FIELD_LENGTH, OPTION_HEADER_SIZE + 8 + name, 4);
}

static void
fields_of(const struct token *t, struct fields *fs)
{
	fs->n = 0;
	switch (t->kind) {
	case TOKEN_FLAGS:
		add_field(fs, t, FIELD_FLAGS, 0, 4);
		break;
	case TOKEN_OPTION:
		add_field(fs, t, FIELD_MAGIC, 0, 8);
		add_field(fs, t, FIELD_OPTION, 8, 4);
		add_field(fs, t, FIELD_LENGTH, 12, 4);
		add_data_fields(fs, t);
		break;
	case TOKEN_REQUEST:
		add_field(fs, t, FIELD_MAGIC, 0, 4);
		add_field(fs, t, FIELD_FLAGS, 4, 2);
		add_field(fs, t, FIELD_COMMAND, 6, 2);
		add_field(fs, t, FIELD_COOKIE, 8, 8);
		add_field(fs, t, FIELD_OFFSET, 16, 8);
		add_field(fs, t, FIELD_LENGTH, 24, 4);
		break;
	default:
		break;
	}
}

/* ---- one run ---- */

struct damage_work {
	const struct mutator *m;
	struct input *i;
	uint64_t random;
	struct token token[MOST_TOKENS];
	unsigned n_tokens;
};

static uint64_t
below(struct damage_work *w, uint64_t n)
{
	return n > 0 ? random_next(&w->random) % n : 0;
}

static void
take_apart(struct damage_work *w)
{
	w->n_tokens = tokenize((struct bytes){ w->i->bytes.at, w->i->bytes.len }, w->token);
	/* Of nothing there is still one, and it has no bytes. */
	if (w->n_tokens == 0)
		w->token[0] = (struct token){ .kind = TOKEN_RAW };
}

/* n bytes of the stream from `at` on are replaced by others. */
static void
replace(struct damage_work *w, size_t at, size_t n, struct bytes by)
{
	struct buf b = { 0 }, *is = &w->i->bytes;

	if (is->len - n + by.len > MOST_STREAM)
		return;
	put_bytes(&b, (struct bytes){ is->at, at });
	put_bytes(&b, by);
	put_bytes(&b, (struct bytes){ is->at + at + n, is->len - at - n });
	buf_free(is);
	*is = b;
}

static struct bytes
bytes_of_token(const struct damage_work *w, unsigned i)
{
	return (struct bytes){ w->i->bytes.at + w->token[i].at, w->token[i].len };
}

/* A copy, for what is replaced may be where it comes from. */
static void
insert(struct damage_work *w, size_t at, struct bytes b)
{
	struct buf copy = { 0 };

	put_bytes(&copy, b);
	replace(w, at, 0, (struct bytes){ copy.at, copy.len });
	buf_free(&copy);
}

/* ---- numbers ---- */

static uint64_t
boundary_length(struct damage_work *w, uint64_t is)
{
	const uint64_t v[] = { 0,          1,          2,          is - 1,    is + 1,   2 * is,
		               is / 2,     0x7f,       0xff,       0x100,     4095,     4096,
		               4097,       0x7fff,     0xffff,     0x10000,   1u << 25, (1u << 25) + 1,
		               0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff };

	return v[below(w, COUNT(v))];
}

static uint64_t
boundary_offset(struct damage_work *w, uint64_t is)
{
	uint64_t size = w->m->facts->size, block = w->m->facts->block;
	const uint64_t v[] = { 0,
		               is + 1,
		               is - block,
		               is + block,
		               size,
		               size - 1,
		               size + 1,
		               size - block,
		               size / 2,
		               0x7fffffff,
		               0x80000000,
		               0xffffffff,
		               UINT64_C(1) << 32,
		               UINT64_C(1) << 62,
		               INT64_MAX,
		               UINT64_C(1) << 63,
		               UINT64_MAX - block + 1,
		               UINT64_MAX };

	return v[below(w, COUNT(v))];
}

static uint64_t
another_value(struct damage_work *w, const struct field *f, uint64_t is)
{
	switch (f->role) {
	case FIELD_LENGTH:
		return boundary_length(w, is);
	case FIELD_OFFSET:
		return boundary_offset(w, is);
	case FIELD_OPTION:
		return below(w, 4) == 0 ? boundary_length(w, is) : below(w, NBD_OPT_EXTENDED_HEADERS + 2);
	case FIELD_COMMAND:
		return below(w, 4) == 0 ? boundary_length(w, is) : below(w, NBD_CMD_RESIZE + 2);
	case FIELD_FLAGS:
		return is ^ UINT64_C(1) << below(w, below(w, 3) == 0 ? 8 * f->size : 6);
	case FIELD_COOKIE:
		return below(w, 2) == 0 ? random_next(&w->random) : boundary_length(w, is);
	default:
		return is ^ UINT64_C(1) << below(w, 8 * f->size);
	}
}

static uint64_t
read_number(const uint8_t *at, unsigned size)
{
	uint64_t v = 0;

	while (size-- > 0)
		v = v << 8 | *at++;
	return v;
}

static void
write_number(uint8_t *at, unsigned size, uint64_t v)
{
	while (size-- > 0) {
		at[size] = (uint8_t)v;
		v >>= 8;
	}
}

static void
change_field(struct damage_work *w)
{
	struct fields fs;
	const struct field *f;
	uint8_t *at;

	fields_of(&w->token[below(w, w->n_tokens)], &fs);
	if (fs.n == 0)
		return;
	f = &fs.f[below(w, fs.n)];
	/* Without its magic a message is none, and what stands behind is hardly looked at. */
	if (f->role == FIELD_MAGIC && below(w, 4) != 0)
		f = &fs.f[below(w, fs.n)];
	at = w->i->bytes.at + f->at;
	write_number(at, f->size, another_value(w, f, read_number(at, f->size)));
}

/* ---- bytes ---- */

static void
flip_bit(struct damage_work *w)
{
	uint64_t bit = below(w, 8 * w->i->bytes.len);

	if (w->i->bytes.len > 0)
		w->i->bytes.at[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

static struct bytes
random_bytes(struct damage_work *w, uint8_t room[RANDOM_BYTES])
{
	size_t n = 1 + below(w, RANDOM_BYTES);

	for (size_t i = 0; i < n; i++)
		room[i] = (uint8_t)random_next(&w->random);
	return (struct bytes){ room, n };
}

static void
insert_random(struct damage_work *w)
{
	uint8_t room[RANDOM_BYTES];
	struct bytes b = random_bytes(w, room);

	replace(w, below(w, w->i->bytes.len + 1), 0, b);
}

static void
overwrite_random(struct damage_work *w)
{
	uint8_t room[RANDOM_BYTES];
	struct bytes b = random_bytes(w, room);
	size_t at = below(w, w->i->bytes.len), left = w->i->bytes.len - at;

	replace(w, at, b.len < left ? b.len : left, b);
}

static void
delete_bytes(struct damage_work *w)
{
	size_t at = below(w, w->i->bytes.len), n = 1 + below(w, RANDOM_BYTES), left = w->i->bytes.len - at;

	replace(w, at, n < left ? n : left, (struct bytes){ NULL, 0 });
}

static void
truncate_bytes(struct damage_work *w)
{
	w->i->bytes.len = below(w, w->i->bytes.len + 1);
}

/* ---- messages ---- */

static void
duplicate_message(struct damage_work *w)
{
	unsigned i = (unsigned)below(w, w->n_tokens), to = (unsigned)below(w, w->n_tokens);

	if (w->n_tokens > 0)
		insert(w, w->token[to].at + w->token[to].len, bytes_of_token(w, i));
}

static void
delete_message(struct damage_work *w)
{
	const struct token *t = &w->token[below(w, w->n_tokens)];

	if (w->n_tokens > 0)
		replace(w, t->at, t->len, (struct bytes){ NULL, 0 });
}

static void
swap_messages(struct damage_work *w)
{
	unsigned i = (unsigned)below(w, w->n_tokens), k = (unsigned)below(w, w->n_tokens);
	unsigned first = i < k ? i : k, last = i < k ? k : i;
	struct buf b = { 0 };

	if (first == last)
		return;
	put_bytes(&b, bytes_of_token(w, last));
	for (unsigned t = first + 1; t < last; t++)
		put_bytes(&b, bytes_of_token(w, t));
	put_bytes(&b, bytes_of_token(w, first));
	memcpy(w->i->bytes.at + w->token[first].at, b.at, b.len);
	buf_free(&b);
}

/* The end of another session in place of ours, message by message. */
static void
splice(struct damage_work *w)
{
	const struct buf *other = &w->m->corpus[below(w, w->m->n_corpus)];
	struct token *theirs = calloc(MOST_TOKENS, sizeof(*theirs));
	unsigned n, from, to = (unsigned)below(w, w->n_tokens);
	size_t at = w->n_tokens > 0 ? w->token[to].at + w->token[to].len : 0;

	if (theirs == NULL)
		abort();
	n = tokenize((struct bytes){ other->at, other->len }, theirs);
	from = (unsigned)below(w, n);
	if (n > 0)
		replace(w, at, w->i->bytes.len - at,
		        (struct bytes){ other->at + theirs[from].at, other->len - theirs[from].at });
	free(theirs);
}

static void
insert_other_message(struct damage_work *w)
{
	const struct buf *other = &w->m->corpus[below(w, w->m->n_corpus)];
	struct token *theirs = calloc(MOST_TOKENS, sizeof(*theirs));
	unsigned n, from, to = (unsigned)below(w, w->n_tokens);

	if (theirs == NULL)
		abort();
	n = tokenize((struct bytes){ other->at, other->len }, theirs);
	from = (unsigned)below(w, n);
	if (n > 0 && w->n_tokens > 0)
		replace(w, w->token[to].at + w->token[to].len, 0,
		        (struct bytes){ other->at + theirs[from].at, theirs[from].len });
	free(theirs);
}

/* A copy of some messages as the data of one that is refused: who does not take it off answers what nobody has asked. */
static void
wrap_messages(struct damage_work *w)
{
	unsigned i = (unsigned)below(w, w->n_tokens), last = i + (unsigned)below(w, 3);
	const struct token *t = &w->token[i];
	struct buf inner = { 0 }, b = { 0 };

	while (i <= last && i < w->n_tokens)
		put_bytes(&inner, bytes_of_token(w, i++));
	if (t->kind == TOKEN_REQUEST && w->m->facts->writes)
		wire_put_request(&b, &(struct request){ .magic = NBD_REQUEST_MAGIC,
		                                        .type = NBD_CMD_WRITE,
		                                        .flags = (uint16_t)(below(w, 2) << below(w, 16)),
		                                        .cookie = random_next(&w->random),
		                                        .offset = below(w, 2) * w->m->facts->size,
		                                        .length = (uint32_t)inner.len,
		                                        .data = { inner.at, inner.len } });
	else if (t->kind == TOKEN_OPTION)
		wire_put_option(&b,
		                &(struct option){ NBD_OPTION_MAGIC,
		                                  (uint32_t)(below(w, 2) * 0x7f + below(w, NBD_OPT_EXTENDED_HEADERS)),
		                                  (uint32_t)inner.len,
		                                  { inner.at, inner.len } });
	insert(w, t->at, (struct bytes){ b.at, b.len });
	buf_free(&inner);
	buf_free(&b);
}

/* As often as they stand here. */
static void (*const kinds[])(struct damage_work *) = {
	change_field,   change_field,      change_field,         change_field,  flip_bit,      flip_bit, truncate_bytes,
	truncate_bytes, insert_random,     overwrite_random,     delete_bytes,  splice,        splice,   delete_message,
	swap_messages,  duplicate_message, insert_other_message, wrap_messages, wrap_messages,
};

/* ---- how it is sent ---- */

static void
choose_writes(struct damage_work *w)
{
	size_t len = w->i->bytes.len, at = 0;
	uint64_t step = 1 + below(w, 40);

	w->i->n_cuts = 0;
	while (w->i->n_cuts < MOST_WRITES) {
		at += 1 + below(w, step);
		if (at >= len)
			return;
		w->i->cut[w->i->n_cuts++] = (uint32_t)at;
	}
}

static void
choose_manner(struct damage_work *w)
{
	uint64_t k = below(w, 32);

	w->i->manner = k < 2 ? MANNER_STAY : k < 5 ? MANNER_LEAVE : MANNER_SHUT;
	if (below(w, 8) == 0)
		choose_writes(w);
}

void
disarm(const struct bytes_facts *f, struct input *i)
{
	struct bytes s = { i->bytes.at, i->bytes.len };
	struct token *tokens = calloc(MOST_TOKENS, sizeof(*tokens));
	bool elsewhere = false;
	struct request q;
	unsigned n;

	if (tokens == NULL)
		abort();
	n = tokenize(s, tokens);
	for (unsigned k = 0; k < n; k++) {
		const struct option *o = &tokens[k].option;
		struct bytes name = o->data;
		struct opt_go go;

		if (tokens[k].kind != TOKEN_OPTION || (o->option != NBD_OPT_GO && o->option != NBD_OPT_EXPORT_NAME))
			continue;
		if (o->option == NBD_OPT_GO) {
			wire_get_opt_go(wire_over(o->data), &go);
			name = go.name;
		}
		elsewhere |= !bytes_equal(name, f->name);
	}
	free(tokens);
	for (size_t at = 0; (!f->writes || elsewhere) && next_write_header(s, &at, &q);)
		write_number(i->bytes.at + at + 6, 2, NBD_CMD_READ);
}

void
mutator_start(struct mutator *m, const struct bytes_facts *f, const struct corpus *more, uint64_t seed)
{
	*m = (struct mutator){ .facts = f, .seed = seed, .n_corpus = session_count() + (unsigned)more->n };
	m->corpus = calloc(m->n_corpus, sizeof(*m->corpus));
	if (m->corpus == NULL)
		abort();
	for (unsigned i = 0; i < session_count(); i++)
		put_session(&m->corpus[i], f, i);
	for (size_t i = 0; i < more->n; i++)
		m->corpus[session_count() + i] = more->stream[i].data;
}

void
mutate(const struct mutator *m, uint64_t k, struct input *to)
{
	static struct damage_work w;
	uint64_t n, from;

	w.m = m;
	w.i = to;
	w.random = m->seed;
	w.random = random_next(&w.random) ^ k;
	random_next(&w.random);
	from = k <= m->n_corpus ? k - 1 : below(&w, m->n_corpus);
	input_free(to);
	to->run = k;
	put_bytes(&to->bytes, (struct bytes){ m->corpus[from].at, m->corpus[from].len });
	if (k > m->n_corpus) {
		for (n = 1; n < 6 && below(&w, 2) == 0;)
			n++;
		while (n-- > 0) {
			take_apart(&w);
			kinds[below(&w, COUNT(kinds))](&w);
		}
		choose_manner(&w);
	}
	disarm(m->facts, to);
}
