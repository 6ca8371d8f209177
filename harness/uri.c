#include "harness/uri.h"

#include "harness/nbd.h"

#include <ctype.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libxml/uri.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))

/* RFC 3986, section 2.3. */
#define UNRESERVED "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
#define SCHEMES    "nbd, nbds, nbd+unix, nbds+unix, nbd+vsock, nbds+vsock"

static const struct {
	const char *scheme;
	enum uri_transport transport;
	bool tls;
} schemes[] = {
	{ "nbd", URI_TCP, false },       { "nbds", URI_TCP, true },         { "nbd+unix", URI_UNIX, false },
	{ "nbds+unix", URI_UNIX, true }, { "nbd+vsock", URI_VSOCK, false }, { "nbds+vsock", URI_VSOCK, true },
};

/* Query parameters that are kept; others are ignored, as libnbd does. */
static const struct {
	const char *name;
	size_t at;
} parameters[] = {
	{ "socket", offsetof(struct nbd_uri, socket) },
	{ "tls-certificates", offsetof(struct nbd_uri, tls_certificates) },
	{ "tls-psk-file", offsetof(struct nbd_uri, tls_psk_file) },
	{ "tls-type", offsetof(struct nbd_uri, tls_type) },
	{ "tls-hostname", offsetof(struct nbd_uri, tls_hostname) },
	{ "tls-verify-peer", offsetof(struct nbd_uri, tls_verify_peer) },
};

static char **
parameter_of(const struct nbd_uri *u, size_t i)
{
	return (char **)((char *)u + parameters[i].at);
}

static bool fail(char error[URI_MAX_ERROR], const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool
fail(char error[URI_MAX_ERROR], const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(error, URI_MAX_ERROR, format, ap);
	va_end(ap);
	return false;
}

/* Aborts when memory runs out, as struct buf does. */
static char *
copy(const char *s, size_t len)
{
	char *c = strndup(s, len);

	if (c == NULL)
		abort();
	return c;
}

/* libxml2 takes any byte between [ and ], which may not even be printable. */
static bool
check_bytes(const char *text, char error[URI_MAX_ERROR])
{
	size_t at = strspn(text, UNRESERVED "%:/?#[]@!$&'()*+,;=");
	const char *nul = strstr(text, "%00");

	if (text[at] != '\0')
		return fail(error, "byte 0x%02x at offset %zu is not allowed in a URI: write it as %%%02X",
		            (uint8_t)text[at], at, (uint8_t)text[at]);
	if (nul != NULL)
		return fail(error,
		            "%%00 at offset %zu: neither an export name nor a socket path may hold a NUL byte here",
		            (size_t)(nul - text));
	return true;
}

/* libxml2 says only that it could not parse: find out why. */
static bool
not_a_uri(const char *text, char error[URI_MAX_ERROR])
{
	for (const char *p = text; (p = strchr(p, '%')) != NULL; p++)
		if (!isxdigit((uint8_t)p[1]) || !isxdigit((uint8_t)p[2]))
			return fail(error, "%% at offset %zu is not followed by two hex digits: write it as %%25",
			            (size_t)(p - text));
	return fail(error,
	            "not a URI: %.100s: allowed is nbd://HOST[:PORT]/EXPORT with a decimal port and [] around an "
	            "IPv6 address, or nbd+unix:///EXPORT?socket=PATH",
	            text);
}

static bool
read_scheme(const xmlURI *x, const char *text, struct nbd_uri *u, char error[URI_MAX_ERROR])
{
	if (x->scheme == NULL)
		return fail(error,
		            "no scheme in \"%.100s\": allowed are nbd://HOST[:PORT]/EXPORT and "
		            "nbd+unix:///EXPORT?socket=PATH",
		            text);
	for (size_t i = 0; i < LENGTH(schemes); i++) {
		if (strcmp(x->scheme, schemes[i].scheme) != 0)
			continue;
		if (strncmp(text + strlen(x->scheme), "://", 3) != 0)
			return fail(error, "%s: must be followed by // even when no host is named", x->scheme);
		u->transport = schemes[i].transport;
		u->tls = schemes[i].tls;
		return true;
	}
	return fail(error, "unknown scheme \"%.60s\": allowed are " SCHEMES, x->scheme);
}

/* xmlURIUnescapeString takes a length of 0 for "up to the NUL". */
static char *
unescape(const char *s, size_t len)
{
	char *c = len == 0 ? copy("", 0) : xmlURIUnescapeString(s, (int)len, NULL);

	if (c == NULL)
		abort();
	return c;
}

static void
read_parameter(struct nbd_uri *u, const char *s, size_t len)
{
	const char *equals = memchr(s, '=', len);
	size_t name_len = equals != NULL ? (size_t)(equals - s) : len;
	char *name = unescape(s, name_len);

	for (size_t i = 0; i < LENGTH(parameters); i++) {
		if (strcmp(name, parameters[i].name) != 0)
			continue;
		free(*parameter_of(u, i));
		*parameter_of(u, i) = equals != NULL ? unescape(equals + 1, len - name_len - 1) : copy("", 0);
	}
	free(name);
}

/* As libnbd: ; separates only where no & follows, the last of equal names wins, NAME alone has the value "". */
static bool
read_query(const char *query, struct nbd_uri *u, char error[URI_MAX_ERROR])
{
	const char *end;

	for (const char *s = query; s != NULL && *s != '\0'; s = *end != '\0' ? end + 1 : end) {
		end = strchr(s, '&');
		if (end == NULL)
			end = strchrnul(s, ';');
		read_parameter(u, s, (size_t)(end - s));
	}
	if (u->transport == URI_UNIX && (u->socket == NULL || u->socket[0] == '\0'))
		return fail(error, "no socket in the URI: a Unix domain socket is named by ?socket=PATH, as in "
		                   "nbd+unix:///EXPORT?socket=/run/nbd.sock");
	if (u->transport != URI_UNIX && u->socket != NULL)
		return fail(error, "socket= goes only with a Unix domain socket: write %s+unix:///EXPORT?socket=PATH",
		            u->tls ? "nbds" : "nbd");
	return true;
}

/* libxml2 forgets the port and misreads the user name where nothing stands before the : or the @. */
static bool
read_user(const xmlURI *x, const char *authority, struct nbd_uri *u, char error[URI_MAX_ERROR])
{
	size_t len = strcspn(authority, "/?#[");
	const char *at = memchr(authority, '@', len);
	const char *host = at != NULL ? at + 1 : authority;

	if (host[0] == ':' && u->transport != URI_UNIX)
		return fail(error, "a port without a host: write the host too, as in localhost%.*s",
		            (int)strcspn(host, "/?#"), host);
	if (x->user != NULL && at != authority)
		u->user = copy(x->user, strlen(x->user));
	return true;
}

static bool
read_host(const char *server, struct nbd_uri *u, char error[URI_MAX_ERROR])
{
	size_t len = server != NULL ? strlen(server) : 0;

	if (u->transport == URI_VSOCK) {
		u->host = len > 0 ? copy(server, len) : copy("2", 1); /* VMADDR_CID_HOST, the hypervisor */
		if (strlen(u->host) > 10 || strspn(u->host, "0123456789") < strlen(u->host) ||
		    strtoull(u->host, NULL, 10) > UINT32_MAX)
			return fail(error, "a vsock host is a context identifier, a decimal number of 32 bits as in "
			                   "nbd+vsock://2/");
	} else if (len >= 2 && server[0] == '[' && server[len - 1] == ']') {
		u->host = copy(server + 1, len - 2);
		if (len == 2)
			return fail(error, "no address between [ and ]: an IPv6 host is written as in nbd://[::1]/");
	} else {
		u->host = len > 0 ? copy(server, len) : copy("localhost", 9);
	}
	return true;
}

/* A URI for a Unix socket may have an authority, which means nothing; libnbd accepts it. Port 0 is libnbd's default. */
static bool
read_authority(const xmlURI *x, const char *authority, struct nbd_uri *u, char error[URI_MAX_ERROR])
{
	if (!read_user(x, authority, u, error))
		return false;
	if (u->transport == URI_UNIX)
		return true;
	if (u->transport == URI_TCP && x->port > 65535)
		return fail(error, "port %d is too large: allowed are 1 to 65535", x->port);
	if (x->port <= 0)
		u->port = copy(URI_DEFAULT_PORT, strlen(URI_DEFAULT_PORT));
	else if (asprintf(&u->port, "%d", x->port) == -1)
		abort();
	return read_host(x->server, u, error);
}

static bool
read_export(const xmlURI *x, struct nbd_uri *u, char error[URI_MAX_ERROR])
{
	const char *name = x->path != NULL && x->path[0] == '/' ? x->path + 1 : "";

	if (strlen(name) > NBD_MAX_STRING) /* proto.md:38 */
		return fail(error, "the export name has %zu bytes: allowed are %u", strlen(name), NBD_MAX_STRING);
	u->export = copy(name, strlen(name));
	return true;
}

bool
uri_parse(const char *text, struct nbd_uri *u, char error[URI_MAX_ERROR])
{
	xmlURI *x;
	bool ok;

	*u = (struct nbd_uri){ 0 };
	if (!check_bytes(text, error))
		return false;
	x = xmlParseURI(text);
	if (x == NULL)
		return not_a_uri(text, error);
	ok = read_scheme(x, text, u, error) && read_query(x->query_raw, u, error) &&
	     read_authority(x, text + strlen(x->scheme) + 3, u, error) && read_export(x, u, error);
	xmlFreeURI(x);
	if (!ok)
		uri_free(u);
	return ok;
}

void
uri_free(struct nbd_uri *u)
{
	for (size_t i = 0; i < LENGTH(parameters); i++)
		free(*parameter_of(u, i));
	free(u->user);
	free(u->host);
	free(u->port);
	free(u->export);
	*u = (struct nbd_uri){ 0 };
}

/* Not xmlURIEscapeStr, which leaves @ alone: it would end a user name. */
static void
put_escaped(FILE *f, const char *s, const char *plain)
{
	for (; *s != '\0'; s++) {
		if (strchr(UNRESERVED, *s) != NULL || strchr(plain, *s) != NULL)
			fputc(*s, f);
		else
			fprintf(f, "%%%02X", (uint8_t)*s);
	}
}

static void
put_authority(FILE *f, const struct nbd_uri *u)
{
	const char *host = u->host != NULL ? u->host : u->transport == URI_VSOCK ? "2" : "localhost";
	bool brackets = strpbrk(host, ":[]") != NULL;

	if (u->user != NULL) {
		put_escaped(f, u->user, "");
		fputc('@', f);
	}
	if (u->transport == URI_UNIX)
		return;
	fputs(brackets ? "[" : "", f);
	put_escaped(f, host, ":");
	fputs(brackets ? "]" : "", f);
	if (u->port != NULL && strcmp(u->port, URI_DEFAULT_PORT) != 0)
		fprintf(f, ":%s", u->port);
}

char *
uri_format(const struct nbd_uri *u)
{
	const char *separator = "?";
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL)
		abort();
	for (size_t i = 0; i < LENGTH(schemes); i++)
		if (schemes[i].transport == u->transport && schemes[i].tls == u->tls)
			fprintf(f, "%s://", schemes[i].scheme);
	put_authority(f, u);
	fputc('/', f);
	put_escaped(f, u->export != NULL ? u->export : "", "/");
	for (size_t i = 0; i < LENGTH(parameters); i++) {
		if (*parameter_of(u, i) == NULL)
			continue;
		fprintf(f, "%s%s=", separator, parameters[i].name);
		put_escaped(f, *parameter_of(u, i), "/");
		separator = "&";
	}
	if (fclose(f) != 0)
		abort();
	return text;
}
