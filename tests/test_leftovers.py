"""Interrupted, killed, cut off: what is known is reported, and nothing is left behind (conftest.py looks)."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

from conftest import NBDSPEC, PATIENCE, processes, read_until, server, until

CASES = ("-c", "read/first_block", "-c", "read/last_byte")

# A server that does well in the first case and then says that it hangs; words that hold the run at other places.
HANGS = server("{socket}", "hanging@read:3", "hang@read:3")
HOLDS = {
    "in a case": ["--", *HANGS],
    "in a case, child of a shell": ["--", "sh", "-c", "\"$@\"; true", "sh", *HANGS],
    "in a case, server in the background": ["--", "sh", "-c", "setsid \"$@\" & exit 0", "sh", *HANGS],
    "in a case, by socket activation": ["[", *server("activation", "hang@accept"), "]"],
    "in a case, by stdio": ["--via", "stdio", "--", *server("stdio", "hang@accept")],
    "while it starts": ["--", "sh", "-c", "sleep 1000", "{socket}"],
    "while its command does not end": ["--daemon", "--", "sh", "-c", "sleep 1000", "{socket}"],
    "while it is prepared": ["--prepare", "sleep 1000", "--", *server("{socket}")],
    "side by side": ["-j", "3", "--", "sh", "-c", "sleep 1000", "{socket}"],
    "deaf": ["--fresh", "--", *server("{socket}", "deaf", "hanging@accept", "hang@accept")],
}


def servers(nbdspec):
    return [line for line in processes(nbdspec.mark).values() if line.startswith((sys.executable, "sleep 1000"))]


def held(nbdspec, *args, number=1, **kwargs):
    """Starts a run; returns once its server, or what stands for it, does."""
    p = nbdspec.start("server", *CASES, *args, **kwargs)
    until(lambda: len(servers(nbdspec)) >= number)
    return p


@pytest.mark.parametrize("which, where", [*((signal.SIGINT, where) for where in HOLDS), (signal.SIGTERM, "in a case"),
                                          (signal.SIGHUP, "in a case")])
def test_interrupted(nbdspec, which, where):
    p = held(nbdspec, *HOLDS[where])
    p.send_signal(which)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and "interrupted" in out and err == ""


def test_interrupted_reports(nbdspec):
    """Each report is whole, and holds what is known."""
    p = nbdspec.start("server", *CASES, "--tap", "-", "--json", "json", "--junit", "junit", "--text", "text", "--trace", "trace",
                      "--write-expect", "expect", "--", *server("{socket}", "hang@accept:2"))
    read_until(p.stdout, "ok 1 - read/first_block")
    p.send_signal(signal.SIGINT)
    rest, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and err == "" and rest.splitlines()[-1] == "Bail out! interrupted"
    report = json.loads((nbdspec.cwd / "json").read_text())
    assert [r["case"] for r in report["results"]] == ["read/first_block"] and report["summary"]["interrupted"] is True
    junit = ElementTree.parse(nbdspec.cwd / "junit").getroot()
    assert "first_block" in ElementTree.tostring(junit, encoding="unicode")
    assert "interrupted" in (nbdspec.cwd / "text").read_text()
    assert (nbdspec.cwd / "trace").read_bytes().startswith(b"NBDTRACE")
    assert "ended early" in (nbdspec.cwd / "expect").read_text()


def test_interrupted_of_a_uri(nbdspec, running):
    p = nbdspec.start("server", *CASES, "--tap", "-", running("hang@accept:2"))
    read_until(p.stdout, "ok 1 - read/first_block")
    p.send_signal(signal.SIGTERM)
    p.communicate(timeout=PATIENCE)
    assert p.returncode == 130


def test_interrupted_at_a_terminal(nbdspec):
    """Ctrl-C goes to the whole foreground group, the server's shell included."""
    p = held(nbdspec, *HOLDS["in a case, child of a shell"])
    group = held(nbdspec, *HOLDS["in a case, child of a shell"], number=2, start_new_session=True)
    os.killpg(group.pid, signal.SIGINT)
    p.send_signal(signal.SIGINT)
    for q in (p, group):
        q.communicate(timeout=PATIENCE)
        assert q.returncode == 130


def test_second_interrupt_does_not_wait(nbdspec):
    """A server that ignores SIGTERM gets three seconds, or until one is out of patience."""
    p = held(nbdspec, *HOLDS["deaf"])
    until(lambda: any("hanging" in f.read_text() for f in nbdspec.tmp.glob("nbdspec-*/output")))
    begin = time.monotonic()
    p.send_signal(signal.SIGINT)
    # The run, its case, its guard: the case is ended first.
    until(lambda: sum(line.startswith(NBDSPEC) for line in processes(nbdspec.mark).values()) == 2)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and time.monotonic() < begin + 2.5


@pytest.mark.parametrize("which, where", [*((signal.SIGKILL, where) for where in HOLDS), (signal.SIGQUIT, "in a case")])
def test_killed(nbdspec, which, where):
    """We can do nothing any more: a guard ends the servers and removes the directories."""
    p = held(nbdspec, *HOLDS[where])
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)  # nobody holds our standard output open
    assert p.returncode == -which
    until(lambda: not nbdspec.leftovers())


def test_no_guard_stays(nbdspec):
    """One for every server, and none when it is gone."""
    p = nbdspec.start("server", "-c", "read/*", "--fresh", "-j", "2", "--", *server("{socket}"))
    p.communicate(timeout=PATIENCE)
    assert processes(nbdspec.mark) == {}


def test_mutants_interrupted(nbdspec):
    p = nbdspec.start("mutants", "-c", "read/*", "-j", "2")  # some seconds
    until(lambda: len(processes(nbdspec.mark)) > 1)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=PATIENCE)
    assert p.returncode == 130


def test_mutants_killed(nbdspec):
    p = nbdspec.start("mutants", "-c", "read/first_block", "-j", "2")
    until(lambda: len(processes(nbdspec.mark)) > 1)
    p.kill()
    p.communicate(timeout=PATIENCE)
    until(lambda: not nbdspec.leftovers())


def test_descriptors(nbdspec):
    """A server starts with its three descriptors, and what systemd's protocol adds, and nothing of ours."""
    script = "ls /proc/self/fd >&2; exit 1"
    for how, more in ((["--", "sh", "-c", script, "{socket}"], 0), (["[", "sh", "-c", script, "]"], 1)):
        err = nbdspec.broken("server", "-q", "-c", "read/first_block", "--trace", "trace", "--json", "json", *how)
        assert err.split("it printed:\n")[1].split() == [str(n) for n in range(4 + more)]  # ls itself has one open
        os.unlink(nbdspec.cwd / "trace")


@pytest.mark.parametrize("number", [4, 5, 6, 7, 9, 12])
def test_few_descriptors(nbdspec, number):
    """A low ulimit -n: it is said, or enough; and the directory can be removed all the same."""
    done = nbdspec("server", "-q", *CASES, "-j", "2", "--", *server("{socket}"),
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number)))
    assert done.returncode == 0 or done.returncode == 3 and "Too many open files" in done.stderr


def test_file_size_limit(nbdspec, running):
    """A low ulimit -f is an error like a full disk, and no death by a signal."""
    err = nbdspec.broken("server", "-q", *CASES, "--json", "json", running(),
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert err == "nbdspec server: json: the report could not be written whole: File too large\n"
    assert not (nbdspec.cwd / "json").exists()


def test_environment(nbdspec):
    script = "echo $LISTEN_FDS $((LISTEN_PID - $$)); exit 1"
    err = nbdspec.broken("server", "-q", "-c", "read/first_block", "[", "sh", "-c", script, "]")
    assert err.endswith("it printed:\n1 0\n")


def test_signals_are_a_programs_own(nbdspec):
    script = "while read name value; do case $name in SigBlk: | SigIgn:) echo $name $value;; esac; done </proc/$$/status; exit 1"
    err = nbdspec.broken("server", "-q", "-c", "read/first_block", "--", "sh", "-c", script, "{socket}")
    masks = {line.split()[0]: int(line.split()[1], 16) for line in err.splitlines()[1:]}
    assert masks["SigBlk:"] == 0 and masks["SigIgn:"] & 1 << signal.SIGPIPE - 1 == 0


def test_stopped_server(nbdspec):
    """SIGSTOP: it hangs, and it is ended all the same."""
    p = nbdspec.start("server", "--tap", "-", "-c", "read/first_block", "--time-factor", "0.02", "--", "sh", "-c",
                      "echo $$ > pid; kill -STOP $$", "{socket}")
    p.communicate(timeout=PATIENCE)
    assert p.returncode == 3


def test_shell_that_is_killed_with_us(nbdspec):
    """A pipeline of the user's, killed as a group."""
    command = f"'{NBDSPEC}' server -c read/first_block -- sh -c 'sleep 1000' {{socket}} | cat"
    with subprocess.Popen(["/bin/sh", "-c", command], env=nbdspec.env, start_new_session=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL) as p:
        until(lambda: any(line.startswith("sleep 1000") for line in processes(nbdspec.mark).values()))
        os.killpg(p.pid, signal.SIGKILL)
    until(lambda: not nbdspec.leftovers())


def test_serve_run_is_killed(nbdspec):
    """The directory with the socket, and the command, go with the server."""
    p = nbdspec.start("serve", "--run", "sleep 1000")
    until(lambda: any("sleep 1000" in line for line in processes(nbdspec.mark).values()))
    p.kill()
    p.wait()
    until(lambda: not nbdspec.leftovers())
