/* Lies of the handshake. */
#include "fakeserver/lie.h"

/* xapi-nbd #63: the padding is sent although NBD_FLAG_C_NO_ZEROES was agreed. */
LIE(export_name_keeps_padding, ON_OUTGOING, BREAKS(R(export_name_no_zeroes)),
    "sends 124 zeroes that were negotiated away")
{
	if (m->kind == MSG_EXPORT_NAME_REPLY && c->no_zeroes && LIE_NOW)
		m->padding = 124;
}
