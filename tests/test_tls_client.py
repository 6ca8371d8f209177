"""TLS of clients under test: nbdspec client --tls, with a driver and with commands, and the fake client by hand."""

import json
import os
import re
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT
from test_serve import need
from test_tls import FLAWS, certs  # noqa: F401

LIBNBD = os.path.join(ROOT, "build/drivers/libnbd")
COPY = [NBDSPEC, "driver", "--copy", "{uri}", "{out}"]
QEMU = ["qemu-img", "convert", "--object", "tls-creds-x509,id=tls0,endpoint=client,dir={certs}", "--image-opts", "-O", "raw",
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={socket},file.tls-creds=tls0,file.tls-hostname=localhost", "{out}"]
# libnbd closes what has died without close_notify, and like all with GnuTLS's defaults it takes old versions.
OPENLY = {"tls_client/hard_disconnect_shuts_it_down", "tls_client/versions", "tls_command/versions"}


def results(nbdspec):
    return json.loads((nbdspec.cwd / "json").read_text())["results"]


def red(nbdspec):
    return {r["case"] for r in results(nbdspec) if r["verdict"] in ("warn", "fail", "error")}


def suite(nbdspec, *argv, status=0):
    nbdspec("client", "-q", "--json", "json", *argv, status=status)
    return results(nbdspec)


# ---- the honest client ----

@pytest.mark.parametrize("option", ["--tls", "--tls-psk"])
def test_driver(nbdspec, option):
    """Every case of TLS, and others, whose sessions are all over it."""
    found = suite(nbdspec, option, "-c", "tls_client/*", "-c", "session/*", "-c", "haggling/*", "--driver", NBDSPEC, "driver")
    assert red(nbdspec) == set() and len({r["case"] for r in found if r["case"].startswith("tls_client/")}) >= 16
    skipped = {r["case"] for r in found if r["verdict"] == "skip"}
    assert "tls_client/certificates" in skipped if option == "--tls-psk" else not skipped & {r["case"] for r in found if "tls_client/" in r["case"]}


def test_all_over_tls(nbdspec):
    """Each session begins with STARTTLS, and has all else of option haggling behind it."""
    suite(nbdspec, "--tls", "-c", "session/*", "-c", "wire/disconnect", "--trace", "trace", "--driver", NBDSPEC, "driver")
    trace = (nbdspec.cwd / "trace").read_bytes()
    options = [trace[m.end() + 3] for m in re.finditer(b"IHAVEOPT", trace) if trace[m.end():m.end() + 3] == bytes(3)]
    assert options[0::3] == [5, 5, 5] and options[2::3] == [7, 7, 7] and trace.count(b"TLS is up") == 3


@pytest.mark.parametrize("command", [COPY, ["nbdinfo", "--no-content", "{uri}"], ["nbdcopy", "{uri}", "{out}"], QEMU])
def test_command(nbdspec, command):
    need(command[0])
    found = suite(nbdspec, "--tls", "-c", "tls_command/*", "-c", "plain/honest", "--", *command)
    assert red(nbdspec) - OPENLY == set()
    passed = {r["case"] for r in found if r["verdict"] == "pass"}
    assert passed >= {"tls_command/" + name for name in ("modes", "starttls_refused", "no_fixed_newstyle", "handshake_fails",
                                                         "certificates", "nothing_injected")}
    certificates = [r["verdict"] for r in found if r["case"] == "tls_command/certificates"]
    assert certificates == ["pass"] * len(FLAWS)


def test_exploration(nbdspec):
    """All sequences of one reply, as in clear."""
    counts = set()
    for options in ([], ["--tls"]):
        suite(nbdspec, *options, "--explore", "1", "--driver", NBDSPEC, "driver")
        told = [r["message"] for r in results(nbdspec) if "sequences of replies" in r["message"]]
        counts.add(re.match(r"(\d+) sequences.*; 0 of them deviate", told[0])[1])
    assert len(counts) == 1


def test_libnbd(nbdspec):
    suite(nbdspec, "--tls", "-c", "tls_client/*", "--driver", LIBNBD)
    assert red(nbdspec) <= OPENLY


# ---- others ----

LIES = {
    "takes_any_certificate": ("tls_command/certificates", "tls_client_handshake_failure", set(FLAWS)),
    "takes_any_host": ("tls_command/certificates", "tls_client_handshake_failure", {"other-host"}),
    "acts_on_injected_replies": ("tls_client/nothing_injected", "tls_client_takes_only_tls", None),
    "goes_on_where_tls_is_refused": ("tls_client/starttls_refused", "client_tls_endpoint_enforced", None),
    "goes_on_without_handshake": ("tls_client/handshake_fails", "tls_client_sends_only_tls", None),
    "remembers_that_there_was_no_tls": ("tls_client/prior_session", "client_forgets_prior_session", None),
    "ends_tls_abruptly": ("tls_client/abort_shuts_it_down", "client_abort_shuts_tls", None),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(nbdspec, lie):
    """Each is found by its case, for its requirement, at the points where it shows."""
    case, requirement, points = LIES[lie]
    if case.startswith("tls_client/"):
        client = ["--driver", NBDSPEC, "--", "driver", "--lie", lie]
    else:
        client = ["--", NBDSPEC, "driver", "--lie", lie, "--copy", "{uri}", "{out}"]
    nbdspec("client", "-q", "--strict", "--json", "json", "--tls", "-c", case, *client, status=1)
    found = [r for r in results(nbdspec) if r["verdict"] in ("warn", "fail")]
    assert found and all(requirement in (r["requirement"], *r.get("also", [])) for r in found)
    assert points is None or {r["point"] for r in found} == points


def test_no_tls_is_no_fault(nbdspec):
    """A client that cannot is skipped, with what it said; one that is not asked to is told how."""
    for argv in (["--", "qemu-img", "bench", "-f", "raw", "-c", "1", "{uri}"], ["--driver", os.path.join(ROOT, "ci/drivers/minimal.py")]):
        nbdspec("client", "-q", "--json", "json", "--tls", "-c", "tls*/*", *argv)
        told = [r for r in results(nbdspec) if "in_clear" not in r["case"]]
        assert told and all(r["verdict"] == "skip" and "does not connect" in r["message"] for r in told)
    nbdspec("client", "-q", "--json", "json", "-c", "tls_client/*", "--driver", NBDSPEC, "driver", status=0)
    assert {r["message"] for r in results(nbdspec) if r["verdict"] == "skip"} == {"it is tested with --tls"}


def test_usage(nbdspec):
    assert "none of {uri}, {certs} and {psk}" in nbdspec.usage("client", "--tls", "--", "true", "{socket}")
    assert "want one of {certs} and {psk}" in nbdspec.usage("client", "--", "true", "{uri}", "{certs}", "{psk}")
    assert "want one of {certs} and {psk}" in nbdspec.usage("client", "--tls-psk", "--", "true", "{uri}", "{certs}")


def test_credentials(nbdspec):
    """What a command finds behind the placeholders; nothing of it is left."""
    script = "ls $1 >&2; cat $2 >&2; echo $3 >&2; exit 1"
    nbdspec("client", "-q", "--json", "json", "-c", "plain/honest", "--", "sh", "-c", script, "sh", "{certs}", "-", "{uri}", status=1)
    got = results(nbdspec)[0]["got"]
    assert "-cert.pem" in got or "nbd+unix" in got
    nbdspec("client", "-q", "--json", "json", "-c", "plain/honest", "--tls-psk", "--", "sh", "-c", "echo $1 >&2; cat $2 >&2; exit 1",
            "sh", "{uri}", "{psk}", status=1)
    got = results(nbdspec)[0]["got"]
    uri, keys = re.search(r"(nbds\+unix://nbdspec@/\S*tls-psk-file=\S+?)\\x0a(nbdspec:[0-9a-f]{64})", got).groups()
    assert not os.path.exists(uri.split("tls-psk-file=")[1]) and keys


# ---- the fake client ----

def test_fake_client(nbdspec, certs):
    """Over TLS it copies what is there; a certificate that is not good it leaves, and says why."""
    copy = "nbdspec serve --export size=1M --tls-certificates certs/{} --run".format
    for name in ["good", *FLAWS]:
        uri = "nbds+unix:///?socket=$unixsocket&tls-certificates=certs/good&tls-hostname=localhost"
        p = nbdspec(*copy(name).split()[1:], f"{NBDSPEC} driver --copy '{uri}' out".replace("$unixsocket", "'$unixsocket'"))
        assert (p.returncode == 0) == (name == "good"), p.stderr
        assert ("the TLS handshake has failed" in p.stderr) == (name != "good")
