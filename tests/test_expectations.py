"""--expect and --write-expect: red for a new deviation, a changed one, and one that is gone; green for what is known."""

import json
import os
import re

import pytest

from conftest import NBDSPEC, server

FIRST, LAST = "read/first_block", "read/last_byte"
CASES = ("-c", FIRST, "-c", LAST)
GOOD, BAD = server("{socket}"), server("{socket}", *(f"close@read:{n}" for n in range(1, 20)))
MUST, OTHER = "baseline_read_write", "read_returns_data"


@pytest.fixture
def expect(nbdspec):
    """Runs a server against these lines; returns the status, and the results and stale lines of the report."""

    def run(lines, command=GOOD, cases=CASES, options=(), status=None):
        (nbdspec.cwd / "known").write_text(lines)
        done = nbdspec("server", *cases, *options, "--expect", "known", "--json", "-", "--", *command, status=status)
        if done.returncode == 2:
            return done.stderr
        report = json.loads(done.stdout)
        return {r["case"]: (r["verdict"], r["expectation"], r["red"]) for r in report["results"]}, report

    return run


@pytest.fixture
def requirement(nbdspec):
    """What BAD breaks in each case."""
    report = json.loads(nbdspec("server", *CASES, "--json", "-", "--", *BAD, status=1).stdout)
    assert {r["verdict"] for r in report["results"]} == {"fail"}
    return {r["case"]: r["requirement"] for r in report["results"]}


def known(requirement, verdict="fail"):
    return "".join(f"{case}  {verdict}  {requirement[case]}  known: see issue 1\n" for case in (FIRST, LAST))


# ---- the file ----

WRONG = [
    ("x\n", [":1: ", "want PATTERN VERDICT REQUIREMENT REASON"]),
    ("x fail\n", [":1: ", "want PATTERN VERDICT REQUIREMENT REASON"]),
    (f"# fine\n\nx oops {MUST} why\n", [":3: 'oops'", "fail, warn, flaky-fail or flaky-warn"]),
    (f"x pass {MUST} why\n", [":1: 'pass'", "fail, warn"]),
    (f"x FAIL {MUST} why\n", [":1: 'FAIL'"]),
    (f"x flaky-skip {MUST} why\n", [":1: 'flaky-skip'"]),
    (f"x fail {MUST}s why\n", [f":1: '{MUST}s'", "no such requirement", "nbdspec requirements"]),
    ("x fail none why\n", [":1: 'none'", "no such requirement"]),
    (f"x fail {MUST}\n", [":1: ", "reason is missing"]),
    (f"x fail {MUST}   \t\n", [":1: ", "reason is missing"]),
    (f"x fail {MUST}\r\n", [":1: ", "reason is missing"]),
    (f"x fail {MUST} why\ny fail {MUST}\n\tREASON WANTED: it says\n", [":2: ", "reason is missing"]),
    ("\tgoes on\n", [":1: ", "without a line before it"]),
    ("\x01\x02 \x1b[31m \x07\n", [":1: '\\x1b[31m'"]),
    ("\x00x\n", [":1: ", "no text"]),
]


@pytest.mark.parametrize("lines, words", WRONG, ids=range(len(WRONG)))
def test_wrong_file(nbdspec, lines, words):
    (nbdspec.cwd / "known").write_text(lines)
    err = nbdspec.usage("server", *CASES, "--expect", "known", "--", *GOOD)
    assert err.startswith("nbdspec server: --expect known:") and [w for w in words if w not in err] == []
    assert "\x1b" not in err


def test_forms_of_a_line(expect, requirement):
    """Comments, blank lines, tabs, reasons over several lines, DOS line ends, no newline at the end."""
    lines = (f"# a comment\r\n\r\n{FIRST}\tfail\t{requirement[FIRST]}\r\n\tbecause\r\n  of that\r\n   \n"
             f"{LAST} fail {requirement[LAST]} why")
    found, report = expect(lines, BAD, status=0)
    assert found == {FIRST: ("fail", "known", False), LAST: ("fail", "known", False)}
    assert [r["reason"] for r in report["results"]] == ["because of that", "why"]


def test_empty_file(expect):
    assert expect("", status=0)[1]["stale"] == []
    assert expect("", BAD, status=1)[0] == {FIRST: ("fail", None, True), LAST: ("fail", None, True)}


# ---- what it says against what is seen ----


def test_known(expect, requirement):
    found, report = expect(known(requirement), BAD, status=0)
    assert found == {FIRST: ("fail", "known", False), LAST: ("fail", "known", False)}
    assert (report["summary"]["known"], report["summary"]["red"]) == (2, 0)


def test_unexpected_pass(expect, requirement):
    found, report = expect(known(requirement), GOOD, status=1)
    assert found == {FIRST: ("pass", "unexpected_pass", True), LAST: ("pass", "unexpected_pass", True)}
    assert report["summary"]["stale"] == 0


def test_another_requirement(expect, requirement):
    line = f"{FIRST} fail newstyle_magic why\n{LAST} fail {requirement[LAST]} why\n"
    assert expect(line, BAD, status=1)[0] == {FIRST: ("fail", "changed", True), LAST: ("fail", "known", False)}


def test_another_verdict(expect, requirement):
    found, _ = expect(known(requirement, "warn"), BAD, status=1)
    assert found == {FIRST: ("fail", "changed", True), LAST: ("fail", "changed", True)}


def test_flaky(expect, requirement):
    """Either way is as expected; anything else is not."""
    lines = known(requirement, "flaky-fail")
    assert expect(lines, BAD, status=0)[0] == {FIRST: ("fail", "flaky", False), LAST: ("fail", "flaky", False)}
    assert expect(lines, GOOD, status=0)[0] == {FIRST: ("pass", "flaky", False), LAST: ("pass", "flaky", False)}
    other = f"{FIRST} flaky-fail newstyle_magic why\n"
    for both in (lines + other, other + lines):
        assert expect(both, BAD, status=0)[0] == {FIRST: ("fail", "flaky", False), LAST: ("fail", "flaky", False)}
        assert expect(both, GOOD, status=0)[1]["stale"] == []
    lines = f"{FIRST} flaky-fail newstyle_magic why\n"
    assert expect(lines, BAD, ("-c", FIRST), status=1)[0] == {FIRST: ("fail", "changed", True)}


def test_crash(expect):
    """Whatever it breaks; but only a crash, and only one with these words."""
    crash = server("{socket}", "last words@read", "crash@read")
    lines = "*  flaky-fail  crash:words  they are its last\n"
    assert set(expect(lines, crash, status=0)[0].values()) == {("fail", "flaky", False)}
    assert set(expect(lines, GOOD, status=0)[0].values()) == {("pass", None, False)}
    assert set(expect(lines, BAD, status=1)[0].values()) == {("fail", None, True)}
    assert set(expect("*  flaky-fail  crash:other  why\n", crash, status=1)[0].values()) == {("fail", None, True)}
    assert set(expect("*  fail  crash:words  why\n", GOOD, status=1)[0].values()) == {("pass", "unexpected_pass", True)}


def test_crash_of_a_client(nbdspec):
    """Whatever it breaks; one that ends with the words is no crash."""
    def expect(lines, end, status):
        (nbdspec.cwd / "known").write_text(lines)
        client = ("sh", "-c", f"echo last words >&2; {end}", "{uri}")
        done = nbdspec("client", "-c", "plain/honest", "--expect", "known", "--json", "-", "--", *client, status=status)
        return {(r["expectation"], r["red"]) for r in json.loads(done.stdout)["results"] if r["verdict"] == "fail"}

    lines = "*  flaky-fail  crash:words  they are its last\n"
    assert expect(lines, "kill -ABRT $$", 0) == {("flaky", False)}
    assert expect(lines, "exit 1", 1) == {(None, True)}
    assert expect("*  flaky-fail  crash:other  why\n", "kill -ABRT $$", 1) == {(None, True)}


def test_stale(expect):
    """A line that nothing matched, such as a misspelt one."""
    _, report = expect(f"read/frist_block fail {MUST} why\n", [NBDSPEC, "serve", "--unix", "{socket}"], cases=())
    assert [(s["pattern"], s["line"]) for s in report["stale"]] == [("read/frist_block", 1)]
    done = expect(f"# x\nread/first_block[nope] fail {MUST} why\n", status=1)
    assert [(s["file"], s["line"], s["pattern"]) for s in done[1]["stale"]] == [("known", 2, "read/first_block[nope]")]


def test_a_line_for_a_case_that_was_not_selected_is_not_stale(expect, requirement):
    assert expect(known(requirement), BAD, ("-c", FIRST), status=0)[1]["stale"] == []


def test_a_line_for_a_case_that_was_skipped_is_not_stale(expect):
    """It did not run: neither better nor worse."""
    found, report = expect(f"write/stored* fail {MUST} why\n", cases=("-c", FIRST, "-c", "write/stored"), status=0)
    assert found["write/stored"] == ("skip", None, False) and report["stale"] == []


def test_globs(expect, requirement):
    assert expect(f"read/* fail {requirement[FIRST]} why\n", BAD, ("-c", FIRST), status=0)
    # The line that says just what is seen counts, wherever it stands.
    lines = f"read/* fail newstyle_magic why\n{known(requirement)}"
    found, report = expect(lines, BAD)
    assert found == {FIRST: ("fail", "known", False), LAST: ("fail", "known", False)}
    assert [s["line"] for s in report["stale"]] == [1]


def test_strict(expect, requirement):
    """A warn that is known is not red under --strict either."""
    command = server("{socket}", "close@read")
    case = ("-c", "read/length_zero")
    _, report = expect("", command, case, ["--strict"], status=1)
    line = f"read/length_zero warn {report['results'][0]['requirement']} why\n"
    assert expect(line, command, case, ["--strict"], status=0)[0] == {"read/length_zero": ("warn", "known", False)}
    assert expect(line, command, case, status=0)[0] == {"read/length_zero": ("warn", "known", False)}
    assert expect(line, GOOD, case, status=1)[0]["read/length_zero"][1:] == ("unexpected_pass", True)


def test_stale_lines_are_not_looked_for_when_the_run_ended_early(nbdspec):
    (nbdspec.cwd / "known").write_text(f"{FIRST} fail {MUST} why\n")
    nbdspec("server", *CASES, "--expect", "known", "--json", "json", "-q", "--", "false", "{socket}", status=3)
    assert json.loads((nbdspec.cwd / "json").read_text())["stale"] == []


# ---- writing it ----


def fill_in(nbdspec, name="known"):
    text = (nbdspec.cwd / name).read_text()
    (nbdspec.cwd / name).write_text(text.replace("REASON WANTED", "because of issue 1"))
    return text


def test_round_trip(nbdspec):
    """Written, refused until the reasons are there, then all is as expected, points and all."""
    cases = ("-c", "read/*", "-c", "option/*")
    nbdspec("server", *cases, "-q", "--destructive", "--strict", "--write-expect", "known", "--", *BAD, status=1)
    err = nbdspec.usage("server", *cases, "--expect", "known", "--", *BAD)
    assert "reason is missing" in err
    text = fill_in(nbdspec)
    assert text.startswith("# Deviations of ") and "awkward_server.py" in text.splitlines()[0]
    lines = [line for line in text.splitlines() if re.match(r"\S", line) and not line.startswith("#")]
    assert len(lines) > 10 and any("[" in line for line in lines) and all(len(line.split()) == 3 for line in lines)
    for options in (["--strict"], []):
        nbdspec("server", *cases, *options, "-q", "--destructive", "--expect", "known", "--", *BAD, status=0)


def test_only_what_is_new_is_written(nbdspec, requirement):
    (nbdspec.cwd / "known").write_text(f"{FIRST} fail {requirement[FIRST]} why\n")
    nbdspec("server", *CASES, "-q", "--expect", "known", "--write-expect", "new", "--", *BAD, status=1)
    text = fill_in(nbdspec, "new")
    assert LAST in text and FIRST not in text
    with open(nbdspec.cwd / "known", "a", encoding="utf-8") as f:
        f.write((nbdspec.cwd / "new").read_text())
    nbdspec("server", *CASES, "-q", "--expect", "known", "--", *BAD, status=0)


def test_nothing_to_write(nbdspec):
    nbdspec("server", *CASES, "-q", "--write-expect", "known", "--", *GOOD, status=0)
    assert (nbdspec.cwd / "known").read_text().startswith("# Deviations of ")
    nbdspec("server", *CASES, "-q", "--expect", "known", "--", *GOOD, status=0)


def test_reasons_are_not_overwritten(nbdspec):
    (nbdspec.cwd / "known").write_text("precious")
    err = nbdspec.usage("server", *CASES, "--write-expect", "known", "--", *GOOD)
    assert "--write-expect known: it exists" in err and (nbdspec.cwd / "known").read_text() == "precious"
    err = nbdspec.usage("server", *CASES, "--expect", "known", "--write-expect", "known", "--", *GOOD)
    assert "known is named twice" in err and (nbdspec.cwd / "known").read_text() == "precious"


def test_what_is_required_is_no_deviation(nbdspec):
    """--require makes a skip red; that is no statement about the protocol, and no line can speak of it."""
    command = server("{socket}", "size=0")
    nbdspec("server", "-c", FIRST, "-q", "--require", "size", "--write-expect", "known", "--", *command, status=1)
    text = (nbdspec.cwd / "known").read_text()
    assert [line for line in text.splitlines() if not line.startswith("#")] == []


def test_written_to_standard_output(nbdspec):
    done = nbdspec("server", *CASES, "-q", "--write-expect", "/dev/stdout", "--", *BAD, status=1)
    assert done.stdout.count("REASON WANTED") == 2 and os.path.exists("/dev/stdout")
