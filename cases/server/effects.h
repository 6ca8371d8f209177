/* What the cases about commands without payload share (trim.c, zeroes.c, cache.c, fua.c); defined in effects.c. */
#ifndef NBDSPEC_CASES_EFFECTS_H
#define NBDSPEC_CASES_EFFECTS_H

#include "cases/server/transmission.h"

/* ---- where ---- */

/* Ranges of all kinds, valid where the export is large enough and its blocks are small enough. */
struct place {
	int64_t offset; /* from the export's end where it is negative, bytes */
	uint32_t length;
};
enum { N_PLACES = 8, N_FAR = 6 };
extern const struct place places[N_PLACES];
extern const struct place far_places[N_FAR];
/* Skips where the export has no such range; its length may exceed the maximum payload size (proto.md:866). */
struct range range_at(struct test *t, struct place p);

/* ---- contents ---- */

/*
 * Bytes of known contents, none of them zero, around both ends of a range, within it, and where it would lie if its
 * offset or its length were misread. Everything of a range up to 128 KiB is among them.
 */
struct patch {
	uint64_t from;
	uint32_t length;
	uint8_t *was;
};
enum { PATCHES = 24 };
struct scene {
	struct range range;
	unsigned n;
	struct patch at[PATCHES];
};
struct scene paint_scene(struct test *t, struct range range, unsigned seed);
/* What the range holds now. Outside of it the scene must be as it was painted, or `outside` is broken. */
enum inside { ZEROES, ANYTHING, AS_BEFORE };
void expect_scene(struct test *t, const struct scene *s, enum inside inside, enum requirement_id outside,
                  enum requirement_id within);

/* ---- requests ---- */

/* In either style of replies: the next request is served, or `r` is broken. */
void goes_on(struct test *t, enum requirement_id r);
/* A request that breaks a MUST of ours: its error, or GONE where the server left instead, and the next client was served. */
uint32_t venture(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint32_t length);
/*
 * A TRIM, and a WRITE_ZEROES without FAST_ZERO, that must be carried out. They skip where the request is refused for its
 * length alone, where the storage fails TRIM, and unless it is for this case to judge where the command is not known.
 */
void trim_judged(struct test *t, struct range range);
void trim_served(struct test *t, struct range range);
void zeroes_judged(struct test *t, struct range range);
void zeroes_served(struct test *t, uint16_t flags, struct range range);
void flush_served(struct test *t); /* or skips: other cases judge */
/* An error that says that the command, its flags, or its range is not understood. */
bool is_refusal(uint32_t error);
/* Skips where this export shall not be harmed, read-only or not. */
void need_expendable(struct test *t);
/* A command with an effect on a read-only export: `eperm` is owed, or NBD_EINVAL too where it is not offered either. */
void venture_read_only(struct test *t, uint16_t type, uint16_t flag, enum requirement_id eperm);

#endif
