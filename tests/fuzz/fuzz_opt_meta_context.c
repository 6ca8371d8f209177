/* NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT, proto.md:1400. */
/* Seed: 00000001 65 00000002 00000005 626173653a 00000002 783a */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(opt_meta_context)
{
	struct wire queries = wire_over(m->queries);

	require_within(in, m->name);
	require_within(in, m->queries);
	if (end == WIRE_SHORT)
		return;
	for (uint32_t i = 0; i < m->n_queries; i++)
		require_within(in, opt_meta_context_query(&queries));
	REQUIRE(wire_end(&queries) == WIRE_EXACT);
}
