#include "harness/names.h"

#include "harness/nbd.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *const prefix[NAME_KINDS] = {
	[NAME_OPTION] = "NBD_OPT_",
	[NAME_REPLY] = "NBD_REP_",
	[NAME_INFO] = "NBD_INFO_",
	[NAME_COMMAND] = "NBD_CMD_",
	[NAME_CHUNK] = "NBD_REPLY_TYPE_",
	[NAME_ERROR] = "NBD_",
	[NAME_MAGIC] = "NBD_",
	[NAME_HANDSHAKE_FLAG] = "NBD_FLAG_",
	[NAME_CLIENT_FLAG] = "NBD_FLAG_C_",
	[NAME_TRANSMISSION_FLAG] = "NBD_FLAG_",
	[NAME_COMMAND_FLAG] = "NBD_CMD_FLAG_",
	[NAME_CHUNK_FLAG] = "NBD_REPLY_FLAG_",
	[NAME_STATE_FLAG] = "NBD_STATE_",
};

#define N(kind, constant)                                                                                              \
	{                                                                                                              \
		kind, constant, #constant                                                                              \
	}

static const struct {
	enum name_kind kind;
	uint64_t value;
	const char *name;
} names[] = {
	N(NAME_OPTION, NBD_OPT_EXPORT_NAME),
	N(NAME_OPTION, NBD_OPT_ABORT),
	N(NAME_OPTION, NBD_OPT_LIST),
	N(NAME_OPTION, NBD_OPT_PEEK_EXPORT),
	N(NAME_OPTION, NBD_OPT_STARTTLS),
	N(NAME_OPTION, NBD_OPT_INFO),
	N(NAME_OPTION, NBD_OPT_GO),
	N(NAME_OPTION, NBD_OPT_STRUCTURED_REPLY),
	N(NAME_OPTION, NBD_OPT_LIST_META_CONTEXT),
	N(NAME_OPTION, NBD_OPT_SET_META_CONTEXT),
	N(NAME_OPTION, NBD_OPT_EXTENDED_HEADERS),
	N(NAME_REPLY, NBD_REP_ACK),
	N(NAME_REPLY, NBD_REP_SERVER),
	N(NAME_REPLY, NBD_REP_INFO),
	N(NAME_REPLY, NBD_REP_META_CONTEXT),
	N(NAME_REPLY, NBD_REP_ERR_UNSUP),
	N(NAME_REPLY, NBD_REP_ERR_POLICY),
	N(NAME_REPLY, NBD_REP_ERR_INVALID),
	N(NAME_REPLY, NBD_REP_ERR_PLATFORM),
	N(NAME_REPLY, NBD_REP_ERR_TLS_REQD),
	N(NAME_REPLY, NBD_REP_ERR_UNKNOWN),
	N(NAME_REPLY, NBD_REP_ERR_SHUTDOWN),
	N(NAME_REPLY, NBD_REP_ERR_BLOCK_SIZE_REQD),
	N(NAME_REPLY, NBD_REP_ERR_TOO_BIG),
	N(NAME_REPLY, NBD_REP_ERR_EXT_HEADER_REQD),
	N(NAME_INFO, NBD_INFO_EXPORT),
	N(NAME_INFO, NBD_INFO_NAME),
	N(NAME_INFO, NBD_INFO_DESCRIPTION),
	N(NAME_INFO, NBD_INFO_BLOCK_SIZE),
	N(NAME_COMMAND, NBD_CMD_READ),
	N(NAME_COMMAND, NBD_CMD_WRITE),
	N(NAME_COMMAND, NBD_CMD_DISC),
	N(NAME_COMMAND, NBD_CMD_FLUSH),
	N(NAME_COMMAND, NBD_CMD_TRIM),
	N(NAME_COMMAND, NBD_CMD_CACHE),
	N(NAME_COMMAND, NBD_CMD_WRITE_ZEROES),
	N(NAME_COMMAND, NBD_CMD_BLOCK_STATUS),
	N(NAME_COMMAND, NBD_CMD_RESIZE),
	N(NAME_CHUNK, NBD_REPLY_TYPE_NONE),
	N(NAME_CHUNK, NBD_REPLY_TYPE_OFFSET_DATA),
	N(NAME_CHUNK, NBD_REPLY_TYPE_OFFSET_HOLE),
	N(NAME_CHUNK, NBD_REPLY_TYPE_BLOCK_STATUS),
	N(NAME_CHUNK, NBD_REPLY_TYPE_BLOCK_STATUS_EXT),
	N(NAME_CHUNK, NBD_REPLY_TYPE_ERROR),
	N(NAME_CHUNK, NBD_REPLY_TYPE_ERROR_OFFSET),
	N(NAME_ERROR, NBD_SUCCESS),
	N(NAME_ERROR, NBD_EPERM),
	N(NAME_ERROR, NBD_EIO),
	N(NAME_ERROR, NBD_ENOMEM),
	N(NAME_ERROR, NBD_EINVAL),
	N(NAME_ERROR, NBD_ENOSPC),
	N(NAME_ERROR, NBD_EOVERFLOW),
	N(NAME_ERROR, NBD_ENOTSUP),
	N(NAME_ERROR, NBD_ESHUTDOWN),
	N(NAME_MAGIC, NBD_MAGIC),
	N(NAME_MAGIC, NBD_CLISERV_MAGIC),
	N(NAME_MAGIC, NBD_OPTION_MAGIC),
	N(NAME_MAGIC, NBD_OPTION_REPLY_MAGIC),
	N(NAME_MAGIC, NBD_REQUEST_MAGIC),
	N(NAME_MAGIC, NBD_SIMPLE_REPLY_MAGIC),
	N(NAME_MAGIC, NBD_STRUCTURED_REPLY_MAGIC),
	N(NAME_MAGIC, NBD_EXTENDED_REQUEST_MAGIC),
	N(NAME_MAGIC, NBD_EXTENDED_REPLY_MAGIC),
	N(NAME_HANDSHAKE_FLAG, NBD_FLAG_FIXED_NEWSTYLE),
	N(NAME_HANDSHAKE_FLAG, NBD_FLAG_NO_ZEROES),
	N(NAME_CLIENT_FLAG, NBD_FLAG_C_FIXED_NEWSTYLE),
	N(NAME_CLIENT_FLAG, NBD_FLAG_C_NO_ZEROES),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_HAS_FLAGS),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_READ_ONLY),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_SEND_FLUSH),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_SEND_FUA),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_ROTATIONAL),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_SEND_TRIM),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_SEND_WRITE_ZEROES),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_SEND_DF),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_CAN_MULTI_CONN),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_SEND_RESIZE),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_SEND_CACHE),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_SEND_FAST_ZERO),
	N(NAME_TRANSMISSION_FLAG, NBD_FLAG_BLOCK_STATUS_PAYLOAD),
	N(NAME_COMMAND_FLAG, NBD_CMD_FLAG_FUA),
	N(NAME_COMMAND_FLAG, NBD_CMD_FLAG_NO_HOLE),
	N(NAME_COMMAND_FLAG, NBD_CMD_FLAG_DF),
	N(NAME_COMMAND_FLAG, NBD_CMD_FLAG_REQ_ONE),
	N(NAME_COMMAND_FLAG, NBD_CMD_FLAG_FAST_ZERO),
	N(NAME_COMMAND_FLAG, NBD_CMD_FLAG_PAYLOAD_LEN),
	N(NAME_CHUNK_FLAG, NBD_REPLY_FLAG_DONE),
	N(NAME_STATE_FLAG, NBD_STATE_HOLE),
	N(NAME_STATE_FLAG, NBD_STATE_ZERO),
};

#define N_NAMES (sizeof(names) / sizeof(names[0]))

const char *
name_of(enum name_kind kind, uint64_t value)
{
	for (size_t i = 0; i < N_NAMES; i++)
		if (names[i].kind == kind && names[i].value == value)
			return names[i].name;
	return NULL;
}

const char *
name_text(enum name_kind kind, uint64_t value, char text[NAME_MAX_TEXT])
{
	const char *name = name_of(kind, value);

	if (name == NULL)
		snprintf(text, NAME_MAX_TEXT, "0x%" PRIx64, value);
	else if (value > 0xffff)
		snprintf(text, NAME_MAX_TEXT, "%s (0x%" PRIx64 ")", name, value);
	else
		snprintf(text, NAME_MAX_TEXT, "%s (%" PRIu64 ")", name, value);
	return text;
}

const char *
name_flags(enum name_kind kind, uint64_t flags, char text[NAME_MAX_TEXT])
{
	size_t at = 0;

	text[0] = '\0';
	for (size_t i = 0; i < N_NAMES && at < NAME_MAX_TEXT; i++) {
		if (names[i].kind != kind || (flags & names[i].value) == 0)
			continue;
		at += (size_t)snprintf(text + at, NAME_MAX_TEXT - at, "%s%s", at > 0 ? "|" : "",
		                       names[i].name + strlen(prefix[kind]));
		flags &= ~names[i].value;
	}
	if (flags != 0 && at < NAME_MAX_TEXT)
		snprintf(text + at, NAME_MAX_TEXT - at, "%s0x%" PRIx64, at > 0 ? "|" : "", flags);
	else if (at == 0)
		snprintf(text, NAME_MAX_TEXT, "none");
	return text;
}

bool
name_value(enum name_kind kind, const char *name, uint64_t *value)
{
	for (size_t i = 0; i < N_NAMES; i++) {
		if (names[i].kind != kind)
			continue;
		if (strcasecmp(names[i].name, name) == 0 ||
		    strcasecmp(names[i].name + strlen(prefix[kind]), name) == 0) {
			*value = names[i].value;
			return true;
		}
	}
	return false;
}

const char *
name_at(enum name_kind kind, size_t i, uint64_t *value)
{
	for (size_t n = 0; n < N_NAMES; n++) {
		if (names[n].kind != kind)
			continue;
		if (i-- == 0) {
			*value = names[n].value;
			return names[n].name;
		}
	}
	return NULL;
}
