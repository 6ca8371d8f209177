"""Extended headers by hand: what `serve` answers, byte by byte (docs/extended-headers.md)."""
import json
import re
import struct

import pytest

from conftest import NBDSPEC, until
from test_serve import Client, ERR_UNSUP, OPT_STRUCTURED_REPLY, REP_ACK, serve  # noqa: F401

EXTENDED_HEADERS, SET_META_CONTEXT, LIST_META_CONTEXT, EXPORT_NAME, GO = 11, 10, 9, 1, 7
ERR_INVALID, ERR_BLOCK_SIZE_REQD, ERR_EXT_HEADER_REQD, REP_META_CONTEXT = 0x80000003, 0x80000008, 0x8000000a, 4
NONE, DATA, STATUS_EXT, ERROR = 0, 1, 6, 0x8001
PAYLOAD_LEN, REQ_ONE, EINVAL = 1 << 5, 1 << 3, 22
READ, WRITE, TRIM, CACHE, ZEROES, STATUS = 0, 1, 4, 5, 6, 7
HAS_STATUS_PAYLOAD = 1 << 12
GIB = 1 << 30


class Extended(Client):
    def __init__(self, server, *contexts):
        super().__init__(server)
        assert self.option(EXTENDED_HEADERS) == [REP_ACK]
        self.contexts = self.set_contexts(*contexts) if contexts else []
        infos = self.go(infos=[3])
        assert infos[-1] == REP_ACK
        self.flags = next(struct.unpack(">H", data[10:])[0] for kind, data in infos[:-1] if data[:2] == b"\0\0")

    def set_contexts(self, *names, option=SET_META_CONTEXT):
        data = struct.pack(">II", 0, len(names)) + b"".join(struct.pack(">I", len(n)) + n for n in names)
        *contexts, final = self.option(option, data)
        self.final = final
        return [(struct.unpack(">I", data[:4])[0], data[4:]) for _, data in contexts]

    def ask(self, command, offset=0, length=0, data=b"", flags=0, cookie=7):
        """The chunks of the reply, each (type, payload)."""
        self.send(struct.pack(">IHHQQQ", 0x21e41c71, flags, command, cookie, offset, length) + data)
        chunks, done = [], 0
        while not done:
            magic, done, kind, echo, at, n = struct.unpack(">IHHQQQ", self.recv(32))
            assert (magic, echo, at) == (0x6e8a278c, cookie, offset)
            chunks.append((kind, self.recv(n)))
        return chunks

    def error(self, *args, **kwargs):
        (kind, payload), = self.ask(*args, **kwargs)
        assert kind in (NONE, ERROR)
        return struct.unpack(">I", payload[:4])[0] if kind == ERROR else 0

    def status(self, *args, **kwargs):
        """{context: [(length, status)]}; a count that is wrong is none."""
        found = {}
        for kind, payload in self.ask(STATUS, *args, **kwargs):
            context, count = struct.unpack(">II", payload[:8])
            assert kind == STATUS_EXT and len(payload) == 8 + 16 * count
            found[context] = list(struct.iter_unpack(">QQ", payload[8:]))
        return found


def test_without_the_knob(serve):
    c = Client(serve())
    assert c.option(EXTENDED_HEADERS) == [ERR_UNSUP]
    assert c.in_step()


def test_the_option(serve):
    s = serve("--knob", "extended_headers")
    c = Client(s)
    assert c.option(EXTENDED_HEADERS, b"x") == [ERR_INVALID]
    assert c.option(OPT_STRUCTURED_REPLY) == [REP_ACK]
    assert c.option(EXTENDED_HEADERS) == [REP_ACK]
    assert c.option(EXTENDED_HEADERS) == [REP_ACK]
    assert c.option(OPT_STRUCTURED_REPLY) == [ERR_EXT_HEADER_REQD]
    c.send_option(EXPORT_NAME)
    assert c.ended()


@pytest.mark.parametrize("knob, option, expected", [
    ("extended_twice_invalid", EXTENDED_HEADERS, ERR_INVALID),
    ("extended_keeps_structured", OPT_STRUCTURED_REPLY, REP_ACK)])
def test_knobs_of_the_option(serve, knob, option, expected):
    c = Client(serve("--knob", knob))
    assert c.option(EXTENDED_HEADERS) == [REP_ACK]
    assert c.option(option) == [expected]
    assert c.in_step()


def test_block_size_wanted(serve):
    s = serve("--knob", "extended_wants_block_size")
    c = Client(s)
    assert c.go()[-1] == REP_ACK
    c = Client(s)
    assert c.option(EXTENDED_HEADERS) == [REP_ACK]
    assert c.go()[-1] == ERR_BLOCK_SIZE_REQD
    assert c.go(infos=[3])[-1] == REP_ACK


def test_commands_of_more_than_32_bits(serve):
    c = Extended(serve("--knob", "extended_headers", "--size", "16G"), b"base:allocation")
    assert c.error(WRITE, 5 * GIB, 512, b"x" * 512, PAYLOAD_LEN) == 0
    assert c.ask(READ, 5 * GIB + 508, 8) == [(DATA, struct.pack(">Q", 5 * GIB + 508) + b"xxxx\0\0\0\0")]
    for command in CACHE, TRIM, ZEROES:
        assert c.error(command, 0, 9 * GIB) == 0
        assert c.error(command, 8 * GIB, 8 * GIB + 1) in (EINVAL, 28)
        assert c.error(command, 0, 1 << 63) in (EINVAL, 28)
    assert c.ask(READ, 5 * GIB, 4) == [(DATA, struct.pack(">Q", 5 * GIB) + bytes(4))]
    assert c.error(READ, 0, 5 * GIB) in (EINVAL, 75)
    assert c.status(0, 16 * GIB) == {c.contexts[0][0]: [(16 * GIB, 3)]}
    assert c.status(GIB, 6 * GIB, flags=REQ_ONE) == {c.contexts[0][0]: [(6 * GIB, 3)]}


def test_a_payload_that_is_not_expected(serve):
    c = Extended(serve("--knob", "extended_headers"), b"base:allocation")
    for command in READ, TRIM, CACHE, ZEROES, 3, 77:
        assert c.error(command, 0, 512, b"p" * 512, PAYLOAD_LEN) == EINVAL
    assert c.error(WRITE, 0, 4, b"data", PAYLOAD_LEN) == 0
    assert c.error(WRITE, 4, 4, b"bare") == 0
    assert c.ask(READ, 0, 8) == [(DATA, bytes(8) + b"databare")]
    c.send(struct.pack(">IHHQQQ", 0x21e41c71, PAYLOAD_LEN, WRITE, 1, 0, (32 << 20) + 1))
    assert c.ended()


def test_bare_writes_refused(serve):
    c = Extended(serve("--knob", "bare_writes_refused"))
    assert c.error(WRITE, 4, 4, b"bare") == EINVAL
    assert c.error(WRITE, 4, 4, b"data", PAYLOAD_LEN) == 0


def test_the_payload_of_block_status(serve):
    c = Extended(serve("--knob", "extended_headers", "--size", "8G"), b"base:allocation", b"x-nbdspec:dirty")
    assert c.flags & HAS_STATUS_PAYLOAD
    (allocation, _), (dirty, _) = c.contexts

    def ask(length, *ids, extra=b""):
        data = struct.pack(f">Q{len(ids)}I", length, *ids) + extra
        return dict(length=len(data), data=data, flags=PAYLOAD_LEN)
    assert c.status(**ask(8 * GIB, dirty)) == {dirty: [(8 * GIB, 0)]}
    assert c.status(**ask(8 * GIB, dirty, allocation)) == {dirty: [(8 * GIB, 0)], allocation: [(8 * GIB, 3)]}
    assert c.status(GIB, **ask(GIB, allocation)) == {allocation: [(GIB, 3)]}
    for wrong in ask(GIB, 99), ask(GIB, dirty, dirty), ask(GIB, dirty, extra=b"x"), ask(9 * GIB, dirty), dict(
            length=4, data=b"1234", flags=PAYLOAD_LEN):
        assert c.error(STATUS, **wrong) == EINVAL
    assert c.status(0, GIB) == {allocation: [(GIB, 3)], dirty: [(GIB, 0)]}


def test_no_payload_of_block_status(serve):
    s = serve("--knob", "extended_headers")
    assert not Extended(s).flags & HAS_STATUS_PAYLOAD
    c = Extended(serve("--knob", "extended_without_payload"), b"base:allocation")
    assert not c.flags & HAS_STATUS_PAYLOAD
    data = struct.pack(">QI", 4096, c.contexts[0][0])
    assert c.error(STATUS, 0, len(data), data, PAYLOAD_LEN) == EINVAL


def test_wide_contexts(serve):
    s = serve("--knob", "wide_contexts")
    c = Client(s)
    c.structured_reply()
    contexts = Extended.set_contexts(c, b"x-nbdspec:", option=LIST_META_CONTEXT)
    assert (0, b"x-nbdspec:wide") in contexts and c.final == ERR_EXT_HEADER_REQD
    assert Extended.set_contexts(c, b"base:", option=LIST_META_CONTEXT) and c.final == REP_ACK
    assert Extended.set_contexts(c, b"x-nbdspec:wide") == [] and c.final == REP_ACK
    c = Extended(s, b"x-nbdspec:wide")
    assert c.status(0, 131072) == {c.contexts[0][0]: [(65536, 1 << 32), (65536, 2 << 32)]}
    c = Client(serve("--knob", "wide_contexts_refused"))
    c.structured_reply()
    assert Extended.set_contexts(c, b"x-nbdspec:wide") == [] and c.final == ERR_EXT_HEADER_REQD
    assert len(Extended.set_contexts(c, b"x-nbdspec:*")) == 2 and c.final == REP_ACK


def test_the_log(serve, tmp_path):
    c = Extended(serve("--knob", "extended_headers", "--log", tmp_path / "log"), b"base:allocation")
    assert c.error(WRITE, 4096, 4096, b"w" * 4096, PAYLOAD_LEN) == 0
    data = struct.pack(">QI", 8192, c.contexts[0][0])
    c.status(4096, len(data), data, PAYLOAD_LEN)
    c.s.close()
    lines = until(lambda: [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()
                           if "extended-" in line][3:] and [
                               json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if "extended-" in line])
    write, done, status, extents = lines
    assert (write["command"], write["flags"], write["length"], write["bytes"]) == ("NBD_CMD_WRITE", "PAYLOAD_LEN", 4096, 4128)
    assert (done["message"], done["request_offset"], done["bytes"]) == ("extended-chunk", 4096, 32)
    assert (status["message"], status["command"], status["length"]) == ("extended-request", "NBD_CMD_BLOCK_STATUS", 12)
    assert (extents["type"], extents["count"], extents["extents"]) == ("NBD_REPLY_TYPE_BLOCK_STATUS_EXT", 2, [[4096, 0], [4096, 3]])


@pytest.mark.parametrize("knobs", [["read_fragments", "error_offsets", "error_messages"], ["requests_out_of_order"],
                                   ["chunks_interleaved", "read_holes"], ["simple_errors"]])
def test_other_knobs(serve, knobs):
    c = Extended(serve("--knob", "extended_headers", *(a for k in knobs for a in ("--knob", k))))
    assert c.error(WRITE, 0, 65536, b"k" * 65536, PAYLOAD_LEN) == 0
    chunks = c.ask(READ, 0, 65536)
    assert b"".join(payload[8:] for kind, payload in chunks if kind == DATA) == b"k" * 65536
    (kind, payload), = c.ask(TRIM, 1 << 62, 512)
    assert kind in (ERROR, 0x8002) and payload[:4] == struct.pack(">I", EINVAL)


# ---- nbdspec server ----

def judged(nbdspec, *options, knob="extended_headers", lie=None, case="extended/read", status=0):
    """The results of a case against `serve`, and the summary."""
    serve = [NBDSPEC, "serve", "-U", "{socket}", *(["--knob", knob] if knob else []), *(["--lie", lie] if lie else [])]
    nbdspec("server", "-q", "-c", case, "--json", "json", *options, "--", *serve, status=status)
    report = json.loads((nbdspec.cwd / "json").read_text())
    return report["results"], report["summary"]


def test_who_does_not_offer_them_skips(nbdspec):
    results, summary = judged(nbdspec, knob=None, case="extended/[ar]*", status=3)
    assert {r["verdict"] for r in results} == {"skip"} and {r["feature"] for r in results} == {"extended headers"}
    judged(nbdspec, "--require", "extended headers", knob=None, case="extended/alone", status=1)


def test_deviations_count_when_they_are_asked_for(nbdspec):
    for options, status in ([], 0), (["--experimental"], 1):
        results, summary = judged(nbdspec, *options, lie="extended_offset_zero", status=status)
        assert {(r["verdict"], r["requirement"], r["experimental"], r["red"]) for r in results} == {
            ("fail", "ext_offset_echoed", True, bool(status))}
        assert summary["experimental"] == (0 if status else 2) and summary["red"] == (2 if status else 0)
    for options, status in ([], 0), (["--strict"], 0), (["--experimental"], 0), (["--strict", "--experimental"], 1):
        results, summary = judged(nbdspec, *options, lie="extended_takes_data", case="extended/with_data", status=status)
        assert results[0]["verdict"] == "warn" and results[0]["experimental"]


def test_what_the_standard_says_is_apart_there_as_well(nbdspec):
    results, summary = judged(nbdspec, lie="data_offset_off_by_one")
    assert {r["verdict"] for r in results} == {"fail"} and summary["experimental"] == 2


def test_expectations_hold_all_the_same(nbdspec):
    (nbdspec.cwd / "known").write_text("extended/read* fail ext_offset_echoed a lie\n")
    for options in [], ["--experimental"]:
        results, summary = judged(nbdspec, "--expect", "known", *options, lie="extended_offset_zero")
        assert summary["known"] == 2 and not summary["experimental"]
        judged(nbdspec, "--expect", "known", *options, status=1)


def test_a_server_that_dies_is_no_experiment(nbdspec):
    results, summary = judged(nbdspec, "--destructive", lie="fua_trim_dies", case="extended/commands", status=1)
    assert any(r["red"] for r in results) and not any(r["experimental"] for r in results)


def test_requirements_are_counted_apart(nbdspec):
    lines = nbdspec("requirements").stdout.splitlines()
    assert re.fullmatch(r"\d+ requirements: \d+ testable, \d+ of them cited by a case \(\d+\.\d %\)", lines[-2])
    assert re.fullmatch(r"\d+ of extended headers \(experimental\): \d+ testable, \d+ of them cited by a case \(.*\)", lines[-1])
    assert "experimental" not in nbdspec("requirements", "read_*").stdout
