/*
 * What may become of a request, by the protocol text: proto.md:1090-1154, 1713-1762, 1944-2302, 2304-2356. Where several
 * things are wrong with it each may be told; where one of them is left open by the text, everything is open.
 */
#include "cases/explore/product.h"

#include "harness/names.h"

#include <stdio.h>
#include <string.h>

static const struct command_law {
	uint16_t flags;      /* that are documented for it, besides FUA (proto.md:1720-1762) */
	uint16_t exposed_by; /* the transmission flag that allows it */
	enum requirement_id past_end, served, empty_leaves;
} laws[] = {
	[NBD_CMD_READ] = { NBD_CMD_FLAG_DF, 0, R(read_past_end_einval), R(read_returns_data),
	                   R(read_zero_no_disconnect) },
	[NBD_CMD_WRITE] = { 0, 0, R(write_past_end_enospc), R(write_stored), R(write_zero_no_disconnect) },
	[NBD_CMD_FLUSH] = { 0, NBD_FLAG_SEND_FLUSH, REQUIREMENT_NONE, R(flush_supported), REQUIREMENT_NONE },
	[NBD_CMD_TRIM] = { 0, NBD_FLAG_SEND_TRIM, R(trim_past_end_einval), R(trim_supported),
	                   R(trim_zero_no_disconnect) },
	[NBD_CMD_CACHE] = { 0, NBD_FLAG_SEND_CACHE, R(unaligned_or_past_end_einval), REQUIREMENT_NONE,
	                    REQUIREMENT_NONE },
	[NBD_CMD_WRITE_ZEROES] = { NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, NBD_FLAG_SEND_WRITE_ZEROES,
	                           R(zeroes_past_end_enospc), R(write_zeroes_supported),
	                           R(zeroes_empty_no_disconnect) },
	[NBD_CMD_BLOCK_STATUS] = { NBD_CMD_FLAG_REQ_ONE, 0, R(status_past_end_einval), R(status_error_code),
	                           R(status_zero_no_disconnect) },
};

static void
may_be(struct law *l, uint32_t error)
{
	for (unsigned i = 0; i < l->n_errors; i++)
		if (l->errors[i] == error)
			return;
	l->errors[l->n_errors++] = error;
}

/* It should fail with this error. */
static void
refuses(struct law *l, enum requirement_id r, uint32_t error)
{
	l->may_fail = true;
	l->may_succeed = false;
	if (l->success_breaks == REQUIREMENT_NONE)
		l->success_breaks = l->error_breaks = r;
	may_be(l, error);
}

/* ---- what is wrong with a request ---- */

/* True where the text leaves open what becomes of it. */
static bool
judge_flags(struct law *l, const struct request *q, const struct entered *e)
{
	uint16_t strange = (uint16_t)(q->flags & ~laws[q->type].flags & ~NBD_CMD_FLAG_FUA);
	bool open = false;

	/* Implementations differ about NO_HOLE on a READ, and none is blamed. */
	if (q->type == NBD_CMD_READ && strange == NBD_CMD_FLAG_NO_HOLE)
		open = true;
	else if (strange != 0)
		refuses(l, R(inapplicable_flag_einval), NBD_EINVAL);
	l->may_leave |= strange != 0;
	if ((q->flags & NBD_CMD_FLAG_FUA) != 0 && (e->flags & NBD_FLAG_SEND_FUA) == 0)
		l->may_leave = open = true;
	if (q->type == NBD_CMD_READ && (q->flags & NBD_CMD_FLAG_DF) != 0 && (e->flags & NBD_FLAG_SEND_DF) == 0)
		l->may_leave = open = true;
	if (q->type == NBD_CMD_WRITE_ZEROES && (q->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 &&
	    (e->flags & NBD_FLAG_SEND_FAST_ZERO) == 0) {
		l->may_leave = true;
		refuses(l, R(unadvertised_fast_zero_einval), NBD_EINVAL);
	}
	return open;
}

static bool
judge_use(struct law *l, const struct request *q, const struct entered *e)
{
	if (q->type == NBD_CMD_BLOCK_STATUS && e->n_contexts == 0) {
		l->may_leave = true;
		refuses(l, R(status_without_context_einval), NBD_EINVAL);
	}
	/* proto.md:1100; servers serve it, refuse it, or leave. */
	if (laws[q->type].exposed_by != 0 && (e->flags & laws[q->type].exposed_by) == 0)
		return l->may_leave = true;
	/* proto.md:2094 */
	if (q->type == NBD_CMD_FLUSH && (q->offset | q->length) != 0)
		return l->may_leave = true;
	return false;
}

static bool
judge_range(struct law *l, const struct request *q, const struct entered *e)
{
	bool past = q->offset > e->size || q->length > e->size - q->offset;
	bool odd = e->sized && ((q->offset | q->length) & (e->minimum - 1)) != 0;

	if (q->type == NBD_CMD_FLUSH)
		return false;
	l->may_leave |= past || odd;
	if (odd)
		refuses(l, R(unaligned_or_past_end_einval), NBD_EINVAL);
	if (past) {
		refuses(l, laws[q->type].past_end, NBD_EINVAL);
		if (q->type == NBD_CMD_WRITE || q->type == NBD_CMD_WRITE_ZEROES)
			may_be(l, NBD_ENOSPC);
	}
	if (q->length > 0)
		return false;
	/* What is done about no bytes is left open, save to leave (proto.md:1953, 2060, 2103, 2153, 2228). */
	l->leaving_breaks = laws[q->type].empty_leaves;
	return true;
}

/* What these flags may lead to, whatever else is wrong (proto.md:2050, 2192). */
static void
excuse_flags(struct law *l, const struct request *q, const struct entered *e)
{
	if (q->type == NBD_CMD_READ && (q->flags & NBD_CMD_FLAG_DF) != 0 && q->length > 65536)
		may_be(l, NBD_EOVERFLOW);
	if (q->type == NBD_CMD_WRITE_ZEROES && (q->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 &&
	    (e->flags & NBD_FLAG_SEND_FAST_ZERO) != 0)
		may_be(l, NBD_ENOTSUP);
}

/* ---- nothing is wrong with it ---- */

/* What it may fail with all the same. */
static void
excuse(struct law *l, const struct request *q, const struct entered *e)
{
	bool is_long = q->length > e->maximum && q->type != NBD_CMD_BLOCK_STATUS;

	if (q->type == NBD_CMD_WRITE || q->type == NBD_CMD_WRITE_ZEROES)
		may_be(l, NBD_ENOSPC);
	if (is_long) {
		may_be(l, NBD_EOVERFLOW);
		may_be(l, NBD_EINVAL);
	}
	/* Of status that cannot be found out. */
	if (q->type == NBD_CMD_BLOCK_STATUS) {
		may_be(l, NBD_EIO);
		may_be(l, NBD_ENOMEM);
	}
	/* proto.md:2145 */
	l->may_fail = q->type == NBD_CMD_CACHE;
	l->error_breaks = laws[q->type].served;
}

static struct law
law_of_unknown(void)
{
	struct law l = { .may_leave = true };

	refuses(&l, R(unknown_command_einval), NBD_EINVAL);
	return l;
}

struct law
law_of(const struct request *q, const struct entered *e)
{
	struct law l = { .may_succeed = true, .leaving_breaks = R(transmission_no_disconnect) };
	bool read_only = is_write(q->type) && (e->flags & NBD_FLAG_READ_ONLY) != 0 && q->length > 0;
	bool open;

	if (q->type >= COUNT(laws))
		return law_of_unknown();
	if (read_only)
		refuses(&l, q->type == NBD_CMD_WRITE_ZEROES ? R(zeroes_read_only_eperm) : R(read_only_eperm),
		        NBD_EPERM);
	open = judge_flags(&l, q, e) | judge_use(&l, q, e);
	open |= judge_range(&l, q, e);
	if (!open && !l.may_fail)
		excuse(&l, q, e);
	excuse_flags(&l, q, e);
	if (open) {
		l.n_errors = 0;
		l.may_fail = true;
		l.may_succeed = !read_only;
	}
	if (read_only)
		l.success_breaks = R(read_only_errors_writes);
	/* proto.md:1967 */
	l.may_leave_behind = q->type == NBD_CMD_READ && e->mode == MODE_SIMPLE && l.may_fail;
	return l;
}

/* ---- the result ---- */

static bool
is_excused(const struct law *l, uint32_t error)
{
	for (unsigned i = 0; i < l->n_errors; i++)
		if (l->errors[i] == error)
			return true;
	return l->may_fail && l->n_errors == 0;
}

static void
name_errors(const struct law *l, char expected[160])
{
	char text[NAME_MAX_TEXT];

	expected[0] = '\0';
	for (unsigned i = 0; i < l->n_errors; i++)
		snprintf(expected + strlen(expected), 160 - strlen(expected), "%s%s", i > 0 ? " or " : "",
		         name_text(NAME_ERROR, l->errors[i], text));
}

/* A lawful request fails. */
static enum requirement_id
failed(const struct law *l, const struct request *q, uint32_t error)
{
	if (q->type == NBD_CMD_READ && (q->flags & NBD_CMD_FLAG_DF) != 0 && error == NBD_EOVERFLOW)
		return R(df_64k_supported);
	if (q->type == NBD_CMD_WRITE_ZEROES && (q->flags & NBD_CMD_FLAG_FAST_ZERO) == 0 && error == NBD_ENOTSUP)
		return R(unset_fast_zero_not_enotsup);
	return error == NBD_ENOMEM ? R(no_enomem) : l->error_breaks;
}

enum requirement_id
law_judges(const struct law *l, const struct request *q, uint32_t error, char expected[160])
{
	snprintf(expected, 160, "success");
	if (error != NBD_SUCCESS && name_of(NAME_ERROR, error) == NULL) {
		snprintf(expected, 160, "an error that the protocol defines");
		return R(error_values_listed);
	}
	if (error == NBD_SUCCESS && l->may_succeed)
		return REQUIREMENT_NONE;
	if (error == NBD_SUCCESS) {
		name_errors(l, expected);
		return l->success_breaks;
	}
	if (is_excused(l, error))
		return REQUIREMENT_NONE;
	if (!l->may_fail)
		return failed(l, q, error);
	name_errors(l, expected);
	return l->error_breaks;
}
