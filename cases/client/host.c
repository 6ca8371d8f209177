#include "cases/client/host.h"

#include "fakeserver/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { TICK_MS = 50, QUIET_TICKS = 4, PIECE = 65536 };

/* A tenth in the middle is a hole, so that holes are met as well. */
static bool
is_hole(uint64_t size, uint64_t offset)
{
	return offset / PIECE * PIECE >= size / 10 * 4 && offset / PIECE * PIECE < size / 10 * 5;
}

static void
fill_disk(struct disk *d, uint64_t size)
{
	static uint8_t piece[PIECE];
	enum disk_state failed;

	for (uint64_t at = 0; at < size; at += PIECE) {
		size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;

		if (is_hole(size, at))
			continue;
		fill_pattern(piece, n, at, 1);
		if (!disk_write(d, at, n, piece, &failed))
			abort();
	}
}

static void
fill_file(struct test *t, const char *path, uint64_t size)
{
	static uint8_t piece[PIECE];
	FILE *f = fopen(path, "we");

	for (uint64_t at = 0; f != NULL && at < size; at += PIECE) {
		size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;

		memset(piece, 0, n);
		if (!is_hole(size, at))
			fill_pattern(piece, n, at, 2);
		(void)!fwrite(piece, 1, n, f);
	}
	if (f == NULL || fclose(f) != 0)
		harness_error(t, "cannot make %s: %s", path, strerror(errno));
}

struct host *
host_new(struct test *t, const char *settings)
{
	static struct client *client;
	struct host *h = calloc(1, sizeof(*h));
	char text[512], error[256];

	if (h == NULL)
		abort();
	if (client == NULL)
		client = client_new(t);
	*h = (struct host){ .t = t, .client = client };
	snprintf(text, sizeof(text), "name=%s,size=%llu%s%s", client_export(client),
	         (unsigned long long)client_size(client), settings != NULL ? "," : "",
	         settings != NULL ? settings : "");
	if (!export_parse(text, &h->export, error))
		harness_error(t, "the export '%s': %s", text, error);
	fill_disk(h->export.disk, h->export.size);
	h->config = (struct fake_config){ .exports = &h->export, .n_exports = 1, .seed = 1 };
	h->config.trace = client_trace(client);
	return h;
}

struct watch {
	struct host *host;
	int fd;
	unsigned ticks, quiet;
	uint64_t activity;
};

static uint64_t
activity_of(const struct host *h)
{
	struct fake_counters n = fake_count(h->fake);

	return n.bytes_received + n.bytes_sent + n.accepted;
}

/* Time is up; or, for a client that a lie keeps waiting, nothing has moved for a while and it sleeps. */
static void
on_tick(void *arg)
{
	struct watch *w = arg;
	uint64_t ticks = 0, activity = activity_of(w->host);

	(void)!read(w->fd, &ticks, sizeof(ticks));
	w->ticks += (unsigned)ticks;
	w->quiet = activity == w->activity && client_is_waiting(w->host->client) ? w->quiet + 1 : 0;
	w->activity = activity;
	if (w->host->patient && w->quiet >= QUIET_TICKS)
		w->host->waited = true;
	if (w->host->waited || w->ticks * TICK_MS >= (unsigned)client_limit_ms(w->host->client))
		fake_stop(w->host->fake);
}

static void
serve_until_it_ends(struct host *h)
{
	struct watch w = { .host = h, .fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK) };
	struct itimerspec tick = { { 0, TICK_MS * 1000000 }, { 0, TICK_MS * 1000000 } };

	if (w.fd < 0 || timerfd_settime(w.fd, 0, &tick, NULL) != 0 || fake_watch(h->fake, w.fd, on_tick, &w) != 0 ||
	    fake_run(h->fake, client_pidfd(h->client)) != 0)
		harness_error(h->t, "the fake server: %s", strerror(errno));
	fake_unwatch(h->fake, w.fd);
	close(w.fd);
}

void
host_run(struct host *h, void (*begin)(struct host *h))
{
	const char *in = client_in(h->client);

	if (in != NULL)
		fill_file(h->t, in, h->export.size);
	h->fake = fake_new(&h->config);
	if (h->fake == NULL || fake_add_listener(h->fake, client_listen(h->client)) != 0)
		harness_error(h->t, "the fake server: %s", strerror(errno));
	if (begin != NULL)
		begin(h);
	client_start(h->client);
	serve_until_it_ends(h);
	h->end = client_finish(h->client);
	/* What it sent last is still to be taken. */
	for (int i = 0; i < 1000 && fake_turn(h->fake) > 0; i++)
		;
	h->seen = fake_count(h->fake);
	fake_free(h->fake);
	h->fake = NULL;
}

/* ---- the judgement ---- */

bool
succeeded(const struct host *h)
{
	return h->end.status == 0;
}

void
judge_end(struct host *h, enum requirement_id r)
{
	if (h->waited)
		return;
	if (h->end.killed || h->end.signal != 0)
		broken_values(h->t, r, "the client ends by itself", h->end.text);
}

bool
copies(const struct host *h)
{
	return client_in(h->client) != NULL || client_out(h->client) != NULL;
}

static void
compare(struct host *h, const char *path, enum requirement_id r)
{
	static uint8_t want[PIECE], is[PIECE];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	for (uint64_t at = 0; at < h->export.size; at += PIECE) {
		size_t n = h->export.size - at < PIECE ? (size_t)(h->export.size - at) : PIECE, i = 0;

		disk_read(h->export.disk, at, n, want);
		if (fd < 0 || pread(fd, is, n, (off_t)at) != (ssize_t)n)
			broken(h->t, r, "the client ends with exit status 0, and its copy is not whole: %s",
			       fd < 0 ? strerror(errno) : "it is short");
		while (i < n && want[i] == is[i])
			i++;
		if (i < n)
			broken(h->t, r,
			       "the client ends with exit status 0, and at offset %llu the export holds 0x%02x, the "
			       "file "
			       "0x%02x",
			       (unsigned long long)(at + i), want[i], is[i]);
	}
	close(fd);
}

void
judge_copy(struct host *h, enum requirement_id r)
{
	if (!succeeded(h))
		return;
	if (client_in(h->client) != NULL)
		compare(h, client_in(h->client), r);
	if (client_out(h->client) != NULL)
		compare(h, client_out(h->client), r);
}
