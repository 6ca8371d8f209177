"""A peer all of whose texts are hostile: every report is what it should be, and the terminal is left alone."""

import html
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from conftest import NBDSPEC, ROOT, Program
from test_crash_page import drawn  # noqa: F401  a fixture
from test_diff import annotation, rendered
from test_html import look  # noqa: F401  a fixture
from test_reports import GOLDEN, NEVER, needs

REPORTS = ("text", "tap", "junit", "json", "html", "markdown", "github", "gitlab")
OURS = re.compile("\x1b\\[(?:0|1|2|1;31|32|1;33|34|1;35)m|\r\x1b\\[K|\r\n")
SHOWN = ["\\x1b[35m\\x1b]0;owned\\x07", "not ok 1 - forged", "<script>document.title='owned'</script>", "\\x9b31m", "\\xff\\xfe\\x80"]


def read_to_end(fd):
    data = b""
    try:
        while more := os.read(fd, 65536):
            data += more
    except OSError:  # nobody has the terminal open any more
        pass
    return data


def hostile(name, *arguments):
    return ["-I", os.path.join(ROOT, "tests", name), *arguments]


PEERS = {
    "server": ["server", "--crowd", "0", "--time-factor", "0.2", "--", sys.executable, *hostile("hostile_server.py", "{socket}", "count")],
    "client": ["client", "--pairwise", "--", sys.executable, *hostile("hostile_client.py", "count", "{socket}")],
    "driver": ["client", *(f"-c{group}/*" for group in ("flags", "truth", "wire")), "--driver", sys.executable, "--", *hostile("hostile_client.py", "count")],
}


@pytest.fixture(scope="module", params=PEERS)
def run(request, tmp_path_factory):
    """Its directory: each report, `terminal` and `errors` with what was printed, and `count`, whose length is how many texts there were."""
    program = Program(tmp_path_factory.mktemp("hostile"))
    suite, *rest = PEERS[request.param]
    reports = [word for name in REPORTS for word in (f"--{name}", name)]
    terminal, ours = pty.openpty()
    with open(program.cwd / "errors", "wb") as errors:
        p = program.start(suite, "-j", "4", *reports, "--target", "a|b<c>\x1b[35m`d`", *rest, stdout=ours, stderr=errors)
    os.close(ours)
    (program.cwd / "terminal").write_bytes(read_to_end(terminal))
    os.close(terminal)
    assert p.wait() == 1 and program.leftovers() == {}
    return program.cwd


def text_of(run, name):
    return (run / name).read_bytes().decode("utf-8")


def test_there_was_something_to_see(run):
    assert (run / "count").stat().st_size >= 1000
    results = json.loads(text_of(run, "json"))["results"]
    assert sum(r["verdict"] == "fail" for r in results) > 50
    shown = "".join(r["transcript"] or "" for r in results)
    for words in SHOWN:
        assert words in shown


@pytest.mark.parametrize("name", [*REPORTS, "errors"])
def test_no_byte_gets_through(run, name):
    """Of control characters and what turns text around; all is UTF-8."""
    assert not NEVER.search(text_of(run, name))


def test_terminal_is_unharmed(run):
    """What is printed there has no escape sequence but ours, and nothing that is no line."""
    text = text_of(run, "terminal")
    assert OURS.search(text) and not NEVER.search(OURS.sub("\n", text))


@needs("xmllint")
def test_junit_fits_its_schema(run):
    subprocess.run(["xmllint", "--noout", "--huge", "--schema", os.path.join(GOLDEN, "junit.xsd"), run / "junit"], check=True)
    suites = ElementTree.fromstring(text_of(run, "junit"))
    assert len(suites.findall(".//testcase")) == len(json.loads(text_of(run, "json"))["results"])


def test_json_fits_its_schema(run):
    jsonschema = pytest.importorskip("jsonschema")
    with open(os.path.join(ROOT, "docs/json-schema.json"), encoding="utf-8") as f:
        jsonschema.validate(json.loads(text_of(run, "json")), json.load(f), cls=jsonschema.Draft7Validator)


@needs("prove")
def test_tap_is_whole(run):
    """prove counts the results that there are: no text begins one of its own, or ends the run."""
    results = json.loads(text_of(run, "json"))["results"]
    done = subprocess.run(["prove", "--exec", "cat", run / "tap"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    red = sum(r["red"] for r in results)
    assert f"Tests={len(results)}," in done.stdout and f"Failed {red}/{len(results)} subtests" in done.stdout
    assert "Parse errors" not in done.stdout


def test_markdown_shows_text(run):
    """What the peer said is code, which no markup begins or ends; it is no longer than a comment may be, and what had no room is counted."""
    text, report = text_of(run, "markdown"), json.loads(text_of(run, "json"))
    page = rendered(text)
    wanted = sum(r["red"] or r["verdict"] == "warn" for r in report["results"])
    left = sum(int(n) for n in re.findall(r"\*\*(\d+) more results? had no room here", text))
    alike = sum(int(n) for n in re.findall(r"(?m)^<details><summary>.* and (\d+) more points?</summary>$", text))
    assert len(text) < 65536 and page.tags.count("details") + alike + left == wanted
    assert report["suite"] != "server" or (page.tags.count("details") > 20 and left > 0)
    told = {words: html.unescape(text).count(words) for words in SHOWN}
    assert any(told.values()) and told == {words: sum(code.count(words) for code in page.codes) for words in SHOWN}


def test_annotations_and_code_quality(run):
    """As many as GitHub shows, each on a line that we began; and one for each result that deviates."""
    lines = text_of(run, "github").splitlines()
    commands = [annotation(line)[0] for line in lines]
    assert commands.count("error") == 10 and commands.count("warning") <= 10 and commands.count("notice") == 1
    results = json.loads(text_of(run, "json"))["results"]
    entries = json.loads(text_of(run, "gitlab"))
    assert len(entries) == len({e["fingerprint"] for e in entries}) == sum(r["red"] or r["verdict"] in ("warn", "fail", "error") for r in results)


def test_page_shows_text(run, nbdspec, look):  # noqa: F811
    """Every failure is opened; nothing of it becomes an element, asks for anything, or runs."""
    shutil.copy(run / "html", nbdspec.cwd / "page.html")
    seen, _ = look("page.html", """
        let rows = $$("#results .row"); for (const row of rows.slice(0, 300)) row.click(); seen.rows = rows.length; seen.title = document.title;
        seen.text = $("#results").textContent; seen.strange = $$("#results img, #results script, #results b, #results details details").length;""")
    assert seen["rows"] > 100 and seen["strange"] == 0 and "owned" != seen["title"] and "a|b<c>" in seen["title"]
    for words in SHOWN:
        assert words in seen["text"]
