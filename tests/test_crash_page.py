"""The page of an exploration: what it shows, in a browser, and that nothing hostile gets out of its place."""

import html
import html.parser
import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE
from test_crash_explore import FLUSH, FUA, WRITE, Recording, explore, header, log, log_checker  # noqa: F401 (fixtures)

HOSTILE = ['<script>document.title="owned"</script>', '</pre></script><img src=x onerror=alert(1)>', "\u202e\u2028 & @JSON@ \"'",
           b"\xff\x00\x1b[31m\r\n"]


class Tags(html.parser.HTMLParser):
    """Which elements there are, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.inside, self.attributes, self.text = [], [], None, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data


@pytest.fixture
def page(nbdspec, explore):  # noqa: F811
    """Explores; the page as it is written, and the JSON report."""

    def make(recording, check, *args, status=1):
        _, report = explore(recording, check, "--html", "page.html", *args, status=status)
        return (nbdspec.cwd / "page.html").read_text(), report

    return make


@pytest.fixture
def drawn(nbdspec):
    """What a browser makes of a page: the document after its scripts, in a frame that is `width` pixels wide."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed (Debian: chromium)")

    def open_page(name, script=""):
        text = (nbdspec.cwd / name).read_text().replace("</body>", f"<script>{script}</script></body>")
        (nbdspec.cwd / "opened.html").write_text(text)
        done = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={nbdspec.cwd}/profile",
                               "--virtual-time-budget=5000", "--dump-dom", f"file://{nbdspec.cwd}/opened.html"],
                              capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout

    return open_page


def hostile():
    r = Recording()
    r.do(WRITE, 4096, b"\1" * 4096)
    for mark in HOSTILE:
        r.record(9, 0, 2, 0, 0, mark if isinstance(mark, bytes) else mark.encode())
    r.do(WRITE, 0, header(1), flags=FUA)
    return r


NASTY_CHECK = r"""sh -c 'printf "</script><img src=x onerror=alert(2)>\\033[2J\\377 <!--"; cmp -s -n 512 {file} /dev/zero'"""


def test_timeline_in_the_report(explore):  # noqa: F811
    """Commands with places, connections and moments; marks; what each finding lacks."""
    r = Recording()
    r.do(WRITE, 4096, b"\1" * 4096, connection=2)
    r.mark("one")
    r.do(FLUSH, connection=2)
    r.request(WRITE, 8192, b"\1" * 512)
    r.do(WRITE, 0, header(1), flags=FUA)
    _, report = explore(r, "cmp -s -n 512 {file} /dev/zero", status=1)
    assert report["timeline"] == {"events": 8, "flushes": 1, "left_out": 0, "marks": [[2, "one"]], "marks_left_out": 0, "commands": [
        [1, "WRITE", 4096, 4096, 2, 0, 0, 1, 4, 1], [2, "FLUSH", 0, 0, 2, 0, 3, 4, -1, 1],
        [3, "WRITE", 8192, 512, 1, 0, 5, -1, -1, 0], [4, "WRITE", 0, 512, 1, 1, 6, 7, 7, 1]]}
    assert [(f["at"], f["lost"], f["torn"], f["durable"]) for f in report["findings"]] == [(8, [], [], [])]


def test_findings_in_the_report(explore, log_checker):  # noqa: F811
    """Each tells in numbers what its lines tell in words."""
    _, report = explore(log(flush_records=False), log_checker, "--budget", "400", status=1)
    for f in report["findings"]:
        told = {word: [int(n) for line in f["told"] for n in re.findall(rf"^  {word}: +(\d+) ", line)] for word in ("lost", "durable")}
        assert (f["lost"], f["durable"]) == (told["lost"], told["durable"]) and f["lost"]
        assert f["told"][-1] == "  replay:  " + f["replay"]
    torn = Recording()
    torn.do(WRITE, 0, b"a" * 1024)
    torn.do(FLUSH)
    torn.do(WRITE, 0, b"b" * 1024)
    _, report = explore(torn, "cmp -n 512 {file} {file} 0 512", status=1)
    assert {"command": 3, "offset": 0, "length": 512, "holds": 1} in sum((f["torn"] for f in report["findings"]), [])


def test_long_recording(nbdspec, page):
    """Not all of it is shown: what findings lack is, and what is left out is counted."""
    r = Recording()
    r.do(WRITE, 0, b"x" * 512)
    for i in range(4000):
        r.do(WRITE, 4096, bytes([i % 250 + 1]) * 512)
        r.mark(f"mark {i}")
    r.do(FLUSH)
    text, report = page(r, "printf x | cmp -s -n 1 - {file}", "--tear", "write", "--budget", "40")
    shown = report["timeline"]
    assert shown["left_out"] == 4002 - len(shown["commands"]) >= 900 and [c[0] for c in shown["commands"]] == sorted(c[0] for c in shown["commands"])
    assert shown["marks_left_out"] == 4000 - len(shown["marks"]) >= 2900 and shown["marks"][0] == [4, "mark 0"]
    assert report["findings"] and all(set(f["lost"] + f["durable"]) <= {c[0] for c in shown["commands"]} for f in report["findings"])
    assert any(1 in f["lost"] for f in report["findings"]) and len(text) < 1 << 20


def test_all_of_very_many_points(page, drawn):
    """That not all are shown does not make them fewer."""
    r = Recording(size=1 << 24)
    for i in range(3100):
        r.do(WRITE, 4096 * i, b"x" * 512)
        r.do(FLUSH)
    _, report = page(r, "true {uri}", "--tear", "write", status=0)
    assert report["points_complete"] == report["exploration"]["crash_points"] > 3000
    assert "No state of 3,101 fails: these are all there are" in drawn("page.html")


def test_page_stands_alone(page):
    """One file: nothing is fetched, no markup but its own, and the text is there without scripts."""
    text, report = page(hostile(), NASTY_CHECK, "--budget", "50")
    seen = Tags(text)
    assert "img" not in seen.tags and seen.tags.count("script") == 2 and seen.tags.count("pre") == 1
    assert not {"src", "href", "onerror"} & set(seen.attributes)
    assert "default-src 'none'" in text and not re.search(r"@import|url\(", text)
    assert set(re.findall(r"https?://[^\s\"]+", text)) == {"http://www.w3.org/2000/svg"}
    data = json.loads(seen.scripts[0])
    assert data["timeline"] == report["timeline"] and data["findings"] == report["findings"] and data["points"] == report["points"]
    assert data["failing_states"] == len(report["failing"]) > 0
    assert all(line in seen.text for f in report["findings"] for line in f["told"])
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m\\x0d\\x0a" in text


def test_page_in_a_browser(page, drawn):
    """The script has drawn it all, and hostile text is text."""
    _, report = page(hostile(), NASTY_CHECK, "--budget", "50")
    seen = Tags(drawn("page.html"))
    assert "img" not in seen.tags and seen.tags.count("script") == 3 and "owned" not in seen.text.splitlines()[0]
    assert seen.tags.count("article") == len(report["findings"]) > 0
    assert seen.attributes.count("data-command") == 2 and seen.attributes.count("data-point") == len(report["points"])
    assert all(f["replay"] in seen.text for f in report["findings"])


CLASSES = {"good": lambda p: p["complete"] and not p["failing"], "fail": lambda p: p["failing"], "some": lambda p: not p["complete"] and not p["failing"]}


def test_points_by_verdict(page, drawn, log_checker):  # noqa: F811
    """Good, failing, or only a sample."""
    for recording, budget, status in ((log(flush_records=False), "40", 1), (log(), "30", 0)):
        _, report = page(recording, log_checker, "--budget", budget, status=status)
        dom = drawn("page.html")
        for name, wanted in CLASSES.items():
            assert len(re.findall(f'<rect class="{name}" data-point=', dom)) == len([p for p in report["points"] if wanted(p)])
        assert ("of 30 fails; more are possible" in dom) == (status == 0)


STEPS = """
const chart = document.getElementById("chart"), key = k => chart.dispatchEvent(new KeyboardEvent("keydown", { key: k, bubbles: true }));
const seen = [], read = () => seen.push(chart.getAttribute("aria-valuenow") + " " + chart.getAttribute("aria-valuetext").slice(0, 18));
key("ArrowRight"); read(); key("End"); read(); key("ArrowRight"); read(); key("Home"); read();
document.querySelector("article button[aria-pressed]").click();
seen.push(document.querySelectorAll(".write.lost").length, document.querySelectorAll(".cut").length);
document.querySelector("article button[aria-pressed]").click();
seen.push(document.querySelectorAll(".cut").length);
document.body.setAttribute("data-seen", JSON.stringify(seen));
"""


def test_page_by_keyboard(page, drawn, log_checker):  # noqa: F811
    """From point to point, and a finding in the timeline."""
    page(log(flush_records=False), log_checker, "--budget", "40")
    seen = json.loads(re.search(r'data-seen="([^"]*)"', drawn("page.html", STEPS)).group(1).replace("&quot;", '"'))
    assert seen == ["2 Crash point 2 of 4", "4 Crash point 4 of 4", "4 Crash point 4 of 4", "1 Crash point 1 of 4", 1, 1, 0]


def test_copied_command(nbdspec, drawn, log_checker):  # noqa: F811
    """It is the one that can be run, not the one that can be printed."""
    trace, check = nbdspec.cwd / "a\ttrace \u202e", f"sh -c '{log_checker.replace('{file}', '$1')}\n' - {{file}}"
    log(flush_records=False).save(trace)
    nbdspec("crash", "explore", trace, "--check", check, "--budget", "40", "--html", "page.html", status=1)
    dom = drawn("page.html", """
        const seen = [];
        Object.defineProperty(navigator, "clipboard", { value: { writeText: text => { seen.push(text); return Promise.resolve(); } } });
        document.querySelectorAll("article .replay button").forEach(b => b.click());
        seen.push(document.querySelector("article .replay code").textContent);
        document.body.setAttribute("data-seen", JSON.stringify(seen));""")
    *copied, shown = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom).group(1)))
    assert copied and "\\x09" in shown and "\t" not in shown and "\u202e" not in shown and shown.count("\n") == 1
    for line in copied:
        done = subprocess.run(["sh", "-c", line], cwd=nbdspec.cwd, env={**nbdspec.env, "PATH": f"{os.path.dirname(NBDSPEC)}:{os.environ['PATH']}"},
                              capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "is damaged" in done.stdout


def fits(directory, drawn, text, steps=""):
    """Nothing of the page is wider than a screen of 1280, 400 and 320 pixels, once the steps in `page`, its document, are done."""
    (directory / "frames.html").write_text("<body></body>")
    script = """const widths = [];
        for (const w of [1280, 400, 320]) {
            const frame = document.createElement("iframe");
            frame.style.width = w + "px";
            frame.srcdoc = %s;
            frame.onload = () => {
                const page = frame.contentDocument;
                %s
                setTimeout(() => { widths.push(page.documentElement.scrollWidth <= w); document.body.setAttribute("data-fits", widths.join()); }, 300);
            };
            document.body.append(frame);
        }""" % (json.dumps(text).replace("</", "<\\/"), steps)
    return 'data-fits="true,true,true"' in drawn("frames.html", script)


def test_page_fits(nbdspec, page, drawn, log_checker):  # noqa: F811
    """On a phone nothing is wider than the screen."""
    page(log(flush_records=False), log_checker, "--budget", "40")
    assert fits(nbdspec.cwd, drawn, (nbdspec.cwd / "page.html").read_text())


def test_no_half_page(nbdspec):
    log(1).save(nbdspec.cwd / "trace")
    for where in ("/dev/full", "/no/where"):
        assert where in nbdspec.broken("crash", "explore", "trace", "--check", "true {file}", "--html", where)


def test_merged_page(nbdspec, log_checker):  # noqa: F811
    """As of one exploration."""
    log(flush_records=False).save(nbdspec.cwd / "trace")
    args = ("crash", "explore", "trace", "--check", log_checker, "--budget", "200")
    nbdspec(*args, "--html", "whole.html", status=1)
    for i in (1, 2):
        nbdspec(*args, "--shard", f"{i}/2", "--json", f"shard{i}")
    nbdspec("crash", "merge", "shard1", "shard2", "--html", "merged.html", status=1)
    one, two = (json.loads(Tags((nbdspec.cwd / name).read_text()).scripts[0]) for name in ("whole.html", "merged.html"))
    assert all(one[key] == two[key] for key in ("exploration", "shard", "points", "findings", "timeline", "failing_states"))
