/* splitmix64, whose sequence for a seed is the same everywhere and for ever. Any seed will do, 0 as well. */
#ifndef NBDSPEC_RANDOM_H
#define NBDSPEC_RANDOM_H

#include <stdint.h>

/* The next 64 bits; *state begins as the seed. */
static inline uint64_t
random_next(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

#endif
