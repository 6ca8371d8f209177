/*
 * A file that has its name only when it is whole: whoever is killed before leaves nothing of it. What is
 * no regular file, such as /dev/full, is written to as it stands.
 */
#ifndef NBDSPEC_CRASH_RECORD_FILE_H
#define NBDSPEC_CRASH_RECORD_FILE_H

#include <stdbool.h>

struct new_file {
	char *path;
	int fd;		/* -1: none */
	char *unnamed;	/* where there is no file without a name: what it is called until then */
	bool published;
};

bool new_file_open(struct new_file *f, const char *path);	/* false and errno */
bool new_file_publish(struct new_file *f);			/* takes the place of what was there; false and errno */
void new_file_close(struct new_file *f);			/* removes it if it was not published */

#endif
