/* Sums by which equal things are known again; not against who wants them to be mistaken. */
#ifndef NBDSPEC_SUM_H
#define NBDSPEC_SUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t
sum_number(uint64_t sum, uint64_t number)
{
	sum = (sum ^ number) * UINT64_C(0x9e3779b97f4a7c15);
	return sum ^ sum >> 32;
}

static inline uint64_t
sum_bytes(uint64_t sum, const uint8_t *bytes, size_t length)
{
	uint64_t word;

	for (; length >= 8; bytes += 8, length -= 8) {
		memcpy(&word, bytes, 8);
		sum = sum_number(sum, word);
	}
	for (; length > 0; length--)
		sum = sum_number(sum, *bytes++);
	return sum;
}

#endif
