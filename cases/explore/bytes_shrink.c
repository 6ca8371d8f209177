/* A finding of mutated bytes is made small: connections first, then messages, then bytes. */
#include "cases/explore/bytes.h"

#include <stdlib.h>
#include <string.h>

enum {
	TRIES = 2000,        /* connections */
	TRIES_OF_HANGS = 60, /* of which each that hangs takes as long as we are patient */
	HANG_MS = 1000,      /* so long; what comes of it is tried with all patience */
};

struct shrinker {
	struct runner_state *r;
	struct inputs *s;
	const struct damage *like;
	unsigned tries;
	bool anew;
};

/* Takes the candidate where it does the same, and frees what is not taken. */
static bool
try_inputs(struct shrinker *k, struct inputs *candidate)
{
	struct damage d;
	bool same = k->tries > 0 && inputs_harm(k->r, candidate, k->like, k->anew, &d);

	k->tries -= candidate->n < k->tries ? (unsigned)candidate->n : k->tries;
	if (same) {
		struct inputs was = *k->s;

		*k->s = *candidate;
		*candidate = was;
	}
	inputs_free(candidate);
	return same;
}

static struct inputs
copy_inputs(const struct inputs *s)
{
	struct inputs c = { 0 };

	for (size_t i = 0; i < s->n; i++)
		inputs_add(&c, &s->at[i]);
	return c;
}

/* Halves first, then smaller parts; one stays. */
static void
drop_connections(struct shrinker *k)
{
	for (size_t part = k->s->n / 2; part > 0; part /= 2)
		for (size_t i = 0; i + part <= k->s->n && part < k->s->n;) {
			struct inputs c = copy_inputs(k->s);

			inputs_drop(&c, i, part);
			if (!try_inputs(k, &c))
				i += part;
		}
}

static void
plainest_manner(struct shrinker *k, size_t i)
{
	struct inputs c;

	if (k->s->at[i].n_cuts > 0) {
		c = copy_inputs(k->s);
		c.at[i].n_cuts = 0;
		try_inputs(k, &c);
	}
	if (k->s->at[i].manner != MANNER_SHUT) {
		c = copy_inputs(k->s);
		c.at[i].manner = MANNER_SHUT;
		try_inputs(k, &c);
	}
}

static bool
try_replaced(struct shrinker *k, size_t i, size_t at, size_t n, const void *by, size_t len)
{
	struct inputs c = copy_inputs(k->s);
	struct buf *is = &c.at[i].bytes, b = { 0 };

	put_bytes(&b, (struct bytes){ is->at, at });
	put_bytes(&b, (struct bytes){ by, len });
	put_bytes(&b, (struct bytes){ is->at + at + n, is->len - at - n });
	buf_free(is);
	*is = b;
	/* Where writes end is told by offsets; those behind move. */
	for (unsigned m = 0; m < c.at[i].n_cuts; m++)
		if (c.at[i].cut[m] >= at + n)
			c.at[i].cut[m] -= (uint32_t)(n - len);
	return try_inputs(k, &c);
}

static unsigned
tokens_of(const struct shrinker *k, size_t i, struct token *tokens)
{
	return tokenize((struct bytes){ k->s->at[i].bytes.at, k->s->at[i].bytes.len }, tokens);
}

/* From the last on, for what stands behind the harm is not needed; as often as one more can go. */
static void
drop_messages(struct shrinker *k, size_t i, struct token *tokens)
{
	bool less = true;

	while (less) {
		less = false;
		for (unsigned n = tokens_of(k, i, tokens); n > 0; n--)
			if (try_replaced(k, i, tokens[n - 1].at, tokens[n - 1].len, NULL, 0)) {
				less = true;
				tokens_of(k, i, tokens);
			}
	}
}

/* No data, or that of the shortest GO: no name, and no request for information. */
static void
plainest_options(struct shrinker *k, size_t i, struct token *tokens)
{
	static const uint8_t none[4], bare[10] = { 0, 0, 0, 6 };

	for (unsigned n = tokens_of(k, i, tokens); n > 0; n--) {
		const struct token *t = &tokens[n - 1];

		if (t->kind != TOKEN_OPTION || !t->whole || t->len == OPTION_HEADER_SIZE)
			continue;
		if (!try_replaced(k, i, t->at + 12, t->len - 12, none, sizeof(none)) && t->len > 12 + sizeof(bare))
			try_replaced(k, i, t->at + 12, t->len - 12, bare, sizeof(bare));
	}
}

static void
drop_bytes(struct shrinker *k, size_t i)
{
	for (size_t part = (k->s->at[i].bytes.len + 1) / 2; part > 0; part /= 2)
		for (size_t end = k->s->at[i].bytes.len; end > 0;) {
			size_t n = part < end ? part : end;

			try_replaced(k, i, end - n, n, NULL, 0);
			end -= n;
		}
}

static bool
are_zero(const uint8_t *at, size_t n)
{
	while (n > 0 && at[n - 1] == 0)
		n--;
	return n == 0;
}

static void
zero_bytes(struct shrinker *k, size_t i)
{
	static const uint8_t zeroes[512];

	for (size_t part = sizeof(zeroes); part > 0; part /= 8)
		for (size_t at = 0; at < k->s->at[i].bytes.len; at += part) {
			size_t left = k->s->at[i].bytes.len - at, n = part < left ? part : left;

			if (!are_zero(k->s->at[i].bytes.at + at, n))
				try_replaced(k, i, at, n, zeroes, n);
		}
}

static void
reduce(struct shrinker *k)
{
	struct token *tokens = calloc(MOST_TOKENS, sizeof(*tokens));

	if (tokens == NULL)
		abort();
	k->tries = k->like->harm == HARM_HANGS ? TRIES_OF_HANGS : TRIES;
	drop_connections(k);
	for (size_t i = k->s->n; i-- > 0;) {
		plainest_manner(k, i);
		drop_messages(k, i, tokens);
		plainest_options(k, i, tokens);
		drop_bytes(k, i);
		zero_bytes(k, i);
	}
	free(tokens);
}

bool
shrink(struct runner_state *r, struct inputs *s, const struct damage *d)
{
	struct shrinker k = { .r = r, .s = s, .like = d };
	struct inputs was = copy_inputs(s);
	struct damage again;
	bool same = false;

	/* What a server has kept from one try may harm in the next: then each is on a new one. */
	for (int anew = s->n > 1; anew < 2 && !same; anew++) {
		inputs_free(s);
		*s = copy_inputs(&was);
		k.anew = anew > 0;
		r->patience_ms = d->harm == HARM_HANGS ? HANG_MS : 0;
		reduce(&k);
		r->patience_ms = 0;
		same = inputs_harm(r, s, d, true, &again);
	}
	if (!same) {
		inputs_free(s);
		*s = copy_inputs(&was);
	}
	inputs_free(&was);
	return same;
}
