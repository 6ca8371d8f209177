/* Two clients in transmission, on exports of their own or on the same. A seed: see tests/fuzz/fuzz_serve_transmission.c. */
/* Seed: 00 00 0f01 0f01 03 010001 800000 801000 83 000002 800000 802000 07ffff 87ffff */
/* Seed: 0c 022b2c 0f02 0302 83 010001 3e 0c 03 000002 3e 0d 0b 83 000003 3e 0d */
#include "tests/fuzz/serve.h"

FUZZ_SERVE(2, true)
