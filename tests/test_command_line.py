"""What people type: every option of every command, right and wrong; and where the output goes."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys

import pytest

from conftest import NBDSPEC, server

COMMANDS = ("server", "list", "explain", "requirements", "mutants", "serve", "referee", "diff", "merge")
ONE_CASE = ("--case", "read/first_block")
HONEST = ("--", *server("{socket}"))
X150 = "x" * 150

# The command line, and what its one line must name: the argument, and what is allowed.
WRONG = [
    # Commands.
    (["bogus"], ["'bogus'", "--help"]),
    ([""], ["''", "--help"]),
    (["--bogus"], ["'--bogus'"]),
    (["help", "bogus"], ["'bogus'"]),
    # Options.
    (["server", "--bogus"], ["--bogus", "nbdspec server --help"]),
    (["server", "-Z"], ["-Z"]),
    (["server", "-qZ", "nbd://x"], ["-Z"]),
    (["server", "--t", "1"], ["--t ", "--target", "--tap", "--time-factor", "--text"]),
    (["server", "--strict=1", "nbd://x"], ["--strict", "no argument"]),
    (["server", "--help=1"], ["--help", "no argument"]),
    (["server", "--jobs"], ["--jobs", "argument", "N"]),
    (["server", "-j"], ["--jobs", "argument", "N"]),
    (["server", "--strict", "--strict", "nbd://x"], ["--strict", "twice"]),
    (["server", "-j", "1", "--jobs=2", "nbd://x"], ["--jobs", "twice"]),
    (["requirements", "--binds", "server", "--binds", "client"], ["--binds", "twice"]),
    # Numbers.
    *[(["server", "--jobs", n, *HONEST], ["--jobs", f"'{n}'", "1 to 64"])
      for n in ("0", "65", "-1", "1x", " 1", "+1", "x", "0x", "1.0", "99999999999999999999")],
    (["server", "--jobs=", *HONEST], ["--jobs", "''"]),
    *[(["server", "--time-factor", x, *HONEST], ["--time-factor", f"'{x}'", "0.01 to 1000"])
      for x in ("0", "nan", "inf", "-1", "1001", "1e999", "x", "1x", " 1")],
    *[(["server", "--size", s, *HONEST], ["--size", f"'{s}'", "64M"])
      for s in ("-1", "+1", " 1", "x", "1.5G", "64Q", "8E", "99999999999999999999", "1MM")],
    (["mutants", "-j", "0"], ["--jobs", "1 to 64"]),
    # Empty strings.
    *[(["server", "--" + option, "", *HONEST], ["--" + option, "''"])
      for option in ("case", "jobs", "require", "size", "via", "prepare", "target", "time-factor", "expect",
                     "write-expect", "trace", "tap", "junit", "json", "text", "markdown", "github", "gitlab", "baseline", "shard")],
    # What to test.
    (["server"], ["URI", "--"]),
    (["server", "nbd://a", "nbd://b"], ["'nbd://b'", "one URI"]),
    (["server", "nbd://a", "--", "true"], ["'nbd://a'", "not both"]),
    (["server", "nbd://a", "[", "true", "]"], ["'nbd://a'", "not both"]),
    (["server", "--"], ["'--'", "command"]),
    (["server", "--", ""], ["command is empty"]),
    (["server", "["], ["'['", "']'"]),
    (["server", "[", "]"], ["'[ ]'", "command"]),
    (["server", "[", "true"], ["'['", "']'"]),
    (["server", "[", "true", "]", "x"], ["'x'", "']'"]),
    (["server", "[", "", "]"], ["command is empty"]),
    (["server", "true", "]"], ["']'", "one URI"]),
    (["server", "--", "true"], ["{socket}", "{port}", "--via"]),
    # URIs.
    (["server", ""], ["nbd://HOST", "nbd+unix:///"]),
    (["server", "localhost"], ["localhost", "nbd://HOST"]),
    (["server", "localhost:10809"], ["localhost", "nbd, nbds, nbd+unix"]),
    (["server", "/run/nbd.sock"], ["/run/nbd.sock", "nbd+unix:///EXPORT?socket=PATH"]),
    (["server", "http://x"], ["http", "nbd, nbds, nbd+unix"]),
    (["server", "nbd://[::1"], ["[::1"]),
    (["server", "nbd://h:x/"], ["h:x", "port"]),
    (["server", "nbd+unix:///"], ["socket=PATH"]),
    (["server", "--tls", "nbd://x"], ["nbds://", "tls-certificates"]),
    (["server", "nbd+vsock://2"], ["nbd+vsock://2", "nbd+unix://"]),
    (["server", f"nbd+unix:///?socket=/{X150}"], [X150, "107 bytes"]),
    (["server", "--export", "x" * 5000, *HONEST], ["--export", "5000", "4096"]),
    # What goes with a command only.
    (["server", "--jobs", "2", "nbd://x"], ["--jobs", "not with a URI"]),
    (["server", "--size", "1M", "nbd://x"], ["--size", "not with a URI"]),
    (["server", "--via", "tcp", "nbd://x"], ["--via", "not with a URI"]),
    (["server", "--prepare", "true", "nbd://x"], ["--prepare", "not with a URI"]),
    (["server", "--fresh", "nbd://x"], ["--fresh", "not with a URI"]),
    (["server", "--daemon", "nbd://x"], ["--daemon", "not with a URI"]),
    # Ways to reach it.
    (["server", "--via", "bogus", "--", "true"], ["--via", "unix, tcp, stdio, activation"]),
    (["server", "--via", "unix", "--", "true"], ["--via unix", "{socket}"]),
    (["server", "--via", "tcp", "--", "true", "{socket}"], ["--via tcp", "{port}"]),
    (["server", "--via", "unix", "[", "true", "]"], ["activation"]),
    (["server", "--via", "stdio", "--daemon", "--", "true"], ["--daemon", "stdio"]),
    (["server", "--size", "1M", "--", "true", "{socket}"], ["--size", "{file}", "{size}"]),
    # Cases.
    (["server", "--case", "nope", *HONEST], ["--case 'nope'", "nbdspec list"]),
    (["server", *ONE_CASE, "--case", "n*pe", *HONEST], ["--case 'n*pe'", "nbdspec list"]),
    (["server", "--list", "--case", "nope"], ["--case 'nope'"]),
    (["list", "nope"], ["'nope'", "nbdspec list"]),
    (["list", "read/*", "nope"], ["'nope'"]),
    (["list", ""], ["''"]),
    (["list", "--", "nope"], ["'nope'"]),
    (["list", "[", "nope", "]"], ["'['"]),
    (["explain"], ["case", "option/unknown_is_refused"]),
    (["explain", "nope"], ["'nope'", "nbdspec list", "nbdspec requirements"]),
    (["explain", "READ/first_block"], ["'READ/first_block'"]),
    (["explain", "none"], ["'none'"]),
    (["requirements", "read_*", "nope"], ["no requirement 'nope'"]),
    (["requirements", "--binds", "both"], ["--binds", "server or client"]),
    (["mutants", "x"], ["'x'"]),
    # Files.
    (["server", "--json", "same", "--junit", "same", *HONEST], ["same", "twice"]),
    (["server", "--tap", "-", "--text", "-", *HONEST], ["-", "twice"]),
    (["server", "--json", "same", "--trace", "same", *HONEST], ["same", "twice"]),
    (["server", "--write-expect", "same", "--text", "same", *HONEST], ["same", "twice"]),
    (["server", "--expect", "/nonexistent/x", *HONEST], ["--expect /nonexistent/x", "No such file"]),
    (["server", "--expect", "/", *HONEST], ["--expect /", "directory"]),
    (["server", *["--json=/dev/null"] * 16, *HONEST], ["15"]),
    (["server", *["--require=x"] * 33, *HONEST], ["32", "--require"]),
]


@pytest.mark.parametrize("args, words", WRONG, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else None)
def test_wrong_command_line(nbdspec, args, words):
    """One line that names the argument and says what is allowed, status 2, and nothing was run or written."""
    if args[:1] and args[0] in COMMANDS:
        line = nbdspec.usage(*args)
    else:
        done = nbdspec(*args, status=2)
        line = done.stderr
        assert done.stdout == "" and line.count("\n") == 1 and line.startswith("nbdspec: ")
    assert [w for w in words if w not in line] == []
    assert os.listdir(nbdspec.cwd) == ["tmp"]


def test_explain_says_which_is_unknown(nbdspec):
    done = nbdspec("explain", "read/first_block", "nope", status=2)
    assert "'nope'" in done.stderr


def test_without_a_command(nbdspec):
    done = nbdspec(status=2)
    assert done.stdout == "" and all(f"  {c} " in done.stderr for c in COMMANDS)


def test_help(nbdspec):
    general = nbdspec("--help", status=0).stdout
    assert general == nbdspec("-h", status=0).stdout == nbdspec("help", status=0).stdout
    for command in COMMANDS:
        text = nbdspec(command, "--help", status=0).stdout
        assert text == nbdspec(command, "-h", status=0).stdout == nbdspec("help", command, status=0).stdout
        assert text.startswith(f"usage: nbdspec {command} ") and "--help" in text and f"  {command} " in general
        assert max(map(len, text.splitlines())) <= 120


def test_help_comes_before_what_is_wrong_behind_it(nbdspec):
    assert nbdspec("server", "--help", "--bogus", status=0).stderr == ""


def test_version(nbdspec):
    """With the commits of both texts; the reports have the same ones."""
    text = nbdspec("--version", status=0).stdout
    m = re.fullmatch(r"nbdspec (\S+)\nprotocol text +([0-9a-f]{40}) \(.*\)\nextended headers +([0-9a-f]{40}) \(.*\)\n", text)
    nbdspec("server", "-q", "-c", "greeting/*", "--json", "r.json", "--", NBDSPEC, "serve", "--unix", "{socket}", status=0)
    report = json.loads((nbdspec.cwd / "r.json").read_text())
    assert m and (report["nbdspec"], report["protocol"]) == (m[1], {"text": m[2], "extension": m[3]})


def test_every_option_of_the_reports_is_there(nbdspec):
    text = nbdspec("server", "--help", status=0).stdout
    assert all(f"--{w} FILE" in text for w in ("tap", "junit", "json", "text"))


def test_abbreviations_and_order(nbdspec, running):
    """As getopt_long has it: unambiguous beginnings, = or not, options behind the URI, short ones in a cluster."""
    uri = running()
    for args in (["--stri", "--targ=me", "-q", "--case=read/first_block", uri], [uri, "-qc", "read/first_block", "--strict"],
                 [uri, "--case", "read/first_block", "--json", "-", "-q"]):
        nbdspec("server", *args, status=0)


def test_a_bracket_as_an_argument_is_no_command(nbdspec, running):
    done = nbdspec("server", "--json", "-", "--target", "[", *ONE_CASE, running(), status=0)
    assert json.loads(done.stdout)["target"] == "["
    done = nbdspec("server", "--json", "-", *ONE_CASE, running(), "--target", "--", status=0)
    assert json.loads(done.stdout)["target"] == "--"


def test_list(nbdspec):
    everything = nbdspec("list", status=0).stdout.splitlines()
    ids = [line.split()[0] for line in everything]
    assert ids == sorted(set(ids)) and "read/first_block" in ids
    reads = [i for i in ids if i.startswith("read/")]
    assert [line.split()[0] for line in nbdspec("list", "read/*", status=0).stdout.splitlines()] == reads
    server, explore, mutate, explore_client, durability, client, driver = (nbdspec(*suite, "--list", status=0).stdout.split() for suite in (
        ["server"], ["server", "--explore", "1"], ["server", "--mutate", "1"], ["client", "--explore", "1"], ["durability"], ["client"], ["client", "--driver", "x"]))
    assert sorted(server + explore + mutate + explore_client + durability + client + driver) == ids
    assert sorted(explore + mutate + explore_client) == [i for i in ids if i.startswith("explore/")] and explore_client == ["explore/chunks", "explore/replies"]
    assert "promise/flush" in durability and "plain/honest" in client
    assert nbdspec("server", "--list", "-c", "read/*", status=0).stdout.split() == reads


def test_explain(nbdspec):
    text = nbdspec("explain", "read/first_block", status=0).stdout
    assert "read/first_block\n" in text and "cases/server/read.c:" in text and "proto.md:" in text
    one = nbdspec("explain", "unknown_option_unsup", status=0).stdout
    assert one.startswith("  unknown_option_unsup\n    MUST (proto.md:2420-2421, binds the server): ")
    assert nbdspec("explain", "read/first_block", "unknown_option_unsup", status=0).stdout == text + one
    assert nbdspec("explain", "unknown_option_*", status=0).stdout == one
    many = nbdspec("explain", "read/*", status=0).stdout
    assert text in many + "\n" and many.count("\nholds the server to:\n") == nbdspec("list", "read/*").stdout.count("\n")


@pytest.mark.parametrize("args", [["list"], ["explain", "read/first_block"], ["requirements"], ["--help"], ["--version"],
                                  ["server", "--help"], ["server", "--list"]], ids=" ".join)
def test_standard_output_that_cannot_be_written(nbdspec, args):
    with open("/dev/full", "w", encoding="ascii") as full:
        assert nbdspec(*args, stdout=full, status=3).stderr == "nbdspec: standard output: No space left on device\n"
    closed = nbdspec("-c", f'"$0" {" ".join(args)} >&-', NBDSPEC, executable="/bin/sh", status=3)
    assert closed.stderr == "nbdspec: standard output: Bad file descriptor\n"


def test_closed_descriptors_do_not_become_files(nbdspec, running):
    """With descriptor 1 closed the next file to be opened would take its place, and the report land in it."""
    sh = f'"$0" server --trace trace --json json -c read/first_block "{running()}"'
    for closing in (">&-", "<&- >&- 2>&-", "<&-"):
        done = nbdspec("-c", f"{sh} {closing}", NBDSPEC, executable="/bin/sh", status=0 if closing == "<&-" else 3)
        assert json.loads((nbdspec.cwd / "json").read_text())["summary"]["pass"] == 1
        trace = (nbdspec.cwd / "trace").read_bytes()
        assert trace.startswith(b"NBDTRACE") and b"TAP version" not in trace
        assert closing != ">&-" or "standard output" in done.stderr


def test_reader_that_goes_away(nbdspec, running):
    """Status 3, once it is known; the other reports are whole."""
    r, w = os.pipe()
    os.close(r)
    err = nbdspec.broken("server", *ONE_CASE, "--json", "json", running(), stdout=w)
    os.close(w)
    assert err == "nbdspec server: standard output: the report could not be written whole: Broken pipe\n"
    assert json.loads((nbdspec.cwd / "json").read_text())["summary"]["pass"] == 1
    # A listing just ends, as every filter does.
    script = f"'{NBDSPEC}' requirements | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert done.returncode in (0, 141) and done.stderr == b""


def on_terminal(nbdspec, *args):
    """What a person sees; colours and the line of progress aside."""
    ours, theirs = pty.openpty()
    nbdspec.start(*args, stdout=theirs, stderr=theirs).wait(30)
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 0)[0]:
        try:
            seen += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*[mK]|\r", "", seen.decode())


def test_terminal(nbdspec, running):
    """Why it failed is said once there, unless it takes more than a line; no TAP."""
    assert "1 pass in " in on_terminal(nbdspec, "server", *ONE_CASE, running())
    seen = on_terminal(nbdspec, "server", *ONE_CASE, "nbd+unix:///?socket=/nonexistent")
    assert seen.count("cannot connect to /nonexistent") == 1 and "TAP" not in seen
    seen = on_terminal(nbdspec, "server", *ONE_CASE, "--", "sh", "-c", "echo one; echo two; exit 1", "{socket}")
    assert "; it printed:\none\ntwo\n" in seen
    assert "nbdspec server: cannot connect" in on_terminal(nbdspec, "server", "-q", *ONE_CASE, "nbd+unix:///?socket=/nonexistent")


# ---- reports ----


def test_any_number_of_reports(nbdspec, running):
    done = nbdspec("server", *ONE_CASE, "--json", "a", "--json", "b", "--junit", "c", "--tap", "d", "--text", "e",
                   "--tap", "/dev/null", "--text", "/dev/null", "--trace", "f", running(), status=0)
    assert done.stdout.startswith("TAP version 13\n") and done.stdout == (nbdspec.cwd / "d").read_text()
    assert (nbdspec.cwd / "a").read_text() == (nbdspec.cwd / "b").read_text()
    assert all((nbdspec.cwd / name).stat().st_size > 0 for name in "abcdef")


def test_report_on_standard_output(nbdspec, running):
    assert json.loads(nbdspec("server", *ONE_CASE, "--json", "-", running(), status=0).stdout)
    assert nbdspec("server", *ONE_CASE, "-q", running(), status=0).stdout == ""
    assert nbdspec("server", *ONE_CASE, "-q", "--tap", "-", running(), status=0).stdout.startswith("TAP")


@pytest.mark.parametrize("option", ["json", "junit", "tap", "text", "trace", "write-expect"])
def test_report_that_cannot_be_written(nbdspec, running, option):
    """Nothing is run, no half of a report stays, and a device is not removed."""
    uri = running()
    err = nbdspec.broken("server", *ONE_CASE, "--json", "first", f"--{option}", "/nonexistent/x", uri)
    assert err == "nbdspec server: /nonexistent/x: No such file or directory\n"
    err = nbdspec.broken("server", *ONE_CASE, "--json", "first", f"--{option}", str(nbdspec.cwd), uri)
    assert err == f"nbdspec server: {nbdspec.cwd}: Is a directory\n"
    assert not (nbdspec.cwd / "first").exists()
    err = nbdspec.broken("server", *ONE_CASE, "-q", "--json", "first", f"--{option}", "/dev/full", uri)
    assert err.startswith("nbdspec server: /dev/full: ") and err.endswith("No space left on device\n")
    assert err.count("\n") == 1 and os.path.exists("/dev/full")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting takes root")
def test_full_disk(nbdspec, running):
    full = nbdspec.cwd / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", full], check=False).returncode != 0:
        pytest.skip("no tmpfs can be mounted")
    try:
        with open(full / "x", "wb", buffering=0) as f, pytest.raises(OSError):
            while True:
                f.write(bytes(4096))
        for option in ("json", "trace"):
            err = nbdspec.broken("server", *ONE_CASE, "-q", f"--{option}", full / "report", running())
            assert f"{full}/report: " in err and err.endswith("No space left on device\n")
        assert not (full / "report").exists() or option == "trace"
        # The image is sparse and the log is empty: a server can be tested all the same.
        nbdspec("server", *ONE_CASE, *HONEST, status=0, env={**nbdspec.env, "TMPDIR": str(full)})
        assert sorted(os.listdir(full)) == ["report", "x"]
    finally:
        subprocess.run(["umount", "-l", full], check=True)


# ---- TMPDIR ----


def test_tmpdir(nbdspec):
    for tmp, why in (("/nonexistent", "No such file or directory"), ("/dev/null", "Not a directory")):
        err = nbdspec.broken("server", "-q", *ONE_CASE, *HONEST, env={**nbdspec.env, "TMPDIR": tmp})
        assert tmp in err and why in err and "TMPDIR" in err and err.count("\n") == 1


@pytest.fixture
def for_everybody(nbdspec):
    """A copy of the program where another user may execute it."""
    copy = "/tmp/for-everybody-" + nbdspec.mark
    shutil.copyfile(NBDSPEC, copy)
    os.chmod(copy, 0o755)
    yield copy
    os.unlink(copy)


@pytest.mark.skipif(os.getuid() != 0, reason="to become another user takes root")
def test_tmpdir_that_is_not_ours(nbdspec, for_everybody):
    err = nbdspec.broken("server", "-q", *ONE_CASE, *HONEST, env={**nbdspec.env, "TMPDIR": "/"}, user=65534, cwd="/",
                         executable=for_everybody)
    assert "directory in /: Permission denied" in err and "TMPDIR" in err


def test_tmpdir_is_too_long_for_a_socket(nbdspec):
    tmp = nbdspec.tmp / ("d" * 100)
    tmp.mkdir()
    env = {**nbdspec.env, "TMPDIR": str(tmp)}
    err = nbdspec.broken("server", "-q", *ONE_CASE, *HONEST, env=env)
    assert "too long for a Unix socket" in err and "TMPDIR" in err
    nbdspec("server", "-q", *ONE_CASE, "--", *server("{port}"), env=env, status=0)
    assert os.listdir(tmp) == []


def test_relative_tmpdir(nbdspec):
    """A server may change its directory."""
    there = "import os, sys; os.chdir('/'); os.execv(sys.argv[1], sys.argv[1:])"
    nbdspec("server", "-q", *ONE_CASE, "--", sys.executable, "-c", there, *server("{socket}"), status=0,
            env={**nbdspec.env, "TMPDIR": "tmp"})
