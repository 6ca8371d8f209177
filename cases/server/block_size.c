/* Size constraints: what NBD_INFO_BLOCK_SIZE may say, who must be told, and what clients that never asked may expect. */
#include "cases/server/go.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MEBIBYTE = 1 << 20 };

static const uint32_t both_options[] = { NBD_OPT_INFO, NBD_OPT_GO };

/* ---- the three values ---- */

static struct infos
need_block_size(struct test *t, uint32_t option)
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = ask_known(t, option, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	if (infos.n_block_size == 0)
		skip(t, "BLOCK_SIZE", "the server does not tell its size constraints");
	return infos;
}

static bool
is_power_of_2(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

CASE(block_size, minimum, "The minimum block size that the server advertises is a power of 2, and at most 65536",
     R(block_size_minimum_power_of_two), R(block_size_minimum_limit), R(block_size_minimum_one))
{
	for (volatile size_t i = 0; i < COUNT(both_options); i++)
		POINT(t, "%s", option_name(both_options[i])) {
			struct infos infos = need_block_size(t, both_options[i]);

			EXPECT(t, R(block_size_minimum_power_of_two), is_power_of_2(infos.block.minimum),
			       "the minimum block size is %" PRIu32, infos.block.minimum);
			EXPECT(t, R(block_size_minimum_limit), infos.block.minimum <= 65536,
			       "the minimum block size is %" PRIu32, infos.block.minimum);
		}
}

CASE(block_size, preferred,
     "The preferred block size that the server advertises is a power of 2, no less than 512 and than the minimum",
     R(block_size_preferred_power_of_two), R(block_size_preferred_floor), R(block_size_preferred_above_export),
     R(export_size_not_preferred_multiple))
{
	for (volatile size_t i = 0; i < COUNT(both_options); i++)
		POINT(t, "%s", option_name(both_options[i])) {
			struct info_block_size b = need_block_size(t, both_options[i]).block;

			EXPECT(t, R(block_size_preferred_power_of_two), is_power_of_2(b.preferred),
			       "the preferred block size is %" PRIu32, b.preferred);
			EXPECT(t, R(block_size_preferred_floor), b.preferred >= 512 && b.preferred >= b.minimum,
			       "the preferred block size is %" PRIu32 ", the minimum %" PRIu32, b.preferred, b.minimum);
		}
}

CASE(block_size, maximum,
     "The maximum payload size that the server advertises is no less than the preferred block size, and than 1 MiB "
     "where the export is that large",
     R(block_size_maximum_floor), R(block_size_maximum_one_mebibyte), R(block_size_maximum_any_number))
{
	for (volatile size_t i = 0; i < COUNT(both_options); i++)
		POINT(t, "%s", option_name(both_options[i])) {
			struct infos infos = need_block_size(t, both_options[i]);
			struct info_block_size b = infos.block;

			EXPECT(t, R(block_size_maximum_floor), b.maximum >= b.preferred,
			       "the maximum payload size is %" PRIu32 ", the preferred block size %" PRIu32, b.maximum,
			       b.preferred);
			EXPECT(t, R(block_size_maximum_one_mebibyte),
			       b.maximum >= MEBIBYTE || infos.export.size < MEBIBYTE,
			       "the maximum payload size is %" PRIu32 ", and the export has %" PRIu64 " bytes",
			       b.maximum, infos.export.size);
		}
}

CASE(block_size, export_size,
     "The size of the export is a multiple of the minimum block size that the server advertises for it",
     R(export_size_minimum_multiple))
{
	for (volatile size_t i = 0; i < COUNT(both_options); i++)
		POINT(t, "%s", option_name(both_options[i])) {
			struct infos infos = need_block_size(t, both_options[i]);

			EXPECT(t, R(export_size_minimum_multiple),
			       infos.block.minimum == 0 || infos.export.size % infos.block.minimum == 0,
			       "%" PRIu64 " bytes are no multiple of %" PRIu32, infos.export.size, infos.block.minimum);
		}
}

/* ---- what is told and what is enforced ---- */

/* The errors by which a server says that it finds the request itself wrong, and not that it could not do it. */
static bool
refuses(uint32_t error)
{
	return error == NBD_EINVAL || error == NBD_EOVERFLOW;
}

static uint8_t *
scratch(uint32_t length)
{
	static uint8_t bytes[NBD_DEFAULT_MAX_PAYLOAD];

	return length <= sizeof(bytes) ? bytes : NULL;
}

static uint32_t
read_error(struct test *t, uint64_t offset, uint32_t length, enum requirement_id owed)
{
	return do_read(t, offset, length, scratch(length), owed);
}

/* After a READ that failed, a server with simple replies may leave (proto.md:1971), but not the next client. */
static void
expect_in_step_after(struct test *t, uint32_t error, enum requirement_id r)
{
	uint32_t length = t->s->size >= blocks(t, 512) ? blocks(t, 512) : 0;
	uint64_t cookie = new_cookie(t);

	if (error == 0) {
		expect_in_step(t, r);
		return;
	}
	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	if (peer_goes_on(t, r)) {
		recv_simple_reply(t, cookie, length, r);
		return;
	}
	observe(t, R(read_error_may_disconnect), "a READ that gets error %" PRIu32 " ends the session", error);
	expect_next_client_served(t, r);
}

/* INFO and GO ask for the sizes, so that what is enforced from here on must have been told (proto.md:1619). */
static bool
enter_asking(struct test *t)
{
	struct infos info, go;

	open_fixed_newstyle(t);
	info = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	go = ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	take_go(t, &go);
	need_size(t, blocks(t, 512));
	if (refuses(read_error(t, 0, blocks(t, 512), R(go_enters_transmission))))
		skip(t, "READ", "not even the first block can be read");
	return info.n_block_size > 0 || go.n_block_size > 0;
}

static void
expect_not_refused(struct test *t, bool told, uint64_t offset, uint64_t length)
{
	uint32_t error = read_error(t, offset, (uint32_t)length, R(go_enters_transmission));

	EXPECT(t, told ? R(block_size_advertised) : R(block_size_sent_when_enforced), !refuses(error),
	       "a READ of %" PRIu64 " bytes at offset %" PRIu64 " gets error %" PRIu32 ", which %s", length, offset,
	       error,
	       told ? "keeps to the sizes that were advertised" : "keeps to the defaults; no sizes were advertised");
	expect_in_step_after(t, error, R(go_enters_transmission));
}

CASE(block_size, minimum_is_enough,
     "A READ of the minimum block size that was advertised, or of 1 byte where none was although we asked, is not "
     "refused as invalid",
     R(block_size_sent_when_enforced), R(block_size_advertised))
{
	bool told = enter_asking(t);
	uint32_t unit = t->s->block.minimum;

	need_size(t, 2ull * unit);
	expect_not_refused(t, told, unit, unit);
}

CASE_BULK(
	block_size, maximum_is_served,
	"A READ of the maximum payload size that was advertised, or of 32 MiB where none was although we asked, is not "
	"refused as invalid",
	R(block_size_sent_when_enforced), R(block_size_advertised))
{
	bool told = enter_asking(t);
	uint64_t length = t->s->block.maximum < t->s->size ? t->s->block.maximum : t->s->size;

	if (length > NBD_DEFAULT_MAX_PAYLOAD)
		length = NBD_DEFAULT_MAX_PAYLOAD;
	length -= length % t->s->block.minimum;
	if (length == 0)
		skip(t, "maximum payload size", "no payload is allowed");
	expect_not_refused(t, told, 0, length);
}

/* Where a comparison is off by one, or a buffer by what lies before the data; qemu's NBD_MAX_BUFFER_SIZE. */
static const struct around {
	const char *name;
	uint16_t type;
	unsigned offset; /* in minimum blocks */
	int more;        /* than the maximum, in minimum blocks */
} arounds[] = {
	{ "READ, one block less", NBD_CMD_READ, 0, -1 },
	{ "READ, from the second block on", NBD_CMD_READ, 1, 0 },
	{ "WRITE, one block less", NBD_CMD_WRITE, 0, -1 },
	{ "WRITE, from the second block on", NBD_CMD_WRITE, 1, 0 },
	{ "WRITE_ZEROES, one block less", NBD_CMD_WRITE_ZEROES, 0, -1 },
	{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, 0, 0 },
	{ "WRITE_ZEROES, from the second block on", NBD_CMD_WRITE_ZEROES, 1, 0 },
	{ "WRITE_ZEROES, one block more", NBD_CMD_WRITE_ZEROES, 1, 1 },
};

static void
go_around(struct test *t, const struct around *a)
{
	bool told = enter_asking(t);
	uint32_t unit = t->s->block.minimum, most = t->s->block.maximum, length, error;

	if (a->type != NBD_CMD_READ)
		need_writable(t);
	if (a->type == NBD_CMD_WRITE_ZEROES)
		need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
	if (most > NBD_DEFAULT_MAX_PAYLOAD)
		most = NBD_DEFAULT_MAX_PAYLOAD;
	if (most / unit < 2)
		skip(t, "maximum payload size", "it is no longer than two blocks");
	length = most - most % unit + (uint32_t)a->more * unit;
	need_size(t, (uint64_t)a->offset * unit + length);
	if (a->type == NBD_CMD_READ)
		error = read_error(t, unit * a->offset, length, R(go_enters_transmission));
	else if (a->type == NBD_CMD_WRITE)
		error = do_write(t, 0, unit * a->offset, length, scratch(length), R(go_enters_transmission));
	else
		error = do_command(t, 0, a->type, unit * a->offset, length, R(long_effect_no_disconnect));
	if (a->more > 0 && refuses(error))
		observe(t, R(long_effect_refused), "%" PRIu32 " bytes get error %" PRIu32, length, error);
	EXPECT(t, told ? R(block_size_advertised) : R(block_size_sent_when_enforced), a->more > 0 || !refuses(error),
	       "%" PRIu32 " bytes at offset %" PRIu32 " get error %" PRIu32 ", within the maximum payload size", length,
	       unit * a->offset, error);
	expect_in_step_after(t, error, R(go_enters_transmission));
}

CASE_BULK(block_size, around_the_maximum,
          "READ, WRITE and WRITE_ZEROES of the maximum payload size, 32 MiB at most, and of one block less are not "
          "refused "
          "as invalid, wherever they begin; WRITE_ZEROES of one block more is answered",
          R(block_size_sent_when_enforced), R(block_size_advertised), R(long_effect_no_disconnect),
          R(long_effect_refused))
{
	for (volatile size_t i = 0; i < COUNT(arounds); i++)
		POINT(t, "%s", arounds[i].name)
			go_around(t, &arounds[i]);
}

/* ---- clients that do not ask ---- */

enum entry { BY_GO, BY_EXPORT_NAME, OLDSTYLE, ENTRIES };
static const char *const entry_names[ENTRIES] = { "GO", "EXPORT_NAME", "oldstyle" };

static void
enter_oldstyle(struct test *t)
{
	open_connection(t);
	recv_greeting(t);
	if (!t->s->oldstyle)
		skip(t, "oldstyle", "the server speaks the newstyle handshake");
}

/* The constraints as INFO tells them to who asks; the defaults where it tells none. */
static struct info_block_size
constraints(struct test *t)
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	if (infos.n_block_size == 0 || !is_minimum(infos.block.minimum))
		return (struct info_block_size){ 1, 4096, NBD_DEFAULT_MAX_PAYLOAD };
	return infos.block;
}

static bool
is_default(struct info_block_size b)
{
	return b.minimum == 1 && b.maximum >= NBD_DEFAULT_MAX_PAYLOAD;
}

static void
enter_by_bare_go(struct test *t, struct info_block_size known)
{
	struct infos infos;

	haggle_again(t);
	infos = ask_info(t, NBD_OPT_GO, export_name(t), NO_REQUESTS, R(baseline_info_go));
	if (infos.final == NBD_REP_ERR_BLOCK_SIZE_REQD && !is_default(known))
		observe(t, R(block_size_refuses_go), "GO without a request for the block sizes is refused");
	if (infos.final != NBD_REP_ACK)
		skip(t, "default block sizes", "NBD_OPT_GO that does not ask for block sizes is refused");
	take_go(t, &infos);
}

/* Enters without a word about sizes: whatever they are, they are not negotiated. Returns what asking would have told. */
static struct info_block_size
enter_unasked(struct test *t, enum entry how)
{
	struct info_block_size known = { 1, 4096, NBD_DEFAULT_MAX_PAYLOAD };

	if (how == OLDSTYLE) {
		enter_oldstyle(t);
		return known;
	}
	known = constraints(t);
	if (how == BY_GO)
		enter_by_bare_go(t, known);
	else
		by_export_name(t, export_name(t));
	return known;
}

static void
need_default_sizes(struct test *t, struct info_block_size known)
{
	if (!is_default(known))
		skip(t, "default block sizes",
		     "the minimum block size is %" PRIu32 ", the maximum payload size %" PRIu32, known.minimum,
		     known.maximum);
}

/* A first block is read as control; what fails then, fails for its length or place. */
static void
read_single_bytes(struct test *t)
{
	uint8_t block[512], byte;
	uint32_t error;

	need_size(t, sizeof(block));
	must_read(t, 0, sizeof(block), block, R(default_min_block));
	error = do_read(t, 1, 1, &byte, R(default_min_block));
	EXPECT(t, R(default_min_block), !refuses(error), "a READ of 1 byte at offset 1 gets error %" PRIu32, error);
	if (error != 0)
		skip(t, "READ", "a READ gets error %" PRIu32, error);
	expect_data(t, R(default_min_block), &byte, block + 1, 1, 1);
	error = do_read(t, t->s->size - 1, 1, &byte, R(default_min_block));
	EXPECT(t, R(default_min_block), !refuses(error), "a READ of the last byte gets error %" PRIu32, error);
	expect_in_step_after(t, error, R(default_min_block));
}

CASE(block_size, default_minimum,
     "Where no sizes were advertised, a READ of one byte is served, within a block and at the end",
     R(default_min_block))
{
	for (volatile int how = 0; how < ENTRIES; how++)
		POINT(t, "%s", entry_names[how]) {
			need_default_sizes(t, enter_unasked(t, how));
			read_single_bytes(t);
		}
}

static void
read_and_write(struct test *t, uint64_t offset, uint32_t length, enum requirement_id r)
{
	uint32_t error = read_error(t, offset, length, r);

	EXPECT(t, r, !refuses(error), "a READ of %" PRIu32 " bytes gets error %" PRIu32, length, error);
	if (error != 0)
		skip(t, "READ", "a READ gets error %" PRIu32, error);
	need_writable(t);
	error = do_write(t, 0, offset, length, scratch(length), r);
	EXPECT(t, r, !refuses(error), "a WRITE of %" PRIu32 " bytes gets error %" PRIu32, length, error);
	expect_in_step(t, r);
}

CASE(block_size, default_preferred,
     "Where no sizes were advertised, READ and WRITE of the second block of 4096 bytes are served",
     R(default_preferred_block))
{
	for (volatile int how = 0; how < ENTRIES; how++)
		POINT(t, "%s", entry_names[how]) {
			need_default_sizes(t, enter_unasked(t, how));
			need_size(t, 8192);
			read_and_write(t, 4096, 4096, R(default_preferred_block));
		}
}

CASE_BULK(block_size, default_maximum, "Where no sizes were advertised, READ and WRITE of 32 MiB are served",
          R(default_max_payload))
{
	open_connection(t);
	recv_greeting(t);
	if (!t->s->oldstyle) {
		disconnect(t);
		need_default_sizes(t, enter_unasked(t, BY_GO));
	}
	need_size(t, NBD_DEFAULT_MAX_PAYLOAD);
	read_and_write(t, 0, NBD_DEFAULT_MAX_PAYLOAD, R(default_max_payload));
}

/* proto.md:803-806: such a client may be let in, and is then served or told of an error; nothing else. */
CASE(block_size, unnegotiated_read,
     "A READ of one byte by a client that did not ask for sizes is carried out or gets an error, and the next request "
     "is served",
     R(unnegotiated_size_errors), R(block_size_refuses_go), R(block_size_refuses_export_name))
{
	for (volatile int how = 0; how < ENTRIES; how++)
		POINT(t, "%s", entry_names[how]) {
			struct info_block_size known = enter_unasked(t, how);
			uint32_t unit = known.minimum > 512 ? known.minimum : 512;
			uint32_t error;
			uint8_t byte;

			t->s->block = known;
			need_size(t, unit);
			must_read(t, 0, unit, scratch(unit), R(unnegotiated_size_errors));
			error = do_read(t, 5, 1, &byte, R(unnegotiated_size_errors));
			if (error == 0)
				expect_data(t, R(unnegotiated_size_errors), &byte, scratch(unit) + 5, 1, 5);
			expect_in_step_after(t, error, R(unnegotiated_size_errors));
		}
}

static void
write_within_block(struct test *t, struct info_block_size known)
{
	uint32_t unit = known.minimum > 4096 ? known.minimum : 4096, error;
	uint8_t *want = scratch(2 * unit), *got = scratch(2 * unit) + 2 * unit, small[7], byte;

	t->s->block = known;
	need_size(t, 2 * unit);
	need_writable(t);
	fill_pattern(want, 2 * unit, 0, 1);
	must_write(t, 0, 2 * unit, want, R(unnegotiated_size_keeps_data));
	fill_pattern(small, sizeof(small), unit - 3, 2);
	error = do_write(t, 0, unit - 3, sizeof(small), small, R(unnegotiated_size_errors));
	if (error == 0)
		memcpy(want + unit - 3, small, sizeof(small));
	must_read(t, 0, 2 * unit, got, R(unnegotiated_size_keeps_data));
	expect_data(t, R(unnegotiated_size_keeps_data), got, want, 2 * unit, 0);
	error = do_read(t, 5, 1, &byte, R(unnegotiated_size_errors));
	if (error == 0)
		expect_data(t, R(unnegotiated_size_errors), &byte, want + 5, 1, 5);
	expect_in_step_after(t, error, R(unnegotiated_size_errors));
}

CASE(block_size, unnegotiated_write,
     "A WRITE of 7 bytes across two blocks by a client that did not ask for sizes is carried out, or gets an error and "
     "changes nothing; a READ of one byte then likewise",
     R(unnegotiated_size_keeps_data), R(unnegotiated_size_errors))
{
	for (volatile int how = 0; how < ENTRIES; how++)
		POINT(t, "%s", entry_names[how])
			write_within_block(t, enter_unasked(t, how));
}

/* Sizes that were told unasked bind nobody (proto.md:1283). */
CASE(block_size, unasked_not_assumed,
     "A client that was told sizes it did not ask for is not dropped for a READ of one byte",
     R(info_unrequested_not_assumed))
{
	struct infos infos;
	uint32_t error;
	uint8_t byte;

	open_fixed_newstyle(t);
	infos = ask_known(t, NBD_OPT_GO, export_name(t), NO_REQUESTS, R(baseline_info_go));
	if (infos.n_block_size == 0)
		skip(t, "unasked block sizes", "sizes are told to who asks only");
	take_go(t, &infos);
	need_size(t, 512);
	error = do_read(t, 1, 1, &byte, R(info_unrequested_not_assumed));
	expect_in_step_after(t, error, R(info_unrequested_not_assumed));
}

/* ---- NBD_REP_ERR_BLOCK_SIZE_REQD ---- */

CASE(block_size, reqd_not_when_asked,
     "NBD_OPT_INFO and NBD_OPT_GO that ask for the sizes, alone or among others, do not get "
     "NBD_REP_ERR_BLOCK_SIZE_REQD",
     R(block_size_reqd_not_when_asked))
{
	const struct requests lists[] = { REQUESTS(NBD_INFO_BLOCK_SIZE),
		                          REQUESTS(NBD_INFO_NAME, 0x77, NBD_INFO_BLOCK_SIZE) };

	for (volatile size_t i = 0; i < COUNT(both_options); i++)
		for (volatile size_t j = 0; j < COUNT(lists); j++)
			POINT(t, "%s requests=%zu", option_name(both_options[i]), lists[j].n) {
				struct infos infos;

				open_fixed_newstyle(t);
				infos = ask_info(t, both_options[i], export_name(t), lists[j], R(baseline_info_go));
				EXPECT(t, R(block_size_reqd_not_when_asked), infos.final != NBD_REP_ERR_BLOCK_SIZE_REQD,
				       "NBD_REP_ERR_BLOCK_SIZE_REQD, although NBD_INFO_BLOCK_SIZE was asked for");
			}
}

/* Asks without the sizes; skips where that is well. What the server claims to enforce it must tell (proto.md:1619). */
static void
need_reqd(struct test *t, uint32_t option)
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = ask_info(t, option, export_name(t), NO_REQUESTS, R(baseline_info_go));
	if (infos.final != NBD_REP_ERR_BLOCK_SIZE_REQD)
		skip(t, "BLOCK_SIZE_REQD", "clients that do not ask for block sizes are not refused for it");
	EXPECT(t, R(block_size_sent_before_reqd), infos.n_block_size > 0,
	       "NBD_REP_ERR_BLOCK_SIZE_REQD without NBD_INFO_BLOCK_SIZE before it");
}

CASE(block_size, sent_before_reqd,
     "NBD_REP_ERR_BLOCK_SIZE_REQD comes behind an NBD_INFO_BLOCK_SIZE, and who then asks for the sizes is served",
     R(block_size_sent_before_reqd), R(block_size_refuses_go))
{
	for (volatile size_t i = 0; i < COUNT(both_options); i++)
		POINT(t, "%s", option_name(both_options[i])) {
			struct infos infos;

			need_reqd(t, both_options[i]);
			expect_in_step(t, R(server_errors_unwelcome_client));
			infos = ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE),
			                  R(baseline_info_go));
			take_go(t, &infos);
			expect_in_step(t, R(go_enters_transmission));
		}
}

/* What NBD_REP_ERR_BLOCK_SIZE_REQD claims: `r` is broken where the sizes are the defaults all the same. */
static void
expect_reqd_has_reason(struct test *t, uint32_t option, enum requirement_id r)
{
	struct infos infos, asked;

	open_fixed_newstyle(t);
	infos = ask_info(t, option, export_name(t), NO_REQUESTS, R(baseline_info_go));
	if (infos.final != NBD_REP_ERR_BLOCK_SIZE_REQD)
		return;
	haggle_again(t);
	asked = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	EXPECT(t, R(block_size_sent_when_enforced), asked.n_block_size > 0,
	       "NBD_REP_ERR_BLOCK_SIZE_REQD, but NBD_INFO_BLOCK_SIZE is not sent to who asks for it");
	EXPECT(t, r, !is_default(asked.block), "NBD_REP_ERR_BLOCK_SIZE_REQD, although the sizes are the defaults");
}

CASE(block_size, info_of_defaults,
     "NBD_OPT_INFO that does not ask for the sizes is not refused where they are the defaults",
     R(block_size_reqd_not_for_defaults), R(block_size_sent_when_enforced))
{
	expect_reqd_has_reason(t, NBD_OPT_INFO, R(block_size_reqd_not_for_defaults));
}

CASE(block_size, go_of_defaults,
     "NBD_OPT_GO that does not ask for the sizes is not refused where they are the defaults",
     R(default_sizes_not_refused), R(block_size_sent_when_enforced))
{
	expect_reqd_has_reason(t, NBD_OPT_GO, R(default_sizes_not_refused));
}

/* ---- requests outside the constraints ---- */

/* We break proto.md:876-882 here, so the server may leave. */
static void
expect_einval(struct test *t, uint16_t type, uint64_t offset, uint32_t length)
{
	uint64_t cookie = new_cookie(t);
	struct simple_reply r;

	send_request(t, 0, type, cookie, offset, length, type == NBD_CMD_WRITE ? scratch(length) : NULL);
	if (!peer_goes_on(t, R(unaligned_or_past_end_einval))) {
		observe(t, R(violation_may_close), "a request outside the constraints ends the session");
		expect_next_client_served(t, R(transmission_no_disconnect));
		return;
	}
	r = recv_simple_reply(t, cookie, type == NBD_CMD_READ ? length : 0, R(unaligned_or_past_end_einval));
	EXPECT_ERROR(t, R(unaligned_or_past_end_einval), r.error, NBD_EINVAL);
	expect_in_step_after(t, type == NBD_CMD_READ ? r.error : 0, R(unaligned_or_past_end_einval));
}

CASE(block_size, unaligned,
     "READ and WRITE that do not keep to the advertised minimum block size get NBD_EINVAL, and the next request is "
     "served",
     R(unaligned_or_past_end_einval), R(violation_may_close), R(transmission_no_disconnect))
{
	static const struct {
		const char *name;
		uint16_t type;
		bool offset, length;
	} points[] = {
		{ "READ offset", NBD_CMD_READ, true, false },   { "READ length", NBD_CMD_READ, false, true },
		{ "READ both", NBD_CMD_READ, true, true },      { "WRITE offset", NBD_CMD_WRITE, true, false },
		{ "WRITE length", NBD_CMD_WRITE, false, true }, { "WRITE both", NBD_CMD_WRITE, true, true },
	};

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "%s", points[i].name) {
			enter_asking(t);
			if (t->s->block.minimum < 2)
				skip(t, "minimum block size", "every offset and length is allowed");
			need_size(t, 3ull * t->s->block.minimum);
			if (points[i].type == NBD_CMD_WRITE)
				need_writable(t);
			expect_einval(t, points[i].type, points[i].offset ? t->s->block.minimum / 2 : 0,
			              points[i].length ? t->s->block.minimum + 1 : 2 * t->s->block.minimum);
		}
}

CASE(block_size, past_end, "A READ that begins in the export's last block and ends behind the export gets NBD_EINVAL",
     R(unaligned_or_past_end_einval))
{
	uint32_t unit;

	enter_asking(t);
	unit = blocks(t, 512);
	if (t->s->size % t->s->block.minimum != 0)
		skip(t, "whole blocks", "the export does not end at a block's end");
	expect_einval(t, NBD_CMD_READ, t->s->size - unit, 2 * unit);
}

/* proto.md:849-852. The maximum that the server advertised may be lower. */
CASE_BULK(block_size, write_of_32_mebibytes,
          "A WRITE of 32 MiB is answered, whatever maximum payload size was advertised: the connection is not dropped "
          "over "
          "it",
          R(server_takes_32_mebibytes))
{
	uint32_t length = NBD_DEFAULT_MAX_PAYLOAD, error;

	enter_asking(t);
	need_size(t, length);
	need_writable(t);
	error = do_write(t, 0, 0, length, scratch(length), R(server_takes_32_mebibytes));
	note(t, "error %" PRIu32 ", maximum payload size %" PRIu32, error, t->s->block.maximum);
	expect_in_step(t, R(server_takes_32_mebibytes));
}

/* proto.md:866-874 */
CASE(block_size, long_effect,
     "TRIM, WRITE_ZEROES and CACHE of more bytes than the maximum payload size are answered: the connection is not "
     "dropped over them",
     R(long_effect_no_disconnect), R(long_effect_refused))
{
	static const struct {
		const char *name;
		uint16_t type, flag;
	} points[] = {
		{ "TRIM", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM },
		{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES },
		{ "CACHE", NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE },
	};

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "%s", points[i].name) {
			uint64_t length;
			uint32_t error;

			enter_asking(t);
			need_flag(t, points[i].flag);
			if (points[i].type != NBD_CMD_CACHE)
				need_writable(t);
			length = (uint64_t)t->s->block.maximum + t->s->block.minimum;
			length -= length % t->s->block.minimum;
			need_size(t, length);
			if (length > UINT32_MAX)
				skip(t, "maximum payload size", "no length is larger");
			error = do_command(t, 0, points[i].type, 0, (uint32_t)length, R(long_effect_no_disconnect));
			if (refuses(error))
				observe(t, R(long_effect_refused), "%s of %" PRIu64 " bytes gets error %" PRIu32,
				        points[i].name, length, error);
			expect_in_step(t, R(long_effect_no_disconnect));
		}
}
