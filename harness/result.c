#include "harness/result.h"

#include "harness/section.h"

#include <string.h>

SECTION_LIST(report, struct report_writer, nbdspec_reports)

static const char *const verdicts[N_VERDICTS] = {
	[VERDICT_PASS] = "pass", [VERDICT_INFO] = "info", [VERDICT_SKIP] = "skip",
	[VERDICT_WARN] = "warn", [VERDICT_FAIL] = "fail", [VERDICT_ERROR] = "error",
};

const char *
verdict_name(enum verdict v)
{
	return verdicts[v];
}

bool
verdict_named(const char *name, enum verdict *v)
{
	for (int i = 0; i < N_VERDICTS; i++) {
		if (strcmp(verdicts[i], name) != 0)
			continue;
		*v = (enum verdict)i;
		return true;
	}
	return false;
}

static const char *const expectations[N_EXPECTATIONS] = {
	[EXPECT_KNOWN] = "known",
	[EXPECT_FLAKY] = "flaky",
	[EXPECT_UNEXPECTED_PASS] = "unexpected_pass",
	[EXPECT_CHANGED] = "changed",
};

const char *
expectation_name(enum expectation e)
{
	return expectations[e];
}

enum expectation
expectation_named(const char *name)
{
	int e = N_EXPECTATIONS - 1;

	while (e > EXPECT_NONE && strcmp(expectations[e], name) != 0)
		e--;
	return (enum expectation)e;
}

const struct report_writer *
report_at(size_t i)
{
	return section_sorted(report_section(), i);
}

const struct report_writer *
report_named(const char *name)
{
	const struct report_writer *w;

	for (size_t i = 0; (w = report_at(i)) != NULL; i++)
		if (strcmp(w->name, name) == 0)
			return w;
	return NULL;
}
