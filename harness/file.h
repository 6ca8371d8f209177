/* Small things with files and processes. All strings that are returned are malloc'd. */
#ifndef NBDSPEC_FILE_H
#define NBDSPEC_FILE_H

#include <stddef.h>
#include <sys/types.h>

char *join_path(const char *dir, const char *name);
char *make_private_dir(char error[512]);		/* under TMPDIR; NULL and one line */
void remove_dir(const char *dir);			/* with all that is in it */
char *file_tail(const char *path, unsigned lines);	/* "" when it cannot be read; never NULL */
int run_shell(const char *command, const char *output);	/* wait status; output: a file that gets all it prints */

size_t list_children(pid_t *pids, size_t most);		/* of this process; how many */

#endif
