/* A file of the tree as a text in the program. */
#ifndef NBDSPEC_EMBEDDED_H
#define NBDSPEC_EMBEDDED_H

/* Defines `ident`, the file's bytes and a NUL; the Makefile says that the object depends on the file. */
#define EMBEDDED_TEXT(ident, path)                                                                                     \
	extern const char ident[];                                                                                     \
	__asm__(".section .rodata\n" #ident ":\n"                                                                      \
	        ".incbin \"" path "\"\n"                                                                               \
	        ".byte 0\n"                                                                                            \
	        ".previous\n")

#endif
