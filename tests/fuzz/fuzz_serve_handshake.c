/* One client from the greeting on. A seed: setup, knobs, then steps (tests/fuzz/serve.h). */
/* Seed: 00 00 0503 010800 00 0202 03 01 00 00 0200 01 01 03 00 03 000001 800000 801000 */
/* Seed: 0c 020300 0601 0503 010300f0801000 0107 07 00 00000001610000 0203 02 02 0102 00 */
/* Seed: 03 00 03 010001 800000 800200 03 000001 800000 800200 08 */
#include "tests/fuzz/serve.h"

FUZZ_SERVE(1, false)
