/* Lies of memory: what another session told is still believed in this one (proto.md:500). */
#include "fakeserver/client/lies/helpers.h"

#include <stdio.h>

/* What the handle's session before this one knew, or NULL. */
static const struct fc_facts *
before(const struct fc_session *s)
{
	return s->handle->had_session ? &s->handle->before : NULL;
}

/* What the session of another handle knew, or NULL. */
static const struct fc_facts *
elsewhere(const struct fc_session *s)
{
	return s->number > 1 && fc_client.elsewhere.export.known ? &fc_client.elsewhere : NULL;
}

#define STALE BREAKS(R(client_forgets_prior_session))

#define STALE_LIE(ident, from, text_, when, ...)                                                                       \
	CLIENT_LIE(ident, STATE, STALE, text_)                                                                         \
	{                                                                                                              \
		const struct fc_facts *old = from(s);                                                                  \
		if (moment == FC_STATE_TRANSMISSION && old != NULL && (when) && CLIENT_LIE_NOW) {                      \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

/* ---- transmission flags, one by one (background/000: Linux, whose FLUSH went to a server that knew none) ---- */

#define FLAG_LIE(name, flag)                                                                                           \
	STALE_LIE(keeps_##name, before, "believes NBD_FLAG_" #flag " of the handle's session before",                  \
	          (old->export.flags & NBD_FLAG_##flag & ~s->facts.export.flags) != 0,                                 \
	          s->facts.export.flags |= NBD_FLAG_##flag)                                                            \
	STALE_LIE(keeps_##name##_of_others, elsewhere, "believes NBD_FLAG_" #flag " of any session before",            \
	          (old->export.flags & NBD_FLAG_##flag & ~s->facts.export.flags) != 0,                                 \
	          s->facts.export.flags |= NBD_FLAG_##flag)                                                            \
	STALE_LIE(keeps_lack_of_##name, before, "believes no NBD_FLAG_" #flag ", as in the handle's session before",   \
	          (s->facts.export.flags & NBD_FLAG_##flag & ~old->export.flags) != 0,                                 \
	          s->facts.export.flags &= (uint16_t)~NBD_FLAG_##flag)

FLAG_LIE(read_only, READ_ONLY)
FLAG_LIE(flush, SEND_FLUSH)
FLAG_LIE(fua, SEND_FUA)
FLAG_LIE(rotational, ROTATIONAL)
FLAG_LIE(trim, SEND_TRIM)
FLAG_LIE(write_zeroes, SEND_WRITE_ZEROES)
FLAG_LIE(df, SEND_DF)
FLAG_LIE(can_multi_conn, CAN_MULTI_CONN)
FLAG_LIE(cache, SEND_CACHE)
FLAG_LIE(fast_zero, SEND_FAST_ZERO)

STALE_LIE(keeps_flags, before, "believes the transmission flags of the handle's session before", true,
          s->facts.export.flags = old->export.flags)
STALE_LIE(adds_flags, before, "believes the transmission flags of both sessions", true,
          s->facts.export.flags |= old->export.flags)

/* qemu's, whose write-back mode is that of its first connection (block/nbd.c). */
CLIENT_LIE(reconnects_with_old_flags, STATE, STALE, "connects again by itself, and believes the flags of both sessions")
{
	const struct fc_facts *old = before(s);

	if (moment == FC_STATE_NEW && CLIENT_LIE_NOW)
		s->settings.reconnects = true;
	if (moment == FC_STATE_TRANSMISSION && old != NULL && CLIENT_LIE_NOW)
		s->facts.export.flags |= old->export.flags;
}

/* ---- sizes ---- */

#define EXPORT_LIE(ident, what, when, ...)                                                                             \
	STALE_LIE(keeps_##ident, before, "believes " what " of the handle's session before", when, __VA_ARGS__)        \
	STALE_LIE(keeps_##ident##_of_others, elsewhere, "believes " what " of any session before", when, __VA_ARGS__)

EXPORT_LIE(size, "the size", old->export.known, s->facts.export.size = old->export.size)
EXPORT_LIE(larger_size, "the larger size", old->export.size > s->facts.export.size,
           s->facts.export.size = old->export.size)
EXPORT_LIE(minimum, "the minimum block size", old->export.has_block && s->facts.export.has_block,
           s->facts.export.block.minimum = old->export.block.minimum)
EXPORT_LIE(preferred, "the preferred block size", old->export.has_block && s->facts.export.has_block,
           s->facts.export.block.preferred = old->export.block.preferred)
EXPORT_LIE(maximum, "the maximum payload size", old->export.has_block && s->facts.export.has_block,
           s->facts.export.block.maximum = old->export.block.maximum)
EXPORT_LIE(block_sizes, "the size constraints", old->export.has_block && !s->facts.export.has_block,
           s->facts.export.has_block = true;
           s->facts.export.block = old->export.block)

/* ---- names ---- */

static void
replace(struct buf *to, const struct buf *from)
{
	buf_free(to);
	put_bytes(to, (struct bytes){ from->at, from->len });
}

EXPORT_LIE(name, "the export's name", old->export.name.len != s->facts.export.name.len,
           replace(&s->facts.export.name, &old->export.name))
EXPORT_LIE(description, "the description", old->export.description.at != NULL && old->export.description.len > 0,
           replace(&s->facts.export.description, &old->export.description))

CLIENT_LIE(connects_to_export_before, STATE, STALE, "names the export of the handle's session before")
{
	const struct fc_facts *old = before(s);

	if (moment != FC_STATE_FLAGS || old == NULL || old->asked.len == 0 || !CLIENT_LIE_NOW)
		return;
	free(s->export);
	s->export = strndup((const char *)old->asked.at, old->asked.len);
}

/* ---- what was agreed ---- */

STALE_LIE(keeps_structured, before, "believes that structured replies were agreed, as in the handle's session before",
          old->structured && !s->facts.structured, s->facts.structured = true)
STALE_LIE(keeps_simple, before, "believes that structured replies were not agreed, as in the handle's session before",
          !old->structured && s->facts.structured, s->facts.structured = false)
STALE_LIE(keeps_oldstyle, before, "believes the server to be oldstyle, as in the handle's session before",
          old->oldstyle && !s->facts.oldstyle, s->facts.oldstyle = true)

#define AGREED_LIE(ident, member, text_)                                                                               \
	CLIENT_LIE(ident, STATE, STALE, text_)                                                                         \
	{                                                                                                              \
		const struct fc_facts *old = before(s);                                                                \
		if (moment == FC_STATE_FLAGS && old != NULL && old->member && !s->facts.member && CLIENT_LIE_NOW)      \
			s->facts.member = true;                                                                        \
	}

AGREED_LIE(keeps_no_zeroes, no_zeroes, "sets NBD_FLAG_C_NO_ZEROES because the server before offered it")
AGREED_LIE(keeps_fixed_newstyle, fixed, "takes the server for fixed newstyle because the one before was")

CLIENT_LIE(keeps_agreement_on_structured, STATE, STALE,
           "does not ask for structured replies again on a handle that had them, and believes in them")
{
	const struct fc_facts *old = before(s);

	if (moment != FC_STATE_FLAGS || old == NULL || !old->structured || !CLIENT_LIE_NOW)
		return;
	s->settings.structured = false;
	s->facts.structured = true;
}

/* ---- contexts ---- */

STALE_LIE(keeps_contexts, before, "believes the contexts of the handle's session before to be selected",
          old->n_contexts > 0 && s->facts.n_contexts == 0, fc_contexts_copy(&s->facts, old))
STALE_LIE(keeps_contexts_of_others, elsewhere, "believes the contexts of any session before to be selected",
          old->n_contexts > 0 && s->facts.n_contexts == 0, fc_contexts_copy(&s->facts, old))

static void
take_ids(struct fc_facts *f, const struct fc_facts *old)
{
	for (size_t i = 0; i < f->n_contexts; i++)
		for (size_t j = 0; j < old->n_contexts; j++)
			if (f->contexts[i].name.len == old->contexts[j].name.len &&
			    memcmp(f->contexts[i].name.at, old->contexts[j].name.at, old->contexts[j].name.len) == 0)
				f->contexts[i].id = old->contexts[j].id;
}

CLIENT_LIE(keeps_context_ids, STATE, BREAKS(R(client_forgets_prior_session), R(set_meta_id_opaque)),
           "believes the context ids of the handle's session before")
{
	const struct fc_facts *old = before(s);

	if (moment == FC_STATE_TRANSMISSION && old != NULL && old->n_contexts > 0 && CLIENT_LIE_NOW)
		take_ids(&s->facts, old);
}

CLIENT_LIE(keeps_context_ids_of_others, STATE, BREAKS(R(client_forgets_prior_session), R(set_meta_id_opaque)),
           "believes the context ids of any session before")
{
	const struct fc_facts *old = elsewhere(s);

	if (moment == FC_STATE_TRANSMISSION && old != NULL && old->n_contexts > 0 && CLIENT_LIE_NOW)
		take_ids(&s->facts, old);
}

/* ---- errors ---- */

/* Linux 70c69d8: the write-back error of one session is what the next one's fsync returns. */
CLIENT_LIE(keeps_error, ANSWER, STALE, "tells the last error of the handle's session before once more, of a flush")
{
	const struct fc_facts *old = before(s);

	if (is_command(op, NBD_CMD_FLUSH) && old != NULL && old->error[0] != '\0' && l->memory != s->number &&
	    CLIENT_LIE_NOW) {
		l->memory = s->number;
		fc_fail(op, old->error);
	}
}

CLIENT_LIE(keeps_error_of_any_command, ANSWER, STALE,
           "tells the last error of the handle's session before once more, of the first command")
{
	const struct fc_facts *old = before(s);

	if (op->ask == FC_COMMAND && old != NULL && old->error[0] != '\0' && l->memory != s->number && CLIENT_LIE_NOW) {
		l->memory = s->number;
		fc_fail(op, old->error);
	}
}

CLIENT_LIE(keeps_error_of_others, ANSWER, STALE, "tells the last error of any session before once more, of a flush")
{
	static char error[sizeof(op->error)];

	if (op->ask == FC_COMMAND && op->error[0] != '\0') {
		memcpy(error, op->error, sizeof(error));
		l->memory = s->number;
	} else if (is_command(op, NBD_CMD_FLUSH) && error[0] != '\0' && l->memory != s->number && CLIENT_LIE_NOW) {
		fc_fail(op, error);
		error[0] = '\0';
	}
}

/* ---- what the user had set ---- */

CLIENT_LIE(keeps_timeout, STATE, STALE, "keeps the limit on requests of a session before where none is set any more")
{
	if (moment == FC_STATE_END && s->settings.timeout_s != 0)
		l->memory = s->settings.timeout_s;
	if (moment == FC_STATE_NEW && s->settings.timeout_s == 0 && l->memory != 0 && CLIENT_LIE_NOW)
		s->settings.timeout_s = (unsigned)l->memory;
}

/* A disconnect is for good. */
CLIENT_LIE(keeps_dead, STATE, STALE, "does not connect a handle again that was connected before")
{
	if (moment == FC_STATE_FLAGS && s->handle->had_session && CLIENT_LIE_NOW)
		fc_over(s, "ENOTCONN");
}

/* ---- from NBD_OPT_INFO into NBD_OPT_GO ---- */

#define INFORMED_LIE(ident, text_, when, ...)                                                                          \
	CLIENT_LIE(ident, STATE, BREAKS(R(baseline_client_info_go)), text_)                                            \
	{                                                                                                              \
		const struct fc_export *old = &s->informed;                                                            \
		if (moment == FC_STATE_TRANSMISSION && old->known && (when) && CLIENT_LIE_NOW) {                       \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

/* libnbd 75eb4bf */
INFORMED_LIE(go_keeps_size_of_info, "believes the size that NBD_OPT_INFO told, perhaps of another export",
             old->size != s->facts.export.size, s->facts.export.size = old->size)
INFORMED_LIE(go_keeps_flags_of_info,
             "believes the transmission flags that NBD_OPT_INFO told, perhaps of another export",
             old->flags != s->facts.export.flags, s->facts.export.flags = old->flags)
INFORMED_LIE(go_keeps_block_sizes_of_info,
             "believes the size constraints that NBD_OPT_INFO told, perhaps of another export", old->has_block,
             s->facts.export.has_block = true;
             s->facts.export.block = old->block)
INFORMED_LIE(go_keeps_name_of_info, "believes the name that NBD_OPT_INFO told, perhaps of another export",
             old->name.len != s->facts.export.name.len, replace(&s->facts.export.name, &old->name))
INFORMED_LIE(go_keeps_description_of_info, "believes the description that NBD_OPT_INFO told, perhaps of another export",
             old->description.at != NULL, replace(&s->facts.export.description, &old->description))
