/* The driver protocol: lines in, operations of the fake client, lines out. */
#include "fakeserver/client/driver.h"

#include "fakeserver/client/lying.h"
#include "harness/cli.h"
#include "harness/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORDS_MOST = 300, DEPTH = 4096, HANDLES = 256, READ_SIZE = 1 << 16, TIMEOUT_MOST_S = 1 << 20 };

static const char greeting[] =
	"connect disconnect close read+df+flags write+fua+flags flush+flags trim+fua+flags zero+no-hole+fast+fua+flags "
	"cache+flags block_status+req-one+only+flags "
	"set+strict+structured+extended+block-size+full-info+fixed-newstyle+no-zeroes+context+connections+timeout+tls "
	"haggle list info contexts go starttls\n";

/* A line: its words, and what it asks for. */
struct line {
	const char *tag, *operation;
	char **words; /* behind the operation, NULL-terminated */
	unsigned long handle;
};

static struct buf out;

/* ---- answers ---- */

static void
put_text(struct buf *b, const char *text)
{
	buf_put(b, text, strlen(text));
}

void
fc_put_word(struct buf *b, struct bytes text)
{
	for (size_t i = 0; i < text.len; i++) {
		char c = (char)text.at[i], escaped[8];

		if (c > ' ' && c < 0x7f && strchr("%=:,", c) == NULL) {
			buf_put(b, &c, 1);
		} else {
			snprintf(escaped, sizeof(escaped), "%%%02x", text.at[i]);
			put_text(b, escaped);
		}
	}
}

static void
answer(const char *tag, const char *text)
{
	put_text(&out, tag);
	put_text(&out, text);
	buf_put(&out, "\n", 1);
}

static void
answer_error(const char *tag, const char *name)
{
	char text[80];

	snprintf(text, sizeof(text), " error %s", name);
	answer(tag, text);
}

static void
put_number(struct buf *b, const char *key, uint64_t n)
{
	char text[80];

	snprintf(text, sizeof(text), " %s=%" PRIu64, key, n);
	put_text(b, text);
}

static void
put_yes(struct buf *b, const char *key, bool yes)
{
	put_text(b, " ");
	put_text(b, key);
	put_text(b, yes ? "=yes" : "=no");
}

static void
put_named(struct buf *b, const char *key, const struct buf *text)
{
	if (text->at == NULL)
		return;
	put_text(b, " ");
	put_text(b, key);
	put_text(b, "=");
	fc_put_word(b, (struct bytes){ text->at, text->len });
}

static void
put_flags(struct buf *b, uint16_t flags)
{
	static const struct {
		const char *key;
		uint16_t flag;
	} keys[] = { { "read-only", NBD_FLAG_READ_ONLY },
		     { "flush", NBD_FLAG_SEND_FLUSH },
		     { "fua", NBD_FLAG_SEND_FUA },
		     { "rotational", NBD_FLAG_ROTATIONAL },
		     { "trim", NBD_FLAG_SEND_TRIM },
		     { "zero", NBD_FLAG_SEND_WRITE_ZEROES },
		     { "fast-zero", NBD_FLAG_SEND_FAST_ZERO },
		     { "df", NBD_FLAG_SEND_DF },
		     { "multi-conn", NBD_FLAG_CAN_MULTI_CONN },
		     { "cache", NBD_FLAG_SEND_CACHE } };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		put_yes(b, keys[i].key, (flags & keys[i].flag) != 0);
}

void
fc_put_known(struct buf *b, const struct fc_session *s)
{
	const struct fc_facts *f = &s->facts;
	const struct fc_export *e = &f->export;

	if (e->known) {
		put_number(b, "size", e->size);
		put_flags(b, fc_flags(f));
	}
	put_yes(b, "structured", f->structured);
	put_yes(b, "extended", f->extended);
	put_yes(b, "tls", f->tls);
	if (e->has_block && s->settings.block_size) {
		put_number(b, "min", e->block.minimum);
		put_number(b, "preferred", e->block.preferred);
		put_number(b, "max", e->block.maximum);
	}
	put_text(b, f->oldstyle ? " protocol=oldstyle" : f->fixed ? " protocol=newstyle-fixed" : " protocol=newstyle");
	put_named(b, "export", &e->name);
	put_named(b, "description", &e->description);
	for (size_t i = 0; i < f->n_contexts; i++)
		put_named(b, "context", &f->contexts[i].name);
}

static void
put_digest(struct buf *b, const struct fc_op *op)
{
	char text[16];

	snprintf(text, sizeof(text), " %08" PRIx32, driver_digest(op->data, op->data != NULL ? op->request.length : 0));
	put_text(b, text);
}

static void
tell(struct fc_op *op)
{
	bool knows = op->ask == FC_CONNECT || op->ask == FC_HAGGLE || op->ask == FC_GO || op->ask == FC_INFO;
	size_t before = out.len;

	if (op->error[0] != '\0') {
		answer_error(op->tag, op->error);
		return;
	}
	put_text(&out, op->tag);
	put_text(&out, " ok");
	if (knows && op->handle->session != NULL)
		fc_put_known(&out, op->handle->session);
	if (op->ask == FC_COMMAND && op->request.type == NBD_CMD_READ)
		put_digest(&out, op);
	put_bytes(&out, (struct bytes){ op->said.at, op->said.len });
	buf_put(&out, "\n", 1);
	if (out.len - before <= DRIVER_LINE_MOST)
		return;
	out.len = before;
	answer_error(op->tag, "ERANGE");
}

static bool
write_out(void)
{
	size_t at = 0;

	while (at < out.len) {
		ssize_t n = write(STDOUT_FILENO, out.at + at, out.len - at);

		if (n < 0 && errno != EINTR)
			return false;
		at += n > 0 ? (size_t)n : 0;
	}
	buf_clear(&out);
	return true;
}

/* ---- words ---- */

static int
hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
	                              : -1;
}

static void
unescape(struct buf *b, const char *text)
{
	for (; *text != '\0'; text++) {
		int high = *text == '%' ? hex_digit(text[1]) : -1, low = high >= 0 ? hex_digit(text[2]) : -1;
		char c = low >= 0 ? (char)(high << 4 | low) : *text;

		buf_put(b, &c, 1);
		text += low >= 0 ? 2 : 0;
	}
}

static bool
read_number(const char *word, uint64_t most, uint64_t *n)
{
	char *end;

	if (word == NULL || *word < '0' || *word > '9')
		return false;
	errno = 0;
	*n = strtoull(word, &end, 10);
	return errno == 0 && *end == '\0' && *n <= most;
}

static void
put_query(struct buf *b, const char *word)
{
	struct buf text = { 0 };

	unescape(&text, word);
	put_be32(b, (uint32_t)text.len);
	put_bytes(b, (struct bytes){ text.at, text.len });
	buf_free(&text);
}

/* ---- operations ---- */

static struct fc_handle *
handle_of(const struct line *l)
{
	struct fc_handle *h = fc_handle_find(l->handle);

	return h != NULL ? h : fc_handle_new(l->handle);
}

static const struct verb {
	const char *name;
	uint16_t type;
	unsigned n_numbers;
	const char *flags;
} commands[] = {
	{ "read", NBD_CMD_READ, 2, "df" },
	{ "write", NBD_CMD_WRITE, 3, "fua" },
	{ "flush", NBD_CMD_FLUSH, 0, "" },
	{ "trim", NBD_CMD_TRIM, 2, "fua" },
	{ "zero", NBD_CMD_WRITE_ZEROES, 2, "no-hole fast fua" },
	{ "cache", NBD_CMD_CACHE, 2, "" },
	{ "block_status", NBD_CMD_BLOCK_STATUS, 2, "req-one only=" },
};

static bool
read_flags(char **words, const char *allowed, uint16_t *flags, struct buf *only)
{
	static const struct {
		const char *name;
		uint16_t flag;
	} table[] = { { "fua", NBD_CMD_FLAG_FUA },
		      { "no-hole", NBD_CMD_FLAG_NO_HOLE },
		      { "df", NBD_CMD_FLAG_DF },
		      { "req-one", NBD_CMD_FLAG_REQ_ONE },
		      { "fast", NBD_CMD_FLAG_FAST_ZERO } };
	uint64_t n;
	size_t i;

	for (; *words != NULL; words++) {
		if (strncmp(*words, "flags=", 6) == 0 && read_number(*words + 6, UINT16_MAX, &n)) {
			*flags |= (uint16_t)n;
			continue;
		}
		if (strncmp(*words, "only=", 5) == 0 && strstr(allowed, "only") != NULL) {
			put_query(only, *words + 5);
			continue;
		}
		for (i = 0; i < 5 && strcmp(*words, table[i].name) != 0; i++)
			continue;
		if (i == 5 || strstr(allowed, *words) == NULL)
			return false;
		*flags |= table[i].flag;
	}
	return true;
}

static void
do_command(const struct line *l, const struct verb *c)
{
	static const uint64_t most[] = { UINT64_MAX, UINT64_MAX, UINT16_MAX };
	uint64_t n[3] = { 0 };
	struct buf only = { 0 };
	uint16_t flags = 0;
	struct fc_op *op;

	for (unsigned i = 0; i < c->n_numbers; i++)
		if (!read_number(l->words[i], most[i], &n[i])) {
			answer_error(l->tag, "EINVAL");
			return;
		}
	if (!read_flags(l->words + c->n_numbers, c->flags, &flags, &only)) {
		answer(l->tag, " unsupported");
		buf_free(&only);
		return;
	}
	op = fc_op_new(handle_of(l), FC_COMMAND, l->tag, tell);
	op->request.type = c->type;
	op->request.flags = flags;
	op->request.offset = n[0];
	op->request.length = n[1];
	op->pattern = (unsigned)n[2];
	op->only = only;
	op->filtered = only.len > 0;
	fc_ask(op);
}

static void
do_connect(const struct line *l)
{
	enum fc_ask ask = l->operation[0] == 'h' ? FC_HAGGLE : FC_CONNECT;

	if (l->words[0] == NULL || l->words[1] != NULL)
		answer_error(l->tag, "EINVAL");
	else
		fc_start(fc_op_new(handle_of(l), ask, l->tag, tell), l->words[0]);
}

static void
do_disconnect(const struct line *l)
{
	fc_ask(fc_op_new(handle_of(l), FC_DISCONNECT, l->tag, tell));
}

static void
do_close(const struct line *l)
{
	struct fc_handle *h = fc_handle_find(l->handle);

	if (h != NULL)
		fc_handle_free(h);
	answer(l->tag, " ok");
}

static void
do_option(const struct line *l)
{
	enum fc_ask ask = l->operation[0] == 'l'   ? FC_LIST
	                  : l->operation[0] == 'i' ? FC_INFO
	                  : l->operation[0] == 'c' ? FC_LIST_CONTEXTS
	                  : l->operation[0] == 's' ? FC_STARTTLS
	                                           : FC_GO;
	struct fc_op *op = fc_op_new(handle_of(l), ask, l->tag, tell);
	char **words = l->words;

	if (*words != NULL && strncmp(*words, "export=", 7) == 0 && ask != FC_LIST && ask != FC_STARTTLS) {
		unescape(&op->export, *words++ + 7);
		op->has_export = true;
	}
	for (; *words != NULL && ask == FC_LIST_CONTEXTS; words++, op->n_queries++)
		put_query(&op->queries, *words);
	fc_ask(op);
}

/* ---- settings ---- */

static bool
set_switch(struct fc_settings *s, const char *key, const char *value)
{
	const struct {
		const char *key;
		bool *to;
	} switches[] = { { "strict", &s->strict },
		         { "structured", &s->structured },
		         { "extended", &s->extended },
		         { "block-size", &s->block_size },
		         { "full-info", &s->full_info },
		         { "no-zeroes", &s->no_zeroes },
		         { "fixed-newstyle", &s->fixed_newstyle } };
	bool on = strcmp(value, "on") == 0;

	if (!on && strcmp(value, "off") != 0)
		return false;
	for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++)
		if (strcmp(key, switches[i].key) == 0) {
			*switches[i].to = on;
			s->chosen = true;
			return true;
		}
	return false;
}

static bool
set_number(struct fc_settings *s, const char *key, const char *value)
{
	bool connections = strcmp(key, "connections") == 0;
	uint64_t n;

	if (!connections && strcmp(key, "timeout") != 0)
		return false;
	if (!read_number(value, connections ? FC_CONNECTIONS_MOST : TIMEOUT_MOST_S, &n) || (connections && n == 0))
		return false;
	*(connections ? &s->connections : &s->timeout_s) = (unsigned)n;
	return true;
}

static bool
set_context(struct fc_settings *s, const char *value)
{
	if (*value == '\0') {
		buf_clear(&s->queries);
		s->n_queries = 0;
		return true;
	}
	if (s->n_queries == FC_CONTEXTS_MOST)
		return false;
	put_query(&s->queries, value);
	s->n_queries++;
	return true;
}

static bool
set_tls(struct fc_settings *s, const char *key, const char *value)
{
	static const char *const wishes[] = { "off", "allow", "require" };

	for (unsigned i = 0; strcmp(key, "tls") == 0 && i < 3; i++)
		if (strcmp(value, wishes[i]) == 0) {
			s->tls = (enum fc_tls_wish)i;
			return true;
		}
	return false;
}

static void
do_set(const struct line *l)
{
	struct fc_settings *s = &handle_of(l)->settings;
	char *key = l->words[0], *value = key != NULL ? strchr(key, '=') : NULL;
	bool known = false;

	if (value != NULL && l->words[1] == NULL) {
		*value++ = '\0';
		known = strcmp(key, "context") == 0
		                ? set_context(s, value)
		                : set_switch(s, key, value) || set_number(s, key, value) || set_tls(s, key, value);
	}
	answer(l->tag, known ? " ok" : " unsupported");
}

/* ---- lines ---- */

static const struct operation {
	const char *name;
	void (*run)(const struct line *l);
} operations[] = {
	{ "connect", do_connect }, { "haggle", do_connect },  { "disconnect", do_disconnect },
	{ "close", do_close },     { "set", do_set },         { "list", do_option },
	{ "info", do_option },     { "contexts", do_option }, { "go", do_option },
	{ "starttls", do_option },
};

static void
carry_out(const struct line *l)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(l->operation, commands[i].name) == 0) {
			do_command(l, &commands[i]);
			return;
		}
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		if (strcmp(l->operation, operations[i].name) == 0) {
			operations[i].run(l);
			return;
		}
	answer(l->tag, " unsupported");
}

static bool
take_line(char *text)
{
	char *words[WORDS_MOST + 1], *word;
	struct line l;
	uint64_t handle;
	size_t n = 0;

	while ((word = strsep(&text, " ")) != NULL && n < WORDS_MOST)
		words[n++] = word;
	words[n] = NULL;
	if (n < 3 || !read_number(words[1], ULONG_MAX, &handle)) {
		fprintf(stderr, "nbdspec driver: want TAG HANDLE OPERATION [WORD]..., got '%.80s'\n", words[0]);
		return false;
	}
	l = (struct line){ words[0], words[2], words + 3, handle };
	carry_out(&l);
	return true;
}

/* The exit status at the end of input, or when it is wrong; else -1. */
static int
take_lines(struct buf *in)
{
	ssize_t n = read(STDIN_FILENO, buf_grow(in, READ_SIZE), READ_SIZE);
	size_t at = 0, len = in->len - READ_SIZE + (n > 0 ? (size_t)n : 0);
	char *end;

	in->len = len;
	if (n <= 0)
		return n < 0 && (errno == EINTR || errno == EAGAIN) ? -1 : STATUS_OK;
	while ((end = memchr(in->at + at, '\n', len - at)) != NULL) {
		*end = '\0';
		if (!take_line((char *)in->at + at))
			return STATUS_USAGE;
		at = (size_t)((uint8_t *)end - in->at) + 1;
	}
	buf_consume(in, at);
	if (in->len <= DRIVER_LINE_MOST)
		return -1;
	fprintf(stderr, "nbdspec driver: a line of more than %d bytes\n", DRIVER_LINE_MOST);
	return STATUS_USAGE;
}

int
fc_driver_run(void)
{
	struct buf in = { 0 };
	char text[80];
	int status = -1;

	fc_watch_input(STDIN_FILENO);
	snprintf(text, sizeof(text), "nbdspec-driver 1 nbdspec %s depth=%d handles=%d ", NBDSPEC_VERSION, DEPTH,
	         HANDLES);
	put_text(&out, text);
	put_text(&out, greeting);
	while (status < 0 && write_out())
		if (fc_turn())
			status = take_lines(&in);
	buf_free(&in);
	buf_free(&out);
	return status < 0 ? STATUS_OK : status;
}
