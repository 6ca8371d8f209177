/*
 * The kernel knows nothing of NBD's handshake: it takes a socket, a size, and transmission flags. Fixed newstyle, with
 * NBD_OPT_GO, or NBD_OPT_EXPORT_NAME where the server has no other.
 */
#include "guest.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Where the host's forwarder listens (ci/vm/vm). */
#define SERVER "10.0.2.100"
enum { PORT = 10809, REPLY_MOST = 1 << 20, PADDING = 124 };

#define NBDMAGIC    UINT64_C(0x4e42444d41474943)
#define IHAVEOPT    UINT64_C(0x49484156454f5054)
#define REPLY_MAGIC UINT64_C(0x3e889045565a9)
enum { FIXED_NEWSTYLE = 1, NO_ZEROES = 2 };
enum { OPT_EXPORT_NAME = 1, OPT_ABORT = 2, OPT_GO = 7, CMD_DISC = 2 };
enum { REP_ACK = 1, REP_INFO = 3, INFO_EXPORT = 0, INFO_BLOCK_SIZE = 3 };
#define REP_ERROR     (UINT32_C(1) << 31)
#define REP_ERR_UNSUP (REP_ERROR | 1)

static bool
fail(struct failure *why, const char *name, const char *text)
{
	snprintf(why->name, sizeof(why->name), "%s", name);
	snprintf(why->text, sizeof(why->text), "%s", text);
	return false;
}

static bool
take(int fd, void *data, size_t length, struct failure *why)
{
	for (ssize_t n; length > 0; data = (char *)data + n, length -= (size_t)n) {
		n = recv(fd, data, length, MSG_WAITALL);
		if (n <= 0)
			return fail(why, "ENOTCONN", "the server has closed the connection");
	}
	return true;
}

static bool
put(int fd, const void *data, size_t length, struct failure *why)
{
	if (send(fd, data, length, MSG_NOSIGNAL) == (ssize_t)length)
		return true;
	return fail(why, "ENOTCONN", "the server takes no more");
}

static uint64_t
take_be(int fd, unsigned bytes, struct failure *why)
{
	uint8_t data[8] = { 0 };
	uint64_t n = 0;

	if (!take(fd, data, bytes, why))
		return 0;
	for (unsigned i = 0; i < bytes; i++)
		n = n << 8 | data[i];
	return n;
}

static uint64_t
get_be(const uint8_t *data, unsigned bytes)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < bytes; i++)
		n = n << 8 | data[i];
	return n;
}

static bool
put_option(int fd, uint32_t option, const void *data, uint32_t length, struct failure *why)
{
	uint64_t magic = htobe64(IHAVEOPT);
	uint8_t head[16];

	option = htobe32(option);
	memcpy(head, &magic, 8);
	memcpy(head + 8, &option, 4);
	memcpy(head + 12, &(uint32_t){ htobe32(length) }, 4);
	return put(fd, head, sizeof(head), why) && (length == 0 || put(fd, data, length, why));
}

static void
take_info(const uint8_t *data, uint32_t length, struct terms *terms)
{
	unsigned kind = length >= 2 ? (unsigned)get_be(data, 2) : ~0u;

	if (kind == INFO_EXPORT && length == 12) {
		terms->size = get_be(data + 2, 8);
		terms->flags = (uint16_t)get_be(data + 10, 2);
	} else if (kind == INFO_BLOCK_SIZE && length == 14) {
		terms->minimum = (uint32_t)get_be(data + 2, 4);
		terms->preferred = (uint32_t)get_be(data + 6, 4);
		terms->maximum = (uint32_t)get_be(data + 10, 4);
	}
}

static bool
refused(int fd, uint32_t type, struct failure *why)
{
	static const char *const names[] = { "OTHER",    "UNSUP",   "POLICY",   "INVALID",         "PLATFORM",
		                             "TLS_REQD", "UNKNOWN", "SHUTDOWN", "BLOCK_SIZE_REQD", "TOO_BIG" };
	unsigned n = type & 0xffff;
	struct failure unused;

	snprintf(why->name, sizeof(why->name), "REP_ERR_%s", names[n < 10 ? n : 0]);
	snprintf(why->text, sizeof(why->text), "the server refuses NBD_OPT_GO");
	put_option(fd, OPT_ABORT, NULL, 0, &unused);
	/* The acknowledgement may be waited for. */
	take_be(fd, 1, &unused);
	return false;
}

/* *unknown: the server does not know NBD_OPT_GO. */
static bool
go(int fd, const char *export, struct terms *terms, bool *unknown, struct failure *why)
{
	size_t name = strlen(export);
	uint8_t *data = calloc(1, REPLY_MOST);
	uint32_t type = 0, length, be = htobe32((uint32_t)name);
	bool ok;

	memcpy(data, &be, 4);
	memcpy(data + 4, export, name);
	data[5 + name] = 1;
	data[7 + name] = INFO_BLOCK_SIZE;
	ok = put_option(fd, OPT_GO, data, (uint32_t)name + 8, why);
	while (ok && type != REP_ACK && !(type & REP_ERROR)) {
		if (take_be(fd, 8, why) != REPLY_MAGIC || take_be(fd, 4, why) != OPT_GO)
			ok = why->name[0] != '\0' ? false : fail(why, "EPROTO", "this is no reply to NBD_OPT_GO");
		type = ok ? (uint32_t)take_be(fd, 4, why) : 0;
		length = ok ? (uint32_t)take_be(fd, 4, why) : 0;
		ok = ok && (length <= REPLY_MOST || fail(why, "EPROTO", "a reply is too long")) &&
		     take(fd, data, length, why) && why->name[0] == '\0';
		if (ok && type == REP_INFO)
			take_info(data, length, terms);
	}
	free(data);
	*unknown = ok && type == REP_ERR_UNSUP;
	return ok && (type == REP_ACK || *unknown || refused(fd, type, why));
}

static bool
by_export_name(int fd, const char *export, bool padded, struct terms *terms, struct failure *why)
{
	uint8_t padding[PADDING];

	if (!put_option(fd, OPT_EXPORT_NAME, export, (uint32_t)strlen(export), why))
		return false;
	terms->size = take_be(fd, 8, why);
	terms->flags = (uint16_t)take_be(fd, 2, why);
	return why->name[0] == '\0' && (!padded || take(fd, padding, PADDING, why));
}

static bool
haggle(int fd, const char *export, struct terms *terms, struct failure *why)
{
	bool unknown = true;
	uint16_t flags;
	uint32_t ours;

	if (take_be(fd, 8, why) != NBDMAGIC || take_be(fd, 8, why) != IHAVEOPT)
		return why->name[0] != '\0' ? false : fail(why, "EPROTONOSUPPORT", "this is no newstyle server");
	flags = (uint16_t)take_be(fd, 2, why);
	ours = htobe32(flags & (FIXED_NEWSTYLE | NO_ZEROES));
	if (why->name[0] != '\0' || !put(fd, &ours, sizeof(ours), why))
		return false;
	if ((flags & FIXED_NEWSTYLE) != 0 && !go(fd, export, terms, &unknown, why))
		return false;
	return !unknown || by_export_name(fd, export, (flags & NO_ZEROES) == 0, terms, why);
}

void
say_goodbye(int socket)
{
	const uint8_t disc[28] = { 0x25, 0x60, 0x95, 0x13, 0, 0, 0, CMD_DISC };

	send(socket, disc, sizeof(disc), MSG_NOSIGNAL);
	shutdown(socket, SHUT_WR);
}

int
handshake(const char *export, struct terms *terms, struct failure *why)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	*terms = (struct terms){ 0 };
	why->name[0] = '\0';
	inet_pton(AF_INET, SERVER, &to.sin_addr);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
		fail(why, strerrorname_np(errno), "no connection to the server");
	else if (haggle(fd, export, terms, why))
		return fd;
	close(fd);
	return -1;
}
