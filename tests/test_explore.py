"""Explorations of option haggling: the model accuses no honest server, and is not blind; what is found is short and comes again."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, drain, pasted, read_until, until

EXPORTS = ["--export", "name=disk,size=64M,description=a disk", "--export", "name=other,size=32M,read-only"]
KNOBS = re.findall(r"^KNOB\((\w+)", open(f"{ROOT}/fakeserver/knobs.def", encoding="utf-8").read(), re.M)
SET, BASE = "SET_META_CONTEXT", "STRUCTURED_REPLY,SET_META_CONTEXT"

# Every lie about the state of a session: a depth that finds it, a requirement that it breaks, and its shortest sequence.
LIES = {
    "structured_for_all": (1, "simple_reply_required", "STRUCTURED_REPLY,GO; GO"),
    "structured_of_the_last": (2, "read_reply_structured", "STRUCTURED_REPLY,visitor,GO"),
    "structured_reply_forgotten": (1, "read_reply_structured", "STRUCTURED_REPLY,GO"),
    "export_name_stays_in_haggling": (1, "transmission_after_export_name", "EXPORT_NAME"),
    "go_stays_in_haggling": (0, "go_enters_transmission", "GO"),
    "go_serves_first_export": (1, "go_enters_transmission", "GO:other"),
    "info_enters_transmission": (1, "info_stays_in_haggling", "INFO,GO"),
    "set_unstructured_served": (1, "set_meta_unstructured_invalid", f"{SET},GO"),
    "set_served_without_structured": (1, "set_meta_unstructured_invalid", f"{SET},GO"),
    "set_nothing_keeps": (3, "set_meta_replaces", f"{BASE},{SET}:nothing,GO"),
    "set_failure_keeps": (3, "set_meta_failure_clears", f"{BASE},{SET}:unknown,GO"),
    "set_adds": (3, "set_meta_replaces", f"{BASE},{SET},GO"),
    "set_first_wins": (3, "set_meta_replaces", f"{BASE},{SET},GO"),
    "set_failure_selects": (2, "status_without_context_einval", f"STRUCTURED_REPLY,{SET}:unknown,GO"),
    "set_without_effect": (2, "set_meta_replies", f"{BASE},GO"),
    "info_clears_contexts": (3, "status_error_code", f"{BASE},INFO,GO"),
    "info_of_unknown_clears_contexts": (3, "status_error_code", f"{BASE},INFO:unknown,GO"),
    "list_clears_contexts": (3, "status_error_code", f"{BASE},LIST_META_CONTEXT,GO"),
    "export_list_clears_contexts": (3, "status_error_code", f"{BASE},LIST,GO"),
    "export_name_clears_contexts": (3, "status_error_code", f"{BASE},EXPORT_NAME"),
    "set_for_another_export": (2, "status_without_context_einval", f"{BASE}:other,GO"),
    "set_for_first_export_only": (3, "set_meta_replies", f"{BASE}:other,GO:other"),
    "set_outlives_connection": (2, "status_without_context_einval", "visitor:contexts,GO; STRUCTURED_REPLY,GO"),
}
# It is about the port that a server listens on, and needs no option.
NO_SEQUENCE = {"port_10809_oldstyle"}
# In SELECTIVETLS mode a sequence has STARTTLS in it, in FORCEDTLS each begins with it: the lie, what is explored, and as above.
TLS_LIES = {
    "selective_keeps_structured": ("on", ["--explore", 2], "starttls_forgets_state", "STRUCTURED_REPLY,STARTTLS,GO"),
    "selective_keeps_contexts": ("on", ["--explore-walks", 20000], "starttls_forgets_state", f"{BASE},STARTTLS,STRUCTURED_REPLY,GO"),
    "selective_second_acked": ("on", ["--explore", 2], "selectivetls_second_starttls_invalid", "STARTTLS,STARTTLS,GO"),
    "selective_starttls_denied_once_asked": ("on", ["--explore", 2], "selectivetls_starttls_acked", "STRUCTURED_REPLY,STARTTLS,GO"),
    "selective_wants_it_again": ("on", ["--explore", 1], "selectivetls_no_tls_reqd_after_tls", None),
    "tls_in_common_with_nobody": ("on", ["--explore", 1], "tls_handshake_after_ack", None),
    "tls_second_acked": ("require", ["--tls", "--explore", 1], "forcedtls_second_starttls_invalid", "STARTTLS,GO"),
    "tls_second_unknown": ("require", ["--tls", "--explore", 1], "forcedtls_second_starttls_invalid", "STARTTLS,GO"),
    "tls_wants_it_again": ("require", ["--tls", "--explore", 1], "forcedtls_no_tls_reqd_after_tls", "LIST,GO"),
}
# The others are about the handshake, about what comes in one piece with STARTTLS, or about clear text where all is to be over TLS.
OVER_TLS = set(re.findall(r"^(?:LIE|PRIORITY_LIE)\((\w+)", open(f"{ROOT}/fakeserver/lies/tls.c", encoding="utf-8").read(), re.M))
# A session with extended headers ends where they are agreed.
EXTENDED = set(re.findall(r"^LIE\((\w+)", open(f"{ROOT}/fakeserver/lies/extended.c", encoding="utf-8").read(), re.M))
# What takes long is done by several shards; but not what is left behind by connections that only one of them has.
SHARDS = {lie: 2 for lie, (depth, _, _) in LIES.items() if depth == 3} | {"info_enters_transmission": 3}
EXPLORED = {}  # by lie


def serve(*options):
    return ["--", NBDSPEC, "serve", "--unix", "{socket}", *EXPORTS, *options]


def explore(nbdspec, *options, status=0, factor="1"):
    """The results, and what the run as a whole has to tell."""
    nbdspec("server", "-q", "--strict", "--destructive", "--case", "explore/haggling", "--time-factor", factor, "--json", "json", *options, status=status)
    results = json.loads((nbdspec.cwd / "json").read_text())["results"]
    assert {r["case"] for r in results} == {"explore/haggling"}
    told = [r for r in results if r["point"] is None]
    assert len(told) == 1 and told[0]["verdict"] == "pass"
    return [r for r in results if r["point"] is not None], told[0]["message"]


def explored(nbdspec, lie):
    """What is found with this lie; of the tests that look at it the first explores."""
    if lie not in EXPLORED:
        EXPLORED[lie] = explore(nbdspec, "--explore", LIES[lie][0], "-j", SHARDS.get(lie, 1), *serve("--lie", lie), status=1, factor="0.2")
    return EXPLORED[lie]


def walked(message):
    count, symbols = re.match(r"(\d+) sequences of (\d+) symbols in [\d.]+ s, \d+ a second; ", message).groups()
    return int(count), int(symbols)


@pytest.mark.parametrize("mode, options", [("on", ["--explore", 3, "-j", 2]), ("on", ["--tls", "--explore", 1]), ("require", ["--tls", "--explore", 2])])
def test_over_tls_nobody_is_accused(nbdspec, mode, options):
    findings, message = explore(nbdspec, *options, *serve("--tls", mode, "--tls-certificates", "{certs}"))
    assert not findings and " 0 of them deviate" in message


@pytest.mark.parametrize("lie", TLS_LIES)
def test_a_lie_about_tls_is_found(nbdspec, lie):
    mode, options, requirement, shortest = TLS_LIES[lie]
    nbdspec("server", "-q", "--strict", "--destructive", "--case", "explore/haggling", "--time-factor", "0.2", "--json", "json", *options,
            *serve("--tls", mode, "--tls-certificates", "{certs}", "--lie", lie), status=1)
    results = json.loads((nbdspec.cwd / "json").read_text())["results"]
    assert (requirement, shortest) in {(r.get("requirement"), r["point"]) for r in results}


def test_a_finding_in_info_comes_again(nbdspec):
    lie = ["--lie", "extended_df_always:option=6"]
    findings, _ = explore(nbdspec, "--explore", 1, *serve(*lie), status=1)
    comes_again(nbdspec, next(r for r in findings if (r["requirement"], r["point"]) == ("df_flag_without_structured", "INFO,GO")), *lie)


@pytest.mark.parametrize("lie", ["selective_keeps_structured", "tls_second_acked"])
def test_a_finding_about_tls_comes_again(nbdspec, lie):
    mode, options, requirement, shortest = TLS_LIES[lie]
    server = ["--tls", mode, "--tls-certificates", "{certs}"]
    findings, _ = explore(nbdspec, *options, *serve(*server, "--lie", lie), status=1)
    comes_again(nbdspec, next(r for r in findings if (r["requirement"], r["point"]) == (requirement, shortest)), "--lie", lie,
                tls=options[:-2], server=server)


def test_the_product_and_connections_go_over_tls(nbdspec):
    nbdspec("server", "-q", "--destructive", "--tls", "--explore", 0, "-c", "explore/transmission", "-c", "explore/connections", "--json", "json",
            *serve("--tls", "require", "--tls-certificates", "{certs}"))
    told = {r["case"]: r for r in json.loads((nbdspec.cwd / "json").read_text())["results"]}
    assert " 24576 tried; 0 deviate" in told["explore/transmission"]["message"] and " 0 deviate" in told["explore/connections"]["message"]


def test_a_server_that_always_contradicts_itself_hides_nothing_else(nbdspec):
    findings, _ = explore(nbdspec, "--explore-sequence", f"{BASE},EXPORT_NAME",
                          *serve("--lie", "export_name_size_off_by_one", "--lie", "export_name_clears_contexts"), status=1)
    assert {r["requirement"] for r in findings} == {"info_export_same_as_export_name", "status_error_code"}


def test_every_lie_about_the_state_is_here():
    found = set()
    for name in subprocess.run(["grep", "-rhoE", r"^(LIE\(\w+, ON_STATE|STATE_LIE\(\w+)", f"{ROOT}/fakeserver/lies"],
                               capture_output=True, text=True, check=True).stdout.splitlines():
        found.add(re.search(r"\((\w+)", name).group(1))
    assert found - OVER_TLS - EXTENDED == {*LIES, *NO_SEQUENCE}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(nbdspec, lie):
    _, requirement, shortest = LIES[lie]
    findings, message = explored(nbdspec, lie)
    assert (requirement, shortest) in {(r["requirement"], r["point"]) for r in findings}
    assert " 0 of them deviate" not in message
    assert not [r["point"] for r in findings if "and not again" in r["transcript"]]


@pytest.mark.parametrize("lie", ["set_outlives_connection", "structured_for_all"])
@pytest.mark.parametrize("shards", [2, 3])
def test_each_finding_is_one_by_itself(nbdspec, lie, shards):
    """What a server has kept from the tries before makes no sequence shorter than it is."""
    findings, _ = explore(nbdspec, "--explore", "2", "-j", shards, *serve("--lie", lie), status=1)
    assert findings and not [r["point"] for r in findings if "and not again" in r["transcript"]]


def test_the_count_is_that_of_all_sequences(nbdspec):
    """m symbols in the middle, e endings: the plainest one stands behind each sequence that has none."""
    for depth in range(3):
        findings, message = explore(nbdspec, "--explore", depth, *serve())
        count, symbols = walked(message)
        endings = 11
        middle = symbols - endings
        assert symbols >= 25 and not findings
        assert count == 1 + sum(middle ** (n - 1) * (symbols - 1) for n in range(1, depth + 1))


@pytest.mark.parametrize("knob", [k for k in KNOBS if k != "no_fixed_newstyle"])
def test_no_knob_is_accused(nbdspec, knob):
    assert not explore(nbdspec, "--explore", "2", *serve("--knob", knob))[0]


@pytest.mark.parametrize("export", ["size=512", "size=0", "size=8388607T", "flags=HAS_FLAGS", "read-only", "size=1M,min=4096,pref=65536",
                                    "size=64M,min=65536,pref=65536,max=1048576", "size=67109376,min=512,pref=65536,max=3000320"])
def test_no_export_is_accused(nbdspec, export):
    for name in "", "disk":
        command = ["--", NBDSPEC, "serve", "--unix", "{socket}", "--export", f"name=disk,{export}"]
        assert not explore(nbdspec, "--explore", "2", "--export", name, *command)[0]


def test_what_has_no_haggling_is_skipped(nbdspec):
    for option in (["--knob", "no_fixed_newstyle"], ["--oldstyle"]):
        done = nbdspec("server", "--explore", "1", *serve(*option), status=3)
        assert "# SKIP" in done.stdout and "no case ran" in done.stderr


def test_the_protocols_port_has_a_rule(nbdspec):
    done = nbdspec("server", "--explore", "0", "--", NBDSPEC, "serve", "--tcp", "{port}", *EXPORTS, "--lie", "port_10809_oldstyle", status=3)
    assert "# SKIP newstyle" in done.stdout


def test_shards_do_the_same_work_once(nbdspec):
    alone = walked(explore(nbdspec, "--explore", "2", *serve())[1])
    assert walked(explore(nbdspec, "--explore", "2", "-j", "3", *serve())[1]) == alone
    told = [[(r["point"], r["requirement"]) for r in explore(nbdspec, "--explore", "2", "-j", n, *serve("--lie", "set_without_effect"), status=1)[0]]
            for n in ("1", "3")]
    assert sorted(told[0]) == sorted(told[1]) == sorted(set(told[0])) != []


def test_walks_by_seed(nbdspec):
    lie = serve("--lie", "info_clears_contexts")
    runs = [explore(nbdspec, "--explore-walks", "4000", "--seed", seed, *lie, status=1)[0] for seed in (7, 7, 70000)]
    told = [[(r["point"], r["requirement"]) for r in run] for run in runs]
    assert told[0] == told[1] != told[2]
    assert any(re.fullmatch(rf"{BASE}(:all)?,INFO(:\w+)?,GO", point) for run in told for point, _ in run)
    assert not explore(nbdspec, "--explore-walks", "500", *serve())[0]


def test_unchecked_tells_both_rates(nbdspec):
    count, _ = walked(message := explore(nbdspec, "--explore", "2", "--unchecked", *serve())[1])
    also, checked, bare, percent = map(int, re.search(r"; (\d+) also unchecked: (\d+) a second checked, (\d+) unchecked, (\d+) %",
                                                      message).groups())
    assert also == count and abs(percent - 100 * checked / bare) < 2


def comes_again(nbdspec, found, *lie, tls=(), server=()):
    """By its command, and by its case, which is C that compiles and fails for the same requirement."""
    command, _, case = found["again"].partition("\n\n")
    assert command.startswith(f"nbdspec server --destructive --explore-sequence '{found['point']}' --")
    again, _ = explore(nbdspec, *tls, "--explore-sequence", found["point"], *serve(*server, *lie), status=1)
    assert (found["point"], found["requirement"]) in [(r["point"], r["requirement"]) for r in again]
    assert not explore(nbdspec, *tls, "--explore-sequence", found["point"], *serve(*server))[0]
    program = pasted(nbdspec, {"sequence": case})
    assert f"R({found['requirement']})" in case
    for liar, status in ([], 0), (lie, 1):
        run = [program, "server", "-q", "--strict", "--destructive", *tls, "-c", "explored/*", *serve(*server, *liar)]
        assert subprocess.run(run, env=nbdspec.env, cwd=nbdspec.cwd, check=False, timeout=60).returncode == status


@pytest.mark.parametrize("lie", ["set_for_another_export", "structured_for_all", "info_clears_contexts", "set_adds", "go_serves_first_export",
                                 "structured_of_the_last", "export_name_clears_contexts", "set_unstructured_served"])
def test_a_finding_comes_again(nbdspec, lie):
    _, requirement, shortest = LIES[lie]
    findings, _ = explored(nbdspec, lie)
    found = next(r for r in findings if (r["requirement"], r["point"]) == (requirement, shortest))
    comes_again(nbdspec, found, "--lie", lie)


def test_a_hang_is_bounded(nbdspec):
    findings, message = explore(nbdspec, "--explore", "2", *serve("--lie", "info_enters_transmission"), status=1, factor="0.05")
    assert "INFO,GO" in {r["point"] for r in findings} and " not walked" in message


def test_a_crash_is_a_finding(nbdspec):
    findings, message = explore(nbdspec, "--explore", "1", *serve("--lie", "disc_dies"), status=1)
    assert findings[0]["point"] == "GO; GO" and findings[0]["verdict"] == "fail"
    assert "killed by signal" in findings[0]["server"]
    assert walked(message)[0] < 4 and " not walked" in message


def test_a_server_that_runs_already(nbdspec):
    path = nbdspec.tmp / "s"
    with nbdspec.start("serve", "--unix", path, *EXPORTS, "--lie", "info_clears_contexts") as server:
        until(path.exists)
        findings, _ = explore(nbdspec, "--explore", "3", f"nbd+unix:///?socket={path}", status=1)
        server.send_signal(signal.SIGTERM)
    assert f"{BASE},INFO,GO" in {r["point"] for r in findings}


def test_an_interrupt_leaves_nothing(nbdspec):
    with nbdspec.start("server", "--explore", "6", "-j", "2", *serve()) as p:
        until(lambda: len(nbdspec.leftovers()) > 4)
        p.send_signal(signal.SIGINT)
        assert p.wait(30) == 130


@pytest.mark.parametrize("options", [["--explore", "6"], ["--explore-walks", "4000000", "-j", "2"]])
def test_progress(nbdspec, options):
    """On a terminal: how many there are, how fast they are walked, and the time that is left."""
    ours, theirs = pty.openpty()
    p = nbdspec.start("server", "--case", "explore/haggling", *options, *serve(), stdout=theirs)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        told = read_until(terminal, " left")
        walked, of = re.search(r"\[0/[12]\] (\d+) of (\d+) sequences, \d+/s, at most \d+ s left", told).groups()
        assert int(walked) < int(of) and int(of) >= 4000000
        p.send_signal(signal.SIGINT)
        drain(terminal)
    assert p.wait(PATIENCE) == 130
    p.stderr.close()


@pytest.mark.parametrize("args, words", [(["--explore", "9"], ["--explore '9'", "0 to 8"]), (["--explore", "x"], ["--explore 'x'"]),
                                         (["--unchecked"], ["--unchecked", "--explore"]), (["--seed", "3"], ["--seed", "--explore-walks"]),
                                         (["--explore-walks", "0"], ["--explore-walks '0'"]), (["--explore-sequence", ""], ["--explore-sequence"])])
def test_usage(nbdspec, args, words):
    line = nbdspec.usage("server", *args, "nbd://localhost")
    assert all(word in line for word in words)


def test_an_unknown_symbol_is_named(nbdspec):
    assert "'BOGUS'" in nbdspec.broken("server", "--explore-sequence", "LIST,BOGUS,GO", *serve())
