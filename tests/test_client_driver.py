"""nbdspec client --driver: what becomes of drivers that are right, wrong, missing, hanging, killed."""

import json
import os
import signal
import socket
import threading

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, processes, until
from test_drivers import control
from test_fake_client import DISC, FLUSH, Driver, Peer

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


@pytest.mark.parametrize("case", ["delivery/two_pieces", "connections/server_dies", "session/baseline", "truth/*shutdown"])
def test_leaving_takes_time(nbdspec, case):
    """What the client has sent may come behind its word that it has left."""
    nbdspec("client", "-q", "--pairwise", "-c", case, "--json", "json", "--driver", BROKEN, "--", "leaves-late", status=0)
    verdicts = {r["verdict"] for r in json.loads((nbdspec.cwd / "json").read_text())["results"]}
    assert "pass" in verdicts and verdicts <= {"pass", "skip"}


def test_connecting_by_itself(nbdspec):
    """What a client sends on a connection that it made in place of a lost one, and gives up, is of neither session."""
    nbdspec("client", "-q", "--pairwise", "-c", "reconnect/after_cut_off", "--json", "json", "--driver", BROKEN, "--", "connects-by-itself", status=0)
    assert {r["verdict"] for r in json.loads((nbdspec.cwd / "json").read_text())["results"]} == {"pass", "info"}


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


def test_a_slow_client_is_waited_for(nbdspec):
    """Its WRITE, whose reply is kept back, comes when one might have taken it for one that does not come."""
    driver = f"while read -r line; do sleep 0.1; echo \"$line\"; done | {os.path.join(ROOT, 'build/drivers/libnbd')}"
    nbdspec("client", "-c", "replies/flush", "--driver", "sh", "--", "-c", driver, status=0)


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


def test_size_in_blocks(nbdspec):
    """A block device has whole blocks; how large they are is not its choice."""
    points = points_of_a_liar(nbdspec, "sizes/legal", "rounds-to-a-terabyte", 1)
    assert any("in blocks of 1099511627776" in (r["message"] or "") for r in points.values() if r["verdict"] == "fail")


@pytest.mark.parametrize("case, hangs", [("flags/go_block_sizes", "fail"), ("replies/large", "warn")])
def test_demanded_sizes(nbdspec, case, hangs):
    """Who does not ask for block sizes need not connect to a server that demands it, but must say so."""
    for answers, verdict in (("cat", "skip"), ("grep --line-buffered -v error.REP_ERR", hangs)):
        nbdspec("client", "-q", "-c", case, "--time-factor", "0.2", "--json", "json", "--driver", "sh", "--", "-c",
                f"{NBDSPEC} driver --lie go_asks_no_block_size | {answers}", status=None)
        results = json.loads((nbdspec.cwd / "json").read_text())["results"]
        assert [r["verdict"] for r in results if r["point"] in (None, "above the maximum payload size")] == [verdict]


# ---- the fake client as a block device ----


@pytest.fixture
def device(nbdspec):
    """Our own client, asked by hand."""
    d = Driver(nbdspec)
    yield d
    d.process.kill()
    d.process.communicate()


@pytest.fixture
def peers(nbdspec):
    """Serves each connection with the next of these functions, all at once; returns the URI and, in this order, what they return."""
    started = []

    def start(*scripts):
        said = [None] * len(scripts)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(nbdspec.cwd / "peers"))
        listener.listen()

        def serve(i, sock):
            with sock:
                try:
                    said[i] = scripts[i](Peer(sock))
                except (EOFError, OSError) as e:
                    said[i] = e

        def accept():
            for i in range(len(scripts)):
                threads.append(threading.Thread(target=serve, args=(i, listener.accept()[0]), daemon=True))
                threads[-1].start()

        threads = [threading.Thread(target=accept, daemon=True)]
        threads[0].start()
        started.append((listener, threads))
        return f"nbd+unix:///?socket={nbdspec.cwd / 'peers'}", said

    yield start
    for listener, threads in started:
        listener.close()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture
def disk(nbdspec, fake):
    """Serves a disk with these transmission flags; returns its URI, and what counts its connections."""
    def start(flags):
        path = nbdspec.cwd / "control"
        uri = fake("--unix", nbdspec.cwd / "s", "--control", path, "--export", f"size=1M,flags={flags}")
        return uri, lambda: int(control(path, "status").split("connections=")[1].split()[0])

    return start


@pytest.mark.parametrize("flags, wanted, opened", [("SEND_FLUSH+CAN_MULTI_CONN", 3, 3), ("SEND_FLUSH", 3, 1),
                                                   ("SEND_FLUSH+CAN_MULTI_CONN", None, 1)])
def test_connections(device, disk, flags, wanted, opened):
    """So many as are wanted and offered; what one has written another reads, and all are left."""
    uri, connections = disk(flags)
    if wanted:
        assert device.ask(f"1 set connections={wanted}") == "ok"
    for _ in range(2):
        assert device.ask(f"1 connect {uri}").startswith("ok size=1048576 ")
        assert connections() == opened
        assert [device.ask(f"1 write {n * 4096} 4096 7") for n in range(4)] == ["ok"] * 4
        whole = device.ask("1 read 0 16384")
        assert whole.startswith("ok ") and {device.ask("1 read 0 16384") for _ in range(4)} == {whole}
        assert device.ask("1 disconnect") == "ok"
        until(lambda: connections() == 0)


def test_connections_by_go(device, disk):
    uri, connections = disk("CAN_MULTI_CONN")
    device.ask("1 set connections=2")
    assert device.ask(f"1 haggle {uri}").startswith("ok") and connections() == 1
    assert device.ask("1 go").startswith("ok size=") and connections() == 2
    assert device.ask("1 close") == "ok"
    until(lambda: connections() == 0)


@pytest.mark.parametrize("setting", ["connections=0", "connections=17", "connections=", "connections=two", "timeout=-1", "timeout=1s"])
def test_setting_refused(device, setting):
    assert device.ask(f"1 set {setting}") == "unsupported"


def test_strict_of_all_connections(nbdspec, device, disk):
    """It holds at once, whichever connection is next: the server sees what it has not offered."""
    uri, _ = disk("CAN_MULTI_CONN")
    device.ask("1 set connections=2")
    device.ask(f"1 connect {uri}")
    for strict, seen in (("on", 0), ("off", 2)):
        device.ask(f"1 set strict={strict}")
        assert [device.ask("1 flush") for _ in range(2)] == ["error EINVAL"] * 2
        assert f" requests={seen} " in control(nbdspec.cwd / "control", "counters")


def test_one_after_the_other_dies(nbdspec, device, disk):
    """As long as one is there the handle is connected."""
    uri, connections = disk("SEND_FLUSH+CAN_MULTI_CONN")
    device.ask("1 set connections=3")
    device.ask(f"1 connect {uri}")
    for n in (1, 2):
        control(nbdspec.cwd / "control", f"disconnect {n}")
        assert [device.ask("1 flush") for _ in range(4)] == ["ok"] * 4
        assert device.ask(f"1 connect {uri}") == "error EISCONN"
    control(nbdspec.cwd / "control", "disconnect 3")
    assert device.ask("1 flush") == "error ENOTCONN"
    assert device.ask(f"1 connect {uri}").startswith("ok") and connections() == 3


def leave_open(p):
    p.serve_options()
    return p.rest()


def answer_flushes(p):
    """Returns what has come, up to the end."""
    kinds = []
    p.serve_options()
    while DISC not in kinds:
        _, kind, cookie, *_ = p.request()
        kinds.append(kind)
        if kind == FLUSH:
            p.simple(cookie)
    return kinds


def test_timeout_of_one_connection(device, peers):
    """What one does not answer in time goes over the other; the one is left, and is not asked again."""
    uri, said = peers(leave_open, answer_flushes)
    device.ask("1 set connections=2")
    device.ask("1 set timeout=1")
    assert device.ask(f"1 connect {uri}").startswith("ok")
    tags = device.send("1 flush", "1 flush")
    assert device.answers_within(tags[1], 0.5) and not device.answers_within(tags[0], 0.5)
    assert [device.take(t) for t in tags] == ["ok", "ok"]
    assert device.ask("1 flush") == "ok" and device.ask("1 disconnect") == "ok"
    until(lambda: None not in said)
    assert said[1] == [FLUSH] * 3 + [DISC] and len(said[0]) == 28


def test_timeout_of_all_connections(device, peers):
    uri, _ = peers(leave_open, leave_open)
    device.ask("1 set connections=2")
    device.ask("1 set timeout=1")
    device.ask(f"1 connect {uri}")
    assert device.ask("1 flush") == "error ETIMEDOUT"
    assert device.ask("1 flush") == "error ENOTCONN"


def test_does_without_one(device, peers):
    """A connection beside the first that does not come about."""
    uri, said = peers(answer_flushes, lambda p: "gone")
    device.ask("1 set connections=2")
    assert device.ask(f"1 connect {uri}").startswith("ok")
    assert [device.ask("1 flush") for _ in range(2)] == ["ok"] * 2 and device.ask("1 disconnect") == "ok"
    until(lambda: None not in said)
    assert said == [[FLUSH, FLUSH, DISC], "gone"]


def test_first_dies_before_all_are_there(device, peers):
    """Then the connect has failed: the other is left, and the handle can connect again."""
    second_waits = threading.Event()

    def go_too_early(p):
        p.serve_options()
        second_waits.wait(PATIENCE)

    def wait(p):
        second_waits.set()
        return p.rest()

    uri, said = peers(go_too_early, wait, answer_flushes, lambda p: (p.serve_options(), p.request()[1])[1])
    device.ask("1 set connections=2")
    assert device.ask(f"1 connect {uri}") == "error ENOTCONN"
    until(lambda: said[1] is not None)
    assert device.ask(f"1 connect {uri}").startswith("ok") and device.ask("1 flush") == "ok"
    assert device.ask("1 disconnect") == "ok"
    until(lambda: None not in said[1:])
    assert said[1:] == [b"", [FLUSH, DISC], DISC]
