"""What explorations make of servers that are worse than most: a verdict of each, and of what is left of them, and no end of waiting."""

import glob
import json
import os
import signal
import subprocess
import sys

import pytest

from conftest import NBDSPEC, ROOT, until

SERVER = ["--", sys.executable, "-I", "-S", os.path.join(ROOT, "tests/haggling_server.py"), "{socket}"]


def explore(nbdspec, *options, status=0, factor="0.1"):
    """The findings, and the summary."""
    nbdspec("server", "-q", "-c", "explore/haggling", "--time-factor", factor, "--json", "json", *options, status=status)
    results = json.loads((nbdspec.cwd / "json").read_text())["results"]
    told = [r for r in results if " sequences of " in (r["message"] or "")]
    assert {r["case"] for r in results} == {"explore/haggling"} and len(told) == 1
    return [r for r in results if r["point"] is not None], told[0]


def points(findings):
    return {r["point"]: (r["verdict"], r["requirement"]) for r in findings}


def test_an_honest_server_is_not_accused(nbdspec):
    """So what the others are told for is what they were told to do."""
    findings, told = explore(nbdspec, "--strict", "--explore", "2", *SERVER)
    assert not findings and told["verdict"] == "pass"


def test_each_death_is_a_fail(nbdspec):
    """The second one finds no server that the first one had left, but it has brought down its own."""
    dies = ("fail", "handshake_no_hard_disconnect")
    found = dict.fromkeys(["PEEK_EXPORT,GO", "PEEK_EXPORT,GO; GO", "STRUCTURED_REPLY+data,GO; GO"], dies)
    command = ["--explore", "1", "-j", "1", *SERVER, "dies=4", "dies=8+"]
    assert points(explore(nbdspec, *command, status=1)[0]) == found
    (nbdspec.cwd / "known").write_text("explore/haggling[STRUCT*]  fail  handshake_no_hard_disconnect  it dies\n")
    assert points(explore(nbdspec, "--expect", "known", *command, status=1)[0]) == found


@pytest.mark.parametrize("word, found", [("endless=2", ("LIST,LIST,GO", "fail", "list_replies")),
                                         ("drips=2", ("LIST,LIST,GO", "fail", "option_reply_length")),
                                         ("chunks", ("STRUCTURED_REPLY,GO", "fail", "done_set_on_last"))])
def test_an_answer_without_end_is_a_finding(nbdspec, word, found):
    """Of a server that goes on and on no wait for a byte ever ends without one."""
    point, *verdict = found
    findings, _ = explore(nbdspec, "--explore-sequence", point, *SERVER, word, status=1, factor="0.05")
    assert points(findings) == {point: tuple(verdict)}
    findings, _ = explore(nbdspec, "--explore", "2" if "2" in word else "1", "-j", "2", *SERVER, word, status=1, factor="0.05")
    assert points(findings) == {point: tuple(verdict)}


def test_facts_are_learnt_in_time(nbdspec):
    done = nbdspec("server", "-q", "-c", "explore/haggling", "--time-factor", "0.02", "--explore", "1", "--tap", "-", *SERVER, "endless=1", status=3)
    assert "did not go on within 6 s" in done.stdout


@pytest.mark.parametrize("words", [["malformed=0x80000009"], ["malformed=0x80000002", "told"], ["malformed=0x80000007"],
                                   ["extra=0x80000009"], ["extra=0x80000001"], ["extra=1"]])
def test_what_is_malformed_may_be_refused_so(nbdspec, words):
    """As info/malformed and meta_context/malformed have it."""
    assert not explore(nbdspec, "--strict", "--explore", "1", *SERVER, *words)[0]


@pytest.mark.parametrize("words", [["malformed=0x80000006"], ["malformed=1", "told"]])
def test_what_is_malformed_may_not_be_refused_otherwise(nbdspec, words):
    findings, _ = explore(nbdspec, "--explore", "1", *SERVER, *words, status=1)
    wrong = ("fail", "option_malformed_invalid")
    assert points(findings) == dict.fromkeys(["INFO:cut,GO", "INFO:name-length,GO", "INFO:empty,GO", "GO:cut,GO", "GO:empty,GO"], wrong)


def test_what_is_expected_leaves_room_for_the_rest(nbdspec):
    """More of it than is told of what nobody expects."""
    (nbdspec.cwd / "known").write_text("explore/haggling[*]  fail  rep_ack_empty  it is padded\n")
    findings, told = explore(nbdspec, "--explore", "1", "--expect", "known", *SERVER, "padded_ack", "df", status=1)
    padded = [r for r in findings if r["requirement"] == "rep_ack_empty"]
    assert len(padded) > 32 and {r["expectation"] for r in padded} == {"known"}
    rest = points(r for r in findings if r not in padded)
    assert rest == dict.fromkeys(["EXPORT_NAME", "EXPORT_NAME:padded"], ("fail", "df_flag_without_structured"))
    assert told["verdict"] == "pass"


def test_what_is_not_told_is_no_pass(nbdspec):
    findings, told = explore(nbdspec, "--explore", "1", "-j", "2", *SERVER, "padded_ack", "df", status=3)
    assert len(findings) == 32 and "not all is told" in told["message"] and told["verdict"] == "error"


def test_what_is_not_walked_is_no_pass(nbdspec):
    """The server has died, which was expected, and is not ours to start again."""
    (nbdspec.cwd / "known").write_text("explore/haggling[*]  flaky-fail  handshake_no_hard_disconnect  it dies\n")
    path = nbdspec.cwd / "s"
    with subprocess.Popen([*SERVER[1:-1], path, "dies=4"]) as server:
        try:
            until(path.exists)
            _, told = explore(nbdspec, "--explore", "1", "--expect", "known", f"nbd+unix:///?socket={path}", status=3)
            assert server.wait(1) == -signal.SIGABRT
        finally:
            server.kill()
    assert "not all is done" in told["message"] and told["verdict"] == "error"


def test_a_silence_that_does_not_come_again_accuses_nobody(nbdspec):
    """And what contains it is walked: of the sequences behind it that do none is left out."""
    findings, told = explore(nbdspec, "--strict", "--explore", "2", *SERVER, f"once={nbdspec.cwd / 'was'}")
    assert [(r["point"], r["verdict"]) for r in findings] == [("PEEK_EXPORT,GO", "info")]
    assert "seen once, and not again" in findings[0]["message"] and " not walked" not in told["message"]


def test_a_silence_that_comes_again_does(nbdspec):
    findings, _ = explore(nbdspec, "--explore", "1", *SERVER, "mute", status=1)
    assert points(findings) == {"PEEK_EXPORT,GO": ("fail", "option_gets_reply")}


def test_a_pasted_case_keeps_to_the_block_size(nbdspec):
    """It asks for what the exploration has asked for: of an honest server whose blocks are larger nothing is broken by that."""
    serve = ["--", NBDSPEC, "serve", "--unix", "{socket}", "--export", "size=1M,min=4096,pref=65536"]
    lie, sequence = ["--lie", "set_without_effect"], "STRUCTURED_REPLY,SET_META_CONTEXT,GO"
    findings, _ = explore(nbdspec, "--explore-sequence", sequence, *serve, *lie, status=1)
    case = next(r for r in findings if r["requirement"] == "set_meta_replies")["again"].partition("\n\n")[2]
    source, program = nbdspec.cwd / "case.c", nbdspec.cwd / "pasted"
    source.write_text('#include "cases/server/transmission.h"\n\n' + case)
    objects = glob.glob(os.path.dirname(NBDSPEC) + "/obj/**/*.o", recursive=True)
    libraries = subprocess.run(["pkg-config", "--libs", "jansson", "libxml-2.0", "zlib", "gnutls"], capture_output=True, text=True, check=True)
    subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-I", ROOT, "-Wall", "-Wextra", "-Werror", "-o", program, source, *objects,
                    *libraries.stdout.split(), "-lm"], check=True)
    for liar, status in ([], 0), (lie, 1):
        run = [program, "server", "-q", "--strict", "-c", "explored/*", *serve, *liar]
        assert subprocess.run(run, env=nbdspec.env, cwd=nbdspec.cwd, check=False, timeout=60).returncode == status


def test_nothing_is_read_of_what_is_too_small(nbdspec):
    assert not explore(nbdspec, "--strict", "--explore", "1", *SERVER, "size=500", "greedy")[0]
    findings, _ = explore(nbdspec, "--explore", "0", *SERVER, "size=500", "lingers", status=1)
    assert points(findings) == {"GO": ("fail", "disc_closes")} and "NBD_CMD_DISC" in findings[0]["again"]


def test_a_death_in_what_is_repeated_is_a_finding(nbdspec):
    """Of --unchecked: nobody looks at the answers, but the server does not outlive them."""
    findings, told = explore(nbdspec, "--explore", "1", "--unchecked", *SERVER, "worn=4", status=1)
    assert points(findings) == {"PEEK_EXPORT,GO; PEEK_EXPORT,GO; GO": ("fail", "handshake_no_hard_disconnect")}
    assert told["message"].endswith("; batches that were not answered as before: 1")
