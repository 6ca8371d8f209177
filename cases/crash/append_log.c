/*
 * A log that only grows, up to its end, where it starts anew: records without checksums, and a sector that says how far
 * they go. Each fsync can be left out: append_log write FILE [WITHOUT], or create, which makes the file; append_log check FILE.
 */
#include "cases/crash/crash.h"

#include <errno.h>

enum {
	RECORD = 1536, /* three sectors, lest it be there whole or not at all */
	FIRST = 4096,
	RECORDS = 3, /* in a generation */
	GENERATIONS = 3,
};
enum { SYNC_CREATE = 1, SYNC_RECORD, SYNC_HEAD, SYNC_RESET, SYNC_CLOSE };

#define MAGIC UINT64_C(0x6c6f672d68656164)

struct head {
	uint64_t magic, generation, records;
};

static off_t
place(uint64_t record)
{
	return FIRST + (off_t)(record * RECORD);
}

static void
fill_record(uint8_t *data, uint64_t generation, uint64_t record)
{
	fill(data, RECORD, generation << 32 | (record + 1));
}

static void
put_head(int fd, uint64_t generation, uint64_t records)
{
	uint8_t sector[512] = { 0 };
	struct head h = { MAGIC, generation, records };

	memcpy(sector, &h, sizeof(h));
	put(fd, sector, sizeof(sector), 0);
}

static int
write_log(const char *path, int flags, int without)
{
	uint8_t data[RECORD];
	int fd = open(path, flags | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		fail(path);
	put_head(fd, 1, 0);
	sync_unless(fd, SYNC_CREATE, without);
	mark("1 0");
	for (uint64_t g = 1; g <= GENERATIONS; g++) {
		for (uint64_t i = 0; i < RECORDS; i++) {
			fill_record(data, g, i);
			put(fd, data, sizeof(data), place(i));
			sync_unless(fd, SYNC_RECORD, without);
			put_head(fd, g, i + 1);
			sync_unless(fd, SYNC_HEAD, without);
			mark("%d %d", (int)g, (int)i + 1);
		}
		if (g == GENERATIONS)
			break;
		/* The old records are overwritten next: none may count any more. */
		put_head(fd, g + 1, 0);
		sync_unless(fd, SYNC_RESET, without);
		mark("%d 0", (int)g + 1);
	}
	/* What is promised is durable already. */
	sync_unless(fd, SYNC_CLOSE, without);
	close(fd);
	return 0;
}

static int
check_log(const char *path)
{
	uint64_t generation = 0, records = 0;
	uint8_t is[RECORD], want[RECORD];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct head h = { 0 };

	/* In a filesystem the file may not be there yet, or be empty. */
	if (fd < 0 && errno != ENOENT)
		fail(path);
	if (fd >= 0 && pread(fd, &h, sizeof(h), 0) < 0)
		fail("pread");
	if (last_mark()[0] != '\0' && sscanf(last_mark(), "%lu %lu", &generation, &records) != 2)
		return bad("mark '%s' is none of ours", last_mark());
	if (h.magic != MAGIC)
		return generation == 0 && h.magic == 0 ? 0 : bad("there is no log");
	if (h.generation < generation || (h.generation == generation && h.records < records))
		return bad("generation %lu, %lu records: %lu, %lu were acknowledged", h.generation, h.records,
		           generation, records);
	if (h.generation > GENERATIONS || h.records > RECORDS)
		return bad("generation %lu with %lu records", h.generation, h.records);
	for (uint64_t i = 0; i < h.records; i++) {
		get(fd, is, sizeof(is), place(i));
		fill_record(want, h.generation, i);
		if (memcmp(is, want, sizeof(is)) != 0)
			return bad("generation %lu: record %lu is not what was written", h.generation, i);
	}
	return 0;
}

int
main(int argc, char **argv)
{
	/* A disk that is not there must not become a file. */
	if (argc >= 3 && strcmp(argv[1], "write") == 0)
		return write_log(argv[2], 0, argc > 3 ? atoi(argv[3]) : 0);
	if (argc >= 3 && strcmp(argv[1], "create") == 0)
		return write_log(argv[2], O_CREAT | O_EXCL, argc > 3 ? atoi(argv[3]) : 0);
	if (argc == 3 && strcmp(argv[1], "check") == 0)
		return check_log(argv[2]);
	fputs("usage: append_log write|create FILE [WITHOUT] | check FILE\n", stderr);
	return 2;
}
