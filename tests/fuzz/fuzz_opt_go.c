/* NBD_OPT_INFO and NBD_OPT_GO, proto.md:1266. */
/* Seed: 00000003 666f6f 0002 0000 0003 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(opt_go)
{
	require_within(in, m->name);
	require_within(in, m->infos);
	REQUIRE(end == WIRE_SHORT || (m->name.len == m->name_length && m->infos.len == 2u * m->n_infos));
	for (size_t i = 0; i < m->infos.len / 2; i++)
		REQUIRE(opt_go_info(m, i) == (m->infos.at[2 * i] << 8 | m->infos.at[2 * i + 1]));
	REQUIRE(opt_go_info(m, m->infos.len / 2) == 0);
}
