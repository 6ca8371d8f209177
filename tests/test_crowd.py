"""Crowds of clients, servers that are stopped and reloaded among them, and what a server takes of the machine."""

import json
import re
import resource
import signal
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, processes, server, until

SERVE = ["--destructive", "--", NBDSPEC, "serve", "--unix", "{socket}", "--export", "size=64M"]
SMALL = ("--crowd", "30")
FIGURES = r"descriptors (\d+), at most (\d+), (\d+) in the end; memory [0-9.]+ MiB, at most [0-9.]+ MiB, [0-9.]+ MiB in the end"
POSTURES = ["idle", "half_greeting", "half_option", "half_request", "unread_replies", "dribbling"]


def run(nbdspec, *args, status=0, **kwargs):
    """{case or case[point]: its result}"""
    report = json.loads(nbdspec("server", "--json", "-", *args, status=status, **kwargs).stdout)
    return {r["case"] + (f"[{r['point']}]" if r["point"] else ""): r for r in report["results"]}


@pytest.mark.parametrize("posture", POSTURES)
def test_figures(nbdspec, posture):
    result = run(nbdspec, *SMALL, "-c", f"crowd/{posture}", *SERVE)[f"crowd/{posture}"]
    assert result["verdict"] == "info"
    figures = re.fullmatch("all of 30 clients were let in, and the next one too; " + FIGURES, result["message"])
    before, most, after = map(int, figures.groups())
    assert before == after and before + 30 <= most <= before + 32


@pytest.mark.parametrize("knob", ["crowd_waits", "crowd_turned_away"])
def test_few_are_let_in(nbdspec, knob):
    """The one that is served is among the sixteen."""
    results = run(nbdspec, *SMALL, "-c", "crowd/*", *SERVE, "--knob", knob)
    assert all(r["verdict"] in ("info", "pass", "skip") for r in results.values())
    assert results["crowd/idle"]["message"].startswith("of 30 clients 15 were let in at once, 15 left to wait or turned away; ")


def test_one_at_a_time(nbdspec):
    """Who serves one client at a time, and is known to, is not waited for, and is not blamed."""
    results = run(nbdspec, *SMALL, "-c", "connections/byte_by_byte", "-c", "crowd/*", "--", *server("{socket}", "size=67108864"))
    assert all(r["verdict"] in ("info", "pass", "skip") for r in results.values())
    assert results["crowd/idle"]["message"].startswith("of 2 clients 0 were let in at once, 2 left to wait")


@pytest.mark.parametrize("lie, left, costs", [
    ("leaks_silent", "before the client flags", r"24 clients that left before the client flags have cost the server 24 descriptors"),
    ("leaks_in_option", "within an option", r"24 clients that left within an option have cost the server 24 descriptors"),
    ("leaks_without_disc", "in transmission", r"24 clients that left in transmission have cost the server 24 descriptors"),
    ("leaks_memory", "in transmission", r"128 clients that left in transmission have cost the server [6-9]\.\d MiB of memory"),
])
def test_leaks(nbdspec, lie, left, costs):
    results = run(nbdspec, "--strict", "-c", "crowd/left_behind", *SERVE, "--lie", lie, status=1)
    found = results[f"crowd/left_behind[{left}]"]
    assert found["verdict"] == "warn" and found["requirement"] == "greeting_magic" and re.match(costs, found["message"])
    assert results["crowd/left_behind[with DISC]"]["verdict"] == "pass"


def test_descriptors_run_out(nbdspec):
    results = run(nbdspec, "-c", "crowd/descriptors_run_out", *SERVE)
    assert re.fullmatch(r"with 6 descriptors to spare, \d+ of 24 clients were greeted", results["crowd/descriptors_run_out"]["message"])
    few = run(nbdspec, "--crowd", "11", "-c", "crowd/descriptors_run_out", "-c", "read/first_block", *SERVE)
    assert few["crowd/descriptors_run_out"]["message"] == "it takes 12 clients to use up 6 descriptors (--crowd)"


def test_too_many_for_us(nbdspec):
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    results = run(nbdspec, "--crowd", "1000", "-c", "crowd/idle", "-c", "read/first_block", *SERVE, preexec_fn=limit)
    assert results["crowd/idle"]["verdict"] == "skip"
    assert results["crowd/idle"]["message"] == "1000 clients (--crowd) take 1064 descriptors, and nbdspec may have 100 (ulimit -Hn)"


def test_our_own_limit_is_raised(nbdspec):
    """The server keeps the one that it was given: it lets in what that allows, and is none the worse for it."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 4096))
    result = run(nbdspec, "--crowd", "200", "-c", "crowd/idle", *SERVE, preexec_fn=limit)["crowd/idle"]
    n = int(re.match(r"of 200 clients (\d+) were let in at once", result["message"])[1])
    assert 100 < n < 128


def test_none_is_wanted(nbdspec):
    results = run(nbdspec, "--crowd", "0", "-c", "crowd/*", "-c", "stop/*", *SERVE)
    assert {r["message"] for name, r in results.items() if name != "stop/flushed_writes"} == {"no crowd is wanted (--crowd 0)"}
    assert results["stop/flushed_writes"]["verdict"] == "pass"


def test_of_a_uri(nbdspec, fake):
    """Who runs already may have other clients."""
    uri = fake()
    results = run(nbdspec, "-c", "crowd/*", "-c", "reload/*", "-c", "read/first_block", uri)
    assert {r["verdict"] for name, r in results.items() if name != "read/first_block"} == {"skip"}
    assert "--crowd says how many" in results["crowd/idle"]["message"] and "--reload" in results["reload/every_state"]["message"]
    result = run(nbdspec, *SMALL, "-c", "crowd/idle", uri)["crowd/idle"]
    assert result["message"] == "all of 30 clients were let in, and the next one too; its processes are not ours to look at"


@pytest.mark.parametrize("args, error", [
    (["--crowd", "-1", "--", "x", "{socket}"], "--crowd '-1': want a number from 0 to 100000"),
    (["--reload", "", "--", "x", "{socket}"], "--reload '': want SIGNAL|SHELL, not an empty text"),
    (["--reload", "HUP", "nbd://localhost"], "--reload goes with a command to start, not with a URI"),
])
def test_usage(nbdspec, args, error):
    assert nbdspec("server", *args, status=2).stderr.rstrip("\n").endswith(error)


def test_server_dies_of_a_crowd(nbdspec):
    results = run(nbdspec, "-c", "crowd/idle", *SERVE, "--lie", "silent_clients_end_sessions", status=1)
    assert results["crowd/idle"]["requirement"] == "transmission_no_disconnect"
    assert results["crowd/idle"]["message"] == "a client that is served is cut off beside 100 others"


def test_interrupted(nbdspec):
    """With all its clients."""
    p = nbdspec.start("server", *SMALL, "-c", "crowd/idle", "--", *server("{socket}", "hang@read:3"))
    until(lambda: any("hang@read" in line and not line.startswith(NBDSPEC) for line in processes(nbdspec.mark).values()))
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and "interrupted" in out and err == ""


# ---- stop ----

def test_stop(nbdspec):
    results = run(nbdspec, "-c", "stop/*", *SERVE)
    assert results["stop/every_state"]["message"] == "of 42 clients 0 were disconnected by the server, the others left"
    assert results["stop/flushed_writes"]["verdict"] == "pass"


def test_what_was_flushed_is_lost(nbdspec):
    """Each start is over a new copy, which FLUSH makes nothing durable of."""
    forgets = ["sh", "-c", "cp {file} {dir}/copy && exec qemu-nbd -e 8 -t -f raw -k {socket} {dir}/copy"]
    keeps = ["qemu-nbd", "-e", "8", "-t", "-f", "raw", "-k", "{socket}", "{file}"]
    assert run(nbdspec, "-c", "stop/flushed_writes", "--", *keeps)["stop/flushed_writes"]["verdict"] == "pass"
    lost = run(nbdspec, "-c", "stop/flushed_writes", "--", *forgets, status=1)["stop/flushed_writes"]
    assert lost["verdict"] == "fail" and lost["requirement"] == "flush_persists"


# ---- reload ----

DEAF = ["--destructive", "--", "sh", "-c", f"trap '' HUP; exec {NBDSPEC} serve --unix {{socket}} --export name=one,size=64M"]


@pytest.mark.parametrize("how", ["HUP", "sighup", "kill -HUP {pid}", "test -S {socket} && true"])
def test_reload(nbdspec, how):
    results = run(nbdspec, "--reload", how, "-c", "reload/*", *DEAF)
    assert results["reload/every_state"]["verdict"] == "pass"
    assert results["reload/changed_exports"]["message"] == "exports listed: 1 before the reload, 1 after it; gone: none; new: none"


def test_reload_kills(nbdspec):
    result = run(nbdspec, "--reload", "HUP", "-c", "reload/every_state", *SERVE, status=1)["reload/every_state"]
    assert result["requirement"] == "transmission_no_disconnect" and "killed by signal 1" in result["server"]


def test_reload_fails(nbdspec):
    done = nbdspec("server", "--reload", "exit 7", "-c", "reload/every_state", *DEAF, status=3)
    assert done.stderr == "nbdspec server: --reload failed, it ended with exit status 7: exit 7\n"


@pytest.mark.skipif(subprocess.run(["which", "nbd-server"], stdout=subprocess.DEVNULL, check=False).returncode != 0, reason="no nbd-server")
def test_reload_adds_an_export(nbdspec):
    """As its manual says that it does."""
    prepare = "printf '[generic]\\n\\tallowlist = true\\n\\tunixsock = %s\\n[disk]\\n\\texportname = %s\\n' {socket} {file} > {dir}/c"
    reload = "printf '[more]\\n\\texportname = %s\\n' {file} >> {dir}/c; kill -HUP {pid}"
    result = run(nbdspec, "--daemon", "--via", "unix", "--export", "disk", "--prepare", prepare, "--reload", reload,
                 "-c", "reload/changed_exports", "--", "nbd-server", "-C", "{dir}/c")["reload/changed_exports"]
    assert result["message"] == 'exports listed: 1 before the reload, 2 after it; gone: none; new: "more"'
