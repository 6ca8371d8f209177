"""Explorations of clients: no honest client is accused, lies about what the server said are found and brought down, and what is found comes again."""

import json
import re
import shutil
import signal
import subprocess

import pytest

from conftest import NBDSPEC, ROOT, until

HABITS = subprocess.run([NBDSPEC, "driver", "--list-habits"], capture_output=True, text=True, check=True).stdout
CONTEXT = "SET_META_CONTEXT=META_CONTEXT"

# A lie of the client: the case, the depth that finds it, a requirement that it breaks, and its shortest sequence.
LIES = {
    # What is believed of the server in a session
    "context_ids_assumed": ("replies", 2, "set_meta_id_opaque", f"connect,{CONTEXT},SET_META_CONTEXT=ACK"),
    "context_ids_of_16_bits": ("replies", 2, "set_meta_id_opaque", f"connect,{CONTEXT},SET_META_CONTEXT=ACK"),
    "contexts_accumulate": ("replies", 2, "block_status_after_set_meta", "haggle,GO=ERR_POLICY,SET_META_CONTEXT#2=ACK"),
    "eof_after_export_name_is_size": ("replies", 2, "baseline_client_info_go", "connect,GO=ERR_UNSUP,EXPORT_NAME=close"),
    "eof_during_go_dies": ("replies", 1, "client_reads_option_reply", "connect,GO=close"),
    "eof_dies": ("chunks", 0, "client_transmission_no_disconnect", "chunks,A:close"),
    "eof_unnoticed": ("chunks", 0, "client_transmission_no_disconnect", "chunks,A:close"),
    "no_zeroes_forgotten": ("replies", 1, "client_reads_option_reply", "connect,GO=ERR_UNSUP"),
    "no_way_back_to_export_name": ("replies", 1, "go_falls_back", "connect,GO=ERR_UNSUP"),
    "export_name_after_any_error": ("replies", 1, "client_block_size_uses_go", "connect,GO=ERR_TLS_REQD"),
    "go_not_tried": ("replies", 0, "go_preferred", "connect"),
    "structured_assumed": ("replies", 0, "set_meta_after_structured", "connect"),
    "structured_refused_assumed": ("replies", 1, "structured_reply_unsup_handled", "connect,STRUCTURED_REPLY=ERR_UNSUP"),
    "structured_asked_twice": ("replies", 0, "client_state_option_once", "connect"),
    # What a session leaves behind
    "keeps_agreement_on_structured": ("replies", 1, "baseline_client_read", "connect; connect"),
    "keeps_dead": ("replies", 0, "baseline_client_fixed_newstyle", "connect; haggle"),
    # Chunks
    "chunks_put_as_they_come": ("chunks", 0, "read_chunks_reassembled", "chunks,A:data1-3,A:data0!"),
    "hole_not_zeroed": ("chunks", 0, "read_chunks_reassembled", "chunks,A:hole0-3!"),
}
# Nothing of what these lies are about is played: other servers, other options, more commands than READ, several connections, waiting.
NOT_PLAYED = {
    "abort_unanswered_dies", "abort_unanswered_is_error", "connects_to_export_before", "default_port_10808", "keeps_timeout", "knows_no_fixed_newstyle",
    "leaves_over_transmission_flags", "lost_requests_forgotten", "lost_writes_are_done", "no_payload_limit_is_minus_1", "no_zeroes_unoffered",
    "oldstyle_refused_lingers", "oldstyle_sends_flags", "oldstyle_sends_options", "oldstyle_size_of_32_bits", "padding_not_awaited",
    "reads_only_when_all_is_sent", "short_read_is_whole", "timeout_ignored",
    "extended_asked_twice", "extended_refused_go_not_tried",  # the client that is explored does not ask for extended headers
}


def driver(*options):
    return ["--driver", NBDSPEC, "--", "driver", *options]


def explore(nbdspec, *options, status=0, factor="0.2"):
    """The findings, and what the run as a whole has to tell, by case."""
    nbdspec("client", "-q", "--strict", "--time-factor", factor, "--json", "json", *options, status=status)
    results = json.loads((nbdspec.cwd / "json").read_text())["results"]
    told = {r["case"]: r["message"] for r in results if r["point"] is None and r["verdict"] in ("pass", "error")}
    return [r for r in results if r["point"] is not None], told


def played(message):
    """How many were played or not, however the shards found out."""
    return int(message.split()[0]) + sum(int(n) for n in re.findall(r"(\d+) not played", message))


def test_every_lie_about_the_state_is_here():
    """Those of stale.c that are about one field each are all made in the same way: some stand for them."""
    made = subprocess.run(["grep", "-rhoE", r"^CLIENT_LIE(_WHERE)?\(\w+, STATE", f"{ROOT}/fakeserver/client/lies"], capture_output=True, text=True, check=True)
    found = set(re.findall(r"\((\w+),", made.stdout)) - {"ident", "reconnects_with_old_flags", "keeps_context_ids", "keeps_context_ids_of_others"}
    # The client that is explored goes in clear.
    found -= set(re.findall(r"^CLIENT_LIE(?:_WHERE)?\((\w+)", open(f"{ROOT}/fakeserver/client/lies/tls.c", encoding="utf-8").read(), re.M))
    assert found <= {*LIES, *NOT_PLAYED} and not {*LIES} & NOT_PLAYED


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(nbdspec, lie):
    case, depth, requirement, shortest = LIES[lie]
    findings, told = explore(nbdspec, "-c", f"explore/{case}", "--explore", depth, *driver("--lie", lie), status=1)
    assert (requirement, shortest) in {(r["requirement"], r["point"]) for r in findings}
    assert " 0 of them deviate" not in told[f"explore/{case}"]
    assert not [r["point"] for r in findings if "and not again" in r["transcript"]]


def test_an_honest_client_is_not_accused(nbdspec):
    findings, told = explore(nbdspec, "--explore", "2", "-j", "2", *driver())
    assert not findings and all(" 0 of them deviate" in m for m in told.values())
    assert played(told["explore/replies"]) > 15000 and played(told["explore/chunks"]) > 7000


@pytest.mark.parametrize("habit", re.findall(r"^(\w+)", HABITS, re.M))
def test_no_habit_is_accused(nbdspec, habit):
    findings, told = explore(nbdspec, "--explore", "1", *driver("--habit", habit))
    assert not findings and len(told) == 2 - (habit == "always_df")  # of which there are no several chunks


def test_a_client_without_structured_replies(nbdspec):
    """It has no chunks; and where it has one read in flight, no orders of replies."""
    _, told = explore(nbdspec, "-c", "explore/chunks", "--explore", "0", *driver("--habit", "does_without_extras"))
    assert re.match(r"58 simple replies in ", told["explore/chunks"])
    _, told = explore(nbdspec, "-c", "explore/chunks", "--explore", "0", "--driver", f"{ROOT}/ci/drivers/minimal.py")
    assert re.match(r"2 simple replies in ", told["explore/chunks"])


def test_a_memory_takes_two_sessions(nbdspec):
    findings, _ = explore(nbdspec, "-c", "explore/replies", "--explore", "2", *driver("--lie", "keeps_context_ids"), status=1)
    found = {r["point"] for r in findings if r["requirement"] == "set_meta_id_opaque"}
    assert found and all(point.startswith("connect; ") for point in found)


@pytest.mark.parametrize("lie", ["contexts_accumulate", "chunks_put_as_they_come", "keeps_agreement_on_structured"])
def test_a_sequence_is_played_again(nbdspec, lie):
    case, _, requirement, shortest = LIES[lie]
    command = ["-c", f"explore/{case}", "--explore-sequence", shortest]
    findings, _ = explore(nbdspec, *command, *driver("--lie", lie), status=1)
    again = [r for r in findings if r["requirement"] == requirement]
    assert [r["point"] for r in again] == [shortest]
    assert again[0]["again"].startswith(f"nbdspec client --case explore/{case} --explore-sequence '{shortest}' --")
    assert f"--driver {NBDSPEC} -- driver --lie {lie}" in again[0]["again"]
    assert not explore(nbdspec, *command, *driver())[0]


def test_shards_find_the_same(nbdspec):
    lie = driver("--lie", "chunks_put_as_they_come")
    runs = [explore(nbdspec, "--explore", "1", "-j", n, *lie, status=1) for n in ("1", "3")]
    alone, several = ({(r["point"], r["requirement"]) for r in findings if r["requirement"] == "read_chunks_reassembled"} for findings, _ in runs)
    assert alone == several and len(alone) == 3
    assert [{case: played(m) for case, m in told.items()} for _, told in runs][0] == {case: played(m) for case, m in runs[1][1].items()}


def test_a_hang_is_bounded(nbdspec):
    findings, told = explore(nbdspec, "-c", "explore/replies", "--explore", "1", *driver("--lie", "go_error_waits"), status=1, factor="0.05")
    assert {r["point"] for r in findings} >= {"connect,GO=ERR_UNSUP"} and len(findings) < 20


def test_a_client_that_fails_an_honest_server_is_not_explored(nbdspec):
    findings, told = explore(nbdspec, "-c", "explore/replies", "--explore", "2", *driver("--lie", "ack_awaits_data"), status=1)
    assert {r["point"] for r in findings} == {"connect", "haggle"} and told["explore/replies"].startswith("2 sequences ")


# ---- commands ----

copies = pytest.mark.skipif(shutil.which("nbdcopy") is None, reason="nbdcopy is not installed")


@copies
def test_a_copy_is_compared(nbdspec):
    damaged = ["sh", "-c", "nbdcopy --connections=1 {uri} {out} && printf x | dd of={out} conv=notrunc status=none"]
    findings, _ = explore(nbdspec, "--explore-sequence", "chunks,A:data0-3!", "--", *damaged, status=1)
    assert [(r["point"], r["requirement"]) for r in findings] == [("chunks,A:data0-3!", "read_chunks_reassembled")]
    assert "differ at offset 0" in findings[0]["got"]
    assert not explore(nbdspec, "--explore-sequence", "chunks,A:hole2-3,A:data0-1!", "--", "nbdcopy", "--connections=1", "{uri}", "{out}")[0]


@copies
def test_a_copy_of_what_failed_is_none(nbdspec):
    silent = ["sh", "-c", "nbdcopy --connections=1 {uri} {out} 2>/dev/null; truncate -s 1M {out}"]
    findings, _ = explore(nbdspec, "--explore-sequence", "chunks,A:error!", "--", *silent, status=1)
    assert "client_error_chunk_fails_reply" in {r["requirement"] for r in findings}
    findings, _ = explore(nbdspec, "--explore-sequence", "run,GO=ERR_POLICY", "--", *silent, status=1)
    assert "baseline_client_info_go" in {r["requirement"] for r in findings}


@copies
def test_some_of_the_ways(nbdspec):
    command = ["--", "nbdcopy", "--connections=1", "{uri}", "null:"]
    _, some = explore(nbdspec, "-c", "explore/chunks", "--explore", "0", "--pairwise", "-j", "2", *command, status=1)
    assert played(some["explore/chunks"]) < 500


def test_a_command_that_never_works(nbdspec):
    done = nbdspec("client", "--explore", "1", "--tap", "-", "--", "sh", "-c", "exit 7; : {uri}", status=3)
    assert "no case ran" in done.stderr and "exit status 7" in done.stdout


def test_a_command_that_hangs(nbdspec):
    done = nbdspec("client", "-q", "-c", "explore/replies", "--explore", "1", "--time-factor", "0.05", "--json", "json", "--", "sh", "-c", "exec sleep 1000; : {uri}", status=1)
    findings = [r for r in json.loads((nbdspec.cwd / "json").read_text())["results"] if r["point"] is not None]
    assert [r["point"] for r in findings] == ["run"] and "did not end" in findings[0]["got"] and done.stderr == ""


# ---- the command line ----

def test_an_interrupt_leaves_nothing(nbdspec):
    with nbdspec.start("client", "--explore", "6", "-j", "2", *driver()) as p:
        until(lambda: len(nbdspec.leftovers()) > 4)
        p.send_signal(signal.SIGINT)
        assert p.wait(30) == 130


def test_usage(nbdspec):
    line = nbdspec.usage("client", "--explore", "9", *driver())
    assert "--explore '9'" in line and "0 to 8" in line
    assert "--explore-walks" in nbdspec.usage("client", "--explore-walks", "3", *driver())
    assert "--explore-sequence" in nbdspec.usage("client", "--explore-sequence", "", *driver())


@pytest.mark.parametrize("sequence, example", [("BOGUS", "connect,GO="), ("connect,GO=BOGUS", "connect,GO="), ("connect,GO#9=ACK", "connect,GO="),
                                               ("connect;", "connect,GO="), ("chunks,A:bogus", "chunks,A:"), ("chunks,D:none", "chunks,A:"),
                                               ("simple,A:ok,", "chunks,A:"), ("chunks,A:data3-1", "chunks,A:")])
def test_a_wrong_sequence_is_named(nbdspec, sequence, example):
    line = nbdspec.broken("client", "--explore-sequence", sequence, *driver())
    assert "is no sequence" in line and example in line


def test_a_sequence_of_the_other_kind_of_client(nbdspec):
    assert "is for a command" in nbdspec.broken("client", "--explore-sequence", "run", *driver())
    assert "is for a driver" in nbdspec.broken("client", "--explore-sequence", "haggle", "--", "true", "{uri}")
