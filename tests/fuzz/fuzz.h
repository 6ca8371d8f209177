/*
 * A fuzz driver per decoder. FUZZ_MESSAGE(opt_go) is followed by a block that says what more must hold of the decoded
 * *m; the macro itself demands that a message which was whole is encoded into the same bytes again, and one with bytes
 * left over into those before them. A comment "Seed: 00000003 666f6f" is a file of the corpus that tests/fuzz/run
 * makes, in hexadecimal; "Seed text: nbd://" is one as it stands.
 */
#ifndef NBDSPEC_FUZZ_H
#define NBDSPEC_FUZZ_H

#include "harness/nbd.h"
#include "harness/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                                             \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                  \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

/* What a decoder borrows lies within its input. */
static inline void
require_within(struct bytes in, struct bytes b)
{
	REQUIRE(b.len == 0 || (b.at >= in.at && b.len <= in.len && b.at <= in.at + in.len - b.len));
}

static inline void
require_again(struct bytes in, enum wire_end end, struct bytes again)
{
	if (end == WIRE_SHORT)
		return;
	REQUIRE(end == WIRE_EXACT ? again.len == in.len : again.len < in.len);
	REQUIRE(bytes_equal(again, (struct bytes){ in.at, again.len }));
}

/* The struct is filled first, so that a member which the decoder forgets is seen when it is encoded. */
#define FUZZ_MESSAGE(name) FUZZ_MESSAGE_AS(name, name)
#define FUZZ_MESSAGE_AS(name, type)                                                                                             \
	static void check_##name(struct bytes in, enum wire_end end, const struct type *m);                            \
	int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)                                                   \
	{                                                                                                              \
		struct bytes in = { data, size };                                                                      \
		struct buf again = { 0 };                                                                              \
		struct type m;                                                                                         \
		enum wire_end end;                                                                                     \
                                                                                                                       \
		memset(&m, 0xa5, sizeof(m));                                                                           \
		end = wire_get_##name(wire_over(in), &m);                                                              \
		check_##name(in, end, &m);                                                                             \
		wire_put_##name(&again, &m);                                                                           \
		require_again(in, end, (struct bytes){ again.at, again.len });                                         \
		buf_free(&again);                                                                                      \
		return 0;                                                                                              \
	}                                                                                                              \
	static void check_##name(__attribute__((unused)) struct bytes in, __attribute__((unused)) enum wire_end end,   \
	                         __attribute__((unused)) const struct type *m)

#endif
