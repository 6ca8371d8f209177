/*
 * Several connections at once, each with several requests in flight over the same ranges (nbdspec server --explore). The
 * server may carry them out in any order (proto.md:316); that a WRITE is one act the text does not say, so each byte is looked
 * at by itself. Once all are answered each byte is what one of them makes of it, and where NBD_FLAG_CAN_MULTI_CONN is set
 * all connections read the same (proto.md:1126). Where it is not, each keeps to ranges of its own.
 */
#include "cases/explore/product.h"
#include "cases/explore/told.h"

#include "cases/server/transmission.h"
#include "harness/clock.h"
#include "harness/names.h"
#include "harness/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	MOST_CONNECTIONS = 4,
	MOST_GROUPS = 3,
	MOST_OF_ONE = 4, /* requests that one connection has in flight */
	MOST_ACTS = MOST_GROUPS * MOST_CONNECTIONS * MOST_OF_ONE,
	BLOCKS = 512,  /* of an area, at the most */
	SCRIPTS = 256, /* for each depth */
	TRIES = 3,
	STUCK_MOST = 4,
	HANGS_MOST = 24 /* those of the search as well */
};

static const char prefix[] = "connections:";

/* A request of a script; offset and length are blocks from the beginning of the area. */
struct act {
	uint8_t connection;
	bool waits; /* for all before it */
	uint16_t type, flags;
	uint32_t offset, length;
};

struct script {
	struct act act[MOST_ACTS];
	unsigned n;
};

struct script_finding {
	struct script shortest;
	struct product_breach breach;
};

struct explorer {
	struct test *t;
	const struct exploration *plan;
	struct exploration_pace *pace;
	unsigned shard;
	struct entered e;
	bool shared;          /* NBD_FLAG_CAN_MULTI_CONN */
	unsigned connections; /* that the server serves at once; no more than MOST_CONNECTIONS */
	struct link link[MOST_CONNECTIONS];
	unsigned n_links; /* of this script */
	bool traced, gone;
	bool fresh, always_fresh;   /* each try, each script is on a server that is started anew */
	struct script_finding once; /* that took what came before it; .shortest.n is 0 where there is none */
	unsigned n_stuck, hangs;
	struct script_finding *findings;
	unsigned n_findings;
	uint64_t random;
	unsigned seed; /* of what is written next */
	struct shadow shadow;
	struct item item[MOST_CONNECTIONS * MOST_OF_ONE];
	uint8_t whose[MOST_CONNECTIONS * MOST_OF_ONE];
	unsigned n_items;
	struct breaches breaches;
};

static unsigned
below(struct explorer *x, unsigned n)
{
	return (unsigned)(random_next(&x->random) % n);
}

/* ---- names ---- */

static const struct {
	const char *name;
	uint16_t type, flags, needs;
} kinds[] = {
	{ "READ", NBD_CMD_READ, 0, 0 },
	{ "WRITE", NBD_CMD_WRITE, 0, 0 },
	{ "WRITE+FUA", NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_FUA },
	{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, 0, NBD_FLAG_SEND_WRITE_ZEROES },
	{ "WRITE_ZEROES+NO_HOLE", NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, NBD_FLAG_SEND_WRITE_ZEROES },
	{ "TRIM", NBD_CMD_TRIM, 0, NBD_FLAG_SEND_TRIM },
	{ "FLUSH", NBD_CMD_FLUSH, 0, NBD_FLAG_SEND_FLUSH },
	{ "CACHE", NBD_CMD_CACHE, 0, NBD_FLAG_SEND_CACHE },
};

static const char *
act_name(const struct act *a)
{
	for (unsigned i = 0; i < COUNT(kinds); i++)
		if (kinds[i].type == a->type && kinds[i].flags == a->flags)
			return kinds[i].name;
	return "";
}

bool
is_script(const char *text)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* "connections:A.WRITE@0+8,B.READ@4+8;A.FLUSH" */
static char *
script_text(const struct script *s)
{
	char *text;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		abort();
	fputs(prefix, f);
	for (unsigned i = 0; i < s->n; i++) {
		const struct act *a = &s->act[i];

		fprintf(f, "%s%c.%s", i == 0 ? "" : a->waits ? ";" : ",", 'A' + a->connection, act_name(a));
		if (a->type != NBD_CMD_FLUSH)
			fprintf(f, "@%" PRIu32 "+%" PRIu32, a->offset, a->length);
	}
	fclose(f);
	return text;
}

static bool
parse_act(const char *text, size_t len, struct act *a)
{
	char word[64], letter, kind[32], *plus;
	unsigned offset = 0, length = 0;
	int end = 0;

	if (len == 0 || len >= sizeof(word))
		return false;
	memcpy(word, text, len);
	word[len] = '\0';
	if (sscanf(word, "%c.%31[A-Z_+]%n@%u+%u%n", &letter, kind, &end, &offset, &length, &end) < 2 ||
	    word[end] != '\0' || letter < 'A' || letter >= 'A' + MOST_CONNECTIONS)
		return false;
	plus = strchr(word, '@');
	for (unsigned i = 0; i < COUNT(kinds); i++)
		if (strcmp(kinds[i].name, kind) == 0 && (plus == NULL) == (kinds[i].type == NBD_CMD_FLUSH)) {
			a->connection = (uint8_t)(letter - 'A');
			a->type = kinds[i].type;
			a->flags = kinds[i].flags;
			a->offset = offset;
			a->length = length;
			return plus == NULL || (length > 0 && offset < BLOCKS && length <= BLOCKS - offset);
		}
	return false;
}

static bool
script_parse(const char *text, struct script *s, char error[256])
{
	bool waits = false;
	size_t len;

	s->n = 0;
	for (text += strlen(prefix);; text += len + 1) {
		len = strcspn(text, ",;");
		if (s->n == MOST_ACTS || !parse_act(text, len, &s->act[s->n])) {
			snprintf(error, 256,
			         "'%.*s': want CONNECTION.COMMAND@OFFSET+LENGTH in blocks, such as A.WRITE@0+8, and "
			         "no more than %d of them",
			         (int)len, text, MOST_ACTS);
			return false;
		}
		s->act[s->n++].waits = waits;
		waits = text[len] == ';';
		if (text[len] == '\0')
			return true;
	}
}

/* ---- where ---- */

static struct span
area_of(const struct explorer *x)
{
	struct span spans[3];
	unsigned n = spans_of(&x->e, spans);

	return spans[n > 1 ? 1 : 0];
}

/* Of one connection, or of all of them where they share it. */
static uint32_t
blocks_of(const struct explorer *x)
{
	uint64_t most = area_of(x).length / block_of(&x->e) / (x->shared ? 1 : MOST_CONNECTIONS);

	return most < BLOCKS ? (uint32_t)most : BLOCKS;
}

static struct span
span_of(const struct explorer *x, const struct act *a)
{
	uint64_t block = block_of(&x->e), stripe = x->shared ? 0 : a->connection * (uint64_t)blocks_of(x);

	if (a->type == NBD_CMD_FLUSH)
		return (struct span){ 0, 0 };
	return (struct span){ area_of(x).offset + (stripe + a->offset) * block, a->length * block };
}

/* ---- a script ---- */

static bool
is_offered(const struct explorer *x, unsigned kind)
{
	return (x->e.flags & kinds[kind].needs) == kinds[kind].needs;
}

/* Small ranges in a few blocks meet; and some are longer than what a server may do at once. */
static void
draw_range(struct explorer *x, struct act *a)
{
	uint32_t all = blocks_of(x), most = x->e.maximum / block_of(&x->e);
	uint32_t few = all < 16 ? all : 16;

	if (below(x, 8) == 0)
		few = all;
	a->offset = below(x, few);
	a->length = 1 + below(x, few - a->offset);
	if (a->length > most)
		a->length = most;
}

static void
draw(struct explorer *x, struct script *s)
{
	unsigned groups = 1 + below(x, MOST_GROUPS), connections = 2 + below(x, x->connections - 1);

	s->n = 0;
	for (unsigned g = 0; g < groups; g++)
		for (unsigned c = 0, first = s->n; c < connections; c++)
			for (unsigned n = below(x, MOST_OF_ONE + 1); n > 0; n--) {
				struct act *a = &s->act[s->n++];
				unsigned kind = below(x, COUNT(kinds));

				while (!is_offered(x, kind))
					kind = below(x, COUNT(kinds));
				*a = (struct act){ .connection = (uint8_t)c,
					           .waits = s->n - 1 == first,
					           .type = kinds[kind].type,
					           .flags = kinds[kind].flags };
				if (a->type != NBD_CMD_FLUSH)
					draw_range(x, a);
			}
}

static unsigned
connections_in(const struct script *s)
{
	unsigned n = 2;

	for (unsigned i = 0; i < s->n; i++)
		if (s->act[i].connection >= n)
			n = s->act[i].connection + 1u;
	return n;
}

/* All that they touch of the area that connection c has, and a block around it; whole blocks. */
static struct span
touched(const struct explorer *x, const struct script *s, unsigned c)
{
	struct act all = { .connection = (uint8_t)c, .type = NBD_CMD_READ, .length = blocks_of(x) };
	struct span area = span_of(x, &all);
	uint64_t from = UINT64_MAX, to = 0, block = block_of(&x->e), end = area.offset + area.length;

	for (unsigned i = 0; i < s->n; i++) {
		struct span span = span_of(x, &s->act[i]);

		if (span.length == 0 || (!x->shared && s->act[i].connection != c))
			continue;
		from = span.offset < from ? span.offset : from;
		to = span.offset + span.length > to ? span.offset + span.length : to;
	}
	if (to == 0)
		return (struct span){ area.offset, 0 };
	from = from > area.offset ? from - block : from;
	to = to < end ? to + block : to;
	return (struct span){ from, to - from };
}

/* ---- one group of requests ---- */

static void
free_items(struct explorer *x)
{
	for (unsigned i = 0; i < x->n_items; i++)
		item_free(&x->item[i]);
	x->n_items = 0;
}

static struct item
item_for(struct explorer *x, uint16_t type, uint16_t flags, struct span span)
{
	struct item i = { .q = { .magic = NBD_REQUEST_MAGIC,
		                 .type = type,
		                 .flags = flags,
		                 .offset = span.offset,
		                 .length = (uint32_t)span.length } };

	i.law = law_of(&i.q, &x->e);
	if (type != NBD_CMD_WRITE)
		return i;
	i.payload = malloc(span.length);
	if (i.payload == NULL)
		abort();
	fill_pattern(i.payload, span.length, span.offset, x->seed++);
	return i;
}

static void
not_answered(struct explorer *x, struct link *l, enum answers_end end)
{
	if (end == ANSWERS_SILENT || end == ANSWERS_CLOSED)
		add_product_breach(&x->breaches, -1, BREACH_STREAM,
		                   end == ANSWERS_SILENT ? R(each_request_one_reply) : R(transmission_no_disconnect),
		                   "a reply to each request on each connection", "%s", link_end_text(l->end));
	x->n_stuck += end == ANSWERS_SILENT;
	x->hangs += end == ANSWERS_SILENT;
}

/* False where not all were answered. */
static bool
do_items(struct explorer *x)
{
	unsigned first[MOST_CONNECTIONS], n[MOST_CONNECTIONS] = { 0 };
	bool all = true;

	for (unsigned i = x->n_items; i-- > 0;) {
		first[x->whose[i]] = i;
		n[x->whose[i]]++;
	}
	for (unsigned c = 0; c < x->n_links; c++)
		if (n[c] > 0)
			send_flight(&x->link[c], x->item + first[c], n[c]);
	for (unsigned c = 0; c < x->n_links; c++) {
		enum answers_end end =
			n[c] > 0 ? await_flight(&x->link[c], &x->e, x->item + first[c], n[c], &x->breaches)
				 : ANSWERS_ALL;

		not_answered(x, &x->link[c], end);
		all &= end == ANSWERS_ALL;
	}
	return all;
}

/* ---- what is read ---- */

static void
contents_breach(struct explorer *x, unsigned c, enum requirement_id r, uint64_t at, const struct item *read)
{
	add_product_breach(&x->breaches, -1, BREACH_CONTENTS, r,
	                   "what some order of the requests leaves, the same on all connections",
	                   "connection %c reads 0x%02x at byte %" PRIu64 " of the export", 'A' + c,
	                   read->data[at - read->q.offset], at);
}

static enum requirement_id
of_own_write(uint16_t type)
{
	return type == NBD_CMD_WRITE  ? R(write_stored)
	       : type == NBD_CMD_TRIM ? R(trim_keeps_outside)
	                              : R(zeroes_stored);
}

/* Who wrote there, or near it, is another connection, or this one. */
static enum requirement_id
who_is_missed(const struct explorer *x, unsigned c, uint64_t at)
{
	enum requirement_id own = REQUIREMENT_NONE, others = REQUIREMENT_NONE;

	for (unsigned i = 0; i < x->n_items; i++) {
		const struct request *q = &x->item[i].q;
		bool over = at >= q->offset && at - q->offset < q->length;

		if (q->type == NBD_CMD_FLUSH && x->whose[i] != c && others == REQUIREMENT_NONE)
			others = R(multi_conn_flush_visible);
		else if (is_write(q->type) && x->whose[i] == c)
			own = own == REQUIREMENT_NONE || over ? of_own_write(q->type) : own;
		else if (is_write(q->type))
			others = over && (q->flags & NBD_CMD_FLAG_FUA) != 0 ? R(multi_conn_fua_visible)
			                                                    : R(multi_conn_shared_cache);
	}
	if (others != REQUIREMENT_NONE && x->shared)
		return others;
	if (own != REQUIREMENT_NONE)
		return own;
	/* The first one has painted it. */
	return c > 0 && x->shared ? R(multi_conn_shared_cache) : R(read_returns_data);
}

static void
judge_reads(struct explorer *x)
{
	uint64_t at;

	for (unsigned i = 0; i < x->n_items; i++)
		if (x->item[i].q.type == NBD_CMD_READ && x->item[i].error == NBD_SUCCESS &&
		    !shadow_allows(&x->shadow, &x->item[i], x->item, x->n_items, &at))
			contents_breach(x, x->whose[i], who_is_missed(x, x->whose[i], at), at, &x->item[i]);
}

/* What the first one finds holds for the others. */
static bool
look(struct explorer *x, const struct script *s)
{
	unsigned n_items = x->n_items;
	uint64_t at;

	for (unsigned c = 0; c < x->n_links; c++) {
		struct span span = touched(x, s, c);
		bool first = c == 0 || !x->shared;
		enum answers_end end;

		while (span.length > 0) {
			uint64_t piece =
				span.length < x->e.maximum ? span.length : x->e.maximum / x->e.minimum * x->e.minimum;
			struct item read = item_for(x, NBD_CMD_READ, 0, (struct span){ span.offset, piece });

			end = exchange_items(&x->link[c], &x->e, &read, 1, &x->breaches);
			not_answered(x, &x->link[c], end);
			if (end == ANSWERS_ALL && read.error == NBD_SUCCESS &&
			    !(first ? shadow_settles(&x->shadow, &read, x->item, n_items, &at)
			            : shadow_allows(&x->shadow, &read, NULL, 0, &at)))
				contents_breach(x, c, who_is_missed(x, c, at), at, &read);
			item_free(&read);
			if (end != ANSWERS_ALL)
				return false;
			span = (struct span){ span.offset + piece, span.length - piece };
		}
	}
	return true;
}

/* ---- one script ---- */

static void
hang_up(struct explorer *x)
{
	for (unsigned c = 0; c < x->n_links; c++)
		hang_up_link(&x->link[c]);
	x->n_links = 0;
}

/* The server anew, where that can be had: it may be dead, or still busy with what it did not answer. */
static void
renew(struct explorer *x)
{
	char error[512];

	for (unsigned c = 0; c < MOST_CONNECTIONS; c++)
		link_close(&x->link[c]);
	x->n_links = 0;
	x->gone = !can_restart_server(x->t);
	if (!x->gone && !restart_server(x->t, error))
		harness_error(x->t, "the server could not be started again: %s", error);
}

static bool
come_in(struct explorer *x, unsigned n)
{
	struct entered e;

	for (x->n_links = 0; x->n_links < n; x->n_links++) {
		x->link[x->n_links].traced = x->traced;
		if (enter_link(&x->link[x->n_links], x->t, MODE_SIMPLE, &e) && e.there)
			continue;
		add_product_breach(&x->breaches, -1, BREACH_STREAM, R(transmission_no_disconnect),
		                   "as many connections as before", "connection %c is not served", 'A' + x->n_links);
		x->n_links++;
		return false;
	}
	return true;
}

/* What stands there is known, and was written by whoever has it. */
static bool
paint(struct explorer *x, const struct script *s)
{
	for (unsigned c = 0; c < x->n_links; c++) {
		struct span span = touched(x, s, c);

		while (span.length > 0 && (c == 0 || !x->shared)) {
			uint64_t piece =
				span.length < x->e.maximum ? span.length : x->e.maximum / x->e.minimum * x->e.minimum;
			uint64_t at;
			struct item written = item_for(x, NBD_CMD_WRITE, 0, (struct span){ span.offset, piece });
			struct item known = { .q = written.q, .data = written.payload };
			enum answers_end end = exchange_items(&x->link[c], &x->e, &written, 1, &x->breaches);

			not_answered(x, &x->link[c], end);
			if (end == ANSWERS_ALL && written.error == NBD_SUCCESS)
				shadow_settles(&x->shadow, &known, &written, 1, &at);
			item_free(&written);
			if (end != ANSWERS_ALL || x->breaches.n > 0)
				return false;
			span = (struct span){ span.offset + piece, span.length - piece };
		}
	}
	return true;
}

static unsigned
group_end(const struct script *s, unsigned from)
{
	unsigned to = from + 1;

	while (to < s->n && !s->act[to].waits)
		to++;
	return to;
}

/* In the order of their connections; those of one stay in order. */
static void
take_group(struct explorer *x, const struct script *s, unsigned from, unsigned to)
{
	free_items(x);
	for (unsigned c = 0; c < x->n_links; c++)
		for (unsigned i = from; i < to; i++)
			if (s->act[i].connection == c && x->n_items < COUNT(x->item)) {
				x->whose[x->n_items] = (uint8_t)c;
				x->item[x->n_items++] =
					item_for(x, s->act[i].type, s->act[i].flags, span_of(x, &s->act[i]));
			}
}

static bool
do_groups(struct explorer *x, const struct script *s)
{
	for (unsigned from = 0, to; from < s->n; from = to) {
		to = group_end(s, from);
		take_group(x, s, from, to);
		if (!do_items(x))
			return false;
		judge_reads(x);
		if (!look(x, s) || x->breaches.n > 0)
			return false;
	}
	return true;
}

static bool
is_in_step(const struct breaches *b)
{
	for (unsigned i = 0; i < b->n; i++)
		if (b->b[i].kind == BREACH_STREAM)
			return false;
	return true;
}

/* On connections of its own, over contents that are written anew. True where nothing is wrong with it. */
static bool
is_fine(struct explorer *x, const struct script *s)
{
	if (x->fresh || x->always_fresh)
		renew(x);
	x->breaches.n = 0;
	shadow_forget_all(&x->shadow);
	free_items(x);
	if (come_in(x, connections_in(s)) && paint(x, s))
		do_groups(x, s);
	if (is_in_step(&x->breaches))
		hang_up(x);
	else
		renew(x);
	free_items(x);
	return x->breaches.n == 0;
}

/* ---- findings ---- */

static bool
is_same(const struct product_breach *a, const struct product_breach *b)
{
	return a->kind == b->kind && (a->kind == BREACH_CONTENTS || a->broken[0] == b->broken[0]);
}

static bool
breaks_so(struct explorer *x, const struct script *s, struct product_breach *b)
{
	if (x->gone || x->hangs >= HANGS_MOST || is_fine(x, s))
		return false;
	for (unsigned i = 0; i < x->breaches.n; i++)
		if (is_same(&x->breaches.b[i], b)) {
			*b = x->breaches.b[i];
			return true;
		}
	return false;
}

/* It may be a matter of who comes first. */
static bool
breaks_some_time(struct explorer *x, const struct script *s, struct product_breach *b)
{
	for (int i = 0; i < TRIES; i++)
		if (breaks_so(x, s, b))
			return true;
	return false;
}

static bool
try_without(struct explorer *x, struct script *s, unsigned from, unsigned n, struct product_breach *b)
{
	struct script less = *s;

	if (n >= s->n)
		return false;
	if (from + n < s->n)
		less.act[from + n].waits |= s->act[from].waits;
	memmove(&less.act[from], &less.act[from + n], (s->n - from - n) * sizeof(*less.act));
	less.n -= n;
	if (!breaks_some_time(x, &less, b))
		return false;
	*s = less;
	return true;
}

static void
try_act(struct explorer *x, struct script *s, unsigned i, struct act plain, struct product_breach *b)
{
	struct script other = *s;

	other.act[i] = plain;
	if (memcmp(&other, s, sizeof(other)) != 0 && breaks_some_time(x, &other, b))
		*s = other;
}

/* Plainer commands, of one block, at the beginning; by the first connections. A READ changes nothing. */
static void
simplify(struct explorer *x, struct script *s, unsigned i, struct product_breach *b)
{
	struct act a = s->act[i];

	a.flags = 0;
	try_act(x, s, i, a, b);
	a = s->act[i];
	if (a.type != NBD_CMD_FLUSH)
		a.type = NBD_CMD_READ;
	try_act(x, s, i, a, b);
	a = s->act[i];
	if (is_write(a.type))
		a.type = NBD_CMD_WRITE;
	try_act(x, s, i, a, b);
	a = s->act[i];
	if (a.type != NBD_CMD_FLUSH)
		a.length = 1;
	try_act(x, s, i, a, b);
	a = s->act[i];
	a.offset = 0;
	try_act(x, s, i, a, b);
	for (uint8_t c = 0; c < s->act[i].connection; c++) {
		a = s->act[i];
		a.connection = c;
		try_act(x, s, i, a, b);
	}
}

static void
bring_down(struct explorer *x, struct script *s, struct product_breach *b)
{
	for (unsigned part = s->n / 2; part > 0; part /= 2)
		for (unsigned i = 0; i < s->n;)
			if (i + part > s->n || !try_without(x, s, i, part, b))
				i += part;
	for (unsigned i = 0; i < s->n; i++)
		simplify(x, s, i, b);
	s->act[0].waits = true;
}

static void
show(struct explorer *x, const struct script *s, struct product_breach *b, const char *text)
{
	char *options, *again;

	x->traced = true;
	if (!breaks_some_time(x, s, b))
		note(x->t, "it was broken before, and not again");
	x->traced = false;
	if (asprintf(&options, "--case explore/connections --explore-sequence '%s'", text) < 0)
		abort();
	again = exploration_again(x->t, options);
	broken_finding(x->t, b->broken, b->expected, b->got, again);
}

static void
report(struct explorer *x, const struct script *s, struct product_breach *b)
{
	char *text = script_text(s);

	if (is_to_be_told(x->t, &x->plan->counts->connections.told, text, b->broken[0]))
		POINT(x->t, "%s", text)
			show(x, s, b, text);
	free(text);
}

/* One that has the same commands has broken the same; where what was written before cannot be read, all have. */
static bool
explains(const struct script_finding *f, const struct script *s, const struct product_breach *b)
{
	bool all = is_same(&f->breach, b), one;

	if (all && b->kind == BREACH_CONTENTS && f->shortest.n == 1 && f->shortest.act[0].type == NBD_CMD_READ)
		return true;
	for (unsigned i = 0; i < f->shortest.n && all; i++, all = one) {
		one = false;
		for (unsigned k = 0; k < s->n; k++)
			one |= s->act[k].type == f->shortest.act[i].type &&
			       (s->act[k].flags & f->shortest.act[i].flags) == f->shortest.act[i].flags;
	}
	return all;
}

static bool
is_explained(const struct explorer *x, const struct script *s, const struct product_breach *b)
{
	for (unsigned i = 0; i < x->n_findings; i++)
		if (explains(&x->findings[i], s, b))
			return true;
	return false;
}

static void
take_breach(struct explorer *x, const struct script *s, const struct product_breach *b)
{
	struct script_finding f = { *s, *b };
	unsigned stuck = x->n_stuck;
	bool is_new;

	x->fresh = can_restart_server(x->t);
	if (breaks_some_time(x, s, &f.breach)) {
		bring_down(x, &f.shortest, &f.breach);
	} else if (x->fresh) {
		/* From now on none has anything before it; perhaps another breaks the same by itself. */
		x->once = x->once.shortest.n == 0 ? f : x->once;
		x->always_fresh = true;
		x->fresh = false;
		return;
	}
	is_new = !is_explained(x, &f.shortest, &f.breach);
	x->findings = reallocarray(x->findings, x->n_findings + 1, sizeof(*x->findings));
	if (x->findings == NULL)
		abort();
	x->findings[x->n_findings++] = f;
	if (is_new)
		report(x, &f.shortest, &f.breach);
	x->fresh = false;
	/* What hung meanwhile is no news. */
	x->n_stuck = stuck;
}

static void
found(struct explorer *x, const struct script *s)
{
	struct breaches all = x->breaches;

	for (unsigned i = 0; i < all.n; i++) {
		if (is_explained(x, s, &all.b[i]))
			continue;
		if (is_enough_told(&x->plan->counts->connections.told))
			x->plan->counts->connections.told.untold++;
		else
			take_breach(x, s, &all.b[i]);
	}
}

/* ---- all of them ---- */

static void
explore_script(struct explorer *x, const struct script *s)
{
	struct exploration_counts *c = x->plan->counts;

	if (x->gone || x->n_stuck >= STUCK_MOST || x->hangs >= HANGS_MOST) {
		c->connections.left++;
		return;
	}
	c->connections.done++;
	c->connections.requests += s->n;
	if (is_fine(x, s))
		return;
	c->connections.broken++;
	found(x, s);
}

static void
explore_scripts(struct explorer *x)
{
	unsigned n = SCRIPTS * (unsigned)(x->plan->depth + 1);
	struct script s;

	x->pace = exploration_pace(x->t, "scripts", n);
	for (unsigned i = 0; i < n; i++) {
		/* Each is the same among any others. */
		x->random = case_seed(x->t) * UINT64_C(1000003) + i;
		draw(x, &s);
		if (i % x->plan->shards != x->shard)
			continue;
		if (s.n > 0)
			explore_script(x, &s);
		x->pace->done++;
	}
	if (x->once.shortest.n > 0 && x->n_findings == 0)
		report(x, &x->once.shortest, &x->once.breach);
}

static void
explore_sequence(struct explorer *x, const char *text)
{
	struct script s;
	char error[256];

	if (!script_parse(text, &s, error))
		harness_error(x->t, "--explore-sequence %s", error);
	for (unsigned i = 0; i < s.n; i++)
		if (s.act[i].connection >= x->connections || s.act[i].offset + s.act[i].length > blocks_of(x))
			skip(x->t, "several connections", "this server, or its export, has no room for %c.%s",
			     'A' + s.act[i].connection, act_name(&s.act[i]));
	x->plan->counts->connections.done++;
	x->plan->counts->connections.requests += s.n;
	x->fresh = can_restart_server(x->t);
	for (int i = 0; i < TRIES; i++)
		if (!is_fine(x, &s)) {
			struct product_breach b = x->breaches.b[0];

			x->plan->counts->connections.broken++;
			report(x, &s, &b);
			return;
		}
}

static void
tell_counts(const struct explorer *x, uint64_t took_us)
{
	const struct exploration_counts *c = x->plan->counts;
	size_t size;
	char *text;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		abort();
	fprintf(f,
	        "%" PRIu64 " scripts of %" PRIu64 " requests over up to %u connections, %s, in %.1f s: %" PRIu64
	        " deviate",
	        c->connections.done, c->connections.requests, x->connections,
	        x->shared ? "which share all ranges" : "each with ranges of its own for want of CAN_MULTI_CONN",
	        (double)took_us / 1e6, c->connections.broken);
	if (c->connections.left > 0)
		fprintf(f, "; %" PRIu64 " not done, for the server is gone, or hangs each time", c->connections.left);
	put_untold(f, &c->connections.told);
	fclose(f);
	sum_up(x->t, c->connections.told.untold == 0 && c->connections.left == 0, text);
	free(text);
}

/* How many it serves at once; each that it does not serve costs a wait. */
static void
learn(struct explorer *x)
{
	struct session *first;

	need_connections(x->t);
	open_fixed_newstyle(x->t);
	first = x->t->s;
	if (!open_beside(x->t))
		skip(x->t, "several connections", "the server serves one client at a time");
	disconnect(x->t);
	use(x->t, first);
	disconnect(x->t);
}

static void
count_connections(struct explorer *x)
{
	struct entered e;

	while (x->n_links < MOST_CONNECTIONS && enter_link(&x->link[x->n_links], x->t, MODE_SIMPLE, &e) && e.there) {
		x->e = e;
		x->n_links++;
	}
	if (x->n_links < MOST_CONNECTIONS)
		link_close(&x->link[x->n_links]);
	x->connections = x->n_links;
	hang_up(x);
}

CASE_EXPLORE(explore, connections,
             "Requests of several connections over the same ranges are all answered, and leave what some order of them "
             "leaves, which all connections read alike where NBD_FLAG_CAN_MULTI_CONN is set",
             R(each_request_one_reply), R(transmission_no_disconnect), R(read_returns_data), R(write_stored),
             R(zeroes_stored), R(trim_keeps_outside), R(multi_conn_shared_cache), R(multi_conn_flush_visible),
             R(multi_conn_fua_visible))
{
	static struct explorer x;
	uint64_t from = now_us();

	x.t = t;
	x.plan = exploration_of(t, &x.shard);
	for (unsigned c = 0; c < MOST_CONNECTIONS; c++)
		x.link[c].fd = -1;
	if (x.plan->sequence == NULL ? x.plan->depth < 0 : !is_script(x.plan->sequence) || x.shard > 0)
		return;
	learn(&x);
	count_connections(&x);
	if (x.connections < 2)
		skip(t, "several connections", "the server lets %u in by NBD_OPT_GO", x.connections);
	if (!may_write(t) || (x.e.flags & NBD_FLAG_READ_ONLY) != 0)
		skip(t, "a writable export", "it is read-only, or not ours (--destructive)");
	if (x.e.size < 8 * (uint64_t)block_of(&x.e))
		skip(t, "room in the export", "it has %" PRIu64 " bytes", x.e.size);
	x.shared = (x.e.flags & NBD_FLAG_CAN_MULTI_CONN) != 0;
	x.seed = 1 + (unsigned)case_seed(t);
	shadow_start(&x.shadow, &x.e);
	exploration_begins(t);
	if (x.plan->sequence != NULL)
		explore_sequence(&x, x.plan->sequence);
	else
		explore_scripts(&x);
	if (x.plan->sequence != NULL || ++x.plan->counts->connections.finished == x.plan->shards)
		tell_counts(&x, now_us() - from);
	for (unsigned c = 0; c < MOST_CONNECTIONS; c++)
		link_free(&x.link[c]);
	shadow_free(&x.shadow);
}
