/* A client's sessions with an honest server, through its driver: all that the baseline has. */
#include "cases/client/drive.h"
#include "harness/nbd.h"

CASE_DRIVER(session, baseline,
            "Against an honest server that offers everything the client reads what is there and writes what it is told",
            R(baseline_client_read), R(baseline_client_write), R(baseline_client_disc), R(baseline_client_info_go))
{
	struct drive *d = drive_new(t);
	struct fake_export *e = &d->exports[0];

	drive_serve(d, "", NULL);
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	must_read_disk(d, R(baseline_client_read), 1, e, 0, 65536);
	drive_needs(d, "write", NULL);
	must(d, R(baseline_client_write), 1, "write 4096 8192 7");
	must_read_disk(d, R(baseline_client_write), 1, e, 0, 65536);
	must(d, R(baseline_client_disc), 1, "disconnect");
	EXPECT_EQ(t, R(baseline_client_disc), drive_sent_disc(d), 1);
	drive_finish(d);
}
