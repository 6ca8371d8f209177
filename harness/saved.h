/*
 * Reports that earlier runs have written with --json (docs/json-schema.json). Whoever wrote them, what is returned is sound:
 * every key that the schema asks for has a value of its type, and every text is printable() (harness/printable.h).
 */
#ifndef NBDSPEC_SAVED_H
#define NBDSPEC_SAVED_H

#include "harness/result.h"

#include <jansson.h>

enum { JSON_FORMAT = 1 }; /* grows when a reader of the old form would misread the new one */

/*
 * NULL and one line in error, "PATH: …"; then *other, where `other` is not NULL, says that it is JSON of another kind. The
 * caller releases it by json_decref().
 */
json_t *saved_read(const char *path, bool *other, char error[512]);

/* Its two steps, for a reader of more than one kind: any JSON, and the run in it. The second takes the JSON. */
json_t *saved_load(const char *path, char error[512]);
json_t *saved_run(json_t *json, const char *path, bool *other, char error[512]);

/* All texts of it made printable, but those of the key "replay", which are to be run. Takes the value. */
json_t *saved_printable(json_t *value);

/* The text or number of a key: "" and 0 where it is null or missing. */
const char *saved_text(const json_t *object, const char *key);
json_int_t saved_number(const json_t *object, const char *key);

/* "group/name[point]", malloc'd. */
char *saved_id(const json_t *result);
enum verdict saved_verdict(const json_t *result);

/* What a case says of itself there: { title, cites }. */
const json_t *saved_case(const json_t *run, const json_t *result);

/*
 * A result as it was given to the report writers, with the bytes of the peer as they came. The texts live until
 * saved_forget(). False where it names a requirement that this program does not know.
 */
struct saved_result {
	struct result result;
	enum requirement_id *cites;
	char *texts[16];
	unsigned n_texts;
};
bool saved_result(const json_t *run, const json_t *result, struct saved_result *s);
void saved_forget(struct saved_result *s);

#endif
