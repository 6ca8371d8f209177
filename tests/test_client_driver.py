"""nbdspec client --driver: what becomes of drivers that are right, wrong, missing, hanging, killed."""

import json
import os
import signal

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, processes, until

MINIMAL = os.path.join(ROOT, "ci/drivers/minimal.py")
BROKEN = os.path.join(ROOT, "tests/broken_driver.py")
ONE = ("-c", "session/baseline")


def only_result(nbdspec):
    (r,) = json.loads((nbdspec.cwd / "json").read_text())["results"]
    return r


def test_good(nbdspec):
    nbdspec("client", *ONE, "--driver", MINIMAL, status=0)


@pytest.mark.parametrize("script, what", [
    ("kill -SEGV $$", "killed by signal 11"), ("exit 7", "ended with exit status 7"), ("sleep 1000", "does not answer"),
    ("echo 77 ok", "")])
def test_bad(nbdspec, script, what):
    """It greets, and then does this in place of its first answer."""
    driver = f"echo nbdspec-driver 1 bad 1 depth=1 handles=9 connect disconnect read; read line; {script}; sleep 1000"
    nbdspec("client", "-q", *ONE, "--time-factor", "0.1", "--json", "json", "--driver", "sh", "--", "-c", driver, status=1)
    r = only_result(nbdspec)
    assert r["verdict"] == "fail" and what in r["got"]


def test_write_cache(nbdspec):
    """What a block device's queue says is held against the flags."""
    nbdspec("client", "-q", "--pairwise", "-c", "flags/go_simple", "--json", "json", "--driver", BROKEN, "--", "always-write-back", status=1)
    r = only_result(nbdspec)
    assert r["verdict"] == "fail" and "queue.write_cache=write through" in r["expected"]


@pytest.mark.parametrize("lie, wrong", [("lost-is-ok", ["one_connection_dies"]), ("keeps-timeout", ["timeout_forgotten"]),
                                        ("writes-forgotten", ["several_connections", "one_connection_dies"])])
def test_block_device(nbdspec, lie, wrong):
    """Each is red with its own lie, and green with the others."""
    nbdspec("client", "-q", "-c", "block_device/*", "--json", "json", "--driver", BROKEN, "--", lie, status=1)
    failed = {r["case"] for r in json.loads((nbdspec.cwd / "json").read_text())["results"] if r["verdict"] == "fail"}
    assert failed == {f"block_device/{name}" for name in wrong}


@pytest.mark.parametrize("lie, point", [("flush_pretended", "flush"), ("fua_dropped_of_write", "fua")])
def test_power_cut(nbdspec, lie, point):
    """What the client only pretends to have done is lost."""
    nbdspec("client", "-q", "-c", "write_cache/power_cut", "--json", "json", "--driver", NBDSPEC, "--", "driver", "--lie", lie, status=1)
    failed = [r["point"] for r in json.loads((nbdspec.cwd / "json").read_text())["results"] if r["verdict"] == "fail"]
    assert failed and all(p.startswith(point) for p in failed)


@pytest.mark.parametrize("arguments, text", [(["--driver", "/nowhere/driver"], "/nowhere/driver: No such file or directory"),
                                             (["--driver", "false"], "ended with exit status 1"),
                                             (["--driver", "echo", "hello"], "hello")])
def test_no_driver(nbdspec, arguments, text):
    assert text in nbdspec.broken("client", *ONE, *arguments)


@pytest.mark.parametrize("arguments, text", [(["--driver", ""], "--driver ''"), (["--driver"], "--driver"),
                                             (["-c", "plain/honest", "--driver", "false"], "no case matches")])
def test_usage(nbdspec, arguments, text):
    assert text in nbdspec.usage("client", *arguments)


def test_list(nbdspec):
    """The cases for drivers are others than those for commands."""
    of_drivers, of_commands = (nbdspec("client", "--list", *more, status=0).stdout for more in (["--driver", "x"], []))
    assert "session/baseline" in of_drivers and "session/baseline" not in of_commands and "plain/honest" in of_commands


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended(nbdspec, which):
    driver = "echo nbdspec-driver 1 slow 1 depth=1 handles=9 connect disconnect read; exec sleep 1000"
    p = nbdspec.start("client", *ONE, "--driver", "sh", "--", "-c", driver)
    until(lambda: any(line.startswith("sleep 1000") for line in processes(nbdspec.mark).values()))
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    assert p.returncode == (-which if which == signal.SIGKILL else 130)
    until(lambda: not nbdspec.leftovers())


def points_of_a_liar(nbdspec, case, lie, status):
    nbdspec("client", "-q", "-c", case, "--time-factor", "0.2", "--json", "json", "--driver", os.path.join(ROOT, "tests/broken_driver.py"),
            lie, status=status)
    return {r["point"]: r for r in json.loads((nbdspec.cwd / "json").read_text())["results"]}


def test_waits_for_a_server_that_is_gone(nbdspec):
    """
    What a silent server owes is waited for, but not when it is dead; three such points are enough, and on a busy machine there
    are others in which the server is taken for silent.
    """
    points = points_of_a_liar(nbdspec, "lied_to/on_disk", "waits-for-the-dead", 1)
    points.pop("the driver's end")
    failed = {name: r["got"] for name, r in points.items() if r["verdict"] == "fail"}
    assert "read_past_end_shortened" in failed or len(failed) == 3
    assert set(failed.values()) == {"none within the time limit"}


def test_looks_for_a_server_that_is_gone(nbdspec):
    """A client that connects again and again does not wait for the dead."""
    points = points_of_a_liar(nbdspec, "lied_to/on_disk", "looks-for-the-dead", 0)
    assert points["block_size_past_end_dies"]["verdict"] == "pass"
