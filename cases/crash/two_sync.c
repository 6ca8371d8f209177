/*
 * The transactions with two syncs instead of four that were proposed for TDB in 2010 (virtio-spec: document block CMD and
 * FLUSH): recovery data, which a checksum makes one with its header, goes into one of two places by turns; sync; the new data
 * goes over the old; sync. Nothing is removed afterwards: "choose the most recent log_space and replay the content". Here it
 * holds the old data, as TDB's does, so that somebody has to tell whether the new data is whole: by its checksum, which
 * may "go in the recovery-data block".
 *
 * two_sync write FILE [VARIANT]; two_sync check FILE [VARIANT]: no-data-checksum, no-log-checksum, no-sync-1, no-sync-2.
 */
#include "cases/crash/crash.h"

#include <stddef.h>

enum { PAGE = 4096, PAGES = 4, TOUCHED = 2, COMMITS = 6 };
enum { LOG_AT = 4096, LOG_SIZE = 4096 + TOUCHED * PAGE, DATA_AT = LOG_AT + 2 * LOG_SIZE };
enum { SYNC_LOG = 1, SYNC_DATA };

#define MAGIC UINT64_C(0x74776f2d73796e63)

struct header {
	uint64_t magic, commit;
	uint64_t pages[TOUCHED];
	uint64_t new_checksum; /* of the new data */
	uint64_t log_checksum; /* of the header up to here, and of the old data */
};

struct log {
	struct header h;
	uint8_t old[TOUCHED][PAGE];
};

struct variant {
	const char *name;
	int without; /* a sync */
	int data_checksum, log_checksum;
};

static const struct variant variants[] = {
	{ "", 0, 1, 1 },          { "no-data-checksum", 0, 0, 1 },  { "no-log-checksum", 0, 1, 0 },
	{ "no-sync-1", 1, 1, 1 }, { "no-sync-2", SYNC_DATA, 1, 1 },
};

static uint64_t
log_checksum(const struct log *l)
{
	uint64_t h = checksum(&l->h, offsetof(struct header, log_checksum), CHECKSUM_START);

	return checksum(l->old, sizeof(l->old), h);
}

static off_t
page_at(uint64_t page)
{
	return DATA_AT + (off_t)(page * PAGE);
}

/* Commit n changes pages n and n + 1. Page p after commit n is as the last commit up to n left it; 0: blank. */
static uint64_t
touched(uint64_t commit, unsigned i)
{
	return (commit + i) % PAGES;
}

static void
fill_page(uint8_t *data, uint64_t page, uint64_t commit)
{
	memset(data, 0, PAGE);
	for (uint64_t n = commit; n > 0; n--)
		for (unsigned i = 0; i < TOUCHED; i++)
			if (touched(n, i) == page) {
				fill(data, PAGE, n << 8 | page);
				return;
			}
}

/* ---- the workload ---- */

static void
put_log(int fd, uint64_t n, const uint8_t new[TOUCHED][PAGE])
{
	static struct log l;
	off_t at = LOG_AT + (off_t)(n % 2) * LOG_SIZE;

	memset(&l, 0, sizeof(l));
	l.h = (struct header){ .magic = MAGIC, .commit = n };
	for (unsigned i = 0; i < TOUCHED; i++) {
		l.h.pages[i] = touched(n, i);
		get(fd, l.old[i], PAGE, page_at(l.h.pages[i]));
	}
	l.h.new_checksum = checksum(new, (size_t)TOUCHED * PAGE, CHECKSUM_START);
	l.h.log_checksum = log_checksum(&l);
	put(fd, &l.h, sizeof(l.h), at);
	put(fd, l.old, sizeof(l.old), at + 4096);
}

static int
write_all(const char *path, const struct variant *v)
{
	static uint8_t new[TOUCHED][PAGE];
	int fd = open_disk(path, O_RDWR);

	for (uint64_t n = 1; n <= COMMITS; n++) {
		for (unsigned i = 0; i < TOUCHED; i++)
			fill_page(new[i], touched(n, i), n);
		put_log(fd, n, new);
		sync_unless(fd, SYNC_LOG, v->without);
		for (unsigned i = 0; i < TOUCHED; i++)
			put(fd, new[i], PAGE, page_at(touched(n, i)));
		sync_unless(fd, SYNC_DATA, v->without);
		mark("%d", (int)n);
	}
	close(fd);
	return 0;
}

/* ---- the checker ---- */

/* The most recent recovery data that is whole; its commit, or 0. */
static uint64_t
find_log(int fd, const struct variant *v, struct log *found)
{
	static struct log l;

	found->h.commit = 0;
	for (unsigned i = 0; i < 2; i++) {
		off_t at = LOG_AT + (off_t)i * LOG_SIZE;

		get(fd, &l.h, sizeof(l.h), at);
		get(fd, l.old, sizeof(l.old), at + 4096);
		if (l.h.magic == MAGIC && l.h.commit > found->h.commit &&
		    (!v->log_checksum || l.h.log_checksum == log_checksum(&l)))
			*found = l;
	}
	return found->h.commit;
}

/* Which commit the pages are of, or -1. */
static int
commit_of(uint8_t pages[PAGES][PAGE])
{
	uint8_t want[PAGE];

	for (int n = COMMITS; n >= 0; n--) {
		int p = 0;

		while (p < PAGES && (fill_page(want, (uint64_t)p, (uint64_t)n), memcmp(want, pages[p], PAGE) == 0))
			p++;
		if (p == PAGES)
			return n;
	}
	return -1;
}

static int
check_all(const char *path, const struct variant *v)
{
	static struct log l;
	static uint8_t pages[PAGES][PAGE];
	uint64_t sum = CHECKSUM_START;
	int fd = open_disk(path, O_RDONLY), is, must = atoi(last_mark());

	for (uint64_t p = 0; p < PAGES; p++)
		get(fd, pages[p], PAGE, page_at(p));
	if (find_log(fd, v, &l) > 0) {
		for (unsigned i = 0; i < TOUCHED; i++)
			sum = checksum(pages[l.h.pages[i] % PAGES], PAGE, sum);
		/* Without the checksum nobody knows: what is not known to be whole is taken back. */
		for (unsigned i = 0; i < TOUCHED && (!v->data_checksum || sum != l.h.new_checksum); i++)
			memcpy(pages[l.h.pages[i] % PAGES], l.old[i], PAGE);
	}
	is = commit_of(pages);
	if (is < 0)
		return bad("after recovery from the log of commit %lu the data is of no commit", l.h.commit);
	if (is < must)
		return bad("after recovery the data is of commit %d; %d was acknowledged", is, must);
	return is <= must + 1 ? 0 : bad("the data is of commit %d, which had not begun after %d", is, must);
}

int
main(int argc, char **argv)
{
	const char *name = argc > 3 ? argv[3] : "";

	for (size_t i = 0; argc > 2 && i < sizeof(variants) / sizeof(variants[0]); i++) {
		if (strcmp(variants[i].name, name) != 0)
			continue;
		if (strcmp(argv[1], "write") == 0)
			return write_all(argv[2], &variants[i]);
		if (strcmp(argv[1], "check") == 0)
			return check_all(argv[2], &variants[i]);
	}
	fputs("usage: two_sync write|check FILE [no-data-checksum|no-log-checksum|no-sync-1|no-sync-2]\n", stderr);
	return 2;
}
