/*
 * Tables whose entries stand in many files: each file puts a pointer into a linker section, and the table is read from
 * there. A table is sorted by name once, so that its order does not depend on how the program was linked.
 */
#ifndef NBDSPEC_SECTION_H
#define NBDSPEC_SECTION_H

#include <stddef.h>

/* Every entry type begins with its name. */
struct section {
	const void *const *start, *const *stop;
	const void **sorted;
	size_t n;
};

/* Defines PREFIX_section() for pointers to TYPE in the linker section SECTION. */
#define SECTION_LIST(prefix, type, sect)                                                                               \
	extern const type *const __start_##sect[] __attribute__((weak, visibility("hidden")));                         \
	extern const type *const __stop_##sect[] __attribute__((weak, visibility("hidden")));                          \
	static struct section *prefix##_section(void)                                                                  \
	{                                                                                                              \
		static struct section s;                                                                               \
		s.start = (const void *const *)__start_##sect;                                                         \
		s.stop = (const void *const *)__stop_##sect;                                                           \
		return &s;                                                                                             \
	}

/* The i-th entry by name, NULL past the last. */
const void *section_sorted(struct section *s, size_t i);

#endif
