"""The transmission product: no honest server is accused, each combination is counted, and what is found is short and comes again."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, drain, pasted, read_until, until

KNOBS = re.findall(r"^KNOB\((\w+)", open(f"{ROOT}/fakeserver/knobs.def", encoding="utf-8").read(), re.M)
TRANSMISSION = KNOBS[KNOBS.index("shutdown_serves_option") + 1:]
GROUPS = 13
PRODUCT = 3 * 8 * 64 * 16  # kinds of replies, commands, sets of flags, places

# A lie, a requirement that it breaks, and the fewest requests that show it.
LIES = {
    "read_eio": ("read_returns_data", "simple:READ@start"),
    "read_offset_off_by_one": ("read_returns_data", "simple:READ@start"),
    "read_past_end_zeroes": ("read_past_end_einval", "simple:READ@across-end"),
    "read_past_end_eio": ("read_past_end_einval", "simple:READ@far"),
    "read_zero_closes": ("read_zero_no_disconnect", "simple:READ@empty"),
    "write_lost": ("read_returns_data", "simple:READ@start"),
    "write_past_end_unread": ("request_payload_consumed", "simple:WRITE@at-end"),
    "flagged_write_unread": ("request_payload_consumed", "simple:WRITE+DF@start"),
    "read_only_is_written": ("read_only_errors_writes", "simple:WRITE@start"),
    "read_only_einval": ("read_only_eperm", "simple:WRITE@start"),
    "zeroes_lost": ("zeroes_stored", "simple:WRITE_ZEROES@start"),
    "zeroes_one_byte_more": ("zeroes_stored", "simple:WRITE_ZEROES@start"),
    "fast_zero_done_and_refused": ("fast_zero_enotsup_unaltered", "simple:WRITE_ZEROES+FAST_ZERO@start"),
    "flags_fast_zero_untold_dies": ("transmission_no_disconnect", "simple:WRITE_ZEROES+FAST_ZERO@start"),
    "trim_one_byte_more": ("trim_keeps_outside", "simple:TRIM@start"),
    "trim_eperm": ("trim_supported", "simple:TRIM@start"),
    "trim_flags_swapped": ("fua_accepted", "simple:TRIM+FUA@start"),
    "trim_flags_ignored": ("inapplicable_flag_einval", "simple:TRIM+DF@start"),
    "trim_past_end_taken": ("trim_past_end_einval", "simple:TRIM@overflow"),
    "trim_unanswered": ("each_request_one_reply", "simple:TRIM@start"),
    "trim_swallows": ("request_payload_consumed", "simple:TRIM@start"),
    "cache_returns_data": ("cache_no_payload", "simple:CACHE@start"),
    "flush_returns_data": ("simple_reply_payload_only_read", "simple:FLUSH@empty"),
    "flush_swallows": ("request_payload_consumed", "simple:FLUSH@start"),
    "status_swallows": ("request_payload_consumed", "simple:BLOCK_STATUS@start"),
    "unknown_command_succeeds": ("unknown_command_einval", "simple:UNKNOWN@start"),
    "unknown_command_dies": ("transmission_no_disconnect", "simple:UNKNOWN@start"),
    "inapplicable_flag_ignored": ("inapplicable_flag_einval", "simple:WRITE+REQ_ONE@start"),
    "data_offset_off_by_one": ("data_chunk_in_bounds", "structured:READ@start"),
    "data_zeroed": ("data_chunk_contents", "structured:READ@start"),
    "df_split": ("df_one_content_chunk", "structured:READ+DF@last-four"),
}


AGAIN = {}  # by lie


def serve(*options, export="size=1M"):
    return ["--", NBDSPEC, "serve", "--unix", "{socket}", "--export", f"name=,{export}", *options]


def explore(nbdspec, *options, status=0, factor=None, destructive=True):
    """The findings, and what the run as a whole has to tell. Who may hang is waited for less."""
    factor = factor or ("0.1" if status else "1")
    nbdspec("server", "-q", "--strict", *["--destructive"] * destructive, "--time-factor", factor, "--case", "explore/transmission", "--json", "json",
            *([] if "--explore-sequence" in options else ["--explore", "0"]), *options, status=status)
    results = json.loads((nbdspec.cwd / "json").read_text())["results"]
    assert {r["case"] for r in results} == {"explore/transmission"}
    told = [r for r in results if r["point"] is None]
    assert len(told) == 1 and told[0]["verdict"] == "pass"
    return [r for r in results if r["point"] is not None], told[0]["message"]


def counts(message):
    """tried, deviating, {reason: left out}; they account for every combination."""
    every, tried, rest = re.match(r"(\d+) combinations in [\d.]+ s: (\d+) tried(.*)", message).groups()
    left = {reason: int(n) for n, reason in re.findall(r"; (\d+) not, ([^;]+)", rest)}
    assert int(every) == PRODUCT == int(tried) + sum(left.values())
    return int(tried), int(re.search(r"; (\d+) deviate", rest).group(1)), left


@pytest.mark.parametrize("knobs", [TRANSMISSION[i::GROUPS] for i in range(GROUPS)], ids=lambda knobs: knobs[0])
def test_no_knob_is_accused(nbdspec, knobs):
    """Those that stand beside each other are about the same, and would hide each other: they are in different groups."""
    findings, message = explore(nbdspec, *serve(*[word for knob in knobs for word in ("--knob", knob)]))
    assert not findings and counts(message)[1] == 0


@pytest.mark.parametrize("export", ["size=64M", "size=512", "size=0", "size=8388607T", "size=64M,flags=HAS_FLAGS", "read-only", "size=1M,min=4096,pref=65536",
                                    "size=20000", "size=64M,min=65536,pref=65536,max=1048576", "size=67109376,min=512,pref=65536,max=3000320"])
def test_no_export_is_accused(nbdspec, export):
    findings, message = explore(nbdspec, *serve(export=export))
    assert not findings and counts(message)[1] == 0


def test_every_combination_is_tried(nbdspec):
    assert counts(explore(nbdspec, *serve(export="size=64M"))[1]) == (PRODUCT, 0, {})


def test_what_is_left_out_is_told(nbdspec):
    third = PRODUCT // 3
    assert counts(explore(nbdspec, *serve("--knob", "no_structured_replies", export="size=64M"))[1]) == (
        third, 0, {"for want of structured replies": third, "for want of base:allocation": third})
    assert counts(explore(nbdspec, *serve("--knob", "no_meta_contexts", export="size=64M"))[1]) == (2 * third, 0, {"for want of base:allocation": third})
    assert counts(explore(nbdspec, *serve(export="size=64M"), destructive=False)[1]) == (
        PRODUCT * 5 // 8, 0, {"would write to what is not ours": PRODUCT * 3 // 8})
    assert counts(explore(nbdspec, *serve(export="size=64M,max=1048576"))[1])[2] == {"above the maximum payload size": 3 * 2 * 64}
    assert counts(explore(nbdspec, *serve())[1])[2] == {"for want of room in the export": PRODUCT * 2 // 16}


def test_who_leaves_is_counted(nbdspec):
    """A FLUSH with an offset or a length: that at the start of the export with no length is none."""
    findings, message = explore(nbdspec, *serve("--knob", "flush_range_closes", export="size=64M"))
    assert not findings and f", {3 * 64 * 15} of them answered by leaving" in message


@pytest.mark.parametrize("seed", [2, 3])
def test_stragglers_are_nobodys_fault(nbdspec, seed):
    """What a connection has left unanswered is carried out some time, by a server that we cannot start anew."""
    path = nbdspec.tmp / "s"
    with nbdspec.start("serve", "--unix", path, "--export", "name=,size=64M", "--knob", "flush_range_strays") as server:
        until(path.exists)
        findings, message = explore(nbdspec, "--seed", seed, f"nbd+unix:///?socket={path}", factor="1")
        server.send_signal(signal.SIGTERM)
    assert not findings and f", {3 * 64 * 15} of them answered by leaving" in message


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(nbdspec, lie):
    requirement, shortest = LIES[lie]
    findings, message = explore(nbdspec, *serve("--lie", lie), status=1)
    assert (requirement, shortest) in {(r["requirement"], r["point"]) for r in findings}
    assert counts(message)[1] > 0


def again(nbdspec, lie):
    """What its shortest requests find; of the tests that look at it the first does them."""
    if lie not in AGAIN:
        AGAIN[lie] = explore(nbdspec, "--explore-sequence", LIES[lie][1], *serve("--lie", lie), status=1)[0]
    return AGAIN[lie]


@pytest.mark.parametrize("lie", LIES)
def test_a_finding_comes_again(nbdspec, lie):
    requirement, shortest = LIES[lie]
    findings = again(nbdspec, lie)
    assert (shortest, requirement) in [(r["point"], r["requirement"]) for r in findings]
    assert findings[0]["again"].startswith(f"nbdspec server --destructive --case explore/transmission --explore-sequence '{shortest}' --")
    assert not explore(nbdspec, "--explore-sequence", shortest, *serve())[0]


def test_a_finding_is_a_case(nbdspec):
    """C that compiles, fails for the same requirement, and passes where nobody lies."""
    findings = {lie: next(r for r in again(nbdspec, lie) if r["requirement"] == LIES[lie][0]) for lie in LIES}
    program = pasted(nbdspec, {lie: r["again"].partition("\n\n")[2] for lie, r in findings.items()})

    def run(case, *options):
        done = subprocess.run([program, "server", "-q", "--strict", "--destructive", "--time-factor", "0.3", "-c", f"explored/{case}", "--json", "json",
                               *serve(*options)], env=nbdspec.env, cwd=nbdspec.cwd, check=False, timeout=PATIENCE)
        return done.returncode, json.loads((nbdspec.cwd / "json").read_text())["results"]

    status, results = run("*")
    assert status == 0 and {r["case"] for r in results if r["verdict"] == "skip"} == {"explored/read_only_einval", "explored/read_only_is_written"}
    for lie in LIES:
        status, (result,) = run(lie, "--lie", lie)
        # What a READ behind it says is another requirement's of the same finding.
        assert status == 1 and result["requirement"] in (LIES[lie][0], "simple_reply_magic"), lie


def test_shards_do_the_same_work_once(nbdspec):
    alone, several = (explore(nbdspec, "-j", n, *serve()) for n in ("1", "3"))
    assert not alone[0] and not several[0] and counts(alone[1]) == counts(several[1])
    told = [{(r["point"], r["requirement"]) for r in explore(nbdspec, "-j", n, *serve("--lie", "unknown_command_eperm"), status=1)[0]} for n in ("1", "3")]
    assert told[0] == told[1] != set()


@pytest.mark.parametrize("seed", range(2, 5))
def test_the_order_is_by_the_seed(nbdspec, seed):
    assert not explore(nbdspec, "--seed", seed, *serve())[0]
    assert explore(nbdspec, "--seed", seed, *serve("--lie", "unknown_command_succeeds"), status=1)[0]


@pytest.mark.parametrize("sequence, words", [("simple:READ@nowhere", "READ@nowhere"), ("simple:BOGUS@start", "BOGUS@start"),
                                             ("contexts:READ@start,WRITE+BOGUS@start", "WRITE+BOGUS@start")])
def test_a_wrong_sequence_is_named(nbdspec, sequence, words):
    assert words in nbdspec.broken("server", "--case", "explore/transmission", "--explore-sequence", sequence, *serve())


def test_progress(nbdspec):
    """The line of progress tells of what is done: the combinations, once the sequences are."""
    ours, theirs = pty.openpty()
    p = nbdspec.start("server", "--explore", "0", "--destructive", *serve(export="size=64M"), stdout=theirs)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        told = read_until(terminal, "combinations, ")
        done, of = re.findall(r"\[2/3\] (\d+) of (\d+) combinations, ", told)[-1]
        assert int(done) <= int(of) == PRODUCT
        p.send_signal(signal.SIGINT)
        drain(terminal)
    assert p.wait(PATIENCE) == 130
    p.stderr.close()


def test_an_interrupt_leaves_nothing(nbdspec):
    with nbdspec.start("server", "--explore", "0", "--case", "explore/transmission", "--destructive", "-j", "2", *serve(export="size=64M")) as p:
        until(lambda: len(nbdspec.leftovers()) > 4)
        p.send_signal(signal.SIGINT)
        assert p.wait(30) == 130
