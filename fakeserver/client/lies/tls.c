/* Lies about TLS: what a client must not do on its way to it, and over it. */
#include "fakeserver/client/lies/helpers.h"

#include <sys/epoll.h>

/* ---- NBD_OPT_STARTTLS ---- */

#define OPTION_LIE(ident, breaks_, text_, when, ...)                                                                   \
	CLIENT_LIE_WHERE(ident, SENDING, breaks_, text_, is_option(m, NBD_OPT_STARTTLS) && (when), __VA_ARGS__)

OPTION_LIE(starttls_with_data, BREAKS(R(starttls_no_data)), "sends a byte of data with STARTTLS", true,
           m->option.data = ((struct bytes){ (const uint8_t *)"", 1 }))

/* An option that another step sends comes first. */
static void
put_off_starttls(struct client_lie_use *l, struct fc_session *s, int moment, enum fc_step step, uint32_t option)
{
	struct fc_op *op = TAILQ_FIRST(&s->ops);
	bool begins = moment == FC_STATE_FLAGS && s->facts.fixed && s->settings.tls != FC_TLS_OFF;
	bool goes_back =
		moment == FC_STATE_AFTER_OPTION && s->option == option && s->settings.tls != FC_TLS_OFF && !s->secured;

	if (op != NULL && begins && CLIENT_LIE_NOW) {
		op->step = step;
		l->memory = s->number;
	} else if (op != NULL && goes_back && l->memory == s->number) {
		op->step = FC_TLS;
	}
}

CLIENT_LIE(starttls_comes_late, STATE, BREAKS(R(client_starttls_first), R(starttls_before_stateful)),
           "sends STRUCTURED_REPLY before STARTTLS")
{
	put_off_starttls(l, s, moment, FC_STRUCTURED, NBD_OPT_STRUCTURED_REPLY);
}

CLIENT_LIE(starttls_behind_extended_headers, STATE, BREAKS(R(client_starttls_first), R(ext_client_defers_until_tls)),
           "sends EXTENDED_HEADERS before STARTTLS")
{
	if (s->settings.extended)
		put_off_starttls(l, s, moment, FC_EXTENDED, NBD_OPT_EXTENDED_HEADERS);
}

CLIENT_LIE_WHERE(starttls_over_tls, SENDING, BREAKS(R(client_starttls_once)), "sends STARTTLS again once TLS is up",
                 s->secured && m->kind == MSG_OPTION, m->before = option_bytes(NBD_OPT_STARTTLS))

/* The client flags are told already. */
CLIENT_LIE_WHERE(starttls_without_fixed_newstyle, SENDING, BREAKS(R(client_starttls_needs_fixed_newstyle)),
                 "sends STARTTLS to a server that is not fixed newstyle",
                 m->kind == MSG_CLIENT_FLAGS && !s->facts.server_fixed && s->settings.tls != FC_TLS_OFF,
                 s->facts.fixed = true)

/* ---- where there is no TLS ---- */

static bool
is_refused(const struct fc_session *s, int moment)
{
	return moment == FC_STATE_AFTER_OPTION && s->option == NBD_OPT_STARTTLS && s->tls_refused;
}

CLIENT_LIE_WHERE(goes_on_where_tls_is_refused, STATE,
                 BREAKS(R(client_tls_only_terminates), R(client_tls_endpoint_enforced)),
                 "goes on in clear where STARTTLS is refused, and its user wants nothing but TLS",
                 is_refused(s, moment) && s->settings.tls == FC_TLS_REQUIRED, TAILQ_FIRST(&s->ops)->error[0] = '\0')

CLIENT_LIE_WHERE(goes_on_without_fixed_newstyle, STATE, BREAKS(R(client_tls_endpoint_enforced)),
                 "goes on in clear where there is no fixed newstyle, and its user wants nothing but TLS",
                 moment == FC_STATE_FLAGS && !s->facts.fixed && s->settings.tls == FC_TLS_REQUIRED,
                 s->settings.tls = FC_TLS_OFF)

CLIENT_LIE_WHERE(takes_refusal_for_ack, STATE, BREAKS(R(client_starttls_refused)),
                 "begins the TLS handshake where STARTTLS is refused", is_refused(s, moment),
                 TAILQ_FIRST(&s->ops)->error[0] = '\0';
                 fc_secure(s))

CLIENT_LIE_WHERE(wants_tls_in_vain, STATE, BREAKS(R(client_handles_all_tls_modes)),
                 "fails where STARTTLS is refused, and its user does not insist on TLS",
                 is_refused(s, moment) && s->settings.tls == FC_TLS_ALLOWED, fc_fail(TAILQ_FIRST(&s->ops), "ENOTSUP"))

CLIENT_LIE_WHERE(wants_tls_unasked, COMMAND, BREAKS(R(baseline_client_notls), R(client_handles_all_tls_modes)),
                 "connects to no server in clear", op->ask == FC_CONNECT && s->settings.tls == FC_TLS_OFF,
                 fc_fail(op, "ENOTSUP"))

CLIENT_LIE_WHERE(dies_where_tls_is_demanded, RECEIVING, BREAKS(R(client_handles_all_tls_modes)),
                 "dies of NBD_REP_ERR_TLS_REQD",
                 m->kind == MSG_OPTION_REPLY && m->option_reply->type == NBD_REP_ERR_TLS_REQD, abort())

CLIENT_LIE(remembers_that_there_was_no_tls, STATE, BREAKS(R(client_forgets_prior_session)),
           "once STARTTLS was refused never sends it again")
{
	if (is_refused(s, moment))
		l->memory = 1;
	else if (moment == FC_STATE_NEW && l->memory != 0 && s->settings.tls == FC_TLS_ALLOWED && CLIENT_LIE_NOW)
		s->settings.tls = FC_TLS_OFF;
}

/* ---- the way to TLS ---- */

#define SECURING_LIE(ident, breaks_, text_, ...)                                                                       \
	CLIENT_LIE_WHERE(ident, STATE, breaks_, text_, moment == FC_STATE_SECURING, __VA_ARGS__)
#define SECURED_LIE(ident, breaks_, text_, ...)                                                                        \
	CLIENT_LIE_WHERE(ident, STATE, breaks_, text_, moment == FC_STATE_SECURED, __VA_ARGS__)
#define NOT_SECURED_LIE(ident, breaks_, text_, ...)                                                                    \
	CLIENT_LIE_WHERE(ident, STATE, breaks_, text_, moment == FC_STATE_NOT_SECURED, s->survives_tls = true;         \
	                 __VA_ARGS__)

SECURING_LIE(ack_starts_nothing, BREAKS(R(client_upgrades_on_ack), R(tls_client_sends_only_tls)),
             "goes on in clear after the ACK to STARTTLS", s->skips_tls = true)

/* CVE-2011-0411 was this, of a mail server. */
SECURING_LIE(acts_on_injected_replies, BREAKS(R(tls_client_takes_only_tls)),
             "takes replies in clear that come in one piece with the ACK to STARTTLS for replies over TLS",
             s->keeps_input = true)

SECURING_LIE(takes_any_certificate, BREAKS(R(tls_client_handshake_failure)), "does not look at the certificate",
             s->tls_setup.verify = false)
SECURING_LIE(takes_any_host, BREAKS(R(tls_client_handshake_failure)), "does not look whose certificate it is",
             s->tls_setup.hostname = NULL)
SECURING_LIE(knows_no_tls_1_2, BREAKS(R(tls_version_1_2)), "knows TLS 1.3 only",
             s->tls_setup.priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3")
SECURING_LIE(knows_no_tls_1_3, BREAKS(R(tls_version_later)), "knows TLS 1.2 only",
             s->tls_setup.priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2")
SECURING_LIE(speaks_old_versions, BREAKS(R(tls_version_older_off), R(tls_version_older_configured)),
             "has TLS 1.0 and 1.1 without being told to", s->tls_setup.priority = "LEGACY")

NOT_SECURED_LIE(goes_on_without_handshake,
                BREAKS(R(tls_client_handshake_failure), R(client_terminates_hard), R(tls_client_sends_only_tls)),
                "goes on in clear where the TLS handshake fails", (void)0)

/* The descriptor stays open, and nobody looks at it any more. */
CLIENT_LIE(keeps_failed_connection, STATE, BREAKS(R(client_terminates_hard), R(tls_client_handshake_failure)),
           "keeps the connection where the TLS handshake fails")
{
	if (moment != FC_STATE_NOT_SECURED || !CLIENT_LIE_NOW)
		return;
	epoll_ctl(fc_client.epoll, EPOLL_CTL_DEL, s->fd, NULL);
	s->fd = -1;
}

NOT_SECURED_LIE(waits_after_failed_handshake, BREAKS(R(tls_client_handshake_failure)),
                "tells nobody that the TLS handshake has failed", s->in_option = s->deaf = true)

CLIENT_LIE_WHERE(dies_of_failed_handshake, STATE, BREAKS(R(tls_client_handshake_failure)),
                 "dies where the TLS handshake fails", moment == FC_STATE_NOT_SECURED, abort())

CLIENT_LIE_WHERE(hides_failed_handshake, ANSWER, BREAKS(R(tls_client_handshake_failure)),
                 "reports success where the TLS handshake fails",
                 op->ask == FC_CONNECT && s->tls != NULL && !s->secured, op->error[0] = '\0')

/* ---- over TLS ---- */

SECURED_LIE(takes_clear_text, BREAKS(R(tls_client_takes_only_tls)), "takes replies in clear once TLS is up",
            s->takes_clear = true)
SECURED_LIE(sends_clear_text, BREAKS(R(tls_client_sends_only_tls)), "sends in clear once TLS is up",
            s->sends_clear = true)

CLIENT_LIE(keeps_structured_over_tls, COMMAND, BREAKS(R(starttls_client_renegotiates)),
           "takes structured replies and contexts that were negotiated before STARTTLS to hold after it")
{
	if (op->ask == FC_STARTTLS && s->facts.structured && CLIENT_LIE_NOW) {
		s->settings.structured = false;
		l->memory = s->number;
	}
	if (is_command(op, NBD_CMD_BLOCK_STATUS) && l->memory == s->number)
		op->unchecked = true;
}

CLIENT_LIE(keeps_extended_over_tls, STATE, BREAKS(R(ext_renegotiated_after_starttls)),
           "takes extended headers that were agreed before STARTTLS to hold after it")
{
	if (moment == FC_STATE_SECURING && s->facts.extended && CLIENT_LIE_NOW) {
		s->settings.extended = false;
		l->memory = s->number;
	} else if (moment == FC_STATE_SECURED && l->memory == s->number) {
		s->facts.extended = s->facts.structured = true;
	}
}

CLIENT_LIE(export_name_over_tls, STATE, BREAKS(R(tls_client_uses_go)), "sends EXPORT_NAME over TLS, and never GO")
{
	struct fc_op *op = TAILQ_FIRST(&s->ops);

	if (moment != FC_STATE_SECURED || op == NULL || op->ask != FC_CONNECT || !CLIENT_LIE_NOW)
		return;
	op->step = FC_OLD_WAY;
	s->option = NBD_OPT_GO;
	s->option_unsupported = true;
}

CLIENT_LIE_WHERE(ends_tls_abruptly, STATE,
                 BREAKS(R(client_abort_shuts_tls), R(haggling_disconnect_shuts_tls),
                        R(transmission_disconnect_shuts_tls)),
                 "closes the connection without close_notify", moment == FC_STATE_CLOSING, s->drops_tls = true)
