#include "reports/report.h"

#include "harness/printable.h"

#include <err.h>
#include <inttypes.h>
#include <stdlib.h>

void *
report_state(size_t size)
{
	void *state = calloc(1, size);

	if (state == NULL)
		err(3, "the state of a report");
	return state;
}

void
text_free(char **text)
{
	free(*text);
}

static char *
joined(const char *a, const char *between, const char *b, const char *end)
{
	char *text;

	if (asprintf(&text, "%s%s%s%s", a, between, b, end) < 0)
		err(3, "a line of a report");
	return text;
}

char *
result_id(const struct result *r)
{
	autofree char *id = printable_string(r->case_id), *point = printable_string(r->point);

	return r->point ? joined(id, "[", point, "]") : joined(id, "", "", "");
}

char *
deviation_text(const char *message, const char *expected, const char *got)
{
	autofree char *values = joined("expected ", expected, ", got ", got);

	if (expected[0] == '\0' && got[0] == '\0')
		return joined(message, "", "", "");
	return message[0] ? joined(message, ": ", values, "") : joined(values, "", "", "");
}

char *
expectation_text(enum expectation e, const char *why, const char *reason)
{
	if (e == EXPECT_UNEXPECTED_PASS)
		return joined("passes, but the expectation file says otherwise: ", reason, "", "");
	if (e == EXPECT_CHANGED)
		return joined(why, "; the expectation file says otherwise: ", reason, "");
	return joined(why, "", "", "");
}

char *
result_why(const struct result *r)
{
	autofree char *message = printable_string(r->message), *reason = printable_string(r->reason);
	autofree char *expected = printable_string(r->expected), *got = printable_string(r->got);
	autofree char *why = deviation_text(message, expected, got);

	return expectation_text(r->expectation, why, reason);
}

const char *
seconds_text(uint64_t us, char text[SECONDS_MAX_TEXT])
{
	uint64_t ms = us / 1000 + (us % 1000 >= 500);

	snprintf(text, SECONDS_MAX_TEXT, "%" PRIu64 ".%03" PRIu64, ms / 1000, ms % 1000);
	return text;
}

bool
result_is_known(const struct result *r)
{
	return !r->red && r->verdict >= VERDICT_WARN &&
	       (r->expectation == EXPECT_KNOWN || r->expectation == EXPECT_FLAKY);
}

bool
result_is_apart(const struct result *r)
{
	return r->experimental && !r->red;
}

bool
result_tells(const struct result *r)
{
	return r->verdict == VERDICT_PASS && r->message != NULL && r->message[0] != '\0';
}
