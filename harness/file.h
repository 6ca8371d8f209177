/* Small things with files. All strings that are returned are malloc'd. */
#ifndef NBDSPEC_FILE_H
#define NBDSPEC_FILE_H

#include <stdbool.h>

char *join_path(const char *dir, const char *name);
char *make_private_dir(char error[512]);		/* under TMPDIR; NULL and one line */
void remove_dir(const char *dir);			/* with all that is in it */
char *file_tail(const char *path, unsigned lines);	/* "" when it cannot be read; never NULL */
bool in_path(const char *program);			/* it can be executed */

#endif
