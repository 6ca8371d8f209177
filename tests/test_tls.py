"""TLS: the certificates that nbdspec makes, nbdspec serve with other people's clients over it, and the server suite."""

import json
import os
import re
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT
from test_serve import MIB, image, need, run, serve  # noqa: F401

FLAWS = ["expired", "not-yet-valid", "self-signed", "other-host", "other-ca"]
SERVE = [NBDSPEC, "serve", "--unix", "{socket}", "--tls-certificates", "{certs}"]


@pytest.fixture
def certs(nbdspec):
    """A directory of directories: one for each flaw, and "good"."""
    told = nbdspec("certificates", "certs", status=0).stdout.split()
    assert told == ["certs/" + name for name in ["good", *FLAWS]]
    return nbdspec.cwd / "certs"


def openssl(*argv):
    return subprocess.run([need("openssl"), *map(str, argv)], capture_output=True, text=True, timeout=PATIENCE)


# ---- certificates ----

@pytest.mark.parametrize("party, purpose", [("server", "sslserver"), ("client", "sslclient")])
def test_certificates(certs, party, purpose):
    """What is wrong with each, as another program sees it."""
    authority = certs / "good/ca-cert.pem"
    said = {"good": "OK", "expired": "certificate has expired", "not-yet-valid": "certificate is not yet valid",
            "self-signed": "self-signed certificate", "other-ca": "certificate signature failure|unable to get local issuer",
            "other-host": "hostname mismatch" if party == "server" else "OK"}
    for name, words in said.items():
        host = ["-verify_hostname", "localhost"] if party == "server" else []
        p = openssl("verify", "-CAfile", authority, "-purpose", purpose, *host, certs / name / (party + "-cert.pem"))
        assert re.search(words, p.stdout + p.stderr), name
        assert (certs / name / (party + "-key.pem")).stat().st_mode & 0o777 == 0o600
        assert (certs / name / "ca-cert.pem").read_bytes() == authority.read_bytes()


def test_certificates_badly(nbdspec):
    assert "want a directory" in nbdspec.usage("certificates")
    (nbdspec.cwd / "file").touch()
    assert "file: Not a directory" in nbdspec.broken("certificates", "file")
    if os.geteuid() != 0:
        assert "Permission denied" in nbdspec.broken("certificates", "/proc/certs")


# ---- serve ----

def copies(uri, tmp_path):
    data = os.urandom(3 * MIB + 512)
    (tmp_path / "in").write_bytes(data)
    run(need("nbdcopy"), tmp_path / "in", uri)
    run(need("nbdcopy"), uri, tmp_path / "out")
    assert (tmp_path / "out").read_bytes()[:len(data)] == data


@pytest.mark.parametrize("knobs", [[], ["--knob=replies_shuffled", "--knob=read_fragments"]], ids=["plain", "fragments"])
def test_copies(serve, certs, tmp_path, knobs):
    """More than a record, and more than a socket holds."""
    s = serve("--tls-certificates", certs / "good", "--export", "size=4M", *knobs)
    assert s.uri.startswith("nbds+unix://") and "tls-certificates=" in s.uri
    copies(s.uri, tmp_path)
    assert "with TLS" in run(need("nbdinfo"), "--no-content", s.uri)


def test_keys_shared_before(serve, nbdspec, tmp_path):
    keys = nbdspec.cwd / "keys"
    keys.write_text("alice:0123456789abcdef0123456789abcdef\nbob:fedcba9876543210fedcba9876543210\n")
    s = serve("--tls-psk", keys, "--export", "size=4M")
    for user in ("alice", "bob"):
        copies(s.uri.replace("nbds+unix://", f"nbds+unix://{user}@"), tmp_path)
    nobody = subprocess.run([need("nbdinfo"), s.uri.replace("://", "://carol@")], capture_output=True, timeout=PATIENCE)
    assert nobody.returncode != 0


def info(uri):
    return subprocess.run([need("nbdinfo"), "--size", uri], capture_output=True, text=True, timeout=PATIENCE)


def test_modes(serve, certs):
    """Who comes in clear is told what it takes; who may come in either way is served."""
    for mode, in_clear in (("require", False), ("on", True)):
        s = serve("--tls", mode, "--tls-certificates", certs / "good")
        clear = re.sub("&tls-certificates=[^&]*", "", s.uri.replace("nbds+", "nbd+"))
        assert info(s.uri).returncode == 0
        assert (info(clear).returncode == 0) == in_clear


def test_export_for_tls_only(serve, certs):
    s = serve("--tls", "on", "--tls-certificates", certs / "good", "--export", "name=open", "--export", "name=closed,tls-only")
    closed = s.uri.replace("/open", "/closed")
    assert info(closed).returncode == 0
    p = info(re.sub("&tls-certificates=[^&]*", "", closed.replace("nbds+", "nbd+")))
    assert p.returncode != 0 and "TLS" in p.stderr


@pytest.mark.parametrize("flaw", [f for f in FLAWS if f != "other-host"])
def test_clients_turned_away(serve, certs, flaw):
    s = serve("--tls-certificates", certs / "good", "--tls-verify-peer")
    assert info(s.uri.replace("certs/good", "certs/" + flaw)).returncode != 0
    assert info(s.uri).returncode == 0


@pytest.mark.parametrize("flags, said", [
    (["--tls", "sometimes"], "want off, on or require"), (["--tls", "on"], "want --tls-certificates, or --tls-psk"),
    (["--tls-certificates", "a", "--tls-psk", "b"], "want one of"), (["--tls-psk", "b", "--tls-verify-peer"], "goes with"),
    (["--tls-certificates", "a", "--oldstyle"], "does not go with TLS"), (["--export", "name=a,tls-only"], "want --tls on"),
    (["--tls-certificates", "a", "--tls-priority", "NONSENSE"], "GnuTLS does not understand it"),
])
def test_wrong_words(nbdspec, flags, said):
    assert said in nbdspec.usage("serve", "--unix", "s", *flags)


def test_nothing_there(nbdspec):
    (nbdspec.cwd / "empty").mkdir()
    assert "there is no ca-cert.pem" in nbdspec.broken("serve", "--unix", "s", "--tls-certificates", "empty")
    assert "No such file" in nbdspec.broken("server", "nbds+unix:///?socket=s&tls-psk-file=nowhere")
    (nbdspec.cwd / "keys").write_text("alice:00\n")
    assert "no key of bob" in nbdspec.broken("server", "nbds+unix://bob@/?socket=s&tls-psk-file=keys")
    assert "names neither {certs} nor {psk}" in nbdspec.usage("server", "--tls", "--", "x", "{socket}")


# ---- the suite ----

def verdicts(nbdspec, *args, status=0):
    nbdspec("server", "-q", "--json", "json", *args, status=status)
    results = json.loads((nbdspec.cwd / "json").read_text())["results"]
    return {r["case"] + (f"[{r['point']}]" if r.get("point") else ""): r["verdict"] for r in results}


def test_all_over_tls(nbdspec):
    """Every case that is not about clear text, as over a plain connection."""
    plain = verdicts(nbdspec, "-j2", "--destructive", "--", NBDSPEC, "serve", "--unix", "{socket}")
    tls = verdicts(nbdspec, "-j2", "--tls", "--destructive", "--", *SERVE)
    assert set(tls.values()) <= {"pass", "info", "skip"}
    skipped = {c for c, v in tls.items() if v == "skip" and plain.get(c) not in ("skip", None)}
    assert all(re.match(r"(abort|client_flags|export_name|flags|greeting|go|option|shutdown)/", c) for c in skipped)
    assert sum(v == "pass" for v in tls.values()) > 1000


@pytest.mark.parametrize("flags, not_skipped", [
    ([], ["forced_for_options[NBD_OPT_GO (7)]", "nothing_injected[NBD_OPT_LIST (3)]", "disc_shuts_it_down", "versions[1.2]"]),
    (["--tls-verify-peer"], [f"client_certificates[{f}]" for f in FLAWS if f != "other-host"]),
])
def test_cases_of_tls(nbdspec, flags, not_skipped):
    seen = verdicts(nbdspec, "--strict", "--tls", "-c", "tls/*", "--", *SERVE, *flags)
    assert set(seen.values()) <= {"pass", "skip"}
    assert all(seen["tls/" + c] == "pass" for c in not_skipped)


def test_cases_of_selective_tls(nbdspec):
    seen = verdicts(nbdspec, "--strict", "-c", "tls/*", "--", *SERVE, "--tls", "on", "--export", "name=", "--export",
                    "name=secret,tls-only")
    assert set(seen.values()) <= {"pass", "skip"}
    for case in ("selective_for_exports", "structured_replies_are_forgotten", "contexts_are_forgotten"):
        assert seen["tls/" + case] == "pass"


@pytest.mark.parametrize("lie, case", [("tls_acts_on_injected", "nothing_injected[NBD_OPT_LIST (3)]"),
                                       ("tls_ends_abruptly", "disc_shuts_it_down")])
def test_a_lie(nbdspec, lie, case):
    assert verdicts(nbdspec, "--tls", "-c", "tls/*", "--", *SERVE, "--lie", lie, status=1)["tls/" + case] == "fail"


def test_uri(serve, certs, fake, nbdspec):
    """A server at a URI: over TLS throughout; its certificate counts where a name was given."""
    s = serve("--tls-certificates", certs / "good")
    assert set(verdicts(nbdspec, "-c", "go/*", s.uri).values()) <= {"pass", "info", "skip"}
    uri = fake("--tcp", "0", "--tls-certificates", certs / "expired").replace("certs/expired", "certs/good")
    assert "verdict: fail" in nbdspec("server", "-c", "tls/serves", uri, status=1).stdout
    nbdspec("server", "-c", "tls/serves", uri + "&tls-verify-peer=false", status=0)


@pytest.mark.parametrize("flags", [["--explore", "1", "--unchecked"], ["--mutate", "10"]])
def test_what_goes_in_clear_says_so(nbdspec, flags):
    for target in ["--tls", "--", *SERVE], ["nbds+unix:///?socket=s"]:
        assert f"{flags[-1] if len(flags) > 2 else flags[0]} goes in clear: leave out --tls, or say nbd://" in nbdspec.usage("server", *flags, *target)


def test_in_clear_by_mistake(nbdspec):
    done = nbdspec("server", "-c", "read/*", "--", *SERVE)
    assert "--tls" in done.stdout + done.stderr
