/* The one table of protocol names: it prints them in reports and reads them on the command line. */
#ifndef NBDSPEC_NAMES_H
#define NBDSPEC_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum name_kind {
	/* values */
	NAME_OPTION,
	NAME_REPLY,		/* option reply types */
	NAME_INFO,
	NAME_COMMAND,
	NAME_CHUNK,		/* structured reply types */
	NAME_ERROR,
	NAME_MAGIC,
	/* single bits */
	NAME_HANDSHAKE_FLAG,
	NAME_CLIENT_FLAG,
	NAME_TRANSMISSION_FLAG,
	NAME_COMMAND_FLAG,
	NAME_CHUNK_FLAG,
	NAME_STATE_FLAG,
	NAME_KINDS
};

#define NAME_MAX_TEXT 256

/* The name ("NBD_OPT_GO"), or NULL for a value that the protocol text does not name. */
const char *name_of(enum name_kind kind, uint64_t value);

/* Writes "NBD_OPT_GO (7)", or for an unnamed value "0x7fffffff", into text[NAME_MAX_TEXT]; returns text. */
const char *name_text(enum name_kind kind, uint64_t value, char text[NAME_MAX_TEXT]);

/* The same for a set of flags: "HAS_FLAGS|SEND_FLUSH|0x8000", "none" for 0; names without their common prefix. */
const char *name_flags(enum name_kind kind, uint64_t flags, char text[NAME_MAX_TEXT]);

/* Finds a value by its full name, or its name without the common prefix ("GO"), case ignored. */
bool name_value(enum name_kind kind, const char *name, uint64_t *value);

/* Walks the table: the i-th name of a kind, NULL past the last. */
const char *name_at(enum name_kind kind, size_t i, uint64_t *value);

#endif
