/* nbdspec handshakes: how many sessions a server can open and close in a second; for `make bench`. */
#include "harness/cli.h"
#include "harness/clock.h"
#include "harness/nbd.h"
#include "harness/target.h"
#include "harness/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { OPT_SECONDS = 1 };

static const struct cli_option options[] = {
	{ "seconds", 0, "N", "how long (default 2)", OPT_SECONDS, false },
	{ 0 },
};

static bool
recv_all(int fd, uint8_t *data, size_t len)
{
	ssize_t n;

	for (; len > 0; data += n, len -= (size_t)n)
		if ((n = recv(fd, data, len, MSG_WAITALL)) <= 0)
			return false;
	return true;
}

static bool
recv_infos(int fd)
{
	struct option_reply r;
	uint8_t head[OPTION_REPLY_HEADER_SIZE], data[4096];

	do {
		if (!recv_all(fd, head, sizeof(head)))
			return false;
		wire_get_option_reply(wire(head, sizeof(head)), &r);
		if (r.length > sizeof(data) || !recv_all(fd, data, r.length) || (r.type & NBD_REP_ERROR_BIT) != 0)
			return false;
	} while (r.type != NBD_REP_ACK);
	return true;
}

/* Greeting, client flags, GO for the default export, DISC, and the server's end of the connection. */
static bool
one_session(const struct server *s, struct bytes hello)
{
	uint8_t greeting[GREETING_SIZE];
	struct buf disc = { 0 };
	char error[512];
	bool gone, ok;
	int fd = server_connect(s, &gone, error);

	if (fd < 0)
		return false;
	fcntl(fd, F_SETFL, 0);
	wire_put_request(&disc, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_DISC });
	ok = recv_all(fd, greeting, sizeof(greeting)) &&
	     send(fd, hello.at, hello.len, MSG_NOSIGNAL) == (ssize_t)hello.len && recv_infos(fd) &&
	     send(fd, disc.at, disc.len, MSG_NOSIGNAL) == (ssize_t)disc.len && recv(fd, greeting, 1, 0) == 0;
	buf_free(&disc);
	close(fd);
	return ok;
}

static int
measure(struct cli *cli, const struct server *s, double seconds)
{
	struct opt_go go = { 0 };
	struct buf data = { 0 }, hello = { 0 };
	double from = (double)now_us() / 1e6, took;
	unsigned n = 0;
	bool ok = true;

	wire_put_opt_go(&data, &go);
	wire_put_client_flags(&hello, &(struct client_flags){ NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES });
	wire_put_option(&hello,
	                &(struct option){ NBD_OPTION_MAGIC, NBD_OPT_GO, (uint32_t)data.len, { data.at, data.len } });
	while (ok && (took = (double)now_us() / 1e6 - from) < seconds)
		n += ok = one_session(s, (struct bytes){ hello.at, hello.len });
	buf_free(&data);
	buf_free(&hello);
	if (!ok)
		return cli_broken(cli, "the session after %u others failed: %s", n, strerror(errno));
	printf("%.0f\n", n / took);
	return STATUS_OK;
}

static int
run_handshakes(struct cli *cli)
{
	struct target target = { .via = VIA_URI, .factor = 1 };
	struct server server = { .target = &target, .pidfd = -1, .stdio = -1 };
	char error[URI_MAX_ERROR];
	unsigned long seconds = 2;
	int status;

	if (cli->n_given > 0 && !cli_number(cli, "--seconds", cli->given[0].value, 1, 3600, &seconds))
		return STATUS_USAGE;
	if (cli->n_args != 1)
		return cli_usage_error(cli, "want one URI");
	if (!uri_parse(cli->args[0], &target.uri, error))
		return cli_usage_error(cli, "%s", error);
	status = measure(cli, &server, (double)seconds);
	uri_free(&target.uri);
	return status;
}

COMMAND(handshakes) = {
	.name = "handshakes",
	.usage = "[--seconds N] URI",
	.summary = "count how many sessions a server opens and closes in a second",
	.options = options,
	.run = run_handshakes,
	.hidden = true,
};
