"""--pcapng: a capture of every case, as tshark reads it; TLS with its keys."""

import json
import os
import re
import shutil
import stat
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")

SERVE = ["--", NBDSPEC, "serve", "--unix", "{socket}", "--export", "name=,size=1M"]
# Fields of packets, and not the dissector of a protocol that a case breaks.
BROKEN = "tcp.analysis.lost_segment || tcp.analysis.retransmission || tcp.checksum.status == 0 || ip.checksum.status == 0"


@pytest.fixture
def tshark(nbdspec):
    def run(*args):
        done = subprocess.run(["tshark", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-r", nbdspec.cwd / "c", *args],
                              capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=True)
        # It goes on behind what it cannot read, and says so.
        assert not re.search("cut short|appears to be damaged|isn.t a capture", done.stderr), done.stderr
        return done.stdout
    return run


def comments(tshark):
    """What is told of cases, and of their points."""
    told = tshark("-Y", "frame.comment && syslog", "-T", "fields", "-e", "syslog.msg").splitlines()
    return [line[6:] for line in told if line.startswith("case: ")], [line[7:] for line in told if line.startswith("point: ")]


def test_every_case(nbdspec, tshark):
    """Each stands in it once, with what was said on its connections, whole."""
    nbdspec("server", "-q", "-j", "2", "--crowd", "0", "--pcapng", "c", "--json", "j", *SERVE, status=0)
    results = json.loads((nbdspec.cwd / "j").read_text())["results"]
    cases, points = comments(tshark)
    assert len(cases) == len(set(cases)) and set(cases) == {r["case"] for r in results}
    assert {r["point"] for r in results if r["point"] and r["verdict"] == "pass"} <= {p.encode("ascii", "replace").decode() for p in points} | set(points)
    assert tshark("-Y", BROKEN) == ""
    assert len(tshark("-Y", "nbd.type == 0", "-T", "fields", "-e", "nbd.from").split()) > 200


def test_every_case_of_clients(nbdspec, tshark):
    nbdspec("client", "-q", "--pairwise", "--pcapng", "c", "--json", "j", "-c", "[gh]*", "--driver", NBDSPEC, "--", "driver", status=0)
    cases, _ = comments(tshark)
    assert len(cases) > 9 and set(cases) == {r["case"] for r in json.loads((nbdspec.cwd / "j").read_text())["results"]}
    assert tshark("-Y", BROKEN) == ""


@pytest.mark.parametrize("args, least", [
    (["server", "--tls", "-c", "read/*", "--", NBDSPEC, "serve", "--unix", "{socket}", "--tls-certificates", "{certs}", "--tls", "require"], 3),
    (["server", "--explore-sequence", "STARTTLS,GO", "--tls", "--", NBDSPEC, "serve", "--unix", "{socket}", "--tls-certificates", "{certs}"], 1),
    (["client", "--tls", "-c", "tls_client/starttls_[fo]*", "--driver", NBDSPEC, "--", "driver"], 3),
    (["client", "--tls-psk", "-c", "tls_client/starttls_first", "--driver", NBDSPEC, "--", "driver"], 2)])
def test_tls_with_its_keys(nbdspec, tshark, args, least):
    """What went over TLS is there as it went, and decrypted by the keys in the file; nothing of it in clear."""
    nbdspec(args[0], "-q", "--pcapng", "c", *args[1:], status=0)
    decrypted = tshark("-Y", "tls.app_data", "-T", "fields", "-e", "data.data").split()
    greeted = [d for d in decrypted if d.startswith("49484156454f5054")]
    assert len(greeted) >= least, decrypted[:20]
    assert tshark("-Y", BROKEN) == ""
    # NBD_OPT_GO goes over TLS only.
    assert "49484156454f505400000007" not in tshark("-Y", "tcp.payload && !tls.app_data", "-T", "fields", "-e", "tcp.payload")


def test_when_it_was(nbdspec, tshark):
    nbdspec("server", "-q", "--pcapng", "c", "-c", "read/above_maximum_payload", *SERVE)
    first = float(tshark("-c", "1", "-T", "fields", "-e", "frame.time_epoch"))
    assert abs(os.stat(nbdspec.cwd / "c").st_mtime - first) < 60


def test_of_a_trace(nbdspec, tshark):
    """`crash export` makes the same of what --trace has kept."""
    nbdspec("server", "-q", "--pcapng", "c", "--trace", "t", "-c", "read/*", *SERVE, status=0)
    direct = tshark("-T", "fields", "-e", "tcp.payload", "-e", "syslog.msg")
    nbdspec("crash", "export", "--format", "pcapng", "t", "d", status=0)
    os.rename(nbdspec.cwd / "d", nbdspec.cwd / "c")
    assert tshark("-T", "fields", "-e", "tcp.payload", "-e", "syslog.msg") == direct and direct.count("case: ") > 3


def test_nowhere_to_write(nbdspec):
    assert "/nowhere/c: No such file" in nbdspec.broken("server", "-q", "--pcapng", "/nowhere/c", "-c", "read/above_maximum_payload", *SERVE)
    assert "/dev/full: the capture could not be written whole: No space left" in \
        nbdspec.broken("server", "-q", "--pcapng", "/dev/full", "-c", "read/above_maximum_payload", *SERVE)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert "named twice" in nbdspec.usage("server", "--pcapng", "c", "--trace", "c", *SERVE)
