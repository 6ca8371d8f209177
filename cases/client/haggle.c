#include "cases/client/haggle.h"

#include "harness/client.h"
#include "harness/clock.h"

#include <stdlib.h>
#include <string.h>

enum { LEAVING_MS = 100 }; /* nothing depends on it but what is seen of a client that is slow */

const struct refusal refusals[N_REFUSALS] = {
	{ "UNSUP", NBD_REP_ERR_UNSUP },
	{ "POLICY", NBD_REP_ERR_POLICY },
	{ "INVALID", NBD_REP_ERR_INVALID },
	{ "PLATFORM", NBD_REP_ERR_PLATFORM },
	{ "TLS_REQD", NBD_REP_ERR_TLS_REQD },
	{ "UNKNOWN", NBD_REP_ERR_UNKNOWN },
	{ "SHUTDOWN", NBD_REP_ERR_SHUTDOWN },
	{ "TOO_BIG", NBD_REP_ERR_TOO_BIG },
	{ "EXT_HEADER_REQD", NBD_REP_ERR_EXT_HEADER_REQD },
	{ "an unknown error", NBD_REP_ERROR_BIT | 0x1234 },
	{ "the highest error", UINT32_MAX },
};

void
connected_must_work(struct drive *d, enum requirement_id r)
{
	must_read_disk(d, r, 1, &d->exports[0], 4096, 8192);
	must(d, R(baseline_client_disc), 1, "disconnect");
}

bool
session_works(struct drive *d, enum requirement_id r)
{
	if (ask(d, 1, "connect %s", d->uri).result != DRIVER_OK)
		return false;
	connected_must_work(d, r);
	return true;
}

void
session_must_work(struct drive *d, enum requirement_id r)
{
	must(d, r, 1, "connect %s", d->uri);
	connected_must_work(d, r);
}

/* ---- the trace ---- */

static unsigned
still_open(struct drive *d)
{
	struct wire w = drive_records(d);
	bool ended[256] = { false };
	struct trace_record r;
	unsigned n = 0;

	while (trace_next(&w, &r)) {
		bool *e = &ended[r.connection % 256];

		if (r.kind == TRACE_CONNECT) {
			*e = false;
			n++;
		} else if ((r.kind == TRACE_CLOSED || r.kind == TRACE_RESET || r.kind == TRACE_DISCONNECT) && !*e) {
			*e = true;
			n--;
		}
	}
	return n;
}

static bool
ended_within(struct drive *d, int ms)
{
	int64_t until = now_ms() + (int64_t)(ms * client_factor(d->client));

	while (still_open(d) > 0) {
		if (now_ms() >= until)
			return false;
		drive_pause(d, 1);
	}
	return true;
}

bool
all_ended(struct drive *d)
{
	return ended_within(d, DRIVER_LIMIT_MS);
}

void
let_leave(struct drive *d)
{
	ended_within(d, LEAVING_MS);
}

bool
some_option(struct drive *d, bool (*see)(void *arg, const struct option *o), void *arg)
{
	struct wire w = drive_records(d);
	struct trace_record r;
	struct option o;

	while (trace_next(&w, &r))
		if (r.kind == TRACE_MESSAGE && r.message == MSG_OPTION) {
			wire_get_option(wire_over(r.data), &o);
			if (see(arg, &o))
				return true;
		}
	return false;
}

/* ---- answers ---- */

char *
nth_value(const char *text, const char *key, unsigned n)
{
	size_t key_len = strlen(key), word;

	for (; *text != '\0'; text += text[word] == ' ' ? word + 1 : word) {
		word = strcspn(text, " ");
		if (strncmp(text, key, key_len) == 0 && text[key_len] == '=' && n-- == 0)
			return driver_value(text, key);
	}
	return NULL;
}

bool
says(const char *text, const char *key, const char *value)
{
	bool same = false;
	char *got;

	for (unsigned n = 0; !same && (got = nth_value(text, key, n)) != NULL; n++) {
		same = strcmp(got, value) == 0;
		free(got);
	}
	return same;
}

/* The escapes of a driver may be in capitals. */
static bool
is_name(const char *word, size_t len, const char *name)
{
	char hex[3] = "";

	for (size_t i = 0; i < len; i++, name++) {
		unsigned long byte = (uint8_t)word[i];

		if (word[i] == '%' && len - i > 2) {
			memcpy(hex, word + i + 1, 2);
			byte = strtoul(hex, NULL, 16);
			i += 2;
		}
		if (byte != (uint8_t)*name || *name == '\0')
			return false;
	}
	return *name == '\0';
}

int64_t
first_status(const char *text, const char *context)
{
	size_t word, key;

	for (; *text != '\0'; text += text[word] == ' ' ? word + 1 : word) {
		const char *colon;

		word = strcspn(text, " ");
		key = strcspn(text, "= ");
		colon = memchr(text, ':', word);
		if (is_name(text, key, context) && colon != NULL)
			return strtoll(colon + 1, NULL, 10);
	}
	return -1;
}
