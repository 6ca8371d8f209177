/* One client in transmission. A seed: setup, knobs, how it got there, then steps (tests/fuzz/serve.h). */
/* Seed: 00 00 0f01 03 010001 800000 801000 03 000002 800000 802000 07ffff */
/* Seed: 04 0330322b 0f01 03 010001 801000 800200 04 08 000002 800000 804000 070003 800000 801000 */
/* Seed: 40 011f 0f02 03 060001 3e 1f 03 070002 3e 1f 03 040003 00 10 0a */
#include "tests/fuzz/serve.h"

FUZZ_SERVE(1, true)
