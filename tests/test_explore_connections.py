"""Several connections at once: no honest server is accused, and what one does to another's contents is found, short, and again."""

import json
import re

import pytest

from conftest import NBDSPEC, ROOT

KNOBS = re.findall(r"^KNOB\((\w+)", open(f"{ROOT}/fakeserver/knobs.def", encoding="utf-8").read(), re.M)
TRANSMISSION = KNOBS[KNOBS.index("shutdown_serves_option") + 1:]

# A lie, a requirement that it breaks, and the fewest requests that show it.
LIES = {
    "write_over_another_lost": ("multi_conn_shared_cache", "connections:B.WRITE@0+1"),
    "flush_only_of_own_writes": ("multi_conn_shared_cache", "connections:A.READ@0+1"),
    "flags_multi_conn_stale": ("multi_conn_shared_cache", "connections:A.READ@0+1"),
    "write_lost": ("read_returns_data", "connections:A.READ@0+1"),
    "zeroes_lost": ("zeroes_stored", "connections:A.WRITE_ZEROES@0+1"),
    "zeroes_one_byte_more": ("zeroes_stored", "connections:A.WRITE_ZEROES@0+1"),
    "trim_one_byte_more": ("trim_keeps_outside", "connections:A.TRIM@0+1"),
}


def serve(*options, export="size=64M"):
    return ["--", NBDSPEC, "serve", "--unix", "{socket}", "--export", f"name=,{export}", *options]


def explore(nbdspec, *options, status=0, factor=None):
    """The findings, and what the run as a whole has to tell. Who may hang is waited for less."""
    factor = factor or ("0.1" if status else "1")
    nbdspec("server", "-q", "--strict", "--destructive", "--time-factor", factor, "--case", "explore/connections", "--json", "json",
            *([] if "--explore-sequence" in options else ["--explore", "0"]), *options, status=status)
    results = json.loads((nbdspec.cwd / "json").read_text())["results"]
    assert {r["case"] for r in results} == {"explore/connections"}
    told = [r for r in results if r["point"] is None]
    assert len(told) == 1
    return [r for r in results if r["point"] is not None], told[0]["message"]


def counts(message):
    """scripts, requests, connections, deviating."""
    return tuple(int(n) for n in re.match(r"(\d+) scripts of (\d+) requests over up to (\d) connections, .* in [\d.]+ s: (\d+) deviate", message).groups())


@pytest.mark.parametrize("knobs", [TRANSMISSION[i::8] for i in range(8)])
def test_no_knob_is_accused(nbdspec, knobs):
    for knob in knobs:
        findings, message = explore(nbdspec, *serve("--knob", knob))
        assert not findings and counts(message)[3] == 0, knob


@pytest.mark.parametrize("export, words", [("size=4096", "share all"), ("size=64M,flags=HAS_FLAGS", "of its own"), ("size=64M,min=65536,pref=65536", "share all"),
                                           ("size=1M,flags=HAS_FLAGS+SEND_FLUSH+SEND_TRIM", "of its own"), ("size=20000,max=4096", "share all"),
                                           ("size=8388607T", "share all")])
def test_no_export_is_accused(nbdspec, export, words):
    findings, message = explore(nbdspec, *serve(export=export))
    assert not findings and counts(message)[2:] == (4, 0) and words in message


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_and_comes_again(nbdspec, lie):
    requirement, shortest = LIES[lie]
    findings, message = explore(nbdspec, *serve("--lie", lie), status=1)
    assert (requirement, shortest) in {(r["requirement"], r["point"]) for r in findings}
    assert 0 < counts(message)[3] <= counts(message)[0]
    again, message = explore(nbdspec, "--explore-sequence", shortest, *serve("--lie", lie), status=1)
    assert [(r["requirement"], r["point"]) for r in again] == [(requirement, shortest)] and counts(message)[0] == 1
    assert again[0]["again"].startswith(f"nbdspec server --destructive --case explore/connections --explore-sequence '{shortest}' --")
    assert not explore(nbdspec, "--explore-sequence", shortest, *serve())[0]


def test_what_depends_on_who_comes_first_is_found(nbdspec):
    """After a CACHE the WRITEs of others are lost: it takes both, whatever their ranges."""
    findings, message = explore(nbdspec, *serve("--lie", "cache_other_connection_stale", export="size=256K"), status=1)
    assert findings and counts(message)[3] > len(findings)
    assert all("CACHE" in r["point"] and "WRITE@" in r["point"] for r in findings)


def test_who_does_not_answer_is_found(nbdspec):
    findings, _ = explore(nbdspec, *serve("--lie", "reply_lost_among_clients"), factor="0.02", status=None)
    assert {r["requirement"] for r in findings} == {"each_request_one_reply"}


def test_deeper_is_more(nbdspec):
    shallow, deep, several = (counts(explore(nbdspec, "--case", "explore/connections", *options, *serve())[1])
                              for options in ([], ["--explore-walks", "1"], ["-j", "3"]))
    assert shallow == deep == several
    done = nbdspec("server", "--destructive", "--case", "explore/connections", "--explore", "1", *serve(), status=0)
    assert int(re.search(r"(\d+) scripts", done.stdout).group(1)) > 1.9 * shallow[0]


@pytest.mark.parametrize("options, export, words", [([], "read-only", "a writable export"), ([], "size=512", "room in the export")])
def test_what_cannot_be_done_is_skipped(nbdspec, options, export, words):
    done = nbdspec("server", "--destructive", "--case", "explore/connections", "--explore", "0", *options, *serve(export=export), status=3)
    assert f"# SKIP {words}" in done.stdout


@pytest.mark.parametrize("sequence", ["connections:", "connections:A.READ@0", "connections:E.READ@0+1", "connections:A.READ@0+0", "connections:A.READ@500+13",
                                      "connections:A.BOGUS@0+1", "connections:A.FLUSH@0+1", "connections:A.READ@0+1,", "connections:A.READ@0+1x"])
def test_a_wrong_sequence_is_named(nbdspec, sequence):
    words = nbdspec.broken("server", "--destructive", "--case", "explore/connections", "--explore-sequence", sequence, *serve())
    assert "want CONNECTION.COMMAND@OFFSET+LENGTH" in words
