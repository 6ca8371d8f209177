/* Knobs and exports as they are written on a command line. */
#include "fakeserver/disk.h"
#include "fakeserver/server.h"
#include "harness/cli.h"
#include "harness/names.h"
#include "harness/nbd.h"
#include "harness/requirement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The requirement stands here so that a misspelt one does not compile. */
static const struct {
	const char *name, *text;
	enum requirement_id requirement;
} knobs[] = {
#define KNOB(name, requirement, text) { #name, text, R(requirement) },
#include "fakeserver/knobs.def"
#undef KNOB
};

const char *
knob_name(enum knob k)
{
	return knobs[k].name;
}

const char *
knob_text(enum knob k)
{
	return knobs[k].text;
}

enum requirement_id
knob_requirement(enum knob k)
{
	return knobs[k].requirement;
}

bool
knob_parse(const char *text, struct fake_config *config, char error[256])
{
	bool on = strncmp(text, "no-", 3) != 0;
	const char *name = on ? text : text + 3;

	for (int k = 0; k < N_KNOBS; k++)
		if (strcmp(knobs[k].name, name) == 0) {
			config->knob[k] = on;
			return true;
		}
	snprintf(error, 256, "no knob is called '%.100s'; 'nbdspec serve --list-knobs' tells them all", name);
	return false;
}

/* ---- exports ---- */

static const uint64_t size_most = INT64_MAX, size_default = 64 << 20;
static const uint16_t flags_default = NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
                                      NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_DF | NBD_FLAG_CAN_MULTI_CONN |
                                      NBD_FLAG_SEND_CACHE | NBD_FLAG_SEND_FAST_ZERO;
static const uint16_t flags_of_writers = NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
/* What the server can do; the experimental extensions are not among it (proto.md:1134, 1153). */
static const uint16_t flags_known = NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                                    NBD_FLAG_ROTATIONAL | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
                                    NBD_FLAG_SEND_DF | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
                                    NBD_FLAG_SEND_FAST_ZERO;

struct info_block_size
export_block(const struct fake_export *e)
{
	if (e->block.minimum == 0 && e->block.preferred == 0 && e->block.maximum == 0)
		return (struct info_block_size){ 1, 4096, NBD_DEFAULT_MAX_PAYLOAD };
	return e->block;
}

void
export_free(struct fake_export *e)
{
	free(e->name);
	free(e->description);
	cache_free(e->cache);
	disk_free(e->disk);
	*e = (struct fake_export){ 0 };
}

/* "SEND_FLUSH+SEND_FUA", "none", or a number. */
static bool
parse_flags(char *text, uint16_t *flags)
{
	char *state, *name, *end;
	unsigned long bits = strtoul(text, &end, 0);
	uint64_t value;

	*flags = (uint16_t)bits;
	if (end != text && *end == '\0' && text[0] != '-')
		return (bits & ~(unsigned long)flags_known) == 0;
	if (strcmp(text, "none") == 0)
		return true;
	for (name = strtok_r(text, "+|", &state); name != NULL; name = strtok_r(NULL, "+|", &state)) {
		if (!name_value(NAME_TRANSMISSION_FLAG, name, &value) || (value & ~(uint64_t)flags_known) != 0)
			return false;
		*flags |= (uint16_t)value;
	}
	return *flags != 0;
}

/* "base:allocation+x-nbdspec:dirty", or "none". */
static bool
parse_contexts(char *text, unsigned *contexts)
{
	char *state, *name;
	int i;

	*contexts = 0;
	if (strcmp(text, "none") == 0)
		return true;
	for (name = strtok_r(text, "+", &state); name != NULL; name = strtok_r(NULL, "+", &state)) {
		for (i = 0; i < N_META_CONTEXTS && strcmp(meta_context_name((enum meta_context)i), name) != 0; i++)
			;
		if (i == N_META_CONTEXTS)
			return false;
		*contexts |= 1u << i;
	}
	return *contexts != 0;
}

struct export_text {
	struct fake_export *e;
	bool read_only, has_flags;
};

static bool
parse_size(const char *value, uint64_t max, uint64_t *out)
{
	unsigned long long n;

	if (!size_parse(value, &n) || n > max)
		return false;
	*out = n;
	return true;
}

/* Returns what would have been right, or NULL; "" for an unknown key. */
static const char *
set_export(struct export_text *t, const char *key, char *value)
{
	struct fake_export *e = t->e;
	bool is_name = strcmp(key, "name") == 0;
	uint64_t n = 0;

	if (strcmp(key, "read-only") == 0 && value == NULL) {
		t->read_only = true;
		return NULL;
	}
	if (strcmp(key, "tls-only") == 0 && value == NULL) {
		e->tls_only = true;
		return NULL;
	}
	if (value == NULL)
		return "";
	if (is_name || strcmp(key, "description") == 0) {
		if (strlen(value) > NBD_MAX_STRING)
			return "at most 4096 bytes";
		free(is_name ? e->name : e->description);
		*(is_name ? &e->name : &e->description) = strdup(value);
	} else if (strcmp(key, "size") == 0) {
		return parse_size(value, size_most, &e->size) ? NULL : "bytes, up to 2^63-1, with k, M, G, T, P or E";
	} else if (strcmp(key, "flags") == 0) {
		t->has_flags = true;
		return parse_flags(value, &e->flags) ? NULL
		                                     : "names joined by '+' (SEND_FLUSH+SEND_FUA), none, or a number";
	} else if (strcmp(key, "contexts") == 0) {
		return parse_contexts(value, &e->contexts) ? NULL : "names joined by '+' (base:allocation), or none";
	} else if (strcmp(key, "min") == 0 || strcmp(key, "pref") == 0 || strcmp(key, "max") == 0) {
		if (!parse_size(value, UINT32_MAX, &n))
			return "bytes, below 4G";
		*(key[0] == 'p'   ? &e->block.preferred
		  : key[1] == 'i' ? &e->block.minimum
		                  : &e->block.maximum) = (uint32_t)n;
	} else {
		return "";
	}
	return NULL;
}

static bool
is_power_of_2(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

/* Sizes as proto.md:814-842 wants them; what is not given follows from what is. */
static const char *
complete_block(struct fake_export *e)
{
	struct info_block_size *b = &e->block;

	if (b->minimum == 0 && b->preferred == 0 && b->maximum == 0)
		return NULL;
	if (b->minimum == 0)
		b->minimum = 1;
	if (b->preferred == 0)
		b->preferred = b->minimum > 4096 ? b->minimum : 4096;
	if (b->maximum == 0)
		b->maximum = NBD_DEFAULT_MAX_PAYLOAD;
	if (!is_power_of_2(b->minimum) || b->minimum > 65536)
		return "min is a power of 2 up to 65536";
	if (!is_power_of_2(b->preferred) || b->preferred < b->minimum || b->preferred < 512)
		return "pref is a power of 2, no less than min and 512";
	if (b->maximum < b->preferred)
		return "max is no less than pref";
	if (e->size % b->minimum != 0)
		return "size is a multiple of min";
	return NULL;
}

bool
export_change_flag(struct fake_export *e, const char *change, char error[256])
{
	uint16_t flags = e->flags;
	uint64_t value;

	if ((change[0] != '+' && change[0] != '-') || !name_value(NAME_TRANSMISSION_FLAG, change + 1, &value) ||
	    (value & ~(uint64_t)flags_known) != 0) {
		snprintf(error, 256, "'%.60s': want + or - and a flag (+SEND_FLUSH)", change);
		return false;
	}
	flags = (uint16_t)(change[0] == '+' ? flags | value : flags & ~value);
	if ((flags & NBD_FLAG_HAS_FLAGS) == 0 ||
	    ((flags & NBD_FLAG_SEND_FAST_ZERO) != 0 && (flags & NBD_FLAG_SEND_WRITE_ZEROES) == 0)) {
		snprintf(error, 256, "HAS_FLAGS is always set, and SEND_FAST_ZERO goes with SEND_WRITE_ZEROES only");
		return false;
	}
	e->flags = flags;
	return true;
}

static const char *
complete_export(struct export_text *t)
{
	struct fake_export *e = t->e;

	if (!t->has_flags)
		e->flags = t->read_only ? flags_default & (uint16_t)~flags_of_writers : flags_default;
	e->flags |= NBD_FLAG_HAS_FLAGS;
	if (t->read_only)
		e->flags |= NBD_FLAG_READ_ONLY;
	if ((e->flags & NBD_FLAG_SEND_FAST_ZERO) != 0 && (e->flags & NBD_FLAG_SEND_WRITE_ZEROES) == 0)
		return "SEND_FAST_ZERO goes with SEND_WRITE_ZEROES only";
	return complete_block(e);
}

/* Ends the item at *text and takes the backslashes out; *text is the next item then. */
static char *
next_item(char **text)
{
	char *item = *text, *to = *text, *from = *text;

	for (; *from != '\0' && *from != ','; from++) {
		if (*from == '\\' && from[1] != '\0')
			from++;
		*to++ = *from;
	}
	*text = *from == ',' ? from + 1 : from;
	*to = '\0';
	return item;
}

static bool
parse_items(char *text, struct export_text *t, char error[256])
{
	const char *allowed;

	while (*text != '\0') {
		char *key = next_item(&text), *value = strchr(key, '=');

		if (value != NULL)
			*value++ = '\0';
		allowed = *key == '\0' && value == NULL ? NULL : set_export(t, key, value);
		if (allowed != NULL && *allowed == '\0') {
			snprintf(error, 256,
			         "unknown '%.60s'; want name=, size=, flags=, description=, contexts=, min=, pref=, "
			         "max=, read-only or tls-only",
			         key);
			return false;
		}
		if (allowed != NULL) {
			snprintf(error, 256, "%.20s=%.60s: want %s", key, value, allowed);
			return false;
		}
	}
	return true;
}

bool
export_parse(const char *text, struct fake_export *e, char error[256])
{
	struct export_text t = { .e = e };
	const char *wrong = NULL;
	char *copy = strdup(text);

	*e = (struct fake_export){ .size = size_default, .name = strdup(""), .contexts = META_ALL };
	if (copy == NULL || e->name == NULL)
		abort();
	if (!parse_items(copy, &t, error))
		goto fail;
	wrong = complete_export(&t);
	if (wrong != NULL) {
		snprintf(error, 256, "%s", wrong);
		goto fail;
	}
	e->disk = disk_new(e->size);
	free(copy);
	return true;
fail:
	free(copy);
	export_free(e);
	return false;
}
