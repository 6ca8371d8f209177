/* What a recording has in common with those who read it, and with the workload that sets marks in it. */
#ifndef NBDSPEC_CRASH_RECORD_H
#define NBDSPEC_CRASH_RECORD_H

#define MARK_BEGIN "nbdspec: begin" /* what comes before is prepared: no power cut */
#define MARK_END   "nbdspec: end"   /* and how the workload ended: "status 0", "signal 9 (Killed)" */

#define MARK_SOCKET_ENV "NBDSPEC_MARK_SOCKET" /* the path of the recorder's control socket */
#define MARK_FD_ENV     "NBDSPEC_MARK_FD"     /* a descriptor; each line on it is a mark, and is answered by "ok" */

#endif
