/* Byte streams of clients: taken apart, named, and as text. */
#include "cases/explore/bytes.h"

#include "harness/names.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MOST = 300 };

static const char *const manners[MANNERS] = { "", "stay:", "leave:" };

/* ---- memory ---- */

void
input_free(struct input *i)
{
	buf_free(&i->bytes);
	*i = (struct input){ 0 };
}

void
input_copy(struct input *to, const struct input *from)
{
	*to = *from;
	to->bytes = (struct buf){ 0 };
	if (from->bytes.len > 0)
		buf_put(&to->bytes, from->bytes.at, from->bytes.len);
}

void
inputs_free(struct inputs *s)
{
	inputs_drop(s, 0, s->n);
	free(s->at);
	*s = (struct inputs){ 0 };
}

void
inputs_add(struct inputs *s, const struct input *i)
{
	s->at = reallocarray(s->at, s->n + 1, sizeof(*s->at));
	if (s->at == NULL)
		abort();
	input_copy(&s->at[s->n++], i);
}

void
inputs_drop(struct inputs *s, size_t at, size_t n)
{
	for (size_t i = at; i < at + n; i++)
		input_free(&s->at[i]);
	if (n > 0)
		memmove(s->at + at, s->at + at + n, (s->n - at - n) * sizeof(*s->at));
	s->n -= n;
}

/* ---- taken apart ---- */

static const uint8_t option_magic[8] = "IHAVEOPT", request_magic[4] = { 0x25, 0x60, 0x95, 0x13 };

/* A part of it may stand at the end of the stream. */
static bool
begins_with(struct bytes s, size_t at, const uint8_t *magic, size_t len)
{
	size_t left = s.len - at;

	return left > 0 && memcmp(s.at + at, magic, left < len ? left : len) == 0;
}

static void
take_option(struct bytes rest, struct token *t)
{
	t->kind = TOKEN_OPTION;
	t->headed = rest.len >= OPTION_HEADER_SIZE;
	t->len = rest.len;
	if (!t->headed)
		return;
	wire_get_option(wire_over(rest), &t->option);
	t->whole = t->option.length <= rest.len - OPTION_HEADER_SIZE;
	t->len = t->whole ? OPTION_HEADER_SIZE + t->option.length : rest.len;
	t->option.data = (struct bytes){ rest.at + OPTION_HEADER_SIZE, t->len - OPTION_HEADER_SIZE };
}

static void
take_request(struct bytes rest, struct token *t)
{
	size_t payload;

	t->kind = TOKEN_REQUEST;
	t->headed = rest.len >= REQUEST_SIZE;
	t->len = rest.len;
	if (!t->headed)
		return;
	wire_get_request(wire(rest.at, REQUEST_SIZE), &t->request);
	payload = t->request.type == NBD_CMD_WRITE ? t->request.length : 0;
	t->whole = payload <= rest.len - REQUEST_SIZE;
	t->len = t->whole ? REQUEST_SIZE + payload : rest.len;
}

static size_t
raw_length(struct bytes s, size_t at)
{
	size_t n = 1;

	while (at + n < s.len && !begins_with(s, at + n, option_magic, 8) && !begins_with(s, at + n, request_magic, 4))
		n++;
	return n;
}

unsigned
tokenize(struct bytes s, struct token *tokens)
{
	unsigned n = 0;

	for (size_t at = 0; at < s.len; at += tokens[n++].len) {
		struct bytes rest = { s.at + at, s.len - at };
		struct token *t = &tokens[n];

		*t = (struct token){ .kind = TOKEN_RAW, .at = at };
		if (n == MOST_TOKENS - 1)
			t->len = rest.len;
		else if (at == 0) {
			t->kind = TOKEN_FLAGS;
			t->len = rest.len < CLIENT_FLAGS_SIZE ? rest.len : CLIENT_FLAGS_SIZE;
			t->whole = t->headed = t->len == CLIENT_FLAGS_SIZE;
		} else if (begins_with(s, at, option_magic, 8))
			take_option(rest, t);
		else if (begins_with(s, at, request_magic, 4))
			take_request(rest, t);
		else
			t->len = raw_length(s, at);
	}
	return n;
}

bool
next_write_header(struct bytes s, size_t *at, struct request *q)
{
	for (; *at + REQUEST_SIZE <= s.len; ++*at) {
		const uint8_t *found = memmem(s.at + *at, s.len - *at, request_magic, sizeof(request_magic));

		if (found == NULL || (size_t)(found - s.at) + REQUEST_SIZE > s.len)
			return false;
		*at = (size_t)(found - s.at);
		wire_get_request(wire(found, REQUEST_SIZE), q);
		if (is_write(q->type) || q->type == NBD_CMD_RESIZE)
			return true;
	}
	return false;
}

/* ---- names ---- */

/* Without the prefix that all of its kind have. */
static void
put_short(FILE *f, enum name_kind kind, uint64_t value, const char *prefix)
{
	const char *name = name_of(kind, value);

	if (name != NULL)
		fputs(strncmp(name, prefix, strlen(prefix)) == 0 ? name + strlen(prefix) : name, f);
	else
		fprintf(f, "0x%" PRIx64, value);
}

static void
put_token(FILE *f, const struct token *t)
{
	char flags[NAME_MAX_TEXT];

	if (t->kind == TOKEN_OPTION && t->headed) {
		put_short(f, NAME_OPTION, t->option.option, "NBD_OPT_");
	} else if (t->kind == TOKEN_REQUEST && t->headed) {
		put_short(f, NAME_COMMAND, t->request.type, "NBD_CMD_");
		if (t->request.flags != 0)
			fprintf(f, "+%s", name_flags(NAME_COMMAND_FLAG, t->request.flags, flags));
	} else if (t->kind != TOKEN_FLAGS)
		fprintf(f, "%s(%zu)", t->kind == TOKEN_RAW ? "raw" : "half", t->len);
	else
		fputs(t->whole ? "flags" : "half-flags", f);
	if (t->headed && !t->whole)
		fputs(":cut", f);
}

static struct token *
tokens_of(const struct input *i, unsigned *n)
{
	struct token *tokens = calloc(MOST_TOKENS, sizeof(*tokens));

	if (tokens == NULL)
		abort();
	*n = tokenize((struct bytes){ i->bytes.at, i->bytes.len }, tokens);
	return tokens;
}

static void
put_input_name(FILE *f, const struct input *i)
{
	unsigned n, from;
	struct token *tokens = tokens_of(i, &n);

	/* The flags go without saying where something follows them. */
	from = n > 1 && tokens[0].whole;
	fputs(manners[i->manner], f);
	for (unsigned k = from; k < n; k++) {
		if (k > from)
			fputc(',', f);
		put_token(f, &tokens[k]);
	}
	if (n == 0)
		fputs("nothing", f);
	free(tokens);
}

static FILE *
open_text(char **text, size_t *size)
{
	FILE *f = open_memstream(text, size);

	if (f == NULL)
		abort();
	return f;
}

char *
inputs_name(const struct inputs *s)
{
	char *text;
	size_t size;
	FILE *f = open_text(&text, &size);

	for (size_t i = 0; i < s->n; i++) {
		fputs(i > 0 ? "; " : "", f);
		put_input_name(f, &s->at[i]);
	}
	fclose(f);
	if (size > NAME_MOST)
		strcpy(text + NAME_MOST - 3, "…");
	return text;
}

/* By what is seen first: whichever option was the way in, and however long what is no message. */
static bool
alike(const struct token *a, const struct token *b)
{
	uint32_t in[2] = { a->option.option, b->option.option };

	for (int i = 0; i < 2; i++)
		in[i] = in[i] == NBD_OPT_EXPORT_NAME ? NBD_OPT_GO : in[i];
	return a->kind == b->kind && a->headed == b->headed && a->whole == b->whole && in[0] == in[1] &&
	       a->request.type == b->request.type && (a->request.flags & ~b->request.flags) == 0;
}

bool
inputs_contain(const struct inputs *b, const struct inputs *a)
{
	unsigned n_a, n_b, k = 1;
	struct token *in_a, *in_b;

	if (a->n != 1 || b->n == 0)
		return false;
	in_a = tokens_of(&a->at[0], &n_a);
	in_b = tokens_of(&b->at[b->n - 1], &n_b);
	for (unsigned i = 1; i < n_b && k < n_a; i++)
		k += alike(&in_a[k], &in_b[i]);
	free(in_a);
	free(in_b);
	return k >= n_a;
}

/* ---- as text ---- */

static bool
is_cut(const struct input *i, size_t at)
{
	for (unsigned k = 0; k < i->n_cuts; k++)
		if (i->cut[k] == at)
			return true;
	return false;
}

/* A blank between messages, and behind the headers of those with data. */
static bool
is_border(const struct token *tokens, unsigned n, size_t at)
{
	for (unsigned i = 0; i < n; i++) {
		size_t head = tokens[i].kind == TOKEN_OPTION ? OPTION_HEADER_SIZE : REQUEST_SIZE;

		if (at == tokens[i].at || (tokens[i].headed && at == tokens[i].at + head))
			return true;
	}
	return false;
}

char *
inputs_text(const struct inputs *s)
{
	char *text;
	size_t size;
	FILE *f = open_text(&text, &size);

	for (size_t i = 0; i < s->n; i++) {
		const struct input *in = &s->at[i];
		unsigned n;
		struct token *tokens = tokens_of(in, &n);

		fprintf(f, "%s%s", i > 0 ? "; " : "", manners[in->manner]);
		for (size_t k = 0; k < in->bytes.len; k++)
			fprintf(f, "%s%02x",
			        k == 0                    ? ""
			        : is_cut(in, k)           ? ","
			        : is_border(tokens, n, k) ? " "
			                                  : "",
			        in->bytes.at[k]);
		free(tokens);
	}
	fclose(f);
	return text;
}

static int
digit(int c)
{
	return isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : -1;
}

static bool
parse_input(const char *text, size_t len, struct input *i, char error[256])
{
	for (unsigned m = MANNER_STAY; m < MANNERS; m++)
		if (len >= strlen(manners[m]) && memcmp(text, manners[m], strlen(manners[m])) == 0) {
			i->manner = m;
			text += strlen(manners[m]);
			len -= strlen(manners[m]);
			break;
		}
	for (size_t k = 0; k < len; k++) {
		uint8_t byte;

		if (isspace((unsigned char)text[k]))
			continue;
		if (text[k] == ',' && i->n_cuts < MOST_WRITES) {
			i->cut[i->n_cuts++] = (uint32_t)i->bytes.len;
			continue;
		}
		if (k + 1 == len || digit(text[k]) < 0 || digit(text[k + 1]) < 0 || i->bytes.len == MOST_STREAM) {
			snprintf(error, 256,
			         "'%.*s': want bytes in hex, such as 00000003 49484156, with 'leave:' or 'stay:' "
			         "before, ',' where a write ends, and ';' between connections",
			         (int)(len - k < 20 ? len - k : 20), text + k);
			return false;
		}
		byte = (uint8_t)(digit(text[k]) << 4 | digit(text[k + 1]));
		buf_put(&i->bytes, &byte, 1);
		k++;
	}
	return true;
}

bool
inputs_parse(const char *text, struct inputs *s, char error[256])
{
	bool ok = true;

	*s = (struct inputs){ 0 };
	for (bool more = true; more && ok;) {
		struct input i = { 0 };
		size_t len;

		text += strspn(text, " \n");
		len = strcspn(text, ";");
		ok = parse_input(text, len, &i, error);
		inputs_add(s, &i);
		input_free(&i);
		more = text[len] == ';';
		text += len + more;
	}
	return ok;
}
