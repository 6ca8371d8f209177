/* A client that is explored: through its driver in one process for many plays, or as a command that is run for each. */
#include "cases/explore/player_private.h"

#include "cases/client/haggle.h"
#include "cases/client/judge.h"
#include "fakeserver/core.h"
#include "fakeserver/disk.h"
#include "harness/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LOOK_MS = 20, QUIET_MS = 100 };

struct play_breach subject_breaches[PLAY_BREACHES];
static const struct script *followed;
static enum requirement_id (*owed)(void);

/* ---- breaches ---- */

static struct play_breach *
new_breach(const enum requirement_id *broken, const char *expected)
{
	struct play_breach *b = &subject_breaches[player.n_breaches];

	if (player.n_breaches == PLAY_BREACHES)
		return NULL;
	player.n_breaches++;
	*b = (struct play_breach){ 0 };
	for (int i = 0; i < ALSO_MOST && broken[i] != REQUIREMENT_NONE; i++)
		b->broken[i] = broken[i];
	snprintf(b->expected, sizeof(b->expected), "%s", expected);
	return b;
}

void
player_breach(const enum requirement_id *broken, const char *expected, const char *fmt, ...)
{
	struct play_breach *b = new_breach(broken, expected);
	va_list ap;

	if (b == NULL)
		return;
	va_start(ap, fmt);
	vsnprintf(b->got, sizeof(b->got), fmt, ap);
	va_end(ap);
}

static void
stuck(bool silent, const char *expected, const char *got)
{
	struct play_breach *b = new_breach(BROKEN(owed()), expected);

	player.stuck = true;
	if (b == NULL)
		return;
	b->silent = silent;
	snprintf(b->got, sizeof(b->got), "%s", got);
}

/* ---- its coming and going ---- */

void
subject_start(const struct script *script, enum requirement_id (*what_is_owed)(void))
{
	static struct test *const *const of = &player.t;
	struct host *h = host_new(*of, NULL);

	followed = script;
	owed = what_is_owed;
	if (client_driver(h->client) == NULL) {
		player.h = h;
		script_follow(&h->config, script);
		return;
	}
	player.d = drive_new(*of);
}

void
subject_renew(void)
{
	if (player.d == NULL)
		return;
	/* A point that is open has its driver started anew. */
	drive_serve(player.d, "contexts=base:allocation", NULL);
	drive_follow(player.d, followed);
}

off_t
subject_mark(void)
{
	if (player.d == NULL)
		return trace_end(player.h->config.trace);
	drive_mark(player.d);
	return player.d->from;
}

struct fake_export *
player_export(void)
{
	return player.d != NULL ? &player.d->exports[0] : &player.h->export;
}

struct fake_server *
player_server(void)
{
	return player.d != NULL ? player.d->fake : player.h->fake;
}

/* ---- the driver ---- */

static unsigned
send_line(unsigned handle, const char *fmt, va_list ap)
{
	char *text;
	unsigned tag;

	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	tag = driver_send(player.d->driver, handle, "%s", text);
	note(player.t, "> %u %u %s", tag, handle, text);
	free(text);
	return tag;
}

/* Valid until so many others were kept. */
static void
keep(struct driver_answer *a)
{
	static const char *const words[] = { "ok", "error", "unsupported" };
	static char *kept[32];
	static unsigned turn;
	char **place = &kept[turn++ % 32];

	free(*place);
	*place = strdup(a->text);
	if (*place == NULL)
		abort();
	a->text = *place;
	note(player.t, "< %u %s %s", a->tag, words[a->result], a->text);
}

/* Who waits for what an unlawful server keeps back is hung up on. */
bool
player_answer(struct driver_answer *a)
{
	double factor = client_factor(player.d->client);
	int64_t began = now_ms(), limit = (int64_t)(DRIVER_LIMIT_MS * factor), waited = 0;
	enum driver_took how;

	while ((how = driver_take(player.d->driver, a, LOOK_MS)) == DRIVER_NOTHING && waited < limit) {
		if (player.unlawful && waited >= (int64_t)(QUIET_MS * factor))
			fake_disconnect(player.d->fake, 0);
		waited = now_ms() - began;
	}
	if (how == DRIVER_TOOK)
		keep(a);
	else
		stuck(how == DRIVER_NOTHING, "the client's driver answers",
		      how == DRIVER_NOTHING ? "nothing within the time limit" : driver_error(player.d->driver));
	return how == DRIVER_TOOK;
}

unsigned
player_send(unsigned handle, const char *fmt, ...)
{
	unsigned tag;
	va_list ap;

	va_start(ap, fmt);
	tag = send_line(handle, fmt, ap);
	va_end(ap);
	if (tag == 0)
		stuck(false, "the client's driver takes a request", driver_error(player.d->driver));
	return tag;
}

bool
player_ask(struct driver_answer *a, unsigned handle, const char *fmt, ...)
{
	unsigned tag;
	va_list ap;

	va_start(ap, fmt);
	tag = send_line(handle, fmt, ap);
	va_end(ap);
	if (tag != 0)
		return player_answer(a);
	stuck(false, "the client's driver takes a request", driver_error(player.d->driver));
	return false;
}

/* ---- the command ---- */

bool
player_run(void)
{
	const struct client_end *e = &player.h->end;

	player.h->unlawful = false;
	host_run(player.h);
	if (hung(player.h))
		stuck(true, "the client ends by itself", e->text);
	else if (e->signal != 0 && e->signal != SIGPIPE)
		stuck(false, "the client ends by itself", e->text);
	return !player.stuck;
}

/* Where the two differ first; `n` where they do not, in what the file has. */
static uint64_t
same_until(int fd, struct disk *disk, uint64_t n)
{
	static uint8_t want[65536], is[65536];

	for (uint64_t at = 0; at < n; at += sizeof(want)) {
		size_t some = n - at < sizeof(want) ? (size_t)(n - at) : sizeof(want), i = 0;
		ssize_t got = pread(fd, is, some, (off_t)at);

		disk_read(disk, at, some, want);
		while (i < some && (ssize_t)i < got && want[i] == is[i])
			i++;
		if (i < some)
			return at + i;
	}
	return n;
}

void
player_judge_copy(enum requirement_id r, uint64_t size)
{
	const char *path =
		client_out(player.h->client) != NULL ? client_out(player.h->client) : client_in(player.h->client);
	uint64_t until;
	int fd;

	if (path == NULL || !succeeded(player.h))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	until = fd >= 0 ? same_until(fd, player_export()->disk, size) : 0;
	if (fd < 0)
		player_breach(BROKEN(r), "the client has made its copy, or fails", "exit status 0, and no copy");
	else if (until < size)
		player_breach(BROKEN(r), "the client's copy has the data of the disk, or it fails",
		              "exit status 0, and the two differ at offset %llu", (unsigned long long)until);
	if (fd >= 0)
		close(fd);
}

/* ---- the referee ---- */

static void
on_broken(void *arg, uint16_t connection, enum requirement_id r, const char *text)
{
	struct play_breach *b;

	(void)arg;
	/* One act may break several. */
	for (unsigned i = 0; i < player.n_breaches; i++) {
		b = &subject_breaches[i];
		if (strcmp(b->got, text) == 0) {
			for (int k = 1; k < ALSO_MOST; k++)
				if (b->broken[k] == REQUIREMENT_NONE) {
					b->broken[k] = r;
					return;
				}
		}
	}
	(void)connection;
	player_breach(BROKEN(r), requirement(r)->text, "%s", text);
}

static void
referee_sees(struct wire records, const struct referee_setup *setup)
{
	struct referee *referee = referee_new(setup, on_broken, NULL);
	struct trace_record record;

	while (trace_next(&records, &record))
		referee_see(referee, &record);
	referee_end(referee);
}

static void
judge_run(void)
{
	struct trace *trace = player.h->config.trace;
	off_t end = trace_end(trace), from = player.h->seen_from;
	void *map;

	if (player.h->end.killed || end == from)
		return;
	map = mmap(NULL, (size_t)end, PROT_READ, MAP_SHARED, trace->fd, 0);
	if (map == MAP_FAILED)
		harness_error(player.t, "cannot read the trace: %s", strerror(errno));
	referee_sees(wire((uint8_t *)map + from, (size_t)(end - from)),
	             &(struct referee_setup){ .server_lies = player.unlawful });
	munmap(map, (size_t)end);
}

void
player_judge(void)
{
	if (player.d == NULL) {
		judge_run();
		return;
	}
	let_leave(player.d);
	referee_sees(drive_records(player.d), &(struct referee_setup){ .server_lies = player.unlawful });
	fake_disconnect(player.d->fake, 0);
}
