"""The page of a run (--html) and the page of many (nbdspec matrix): what they say, in a browser, and that nothing hostile gets out of its place."""

import html
import json
import os
import re
import signal
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, read_until
from test_crash_explore import explore, log, log_checker  # noqa: F401 (fixtures)
from test_crash_page import HOSTILE as HOSTILE_MARKS
from test_crash_page import NASTY_CHECK, Tags, drawn, fits, hostile  # noqa: F401 (a fixture)

UNIT = os.path.join(os.path.dirname(NBDSPEC), "tests/unit_reports")
HOSTILE = ["</script><script>document.title='owned'</script>", "<img src=x onerror=alert(1)>", "\x1b[31m\x07\x00\x7f", "\u202e\u2028 & @JSON@ \"'", "x" * 4096,
           "--><!--<script>"]
# What the checks of a page begin with.
TOOLS = """
const $ = q => document.querySelector(q), $$ = q => [...document.querySelectorAll(q)], seen = {};
const errors = [];
window.addEventListener("error", e => errors.push(e.message));
const key = (target, key) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const wait = () => new Promise(done => setTimeout(done, 300));
const rows = () => $$("#results > li").map(li => li.querySelector(".tag").textContent + " " + li.querySelector(".case").textContent);
const type = async (box, text) => { $(box).value = text; $(box).dispatchEvent(new Event("input")); await wait(); };
const told = () => document.body.setAttribute("data-seen", JSON.stringify({ ...seen, errors, requests: performance.getEntriesByType("resource").map(e => e.name) }));
"""


@pytest.fixture
def look(drawn):  # noqa: F811
    """Runs steps in a page; returns what they have put into `seen`."""

    def run(name, steps):
        dom = drawn(name, TOOLS + "(async () => {" + steps + "\n})().catch(e => errors.push(String(e))).finally(told);")
        seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom).group(1)))
        assert seen.pop("errors") == [] and seen.pop("requests") == []
        return seen, dom

    return run


@pytest.fixture
def page(nbdspec):
    """The page and the JSON that the unit's runs give: all verdicts, hostile texts."""

    def make(run="all"):
        for name in ("html", "json"):
            with open(nbdspec.cwd / f"{run}.{name}", "wb") as f:
                subprocess.run([UNIT, name, run], stdout=f, check=True)
        return Tags((nbdspec.cwd / f"{run}.html").read_text()), json.loads((nbdspec.cwd / f"{run}.json").read_text())

    return make


def result(case="option/abort", verdict="pass", **more):
    return {"case": case, "point": None, "title": None, "verdict": verdict, "red": False, "requirement": None, "level": None, "binds": None, "where": None,
            "text": None, "also": [], "message": None, "expected": None, "got": None, "feature": None, "transcript": None, "again": None, "server": None,
            "expectation": None, "reason": None, "duration_us": 1, **more}


def report(results, target="one, 1.0", suite="server", **more):
    asks = "client_strings_no_nul" if suite == "client" else "abort_ignores_data"
    catalogue = {r["case"]: {"title": "A title", "cites": [asks]} for r in results}
    count = {v: sum(r["verdict"] == v for r in results) for v in ("pass", "info", "skip", "warn", "fail", "error")}
    summary = {**count, "known": 0, "red": sum(r["red"] for r in results), "stale": 0, "interrupted": False, "broken": None, "duration_us": 5}
    return {"format": 1, "nbdspec": "0.1", "command": "nbdspec server", "target": target, "suite": suite, "again": "nbd://x", "started": 1700000000,
            "cases": len(catalogue), "strict": False, "results": results, "catalogue": catalogue, "stale": [], "summary": summary, **more}


@pytest.fixture
def matrix(nbdspec):
    """The page of these reports."""

    def make(*reports, status=0):
        names = []
        for i, r in enumerate(reports):
            names.append(f"r{i}.json")
            (nbdspec.cwd / names[-1]).write_text(r if isinstance(r, str) else json.dumps(r))
        return nbdspec("matrix", "-o", "matrix.html", *names, status=status)

    return make


# ---- what is in the file ----

def test_page_stands_alone(page):
    tags, said = page()
    assert tags.tags.count("script") == 2 and "img" not in tags.tags and not {"src", "onerror"} & set(tags.attributes)
    data = json.loads(tags.scripts[0])
    assert [(r["case"], r["verdict"]) for r in data["runs"][0]["results"]] == [(r["case"], r["verdict"]) for r in said["results"]]
    for brief, full in zip(data["runs"][0]["results"], said["results"]):
        assert brief.items() <= full.items() and not [v for k, v in brief.items() if v in (None, False, [])]
    for name in ("target", "again", "catalogue", "stale", "summary"):
        assert data["runs"][0][name] == said[name]


@pytest.mark.parametrize("run", ["all", "green", "broken"])
def test_no_request_and_no_markup(nbdspec, page, run):
    tags, _ = page(run)
    text = (nbdspec.cwd / f"{run}.html").read_text()
    assert "default-src 'none'" in text and not re.search(r"@import|url\(|https?://", text.replace(tags.scripts[0], "").replace('"http://www.w3.org/2000/svg"', ""))
    assert not re.search("[<>&]", tags.scripts[0])


def test_catalogue_is_that_of_the_protocol(page):
    """Every requirement, and under which heading of the text it stands."""
    tags, _ = page("green")
    data = json.loads(tags.scripts[0])
    chapters, by_id = data["chapters"], {q["id"]: q for q in data["requirements"]}
    q = by_id["abort_ignores_data"]
    line = int(re.match(r"proto\.md:(\d+)", q["where"]).group(1))
    assert chapters[q["chapter"]]["line"] <= line and (q["level"], q["binds"]) == ("SHOULD", "server")
    assert "untestable" in by_id["newstyle_debug_port"] and "untestable" not in q
    for q in by_id.values():
        if q["where"].startswith("ext:"):
            assert chapters[q["chapter"]] == chapters[-1] == {"line": 0, "depth": 2, "title": "Extended headers, experimental"}
            continue
        line, after = int(re.match(r"proto\.md:(\d+)", q["where"]).group(1)), chapters[q["chapter"] + 1:-1]
        assert chapters[q["chapter"]]["line"] <= line and all(line < c["line"] for c in after)


def test_chapters_are_those_of_the_text():
    path = os.path.join(ROOT, "../shared/spec/proto.md")
    if not os.path.exists(path):
        pytest.skip("the protocol text is not here")
    with open(path, encoding="utf-8") as f:
        headings = [(n, m.group(1), m.group(2).replace("`", "")) for n, line in enumerate(f, 1) if (m := re.match(r"(#+) (.*)", line))]
    with open(os.path.join(ROOT, "cases/chapters.def"), encoding="utf-8") as f:
        ours = [(int(n), "#" * int(d), t) for n, d, t in re.findall(r'^CHAPTER\((\d+), (\d+), "(.*)"\)$', f.read(), re.M)]
    assert ours == [*headings, (0, "##", "Extended headers, experimental")]


# ---- a run in a browser ----

def test_all_results_are_there(page, look):
    """What fails the run first; a hostile name is text."""
    _, said = page()
    seen, dom = look("all.html", "seen.rows = rows(); seen.title = document.title; seen.verdict = $('#verdict').textContent; seen.stale = $$('#stale li').length;")
    assert len(seen["rows"]) == len(said["results"]) and seen["stale"] == 1
    red = [r for r in said["results"] if r["red"]]
    assert all(row.split()[0] in ("error", "fail", "warn", "pass") for row in seen["rows"][:len(red)])
    assert {r["case"] + (f"[{r['point']}]" if r["point"] else "") for r in red} == {row.split(" ", 1)[1] for row in seen["rows"][:len(red)]}
    assert seen["verdict"] == f"{said['summary']['red']} results make the run fail" and seen["title"] == said["target"]
    assert "img" not in Tags(dom).tags and Tags(dom).tags.count("script") == 3


def test_broken_run(page, look):
    page("broken")
    seen, _ = look("broken.html", "seen.verdict = $('#verdict').textContent; seen.rows = rows();")
    assert seen["verdict"].startswith("Ended early: the server did not start") and seen["rows"] == []


def test_filters(page, look):
    _, said = page()
    seen, _ = look("all.html", """
        const chip = name => $("[data-chip=" + name + "]");
        chip("skip").click(); seen.skip = rows(); chip("info").click(); seen.both = rows(); seen.pressed = chip("info").getAttribute("aria-pressed");
        chip("skip").click(); chip("info").click(); seen.all = rows().length;
        chip("known").click(); seen.known = rows(); chip("known").click();
        chip("red").click(); seen.red = rows().length; $("#reset").click(); seen.reset = rows().length;
        $("#group").value = "tls"; $("#group").dispatchEvent(new Event("change")); seen.group = rows(); $("#reset").click();
        await type("#search", "0x7fffffff SIGSEGV"); seen.nothing = rows();
        await type("#search", "sigsegv"); seen.found = rows(); seen.shown = $("#shown").textContent;
        key($("#search"), "Escape"); await wait(); seen.escaped = rows().length;""")
    count = said["summary"]
    assert len(seen["skip"]) == count["skip"] and len(seen["both"]) == count["skip"] + count["info"] and seen["pressed"] == "true"
    assert seen["all"] == seen["reset"] == seen["escaped"] == len(said["results"])
    assert sorted(seen["known"]) == ["fail export_name/padding", "warn option/late_reply"]
    assert seen["red"] == sum(r["red"] for r in said["results"])
    assert len(seen["group"]) == 5 and all(row.split()[1].startswith("tls/") for row in seen["group"])
    assert seen["nothing"] == [] and seen["found"] == ["fail read/past_the_end"] and seen["shown"].startswith(f"1 of {len(said['results'])} results")


def test_a_result_opens(page, look):
    """What was expected and came, the requirement with its place, the messages, and the command that does it again."""
    page()
    seen, _ = look("all.html", """
        const open = text => { const li = $$("#results > li").find(li => li.textContent.includes(text)); li.firstChild.click(); return li; };
        const li = open("option/unknown_is_refused"), panel = li.querySelector(".panel");
        seen.expected = panel.querySelector(".expected").textContent; seen.got = panel.querySelector(".got").textContent; seen.text = panel.textContent;
        seen.client = panel.querySelectorAll("pre .client").length; seen.hex = panel.querySelectorAll("pre .hex").length;
        seen.again = panel.querySelector(".replay code").textContent; seen.expanded = li.firstChild.getAttribute("aria-expanded");
        li.firstChild.click(); seen.closed = li.querySelector(".panel") === null;
        seen.known = open("export_name/padding").textContent; seen.also = open("read/past_the_end").querySelectorAll(".place").length;
        seen.hostile = open("hostile/bytes").querySelector("pre").textContent; seen.pass = open("greeting/newstyle_magic").textContent;""")
    assert (seen["expected"], seen["got"]) == ("NBD_REP_ERR_UNSUP (0x80000001)", "NBD_REP_ACK (1)") and "proto.md:" in seen["text"]
    assert (seen["client"], seen["hex"]) == (1, 6) and seen["expanded"] == "true" and seen["closed"]
    assert seen["again"] == "nbdspec server -c option/unknown_is_refused --strict -- nbdkit memory 'size=1M</script>\\033'"
    assert "padding is sent in spite of NO_ZEROES, xapi-nbd #63" in seen["known"] and seen["also"] == 3
    assert "]]>&<b a='\">\\\\ # TODO no" in seen["hostile"] and "\x1b" not in seen["hostile"]
    assert "2 requirements" in seen["pass"] and "The greeting begins with both magic numbers." in seen["pass"]


def test_run_by_keyboard(page, look):
    page()
    seen, _ = look("all.html", """
        key(document.body, "/"); seen.search = document.activeElement.id;
        const at = () => $$("#results .row").indexOf(document.activeElement);
        $("#results .row").focus(); seen.at = [at()];
        for (const k of ["ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp"]) { key(document.activeElement, k); seen.at.push(at()); }
        seen.buttons = $$("#results .row").every(b => b.tagName === "BUTTON");
        $("#results .row").focus(); seen.outline = getComputedStyle(document.activeElement).outlineStyle;""")
    assert seen["search"] == "search" and seen["at"] == [0, 1, 2, 1, 0, 0] and seen["buttons"] and seen["outline"] == "solid"


def test_finding_of_an_exploration(matrix, look):
    """It has a command of its own, and a case to be pasted."""
    matrix(report([result("explore/haggling", "fail", again="nbdspec server --explore-sequence 'GO' -- sh -c 'a\nb'\n\nstatic int x;\n\nCASE(explored, sequence)\n"),
                   result("explore/haggling")]))
    seen, _ = look("matrix.html", """$$("#results .row").forEach(b => b.click());
        seen.command = $$(".replay code").map(c => c.textContent); seen.pre = $$(".panel pre").map(p => p.textContent);""")
    assert seen["command"] == ["nbdspec server --explore-sequence 'GO' -- sh -c 'a\nb'"] and seen["pre"] == ["static int x;\n\nCASE(explored, sequence)\n"]


def test_experimental(matrix, look):
    """What an experimental extension says is told, and apart."""
    matrix(report([result(verdict="fail", experimental=True, requirement="abort_ignores_data", message="told"), result("option/go")]), report([result()], "two"))
    seen, _ = look("matrix.html", """seen.cell = $("#matrix td").className; location.hash = "#run=0"; await wait(); seen.verdict = $("#verdict").textContent;
        $("[data-chip=experimental]").click(); seen.rows = rows(); $("#results .row").click(); seen.text = $("#results").textContent;""")
    assert seen["cell"] == "c-warn" and seen["verdict"] == "As expected, with 1 experimental deviation" and seen["rows"] == ["fail option/abort"]
    assert "--experimental" in seen["text"]


def test_on_paper(page, look):
    """What deviates is open."""
    _, said = page()
    seen, _ = look("all.html", """window.dispatchEvent(new Event("beforeprint"));
        seen.open = $$("#results > li").filter(li => li.querySelector(".panel")).map(li => li.querySelector(".case").textContent.split("[")[0]);""")
    assert sorted(seen["open"]) == sorted(r["case"] for r in said["results"] if r["red"] or r["verdict"] in ("fail", "warn"))


def test_coverage(page, look):
    """Broken beats held; held is what a passed case asks; what nobody asks is said to be so."""
    page()
    seen, _ = look("all.html", """
        seen.total = $("#covered").textContent;
        $$("#coverage details").forEach(d => { d.open = true; }); await wait();
        const item = id => $$("#coverage li").find(li => li.textContent.includes(", " + id + ","));
        seen.tags = ["unknown_option_unsup", "option_reply_echoes_option", "numbers_big_endian", "abort_ignores_data", "newstyle_debug_port"].map(id => item(id).querySelector(".tag").textContent);
        seen.client = item("client_strings_no_nul") === undefined;
        item("option_reply_echoes_option").querySelector("button").click(); await wait(); seen.rows = rows(); seen.shown = $("#shown").textContent;""")
    assert seen["tags"] == ["broken", "broken", "broken", "not asked", "untestable"] and seen["client"]
    assert "bind the server and can be tested: 4 broken, " in seen["total"]
    assert "fail read/past_the_end" in seen["rows"] and "pass greeting/newstyle_magic" in seen["rows"] and not [r for r in seen["rows"] if "tls/" in r]
    assert "to option_reply_echoes_option." in seen["shown"]


@pytest.mark.parametrize("page_of", ["run", "matrix"])
def test_page_fits(nbdspec, page, matrix, drawn, page_of):  # noqa: F811
    """On a phone nothing is wider than the screen, open results included."""
    page()
    matrix(json.loads((nbdspec.cwd / "all.json").read_text()), report([result()]))
    text = (nbdspec.cwd / ("all.html" if page_of == "run" else "matrix.html")).read_text()
    assert fits(nbdspec.cwd, drawn, text, """page.querySelectorAll("#results .row").forEach(b => b.click());
        page.querySelectorAll("details").forEach(d => { d.open = true; });""")


def test_hundred_thousand_results(nbdspec, matrix, look):
    """Not all are drawn at once, and the page is there within two seconds; on a busy machine within ten."""
    results = [result(f"group{i % 40}/case{i % 500}", "fail" if i % 1000 == 7 else "pass", point=f"n={i}", message=f"told {i}") for i in range(100000)]
    matrix(report(results))
    seen, _ = look("matrix.html", """seen.ms = performance.now(); seen.drawn = rows().length; seen.shown = $("#shown").textContent;
        const from = performance.now(); await type("#search", "told 99999"); seen.found = rows(); seen.search_ms = performance.now() - from;""")
    assert seen["drawn"] < 1000 and seen["shown"].startswith("All 100,000 results") and seen["found"] == ["pass group39/case499[n=99999]"]
    assert (nbdspec.cwd / "matrix.html").stat().st_size < 20 << 20 and seen["ms"] < 10000 and seen["search_ms"] < 10000


# ---- from the command line ----

@pytest.mark.parametrize("suite, words", [("server", ["--fresh", "-c", "greeting/newstyle_layout", "--", NBDSPEC, "serve", "--unix", "{socket}"]),
                                          ("client", ["-c", "plain/honest", "--", NBDSPEC, "driver", "--copy", "{uri}", "{out}"])])
def test_page_of_a_run(nbdspec, look, suite, words):
    nbdspec(suite, "-q", "--html", "page.html", "--json", "page.json", *words)
    said = json.loads((nbdspec.cwd / "page.json").read_text())
    seen, _ = look("page.html", "seen.rows = rows().length; $('#results .row').click(); seen.again = $('.replay code').textContent;")
    assert seen["rows"] == len(said["results"]) > 0
    done = subprocess.run(["sh", "-c", seen["again"] + " >/dev/null"], cwd=nbdspec.cwd, check=False, timeout=PATIENCE,
                          env={**nbdspec.env, "PATH": f"{os.path.dirname(NBDSPEC)}:{os.environ['PATH']}"})
    assert done.returncode == 0


def test_command_of_a_uri(nbdspec, fake):
    """What is allowed, and how, is said again; where the reports go is not."""
    uri = fake("--unix", nbdspec.cwd / "s", "--export", "size=1M")
    nbdspec("server", "-q", "--destructive", "--time-factor", "2", "--crowd", "7", "-c", "greeting/*", "--target", "it", "--json", "page.json", uri)
    assert json.loads((nbdspec.cwd / "page.json").read_text())["again"] == f"--destructive --time-factor 2 --crowd 7 '{uri}'"


def test_no_half_page(nbdspec, matrix):
    matrix(report([result()]))
    for where in ("/dev/full", "/no/where"):
        assert where in nbdspec.broken("matrix", "-o", where, "r0.json")
        done = nbdspec("server", "-q", "--html", where, "-c", "greeting/*", "--", NBDSPEC, "serve", "--unix", "{socket}", status=3)
        assert where in done.stderr and done.stderr.count("\n") == 1


def test_to_standard_output(nbdspec, matrix):
    matrix(report([result()]))
    assert nbdspec("matrix", "r0.json", status=0).stdout == (nbdspec.cwd / "matrix.html").read_text()


@pytest.mark.parametrize("text, word", [("{", "line 1"), ("[]", "is no report"), ("{}", "is no report"), (json.dumps({"format": 2, "results": []}), "is no report"),
                                        (json.dumps({"format": 1, "results": []}), "older nbdspec"), (report([result()], suite=None), "damaged"),
                                        (report([result(verdict="odd")]), "damaged"), (report([result(message=7)]), "damaged"),
                                        (report([result()], catalogue={}), "damaged"), (report([result(also=[1])]), "damaged")])
def test_what_is_no_report(nbdspec, matrix, text, word):
    done = matrix(report([result()]), text, status=3)
    assert "r1.json" in done.stderr and word in done.stderr and done.stderr.count("\n") == 1 and not (nbdspec.cwd / "matrix.html").exists()


def test_matrix_usage(nbdspec):
    assert "want the reports" in nbdspec.usage("matrix")
    assert "not an empty text" in nbdspec.usage("matrix", "-o", "", "no.json")
    assert "no.json: No such file" in nbdspec.broken("matrix", "no.json")


def test_interrupted_run(nbdspec, look):
    """What is known by then is a whole page, and says so."""
    with nbdspec.start("server", "--html", "page.html", "--tap", "-", "--", NBDSPEC, "serve", "--unix", "{socket}") as p:
        read_until(p.stdout, "ok 5")
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=PATIENCE)
    seen, _ = look("page.html", "seen.verdict = $('#verdict').textContent; seen.rows = rows().length;")
    assert p.returncode == 130 and seen["verdict"] == "Ended early" and seen["rows"] >= 5


# ---- many runs in a browser ----

def several():
    broken = {"requirement": "abort_ignores_data", "level": "SHOULD"}
    return [report([result(), result("option/go")], "alpha, 1.0"), report([result(verdict="warn", expectation="known", reason="it is known", **broken)], "beta, 2.0"),
            report([result(verdict="warn", red=True, expected="this", got="that", transcript="  0.1 ms  1 C: option\n", **broken)], "beta, 2.1"),
            report([result("plain/all", "skip", message="not offered")], "gamma", suite="client")]


def test_matrix_of_runs(matrix, look):
    matrix(*several())
    seen, _ = look("matrix.html", """
        seen.rows = $$("#matrix tbody tr").map(tr => tr.cells[0].firstChild.textContent); seen.cells = $$("#matrix td").map(td => td.className + td.textContent);
        seen.heads = $$("#matrix thead th").map(th => th.textContent); seen.verdict = $("#verdict").textContent;
        $("[data-suite=client]").click(); seen.client = $$("#matrix tbody tr").length; $("[data-suite=client]").click();
        await type("#all-search", "beta 2.1"); seen.found = $$("#matrix td").length;""")
    assert seen["rows"] == ["server", "alpha, 1.0", "beta, 2.0", "beta, 2.1", "client", "gamma"] and len(seen["heads"]) == 3
    assert seen["cells"] == ["c-none", "c-held✓", "c-none", "c-warn1", "c-none", "c-red1", "c-skip·", "c-none"] and seen["verdict"] == "1 run of 4 not as expected"
    assert seen["client"] == 2 and seen["found"] == 1


def test_a_cell_opens_its_cases(matrix, look):
    matrix(*several())
    seen, _ = look("matrix.html", """
        $$("#matrix td")[5].click(); await wait(); seen.title = document.title; seen.rows = rows(); seen.back = $("#back").hidden;
        $("#results .row").click(); seen.expected = $(".panel .expected").textContent; seen.pre = $(".panel pre").textContent;
        location.hash = ""; await wait(); seen.all = $("#all").hidden; seen.one = $("#one").hidden;
        $$("#matrix thead th")[2].click(); await wait(); seen.split = $$("#matrix thead th").map(th => th.textContent); seen.chapter = document.title;
        $$("#matrix td")[1].click(); await wait(); seen.other = document.title; seen.shown = $("#shown").textContent;
        $("#back a").click(); await wait(); seen.home = document.title;""")
    assert (seen["title"], seen["rows"], seen["back"]) == ("beta, 2.1", ["warn option/abort"], False)
    assert (seen["expected"], seen["pre"]) == ("this", "  0.1 ms  1 C: option\n") and not seen["all"] and seen["one"]
    assert seen["split"] == ["4 runs", "abort_ignores_data"] and seen["other"] == "beta, 2.0" and "abort_ignores_data" in seen["shown"]
    assert seen["home"] == "NBD conformance"


def test_matrix_by_case(matrix, look):
    """A chapter's cases in place of its requirements; each cell has the points of one."""
    reports = several()
    reports[0]["results"] += [result(verdict="fail", point=str(i), expectation="known") for i in range(3)]
    matrix(*reports)
    seen, _ = look("matrix.html", """
        seen.hidden = $("#by-case").hidden; $$("#matrix thead th")[2].click(); await wait(); $("#by-case").click(); await wait();
        seen.heads = $$("#matrix thead th").map(th => th.textContent); seen.cells = $$("#matrix td").map(td => td.className + td.textContent); seen.pressed = $("#by-case").getAttribute("aria-pressed");
        $$("#matrix td")[0].click(); await wait(); seen.rows = rows(); seen.shown = $("#shown").textContent;""")
    assert seen["hidden"] and seen["heads"] == ["4 runs", "option/abort", "option/go"] and seen["pressed"] == "true"
    assert seen["cells"] == ["c-fail3", "c-held✓", "c-warn1", "c-none", "c-red1", "c-none", "c-none", "c-none"]
    assert seen["rows"] == ["fail option/abort[0]", "fail option/abort[1]", "fail option/abort[2]", "pass option/abort"] and "4 of 5 results of option/abort." == seen["shown"].split("  ")[0].strip()


def test_matrix_by_keyboard(matrix, look):
    matrix(*several())
    seen, _ = look("matrix.html", """
        seen.stops = $$("#matrix [tabindex='0']").length;
        const at = () => [document.activeElement.parentNode.rowIndex, document.activeElement.cellIndex], press = k => { key(document.activeElement, k); return at(); };
        key(document.body, "/"); seen.search = document.activeElement.id;
        $("#matrix [tabindex='0']").focus(); seen.at = [at()].concat(["ArrowRight", "ArrowDown", "ArrowRight", "Home", "End", "ArrowUp", "ArrowUp"].map(press));
        key(document.activeElement, "ArrowDown"); key(document.activeElement, "Enter"); await wait(); seen.title = document.title; seen.shown = $("#shown").textContent;""")
    assert seen["stops"] == 1 and seen["search"] == "all-search"
    assert seen["at"] == [[2, 0], [2, 1], [3, 1], [3, 2], [3, 0], [3, 2], [2, 2], [0, 2]] and seen["title"] == "alpha, 1.0"


def test_hostile_reports(matrix, look):
    """A report that somebody has made by hand is text, too."""
    results = [result(f"option/{text}", "fail", point=text, message=text, expected=text, got=text, transcript=text, again=text, server=text, reason=text,
                      requirement=text, also=[text], feature=text, expectation="known") for text in HOSTILE if "\0" not in text]
    matrix(report(results, HOSTILE[0], again=HOSTILE[1], command=HOSTILE[0]), report([result()]))
    seen, dom = look("matrix.html", """
        seen.rows = $$("#matrix tbody tr").length; location.hash = "#run=0"; await wait();
        $$("#results .row").forEach(b => b.click()); seen.open = $$(".panel").length; seen.title = document.title; seen.text = $("#results").textContent;
        location.hash = "#run=99&chapter=zz&requirement=" + encodeURIComponent("<b>"); await wait(); seen.home = $("#all").hidden;""")
    assert seen["open"] == len(results) and seen["title"] == HOSTILE[0] and not seen["home"] and HOSTILE[4] in seen["text"]
    assert "img" not in Tags(dom).tags and Tags(dom).tags.count("script") == 3 and "\x1b" not in seen["text"] and "\u202e" not in seen["text"]


# ---- power cuts, in the page of many runs ----

@pytest.fixture
def cuts(nbdspec, log_checker):  # noqa: F811
    """Reports of explorations: one that fails at each of 3 of 4 crash points, and one in which a sample is good."""
    def make():
        reports = []
        for name, recording, args, status in (("bad", log(flush_records=False), ("--budget", "40"), 1), ("good", log(), ("--budget", "30"), 0)):
            recording.save(nbdspec.cwd / f"{name}.trace")
            nbdspec("crash", "explore", f"{name}.trace", "--check", log_checker, "--json", f"{name}.crash", *args, status=status)
            reports.append(json.loads((nbdspec.cwd / f"{name}.crash").read_text()))
        return reports

    return make


CUTS = """const cutRows = () => $$("#cuts-table tbody tr").map(tr => [...tr.cells].slice(0, 5).map(td => td.firstChild.textContent));
    const sections = () => ["all", "one", "cut"].filter(name => !document.getElementById(name).hidden).join();"""


def test_power_cuts_in_the_matrix(matrix, cuts, look):
    """Beside the runs, in whatever order they are given; a row has the figures of its report."""
    bad, good = cuts()
    runs = several()
    matrix(good, *runs[:2], bad, *runs[2:])
    seen, _ = look("matrix.html", CUTS + """seen.rows = cutRows(); seen.hidden = $("#cuts").hidden; seen.runs = $$("#matrix tbody tr:not(.suite)").length; seen.verdict = $("#verdict").textContent;
        seen.strips = $$("#cuts-table svg").map(svg => ["fail", "some", "good"].map(c => svg.querySelectorAll("." + c).length)); seen.label = $("#cuts-table svg").getAttribute("aria-label");""")
    assert not seen["hidden"] and seen["runs"] == 4
    assert seen["rows"] == [[name, "file", str(r["exploration"]["crash_points"]), str(sum(r["states"][v] for v in ("good", "bad", "crash", "hang"))), str(len(r["failing"]))]
                            for name, r in (("bad", bad), ("good", good))]
    for strip, r in zip(seen["strips"], (bad, good)):
        fail = sum(p["failing"] > 0 for p in r["points"])
        some = sum(not p["complete"] and p["failing"] == 0 for p in r["points"])
        assert strip == [fail, some, len(r["points"]) - fail - some]
    assert seen["strips"][0][0] > 0 and seen["strips"][1][1] > 0 and seen["label"].startswith(f"{seen['strips'][0][0]} crash points fail, at ")
    assert seen["verdict"] == "1 run of 4 not as expected; 1 recording of 2 fails"


def test_no_power_cuts(matrix, look):
    matrix(*several())
    seen, _ = look("matrix.html", "seen.hidden = $('#cuts').hidden; seen.shown = $('#cuts').offsetHeight;")
    assert seen == {"hidden": True, "shown": 0}


def test_power_cuts_alone(matrix, cuts, look):
    """Without a run, too; and with a single one, which has the page to itself else."""
    _, good = cuts()
    matrix(good)
    seen, _ = look("matrix.html", "seen.rows = $$('#cuts-table tbody tr').length; seen.runs = $('#some-runs').hidden; seen.title = document.title; seen.verdict = $('#verdict').textContent;")
    assert seen == {"rows": 1, "runs": True, "title": "Power cuts", "verdict": "All 1 recording as expected"}
    matrix(report([result()]), good)
    seen, _ = look("matrix.html", CUTS + """seen.all = sections(); $$("#matrix td")[0].click(); await wait(); seen.one = sections(); seen.back = $("#back").hidden;""")
    assert seen == {"all": "all", "one": "one", "back": False}


def test_a_row_opens_its_timeline(nbdspec, matrix, cuts, look):
    """The drawing of the exploration's own page; by a click, by Enter, by its address; Escape goes back to the row."""
    bad, good = cuts()
    matrix(*several(), bad, good)
    seen, _ = look("matrix.html", CUTS + """const drawing = () => [$$("[data-command]").length, $$("[data-point]").length, $$("#cut article").length];
        $("#cuts-table tbody tr").cells[3].click(); await wait(); seen.clicked = sections(); seen.hash = location.hash; seen.title = document.title; seen.drawing = drawing();
        seen.verdict = $("#verdict").textContent; seen.check = $("#command").textContent;
        $("#cut article button[aria-pressed]").click(); seen.lost = $$("#cut .write.lost").length; key($("#chart"), "End"); seen.point = $("#chart").getAttribute("aria-valuenow");
        key(document.body, "Escape"); await wait(); seen.back = sections(); seen.focus = document.activeElement.textContent; seen.left = $$("#chart").length;
        const link = $("#cuts-table a"); seen.link = link.tagName + link.getAttribute("href"); link.click(); await wait(); seen.entered = sections();
        location.hash = "#cut=1"; await wait(); seen.other = document.title; seen.drawn = drawing(); seen.charts = $$("#chart").length;
        $("#back a").click(); await wait(); seen.home = sections(); location.hash = "#cut=7"; await wait(); seen.none = sections();""")
    assert (seen["clicked"], seen["hash"], seen["title"]) == ("cut", "#cut=0", "Power cuts: bad")
    for drawing, r in ((seen["drawing"], bad), (seen["drawn"], good)):
        assert drawing == [sum(c[1] != "FLUSH" for c in r["timeline"]["commands"]), len(r["points"]), len(r["findings"])]
    assert f"{len(bad['failing'])} states of " in seen["verdict"] and seen["check"] == bad["exploration"]["check"]
    assert seen["lost"] == len(bad["findings"][0]["lost"]) > 0 and seen["point"] == str(len(bad["points"]))
    assert (seen["back"], seen["focus"], seen["left"], seen["link"], seen["entered"]) == ("all", "bad", 0, "A#cut=0", "cut")
    assert (seen["other"], seen["charts"], seen["home"], seen["none"]) == ("Power cuts: good", 1, "all", "all")
    text = (nbdspec.cwd / "matrix.html").read_text()
    (nbdspec.cwd / "linked.html").write_text(text.replace('"use strict";', '"use strict"; location.hash = "#cut=1";', 1))
    seen, _ = look("linked.html", CUTS + "seen.at = sections() + document.title;")
    assert seen["at"] == "cutPower cuts: good"


def test_power_cuts_on_paper(matrix, cuts, look):
    matrix(*cuts())
    seen, _ = look("matrix.html", """location.hash = "#cut=0"; await wait(); seen.before = $("#table").open; window.dispatchEvent(new Event("beforeprint")); seen.open = $("#table").open;
        location.hash = ""; await wait(); window.dispatchEvent(new Event("beforeprint"));""")
    assert seen == {"before": False, "open": True}


def test_judged_power_cuts(matrix, cuts, look):
    """Who knows the workload says whether it should fail: what should is no reason to worry, what should not comes first."""
    bad, good = cuts()
    bad["judged"] = {"verdict": "found", "because": "its records are not flushed", "red": False}
    matrix(*several()[:2], bad, good)
    seen, _ = look("matrix.html", "seen.verdict = $('#verdict').textContent; seen.text = $('#cuts-table').textContent; seen.tag = $('#cuts-table .tag').className;")
    assert seen["verdict"] == "All 2 runs and 2 recordings as expected" and "found its records are not flushed" in seen["text"] and seen["tag"] == "tag fail"
    good["judged"] = {"verdict": "not as expected", "because": "nothing was found", "red": True}
    matrix(*several()[:2], bad, good)
    seen, _ = look("matrix.html", CUTS + "seen.verdict = $('#verdict').textContent; seen.first = cutRows()[0][0]; seen.tag = $('#cuts-table .tag').className;")
    assert seen == {"verdict": "1 recording of 2 fails", "first": "good", "tag": "tag red"}


@pytest.mark.parametrize("where", ["", "#cut=0"])
def test_power_cuts_fit(nbdspec, matrix, cuts, drawn, where):  # noqa: F811
    """On a phone nothing is wider than the screen."""
    bad, good = cuts()
    bad["exploration"]["trace"] = "a/" + "long-name" * 20
    matrix(*several(), bad, good)
    text = (nbdspec.cwd / "matrix.html").read_text()
    assert fits(nbdspec.cwd, drawn, text, f"page.defaultView.location.hash = '{where}';")


def test_hostile_power_cuts(matrix, explore, look):  # noqa: F811
    """The marks, the checker's words and a report that somebody has made by hand are text."""
    _, by_hand = explore(hostile(), NASTY_CHECK, "--budget", "50", status=1)
    for text, key in zip([m for m in HOSTILE if "\0" not in m] * 3, ("trace", "check", "fs", "version", "identity", "tear")):
        by_hand["exploration"][key] = text
    by_hand["judged"] = {"verdict": HOSTILE[0], "because": HOSTILE[1], "red": True}
    by_hand["timeline"]["marks"][0][1] = HOSTILE[0]
    by_hand["timeline"]["commands"][0][1] = HOSTILE[1]
    by_hand["findings"][0]["told"] = [text for text in HOSTILE if "\0" not in text]
    matrix(report([result()]), by_hand)
    seen, dom = look("matrix.html", """seen.row = $("#cuts-table").textContent; location.hash = "#cut=0"; await wait(); $("#table").open = true;
        $$("#cut button[aria-pressed]").forEach(b => b.click()); seen.text = document.body.textContent; seen.title = document.title;""")
    assert "img" not in Tags(dom).tags and Tags(dom).tags.count("script") == 3 and HOSTILE[1] in seen["row"] and seen["title"].startswith("Power cuts: ")
    assert HOSTILE[0] in seen["text"] and HOSTILE_MARKS[1] in seen["text"] and not set("\x1b\u202e") & set(seen["text"])


def test_damaged_power_cuts(nbdspec, matrix, cuts):
    """Whatever the page relies on is looked at before; one line says which file it is."""
    def changed(r, path, value):
        copy = at = json.loads(json.dumps(r))
        for key in path[:-1]:
            at = at[key]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        return copy

    bad, _ = cuts()
    matrix(report([result()]), bad)
    (nbdspec.cwd / "matrix.html").unlink()
    for path, value in [(["exploration"], []), (["exploration", "trace"], 7), (["exploration", "crash_points"], -1), (["states", "bad"], None), (["failing"], None),
                        (["shard"], [1]), (["points", 0, "at"], -1), (["points", 0, "complete"], 1), (["findings", 0, "told"], []), (["findings", 0, "told"], [1]),
                        (["findings", 0, "lost"], ["1"]), (["findings", 0, "torn"], [{}]), (["findings", 0, "replay"], None), (["timeline"], None), (["timeline", "events"], "1"),
                        (["timeline", "commands", 0], [1]), (["timeline", "commands", 0, 6], -1), (["timeline", "commands", 0, 8], -2), (["timeline", "marks"], [[1]]),
                        (["seconds"], "1"), (["interrupted"], 0), (["judged"], {"verdict": "found"}), (["judged"], 1), (["points_complete"], 99)]:
        done = matrix(report([result()]), changed(bad, path, value), status=3)
        assert done.stderr == "nbdspec matrix: r1.json: is a damaged report\n" and not (nbdspec.cwd / "matrix.html").exists(), path
    done = matrix(changed(bad, ["format"], "nbdspec crash 1"), status=3)
    assert done.stderr == "nbdspec matrix: r0.json: is a report of another version of 'nbdspec crash explore'; explore anew\n"


def test_reports_through_a_pipe(nbdspec, matrix, cuts):
    """Each is read once."""
    cuts()
    matrix(report([result()]))
    with open(nbdspec.cwd / "bad.crash", "rb") as f:
        nbdspec("matrix", "-o", "piped.html", "r0.json", "/dev/stdin", stdin=f, status=0)
    data = json.loads(Tags((nbdspec.cwd / "piped.html").read_text()).scripts[0])
    assert len(data["runs"]) == len(data["crashes"]) == 1 and "failing" not in data["crashes"][0]
