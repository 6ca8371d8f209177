/* The table of names against the values of proto.md, written out by hand: printing, reading, walking. */
#include "harness/names.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))

/* Each kind: the common prefix of its names, and all of it, "NAME=VALUE" in the table's order, in hexadecimal. */
static const struct {
	enum name_kind kind;
	bool flags;
	const char *prefix, *all;
} kinds[] = {
	/* proto.md:1159 */
	{ NAME_OPTION, false, "NBD_OPT_",
	  "EXPORT_NAME=1 ABORT=2 LIST=3 PEEK_EXPORT=4 STARTTLS=5 INFO=6 GO=7 STRUCTURED_REPLY=8 LIST_META_CONTEXT=9 "
	  "SET_META_CONTEXT=a EXTENDED_HEADERS=b " },
	/* proto.md:1524 */
	{ NAME_REPLY, false, "NBD_REP_",
	  "ACK=1 SERVER=2 INFO=3 META_CONTEXT=4 ERR_UNSUP=80000001 ERR_POLICY=80000002 ERR_INVALID=80000003 "
	  "ERR_PLATFORM=80000004 ERR_TLS_REQD=80000005 ERR_UNKNOWN=80000006 ERR_SHUTDOWN=80000007 "
	  "ERR_BLOCK_SIZE_REQD=80000008 ERR_TOO_BIG=80000009 ERR_EXT_HEADER_REQD=8000000a " },
	/* proto.md:1575 */
	{ NAME_INFO, false, "NBD_INFO_", "EXPORT=0 NAME=1 DESCRIPTION=2 BLOCK_SIZE=3 " },
	/* proto.md:1944 */
	{ NAME_COMMAND, false, "NBD_CMD_",
	  "READ=0 WRITE=1 DISC=2 FLUSH=3 TRIM=4 CACHE=5 WRITE_ZEROES=6 BLOCK_STATUS=7 RESIZE=8 " },
	/* proto.md:1784 */
	{ NAME_CHUNK, false, "NBD_REPLY_TYPE_",
	  "NONE=0 OFFSET_DATA=1 OFFSET_HOLE=2 BLOCK_STATUS=5 BLOCK_STATUS_EXT=6 ERROR=8001 ERROR_OFFSET=8002 " },
	/* proto.md:2304 */
	{ NAME_ERROR, false, "NBD_",
	  "SUCCESS=0 EPERM=1 EIO=5 ENOMEM=c EINVAL=16 ENOSPC=1c EOVERFLOW=4b ENOTSUP=5f ESHUTDOWN=6c " },
	/* proto.md:97, 99, 129, 197, 351, 368, 420 */
	{ NAME_MAGIC, false, "NBD_",
	  "MAGIC=4e42444d41474943 CLISERV_MAGIC=420281861253 OPTION_MAGIC=49484156454f5054 "
	  "OPTION_REPLY_MAGIC=3e889045565a9 REQUEST_MAGIC=25609513 SIMPLE_REPLY_MAGIC=67446698 "
	  "STRUCTURED_REPLY_MAGIC=668e33ef EXTENDED_REQUEST_MAGIC=21e41c71 "
	  "EXTENDED_REPLY_MAGIC=6e8a278c " },
	/* proto.md:1052, 1073, 1091, 1713, 1766, 1014 */
	{ NAME_HANDSHAKE_FLAG, true, "NBD_FLAG_", "FIXED_NEWSTYLE=1 NO_ZEROES=2 " },
	{ NAME_CLIENT_FLAG, true, "NBD_FLAG_C_", "FIXED_NEWSTYLE=1 NO_ZEROES=2 " },
	{ NAME_TRANSMISSION_FLAG, true, "NBD_FLAG_",
	  "HAS_FLAGS=1 READ_ONLY=2 SEND_FLUSH=4 SEND_FUA=8 ROTATIONAL=10 SEND_TRIM=20 SEND_WRITE_ZEROES=40 SEND_DF=80 "
	  "CAN_MULTI_CONN=100 SEND_RESIZE=200 SEND_CACHE=400 SEND_FAST_ZERO=800 BLOCK_STATUS_PAYLOAD=1000 " },
	{ NAME_COMMAND_FLAG, true, "NBD_CMD_FLAG_", "FUA=1 NO_HOLE=2 DF=4 REQ_ONE=8 FAST_ZERO=10 PAYLOAD_LEN=20 " },
	{ NAME_CHUNK_FLAG, true, "NBD_REPLY_FLAG_", "DONE=1 " },
	{ NAME_STATE_FLAG, true, "NBD_STATE_", "HOLE=1 ZERO=2 " },
};

static void
the_table_is_what_the_text_says(void **state)
{
	char line[64], all[1024];
	const char *name;
	uint64_t value;

	(void)state;
	assert_int_equal(LENGTH(kinds), NAME_KINDS);
	for (size_t k = 0; k < LENGTH(kinds); k++) {
		size_t prefix = strlen(kinds[k].prefix);

		all[0] = '\0';
		for (size_t i = 0; (name = name_at(kinds[k].kind, i, &value)) != NULL; i++) {
			assert_int_equal(strncmp(name, kinds[k].prefix, prefix), 0);
			snprintf(line, sizeof(line), "%s=%llx ", name + prefix, (unsigned long long)value);
			strcat(all, line);
		}
		assert_string_equal(all, kinds[k].all);
		assert_null(name_at(kinds[k].kind, SIZE_MAX, &value));
	}
}

static void
check_reads(enum name_kind kind, const char *name, uint64_t expected)
{
	char lower[64] = "";
	uint64_t value = ~expected;

	for (size_t i = 0; name[i] != '\0'; i++)
		lower[i] = (char)tolower((unsigned char)name[i]);
	assert_true(name_value(kind, name, &value));
	assert_true(value == expected);
	value = ~expected;
	assert_true(name_value(kind, lower, &value));
	assert_true(value == expected);
}

static void
every_name_is_read_whole_and_short(void **state)
{
	const char *name;
	uint64_t value;

	(void)state;
	for (size_t k = 0; k < LENGTH(kinds); k++) {
		for (size_t i = 0; (name = name_at(kinds[k].kind, i, &value)) != NULL; i++) {
			assert_ptr_equal(name_of(kinds[k].kind, value), name);
			check_reads(kinds[k].kind, name, value);
			check_reads(kinds[k].kind, name + strlen(kinds[k].prefix), value);
		}
	}
}

static void
what_is_no_name_is_refused(void **state)
{
	static const char *const none[] = { "", " GO", "GO ", "G", "NBD_OPT_", "OPT_GO", "NBD_CMD_READ", "READ", "7" };
	uint64_t value = 77;

	(void)state;
	for (size_t i = 0; i < LENGTH(none); i++)
		assert_false(name_value(NAME_OPTION, none[i], &value));
	assert_true(value == 77);
	assert_null(name_of(NAME_OPTION, 0));
	assert_null(name_of(NAME_OPTION, 12));
	assert_null(name_of(NAME_OPTION, UINT64_C(0x100000007)));
	assert_null(name_of(NAME_CHUNK, 3));
	assert_null(name_of(NAME_REPLY, 0x80000000));
	assert_null(name_of(NAME_TRANSMISSION_FLAG, 3));
	assert_null(name_of(NAME_KINDS, 0));
}

static void
texts_show_name_and_value(void **state)
{
	static const struct {
		enum name_kind kind;
		uint64_t value;
		const char *text;
	} rows[] = {
		{ NAME_OPTION, 7, "NBD_OPT_GO (7)" },
		{ NAME_OPTION, 0x7fffffff, "0x7fffffff" },
		{ NAME_OPTION, 0, "0x0" },
		{ NAME_REPLY, 0x80000001, "NBD_REP_ERR_UNSUP (0x80000001)" },
		{ NAME_ERROR, 0, "NBD_SUCCESS (0)" },
		{ NAME_ERROR, 108, "NBD_ESHUTDOWN (108)" },
		{ NAME_COMMAND, UINT64_MAX, "0xffffffffffffffff" },
		{ NAME_MAGIC, 0x49484156454f5054, "NBD_OPTION_MAGIC (0x49484156454f5054)" },
	};
	char text[NAME_MAX_TEXT];

	(void)state;
	for (size_t i = 0; i < LENGTH(rows); i++) {
		assert_ptr_equal(name_text(rows[i].kind, rows[i].value, text), text);
		assert_string_equal(text, rows[i].text);
	}
}

static void
sets_of_flags_show_all_bits(void **state)
{
	static const struct {
		enum name_kind kind;
		uint64_t flags;
		const char *text;
	} rows[] = {
		{ NAME_TRANSMISSION_FLAG, 0, "none" },
		{ NAME_TRANSMISSION_FLAG, 1, "HAS_FLAGS" },
		{ NAME_TRANSMISSION_FLAG, 0x8005, "HAS_FLAGS|SEND_FLUSH|0x8000" },
		{ NAME_HANDSHAKE_FLAG, 0xfffc, "0xfffc" },
		{ NAME_CLIENT_FLAG, 3, "FIXED_NEWSTYLE|NO_ZEROES" },
		{ NAME_COMMAND_FLAG, 0x30, "FAST_ZERO|PAYLOAD_LEN" },
		{ NAME_CHUNK_FLAG, 0x8001, "DONE|0x8000" },
		{ NAME_STATE_FLAG, UINT64_MAX, "HOLE|ZERO|0xfffffffffffffffc" },
	};
	char text[NAME_MAX_TEXT];

	(void)state;
	for (size_t i = 0; i < LENGTH(rows); i++) {
		assert_ptr_equal(name_flags(rows[i].kind, rows[i].flags, text), text);
		assert_string_equal(text, rows[i].text);
	}
}

/* In memory of exactly the promised size, so that ASan and valgrind see a byte too many; nothing may be cut off. */
static void
no_text_overflows(void **state)
{
	char *text = malloc(NAME_MAX_TEXT);
	const char *name;
	uint64_t value;

	(void)state;
	for (size_t k = 0; k < LENGTH(kinds); k++) {
		for (size_t i = 0; (name = name_at(kinds[k].kind, i, &value)) != NULL; i++)
			assert_in_range(strlen(name_text(kinds[k].kind, value, text)), 1, NAME_MAX_TEXT - 2);
		if (!kinds[k].flags)
			continue;
		assert_in_range(strlen(name_flags(kinds[k].kind, UINT64_MAX, text)), 1, NAME_MAX_TEXT - 2);
		assert_non_null(strstr(text, "|0xfffffffff"));
	}
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_is_what_the_text_says), cmocka_unit_test(every_name_is_read_whole_and_short),
		cmocka_unit_test(what_is_no_name_is_refused),      cmocka_unit_test(texts_show_name_and_value),
		cmocka_unit_test(sets_of_flags_show_all_bits),     cmocka_unit_test(no_text_overflows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
