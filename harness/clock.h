/* The monotonic clock. */
#ifndef NBDSPEC_CLOCK_H
#define NBDSPEC_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t
now_us(void)
{
	return now_ns() / 1000;
}

static inline int64_t
now_ms(void)
{
	return (int64_t)(now_ns() / 1000000);
}

#endif
