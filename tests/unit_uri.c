/* NBD URIs: what each says, that it survives uri_format and uri_parse, and what is said of those that are refused. */
#include "harness/uri.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LENGTH(a)   (sizeof(a) / sizeof((a)[0]))
#define TCP(h, p)   .transport = URI_TCP, .host = (char *)(h), .port = (char *)(p)
#define VSOCK(c, p) .transport = URI_VSOCK, .host = (char *)(c), .port = (char *)(p)
#define UNIX(path)  .transport = URI_UNIX, .socket = (char *)(path)
#define EXPORT(e)   .export = (char *)(e)
#define SET(m, v)   .m = (char *)(v)

/* The second text is what uri_format makes of it. */
static const struct {
	const char *text, *formatted;
	struct nbd_uri uri;
} good[] = {
	/* uri.md, "NBD URI export name", and the examples of nbd_connect_uri(3) */
	{ "nbd://example.com/disk", "nbd://example.com/disk", { TCP("example.com", "10809"), EXPORT("disk") } },
	{ "nbd+unix:///disk?socket=sock", "nbd+unix:///disk?socket=sock", { UNIX("sock"), EXPORT("disk") } },
	{ "nbd://example.com/", "nbd://example.com/", { TCP("example.com", "10809"), EXPORT("") } },
	{ "nbd://example.com", "nbd://example.com/", { TCP("example.com", "10809"), EXPORT("") } },
	{ "nbd://example.com//disk", "nbd://example.com//disk", { TCP("example.com", "10809"), EXPORT("/disk") } },
	{ "nbd://h/hello%20world", "nbd://h/hello%20world", { TCP("h", "10809"), EXPORT("hello world") } },
	{ "nbds://example.com", "nbds://example.com/", { TCP("example.com", "10809"), EXPORT(""), .tls = true } },
	{ "nbds+unix://alice@/?socket=/tmp/nbd.sock&tls-certificates=certs",
	  "nbds+unix://alice@/?socket=/tmp/nbd.sock&tls-certificates=certs",
	  { UNIX("/tmp/nbd.sock"), EXPORT(""), .tls = true, SET(user, "alice"), SET(tls_certificates, "certs") } },
	{ "nbd+vsock:///", "nbd+vsock://2/", { VSOCK("2", "10809"), EXPORT("") } },
	/* hosts and ports */
	{ "nbd://h:1/", "nbd://h:1/", { TCP("h", "1"), EXPORT("") } },
	{ "nbd://h:65535", "nbd://h:65535/", { TCP("h", "65535"), EXPORT("") } },
	{ "nbd://h:00010809/x", "nbd://h/x", { TCP("h", "10809"), EXPORT("x") } },
	{ "nbd://h:0/x", "nbd://h/x", { TCP("h", "10809"), EXPORT("x") } },
	{ "nbd://", "nbd://localhost/", { TCP("localhost", "10809"), EXPORT("") } },
	{ "nbd:///x", "nbd://localhost/x", { TCP("localhost", "10809"), EXPORT("x") } },
	{ "nbd://192.0.2.1:10810", "nbd://192.0.2.1:10810/", { TCP("192.0.2.1", "10810"), EXPORT("") } },
	{ "nbd://[::1]", "nbd://[::1]/", { TCP("::1", "10809"), EXPORT("") } },
	{ "nbd://[2001:db8::2]:9/x", "nbd://[2001:db8::2]:9/x", { TCP("2001:db8::2", "9"), EXPORT("x") } },
	{ "nbd://[fe80::1%25eth0]/", "nbd://[fe80::1%25eth0]/", { TCP("fe80::1%eth0", "10809"), EXPORT("") } },
	{ "nbd://[a@:1/]:2/x", "nbd://[a%40:1%2F]:2/x", { TCP("a@:1/", "2"), EXPORT("x") } },
	{ "nbd://%68/", "nbd://h/", { TCP("h", "10809"), EXPORT("") } },
	{ "nbds+vsock://3:70000/x", "nbds+vsock://3:70000/x", { VSOCK("3", "70000"), EXPORT("x"), .tls = true } },
	{ "nbd+vsock://4294967295", "nbd+vsock://4294967295/", { VSOCK("4294967295", "10809"), EXPORT("") } },
	/* users */
	{ "nbd://a:b@h/", "nbd://a%3Ab@h/", { TCP("h", "10809"), EXPORT(""), SET(user, "a:b") } },
	{ "nbd://a%40b@h/", "nbd://a%40b@h/", { TCP("h", "10809"), EXPORT(""), SET(user, "a@b") } },
	{ "nbd://@h/", "nbd://h/", { TCP("h", "10809"), EXPORT("") } },
	/* export names: any byte but NUL */
	{ "nbd://h/a%2Fb%3f%23%25%c3%a9%ff%01",
	  "nbd://h/a/b%3F%23%25%C3%A9%FF%01",
	  { TCP("h", "10809"), EXPORT("a/b?#%\303\251\377\001") } },
	{ "nbd://h/a/../b+c%2500", "nbd://h/a/../b%2Bc%2500", { TCP("h", "10809"), EXPORT("a/../b+c%00") } },
	{ "nbd+unix:////x?socket=s", "nbd+unix:////x?socket=s", { UNIX("s"), EXPORT("/x") } },
	{ "nbd://h/x#fragment", "nbd://h/x", { TCP("h", "10809"), EXPORT("x") } },
	/* queries: the last one wins, ; separates where no & follows, what is unknown is ignored */
	{ "nbd+unix:///?socket=a&&=b&socket=%2Fc%26&x-y=1", "nbd+unix:///?socket=/c%26", { UNIX("/c&"), EXPORT("") } },
	{ "nbd+unix:///?socket=a;b&x", "nbd+unix:///?socket=a%3Bb", { UNIX("a;b"), EXPORT("") } },
	{ "nbd+unix:///?socket=a;b", "nbd+unix:///?socket=a", { UNIX("a"), EXPORT("") } },
	{ "nbd+unix:///?socket=a=b", "nbd+unix:///?socket=a%3Db", { UNIX("a=b"), EXPORT("") } },
	{ "nbd+unix:///?so%63ket=a", "nbd+unix:///?socket=a", { UNIX("a"), EXPORT("") } },
	{ "nbd+unix://ignored:1/?socket=a", "nbd+unix:///?socket=a", { UNIX("a"), EXPORT("") } },
	{ "nbds://h?tls-type=psk&tls-psk-file=/k&tls-hostname=n&tls-verify-peer",
	  "nbds://h/?tls-psk-file=/k&tls-type=psk&tls-hostname=n&tls-verify-peer=",
	  { TCP("h", "10809"), EXPORT(""), .tls = true, SET(tls_type, "psk"), SET(tls_psk_file, "/k"),
	    SET(tls_hostname, "n"), SET(tls_verify_peer, "") } },
};

/* The second text must stand in the error. */
static const struct {
	const char *text, *error;
} bad[] = {
	{ "", "no scheme" },
	{ "/run/nbd.sock", "nbd+unix:///EXPORT?socket=PATH" },
	{ "localhost:10809", "unknown scheme \"localhost\"" },
	{ "http://h/", "allowed are nbd, nbds, nbd+unix" },
	{ "NBD://h/", "unknown scheme \"NBD\"" },
	{ "nbd:/x", "followed by //" },
	{ "nbd:x", "followed by //" },
	{ "nbd+unix:/x?socket=s", "followed by //" },
	{ "nbd+unix:///x", "?socket=PATH" },
	{ "nbd+unix:///x?socket", "?socket=PATH" },
	{ "nbd+unix:///x?socket=", "?socket=PATH" },
	{ "nbd://h/?socket=s", "write nbd+unix:" },
	{ "nbds+vsock:///?socket=s", "write nbds+unix:" },
	{ "nbd://h/a%00b", "%00 at offset 9" },
	{ "nbd+unix:///?socket=%00abstract", "%00 at offset 20" },
	{ "nbd://h/a b", "byte 0x20 at offset 9 is not allowed in a URI: write it as %20" },
	{ "nbd://h/\303\251", "byte 0xc3 at offset 8" },
	{ "nbd://h/\033[31m", "byte 0x1b at offset 8" },
	{ "nbd://h/%4g", "% at offset 8" },
	{ "nbd://h/%41%", "% at offset 11" },
	{ "nbd://[\377]/", "byte 0xff at offset 7" },
	{ "nbd://h:x/", "not a URI: nbd://h:x/" },
	{ "nbd://h:/", "decimal port" },
	{ "nbd://h:-1/", "decimal port" },
	{ "nbd://h:65536/", "port 65536 is too large" },
	{ "nbd://h:99999999999/", "decimal port" },
	{ "nbd://:10809/", "localhost:10809" },
	{ "nbd://a@:7/", "localhost:7" },
	{ "nbd://[::1/", "[] around an IPv6 address" },
	{ "nbd://::1/", "[] around an IPv6 address" },
	{ "nbd://[]/", "no address between [ and ]" },
	{ "nbd+vsock://host/", "decimal number of 32 bits" },
	{ "nbd+vsock://2x/", "decimal number of 32 bits" },
	{ "nbd+vsock://4294967296/", "decimal number of 32 bits" },
	{ "nbd+vsock://18446744073709551618/", "decimal number of 32 bits" },
};

/* NULL equals only NULL. */
static void
same(const char *what, const char *a, const char *b)
{
	if (a == NULL || b == NULL ? a != b : strcmp(a, b) != 0)
		fail_msg("%s: \"%s\", should be \"%s\"", what, a != NULL ? a : "(null)", b != NULL ? b : "(null)");
}

static void
check_same(const struct nbd_uri *a, const struct nbd_uri *b)
{
	assert_int_equal(a->transport, b->transport);
	assert_int_equal(a->tls, b->tls);
	same("user", a->user, b->user);
	same("host", a->host, b->host);
	same("port", a->port, b->port);
	same("socket", a->socket, b->socket);
	same("export", a->export, b->export);
	same("tls-certificates", a->tls_certificates, b->tls_certificates);
	same("tls-psk-file", a->tls_psk_file, b->tls_psk_file);
	same("tls-type", a->tls_type, b->tls_type);
	same("tls-hostname", a->tls_hostname, b->tls_hostname);
	same("tls-verify-peer", a->tls_verify_peer, b->tls_verify_peer);
}

static void
check_parse(const char *text, const struct nbd_uri *expected)
{
	char error[URI_MAX_ERROR];
	struct nbd_uri u;

	if (!uri_parse(text, &u, error))
		fail_msg("%s: %s", text, error);
	check_same(&u, expected);
	uri_free(&u);
}

static void
reads_and_formats(void **state)
{
	(void)state;
	for (size_t i = 0; i < LENGTH(good); i++) {
		char *text = uri_format(&good[i].uri);

		check_parse(good[i].text, &good[i].uri);
		assert_string_equal(text, good[i].formatted);
		check_parse(text, &good[i].uri);
		free(text);
	}
}

static void
refuses_in_one_line(void **state)
{
	const struct nbd_uri empty = { 0 };
	char error[URI_MAX_ERROR];
	struct nbd_uri u;

	(void)state;
	for (size_t i = 0; i < LENGTH(bad); i++) {
		memset(error, '\n', sizeof(error));
		if (uri_parse(bad[i].text, &u, error))
			fail_msg("%s is accepted", bad[i].text);
		if (strstr(error, bad[i].error) == NULL)
			fail_msg("%s: \"%s\", should say \"%s\"", bad[i].text, error, bad[i].error);
		for (const char *p = error; *p != '\0'; p++)
			assert_in_range(*p, ' ', '~');
		check_same(&u, &empty);
	}
}

/* proto.md:38: no string is longer than 4096 bytes. Long texts must not overflow the error either. */
static void
bounds_the_export_name(void **state)
{
	char text[5000] = "nbd://h/", error[URI_MAX_ERROR];
	struct nbd_uri u;

	(void)state;
	memset(text + 8, 'x', 4096);
	assert_true(uri_parse(text, &u, error));
	assert_int_equal(strlen(u.export), 4096);
	uri_free(&u);
	text[8 + 4096] = 'x';
	assert_false(uri_parse(text, &u, error));
	assert_string_equal(error, "the export name has 4097 bytes: allowed are 4096");
	memset(text, 'x', 4096);
	assert_false(uri_parse(text, &u, error));
	assert_int_equal(strncmp(error, "no scheme", 9), 0);
	memset(text, 'x', 4096);
	text[4096] = ':';
	assert_false(uri_parse(text, &u, error));
	memcpy(text, "nbd://h:", 8);
	assert_false(uri_parse(text, &u, error));
	assert_in_range(strlen(error), 1, URI_MAX_ERROR - 1);
}

/* What serve fills in by hand need not be whole, and a host may look like none that a URI can say plainly. */
static void
formats_what_was_not_parsed(void **state)
{
	static const struct {
		struct nbd_uri uri;
		const char *text;
	} rows[] = {
		{ { .transport = URI_TCP }, "nbd://localhost/" },
		{ { .transport = URI_VSOCK }, "nbd+vsock://2/" },
		{ { UNIX("/tmp/a b"), .tls = true }, "nbds+unix:///?socket=/tmp/a%20b" },
		{ { TCP("::", "5") }, "nbd://[::]:5/" },
		{ { TCP("[a@b", "5") }, "nbd://[%5Ba%40b]:5/" },
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(rows); i++) {
		char *text = uri_format(&rows[i].uri);

		assert_string_equal(text, rows[i].text);
		free(text);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_formats),
		cmocka_unit_test(refuses_in_one_line),
		cmocka_unit_test(bounds_the_export_name),
		cmocka_unit_test(formats_what_was_not_parsed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
