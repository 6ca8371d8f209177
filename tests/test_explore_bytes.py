"""Mutated bytes: no honest server is accused, run K of a seed is always the same, and what is found is short and comes again."""

import json
import re
import signal
import subprocess

import pytest

from conftest import NBDSPEC, ROOT, server, until

KNOBS = re.findall(r"^KNOB\((\w+)", open(f"{ROOT}/fakeserver/knobs.def", encoding="utf-8").read(), re.M)

# A lie, the runs that it takes with seed 1, a requirement that it breaks, what is left of it, and how many bytes that is.
LIES = {
    "leaving_in_the_flags_dies": (400, "handshake_no_hard_disconnect", "half-flags", 3),
    "leaving_in_a_request_dies": (400, "handshake_no_hard_disconnect", "GO,raw(27)", 53),
    "option_magic_kills": (60, "handshake_no_hard_disconnect", "raw(16)", 20),
    "status_empty_dies": (1000, "handshake_no_hard_disconnect", "EXPORT_NAME,raw(28)", 48),
    "data_one_byte_more": (20, "data_chunk_in_bounds", "STRUCTURED_REPLY,GO,READ", 70),
    "unknown_payload_not_skipped": (110, "option_reply_echoes_option", "0x0,0x0", 136),
    "refused_payload_not_skipped": (110, "info_final_reply", "LIST,INFO,0x0", 82),
}


def serve(*options, export="size=1M"):
    return ["--", NBDSPEC, "serve", "--unix", "{socket}", "--export", f"name=,{export}", *options]


def mutate(nbdspec, *options, status=0, factor="0.3"):
    """The findings, and what the run as a whole has to tell."""
    nbdspec("server", "-q", "--strict", "--time-factor", factor, "--json", "json", *options, status=status)
    results = json.loads((nbdspec.cwd / "json").read_text())["results"]
    assert {r["case"] for r in results} == {"explore/bytes"}
    told = [r for r in results if " runs of seed " in (r["message"] or "")]
    assert len(told) == 1
    return [r for r in results if r["point"] is not None], told[0]["message"]


def name(finding):
    """Without how it died."""
    return finding["point"].partition(": ")[0]


def size(finding):
    return int(re.search(r"\n(\d+) bytes on", finding["again"]).group(1))


def count(message):
    return int(re.match(r"(\d+) runs of seed", message).group(1))


@pytest.mark.parametrize("knob", KNOBS)
def test_no_knob_is_accused(nbdspec, knob):
    findings, message = mutate(nbdspec, "--destructive", "--mutate", 1000, *serve("--knob", knob), factor="1")
    assert not findings and count(message) == 1000 and message.count("; 0 deviate") == 1


@pytest.mark.parametrize("export", ["size=64M", "size=512", "size=0", "size=8388607T", "size=64M,flags=HAS_FLAGS", "read-only", "size=1M,min=4096,pref=65536",
                                    "size=20000", "size=64M,min=65536,pref=65536,max=1048576"])
def test_no_export_is_accused(nbdspec, export):
    findings, message = mutate(nbdspec, "--destructive", "--mutate", 2000, "--seed", 7, *serve(export=export), factor="1")
    assert not findings and count(message) == 2000


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(nbdspec, lie):
    """By mutation alone, with seed 1; and what it was brought down to breaks the same again, and nothing of an honest server."""
    runs, requirement, shortest, length = LIES[lie]
    findings, message = mutate(nbdspec, "--mutate", runs, *serve("--lie", lie), status=1)
    found = [r for r in findings if name(r) == shortest and r["requirement"] == requirement]
    assert len(found) == 1 and size(found[0]) == length and "; 0 deviate" not in message
    command, run = re.match(r".*--mutate-bytes '([^']*)'.*\n.* run (\d+) of --seed 1$", found[0]["again"]).groups()
    assert 1 <= int(run) <= runs
    again, _ = mutate(nbdspec, "--mutate-bytes", command, *serve("--lie", lie), status=1)
    assert [(name(r), r["requirement"]) for r in again] == [(shortest, requirement)]
    assert not mutate(nbdspec, "--mutate-bytes", command, *serve())[0]
    assert mutate(nbdspec, "--mutate-run", run, *serve("--lie", lie), status=1)[0]


def test_a_death_says_how(nbdspec):
    findings, _ = mutate(nbdspec, "--mutate", 60, *serve("--lie", "option_magic_kills"), status=1)
    assert findings[0]["point"] == "raw(16): killed by signal 6 (Aborted)" and "signal 6" in findings[0]["got"]
    (nbdspec.cwd / "known").write_text("explore/bytes[*:?*signal?6*]  fail  handshake_no_hard_disconnect  it dies\n")
    mutate(nbdspec, "--mutate", 60, "--expect", "known", *serve("--lie", "option_magic_kills"))


def test_who_is_served_beside(nbdspec):
    findings, _ = mutate(nbdspec, "--mutate", 6000, *serve("--lie", "waiting_for_one_refuses_others"), status=1)
    assert findings and all("the connection was closed" in r["got"] for r in findings)


def test_a_hang_is_found(nbdspec):
    """Two connections before, for what is found out beforehand is on a server of its own."""
    findings, _ = mutate(nbdspec, "--mutate", 20, "--", *server("{socket}", "hang@end:9"), status=1, factor="0.1")
    assert {r["verdict"] for r in findings} == {"fail"} and all("no whole answer" in r["got"] for r in findings)


def test_contents_are_looked_at(nbdspec):
    findings, _ = mutate(nbdspec, "--destructive", "--mutate", 30, *serve("--lie", "trim_one_byte_more"), status=1)
    assert [(r["point"], r["requirement"], r["verdict"]) for r in findings] == [("GO,TRIM", "read_returns_data", "fail")] and size(findings[0]) == 54


def test_a_run_is_always_the_same(nbdspec):
    """Its bytes, whatever stands around it."""
    kept = []
    for i, jobs in enumerate((1, 1, 3)):
        (nbdspec.cwd / f"new{i}").mkdir()
        mutate(nbdspec, "--mutate", 600, "--seed", 5, "-j", jobs, "--corpus-new", f"new{i}", *serve())
        kept.append({p.name: p.read_bytes() for p in (nbdspec.cwd / f"new{i}").iterdir()})
    assert kept[0] == kept[1] and len(kept[0]) > 50
    # Of two that are answered alike another shard may be first.
    assert len(set(kept[2]) & set(kept[0])) > len(kept[0]) / 2


def test_a_corpus_is_begun_from(nbdspec):
    (nbdspec.cwd / "in").mkdir()
    (nbdspec.cwd / "in/one").write_bytes(bytes.fromhex("00000003 49484156454f5054 00000007 00000006 00000000 0000"))
    _, message = mutate(nbdspec, "--mutate", 100, "--corpus", "in", *serve())
    assert "from 15 sessions" in message
    assert "from 14 sessions" in mutate(nbdspec, "--mutate", 100, *serve())[1]
    (nbdspec.cwd / "in/long").write_bytes(bytes(65537))
    assert "in/long" in nbdspec.usage("server", "--mutate", 1, "--corpus", "in", *serve())


def test_what_is_not_ours_is_not_written_to(nbdspec):
    disk = nbdspec.cwd / "disk"
    disk.write_bytes(bytes(range(256)) * 4096)
    before = disk.read_bytes()
    path = nbdspec.cwd / "s"
    with subprocess.Popen(["qemu-nbd", "-t", "-e", "16", "-f", "raw", "-k", path, disk], stderr=subprocess.DEVNULL, env=nbdspec.env) as p:
        try:
            until(path.exists)
            nbdspec("server", "-q", "--mutate", 300, f"nbd+unix:///?socket={path}")
        finally:
            p.kill()
    assert disk.read_bytes() == before


def test_a_server_that_is_gone_is_no_pass(nbdspec):
    path = nbdspec.cwd / "s"
    (nbdspec.cwd / "known").write_text("explore/bytes[*]  flaky-fail  handshake_no_hard_disconnect  it dies\n"
                                       "explore/bytes[*]  flaky-fail  transmission_no_disconnect  it dies\n")
    with subprocess.Popen([NBDSPEC, "serve", "--unix", path, "--export", "name=,size=1M", "--lie", "option_magic_kills"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=nbdspec.env) as p:
        until(path.exists)
        _, message = mutate(nbdspec, "--mutate", 100, "--expect", "known", f"nbd+unix:///?socket={path}", status=3)
        assert p.wait(10) != 0
    assert "not all is done" in message


def test_for_a_time(nbdspec):
    _, message = mutate(nbdspec, "--mutate", "0.5s", "-j", 2, *serve())
    assert count(message) > 100


@pytest.mark.parametrize("options, words", [
    (["--mutate", "0"], "--mutate"), (["--mutate", "3x"], "--mutate"), (["--mutate", "s"], "--mutate 's'"), (["--mutate", "-1s"], "--mutate '-1s'"),
    (["--mutate", "1", "--explore", "1"], "--explore"), (["--mutate", "1", "--mutate-run", "1"], "not several"),
    (["--mutate-run", "0"], "--mutate-run"), (["--corpus", "."], "--corpus goes with --mutate"), (["--corpus-new", "."], "--corpus-new goes with --mutate"),
    (["--mutate", "1", "--corpus", "nowhere"], "nowhere: No such file"), (["--mutate", "1", "--corpus-new", "nowhere"], "nowhere: No such file"),
    (["--mutate-bytes", "00", "--corpus", "."], "--mutate-bytes takes nothing"), (["--seed", "1"], "--mutate")])
def test_a_wrong_command_line_is_named(nbdspec, options, words):
    assert words in nbdspec.usage("server", *options, *serve())


@pytest.mark.parametrize("text", ["0", "zz", "00 0", "go:00"])
def test_wrong_bytes_are_named(nbdspec, text):
    assert "want bytes in hex" in nbdspec.broken("server", "-q", "--mutate-bytes", text, *serve())


def test_an_interrupt_tells_what_was_done(nbdspec):
    with nbdspec.start("server", "--mutate", "1h", "-j", "2", *serve()) as p:
        until(lambda: len(nbdspec.leftovers()) > 4)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and out.startswith("TAP") and re.search(r"interrupted: (\d+ runs|explore/bytes)", err)
