"""nbdspec client: what it finds in a client's command, and that no process or file is left behind."""

import json
import os
import shutil
import signal
import time

import pytest

from conftest import PATIENCE, ROOT, until

COPY = ["nbdcopy", "{uri}", "{out}"]
HONEST = ("-c", "plain/honest")


def results(nbdspec):
    return json.loads((nbdspec.cwd / "json").read_text())["results"]


@pytest.mark.parametrize("command", [COPY, ["nbdcopy", "--flush", "{in}", "{uri}"], ["nbdinfo", "--no-content", "{uri}"],
                                     ["qemu-img", "convert", "-f", "raw", "-O", "raw", "{uri}", "{out}"]])
def test_good(nbdspec, command):
    nbdspec("client", *HONEST, "-c", "plain/freedoms", "--", *command, status=0)


BAD = {
    "exit status 1": "nbdcopy \"$1\" \"$2\"; exit 1",
    "its copy is not whole": ":",
    "its copy is not whole: it is short": "nbdcopy \"$1\" \"$2\"; truncate -s 1000 \"$2\"",
    "the export holds": "nbdcopy \"$1\" \"$2\"; printf x | dd of=\"$2\" bs=1 seek=70000 conv=notrunc status=none",
    "killed by signal 11 (Segmentation fault)": "nbdcopy \"$1\" \"$2\"; kill -SEGV $$",
}


@pytest.mark.parametrize("what", BAD)
def test_bad(nbdspec, what):
    nbdspec("client", "-q", *HONEST, "--json", "json", "--", "sh", "-c", BAD[what], "sh", "{uri}", "{out}", status=1)
    r = results(nbdspec)[0]
    assert r["verdict"] == "fail" and what in f"{r['message']} {r['got']}"


def test_sigpipe_gives_up(nbdspec):
    nbdspec("client", "-q", "-c", "plain/freedoms", "--json", "json", "--", "sh", "-c", "kill -PIPE $$", "sh", "{uri}", status=0)
    assert all(r["verdict"] == "info" and "signal 13" in r["message"] for r in results(nbdspec))


def test_hides_errors(nbdspec):
    """Whoever says that all is well where READs failed has no copy to show; FLUSH is not to be done without."""
    good = ["--", "sh", "-c", "nbdcopy \"$1\" \"$2\" || { truncate -s 1M \"$2\"; true; }", "sh", "{uri}", "{out}"]
    nbdspec("client", "-q", "-c", "plain/errors", "--json", "json", *good, status=1)
    failed = {r["point"] for r in results(nbdspec) if r["verdict"] == "fail"}
    assert {f"{n} of READ, {s} replies" for n in ("the first", "each") for s in ("structured", "simple")} <= failed
    nbdspec("client", "-q", "-c", "plain/errors", "--json", "json", "--", "sh", "-c",
            "nbdcopy --flush \"$1\" \"$2\" || true", "sh", "{in}", "{uri}", status=1)
    failed = {r["point"] for r in results(nbdspec) if r["verdict"] == "fail"}
    assert {f"{n} of FLUSH, {s} replies" for n in ("the first", "each") for s in ("structured", "simple")} <= failed


def test_hangs(nbdspec):
    nbdspec("client", "-q", *HONEST, "--time-factor", "0.05", "--json", "json", "--", "sh", "-c", "sleep 1000; : {uri}",
            status=1)
    r = results(nbdspec)[0]
    assert r["got"].startswith("the client did not end")


def test_waits_for_a_liar(nbdspec):
    """A client that is kept waiting is not blamed; one that goes round in circles is."""
    only = ["-q", "-c", "lies/survived", "--pairwise", "--time-factor", "0.03", "--json", "json", "--"]
    nbdspec("client", *only, "sh", "-c", "nbdcopy \"$1\" null: || sleep 1000", "sh", "{uri}", status=0)
    assert any("waits for the server" in (r["message"] or "") for r in results(nbdspec) if r["verdict"] == "pass")
    nbdspec("client", *only, "sh", "-c", "nbdcopy \"$1\" null: || while :; do :; done", "sh", "{uri}", status=1)
    assert {r["verdict"] for r in results(nbdspec)} >= {"pass", "fail"}


# The first time it leaves well; then, once a READ has succeeded, it does not.
READS = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import minimal
client = minimal.Client()
client.connect(sys.argv[2])
client.command(minimal.READ, 0, 4096, 4096)
if not os.path.exists("was here"):
    open("was here", "w").close()
    client.close(True)
    sys.exit()
open("has read", "w").close()
"""
SPINS = READS + "while True: pass"
SPINS_IN_A_CHILD = READS + "if os.fork(): os.wait()\nwhile True: pass"
# In four connections that bear it, for each takes all the time that there is.
STEPS = READS + """
open("steps", "a").close()
if os.stat("steps").st_size == 4:
    client.close(True)
    sys.exit()
for n in range(8192, 100000):
    client.command(minimal.READ, 0, n, 1)
    time.sleep(0.005)
    if n == 8200:
        with open("steps", "a") as f:
            f.write("x")
"""


def reads(nbdspec, client, status, factor):
    nbdspec("client", "-c", "lies/survived", "--pairwise", "--time-factor", factor, "--json", "json", "--",
            "/usr/bin/python3", "-c", client, os.path.join(ROOT, "ci/drivers"), "{uri}", status=status)
    assert (nbdspec.cwd / "has read").exists()
    return results(nbdspec)


@pytest.mark.parametrize("client", [SPINS, SPINS_IN_A_CHILD], ids=["itself", "a-child"])
def test_spins_behind_a_success(nbdspec, client):
    """That it once went forward does not excuse a client that runs on without end; three such points are enough."""
    told = reads(nbdspec, client, 1, 0.1)
    assert [r["point"] for r in told if r["verdict"] == "skip"] == ["the other lies"]
    failed = [r for r in told if r["verdict"] == "fail"]
    assert len(failed) == 3 and all(r["got"].startswith("the client did not end") for r in failed)


def test_small_steps(nbdspec):
    """Whoever still goes forward when its time is up is excused; and it counts as no hang, so that all the lies are told."""
    told = reads(nbdspec, STEPS, 0, 0.5)
    steps = [r for r in told if r["verdict"] == "pass" and "in small steps" in (r["message"] or "")]
    assert len(steps) > 3 and "the other lies" not in [r["point"] for r in told]


@pytest.mark.parametrize("arguments, text", [
    ([], "want -- and the client's command"),
    (["nbd://localhost", "--", *COPY], "want -- and the client's command"),
    (["--", "nbdinfo", "nbd://localhost"], "names neither {uri} nor {socket}"),
    (["--", ""], "the client's command is empty"),
    (["-c", "plain/nothing", "--", *COPY], "no case matches"),
    (["--size", "much", "--", *COPY], "want a size"),
])
def test_usage(nbdspec, arguments, text):
    done = nbdspec("client", *arguments, status=2)
    assert text in done.stderr and len(done.stderr.splitlines()) == 1


def test_no_such_program(nbdspec):
    done = nbdspec("client", *HONEST, "--", "/nowhere/client", "{uri}", status=3)
    assert "/nowhere/client: No such file or directory" in done.stderr


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended(nbdspec, which):
    p = nbdspec.start("client", "--", "sh", "-c", "sleep 1000; : {uri}")
    time.sleep(0.3)
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    until(lambda: not nbdspec.leftovers())


def test_rules(nbdspec):
    """The referee sees what is on the wire: fio leaves without NBD_CMD_DISC."""
    if not shutil.which("fio"):
        pytest.skip("fio is not installed")
    nbdspec("client", "-q", *HONEST, "--json", "json", "--", "fio", "--name=x", "--ioengine=nbd", "--uri={uri}", "--rw=read",
            "--size=64k", status=1)
    r = results(nbdspec)[0]
    assert r["requirement"] == "client_transmission_no_disconnect" and "without NBD_CMD_DISC" in r["message"]
