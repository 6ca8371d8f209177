/*
 * The driver of libnbd (docs/driver-protocol.md): every operation that its API has, without waiting, so that any number
 * of requests and handles is in flight at once.
 *
 * A handle of the protocol is a struct nbd_handle for each session, as libnbd connects one only once; the settings stay.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* It is always asked for by libnbd before 1.12. */
#ifdef LIBNBD_HAVE_NBD_SET_REQUEST_BLOCK_SIZE
#define SET_BLOCK_SIZE "+block-size"
#else
#define SET_BLOCK_SIZE ""
#endif

/* Before 1.16 it sends it by itself or not at all. */
#ifdef LIBNBD_HAVE_NBD_AIO_OPT_STARTTLS
#define STARTTLS " starttls"
#else
#define STARTTLS ""
#endif
/* From libnbd 1.18 on, with extents of 64 bits and the payload of NBD_CMD_BLOCK_STATUS. */
#ifdef LIBNBD_HAVE_NBD_SET_REQUEST_EXTENDED_HEADERS
#define HAS_EXTENDED 1
#define SET_EXTENDED "+extended"
#define STATUS_ONLY  "+only"
#else
#define HAS_EXTENDED 0
#define SET_EXTENDED ""
#define STATUS_ONLY  ""
#endif

enum { LINE_MOST = 1 << 20, WORDS_MOST = 256, HANDLES = 256, EXTENTS_MOST = 10000 };

#define DEPTH "4096"
#define COMMANDS                                                                                                       \
	"read+df+flags write+fua+flags flush+flags trim+fua+flags zero+no-hole+fast+fua+flags cache+flags "            \
	"block_status+req-one" STATUS_ONLY "+flags"

enum settled {
	BY_COMPLETION, /* when the completion callback was called */
	BY_HANDSHAKE,  /* and then the handshake is over, one way or another */
	BY_END,        /* when the connection has ended */
};

/* A request that is not answered yet. */
struct op {
	struct op *next;
	const char *tag;
	enum settled settled;
	bool completed, tells_state;
	int error;
	void *data; /* of a read or write */
	size_t length;
	bool is_read;
	FILE *text; /* what the answer will say behind "ok" */
	char *said;
	size_t said_len;
	unsigned n_extents;
};

struct handle {
	unsigned long number;
	struct handle *next;
	struct nbd_handle *nbd; /* NULL: no session */
	struct op *ops;
	int last_error; /* why the connection ended */
	bool strict, structured, extended, block_size, full_info, fixed_newstyle, no_zeroes;
	int tls;
	char *contexts[WORDS_MOST];
	size_t n_contexts;
};

/* A line: its words, and what it asks for. */
struct request {
	const char *tag, *operation;
	char **words; /* behind the operation, NULL-terminated */
	struct handle *handle;
	uint32_t flags;
	char *only[WORDS_MOST + 1]; /* contexts of a block_status, NULL-terminated */
	size_t n_only;
};

static struct handle *handles;

/* ---- answers ---- */

/* NULL where it has none. Before 2.32 the C library does not tell: then of those that NBD has, and of lost connections. */
static const char *
error_name(int error)
{
#if __GLIBC_PREREQ(2, 32)
	return strerrorname_np(error);
#else
	static const struct {
		int error;
		const char *name;
	} names[] = {
#define NAME(e) { e, #e }
		NAME(EPERM),     NAME(EIO),          NAME(ENOMEM),     NAME(EINVAL),    NAME(ENOSPC),
		NAME(EOVERFLOW), NAME(ENOTSUP),      NAME(ENOENT),     NAME(ESHUTDOWN), NAME(EPIPE),
		NAME(ENOTCONN),  NAME(ECONNREFUSED), NAME(ECONNRESET), NAME(EPROTO),    NAME(ERANGE),
#undef NAME
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].error == error)
			return names[i].name;
	return NULL;
#endif
}

static void
answer_error(const char *tag, int error, const char *text)
{
	const char *name = error_name(error);

	printf("%s error %s%s", tag, error != 0 && name != NULL ? name : "OTHER", *text != '\0' ? " " : "");
	for (; *text != '\0'; text++)
		putchar((unsigned char)*text >= ' ' ? *text : ' ');
	putchar('\n');
}

/* What libnbd says of the call that has just failed. */
static void
answer_failed(const char *tag)
{
	const char *text = nbd_get_error();

	answer_error(tag, nbd_get_errno(), text != NULL ? text : "");
}

static void
answer_unsupported(const char *tag)
{
	printf("%s unsupported\n", tag);
}

static void
put_escaped(FILE *f, const char *text)
{
	for (; *text != '\0'; text++)
		if (*text > ' ' && *text < 0x7f && strchr("%=:,", *text) == NULL)
			putc(*text, f);
		else
			fprintf(f, "%%%02x", (unsigned char)*text);
}

static void
put_text(FILE *f, const char *key, char *text)
{
	if (text == NULL)
		return;
	fprintf(f, " %s=", key);
	put_escaped(f, text);
	free(text);
}

static void
put_yes(FILE *f, const char *key, int yes)
{
	if (yes >= 0)
		fprintf(f, " %s=%s", key, yes != 0 ? "yes" : "no");
}

/* All that the API tells of the export; what it does not know is left out. */
static void
put_state(FILE *f, const struct handle *h)
{
	static const struct {
		const char *key;
		int (*get)(struct nbd_handle *nbd);
	} flags[] = {
		{ "read-only", nbd_is_read_only },
		{ "flush", nbd_can_flush },
		{ "fua", nbd_can_fua },
		{ "rotational", nbd_is_rotational },
		{ "trim", nbd_can_trim },
		{ "zero", nbd_can_zero },
		{ "fast-zero", nbd_can_fast_zero },
		{ "df", nbd_can_df },
		{ "multi-conn", nbd_can_multi_conn },
		{ "cache", nbd_can_cache },
		{ "structured", nbd_get_structured_replies_negotiated },
#if HAS_EXTENDED
		{ "extended", nbd_get_extended_headers_negotiated },
#endif
		{ "tls", nbd_get_tls_negotiated }
	};
	static const char *const sizes[] = { "min", "preferred", "max" };
	const char *protocol = nbd_get_protocol(h->nbd);
	int64_t n = nbd_get_size(h->nbd);

	if (n >= 0)
		fprintf(f, " size=%" PRId64, n);
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		put_yes(f, flags[i].key, flags[i].get(h->nbd));
	for (int i = 0; i < 3; i++)
		if ((n = nbd_get_block_size(h->nbd, i)) > 0)
			fprintf(f, " %s=%" PRId64, sizes[i], n);
	if (protocol != NULL)
		fprintf(f, " protocol=%s", protocol);
	put_text(f, "export", nbd_get_canonical_export_name(h->nbd));
	put_text(f, "description", nbd_get_export_description(h->nbd));
	for (size_t i = 0; i < h->n_contexts; i++)
		if (nbd_can_meta_context(h->nbd, h->contexts[i]) == 1)
			put_text(f, "context", strdup(h->contexts[i]));
}

static uint32_t
digest(const uint8_t *data, size_t length)
{
	uint32_t crc = 0xffffffff, table[256];

	for (uint32_t i = 0; i < 256; i++) {
		table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
	}
	for (size_t i = 0; i < length; i++)
		crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xff];
	return ~crc;
}

static void
answer_op(const struct handle *h, struct op *op)
{
	if (op->error != 0) {
		answer_error(op->tag, op->error, "");
		return;
	}
	if (op->is_read)
		fprintf(op->text, " %08" PRIx32, digest(op->data, op->length));
	if (op->tells_state)
		put_state(op->text, h);
	fflush(op->text);
	printf("%s ok%s\n", op->tag, op->said);
}

/* ---- requests in flight ---- */

static struct op *
new_op(const struct request *r, enum settled settled)
{
	struct op *op = calloc(1, sizeof(*op)), **end = &r->handle->ops;

	if (op == NULL)
		abort();
	op->tag = strdup(r->tag);
	op->settled = settled;
	op->text = open_memstream(&op->said, &op->said_len);
	while (*end != NULL)
		end = &(*end)->next;
	*end = op;
	return op;
}

static void
free_op(struct handle *h, struct op *op)
{
	struct op **at = &h->ops;

	while (*at != op)
		at = &(*at)->next;
	*at = op->next;
	fclose(op->text);
	free(op->said);
	free(op->data);
	free((char *)op->tag);
	free(op);
}

/* libnbd holds its lock: no call to it from here. */
static int
on_completion(void *arg, int *error)
{
	struct op *op = arg;

	op->completed = true;
	op->error = *error;
	return 1; /* retires the command */
}

/* The call that has begun an operation: negative, and it is answered at once. */
static void
begun(const struct request *r, struct op *op, int64_t result)
{
	if (result >= 0)
		return;
	answer_failed(r->tag);
	free_op(r->handle, op);
}

static bool
is_settled(struct handle *h, const struct op *op)
{
	bool over = nbd_aio_is_dead(h->nbd) == 1 || nbd_aio_is_closed(h->nbd) == 1;

	switch (op->settled) {
	case BY_COMPLETION:
		return op->completed;
	case BY_HANDSHAKE:
		return op->completed &&
		       (op->error != 0 || over || nbd_aio_is_ready(h->nbd) == 1 || nbd_aio_is_negotiating(h->nbd) == 1);
	case BY_END:
		return over;
	}
	return false;
}

static void
end_session(struct handle *h)
{
	nbd_close(h->nbd);
	h->nbd = NULL;
	while (h->ops != NULL) {
		answer_error(h->ops->tag, ECANCELED, "");
		free_op(h, h->ops);
	}
}

/* Answers what has come to its end. A handshake that failed leaves no session. */
static void
settle(struct handle *h)
{
	bool ended = false;

	for (struct op *next, *op = h->ops; op != NULL; op = next) {
		next = op->next;
		if (!is_settled(h, op))
			continue;
		if (op->settled != BY_COMPLETION && op->error == 0 && nbd_aio_is_dead(h->nbd) == 1)
			op->error = h->last_error != 0 ? h->last_error : ENOTCONN;
		answer_op(h, op);
		ended |= op->settled == BY_END ||
		         (op->settled == BY_HANDSHAKE && op->error != 0 && nbd_aio_is_negotiating(h->nbd) != 1);
		free_op(h, op);
	}
	if (ended)
		end_session(h);
}

/* ---- words ---- */

static char *
unescape(char *text)
{
	char *to = text, *from = text;
	unsigned byte;

	for (; *from != '\0'; from++)
		if (*from == '%' && isxdigit((unsigned char)from[1]) && isxdigit((unsigned char)from[2]) &&
		    sscanf(from + 1, "%2x", &byte) == 1) {
			*to++ = (char)byte;
			from += 2;
		} else {
			*to++ = *from;
		}
	*to = '\0';
	return text;
}

static bool
read_number(const char *word, uint64_t *n)
{
	char *end;

	if (word == NULL || !isdigit((unsigned char)*word))
		return false;
	errno = 0;
	*n = strtoull(word, &end, 0);
	return errno == 0 && *end == '\0';
}

static bool
read_flags(struct request *r, char **words, const char *allowed)
{
	static const struct {
		const char *name;
		uint32_t flag;
	} table[] = { { "fua", LIBNBD_CMD_FLAG_FUA },
		      { "no-hole", LIBNBD_CMD_FLAG_NO_HOLE },
		      { "df", LIBNBD_CMD_FLAG_DF },
		      { "req-one", LIBNBD_CMD_FLAG_REQ_ONE },
		      { "fast", LIBNBD_CMD_FLAG_FAST_ZERO } };
	uint64_t n;
	size_t i;

	for (; *words != NULL; words++) {
		if (strncmp(*words, "flags=", 6) == 0 && read_number(*words + 6, &n) && n <= UINT16_MAX) {
			r->flags |= (uint32_t)n;
			continue;
		}
		if (strncmp(*words, "only=", 5) == 0 && HAS_EXTENDED && strstr(allowed, "only=") != NULL) {
			r->only[r->n_only++] = unescape(*words + 5);
			continue;
		}
		for (i = 0; i < 5 && strcmp(*words, table[i].name) != 0; i++)
			continue;
		if (i == 5 || strstr(allowed, *words) == NULL)
			return false;
		r->flags |= table[i].flag;
	}
	return true;
}

/* ---- operations: each answers by itself, at once or by an op ---- */

static int64_t call_read(struct request *r, struct op *op, uint64_t *n);

/* A command of transmission: its flags, how many numbers come before them, and the call. */
struct command {
	const char *flags;
	int n_numbers;
	int64_t (*call)(struct request *r, struct op *op, uint64_t *n);
};

static void
do_command(struct request *r, const struct command *command)
{
	uint64_t n[3] = { 0 };
	int i = 0;

	while (i < command->n_numbers && read_number(r->words[i], &n[i]))
		i++;
	if (i < command->n_numbers)
		answer_error(r->tag, EINVAL, "a number is missing or wrong");
	else if (!read_flags(r, r->words + command->n_numbers, command->flags))
		answer_unsupported(r->tag);
	else if (command->call == call_read && n[1] > UINT32_MAX)
		answer_unsupported(r->tag); /* no memory for it, nor the time */
	else if (r->handle->nbd == NULL)
		answer_error(r->tag, ENOTCONN, "");
	else {
		struct op *op = new_op(r, BY_COMPLETION);

		op->length = command->n_numbers > 1 ? n[1] : 0;
		begun(r, op, command->call(r, op, n));
	}
}

#define COMPLETION(op) ((nbd_completion_callback){ .callback = on_completion, .user_data = (op) })

static int
on_chunk(void *arg, const void *data, size_t length, uint64_t offset, unsigned status, int *error)
{
	(void)arg;
	(void)data;
	(void)length;
	(void)offset;
	(void)status;
	(void)error;
	return 0;
}

static int64_t
call_read(struct request *r, struct op *op, uint64_t *n)
{
	nbd_chunk_callback chunk = { .callback = on_chunk };

	op->is_read = true;
	op->data = calloc(1, op->length + 1);
	if (op->data == NULL)
		op->length = 0;
	/* DF has no meaning to nbd_aio_pread. */
	if ((r->flags & LIBNBD_CMD_FLAG_DF) != 0)
		return nbd_aio_pread_structured(r->handle->nbd, op->data, op->length, n[0], chunk, COMPLETION(op),
		                                r->flags);
	return nbd_aio_pread(r->handle->nbd, op->data, op->length, n[0], COMPLETION(op), r->flags);
}

static void
fill_pattern(uint8_t *data, size_t length, uint64_t offset, unsigned pattern)
{
	char block[32];

	for (size_t i = 0; i < length; i++, offset++) {
		if (i == 0 || offset % 16 == 0)
			snprintf(block, sizeof(block), "%04x%012" PRIx64, pattern & 0xffff,
			         offset / 16 & 0xffffffffffff);
		data[i] = pattern == 0 ? 0 : (uint8_t)block[offset % 16];
	}
}

static int64_t
call_write(struct request *r, struct op *op, uint64_t *n)
{
	op->data = malloc(op->length + 1);
	if (op->data == NULL)
		op->length = 0;
	fill_pattern(op->data, op->length, n[0], (unsigned)n[2]);
	return nbd_aio_pwrite(r->handle->nbd, op->data, op->length, n[0], COMPLETION(op), r->flags);
}

static int64_t
call_flush(struct request *r, struct op *op, uint64_t *n)
{
	(void)n;
	return nbd_aio_flush(r->handle->nbd, COMPLETION(op), r->flags);
}

static int64_t
call_trim(struct request *r, struct op *op, uint64_t *n)
{
	return nbd_aio_trim(r->handle->nbd, n[1], n[0], COMPLETION(op), r->flags);
}

static int64_t
call_zero(struct request *r, struct op *op, uint64_t *n)
{
	return nbd_aio_zero(r->handle->nbd, n[1], n[0], COMPLETION(op), r->flags);
}

static int64_t
call_cache(struct request *r, struct op *op, uint64_t *n)
{
	return nbd_aio_cache(r->handle->nbd, n[1], n[0], COMPLETION(op), r->flags);
}

#if HAS_EXTENDED
static int
on_extents(void *arg, const char *context, uint64_t offset, nbd_extent *extents, size_t n, int *error)
{
	struct op *op = arg;

	(void)offset;
	(void)error;
	putc(' ', op->text);
	put_escaped(op->text, context);
	for (size_t i = 0; i < n && op->n_extents < EXTENTS_MOST; i++, op->n_extents++)
		fprintf(op->text, "%c%" PRIu64 ":%" PRIu64, i == 0 ? '=' : ',', extents[i].length, extents[i].flags);
	return 0;
}

static int64_t
call_block_status(struct request *r, struct op *op, uint64_t *n)
{
	nbd_extent64_callback extents = { .callback = on_extents, .user_data = op };

	if (r->n_only > 0)
		return nbd_aio_block_status_filter(r->handle->nbd, n[1], n[0], r->only, extents, COMPLETION(op),
		                                   r->flags);
	return nbd_aio_block_status_64(r->handle->nbd, n[1], n[0], extents, COMPLETION(op), r->flags);
}
#else
static int
on_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries, size_t n, int *error)
{
	struct op *op = arg;

	(void)offset;
	(void)error;
	putc(' ', op->text);
	put_escaped(op->text, context);
	for (size_t i = 0; i + 1 < n && op->n_extents < EXTENTS_MOST; i += 2, op->n_extents++)
		fprintf(op->text, "%c%" PRIu32 ":%" PRIu32, i == 0 ? '=' : ',', entries[i], entries[i + 1]);
	return 0;
}

static int64_t
call_block_status(struct request *r, struct op *op, uint64_t *n)
{
	nbd_extent_callback extents = { .callback = on_extents, .user_data = op };

	return nbd_aio_block_status(r->handle->nbd, n[1], n[0], extents, COMPLETION(op), r->flags);
}
#endif

/* ---- sessions ---- */

static uint32_t
strict_mode(const struct handle *h)
{
	return h->strict ? LIBNBD_STRICT_MASK : 0;
}

static bool
request_extended(const struct handle *h)
{
#if HAS_EXTENDED
	return nbd_set_request_extended_headers(h->nbd, h->extended) == 0;
#else
	return h->extended;
#endif
}

static bool
request_block_size(const struct handle *h)
{
#ifdef LIBNBD_HAVE_NBD_SET_REQUEST_BLOCK_SIZE
	return nbd_set_request_block_size(h->nbd, h->block_size) == 0;
#else
	return h->block_size;
#endif
}

static bool
apply_settings(const struct handle *h, bool haggle)
{
	uint32_t handshake = (h->fixed_newstyle ? LIBNBD_HANDSHAKE_FLAG_FIXED_NEWSTYLE : 0) |
	                     (h->no_zeroes ? LIBNBD_HANDSHAKE_FLAG_NO_ZEROES : 0);
	bool ok = nbd_set_strict_mode(h->nbd, strict_mode(h)) == 0 &&
	          nbd_set_request_structured_replies(h->nbd, h->structured) == 0 && request_extended(h) &&
	          request_block_size(h) && nbd_set_full_info(h->nbd, h->full_info) == 0 &&
	          nbd_set_handshake_flags(h->nbd, handshake) == 0 && nbd_set_uri_allow_local_file(h->nbd, true) == 0 &&
	          nbd_set_tls(h->nbd, h->tls) == 0 && nbd_set_opt_mode(h->nbd, haggle) == 0;

	for (size_t i = 0; i < h->n_contexts && ok; i++)
		ok = nbd_add_meta_context(h->nbd, h->contexts[i]) == 0;
	return ok;
}

static void
start_session(struct request *r, bool haggle)
{
	struct handle *h = r->handle;
	struct op *op;

	if (h->nbd != NULL && nbd_aio_is_dead(h->nbd) != 1 && nbd_aio_is_closed(h->nbd) != 1) {
		answer_error(r->tag, EISCONN, "");
		return;
	}
	if (h->nbd != NULL)
		end_session(h);
	h->nbd = nbd_create();
	h->last_error = 0;
	if (r->words[0] == NULL || r->words[1] != NULL) {
		answer_error(r->tag, EINVAL, "want a URI");
	} else if (h->nbd == NULL || !apply_settings(h, haggle)) {
		answer_failed(r->tag);
	} else {
		op = new_op(r, BY_HANDSHAKE);
		op->tells_state = true;
		op->completed = true;
		if (nbd_aio_connect_uri(h->nbd, r->words[0]) == 0)
			return;
		begun(r, op, -1);
	}
	end_session(h);
}

static void
do_connect(struct request *r)
{
	start_session(r, false);
}

static void
do_haggle(struct request *r)
{
	start_session(r, true);
}

/* libnbd's nbd_shutdown without its waiting. */
static void
do_disconnect(struct request *r)
{
	struct nbd_handle *nbd = r->handle->nbd;
	struct op *op;

	if (nbd == NULL) {
		answer_error(r->tag, ENOTCONN, "");
		return;
	}
	op = new_op(r, BY_END);
	if (nbd_aio_is_dead(nbd) == 1 || nbd_aio_is_closed(nbd) == 1)
		return;
	begun(r, op, nbd_aio_is_negotiating(nbd) == 1 ? nbd_aio_opt_abort(nbd) : nbd_aio_disconnect(nbd, 0));
}

static void
do_close(struct request *r)
{
	struct handle *h = r->handle, **at = &handles;

	while (*at != h)
		at = &(*at)->next;
	*at = h->next;
	end_session(h);
	for (size_t i = 0; i < h->n_contexts; i++)
		free(h->contexts[i]);
	free(h);
	printf("%s ok\n", r->tag);
}

/* ---- the haggling ---- */

/* "export=NAME", which holds for this and what follows, if it is there. */
static bool
take_export(struct request *r)
{
	if (r->words[0] == NULL || strncmp(r->words[0], "export=", 7) != 0)
		return true;
	return nbd_set_export_name(r->handle->nbd, unescape(*r->words++ + 7)) == 0;
}

static struct op *
haggle(struct request *r, enum settled settled)
{
	if (r->handle->nbd == NULL)
		answer_error(r->tag, ENOTCONN, "");
	else if (!take_export(r))
		answer_failed(r->tag);
	else
		return new_op(r, settled);
	return NULL;
}

/* The contexts of the settings, in place of what a list was asked for: while an option is on its way libnbd takes none. */
static void
restore_contexts(struct handle *h)
{
	if (nbd_clear_meta_contexts(h->nbd) == 0)
		for (size_t i = 0; i < h->n_contexts; i++)
			nbd_add_meta_context(h->nbd, h->contexts[i]);
}

static void
do_info(struct request *r)
{
	struct op *op = haggle(r, BY_COMPLETION);

	if (op == NULL)
		return;
	restore_contexts(r->handle);
	op->tells_state = true;
	begun(r, op, nbd_aio_opt_info(r->handle->nbd, COMPLETION(op)));
}

static void
do_go(struct request *r)
{
	struct op *op = haggle(r, BY_HANDSHAKE);

	if (op == NULL)
		return;
	restore_contexts(r->handle);
	op->tells_state = true;
	begun(r, op, nbd_aio_opt_go(r->handle->nbd, COMPLETION(op)));
}

#ifdef LIBNBD_HAVE_NBD_AIO_OPT_STARTTLS
static void
do_starttls(struct request *r)
{
	struct op *op = haggle(r, BY_HANDSHAKE);

	if (op != NULL)
		begun(r, op, nbd_aio_opt_starttls(r->handle->nbd, COMPLETION(op)));
}
#endif

static int
on_export(void *arg, const char *name, const char *description)
{
	struct op *op = arg;

	put_text(op->text, "export", strdup(name));
	if (*description != '\0')
		put_text(op->text, "description", strdup(description));
	return 0;
}

static void
do_list(struct request *r)
{
	struct op *op = haggle(r, BY_COMPLETION);
	nbd_list_callback list = { .callback = on_export, .user_data = op };

	if (op != NULL)
		begun(r, op, nbd_aio_opt_list(r->handle->nbd, list, COMPLETION(op)));
}

static int
on_context(void *arg, const char *name)
{
	put_text(((struct op *)arg)->text, "context", strdup(name));
	return 0;
}

static void
do_contexts(struct request *r)
{
	struct op *op = haggle(r, BY_COMPLETION);
	nbd_context_callback list = { .callback = on_context, .user_data = op };
	bool ok = op != NULL && nbd_clear_meta_contexts(r->handle->nbd) == 0;

	for (; ok && *r->words != NULL; r->words++)
		ok = nbd_add_meta_context(r->handle->nbd, unescape(*r->words)) == 0;
	if (op != NULL)
		begun(r, op, ok ? nbd_aio_opt_list_meta_context(r->handle->nbd, list, COMPLETION(op)) : -1);
}

/* ---- settings ---- */

static bool
set_switch(struct handle *h, const char *key, const char *value)
{
	const struct {
		const char *key;
		bool *to;
	} switches[] = {
		{ "strict", &h->strict },
		{ "structured", &h->structured },
#if HAS_EXTENDED
		{ "extended", &h->extended },
#endif
#ifdef LIBNBD_HAVE_NBD_SET_REQUEST_BLOCK_SIZE
		{ "block-size", &h->block_size },
#endif
		{ "full-info", &h->full_info },
		{ "no-zeroes", &h->no_zeroes },
		{ "fixed-newstyle", &h->fixed_newstyle }
	};

	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		return false;
	for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++)
		if (strcmp(key, switches[i].key) == 0) {
			*switches[i].to = strcmp(value, "on") == 0;
			return true;
		}
	return false;
}

static bool
set_tls(struct handle *h, const char *value)
{
	static const char *const modes[] = { "off", "allow", "require" };

	for (int i = 0; i < 3; i++)
		if (strcmp(value, modes[i]) == 0) {
			h->tls = i;
			return true;
		}
	return false;
}

static bool
set_context(struct handle *h, char *value)
{
	if (*value == '\0')
		while (h->n_contexts > 0)
			free(h->contexts[--h->n_contexts]);
	else if (h->n_contexts < WORDS_MOST)
		h->contexts[h->n_contexts++] = strdup(unescape(value));
	else
		return false;
	return true;
}

static void
do_set(struct request *r)
{
	char *word = r->words[0], *value = word != NULL ? strchr(word, '=') : NULL;
	bool known = false;

	if (value != NULL && r->words[1] == NULL) {
		*value++ = '\0';
		known = strcmp(word, "tls") == 0       ? set_tls(r->handle, value)
		        : strcmp(word, "context") == 0 ? set_context(r->handle, value)
		                                       : set_switch(r->handle, word, value);
	}
	if (!known)
		answer_unsupported(r->tag);
	else if (r->handle->nbd != NULL && nbd_set_strict_mode(r->handle->nbd, strict_mode(r->handle)) < 0)
		answer_failed(r->tag);
	else
		printf("%s ok\n", r->tag);
}

static const struct operation {
	const char *name;
	void (*run)(struct request *r); /* or NULL: */
	struct command command;
} operations[] = {
	{ "connect", do_connect, { 0 } },
	{ "disconnect", do_disconnect, { 0 } },
	{ "close", do_close, { 0 } },
	{ "set", do_set, { 0 } },
	{ "read", NULL, { "df", 2, call_read } },
	{ "write", NULL, { "fua", 3, call_write } },
	{ "flush", NULL, { "", 0, call_flush } },
	{ "trim", NULL, { "fua", 2, call_trim } },
	{ "zero", NULL, { "no-hole fast fua", 2, call_zero } },
	{ "cache", NULL, { "", 2, call_cache } },
	{ "block_status", NULL, { "req-one only=", 2, call_block_status } },
	{ "haggle", do_haggle, { 0 } },
	{ "list", do_list, { 0 } },
	{ "info", do_info, { 0 } },
	{ "contexts", do_contexts, { 0 } },
	{ "go", do_go, { 0 } },
#ifdef LIBNBD_HAVE_NBD_AIO_OPT_STARTTLS
	{ "starttls", do_starttls, { 0 } },
#endif
};
enum { N_OPERATIONS = sizeof(operations) / sizeof(operations[0]) };

static void
greet(void)
{
	struct nbd_handle *nbd = nbd_create();

	if (nbd == NULL) {
		fprintf(stderr, "libnbd: %s\n", nbd_get_error());
		exit(1);
	}
	printf("nbdspec-driver 1 libnbd %s depth=" DEPTH " handles=%d connect disconnect close " COMMANDS
	       " set+strict+structured" SET_EXTENDED SET_BLOCK_SIZE "+full-info+no-zeroes+fixed-newstyle+tls+context"
	       " haggle list info contexts go" STARTTLS "\n",
	       nbd_get_version(nbd), HANDLES);
	nbd_close(nbd);
}

/* ---- lines ---- */

static struct handle *
find_handle(unsigned long number)
{
	struct handle *h = handles;

	while (h != NULL && h->number != number)
		h = h->next;
	if (h != NULL)
		return h;
	h = calloc(1, sizeof(*h));
	if (h == NULL)
		abort();
	*h = (struct handle){ .number = number,
		              .next = handles,
		              .strict = true,
		              .structured = true,
		              .extended = true,
		              .block_size = true,
		              .no_zeroes = true,
		              .fixed_newstyle = true,
		              .tls = LIBNBD_TLS_ALLOW };
	return handles = h;
}

static void
carry_out(char *line)
{
	char *words[WORDS_MOST + 1], *word;
	size_t n = 0, i = 0;
	struct request r;

	while ((word = strsep(&line, " ")) != NULL && n < WORDS_MOST)
		words[n++] = word;
	words[n] = NULL;
	if (n < 3) {
		fprintf(stderr, "want TAG HANDLE OPERATION …, got '%s'\n", words[0]);
		exit(1);
	}
	while (i < N_OPERATIONS && strcmp(words[2], operations[i].name) != 0)
		i++;
	r = (struct request){ .tag = words[0], .operation = words[2], .words = words + 3 };
	if (i == N_OPERATIONS) {
		answer_unsupported(r.tag);
		return;
	}
	r.handle = find_handle(strtoul(words[1], NULL, 10));
	if (operations[i].run != NULL)
		operations[i].run(&r);
	else
		do_command(&r, &operations[i].command);
}

/* False at the end of input. */
static bool
take_lines(void)
{
	static char buf[LINE_MOST];
	static size_t len;
	char *end, *line = buf;
	ssize_t n = read(STDIN_FILENO, buf + len, sizeof(buf) - len);

	if (n <= 0)
		return false;
	len += (size_t)n;
	while ((end = memchr(line, '\n', len - (size_t)(line - buf))) != NULL) {
		*end = '\0';
		carry_out(line);
		line = end + 1;
	}
	len -= (size_t)(line - buf);
	memmove(buf, line, len);
	return true;
}

/* ---- the loop ---- */

/*
 * As nbd_poll does it, but that a handle which only writes, as it does while it connects, hears of a server that has hung
 * up by writing: it takes no other event then, and would be told the same for ever.
 */
static void
notify(struct handle *h, short revents)
{
	bool reads = (nbd_aio_get_direction(h->nbd) & LIBNBD_AIO_DIRECTION_READ) != 0;
	int failed = 0;

	if (reads && (revents & (POLLIN | POLLHUP)) != 0)
		failed = nbd_aio_notify_read(h->nbd);
	else if ((revents & (POLLOUT | POLLERR | POLLHUP)) != 0)
		failed = nbd_aio_notify_write(h->nbd);
	if (failed < 0)
		h->last_error = nbd_get_errno();
}

static bool
has_session(struct handle *h)
{
	return h->nbd != NULL && nbd_aio_is_dead(h->nbd) != 1 && nbd_aio_is_closed(h->nbd) != 1;
}

static bool
turn(void)
{
	struct pollfd p[1 + HANDLES] = { { .fd = STDIN_FILENO, .events = POLLIN } };
	struct handle *who[1 + HANDLES] = { NULL };
	nfds_t n = 1;

	for (struct handle *h = handles; h != NULL; h = h->next) {
		if (h->ops != NULL)
			settle(h);
		if (n == 1 + HANDLES || !has_session(h))
			continue;
		unsigned direction = nbd_aio_get_direction(h->nbd);

		p[n] = (struct pollfd){ .fd = nbd_aio_get_fd(h->nbd),
			                .events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
			                                  (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0)) };
		who[n++] = h;
	}
	fflush(stdout);
	poll(p, n, -1);
	for (nfds_t i = 1; i < n; i++)
		if (p[i].revents != 0)
			notify(who[i], p[i].revents);
	return p[0].revents == 0 || take_lines();
}

int
main(void)
{
	setlinebuf(stderr);
	/* libnbd(3) leaves it to its users, and before 1.8 GnuTLS raises it on a connection that has ended. */
	signal(SIGPIPE, SIG_IGN);
	greet();
	while (turn())
		continue;
	return 0;
}
