"""Clients with extended headers: the fake client's side of them, how others are judged, and what the fake server makes of those that keep to compact ones."""
import json
import struct

import pytest

from conftest import NBDSPEC
from test_client_driver import MINIMAL
from test_extended import GIB, Extended, serve  # noqa: F401
from test_fake_client import BASE, driver  # noqa: F401

DIRTY = "x-nbdspec%3adirty"


def connected(serve, driver, *habit, knob="extended_headers", size="16G", wants=True):
    s = serve("--knob", knob, "--size", size)
    d = driver(*habit)
    if wants:
        assert d.ask("1 set extended=on") == "ok"
    for context in BASE, DIRTY:
        assert d.ask(f"1 set context={context}") == "ok"
    return d, d.ask(f"1 connect {s.uri}")


def test_every_command(serve, driver):
    d, known = connected(serve, driver)
    assert " extended=yes " in known and " structured=yes " in known
    assert d.ask(f"1 write {5 * GIB} 4096 7 fua") == "ok"
    assert d.ask(f"1 read {5 * GIB} 4096") == d.ask(f"1 read {5 * GIB} 4096 df") == "ok 32e46b1f"
    assert d.ask(f"1 block_status 0 {16 * GIB}") == (
        f"ok {BASE}={5 * GIB}:3,4096:0,{11 * GIB - 4096}:3 {DIRTY}={5 * GIB}:0,4096:1,{11 * GIB - 4096}:0")
    for operation in "zero", "trim", "cache":
        assert d.ask(f"1 {operation} 0 {9 * GIB}") == "ok"
    assert d.ask(f"1 read {5 * GIB} 4096") == d.ask("1 read 0 4096")
    assert d.ask("1 flush") == "ok"
    assert d.ask(f"1 read 0 {9 * GIB}") == "error ERANGE"
    assert d.ask(f"1 zero {8 * GIB} {9 * GIB}") == "error EINVAL"
    assert d.ask("1 disconnect") == "ok"
    assert d.end() == 0


def test_some_contexts(serve, driver):
    d, _ = connected(serve, driver)
    assert d.ask(f"1 block_status 0 65536 only={DIRTY}") == f"ok {DIRTY}=65536:0"
    assert d.ask(f"1 block_status 0 65536 req-one only={BASE} only={DIRTY}") == f"ok {BASE}=65536:3 {DIRTY}=65536:0"
    assert d.ask(f"1 block_status 0 65536 only={BASE} only=base%3aunknown") == "error EINVAL"
    assert d.ask(f"1 block_status 0 65536 only={BASE} only={BASE}") == "error EINVAL"
    assert d.ask("1 read 0 4096 only=x") == "unsupported"


def test_some_contexts_where_nobody_takes_a_payload(serve, driver):
    d, _ = connected(serve, driver, knob="extended_without_payload")
    assert d.ask(f"1 block_status 0 65536 only={BASE}") == "error EINVAL"
    assert d.ask("1 block_status 0 65536 req-one") == f"ok {BASE}=65536:3 {DIRTY}=65536:0"


@pytest.mark.parametrize("knob, wants", [("extended_headers", False), ("no_no_zeroes", True)])
def test_compact(serve, driver, knob, wants):
    d, known = connected(serve, driver, knob=knob, wants=wants)
    assert " extended=no " in known and " structured=yes " in known
    for words in f"zero 0 {9 * GIB}", f"block_status 0 {4 * GIB}", f"read 0 {4 * GIB}", f"block_status 0 512 only={BASE}":
        assert d.ask(f"1 {words}") == "error EINVAL"
    assert d.ask("1 zero 0 2147483648") == "ok"


@pytest.mark.parametrize("habit", ["asks_extended_headers", "structured_before_extended"])
def test_habits(serve, driver, habit):
    s = serve("--knob", "extended_headers")
    assert " extended=yes " in driver("--habit", habit).ask(f"1 connect {s.uri}")
    assert " extended=yes " not in driver().ask(f"1 connect {s.uri}")


def test_compact_requests_where_extended_ones_were_agreed(serve):
    """The server does not wait for the 4 bytes that would make 32 of it."""
    c = Extended(serve("--knob", "extended_headers"))
    c.send(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, 0, 512))
    assert c.ended()


def run(nbdspec, *args, lie=None, status):
    command = ["driver"] + (["--lie", lie] if lie else [])
    nbdspec("client", "-q", "--json", "json", *args, "--driver", NBDSPEC, "--", *command, status=status)
    report = json.loads((nbdspec.cwd / "json").read_text())
    return report["summary"], {r["requirement"] for r in report["results"] if r["verdict"] in ("fail", "warn")}


@pytest.mark.parametrize("args", [("-c", "extended_client/[!s]*", "-c", "extended_client/se*"), ("--tls", "-c", "extended_client/*")])
def test_honest(nbdspec, args):
    summary, broken = run(nbdspec, *args, "--strict", "--experimental", "--require", "any", status=0)
    assert not broken and summary["pass"] > 200


@pytest.mark.parametrize("lie, case, requirement", [
    ("payload_flag_left_out", "served", "ext_write_payload_flag"),
    ("extended_agreed_compact_sent", "served", "ext_requests_extended"),
    ("extended_option_with_data", "served", "ext_option_no_data"),
    ("data_put_where_the_header_says", "served", "read_chunks_reassembled"),
    ("extended_refused_leaves", "refused", "ext_client_falls_back"),
    ("extended_refused_assumed", "refused", "extended_request_magic_negotiated"),
    ("extended_then_export_name", "go_refused", "ext_no_export_name"),
    ("long_zeroes_cut", "long_effects", "baseline_client_write"),
    ("wide_extents_cut", "extents", "client_takes_any_extent_length"),
    ("status_payload_too_long", "filtered", "ext_status_payload_layout"),
    ("status_payload_unadvertised", "unoffered", "ext_status_payload_needs_flag"),
    ("long_read_sent", "unoffered", "ext_read_32bit"),
    ("long_reply_taken", "long_replies", "client_reads_chunk_length")])
def test_lies(nbdspec, lie, case, requirement):
    args = "-c", f"extended_client/{case}", "--strict", "--time-factor", "0.2"
    _, broken = run(nbdspec, *args, "--experimental", lie=lie, status=1)
    assert requirement in broken
    # By default what is only experimental makes nobody red.
    summary, again = run(nbdspec, *args, lie=lie, status=0)
    assert again == broken and summary["experimental"] > 0 and summary["red"] == 0


def test_who_does_not_ask(nbdspec):
    """A client of compact headers is not judged; with --require it is said."""
    nbdspec("client", "--tap", "tap", "-q", "-c", "extended_client/served", "-c", "session/baseline", "--driver", MINIMAL,
            status=0)
    tap = (nbdspec.cwd / "tap").read_text()
    assert tap.count("# SKIP extended headers: the client does not ask for extended headers") == 1
    nbdspec("client", "-q", "-c", "extended_client/served", "--require", "extended headers", "--driver", MINIMAL, status=1)
