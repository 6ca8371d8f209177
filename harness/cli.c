#include "harness/cli.h"

#include "harness/printable.h"
#include "harness/section.h"
#include "harness/wire.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

SECTION_LIST(command, struct command, nbdspec_commands)

const struct command *
command_at(size_t i)
{
	return section_sorted(command_section(), i);
}

static void
complain(const struct cli *cli, const char *fmt, va_list ap)
{
	char *text, *clean;

	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	/* A server's last words may be among it. */
	clean = printable_text(text, PRINTABLE_LINES | PRINTABLE_AGAIN);
	fprintf(stderr, "nbdspec %s: %s\n", cli->command->name, clean);
	free(clean);
	free(text);
}

int
cli_usage_error(const struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(cli, fmt, ap);
	va_end(ap);
	return STATUS_USAGE;
}

int
cli_broken(const struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(cli, fmt, ap);
	va_end(ap);
	return STATUS_BROKEN;
}

/* strtoul and its like also take blanks and signs. */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

bool
cli_number(const struct cli *cli, const char *option, const char *value, unsigned long min, unsigned long max,
           unsigned long *out)
{
	char *end;

	errno = 0;
	*out = strtoul(value, &end, strncasecmp(value, "0x", 2) == 0 ? 16 : 10);
	if (errno == 0 && is_digit(value[0]) && *end == '\0' && *out >= min && *out <= max)
		return true;
	cli_usage_error(cli, "%s '%s': want a number from %lu to %lu", option, value, min, max);
	return false;
}

bool
cli_factor(const struct cli *cli, const char *option, const char *value, double *out)
{
	char *end;

	*out = strtod(value, &end);
	if (is_digit(value[value[0] == '.']) && *end == '\0' && *out >= 0.01 && *out <= 1000)
		return true;
	cli_usage_error(cli, "%s '%s': want a factor from 0.01 to 1000", option, value);
	return false;
}

bool
cli_shard(const struct cli *cli, const char *value, unsigned most, unsigned *number, unsigned *of)
{
	int end = 0;

	if (is_digit(value[0]) && sscanf(value, "%u/%u%n", number, of, &end) == 2 && value[end] == '\0' &&
	    *number >= 1 && *number <= *of && *of <= most)
		return true;
	cli_usage_error(cli, "--shard '%s': want I/N, such as 2/8, with N up to %u", value, most);
	return false;
}

bool
size_parse(const char *value, unsigned long long *bytes)
{
	static const char units[] = "kMGTPE";
	const char *unit;
	unsigned shift = 0;
	char *end;

	errno = 0;
	*bytes = strtoull(value, &end, 10);
	if (errno != 0 || !is_digit(value[0]))
		return false;
	if (*end != '\0' && (unit = strchr(units, *end == 'K' ? 'k' : *end)) != NULL) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
	}
	if (*end != '\0' || (shift > 0 && *bytes >> (64 - shift) != 0))
		return false;
	*bytes <<= shift;
	return true;
}

/* Bytes; 0: the kernel does not say. */
static unsigned long long
memory_available(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL && sscanf(line, "MemAvailable: %llu", &kib) != 1)
		;
	if (f != NULL)
		fclose(f);
	return kib << 10;
}

bool
memory_parse(const char *value, unsigned long long *bytes, char error[256])
{
	unsigned long long there = memory_available();

	snprintf(error, 256, "want bytes from 1M on, with k, M, G or T");
	if (!size_parse(value, bytes) || *bytes < 1 << 20)
		return false;
	snprintf(error, 256, "%llu MiB of memory are available", there >> 20);
	return there == 0 || *bytes <= there;
}

FILE *
cli_create(const struct cli *cli, const char *path)
{
	FILE *f = fopen(path, "we");

	signal(SIGXFSZ, SIG_IGN); /* a report beyond ulimit -f is an error like a full disk */
	if (f == NULL)
		cli_broken(cli, "%s: %s", path, strerror(errno));
	return f;
}

bool
cli_same_file(const char *a, const char *b)
{
	struct stat one, other;

	if (stat(a, &one) != 0 || stat(b, &other) != 0)
		return strcmp(a, b) == 0;
	return S_ISREG(one.st_mode) && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

void
cli_discard(FILE *f, const char *path)
{
	struct stat st;
	bool ours = f != stdout && fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode);

	if (f != stdout)
		fclose(f);
	if (ours)
		unlink(path);
}

bool
cli_close(const struct cli *cli, FILE *f, const char *path, const char *what)
{
	/* Of that main() tells. */
	if (f == stdout)
		return true;
	if (fflush(f) == 0 && !ferror(f)) {
		fclose(f);
		return true;
	}
	cli_broken(cli, "%s: the %s could not be written whole: %s", path, what, strerror(errno));
	cli_discard(f, path);
	return false;
}

static bool
is_plain(const char *s)
{
	return s[0] != '\0' &&
	       s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%{}")] == '\0';
}

char *
shell_quote(char *const *argv)
{
	struct buf b = { 0 };

	for (size_t i = 0; argv[i] != NULL; i++) {
		if (i > 0)
			buf_put(&b, " ", 1);
		if (is_plain(argv[i])) {
			put_bytes(&b, bytes_of(argv[i]));
			continue;
		}
		buf_put(&b, "'", 1);
		for (const char *p = argv[i]; *p != '\0'; p++)
			if (*p == '\'')
				buf_put(&b, "'\\''", 4);
			else
				buf_put(&b, p, 1);
		buf_put(&b, "'", 1);
	}
	buf_put(&b, "", 1);
	return (char *)b.at;
}
