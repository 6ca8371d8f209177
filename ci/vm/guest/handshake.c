/*
 * The kernel knows nothing of NBD's handshake: it takes a socket, a size, and transmission flags. Fixed newstyle, with
 * NBD_OPT_GO, or NBD_OPT_EXPORT_NAME where the server has no other.
 */
#include "guest.h"

#include "harness/names.h"
#include "harness/nbd.h"
#include "harness/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REPLY_MOST = 1 << 20 };

/* What has been said and is to be said; the first failure stays, and nothing happens behind it. */
struct talk {
	int fd;
	struct failure *why;
	struct buf in, out;
};

static bool
fail(struct talk *k, const char *name, const char *text)
{
	if (k->why->name[0] == '\0') {
		snprintf(k->why->name, sizeof(k->why->name), "%s", name);
		snprintf(k->why->text, sizeof(k->why->text), "%s", text);
	}
	return false;
}

static bool
goes_on(const struct talk *k)
{
	return k->why->name[0] == '\0';
}

/* The next bytes, in .in behind those that are there. */
static bool
take(struct talk *k, size_t length)
{
	uint8_t *at = buf_grow(&k->in, length);

	for (ssize_t n; goes_on(k) && length > 0; at += n, length -= (size_t)n) {
		n = recv(k->fd, at, length, MSG_WAITALL);
		if (n <= 0)
			return fail(k, "ENOTCONN", "the server has closed the connection");
	}
	return goes_on(k);
}

/* The next message, alone. */
static struct wire
take_message(struct talk *k, size_t length)
{
	buf_clear(&k->in);
	return take(k, length) ? wire(k->in.at, length) : wire(NULL, 0);
}

static bool
put(struct talk *k)
{
	if (goes_on(k) && send(k->fd, k->out.at, k->out.len, MSG_NOSIGNAL) != (ssize_t)k->out.len)
		fail(k, "ENOTCONN", "the server takes no more");
	buf_clear(&k->out);
	return goes_on(k);
}

static bool
put_option(struct talk *k, uint32_t option, struct bytes data)
{
	wire_put_option(&k->out, &(struct option){ NBD_OPTION_MAGIC, option, (uint32_t)data.len, data });
	return put(k);
}

static bool
take_option_reply(struct talk *k, uint32_t option, struct option_reply *m)
{
	*m = (struct option_reply){ .magic = 0 };
	wire_get_option_reply(take_message(k, OPTION_REPLY_HEADER_SIZE), m);
	if (goes_on(k) && (m->magic != NBD_OPTION_REPLY_MAGIC || m->option != option))
		fail(k, "EPROTO", "this is no reply to the option");
	if (goes_on(k) && m->length > REPLY_MOST)
		fail(k, "EPROTO", "a reply is too long");
	if (goes_on(k) && take(k, m->length))
		wire_get_option_reply(wire(k->in.at, k->in.len), m);
	return goes_on(k);
}

static void
see_info(struct bytes data, struct terms *terms)
{
	struct rep_info info;
	struct info_export export;
	struct info_block_size sizes;

	if (wire_get_rep_info(wire_over(data), &info) == WIRE_SHORT)
		return;
	if (info.type == NBD_INFO_EXPORT && wire_get_info_export(wire_over(info.payload), &export) == WIRE_EXACT) {
		terms->size = export.size;
		terms->flags = export.flags;
	} else if (info.type == NBD_INFO_BLOCK_SIZE &&
	           wire_get_info_block_size(wire_over(info.payload), &sizes) == WIRE_EXACT) {
		terms->minimum = sizes.minimum;
		terms->preferred = sizes.preferred;
		terms->maximum = sizes.maximum;
	}
}

static bool
refused(struct talk *k, uint32_t type)
{
	const char *name = name_of(NAME_REPLY, type);
	struct failure unused = { "", "" };
	struct talk leave = { .fd = k->fd, .why = &unused };

	fail(k, name != NULL ? name + strlen("NBD_") : "OTHER", "the server refuses NBD_OPT_GO");
	/* The acknowledgement may be waited for. */
	if (put_option(&leave, NBD_OPT_ABORT, (struct bytes){ NULL, 0 }))
		take(&leave, 1);
	buf_free(&leave.in);
	buf_free(&leave.out);
	return false;
}

/* *unknown: the server does not know NBD_OPT_GO. */
static bool
go(struct talk *k, const char *export, struct terms *terms, bool *unknown)
{
	static const uint8_t block_size[] = { 0, NBD_INFO_BLOCK_SIZE };
	struct bytes name = bytes_of(export);
	struct option_reply reply = { .type = NBD_REP_INFO };
	struct buf data = { 0 };

	wire_put_opt_go(&data, &(struct opt_go){ (uint32_t)name.len, name, 1, { block_size, sizeof(block_size) } });
	put_option(k, NBD_OPT_GO, (struct bytes){ data.at, data.len });
	buf_free(&data);
	while (goes_on(k) && reply.type != NBD_REP_ACK && (reply.type & NBD_REP_ERROR_BIT) == 0)
		if (take_option_reply(k, NBD_OPT_GO, &reply) && reply.type == NBD_REP_INFO)
			see_info(reply.data, terms);
	*unknown = reply.type == NBD_REP_ERR_UNSUP;
	return goes_on(k) && (reply.type == NBD_REP_ACK || *unknown || refused(k, reply.type));
}

static bool
by_export_name(struct talk *k, const char *export, bool padded, struct terms *terms)
{
	size_t length = EXPORT_NAME_REPLY_SIZE + (padded ? NBD_EXPORT_NAME_PADDING : 0);
	struct export_name_reply reply;

	put_option(k, NBD_OPT_EXPORT_NAME, bytes_of(export));
	wire_get_export_name_reply(take_message(k, length), &reply);
	terms->size = reply.size;
	terms->flags = reply.flags;
	return goes_on(k);
}

static bool
haggle(struct talk *k, const char *export, struct terms *terms)
{
	bool unknown = true;
	struct greeting greeting;
	uint32_t ours;

	wire_get_greeting(take_message(k, GREETING_SIZE), &greeting);
	if (goes_on(k) && (greeting.magic != NBD_MAGIC || greeting.option_magic != NBD_OPTION_MAGIC))
		fail(k, "EPROTONOSUPPORT", "this is no newstyle server");
	/* The same bits as in the client flags. */
	ours = greeting.flags & (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	wire_put_client_flags(&k->out, &(struct client_flags){ ours });
	if (!put(k))
		return false;
	if ((ours & NBD_FLAG_C_FIXED_NEWSTYLE) != 0 && !go(k, export, terms, &unknown))
		return false;
	return !unknown || by_export_name(k, export, (ours & NBD_FLAG_C_NO_ZEROES) == 0, terms);
}

void
say_goodbye(int socket)
{
	struct buf b = { 0 };

	wire_put_request(&b, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_DISC });
	send(socket, b.at, b.len, MSG_NOSIGNAL);
	shutdown(socket, SHUT_WR);
	buf_free(&b);
}

int
handshake(const char *export, struct terms *terms, struct failure *why)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(SERVER_PORT) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	struct talk k = { .fd = fd, .why = why };
	bool ok = false;

	*terms = (struct terms){ 0 };
	why->name[0] = '\0';
	inet_pton(AF_INET, SERVER, &to.sin_addr);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
		fail(&k, strerrorname_np(errno), "no connection to the server");
	else
		ok = haggle(&k, export, terms);
	buf_free(&k.in);
	buf_free(&k.out);
	if (!ok)
		close(fd);
	return ok ? fd : -1;
}
