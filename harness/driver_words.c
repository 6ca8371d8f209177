/* What both sides of the driver protocol compute (docs/driver-protocol.md); also part of the virtual machine's driver. */
#include "harness/driver.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { BLOCK = 16, PATTERN_DIGITS = 4 };

static void
put_hex(uint8_t *at, unsigned digits, uint64_t value)
{
	while (digits > 0) {
		at[--digits] = (uint8_t) "0123456789abcdef"[value & 15];
		value >>= 4;
	}
}

void
driver_pattern(unsigned pattern, uint64_t offset, size_t length, uint8_t *data)
{
	uint8_t block[BLOCK];
	size_t part;

	memset(data, 0, length);
	if (pattern == 0)
		return;
	put_hex(block, PATTERN_DIGITS, pattern);
	for (; length > 0; offset += part, data += part, length -= part) {
		part = BLOCK - offset % BLOCK;
		part = part < length ? part : length;
		put_hex(block + PATTERN_DIGITS, BLOCK - PATTERN_DIGITS, offset / BLOCK);
		memcpy(data, block + offset % BLOCK, part);
	}
}

uint32_t
driver_digest(const uint8_t *data, size_t length)
{
	return (uint32_t)crc32_z(0, data, length);
}

char *
driver_escape(const char *text)
{
	char *out = malloc(3 * strlen(text) + 1), *to = out;

	if (out == NULL)
		abort();
	for (; *text != '\0'; text++)
		if (*text > ' ' && *text < 0x7f && strchr("%=:,", *text) == NULL)
			*to++ = *text;
		else
			to += sprintf(to, "%%%02x", (unsigned char)*text);
	*to = '\0';
	return out;
}

static int
hex_digit(char c)
{
	const char *digits = "0123456789abcdef", *at = c != '\0' ? strchr(digits, tolower((unsigned char)c)) : NULL;

	return at != NULL ? (int)(at - digits) : -1;
}

static char *
unescape(const char *text, size_t len)
{
	char *out = malloc(len + 1), *to = out;

	if (out == NULL)
		abort();
	for (size_t i = 0; i < len; i++)
		if (text[i] == '%' && i + 2 < len && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
			*to++ = (char)(hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]));
			i += 2;
		} else {
			*to++ = text[i];
		}
	*to = '\0';
	return out;
}

char *
driver_value(const char *text, const char *key)
{
	size_t key_len = strlen(key), n;

	for (const char *at = text; *at != '\0'; at += at[n] == ' ' ? n + 1 : n) {
		n = strcspn(at, " ");
		if (strncmp(at, key, key_len) == 0 && at[key_len] == '=')
			return unescape(at + key_len + 1, n - key_len - 1);
	}
	return NULL;
}
