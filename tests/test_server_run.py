"""nbdspec server against servers of every bad habit: what starts, what does not, what dies, what says nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from conftest import NBDSPEC, server

READS = ("-c", "read/first_block", "-c", "read/last_byte")  # one connection each
ONE = READS[:2]


def results(nbdspec, *args, status, **kwargs):
    """The verdicts of a run, {case: verdict}, and its whole JSON report."""
    done = nbdspec("server", "--json", "-", *args, status=status, **kwargs)
    report = json.loads(done.stdout)
    found = {}
    for r in report["results"]:
        name = r["case"] + (f"[{r['point']}]" if r["point"] else "")
        found.setdefault(name, []).append(r["verdict"])
    return {name: v[0] if len(v) == 1 else v for name, v in found.items()}, report


GOOD = {"read/first_block": "pass", "read/last_byte": "pass"}


# ---- ways to reach it ----

WAYS = [
    (["--", *server("{socket}")], "unix"),
    (["--", *server("{port}")], "tcp"),
    (["--via", "unix", "--", *server("{socket}")], "unix"),
    (["--via", "tcp", "--", *server("{port}")], "tcp"),
    (["--via", "stdio", "--", *server("stdio")], "stdio"),
    (["--via", "activation", "--", *server("activation")], "activation"),
    (["[", *server("activation"), "]"], "activation"),
    (["--", "sh", "-c", "exec \"$@\"", "sh", *server("{socket}")], "wrapped by a shell"),
    (["--", "sh", "-c", "\"$@\"; true", "sh", *server("{socket}")], "child of a shell"),
]


@pytest.mark.parametrize("how", [w[0] for w in WAYS], ids=[w[1] for w in WAYS])
def test_ways(nbdspec, how):
    for more in ([], ["--fresh"], ["-j", "4"]):
        assert results(nbdspec, *READS, *more, *how, status=0)[0] == GOOD


def test_uri(nbdspec, running):
    assert results(nbdspec, *READS, running(), status=0)[0] == GOOD


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_tcp_uri(nbdspec, fake, host):
    assert results(nbdspec, *READS, fake("--tcp", f"{host}:0"), status=0)[0] == GOOD


def test_uri_of_nobody(nbdspec):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound, but not listening
        port = s.getsockname()[1]
        for uri, words in ((f"nbd://127.0.0.1:{port}", ["127.0.0.1", str(port), "Connection refused"]),
                           (f"nbd://[::1]:{port}", ["::1", str(port), "Connection refused"]),
                           ("nbd+unix:///?socket=/nonexistent/s", ["/nonexistent/s", "No such file"]),
                           ("nbd+unix:///?socket=/etc/passwd", ["/etc/passwd", "Connection refused"]),
                           ("nbd://name.invalid/", ["name.invalid", "look up"])):
            err = nbdspec.broken("server", "-q", *ONE, uri)
            assert err.count("\n") == 1 and [w for w in words if w not in err] == []


def test_full_backlog(nbdspec):
    """A connect to a listener that accepts nobody does not last for ever."""
    with socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as first:
        s.bind(str(nbdspec.cwd / "s"))
        s.listen(0)
        first.connect(str(nbdspec.cwd / "s"))
        err = nbdspec.broken("server", "-q", *ONE, "--time-factor", "0.01", f"nbd+unix:///?socket={nbdspec.cwd}/s")
        assert "cannot connect" in err and "timed out" in err


def test_placeholders(nbdspec):
    places = "{socket}|{file}|{size}|{port}|{export}|{dir}|{other}|{}"
    err = nbdspec.broken("server", "-q", *ONE, "--export", "a b", "--size", "4096", "--prepare", f"echo '{places}'; wc -c <{{file}}",
                         "--", "sh", "-c", "echo \"$1\"; exit 3", "sh", places)
    prepared, size, given = err.split("it printed:\n")[1].splitlines()
    assert prepared == given and size == "4096"
    sock, file, size, port, export, directory, *others = given.split("|")
    assert sock == directory + "/socket" and file == directory + "/disk" and size == "4096" and port == "0"
    assert export == "a b" and os.path.dirname(directory) == str(nbdspec.tmp) and others == ["{other}", "{}"]


# ---- what does not start ----

SOCKET = "{socket}"
BAD_STARTS = [
    # how, what must be said
    (["--", "nosuchprogram", SOCKET], ["could not be started", "nosuchprogram: No such file or directory"]),
    (["[", "nosuchprogram", "]"], ["could not be started", "nosuchprogram: No such file"]),
    (["--via", "stdio", "--", "nosuchprogram"], ["could not be started", "nosuchprogram: No such file"]),
    (["--", "/etc/passwd", SOCKET], ["/etc/passwd: Permission denied"]),
    (["--", "/", SOCKET], ["/: Permission denied"]),
    (["--", "true", SOCKET], ["ended with exit status 0 before it accepted a connection: true {socket}"]),
    (["--", "sh", "-c", "exit 7", SOCKET], ["ended with exit status 7 before", "sh -c 'exit 7' {socket}"]),
    (["--", "sh", "-c", "kill -SEGV $$", SOCKET], ["killed by signal 11 (Segmentation fault) before"]),
    (["--", "sh", "-c", "echo out; echo err >&2; exit 1", SOCKET], ["exit status 1", "it printed:\nout\nerr\n"]),
    (["[", "true", "]"], ["ended with exit status 0 before it ", ": true"]),
    (["[", "sh", "-c", "echo why; exit 4", "]"], ["ended with exit status 4 before it ", "printed:\nwhy\n"]),
    (["--via", "stdio", "--", "true"], ["ended with exit status 0 before it greeted: true"]),
    (["--via", "stdio", "--", "sh", "-c", "echo why >&2; exit 3"], ["exit status 3 before it greeted", "printed:\nwhy\n"]),
    (["--time-factor", "0.01", "--", "sh", "-c", "sleep 1000", SOCKET],
     ["accepts no connection at ", "/socket within 0.2 s (--time-factor): No such file", "sh -c 'sleep 1000' {socket}"]),
    (["--time-factor", "0.01", "--", "sh", "-c", "sleep 1000", "{port}"],
     ["accepts no connection at 127.0.0.1 port ", " within 0.2 s (--time-factor): Connection refused"]),
    (["--daemon", "--", "true", SOCKET], ["--daemon: the command ended with exit status 0 and left no server", "true {socket}"]),
    (["--daemon", "--", "sh", "-c", "echo oops; exit 5", SOCKET], ["--daemon: the command ended with exit status 5", "oops"]),
    (["--daemon", "--time-factor", "0.01", "--", "sh", "-c", "sleep 1000", SOCKET],
     ["--daemon: the command does not end within 0.2 s", "background"]),
    (["--daemon", "--time-factor", "0.01", "--", "sh", "-c", "sleep 1000 & exit 0", SOCKET],
     ["accepts no connection at ", "within 0.2 s"]),
    (["--time-factor", "0.01", "--", "sh", "-c", "sleep 1000 & exit 0", SOCKET], ["accepts no connection at ", "within 0.2 s"]),
    (["--prepare", "false", "--", "true", SOCKET], ["--prepare failed, it ended with exit status 1: false\n"]),
    (["--prepare", "echo why >&2; exit 9", "--", "true", SOCKET], ["--prepare failed", "exit status 9", "printed:\nwhy\n"]),
    (["--prepare", "nosuchcommand", "--", "true", SOCKET], ["--prepare failed", "nosuchcommand: not found"]),
    (["--prepare", "kill -9 $$", "--", "true", SOCKET], ["--prepare failed, it was killed by signal 9"]),
    (["--prepare", "sleep 1000", "--time-factor", "0.01", "--", "true", SOCKET], ["--prepare does not end within 0.2 s"]),
    (["--size", "7E", "--", "true", SOCKET, "{file}"], ["image of 8070450532247928832 bytes (--size)", "File too large"]),
]


@pytest.mark.parametrize("how, words", BAD_STARTS, ids=lambda v: " ".join(v)[:50])
def test_server_that_does_not_start(nbdspec, how, words):
    """Its command, its status and what it printed; status 3; in the reports, too."""
    err = nbdspec.broken("server", *READS, "--json", "json", "-q", *how)
    assert [w for w in words if w not in err] == []
    report = json.loads((nbdspec.cwd / "json").read_text())
    assert report["summary"]["broken"].replace("\\x0a", "\n") in err and report["results"] == []


def test_what_it_printed_is_printable(nbdspec):
    err = nbdspec.broken("server", "-q", *ONE, "--", *server("{socket}", "noisy", "exit1@start"))
    lines = err.splitlines()
    assert lines[-1] == "line 1999 \\x1b[31mred" and len(lines) == 11 and "\x1b" not in err
    err = nbdspec.broken("server", "-q", *ONE, "--", "sh", "-c", "head -c 99999 /dev/urandom; printf 'a\\0b\\n'; exit 1", "{socket}")
    assert err.endswith("a b\n") and len(err) < 60000 and all(c >= " " or c in "\n\t" for c in err)


def test_noise_does_not_block_it(nbdspec):
    assert results(nbdspec, *READS, "--", *server("{socket}", "noisy"), status=0)[0] == GOOD


@pytest.mark.parametrize("act", ["hang", "close", "exit0", "crash"])
def test_server_that_never_greets(nbdspec, act):
    """It is said once, and the other cases are not even tried."""
    words = [f"{act}@accept:{n}" for n in range(1, 4)]
    # There is no limit to how long it takes to start where the socket is ours.
    how = ["--time-factor", "0.02", "[", *server("activation", *words), "]"] if act == "hang" else ["--", *server("{socket}", *words)]
    done = nbdspec("server", *READS, "--json", "json", "-q", *how, status=3)
    report = json.loads((nbdspec.cwd / "json").read_text())
    if act in ("hang", "close"):
        assert "sends no greeting" in done.stderr
        assert [(r["case"], r["verdict"], r["requirement"]) for r in report["results"]] == [
            ("read/first_block", "fail", "greeting_magic")]
        assert report["results"][0]["transcript"]
    else:
        assert "before it greeted" in done.stderr and report["results"] == []


def test_uri_that_never_greets(nbdspec, running):
    err = nbdspec.broken("server", "-q", *READS, "--time-factor", "0.02", running("hang@accept"))
    assert "sends no greeting" in err


def test_garbage_is_a_verdict(nbdspec):
    found, report = results(nbdspec, *READS, "--", *server("{socket}", "garbage@accept:1", "garbage@accept:2"), status=1)
    assert found == {"read/first_block": "fail", "read/last_byte": "fail"}
    assert {r["requirement"] for r in report["results"]} == {"greeting_magic"} and report["summary"]["broken"] is None


# ---- what dies, hangs, goes away ----


def test_crash_in_a_case(nbdspec):
    """The verdict names the signal and what it printed; the next case gets a new server."""
    found, report = results(nbdspec, *READS, "--", *server("{socket}", "last words@read", "crash@read"), status=1)
    assert found == {"read/first_block": "fail", "read/last_byte": "fail"}
    for r in report["results"]:
        assert r["server"] == "the server was killed by signal 11 (Segmentation fault); it printed:\nlast words"
        assert "NBD_CMD_READ" in r["transcript"]


def test_crash_at_a_point(nbdspec, running):
    """It is said once; the points behind it, which find no server, are not done, and accuse nobody."""
    crash = ["crash@read:2"]
    found, _ = results(nbdspec, "-c", "read/every_length", "--", *server("{socket}", *crash), status=1)
    verdicts = list(found.values())
    assert verdicts.count("fail") == 1 and "fail" in verdicts[:2] and set(verdicts[2:]) == {"skip"}
    found, report = results(nbdspec, "-c", "read/every_length", running(*crash), status=1)
    # Of a server at a URI nobody knows when it has ended: one more point may say that it is gone, and the end of the run.
    verdicts = [r["verdict"] for r in report["results"]]
    assert 2 <= verdicts.count("fail") <= 3 and verdicts.count("skip") > 3


def test_exit_in_a_case(nbdspec):
    found, report = results(nbdspec, *READS, "--", *server("{socket}", "exit3@read"), status=1)
    assert set(found.values()) == {"fail"}
    assert {r["server"] for r in report["results"]} == {"the server ended with exit status 3"}


def test_crash_in_a_case_of_a_uri(nbdspec, running):
    """It cannot be started anew; the case that it died in is the one to blame."""
    done = nbdspec("server", *READS, "-q", "--json", "json", running("crash@read"), status=3)
    report = json.loads((nbdspec.cwd / "json").read_text())
    assert "cannot connect" in done.stderr and "cannot connect" in report["summary"]["broken"]
    assert {r["case"] for r in report["results"]} == {"read/first_block"}
    assert all(r["verdict"] == "fail" for r in report["results"])


BLAMED = {"read/first_block": ["pass", "fail"], "read/last_byte": ["pass", "fail"]}


def test_crash_between_two_cases(nbdspec):
    """The case that comes next has no part in it: it is run again, and the one before is blamed, the last one, too."""
    for act, end in (("crash", "signal 11"), ("exit3", "exit status 3")):
        found, report = results(nbdspec, *READS, "--", *server("{socket}", f"{act}@accept:2"), status=1)
        assert found == BLAMED
        for r in report["results"]:
            assert r["verdict"] == "pass" or end in r["server"] and r["requirement"] == "handshake_no_hard_disconnect"


def test_crash_behind_every_case(nbdspec):
    """When its client leaves: a common place to crash at."""
    for how in (server("{socket}", "last words@end", "crash@end"), [*server("stdio", "last words@end", "crash@end")]):
        found, report = results(nbdspec, *READS, *(["--via", "stdio"] if "stdio" in how else []), "--", *how, status=1)
        assert found == BLAMED
        assert {r["server"] for r in report["results"] if r["verdict"] == "fail"} == {
            "the server was killed by signal 11 (Segmentation fault); it printed:\nlast words"}


def test_crash_that_a_case_causes_stays_its_own(nbdspec):
    """A new server dies of it just so: nobody else is blamed."""
    words = [f"crash@accept:{n}" for n in range(2, 9)]
    found, report = results(nbdspec, "-c", "disc/closes", "-c", "go/next_client", "--", *server("{socket}", *words), status=1)
    blamed = [r["case"] for r in report["results"] if r["verdict"] == "fail"]
    assert "disc/closes" not in blamed or found["disc/closes"] != "pass"


def test_server_that_stops_listening(nbdspec):
    """It lives, but accepts nobody any more: a new one is started, and the case before is blamed."""
    found, report = results(nbdspec, *READS, "--", *server("{socket}", "unlisten@end"), status=1)
    assert found == BLAMED
    assert "accepts no connection" in [r for r in report["results"] if r["verdict"] == "fail"][0]["server"]


def test_server_for_one_client(nbdspec):
    """One that ends well behind its only client is no broken one; it is started for each case."""
    for _ in range(5):
        found, _ = results(nbdspec, *READS, "-c", "go/next_client", "--", *server("{socket}", "exit0@end"), status=0)
        assert {k: v for k, v in found.items() if k in GOOD} == GOOD
        assert [v for k, v in found.items() if k.startswith("go/next_client")] == ["skip"]


def test_hang_in_a_case(nbdspec):
    """The next case gets a new server."""
    found, report = results(nbdspec, *READS, "--time-factor", "0.05", "--", *server("{socket}", "hang@read:2"), status=1)
    assert found == {"read/first_block": "fail", "read/last_byte": "fail"}
    assert {r["got"] for r in report["results"]} == {"nothing within the time limit"}


def test_hang_between_two_cases(nbdspec):
    found, report = results(nbdspec, *READS, "--time-factor", "0.05", "--", *server("{socket}", "hang@end"), status=1)
    assert found == BLAMED
    assert all(r["verdict"] == "pass" or "does not greet a new client" in r["server"] for r in report["results"])


def test_server_that_ignores_sigterm(nbdspec):
    assert results(nbdspec, *ONE, "--", *server("{socket}", "deaf"), status=0)[0] == {"read/first_block": "pass"}


# ---- the background ----

BACKGROUND = ["sh", "-c", "setsid \"$@\" & exit 0", "sh", *server("{socket}")]
DOUBLE_FORK = [sys.executable, "-I", "-S", "-c",
               "import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
               "os.execv(sys.argv[1], sys.argv[1:])", *server("{socket}")]


@pytest.mark.parametrize("command", [BACKGROUND, DOUBLE_FORK], ids=["setsid", "double fork"])
@pytest.mark.parametrize("options", [[], ["--daemon"], ["--daemon", "--fresh"], ["--daemon", "-j", "3"]], ids=" ".join)
def test_server_in_the_background(nbdspec, command, options):
    """With --daemon or without: it is found, tested and ended."""
    assert results(nbdspec, *READS, *options, "--", *command, status=0)[0] == GOOD


def test_crash_in_the_background(nbdspec):
    found, report = results(nbdspec, *READS, "--daemon", "--", *BACKGROUND, "crash@read", status=1)
    assert found == {"read/first_block": "fail", "read/last_byte": "fail"}
    assert {r["server"] for r in report["results"]} == {"the server was killed by signal 11 (Segmentation fault)"}


def test_dead_orphans_are_waited_for(nbdspec):
    """What dies behind a server in the background is ours; it piles up for no longer than one server lives."""
    log = nbdspec.cwd / "log"
    states = 'for p in $(cat /proc/$PPID/task/$PPID/children); do cut -d" " -f3 /proc/$p/stat; done'
    command = ["sh", "-c", "(true &); (true &); (true &); setsid \"$@\" & exit 0", "sh", *server("{socket}")]
    prepare = f'echo "$({states})" | tr -cd Z >> {log}; echo >> {log}'
    found, _ = results(nbdspec, "-c", "read/*", "--fresh", "--daemon", "-j", "1", "--prepare", prepare, "--", *command, status=0)
    zombies = [len(line) for line in log.read_text().splitlines()]
    assert len(zombies) > 8 and max(zombies) <= 5


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="no nbdkit")
def test_nbdkit(nbdspec):
    for how in (["--", "nbdkit", "-U", "{socket}", "memory", "1M"], ["--daemon", "--", "nbdkit", "-U", "{socket}", "memory", "1M"],
                ["[", "nbdkit", "memory", "1M", "]"], ["--via", "stdio", "--", "nbdkit", "-s", "memory", "1M"]):
        assert results(nbdspec, *READS, *how, status=0)[0] == GOOD
    run = f"'{NBDSPEC}' server --destructive -q -c 'read/*' \"$uri\""
    subprocess.run(["nbdkit", "-U", "-", "memory", "64M", "--run", run], check=True, env=nbdspec.env, stdin=subprocess.DEVNULL)


# ---- prepare ----


def test_prepare(nbdspec):
    """Before every start, under the same placeholders, and what it leaves in the background ends with the run."""
    log = nbdspec.cwd / "log"
    prepare = f"echo {{socket}} >> {log}; sleep 1000 &"
    assert results(nbdspec, *READS, "--fresh", "--prepare", prepare, "--", *server("{socket}"), status=0)[0] == GOOD
    lines = log.read_text().splitlines()
    assert len(lines) == 2 and all(line.endswith("/socket") for line in lines)
    assert results(nbdspec, *READS, "--prepare", prepare, "--", *server("{socket}"), status=0)[0] == GOOD
    assert len(log.read_text().splitlines()) == 3


def test_prepare_gets_ordinary_signals(nbdspec):
    """Nothing that it starts is deaf to SIGTERM because we are."""
    out = nbdspec.cwd / "out"
    nbdspec("server", "-q", *ONE, "--prepare", f"grep -E 'Sig(Blk|Ign)' /proc/self/status > {out}", "--",
            *server("{socket}"), status=0)
    assert {int(line.split()[1], 16) & (1 << signal.SIGTERM - 1 | 1 << signal.SIGPIPE - 1)
            for line in out.read_text().splitlines()} == {0}


# ---- skips and statuses ----


def test_export_that_is_too_small(nbdspec):
    found, report = results(nbdspec, *ONE, "-c", "write/thirty_two_mebibytes", "--destructive", "--",
                            *server("{socket}", "size=512"), status=0)
    assert found == {"read/first_block": "pass", "write/thirty_two_mebibytes": "skip"}
    assert [r["feature"] for r in report["results"] if r["verdict"] == "skip"] == ["size"]
    assert "512 bytes" in [r["message"] for r in report["results"] if r["verdict"] == "skip"][0]


def test_export_that_may_not_be_written(nbdspec):
    case = ["-c", "write/stored"]
    for more, feature in ((["ro"], "writable"), ([], "destructive")):
        found, report = results(nbdspec, *ONE, *case, *(["--destructive"] if more else []), "--",
                                *server("{socket}", *more), status=0)
        skips = [r for r in report["results"] if r["verdict"] == "skip"]
        assert skips and all(r["message"] and r["feature"] for r in skips)
        assert feature != "destructive" or {r["feature"] for r in skips} == {"destructive"}
        assert found["read/first_block"] == "pass"


def test_nothing_ran(nbdspec):
    """All skipped is status 3, never 0, and every report says so."""
    done = nbdspec("server", "-c", "read/first_block", "--json", "json", "--", *server("{socket}", "size=0"), status=3)
    assert "no case ran: all 1 were skipped" in done.stderr and "no case ran" in done.stdout
    assert json.loads((nbdspec.cwd / "json").read_text())["summary"]["broken"] == "no case ran: all 1 were skipped"


def test_require(nbdspec):
    how = ["--", *server("{socket}", "size=0")]
    for feature in ("size", "SIZE", "any"):
        found, report = results(nbdspec, *ONE, "--require", feature, *how, status=1)
        assert found == {"read/first_block": "fail"}
        assert report["results"][0]["message"].startswith("--require size, but it was skipped: ")
    results(nbdspec, *ONE, "--require", "other", *how, status=3)


def test_export_that_does_not_exist(nbdspec, fake):
    uri = fake("--unix", "s", "--export", "name=one").replace("/one?", "/two?")
    err = nbdspec.broken("server", "-q", *READS, uri)
    assert err == 'nbdspec server: the server has no export "two"; name one with --export\n'
    assert results(nbdspec, *READS, "--export", "one", uri, status=0)[0] == GOOD


def test_strict(nbdspec):
    """A broken SHOULD is a warn, and red under --strict only."""
    how = ["-c", "read/length_zero", "--", *server("{socket}", "close@read")]
    assert results(nbdspec, *how, status=0)[0] == {"read/length_zero": "warn"}
    found, report = results(nbdspec, "--strict", *how, status=1)
    assert found == {"read/length_zero": "warn"} and report["summary"]["red"] == 1


def test_side_by_side(nbdspec):
    """Four workers, each with a server and an image of its own."""
    log = nbdspec.cwd / "log"
    script = f"echo $0 >> {log}; exec \"$@\""
    found, _ = results(nbdspec, "-j", "4", "-c", "read/*", "--", "sh", "-c", script, "{socket}", *server("{socket}"), status=0)
    sockets = log.read_text().split()
    assert len(sockets) == len(set(sockets)) == 4 and found["read/first_block"] == "pass"


def test_case_of_a_launched_server_sees_its_own_image(nbdspec):
    if shutil.which("qemu-nbd") is None:
        pytest.skip("no qemu-nbd")
    found, _ = results(nbdspec, "-j", "2", "-c", "write/stored", "-c", "read/first_block", "--", "qemu-nbd", "-t", "-f", "raw",
                       "-k", "{socket}", "{file}", status=0)
    assert found["read/first_block"] == "pass" and "pass" in {v for k, v in found.items() if k.startswith("write/stored")}


def test_trace(nbdspec):
    nbdspec("server", "-q", *READS, "--trace", "trace", "--", *server("{socket}"), status=0)
    trace = (nbdspec.cwd / "trace").read_bytes()
    assert trace.startswith(b"NBDTRACE") and trace.index(b"read/first_block") < trace.index(b"read/last_byte")


def test_worker_that_gives_up(nbdspec):
    """The others do not hold the run up."""
    done = nbdspec("server", "-q", *READS, "-j", "2", "--time-factor", "0.02", "[", *server("activation", "hang@accept"), "]", status=3)
    assert "sends no greeting" in done.stderr
