#include "harness/printable.h"

#include <err.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Characters above ASCII that do not print, or that change how others print. */
static const struct {
	uint32_t first, last;
} hidden[] = {
	{ 0x7f, 0x9f },       /* DEL and C1: some terminals obey them */
	{ 0xad, 0xad },       /* soft hyphen */
	{ 0x61c, 0x61c },     /* Arabic letter mark */
	{ 0x180e, 0x180e },   /* Mongolian vowel separator */
	{ 0x200b, 0x200b },   /* zero width space */
	{ 0x200e, 0x200f },   /* left-to-right and right-to-left mark */
	{ 0x2028, 0x202e },   /* line and paragraph separator, bidirectional embeddings and overrides */
	{ 0x2060, 0x206f },   /* word joiner, invisible operators, bidirectional isolates */
	{ 0xd800, 0xdfff },   /* surrogates are no characters */
	{ 0xfdd0, 0xfdef },   /* noncharacters */
	{ 0xfeff, 0xfeff },   /* byte order mark */
	{ 0xfff9, 0xfffb },   /* interlinear annotation */
	{ 0xe0000, 0xe0fff }, /* tags and variation selectors of the last plane but two */
};

static bool
is_printable(uint32_t c)
{
	if (c < 0x7f)
		return c >= ' ';
	for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++)
		if (c >= hidden[i].first && c <= hidden[i].last)
			return false;
	return c <= 0x10ffff && (c & 0xfffe) != 0xfffe; /* U+FFFE, U+FFFF and their like in each plane */
}

/* The length in bytes of the character at in[0], or 0 where the bytes are none (len is at least 1). */
static size_t
utf8_take(const uint8_t *in, size_t len, uint32_t *c)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 }; /* below it the form is overlong */
	size_t n = in[0] < 0x80 ? 1 : in[0] < 0xc0 ? 0 : in[0] < 0xe0 ? 2 : in[0] < 0xf0 ? 3 : in[0] < 0xf8 ? 4 : 0;

	if (n == 0 || n > len)
		return 0;
	*c = n == 1 ? in[0] : in[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((in[i] & 0xc0) != 0x80)
			return 0;
		*c = *c << 6 | (in[i] & 0x3f);
	}
	return *c >= least[n] ? n : 0;
}

bool
is_utf8(const void *in, size_t len)
{
	const uint8_t *at = in;
	uint32_t c = 0;

	for (size_t n; len > 0; at += n, len -= n) {
		n = utf8_take(at, len, &c);
		if (n == 0 || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
			return false;
	}
	return true;
}

struct sink {
	char *out;
	size_t size, at; /* at counts on past the end */
	bool full;       /* nothing goes behind what did not fit */
};

static void
sink_put(struct sink *s, const void *bytes, size_t n)
{
	s->full = s->full || s->at + n >= s->size;
	if (!s->full)
		memcpy(s->out + s->at, bytes, n);
	s->at += n;
	if (!s->full)
		s->out[s->at] = '\0';
}

static void
sink_escape(struct sink *s, const uint8_t *bytes, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++)
		sink_put(s, (char[]){ '\\', 'x', digits[bytes[i] >> 4], digits[bytes[i] & 15] }, 4);
}

size_t
printable_into(char *out, size_t size, const void *in, size_t len, unsigned flags)
{
	struct sink s = { .out = out, .size = size };
	const uint8_t *at = in;
	size_t n;

	if (size > 0)
		out[0] = '\0';
	for (size_t left = len; left > 0; at += n, left -= n) {
		uint32_t c = 0;

		n = utf8_take(at, left, &c);
		if ((flags & PRINTABLE_LINES) && n == 1 && (c == '\n' || c == '\t'))
			sink_put(&s, at, 1);
		else if (!(flags & PRINTABLE_AGAIN) && n == 1 && c == '\\')
			sink_put(&s, "\\\\", 2);
		else if (n > 0 && is_printable(c))
			sink_put(&s, at, n);
		else
			sink_escape(&s, at, n = n > 0 ? n : 1);
	}
	return s.at;
}

static char *
printable_new(const void *in, size_t len, unsigned flags)
{
	size_t size = printable_into(NULL, 0, in, len, flags) + 1;
	char *out = malloc(size);

	if (out == NULL)
		err(3, "a text of %zu bytes for a report", size);
	printable_into(out, size, in, len, flags);
	return out;
}

char *
printable(const void *in, size_t len)
{
	return printable_new(in, len, 0);
}

char *
printable_string(const char *s)
{
	return printable_text(s, 0);
}

char *
printable_text(const char *s, unsigned flags)
{
	return printable_new(s, s ? strlen(s) : 0, flags);
}

void
printable_put(FILE *f, const char *s, unsigned flags)
{
	char *text = printable_text(s, flags);

	fputs(text, f);
	free(text);
}

static int
hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *
printable_undo(const char *s)
{
	char *text = malloc(strlen(s) + 1), *at = text;

	if (text == NULL)
		err(3, "a text");
	while (*s != '\0') {
		int high = s[0] == '\\' && s[1] == 'x' ? hex_digit(s[2]) : -1, low = high >= 0 ? hex_digit(s[3]) : -1;

		if (low >= 0 && high + low > 0) {
			*at++ = (char)(high << 4 | low);
			s += 4;
			continue;
		}
		s += s[0] == '\\' && s[1] == '\\';
		*at++ = *s++;
	}
	*at = '\0';
	return text;
}
