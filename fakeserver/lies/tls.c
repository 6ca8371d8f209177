/* Lies about TLS. Those called tls_* are told in FORCEDTLS mode, selective_* in SELECTIVETLS (cases/mutants.c). */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#include <string.h>

#define REPLY_LIE(ident, breaks, text, when, becomes)                                                                  \
	OUTGOING_LIE(ident, breaks, text, m->kind == MSG_OPTION_REPLY && (when), m->reply.type = (becomes))

/* ---- STARTTLS ---- */

REPLY_LIE(tls_starttls_unknown, BREAKS(R(forcedtls_starttls_acked)),
          "STARTTLS gets ERR_UNSUP, and all else ERR_TLS_REQD", m->option == NBD_OPT_STARTTLS && !c->over_tls,
          NBD_REP_ERR_UNSUP)
REPLY_LIE(tls_second_acked, BREAKS(R(forcedtls_second_starttls_invalid)), "STARTTLS over TLS gets an ACK",
          m->option == NBD_OPT_STARTTLS && c->over_tls, NBD_REP_ACK)
REPLY_LIE(tls_second_unknown, BREAKS(R(forcedtls_second_starttls_invalid)), "STARTTLS over TLS gets ERR_UNSUP",
          m->option == NBD_OPT_STARTTLS && c->over_tls, NBD_REP_ERR_UNSUP)
REPLY_LIE(selective_second_acked, BREAKS(R(selectivetls_second_starttls_invalid)), "STARTTLS over TLS gets an ACK",
          m->option == NBD_OPT_STARTTLS && c->over_tls, NBD_REP_ACK)
REPLY_LIE(selective_starttls_denied_once_asked, BREAKS(R(selectivetls_starttls_acked)),
          "STARTTLS behind another option gets ERR_POLICY",
          m->option == NBD_OPT_STARTTLS && !c->over_tls && c->structured, NBD_REP_ERR_POLICY)

static const uint8_t clear_text[] = { 0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0 };

OUTGOING_LIE(tls_clear_text_behind_ack, BREAKS(R(tls_server_sends_only_tls)),
             "the ACK to STARTTLS comes twice, in clear",
             m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_STARTTLS && !c->over_tls,
             m->extra = ((struct bytes){ clear_text, sizeof(clear_text) }))

LIE(tls_acts_on_injected, ON_STATE, BREAKS(R(tls_server_takes_only_tls)),
    "what came in clear behind STARTTLS is acted on once TLS is up")
{
	if (m->moment == STATE_STARTTLS && LIE_NOW)
		m->keep_input = true;
}

LIE(selective_keeps_structured, ON_STATE, BREAKS(R(starttls_forgets_state)),
    "structured replies that were agreed in clear are in force over TLS")
{
	if (m->moment == STATE_STARTTLS && c->structured && LIE_NOW)
		m->keep_structured = true;
}

LIE(tls_keeps_injected_state, ON_STATE, BREAKS(R(tls_server_takes_only_tls)),
    "STRUCTURED_REPLY in clear behind STARTTLS is not answered, and in force over TLS")
{
	static const uint8_t injected[] = { 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, NBD_OPT_STRUCTURED_REPLY };
	const struct buf *in = &c->input;

	if (m->moment == STATE_STARTTLS && memmem(in->at, in->len, injected, sizeof(injected)) != NULL && LIE_NOW)
		m->sets_structured = true;
}

LIE(selective_keeps_contexts, ON_STATE, BREAKS(R(starttls_forgets_state)),
    "metadata contexts that were selected in clear are in force over TLS")
{
	if (m->moment == STATE_STARTTLS && c->n_contexts > 0 && LIE_NOW)
		m->keep_contexts = true;
}

/* ---- the handshake ---- */

LIE(tls_goes_on_in_clear, ON_STATE, BREAKS(R(tls_server_handshake_failure)),
    "where the handshake fails the session goes on in clear")
{
	if (m->moment == STATE_TLS_FAILED && LIE_NOW)
		m->go_on = true;
}

#define PRIORITY_LIE(ident, breaks, text, value)                                                                       \
	LIE(ident, ON_STATE, breaks, text)                                                                             \
	{                                                                                                              \
		if (m->moment == STATE_STARTTLS && LIE_NOW)                                                            \
			m->priority = value;                                                                           \
	}

PRIORITY_LIE(tls_old_versions, BREAKS(R(tls_version_older_off)), "TLS 1.0 and 1.1 are served", "LEGACY")
PRIORITY_LIE(tls_only_1_2, BREAKS(R(tls_version_later)), "TLS 1.3 is not served", "NORMAL:-VERS-ALL:+VERS-TLS1.2")
PRIORITY_LIE(tls_only_1_3, BREAKS(R(tls_version_1_2)), "TLS 1.2 is not served", "NORMAL:-VERS-ALL:+VERS-TLS1.3")
/* Nobody else has it. */
PRIORITY_LIE(tls_in_common_with_nobody, BREAKS(R(tls_handshake_after_ack)), "no client has a version that it takes",
             "NORMAL:-VERS-ALL:+VERS-DTLS0.9:+VERS-TLS1.0:-CIPHER-ALL:+NULL")

LIE(tls_any_certificate, ON_STATE, BREAKS(R(tls_server_handshake_failure)),
    "clients need a certificate, and nobody looks at it")
{
	if (m->moment == STATE_STARTTLS && LIE_NOW)
		m->careless = true;
}

/* ---- what is refused in clear ---- */

#define FORCED_LIE(ident, breaks, text, option_, becomes)                                                              \
	REPLY_LIE(ident, breaks, text, m->reply.type == NBD_REP_ERR_TLS_REQD && m->option == (option_), becomes)

FORCED_LIE(tls_list_in_clear, BREAKS(R(forcedtls_options_tls_reqd)), "LIST in clear is acknowledged", NBD_OPT_LIST,
           NBD_REP_ACK)
FORCED_LIE(tls_structured_in_clear, BREAKS(R(forcedtls_options_tls_reqd)), "STRUCTURED_REPLY in clear is acknowledged",
           NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK)
FORCED_LIE(tls_info_denied_in_clear, BREAKS(R(forcedtls_options_tls_reqd)), "INFO in clear gets ERR_POLICY",
           NBD_OPT_INFO, NBD_REP_ERR_POLICY)
FORCED_LIE(tls_go_denied_in_clear, BREAKS(R(forcedtls_go_tls_reqd)), "GO in clear gets ERR_POLICY", NBD_OPT_GO,
           NBD_REP_ERR_POLICY)
FORCED_LIE(tls_contexts_denied_in_clear, BREAKS(R(forcedtls_options_tls_reqd)),
           "SET_META_CONTEXT in clear gets ERR_INVALID", NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID)
REPLY_LIE(tls_unknown_in_clear, BREAKS(R(forcedtls_options_tls_reqd)), "an unknown option in clear gets ERR_UNSUP",
          m->reply.type == NBD_REP_ERR_TLS_REQD && m->option > NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_UNSUP)
REPLY_LIE(tls_abort_refused, BREAKS(R(forcedtls_abort_without_tls)), "ABORT in clear gets ERR_TLS_REQD",
          m->option == NBD_OPT_ABORT && !c->over_tls, NBD_REP_ERR_TLS_REQD)

OUTGOING_LIE(tls_information_in_clear, BREAKS(R(forcedtls_no_infos)), "INFO and GO in clear are told the export's size",
             m->kind == MSG_OPTION_REPLY && m->reply.type == NBD_REP_ERR_TLS_REQD &&
                     (m->option == NBD_OPT_INFO || m->option == NBD_OPT_GO),
             m->reply.type = NBD_REP_INFO;
             m->payload = PAYLOAD_INFO_EXPORT; m->info.type = NBD_INFO_EXPORT; m->info_export.size = 4096)

LIE(tls_export_name_in_clear, ON_STATE, BREAKS(R(forcedtls_export_name_closes)), "EXPORT_NAME in clear is served")
{
	if (m->moment == STATE_BEFORE_OPTION && m->option == NBD_OPT_EXPORT_NAME && !c->over_tls && LIE_NOW)
		c->over_tls = true;
}

LIE(tls_mode_changes, ON_OUTGOING, BREAKS(R(tls_mode_consistent)), "the second LIST in clear is acknowledged")
{
	if (m->kind == MSG_OPTION_REPLY && m->reply.type == NBD_REP_ERR_TLS_REQD && m->option == NBD_OPT_LIST &&
	    l->arg++ % 2 == 1 && LIE_NOW)
		m->reply.type = NBD_REP_ACK;
}

/* ---- over TLS ---- */

REPLY_LIE(tls_wants_it_again, BREAKS(R(forcedtls_no_tls_reqd_after_tls)), "LIST over TLS gets ERR_TLS_REQD",
          c->over_tls && m->option == NBD_OPT_LIST && m->final, NBD_REP_ERR_TLS_REQD)
REPLY_LIE(selective_wants_it_again, BREAKS(R(selectivetls_no_tls_reqd_after_tls)), "INFO over TLS gets ERR_TLS_REQD",
          c->over_tls && m->option == NBD_OPT_INFO && m->final, NBD_REP_ERR_TLS_REQD)

LIE(tls_ends_abruptly, ON_PROCESS,
    BREAKS(R(disc_shuts_tls), R(disc_shuts_tls_down), R(haggling_disconnect_shuts_tls),
           R(transmission_disconnect_shuts_tls)),
    "the connection ends without close_notify")
{
	if (m->moment == PROCESS_DISCONNECT && c->over_tls && LIE_NOW)
		m->no_close_notify = true;
}

/* ---- some exports only ---- */

REPLY_LIE(selective_list_wants_it, BREAKS(R(selectivetls_tls_reqd_options)), "LIST in clear gets ERR_TLS_REQD",
          !c->over_tls && m->option == NBD_OPT_LIST && m->final, NBD_REP_ERR_TLS_REQD)
REPLY_LIE(selective_contexts_want_it, BREAKS(R(selectivetls_tls_reqd_options)),
          "SET_META_CONTEXT in clear gets ERR_TLS_REQD",
          !c->over_tls && m->option == NBD_OPT_SET_META_CONTEXT && m->final, NBD_REP_ERR_TLS_REQD)
REPLY_LIE(selective_info_wants_it, BREAKS(R(selectivetls_tls_reqd_exports)),
          "INFO in clear gets ERR_TLS_REQD for an export that GO enters",
          !c->over_tls && m->option == NBD_OPT_INFO && m->final, NBD_REP_ERR_TLS_REQD)
REPLY_LIE(selective_only_is_refused, BREAKS(R(selectivetls_tls_only_reqd)),
          "an export that is for TLS only is refused over TLS, too",
          c->over_tls && c->named != NULL && c->named->tls_only && m->final, NBD_REP_ERR_POLICY)

LIE(selective_export_name_in_clear, ON_STATE, BREAKS(R(selectivetls_export_name_closes)),
    "EXPORT_NAME in clear enters an export that is for TLS only")
{
	if (m->moment == STATE_BEFORE_OPTION && m->option == NBD_OPT_EXPORT_NAME && !c->over_tls && LIE_NOW)
		c->over_tls = true;
}
