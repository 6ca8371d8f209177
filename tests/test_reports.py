"""The report writers: what they write is compared with tests/golden/reports, and read by those who read such files.

`make build/tests/unit_reports` first; UNIT_REPORTS names another program (build-san/tests/unit_reports).
UPDATE_GOLDEN=1 takes what they write now as golden; look at the difference before you commit it.
"""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(ROOT, "tests/golden/reports")
PROGRAM = os.environ.get("UNIT_REPORTS", os.path.join(ROOT, "build/tests/unit_reports"))
RUNS = ("all", "green", "broken")
WRITERS = ("text", "tap", "junit", "json", "markdown", "github", "gitlab")

# Whatever else is in a text: these never reach a report.
NEVER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The directory of all reports; the units pass on the way."""
    directory = tmp_path_factory.mktemp("reports")
    done = subprocess.run([PROGRAM], env={**os.environ, "REPORTS_DIR": str(directory)}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout
    return directory


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program} here")


def results_of(reports, run):
    return json.loads((reports / f"{run}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("run", RUNS)
def test_golden(reports, run, writer):
    name = f"{run}.{writer}"
    # Where a case stands in its file is looked at elsewhere.
    got = re.sub(rb'(cases/[a-z/_]*\.c(?:,line=|",\s*"lines": {\s*"begin": ))\d+', rb"\g<1>1", (reports / name).read_bytes())
    golden = os.path.join(GOLDEN, name)
    if os.environ.get("UPDATE_GOLDEN"):
        with open(golden, "wb") as f:
            f.write(got)
    with open(golden, "rb") as f:
        wanted = f.read()
    assert got.decode().splitlines() == wanted.decode().splitlines(), "UPDATE_GOLDEN=1 takes it as it is"
    assert got == wanted


@pytest.mark.parametrize("writer", (*WRITERS, "html"))
@pytest.mark.parametrize("run", RUNS)
def test_no_byte_of_a_peer_gets_through(reports, run, writer):
    text = (reports / f"{run}.{writer}").read_bytes().decode("utf-8")
    assert not NEVER.search(text)
    assert text.endswith("\n")


@needs("xmllint")
@pytest.mark.parametrize("run", RUNS)
def test_junit_is_valid(reports, run):
    done = subprocess.run(["xmllint", "--noout", "--schema", os.path.join(GOLDEN, "junit.xsd"),
                           str(reports / f"{run}.junit")], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("run", RUNS)
def test_junit_counts(reports, run):
    top = ElementTree.parse(reports / f"{run}.junit").getroot()
    suite = top.find("testsuite")
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == int(top.get("tests")) == len(cases)
    for attribute, element in ("failures", "failure"), ("errors", "error"), ("skipped", "skipped"):
        assert int(suite.get(attribute)) == sum(c.find(element) is not None for c in cases)
    # A CI server goes red for just what makes the run red.
    summary = results_of(reports, run)["summary"]
    red = int(suite.get("failures")) + int(suite.get("errors"))
    assert red == summary["red"] + bool(summary["broken"] or summary["interrupted"])


@pytest.mark.parametrize("run", RUNS)
def test_json_is_what_the_schema_says(reports, run):
    jsonschema = pytest.importorskip("jsonschema")
    with open(os.path.join(ROOT, "docs/json-schema.json"), encoding="utf-8") as f:
        schema = json.load(f)
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(results_of(reports, run), schema, cls=jsonschema.Draft7Validator)


def test_json_schema_names_every_key(reports):
    """The published schema and the writer have the same keys, jsonschema or not."""
    with open(os.path.join(ROOT, "docs/json-schema.json"), encoding="utf-8") as f:
        schema = json.load(f)
    report = results_of(reports, "all")
    for object_, part in ((report, schema), (report["results"][0], schema["definitions"]["result"]),
                          (report["summary"], schema["definitions"]["summary"]),
                          (next(iter(report["catalogue"].values())), schema["properties"]["catalogue"]["additionalProperties"]),
                          (report["stale"][0], schema["definitions"]["line"])):
        assert set(object_) == set(part["properties"]) == set(part["required"])


@pytest.mark.parametrize("run", RUNS)
def test_json_counts(reports, run):
    report = results_of(reports, run)
    for verdict in ("pass", "info", "skip", "warn", "fail", "error"):
        assert report["summary"][verdict] == sum(r["verdict"] == verdict for r in report["results"])
    assert report["summary"]["red"] == sum(r["red"] for r in report["results"]) + len(report["stale"])


@needs("prove")
@pytest.mark.parametrize("run, passes", [("all", False), ("green", True), ("broken", False)])
def test_prove_reads_tap(reports, run, passes):
    done = subprocess.run(["prove", "--exec", "cat", str(reports / f"{run}.tap")], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    assert (done.returncode == 0) == passes, done.stdout
    if run == "broken":
        assert "Further testing stopped" in done.stdout
    else:
        assert "Parse errors" not in done.stdout, done.stdout


@needs("prove")
def test_prove_sees_just_what_is_red(reports):
    done = subprocess.run(["prove", "--exec", "cat", str(reports / "all.tap")], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    report = results_of(reports, "all")
    assert f"Failed: {report['summary']['red']})" in done.stdout
    assert f"Tests: {len(report['results']) + len(report['stale'])} " in done.stdout


def test_tap_diagnostics_are_yaml(reports):
    yaml = pytest.importorskip("yaml")
    tap = (reports / "all.tap").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(b) for b in re.findall(r"^  ---\n(.*?)^  \.\.\.$", tap, re.DOTALL | re.MULTILINE)]
    told = [r for r in results_of(reports, "all")["results"] if r["red"] or r["verdict"] not in ("pass", "skip")]
    assert len(blocks) == len(told)
    for block, result in zip(blocks, told):
        for key in ("verdict", "requirement", "level", "where", "text", "message", "expected", "got", "reason"):
            assert block.get(key) == result[key]
        for key in ("transcript", "server"):
            lines = (block.get(key) or "").removeprefix(f"({key})\n").rstrip("\n")
            assert lines == (result[key] or "").rstrip("\n")


def on_terminal(*args, **environment):
    """What the program writes to a terminal of 80 columns."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm", "NO_COLOR": "", **environment})
        os.execl("/bin/sh", "sh", "-c", 'stty cols 80 -onlcr && exec "$@"', "sh", PROGRAM, *args)
    said = b""
    while True:
        try:
            chunk = os.read(fd, 65536)
        except OSError:     # Linux: the other side has closed
            chunk = b""
        if not chunk:
            break
        said += chunk
    os.close(fd)
    assert os.waitpid(pid, 0)[1] == 0, said
    return said.decode("utf-8")


def erased(said):
    """What remains to be seen when the terminal has carried out CR and 'erase to the end of the line'."""
    return re.sub("[^\r\n]*\r\x1b\\[K", "", said)


def without_colour(said):
    return re.sub("\x1b\\[[0-9;]*m", "", said)


def test_terminal_shows_progress_and_erases_it():
    said = on_terminal("text")
    assert "\r\x1b[K[0/20] greeting/newstyle_magic" in said
    assert "1 warn, 1 fail, read/past_the_end" in said
    assert "newstyle_magic" not in erased(said)
    assert not NEVER.search(without_colour(erased(said)))


def test_terminal_without_colour_shows_the_same():
    coloured, plain = on_terminal("text"), on_terminal("text", NO_COLOR="1")
    assert coloured != plain
    assert "\x1b[1;31mFAIL" in coloured
    assert without_colour(coloured) == plain
    assert not NEVER.search(erased(plain))


def test_dumb_terminal_gets_no_escapes():
    said = on_terminal("text", TERM="dumb")
    assert not NEVER.search(said)
    assert "1 known" in said


def test_lines_are_folded_for_the_terminal_only(reports):
    said = without_colour(erased(on_terminal("text")))
    in_file = (reports / "all.text").read_text(encoding="utf-8")
    assert re.sub(r"\s+", " ", said) == re.sub(r"\s+", " ", in_file)
    for line in said.splitlines():  # but for one long word, a line of a transcript, and the summary
        assert len(line) <= 80 or r"\x" in line or re.search(r" ms  | in [0-9.]+ s$", line), line


@pytest.mark.parametrize("columns", [1, 2, 7, 20, 40])
def test_narrow_terminals(columns):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execl("/bin/sh", "sh", "-c", f'stty cols {columns} && exec "$@"', "sh", PROGRAM, "text")
    said = b""
    try:
        while chunk := os.read(fd, 65536):
            said += chunk
    except OSError:
        pass
    os.close(fd)
    assert os.waitpid(pid, 0)[1] == 0
    for line in re.findall("\r\x1b\\[K(\\[[0-9]*[^\r]*)\r", said.decode("utf-8")):
        assert len(line) < columns


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
