/* All combinations of the transmission product, and their names. */
#include "cases/explore/product.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIB = 1 << 20, LEAST = 512, WHOLE_MOST = 8 * MIB };

static const struct {
	const char *name;
	uint16_t type;
} commands[COMMANDS] = {
	{ "READ", NBD_CMD_READ },
	{ "WRITE", NBD_CMD_WRITE },
	{ "FLUSH", NBD_CMD_FLUSH },
	{ "TRIM", NBD_CMD_TRIM },
	{ "CACHE", NBD_CMD_CACHE },
	{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES },
	{ "BLOCK_STATUS", NBD_CMD_BLOCK_STATUS },
	{ "UNKNOWN", UNKNOWN_COMMAND },
};
static const char *const mode_names[MODES] = { "simple", "structured", "contexts" };
static const char *const flag_names[6] = { "FUA", "NO_HOLE", "DF", "REQ_ONE", "FAST_ZERO", "PAYLOAD_LEN" };
static const char *const place_names[PLACES] = {
	[PLACE_START] = "start",
	[PLACE_SECOND] = "second",
	[PLACE_ODD_OFFSET] = "odd-offset",
	[PLACE_ODD_LENGTH] = "odd-length",
	[PLACE_MIDDLE] = "middle",
	[PLACE_LAST] = "last",
	[PLACE_LAST_FOUR] = "last-four",
	[PLACE_ACROSS_END] = "across-end",
	[PLACE_AT_END] = "at-end",
	[PLACE_FAR] = "far",
	[PLACE_OVERFLOW] = "overflow",
	[PLACE_EMPTY] = "empty",
	[PLACE_EMPTY_MIDDLE] = "empty-middle",
	[PLACE_64K] = "64k",
	[PLACE_1M] = "1m",
	[PLACE_3M] = "3m",
};

uint16_t
command_of(const struct combination *c)
{
	return commands[c->command].type;
}

bool
is_write(uint16_t command)
{
	return command == NBD_CMD_WRITE || command == NBD_CMD_WRITE_ZEROES || command == NBD_CMD_TRIM;
}

struct combination
combination_at(unsigned i)
{
	struct combination c = { .place = i % PLACES };

	c.flags = i / PLACES % FLAG_SETS;
	c.command = i / PLACES / FLAG_SETS % COMMANDS;
	c.mode = i / PLACES / FLAG_SETS / COMMANDS % MODES;
	return c;
}

/* ---- where ---- */

uint32_t
block_of(const struct entered *e)
{
	return e->minimum > LEAST ? e->minimum : LEAST;
}

/* The end as far as whole blocks go. */
static uint64_t
end_of(const struct entered *e)
{
	return e->size / e->minimum * e->minimum;
}

static uint64_t
middle_of(const struct entered *e)
{
	return e->size / 2 & ~UINT64_C(0xffff);
}

unsigned
spans_of(const struct entered *e, struct span spans[3])
{
	uint32_t block = block_of(e);

	/* What stands behind the last whole block nobody can get at (proto.md:826). */
	spans[0] = (struct span){ 0, end_of(e) };
	if (e->size <= WHOLE_MOST)
		return 1;
	spans[0].length = 8 * block;
	spans[1] = (struct span){ middle_of(e), 3 * MIB + 16 * block };
	spans[2] = (struct span){ end_of(e) - 8 * block, 8 * block };
	return 3;
}

static struct span
range_of(enum place place, const struct entered *e)
{
	uint32_t block = block_of(e), odd = e->minimum > 1 ? e->minimum / 2 : 7;
	uint64_t end = end_of(e), middle = middle_of(e);
	uint64_t far = e->size < UINT64_MAX >> 1 ? end + (UINT64_C(1) << 40) : end + (UINT64_C(1) << 62);
	const struct span ranges[PLACES] = {
		[PLACE_START] = { 0, block },
		[PLACE_SECOND] = { block, 3 * block },
		[PLACE_ODD_OFFSET] = { odd, block },
		[PLACE_ODD_LENGTH] = { 0, block + odd },
		[PLACE_MIDDLE] = { middle, 8 * block },
		[PLACE_LAST] = { end - block, block },
		[PLACE_LAST_FOUR] = { end - 4 * block, 4 * block },
		[PLACE_ACROSS_END] = { end - block, 2 * block },
		[PLACE_AT_END] = { end < e->size ? end + e->minimum : end, block },
		[PLACE_FAR] = { far, block },
		[PLACE_OVERFLOW] = { -(uint64_t)block, 2 * block },
		[PLACE_EMPTY] = { 0, 0 },
		[PLACE_EMPTY_MIDDLE] = { middle, 0 },
		[PLACE_64K] = { middle + block, 65536 },
		[PLACE_1M] = { middle, MIB },
		[PLACE_3M] = { middle + 4 * block, 3 * MIB },
	};

	return ranges[place];
}

struct request
request_of(const struct combination *c, const struct entered *e)
{
	struct span range = range_of(c->place, e);

	return (struct request){ .magic = NBD_REQUEST_MAGIC,
		                 .flags = c->flags,
		                 .type = command_of(c),
		                 .offset = range.offset,
		                 .length = (uint32_t)range.length };
}

/* ---- what is left out ---- */

const char *
left_out_text(enum left_out l)
{
	static const char *const texts[LEFT_REASONS] = {
		[LEFT_STRUCTURED] = "for want of structured replies",
		[LEFT_CONTEXTS] = "for want of base:allocation",
		[LEFT_NOT_OURS] = "would write to what is not ours",
		[LEFT_SMALL] = "for want of room in the export",
		[LEFT_LONG] = "above the maximum payload size",
		[LEFT_DANGER] = "contain what the server hangs in or dies of",
		[LEFT_GONE] = "for want of a server",
	};

	return texts[l];
}

/* A place that lies within an export that is large enough. */
static bool
has_room(const struct combination *c, const struct entered *e)
{
	struct span range = range_of(c->place, e);
	uint32_t block = block_of(e);

	if (e->size < 8 * (uint64_t)block)
		return c->place == PLACE_FAR || c->place == PLACE_OVERFLOW || c->place == PLACE_EMPTY;
	if (c->place >= PLACE_ACROSS_END && c->place <= PLACE_OVERFLOW)
		return true;
	return range.offset <= e->size && range.length <= e->size - range.offset;
}

enum left_out
left_out(const struct combination *c, const struct entered *e, bool may_write)
{
	uint16_t type = command_of(c);

	if (!e->there)
		return c->mode == MODE_STRUCTURED ? LEFT_STRUCTURED : LEFT_CONTEXTS;
	if (is_write(type) && !may_write)
		return LEFT_NOT_OURS;
	if (!has_room(c, e))
		return LEFT_SMALL;
	if ((type == NBD_CMD_READ || type == NBD_CMD_WRITE) && range_of(c->place, e).length > e->maximum)
		return LEFT_LONG;
	return LEFT_NOT;
}

/* ---- names ---- */

static void
put_name(FILE *f, const struct combination *c)
{
	fputs(commands[c->command].name, f);
	for (unsigned i = 0; i < COUNT(flag_names); i++)
		if ((c->flags & 1u << i) != 0)
			fprintf(f, "+%s", flag_names[i]);
	fprintf(f, "@%s", place_names[c->place]);
}

char *
combinations_text(const struct combination *c, unsigned n)
{
	char *text;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		abort();
	fprintf(f, "%s:", mode_names[c->mode]);
	for (unsigned i = 0; i < n; i++) {
		if (i > 0)
			putc(c[i].waits ? ';' : ',', f);
		put_name(f, &c[i]);
	}
	fclose(f);
	return text;
}

static int
find_name(const char *const *names, unsigned n, const char *text, size_t len)
{
	for (unsigned i = 0; i < n; i++)
		if (strlen(names[i]) == len && memcmp(names[i], text, len) == 0)
			return (int)i;
	return -1;
}

bool
is_combinations(const char *text)
{
	return find_name(mode_names, MODES, text, strcspn(text, ":")) >= 0 && strchr(text, '@') != NULL;
}

/* COMMAND+FLAG@place */
static bool
parse_one(const char *text, size_t len, struct combination *c)
{
	size_t word = strcspn(text, "+@,;");
	int found = -1;

	for (unsigned i = 0; i < COMMANDS; i++)
		if (strlen(commands[i].name) == word && memcmp(commands[i].name, text, word) == 0)
			found = (int)i;
	if (found < 0)
		return false;
	c->command = (uint8_t)found;
	for (text += word, len -= word; len > 0 && *text == '+'; text += word + 1, len -= word + 1) {
		word = strcspn(text + 1, "+@,;");
		found = find_name(flag_names, COUNT(flag_names), text + 1, word);
		if (found < 0)
			return false;
		c->flags |= (uint8_t)(1u << found);
	}
	found = len > 0 && *text == '@' ? find_name(place_names, PLACES, text + 1, len - 1) : -1;
	c->place = (uint8_t)(found < 0 ? 0 : found);
	return found >= 0;
}

unsigned
combinations_parse(const char *text, struct combination c[MOST_COMBINATIONS], char error[256])
{
	size_t len = strcspn(text, ":");
	int mode = find_name(mode_names, MODES, text, len);
	unsigned n = 0;
	bool waits = false;

	for (text += len; *text != '\0'; text += len, n++) {
		len = strcspn(++text, ",;");
		if (mode < 0 || n == MOST_COMBINATIONS ||
		    (c[n] = (struct combination){ .mode = (uint8_t)mode, .waits = waits },
		     !parse_one(text, len, &c[n]))) {
			snprintf(error, 256, "'%.*s': want COMMAND+FLAG@place, such as WRITE+FUA@start", (int)len,
			         text);
			return 0;
		}
		waits = text[len] == ';';
	}
	return n;
}
