/*
 * The referee: for every rule that it judges a session that breaks it, and a legal neighbour that must be silent; and
 * that its table of rules is complete. Sessions are written in words:
 *
 *   G=FLAGS O=FLAGS f=FLAGS             greeting, oldstyle greeting, client flags (fixed newstyle with no zeroes)
 *   go=NAME/INFO,… info=… name=NAME     options; * N makes a name of N bytes, %XX is any byte
 *   set=NAME/QUERY,… lst=… abort list starttls structured extended opt=N      a + behind a name: a byte of data; an - : one cut off
 *   ack err=TYPE ie=FLAGS/SIZE bs=MIN/PREF/MAX ctx=ID en=FLAGS       replies
 *   read=OFFSET/LENGTH/FLAGS/COOKIE write trim zero cache status flush disc cmd8            requests
 *   ok=COOKIE e=ERROR/COOKIE data=COOKIE none=COOKIE                 replies; without a cookie: to the last request
 *   xread=OFFSET/LENGTH/FLAGS/COOKIE … xe=ERROR/COOKIE xdata=COOKIE xnone=COOKIE        the same with extended headers
 *   xids=OFFSET/LENGTH/FLAGS/COOKIE:ID,…     BLOCK_STATUS with a payload; xext=COOKIE: an extent in reply
 *   raw=HEX badopt=HEX badreq=HEX       bytes that are no message, or with a wrong magic
 *   @N                                  the connection that the rest is about (1)
 *   close reset hangup gone             the client closes, resets; the server closes; the server falls silent
 */
#include "cases/client/referee.h"
#include "harness/nbd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))
#define HI        "G f "
#define ALL_FLAGS "0xd6d"
#define GO        HI "go ie ack "
#define GO_(f)    HI "go ie=" f " ack "
#define SR        HI "structured ack "
#define CTX       SR "set=/base:allocation ctx ack "
#define BYE       " disc close"
#define XH        HI "extended ack "
#define XGO       XH "go ie ack "
#define XCTX      XH "set=/base:allocation ctx ack go ie=0x1d6d ack "
#define XBYE      " xdisc close"

enum { LIES = 1, SEVERAL = 2, INTEROPERABLE = 4, EXPORT_SIZE = 1 << 20 };

static const struct row {
	const char *broken, *session, *legal;
	unsigned setup;
} rows[] = {
	/* strings */
	{ "client_strings_no_nul", HI "go=a%00b ie ack" BYE, HI "go=ab ie ack" BYE, 0 },
	{ "client_strings_no_nul", SR "set=/base:x%00 ack go ie ack" BYE, SR "set=/base:x ack go ie ack" BYE, 0 },
	{ "client_strings_utf8", HI "go=%ff ie ack" BYE, HI "go=%c3%a9 ie ack" BYE, 0 },
	{ "client_strings_max_length", HI "go=*4097 ie ack" BYE, HI "go=*256 ie ack" BYE, 0 },
	{ "client_strings_short", HI "go=*257 ie ack" BYE, HI "go=*256 ie ack" BYE, 0 },
	/* greetings */
	{ "oldstyle_client_silent", "O raw=00000003 close", "O read ok" BYE, 0 },
	{ "oldstyle_client_silent", "O badreq=49484156 close", "O close", 0 },
	{ "client_flags_sent", "G raw=0000 close", "G close", 0 },
	{ "client_flags_sent", "G f=0x49484156 close", "G close", 0 },
	{ "no_other_client_flags", "G f=7 go ie ack" BYE, "G f=3 go ie ack" BYE, 0 },
	{ "client_no_zeroes_unoffered", "G=1 f=3 go ie ack" BYE, "G=1 f=1 go ie ack" BYE, 0 },
	{ "numbers_big_endian", "G f=0x03000000 close", "G f=0 close", 0 },
	{ "numbers_big_endian", HI "badopt=54504f4556414849", HI "abort ack close", 0 },
	{ "numbers_big_endian", GO "badreq=13956025", GO "read ok" BYE, 0 },
	{ "client_fixed_newstyle_flag", "G f=2 go ie ack" BYE, "G f=2 name=x en" BYE, 0 },
	{ "nonfixed_only_export_name", "G=0 f=0 list", "G=0 f=0 name=x en" BYE, 0 },
	/* options */
	{ "option_magic_client", HI "badopt=4948415645", HI "abort ack close", 0 },
	{ "option_layout_client", HI "list ack badopt=00", HI "list ack abort ack close", 0 },
	{ "option_layout_client client_handshake_no_hard_disconnect client_abandons_softly",
	  HI "raw=49484156454f505400000007 close", HI "raw=49484156454f505400000007 hangup close", LIES },
	{ "client_one_option_at_a_time", HI "list structured ack ack abort ack close",
	  HI "list ack structured ack abort ack close", 0 },
	{ "client_one_option_at_a_time go_then_no_options", HI "go list",
	  HI "go err=0x80000006 list ack abort ack close", 0 },
	{ "client_one_option_at_a_time go_then_no_options", HI "go badreq=49484156", HI "go ie ack" BYE, 0 },
	{ "client_one_option_at_a_time", HI "go err=0x80000001 name=x badreq=49484156", GO BYE, 0 },
	{ "go_then_no_options", GO "badreq=49484156", GO "read ok" BYE, 0 },
	{ "client_state_option_once", SR "structured ack abort close",
	  HI "structured err=0x80000001 structured ack abort close", 0 },
	{ "client_abort_drops_connection", HI "abort ack list", HI "abort ack close", 0 },
	{ "client_abort_drops_connection", HI "abort ack raw=4948", HI "abort ack hangup", 0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "list ack close", HI "list ack abort close",
	  0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "go err=0x80000005 reset", HI "go close",
	  0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "close", "G=2 f=2 close", 0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "close", "G=7 f=3 close", 0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "list ack close", HI "list ctx ack close",
	  0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "info ie ack close", HI "info ack close",
	  0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "info ie bs=1/4096/65536 ack close",
	  HI "info ie bs=3/4096/65536 ack close", 0 },
	{ "client_aborts_on_shutdown", HI "list err=0x80000007 go", HI "list err=0x80000007 abort ack close", 0 },
	{ "client_aborts_on_shutdown client_handshake_no_hard_disconnect client_abandons_softly",
	  HI "list err=0x80000007 close", HI "list err=0x80000007 hangup", 0 },
	{ "go_preferred", HI "name=x en" BYE, HI "go=x err=0x80000001 name=x en" BYE, 0 },
	{ "go_preferred", HI "name=x en" BYE, HI "info=x err=0x80000001 name=x en" BYE, 0 },
	{ "go_falls_back", HI "go err=0x80000001 abort ack close", HI "go err=0x80000001 list ack abort ack close", 0 },
	{ "client_block_size_uses_go", HI "go=a/3 err=0x80000006 name=b en" BYE,
	  HI "go=a/3 err=0x80000001 name=b en" BYE, 0 },
	{ "client_asks_block_size", HI "info ie ack go=/3 ie bs=1/4096/65536 ack" BYE,
	  HI "info=/3 ie ack go=/3 ie bs=1/4096/65536 ack" BYE, 0 },
	{ "interop_block_sizes_queried", GO BYE, HI "go=/3 ie ack" BYE, INTEROPERABLE },
	{ "abort_no_data", HI "abort+ ack close", HI "abort ack close", 0 },
	{ "list_no_data", HI "list+ ack abort close", HI "list ack abort close", 0 },
	{ "structured_reply_no_data", HI "structured+ ack abort close", SR "abort close", 0 },
	{ "info_request_name_fits info_request_layout", HI "opt=7:00000009:0000 err=0x80000003 abort close",
	  HI "opt=7:00000000:0000 ie ack" BYE, 0 },
	{ "info_request_layout", HI "opt=7:00000000:0001 err=0x80000003 abort close",
	  HI "opt=7:00000000:0001:0003 ie ack" BYE, 0 },
	{ "info_request_layout", HI "go+ err=0x80000003 abort close", HI "go ie ack" BYE, 0 },
	{ "info_requests_once_each", HI "go=/1,3,1 ie ack" BYE, HI "go=/1,3,2 ie ack" BYE, 0 },
	/* TLS */
	{ "starttls_no_data", HI "starttls+ err=0x80000003 abort close", HI "starttls err=0x80000001 abort close", 0 },
	{ "client_starttls_once", HI "starttls ack starttls err=0x80000003 abort close",
	  HI "starttls err=0x80000001 starttls ack abort close", 0 },
	{ "client_starttls_needs_fixed_newstyle client_fixed_newstyle_flag", "G f=2 starttls", HI "starttls", 0 },
	{ "client_starttls_needs_fixed_newstyle nonfixed_only_export_name", "G=2 f=2 starttls", HI "starttls", 0 },
	{ "starttls_before_stateful", SR "starttls ack", HI "list ack starttls ack", 0 },
	{ "client_starttls_refused", HI "starttls err=0x80000001 badopt=1603010200",
	  HI "starttls ack badopt=1603010200", 0 },
	{ "tls_client_uses_go go_preferred", HI "starttls ack name=x en" BYE,
	  HI "starttls ack go=x err=0x80000001 name=x en" BYE, 0 },
	{ "starttls_client_renegotiates starttls_before_stateful block_status_after_set_meta "
	  "client_status_needs_context "
	  "client_selects_contexts client_negotiates_extras client_metadata_needs_structured "
	  "payload_extensions_need_structured",
	  CTX "starttls ack go ie ack status e=22" BYE,
	  HI "starttls ack structured ack set=/base:allocation ctx ack go ie ack status e=22" BYE, 0 },
	/* metadata contexts */
	{ "list_meta_after_structured", HI "lst=/base: err=0x80000003 abort close", SR "lst=/base: ctx ack abort close",
	  0 },
	{ "set_meta_after_structured client_metadata_needs_structured",
	  HI "set=/base:allocation err=0x80000003 abort close", CTX "abort close", 0 },
	{ "list_meta_request_layout", SR "lst=/base:- err=0x80000003 abort close", SR "lst ctx ack abort close", 0 },
	{ "set_meta_request_layout", SR "set=/base:x+ err=0x80000003 abort close", SR "set ack abort close", 0 },
	{ "list_meta_query_namespaced", SR "lst=/base ack abort close", SR "lst=/base: ctx ack abort close", 0 },
	{ "set_meta_query_namespaced", SR "set=/:allocation ack abort close", SR "set=/x:allocation ack abort close",
	  0 },
#define NO_CONTEXT                                                                                                     \
	"block_status_after_set_meta client_status_needs_context client_selects_contexts client_negotiates_extras"
	{ NO_CONTEXT " client_metadata_needs_structured payload_extensions_need_structured", GO "status e=22" BYE,
	  CTX "go ie ack status e=22" BYE, 0 },
	{ NO_CONTEXT, SR "go ie ack status e=22" BYE, CTX "go ie ack status e=22" BYE, 0 },
	{ NO_CONTEXT, SR "set=/base:x ack go ie ack status e=22" BYE, CTX "go ie ack status e=22" BYE, 0 },
	{ NO_CONTEXT, CTX "go=b ie ack status e=22" BYE, SR "set=b/base:x ctx ack go=b ie ack status e=22" BYE, 0 },
	{ NO_CONTEXT, CTX "set=/base:x err=0x80000009 go ie ack status e=22" BYE,
	  SR "set=/base:x ack set=/base:allocation ctx ack go ie ack status e=22" BYE, 0 },
/* what is offered */
#define UNOFFERED " client_uses_exposed_features client_negotiates_extras"
	{ "flush_only_where_advertised" UNOFFERED, GO_("0xd69") "flush e=22" BYE, GO "flush ok" BYE, 0 },
	{ "flush_only_where_advertised" UNOFFERED, "O=1 flush e=22" BYE, "O=5 flush ok" BYE, 0 },
	{ "trim_only_where_advertised" UNOFFERED, HI "go err=0x80000001 name=x en=1 trim e=22" BYE,
	  HI "go err=0x80000001 name=x en=0x21 trim ok" BYE, 0 },
	{ "zeroes_only_where_advertised" UNOFFERED, GO_("0x52d") "zero e=22" BYE, GO_("0x56d") "zero ok" BYE, 0 },
	{ "client_uses_exposed_features command_flags_documented_only", GO_("0xd65") "write=0/512/1 e=22" BYE,
	  GO "write=0/512/1 ok" BYE, 0 },
#define DF "client_df_unadvertised df_only_where_advertised command_flags_documented_only"
	{ DF, SR "go ie ack read=0/512/4 e=22" BYE, SR "go ie=0xded ack read=0/512/4 e=22" BYE, 0 },
#define FAST "client_fast_zero_unadvertised fast_zero_only_where_advertised command_flags_documented_only"
	{ FAST, GO_("0x56d") "zero=0/512/0x10 e=22" BYE, GO "zero=0/512/0x10 e=95" BYE, 0 },
	{ "command_flags_documented_only", GO "read=0/512/2 e=22" BYE, GO "zero=0/512/2 ok" BYE, 0 },
	{ "command_flags_documented_only", GO "write=0/512/0x8000 e=22" BYE, GO_("0x8d6d") "write=0/512 ok" BYE, 0 },
	{ "fua_only_on_writes", GO "read=0/512/1 ok" BYE, GO "trim=0/512/1 ok" BYE, 0 },
	{ "client_negotiates_extras", GO "cmd8=0/512 e=22" BYE, GO_("0x96d") "cache=0/512 e=22" BYE, 0 },
	{ "client_forgets_prior_session flush_only_where_advertised" UNOFFERED,
	  GO "flush ok" BYE " @2 " GO_("0xd69") "flush e=22" BYE, GO_("0xd69") BYE " @2 " GO "flush ok" BYE, 0 },
	{ "client_forgets_prior_session " NO_CONTEXT, CTX "go ie ack" BYE " @2 " SR "go ie ack status e=22" BYE,
	  SR "go ie ack" BYE " @2 " CTX "go ie ack status e=22" BYE, 0 },
	/* where, and how much */
	{ "read_length_nonzero", GO "read=0/0 ok" BYE, GO "read=0/1 ok" BYE, 0 },
	{ "write_length_nonzero", GO "write=0/0 ok" BYE, GO "write=0/1 ok" BYE, 0 },
	{ "trim_length_nonzero", GO "trim=0/0 ok" BYE, GO "cache=0/0 ok" BYE, 0 },
	{ "zeroes_length_nonzero", GO "zero=0/0 ok" BYE, GO "zero=0/1 ok" BYE, 0 },
	{ "status_length_nonzero", CTX "go ie ack status=0/0 e=22" BYE, CTX "go ie ack status=0/1 e=22" BYE, 0 },
	{ "client_within_export", GO "read=1048575/2 e=22" BYE, GO "read=1048575/1 ok" BYE, 0 },
	{ "client_within_export", GO "trim=18446744073709551615/512 e=22" BYE, GO "trim=1048064/512 ok" BYE, 0 },
#define BLOCKS(ask, min, max) HI "go=/" ask " ie bs=" min "/4096/" max " ack "
	{ "client_minimum_aligned client_abides_by_block_size", BLOCKS("3", "512", "65536") "read=512/1 e=22" BYE,
	  BLOCKS("3", "512", "65536") "read=512/512 ok" BYE, 0 },
	{ "client_minimum_aligned client_abides_by_block_size", BLOCKS("3", "512", "65536") "trim=1/512 e=22" BYE,
	  BLOCKS("", "512", "65536") "trim=1/512 ok" BYE, 0 },
	{ "client_payload_within_maximum client_abides_by_block_size",
	  BLOCKS("3", "1", "65536") "write=0/65537 e=22" BYE,
	  BLOCKS("3", "1", "65536") "write=0/65536 ok trim=0/131072 ok" BYE, 0 },
	{ "client_payload_within_maximum client_abides_by_block_size",
	  BLOCKS("3", "1", "65536") "read=0/65537 e=22" BYE, SR "go=/3 ie bs=1/4096/65536 ack read=0/65537 e=75" BYE,
	  0 },
	{ "client_preferred_aligned", BLOCKS("3", "1", "65536") "read=0/512 ok" BYE,
	  BLOCKS("3", "1", "65536") "read=0/4096 ok" BYE, INTEROPERABLE },
	{ "client_default_min_block interop_block_sizes_queried interop_block_sizes_abided_by", GO "read=0/1 ok" BYE,
	  HI "go=/3 ie ack read=0/512 ok" BYE, INTEROPERABLE },
	{ "client_default_max_payload", HI "go=/3 ie=" ALL_FLAGS "/67108864 ack read=0/33554944 e=22" BYE,
	  HI "go=/3 ie=" ALL_FLAGS "/67108864 ack read=0/33554432 e=22" BYE, INTEROPERABLE },
	/* requests */
	{ "request_magic", GO "badreq=12560953", GO "read ok" BYE, 0 },
	/* extended headers */
	{ "ext_option_no_data", HI "extended+ err=0x80000003 abort close", HI "extended ack abort close", 0 },
	{ "client_state_option_once", XH "extended ack abort close", XH "structured err=0x8000000a abort close", 0 },
	{ "ext_no_export_name go_preferred ext_client_prefers_go", XH "name=x hangup", XGO XBYE, 0 },
	{ "go_preferred ext_client_prefers_go", HI "extended err=0x80000001 name=x en" BYE,
	  HI "extended err=0x80000001 go=x err=0x80000001 name=x en" BYE, 0 },
	{ "ext_client_defers_until_tls", XH "starttls ack", HI "extended err=0x80000001 starttls ack", 0 },
	{ "ext_client_defers_until_tls ext_renegotiated_after_starttls extended_request_magic_negotiated",
	  XH "starttls ack go ie ack badreq=21e41c71", HI "starttls ack extended ack go ie ack xread xdata xnone" XBYE,
	  0 },
	{ "set_meta_after_structured client_metadata_needs_structured ext_contexts_need_negotiation "
	  "ext_contexts_after_negotiation",
	  HI "extended err=0x80000001 set=/base:allocation err=0x80000003 abort close",
	  XH "set=/base:allocation ctx ack abort close", 0 },
	{ "list_meta_after_structured ext_list_contexts_after_negotiation",
	  HI "extended err=0x80000001 lst=/base: err=0x80000003 abort close", XH "lst=/base: ctx ack abort close", 0 },
	{ "df_only_where_advertised client_df_unadvertised command_flags_documented_only ext_df_needs_flag",
	  XH "go ie=0xd6d ack xread=0/512/4 xe=22" XBYE, XH "go ie=0xded ack xread=0/512/4 xdata xnone" XBYE, 0 },
	{ "ext_status_payload_needs_flag",
	  XH "set=/base:allocation ctx ack go ie ack xids=0/512/0/1:00000001 xe=22" XBYE,
	  XCTX "xids=0/512/0/1:00000001 xext xnone" XBYE, 0 },
	{ "ext_status_payload_layout", XCTX "xids=0/512/0/1:000000 xe=22" XBYE, XCTX "xids=0/512/0/1: xnone" XBYE, 0 },
	{ "client_within_export", XCTX "xids=0x100000/512/0/1:00000001 xe=22" XBYE,
	  XCTX "xids=0xffe00/512/0/1:00000001 xext xnone" XBYE, 0 },
	{ "ext_requests_extended", XGO "badreq=25609513", XGO "xread xdata xnone" XBYE, 0 },
	{ "ext_compact_no_payload_flag command_flags_documented_only", GO "write=0/512/32 ok" BYE, GO "write ok" BYE,
	  0 },
	{ "ext_write_payload_flag", XGO "xwrite=0/512 xnone" XBYE, XGO "xwrite=0/512/32 xnone" XBYE, 0 },
	{ "command_flags_documented_only", XGO "xtrim=0/512/32 xe=22" XBYE, XGO "xtrim=0/512 xnone" XBYE, 0 },
	{ "ext_read_32bit client_within_export", XGO "xread=0/0x100000000 xe=75" XBYE,
	  XH "go ie=0xd6d/0x300000000 ack xzero=0/0x200000000 xnone xtrim=0/0x200000000 xnone" XBYE, 0 },
	{ "ext_read_nonzero read_length_nonzero", XGO "xread=0/0 xe=22" XBYE, XGO "xread=0/1 xdata xnone" XBYE, 0 },
	{ "ext_status_nonzero status_length_nonzero", XCTX "xstatus=0/0 xe=22" XBYE, XCTX "xstatus xext xnone" XBYE,
	  0 },
	{ "client_transmission_no_disconnect", XGO "xread xdata xnone close", XGO "xread ok close", 0 },
	{ "client_transmission_no_disconnect", XCTX "xids=0/512/0/1:00000001 xext xnone close",
	  XCTX "xids=0/512/0/1: xext xnone close", 0 },
	{ "request_layout client_transmission_no_disconnect", XGO "xread xdata xnone raw=21e41c71 close",
	  XGO "xread xdata xnone hangup", 0 },
	{ "write_payload_follows request_payload_client", XGO "xwrite=0/512/32 xnone badxreq=00",
	  XGO "xwrite=0/512/32 xnone" XBYE, 0 },
	{ "extended_request_magic_negotiated", GO "badreq=21e41c71", GO "read ok" BYE, 0 },
	{ "request_layout client_transmission_no_disconnect", GO "raw=2560951300 close", GO "raw=2560951300 hangup",
	  0 },
	{ "request_payload_client", GO "read ok badreq=00", GO "read ok read ok" BYE, 0 },
	{ "write_payload_follows request_payload_client", GO "write=0/512 ok badreq=00",
	  GO "write=0/512 ok read ok" BYE, 0 },
	{ "client_transmission_no_disconnect",
	  GO "raw=2560951300000001000000000000000100000000000000000000020000 close",
	  GO "raw=2560951300000001000000000000000100000000000000000000020000 hangup", 0 },
	{ "zeroes_sent_without_payload request_payload_client", GO "zero ok badreq=00", GO "zero ok read ok" BYE, 0 },
	{ "flush_fields_zero", GO "flush=512/0 ok" BYE, GO "flush ok" BYE, 0 },
	{ "disc_fields_zero", GO "disc=0/1 close", GO "disc close", 0 },
	{ "disc_nothing_after", GO "disc raw=00", GO "disc hangup", 0 },
	{ "client_distinct_cookies", GO "read=0/512/0/7 read=512/512/0/7",
	  GO "read=0/512/0/7 ok read=512/512/0/7 ok" BYE, 0 },
	{ "client_distinct_cookies", SR "go ie ack read=0/512/0/7 data=7 read=512/512/0/7",
	  SR "go ie ack read=0/512/0/7 data=7 none=7 read=512/512/0/7", 0 },
	/* leaving */
	{ "client_disc_after_inflight", GO "read" BYE, GO "read ok" BYE, 0 },
	{ "client_disc_after_inflight", GO "read" BYE, GO "read gone" BYE, 0 },
	{ "client_transmission_no_disconnect", GO "close", GO "hangup", 0 },
	{ "client_transmission_no_disconnect", GO "read ok reset", GO "read gone reset", 0 },
	{ "client_transmission_no_disconnect", GO "read ok close", GO "read ok=99 close", 0 },
	{ "client_transmission_no_disconnect", GO "close", GO "close", LIES },
	/* What came to light only after it had left. */
	{ "client_transmission_no_disconnect", GO "read close ok hangup", GO "read close ok disc hangup", 0 },
	{ "client_transmission_no_disconnect", GO "close",
	  GO "close raw=25609513000000020000000000000001000000000000000000000000 hangup", 0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "go err=0x80000006 close hangup",
	  HI "go err=0x80000006 close raw=49484156454f50540000000200000000 hangup", 0 },
	{ "client_handshake_no_hard_disconnect client_abandons_softly", HI "go err=0x80000006 close",
	  HI "go=/3 err=0x80000008 close", 0 },
	/* It may be the server that is out of step. */
	{ "request_payload_client", GO "read ok badreq=00 close", GO "read ok badreq=00 close", LIES },
	{ "option_magic_client", HI "badopt=00 close", HI "badopt=00 close", LIES },
	{ "client_disconnects_on_eshutdown client_transmission_no_disconnect", GO "read e=108 close",
	  GO "read e=108" BYE, 0 },
	{ "unexpected_error_as_einval", GO "read e=200 close", GO "read e=200 read ok" BYE, 0 },
	/* connections */
	{ "client_multi_conn_unadvertised", GO_("0x6d") "@2 " GO_("0x6d") "@1 read @2 read",
	  GO "@2 " GO "@1 read @2 read", 0 },
	{ "client_multi_conn_unadvertised", GO_("0x6d") "read ok @2 " GO_("0x6d") "read ok @1 read ok",
	  GO_("0x6d") "read ok disc close @2 " GO_("0x6d") "read ok", 0 },
	{ "client_multi_conn_unadvertised", GO_("0x6d") "@2 " GO_("0x6d") "@1 read @2 read",
	  GO_("0x6d") "@2 " HI "go=b ie=0x6d ack @1 read @2 read", 0 },
};

/* ---- a session, in words ---- */

struct player {
	struct referee *ref;
	uint16_t connection;
	unsigned connected; /* as bits */
	uint32_t option;
	uint64_t cookie;
	uint64_t offset; /* of the last request */
	uint32_t length;
	uint16_t type;
	char broken[4096];
	unsigned cut; /* bytes taken off each message */
};

static void
note_broken(void *arg, uint16_t connection, enum requirement_id r, const char *text)
{
	struct player *p = arg;
	char word[128];

	assert_true(connection == p->connection);
	assert_true(text != NULL && text[0] != '\0' && strchr(text, '\n') == NULL);
	assert_int_equal(referee_judges(r), JUDGED_BY_REFEREE);
	snprintf(word, sizeof(word), " %s ", requirement(r)->id);
	if (strstr(p->broken, word) == NULL)
		snprintf(p->broken + strlen(p->broken), sizeof(p->broken) - strlen(p->broken), "%s", word);
}

static void
play(struct player *p, enum trace_kind kind, enum message_kind message, enum trace_direction to, struct buf *b)
{
	size_t len = b->len > p->cut ? b->len - p->cut : 0;
	uint8_t *exact = malloc(len > 0 ? len : 1); /* so that a sanitizer sees who reads past the end */

	memcpy(exact, b->at != NULL ? b->at : (uint8_t *)"", len);
	referee_see(p->ref, &(struct trace_record){ .kind = kind,
	                                            .message = message,
	                                            .direction = to,
	                                            .connection = p->connection,
	                                            .length = (uint32_t)len,
	                                            .data = { exact, len } });
	free(exact);
	buf_free(b);
}

static uint64_t
number(char **at, uint64_t otherwise)
{
	char *end;
	uint64_t n = strtoull(*at, &end, 0);

	n = end == *at ? otherwise : n;
	*at = *end == '/' || *end == ',' ? end + 1 : end;
	return n;
}

/* Text up to one of `ends`. */
static void
text_into(struct buf *b, char **at, const char *ends)
{
	for (; **at != '\0' && strchr(ends, **at) == NULL; ++*at) {
		unsigned byte = (unsigned char)**at;

		if (byte == '*') {
			size_t n = strtoul(*at + 1, at, 10);

			memset(buf_grow(b, n), 'x', n);
			return;
		}
		if (byte == '%' && sscanf(*at, "%%%2x", &byte) == 1)
			*at += 2;
		buf_put(b, &(uint8_t){ (uint8_t)byte }, 1);
	}
}

static void
hex_into(struct buf *b, const char *at)
{
	unsigned byte;

	for (; *at != '\0'; at++)
		if (*at != ':' && sscanf(at, "%2x", &byte) == 1) {
			buf_put(b, &(uint8_t){ (uint8_t)byte }, 1);
			at++;
		}
}

static void
play_option(struct player *p, uint32_t option, struct buf *data, char more)
{
	struct buf b = { 0 };

	if (more == '+')
		buf_zero(data, 1);
	data->len -= more == '-' ? 1 : 0;
	p->option = option;
	wire_put_option(&b, &(struct option){ NBD_OPTION_MAGIC, option, (uint32_t)data->len, { data->at, data->len } });
	buf_free(data);
	play(p, TRACE_MESSAGE, MSG_OPTION, TO_SERVER, &b);
}

static void
go_into(struct buf *data, char *at)
{
	struct buf name = { 0 }, infos = { 0 };

	text_into(&name, &at, "/");
	at += *at == '/' ? 1 : 0;
	while (*at != '\0')
		put_be16(&infos, (uint16_t)number(&at, 0));
	wire_put_opt_go(data, &(struct opt_go){ (uint32_t)name.len,
	                                        { name.at, name.len },
	                                        (uint16_t)(infos.len / 2),
	                                        { infos.at, infos.len } });
	buf_free(&name);
	buf_free(&infos);
}

static void
queries_into(struct buf *data, char *at)
{
	struct buf name = { 0 }, queries = { 0 };
	uint32_t n = 0;

	text_into(&name, &at, "/");
	while (*at != '\0') {
		struct buf query = { 0 };

		at++;
		text_into(&query, &at, ",");
		put_be32(&queries, (uint32_t)query.len);
		put_bytes(&queries, (struct bytes){ query.at, query.len });
		buf_free(&query);
		n++;
	}
	wire_put_opt_meta_context(data,
	                          &(struct opt_meta_context){
					  (uint32_t)name.len, { name.at, name.len }, n, { queries.at, queries.len } });
	buf_free(&name);
	buf_free(&queries);
}

static bool
option_word(struct player *p, const char *word, char *at, char more)
{
	static const char *const names[] = { "",   "name",       "abort", "list", "",         "starttls", "info",
		                             "go", "structured", "lst",   "set",  "extended", "opt" };
	struct buf data = { 0 };
	uint32_t option = 1;

	while (option < LENGTH(names) && strcmp(names[option], word) != 0)
		option++;
	if (option == LENGTH(names))
		return false;
	if (strcmp(word, "opt") == 0) {
		option = (uint32_t)strtoul(at, &at, 10);
		hex_into(&data, at);
	} else if (option == NBD_OPT_EXPORT_NAME) {
		text_into(&data, &at, "");
	} else if (option == NBD_OPT_GO || option == NBD_OPT_INFO) {
		go_into(&data, at);
	} else if (option == NBD_OPT_LIST_META_CONTEXT || option == NBD_OPT_SET_META_CONTEXT) {
		queries_into(&data, at);
	}
	play_option(p, option, &data, more);
	return true;
}

static bool
option_reply_word(struct player *p, const char *word, char *at)
{
	struct option_reply reply = { .magic = NBD_OPTION_REPLY_MAGIC, .option = p->option };
	struct buf data = { 0 }, b = { 0 };

	if (strcmp(word, "ack") == 0) {
		reply.type = NBD_REP_ACK;
	} else if (strcmp(word, "err") == 0) {
		reply.type = (uint32_t)number(&at, 0);
	} else if (strcmp(word, "ie") == 0) {
		uint16_t flags = (uint16_t)number(&at, strtoul(ALL_FLAGS, NULL, 0));

		reply.type = NBD_REP_INFO;
		put_be16(&data, NBD_INFO_EXPORT);
		wire_put_info_export(&data, &(struct info_export){ number(&at, EXPORT_SIZE), flags });
	} else if (strcmp(word, "bs") == 0) {
		uint32_t min = (uint32_t)number(&at, 1), pref = (uint32_t)number(&at, 4096);

		reply.type = NBD_REP_INFO;
		put_be16(&data, NBD_INFO_BLOCK_SIZE);
		wire_put_info_block_size(&data, &(struct info_block_size){ min, pref, (uint32_t)number(&at, 65536) });
	} else if (strcmp(word, "ctx") == 0) {
		reply.type = NBD_REP_META_CONTEXT;
		wire_put_rep_meta_context(&data, &(struct rep_meta_context){ 1, BYTES_OF("base:allocation") });
	} else {
		return false;
	}
	reply.length = (uint32_t)data.len;
	reply.data = (struct bytes){ data.at, data.len };
	wire_put_option_reply(&b, &reply);
	buf_free(&data);
	play(p, TRACE_MESSAGE, MSG_OPTION_REPLY, TO_CLIENT, &b);
	return true;
}

static bool
request_word(struct player *p, const char *word, char *at)
{
	static const char *const names[] = {
		"read", "write", "disc", "flush", "trim", "cache", "zero", "status", "cmd8"
	};
	bool ranged, extended = word[0] == 'x', ids = strcmp(word, "xids") == 0;
	struct request m = { .magic = extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC };
	struct buf b = { 0 }, payload = { 0 };

	word = ids ? "status" : extended ? word + 1 : word;
	while (m.type < LENGTH(names) && strcmp(names[m.type], word) != 0)
		m.type++;
	if (m.type == LENGTH(names))
		return false;
	ranged = m.type != NBD_CMD_DISC && m.type != NBD_CMD_FLUSH;
	m.offset = number(&at, 0);
	m.length = number(&at, ranged ? 512 : 0);
	m.flags = (uint16_t)number(&at, 0);
	p->cookie = m.cookie = number(&at, p->cookie + 1);
	p->length = (uint32_t)m.length;
	p->offset = m.offset;
	p->type = m.type;
	if (ids) {
		put_be64(&payload, m.length);
		hex_into(&payload, at);
		m.flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
		m.length = payload.len;
		m.data = (struct bytes){ payload.at, payload.len };
	}
	if (extended)
		wire_put_extended_request(&b, &m);
	else
		wire_put_request(&b, &m);
	buf_free(&payload);
	if (m.type == NBD_CMD_WRITE)
		buf_zero(&b, m.length);
	play(p, TRACE_MESSAGE, extended ? MSG_EXTENDED_REQUEST : MSG_REQUEST, TO_SERVER, &b);
	return true;
}

static bool
extended_reply_word(struct player *p, const char *word, char *at)
{
	struct chunk m = { .magic = NBD_EXTENDED_REPLY_MAGIC, .offset = p->offset, .type = NBD_REPLY_TYPE_NONE };
	uint32_t error = strcmp(word, "xe") == 0 ? (uint32_t)number(&at, 0) : 0;
	struct buf data = { 0 }, b = { 0 };

	if (error != 0) {
		m.type = NBD_REPLY_TYPE_ERROR;
		wire_put_chunk_error(&data, &(struct chunk_error){ .error = error });
	} else if (strcmp(word, "xdata") == 0) {
		m.type = NBD_REPLY_TYPE_OFFSET_DATA;
		put_be64(&data, p->offset);
		buf_zero(&data, p->length);
	} else if (strcmp(word, "xext") == 0) {
		m.type = NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
		put_be32(&data, 1);
		put_be32(&data, 1);
		wire_put_extent_ext(&data, (struct extent){ p->length, 0 });
	} else if (strcmp(word, "xnone") != 0) {
		return false;
	}
	m.flags = error != 0 || m.type == NBD_REPLY_TYPE_NONE ? NBD_REPLY_FLAG_DONE : 0;
	m.cookie = number(&at, p->cookie);
	m.length = data.len;
	m.data = (struct bytes){ data.at, data.len };
	wire_put_extended_chunk(&b, &m);
	buf_free(&data);
	play(p, TRACE_MESSAGE, MSG_EXTENDED_CHUNK, TO_CLIENT, &b);
	return true;
}

static bool
reply_word(struct player *p, const char *word, char *at)
{
	struct chunk chunk = { .magic = NBD_STRUCTURED_REPLY_MAGIC };
	uint32_t error = strcmp(word, "e") == 0 ? (uint32_t)number(&at, 0) : 0;
	uint64_t cookie = number(&at, p->cookie);
	struct buf b = { 0 };

	if (strcmp(word, "ok") == 0 || strcmp(word, "e") == 0) {
		wire_put_simple_reply(&b, &(struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, error, cookie, { 0 } });
		if (error == 0 && p->type == NBD_CMD_READ)
			buf_zero(&b, p->length);
		play(p, TRACE_MESSAGE, MSG_SIMPLE_REPLY, TO_CLIENT, &b);
		return true;
	}
	if (strcmp(word, "data") != 0 && strcmp(word, "none") != 0)
		return false;
	chunk.cookie = cookie;
	chunk.type = word[0] == 'd' ? NBD_REPLY_TYPE_OFFSET_DATA : NBD_REPLY_TYPE_NONE;
	chunk.flags = word[0] == 'd' ? 0 : NBD_REPLY_FLAG_DONE;
	chunk.length = word[0] == 'd' ? 8 + p->length : 0;
	wire_put_chunk(&b, &chunk);
	buf_zero(&b, chunk.length);
	play(p, TRACE_MESSAGE, MSG_CHUNK, TO_CLIENT, &b);
	return true;
}

static bool
greeting_word(struct player *p, const char *word, char *at)
{
	static const uint8_t zeroes[NBD_EXPORT_NAME_PADDING];
	struct buf b = { 0 };
	enum trace_direction to = TO_CLIENT;
	enum message_kind kind;

	if (strcmp(word, "G") == 0) {
		kind = MSG_GREETING;
		wire_put_greeting(&b, &(struct greeting){ NBD_MAGIC, NBD_OPTION_MAGIC, (uint16_t)number(&at, 3) });
	} else if (strcmp(word, "O") == 0) {
		kind = MSG_OLDSTYLE_GREETING;
		wire_put_oldstyle_greeting(&b, &(struct oldstyle_greeting){ NBD_MAGIC,
		                                                            NBD_CLISERV_MAGIC,
		                                                            EXPORT_SIZE,
		                                                            (uint32_t)number(&at, 0x6d),
		                                                            { zeroes, sizeof(zeroes) } });
	} else if (strcmp(word, "f") == 0) {
		kind = MSG_CLIENT_FLAGS;
		to = TO_SERVER;
		put_be32(&b, (uint32_t)number(&at, 3));
	} else if (strcmp(word, "en") == 0) {
		kind = MSG_EXPORT_NAME_REPLY;
		put_be64(&b, EXPORT_SIZE);
		put_be16(&b, (uint16_t)number(&at, 0x6d));
		/* The client flags of these sessions ask for no zeroes, but where none are offered. */
		if (at[0] == '0')
			put_bytes(&b, (struct bytes){ zeroes, sizeof(zeroes) });
	} else {
		return false;
	}
	play(p, TRACE_MESSAGE, kind, to, &b);
	return true;
}

static bool
raw_word(struct player *p, const char *word, char *at)
{
	struct buf b = { 0 };
	enum message_kind kind = MSG_RAW;
	size_t size = 0;

	if (strcmp(word, "badopt") == 0) {
		kind = MSG_OPTION;
		size = OPTION_HEADER_SIZE;
	} else if (strcmp(word, "badreq") == 0) {
		kind = MSG_REQUEST;
		size = REQUEST_SIZE;
	} else if (strcmp(word, "badxreq") == 0) {
		kind = MSG_EXTENDED_REQUEST;
		size = EXTENDED_REQUEST_SIZE;
	} else if (strcmp(word, "raw") != 0) {
		return false;
	}
	hex_into(&b, at);
	buf_zero(&b, size > b.len ? size - b.len : 0);
	play(p, TRACE_MESSAGE, kind, TO_SERVER, &b);
	return true;
}

static bool
end_word(struct player *p, const char *word)
{
	static const struct {
		const char *word;
		enum trace_kind kind;
		enum trace_direction by;
	} ends[] = { { "close", TRACE_CLOSED, NO_DIRECTION },
		     { "reset", TRACE_RESET, TO_SERVER },
		     { "hangup", TRACE_DISCONNECT, NO_DIRECTION },
		     { "gone", TRACE_TIMEOUT, NO_DIRECTION } };

	for (size_t i = 0; i < LENGTH(ends); i++)
		if (strcmp(ends[i].word, word) == 0) {
			play(p, ends[i].kind, 0, ends[i].by, &(struct buf){ 0 });
			return true;
		}
	return false;
}

static void
connect_to(struct player *p, uint16_t connection)
{
	p->connection = connection;
	if ((p->connected & 1u << connection) == 0)
		play(p, TRACE_CONNECT, 0, NO_DIRECTION, &(struct buf){ 0 });
	p->connected |= 1u << connection;
}

static void
play_word(struct player *p, char *word)
{
	char *at = word + strcspn(word, "="), *end = word + strlen(word) - 1;
	char more = *end == '+' || *end == '-' ? *end : '\0';

	if (more != '\0')
		*end = '\0';
	if (*at == '=')
		*at++ = '\0';
	if (word[0] == '@')
		connect_to(p, (uint16_t)atoi(word + 1));
	else if (!greeting_word(p, word, at) && !option_word(p, word, at, more) && !option_reply_word(p, word, at) &&
	         !request_word(p, word, at) && !extended_reply_word(p, word, at) && !reply_word(p, word, at) &&
	         !raw_word(p, word, at) && !end_word(p, word))
		fail_msg("no such word: %s", word);
}

static void
play_session(struct player *p, const char *session, unsigned setup, unsigned cut)
{
	struct referee_setup s = { .server_lies = (setup & LIES) != 0,
		                   .several_clients = (setup & SEVERAL) != 0,
		                   .most_interoperable = (setup & INTEROPERABLE) != 0 };
	char *text = strdup(session), *rest = text, *word;

	*p = (struct player){ .cut = cut };
	p->ref = referee_new(&s, note_broken, p);
	connect_to(p, 1);
	while ((word = strsep(&rest, " ")) != NULL)
		if (*word != '\0')
			play_word(p, word);
	referee_end(p->ref);
	free(text);
}

/* ---- the tests ---- */

static unsigned
count_words(const char *s)
{
	unsigned n = 0;

	for (; *s != '\0'; s++)
		n += *s != ' ' && (s[1] == ' ' || s[1] == '\0');
	return n;
}

static bool
has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = strstr(list, word); at != NULL; at = strstr(at + 1, word))
		if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
			return true;
	return false;
}

/* Exactly the rules that the row names are broken. */
static void
test_each_rule_is_seen(void **state)
{
	unsigned wrong = 0;

	(void)state;
	for (size_t i = 0; i < LENGTH(rows); i++) {
		bool same;
		struct player p;
		char *list = strdup(rows[i].broken), *rest = list, *word;

		/* What a lie excuses is broken where the server is honest. */
		play_session(&p, rows[i].session, rows[i].setup & ~(unsigned)LIES, 0);
		same = count_words(p.broken) == count_words(rows[i].broken);
		while ((word = strsep(&rest, " ")) != NULL)
			same &= has_word(p.broken, word);
		if (!same)
			print_error("%s\n  want %s\n  got %s\n", rows[i].session, rows[i].broken, p.broken);
		wrong += !same;
		free(list);
	}
	assert_int_equal(wrong, 0);
}

static void
test_legal_neighbours_are_silent(void **state)
{
	unsigned wrong = 0;

	(void)state;
	for (size_t i = 0; i < LENGTH(rows); i++) {
		struct player p;

		play_session(&p, rows[i].legal, rows[i].setup, 0);
		if (p.broken[0] != '\0')
			print_error("%s\n  want nothing\n  got %s\n", rows[i].legal, p.broken);
		wrong += p.broken[0] != '\0';
	}
	assert_int_equal(wrong, 0);
}

/* A rule that binds clients is judged here, elsewhere with a reason, or is a freedom; and each has its session above. */
static void
test_rules_are_complete(void **state)
{
	unsigned wrong = 0;

	(void)state;
	for (int id = 1; id < N_REQUIREMENTS; id++) {
		const struct requirement *r = requirement((enum requirement_id)id);
		bool binds = r->binds != BINDS_SERVER && r->untestable == NULL && r->level != LEVEL_MAY;
		bool judged = referee_judges((enum requirement_id)id) == JUDGED_BY_REFEREE;
		bool has_why = referee_why((enum requirement_id)id) != NULL, found = false;

		for (size_t i = 0; i < LENGTH(rows) && !found; i++)
			found = has_word(rows[i].broken, r->id);
		if (found != judged || binds != (judged || has_why) || (judged && has_why)) {
			print_error("%s: binds %d, judged %d, has a reason %d, has a session %d\n", r->id, binds,
			            judged, has_why, found);
			wrong++;
		}
	}
	assert_int_equal(wrong, 0);
}

/* Messages that are cut off, and sessions that begin in the middle, are read without a crash. */
static void
test_cut_messages(void **state)
{
	(void)state;
	for (size_t i = 0; i < LENGTH(rows); i++) {
		const char *session = rows[i].session;

		for (unsigned cut = 0; cut < 40; cut++) {
			struct player p;

			play_session(&p, session, rows[i].setup, cut);
			for (const char *at = strchr(session, ' '); cut < 2 && at != NULL; at = strchr(at + 1, ' '))
				play_session(&p, at, rows[i].setup, cut);
		}
	}
}

/* With a new case the connections are counted anew. */
static void
test_numbers_start_again(void **state)
{
	struct player p = { 0 };
	struct buf b = { 0 };

	(void)state;
	p.ref = referee_new(&(struct referee_setup){ 0 }, note_broken, &p);
	connect_to(&p, 1);
	play_word(&p, (char[]){ "G" });
	play_word(&p, (char[]){ "f" });
	play(&p, TRACE_CASE, 0, NO_DIRECTION, &b);
	play_word(&p, (char[]){ "close" });
	assert_string_equal(p.broken, "");
	referee_end(p.ref);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_rule_is_seen),   cmocka_unit_test(test_legal_neighbours_are_silent),
		cmocka_unit_test(test_rules_are_complete),  cmocka_unit_test(test_cut_messages),
		cmocka_unit_test(test_numbers_start_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
