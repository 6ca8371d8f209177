"""nbdspec diff and merge, --shard, --baseline; and --markdown, --github and --gitlab of what a peer should not have sent."""

import copy
import html.parser
import json
import os
import re
import resource
import shutil
import subprocess

import pytest

from conftest import NBDSPEC, ROOT

CASES = ("-c", "export_name/*", "-c", "abort/*", "-c", "option/*")
LIE = "export_name_keeps_padding"
SOUND = {"requirement": None, "level": None, "where": None, "text": None, "expectation": None, "reason": None, "red": False,
         "experimental": False, "message": None, "expected": None, "got": None, "transcript": None, "again": None}
BROKEN = {"verdict": "fail", "red": True, "requirement": "unknown_option_unsup", "level": "MUST", "where": "proto.md:2420-2421"}
WARNED = {"verdict": "warn", "requirement": "option_reply_echoes_option", "level": "SHOULD"}


def command(*lies):
    return [NBDSPEC, "serve", "--unix", "{socket}", "--export", "size=1M", *(word for lie in lies for word in ("--lie", lie))]


def run(nbdspec, name, *options, lies=(), status=None, cases=CASES):
    """Runs some cases; returns the report, which is in NAME."""
    nbdspec("server", "-q", *cases, "--target", "fake, 1.0", "--json", name, *options, "--", *command(*lies), status=status)
    return read(nbdspec, name)


def read(nbdspec, name):
    return json.loads((nbdspec.cwd / name).read_text(encoding="utf-8"))


def write(nbdspec, name, report):
    (nbdspec.cwd / name).parent.mkdir(exist_ok=True)
    (nbdspec.cwd / name).write_text(json.dumps(report), encoding="utf-8")
    return name


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A report in which all is well, of one shard that is the whole."""
    path = tmp_path_factory.mktemp("honest") / "report.json"
    subprocess.run([NBDSPEC, "server", "-q", *CASES, "--shard", "1/1", "--target", "fake, 1.0", "--json", path, "--", *command()], check=True)
    return json.loads(path.read_text(encoding="utf-8"))


def with_results(report, *results):
    """The report with these in place of its own: each a case, a point, and what is not as in a plain pass."""
    made = copy.deepcopy(report)
    plain = {**next(r for r in report["results"] if r["verdict"] == "pass"), **SOUND}
    made["results"] = [{**plain, "case": case, "point": point, **values} for case, point, values in results]
    made["catalogue"] = {case: {"title": "what the case does", "cites": []} for case, *_ in results}
    for verdict in ("pass", "info", "skip", "warn", "fail", "error"):
        made["summary"][verdict] = sum(r["verdict"] == verdict for r in made["results"])
    made["summary"]["red"] = sum(r["red"] for r in made["results"]) + len(made["stale"])
    return made


def kinds(nbdspec, status, *options, before="a.json", after="b.json"):
    """What diff --json says, held against its schema: the kinds with their cases."""
    nbdspec("diff", "-q", "--json", "diff.json", *options, before, after, status=status)
    diff = read(nbdspec, "diff.json")
    conforms(diff, "diff")
    for part in diff["diff"]:
        changes = [c["kind"] for c in part["changes"]]
        assert {**{k: changes.count(k) for k in part["counts"]}, "same": part["counts"]["same"]} == part["counts"]
    return [(c["kind"], (c["after"] or c["before"])["case"]) for part in diff["diff"] for c in part["changes"]]


def conforms(report, definition=None):
    jsonschema = pytest.importorskip("jsonschema")
    with open(os.path.join(ROOT, "docs/json-schema.json"), encoding="utf-8") as f:
        schema = json.load(f)
    if definition:
        schema = {"definitions": schema["definitions"], "$ref": f"#/definitions/{definition}"}
    jsonschema.validate(report, schema, cls=jsonschema.Draft7Validator)


# ---- diff ----

def test_a_lie_is_told_first(nbdspec):
    good, bad = run(nbdspec, "good.json", status=0), run(nbdspec, "bad.json", lies=[LIE], status=1)
    conforms(good)
    failed = {r["case"] for r in bad["results"] if r["verdict"] == "fail"}
    assert failed
    worse = kinds(nbdspec, 1, before="good.json", after="bad.json")
    assert {kind for kind, _ in worse} == {"worse"} and {case for _, case in worse} == failed
    text = nbdspec("diff", "good.json", "bad.json", status=1).stdout
    assert re.search(r"^before fake, 1\.0 \(nbdspec .*good\.json\)\nafter  fake, 1\.0 .*\n\nGot worse: \d+\n  fail   export_name/", text)
    assert "MUST NOT, proto.md:1059" in text and "export_name_no_zeroes" in text
    assert kinds(nbdspec, 0, before="bad.json", after="good.json") and kinds(nbdspec, 1, "--exit-code", before="bad.json", after="good.json")
    assert kinds(nbdspec, 0, "--exit-code", before="bad.json", after="bad.json") == []
    assert f"{len(bad['results'])} as before\n" in nbdspec("diff", "bad.json", "bad.json", status=0).stdout


@pytest.mark.parametrize("before, after, kind, status", [
    ({}, {}, None, 0),
    ({"message": "a"}, {"message": "b"}, None, 0),
    ({}, BROKEN, "worse", 1),
    ({"verdict": "skip"}, BROKEN, "worse", 1),
    (WARNED, BROKEN, "worse", 1),
    ({}, WARNED, "worse", 1),
    ({"verdict": "error"}, WARNED, "worse", 1),
    (BROKEN, {"verdict": "error"}, "worse", 1),
    (BROKEN, {**BROKEN, "requirement": "numbers_big_endian"}, "worse", 1),
    (BROKEN, {**BROKEN, "got": "another"}, None, 0),
    (None, BROKEN, "worse", 1),
    (None, {}, "only_after", 0),
    ({}, None, "only_before", 0),
    (BROKEN, None, "only_before", 0),
    (BROKEN, {}, "mended", 0),
    (BROKEN, {"verdict": "info"}, "mended", 0),
    (BROKEN, {"verdict": "skip"}, "other", 0),
    (BROKEN, WARNED, "other", 0),
    ({}, {"verdict": "skip"}, "other", 0),
    ({}, {"verdict": "info"}, "other", 0),
    ({}, {**BROKEN, "red": False, "expectation": "known"}, "excused", 0),
    ({}, {**BROKEN, "red": False, "expectation": "flaky"}, "excused", 0),
    ({}, {**BROKEN, "red": False, "experimental": True}, "excused", 0),
    ({}, {**BROKEN, "experimental": True}, "worse", 1),
    ({}, {**BROKEN, "expectation": "changed"}, "worse", 1),
    ({"expectation": "flaky"}, BROKEN, "excused", 0),
    ({**BROKEN, "expectation": "flaky", "red": False}, {}, "other", 0),
])
def test_what_a_change_is(nbdspec, honest, before, after, kind, status):
    other = ("abort/other", None, {})
    for name, values in ("a.json", before), ("b.json", after):
        write(nbdspec, name, with_results(honest, other, *([] if values is None else [("abort/one", "x=1", values)])))
    assert kinds(nbdspec, status) == ([(kind, "abort/one")] if kind else [])
    assert bool(kinds(nbdspec, 1 if kind else 0, "--exit-code")) == bool(kind)
    text = nbdspec("diff", "a.json", "b.json", status=status).stdout
    assert ("abort/one" in text) == bool(kind)


def test_points_are_compared_by_their_names(nbdspec, honest):
    """Whatever their order, and where one is told twice, in that order; a finding that is gone is mended where its case ran."""
    write(nbdspec, "a.json", with_results(honest, ("a/a", "x=1", BROKEN), ("a/a", "x=2", {}), ("a/a", "x=2", BROKEN), ("a/a", "x=3", BROKEN)))
    write(nbdspec, "b.json", with_results(honest, ("a/a", "x=2", {}), ("a/a", "x=2", BROKEN), ("a/a", "x=1", BROKEN)))
    assert kinds(nbdspec, 0) == [("mended", "a/a")]
    assert "  gone   a/a[x=3]  was fail, is not there\n" in nbdspec("diff", "a.json", "b.json").stdout
    assert kinds(nbdspec, 1, before="b.json", after="a.json") == [("worse", "a/a")]
    write(nbdspec, "c.json", with_results(honest, ("a/a", "x=2", BROKEN), ("a/a", "x=2", {}), ("a/a", "x=1", BROKEN)))
    assert kinds(nbdspec, 1, before="b.json", after="c.json") == [("worse", "a/a"), ("mended", "a/a")]


@pytest.mark.parametrize("verdict", ["skip", "error"])
def test_a_point_of_a_case_that_was_not_tested_is_not_mended(nbdspec, honest, verdict):
    write(nbdspec, "a.json", with_results(honest, ("a/a", "x=1", BROKEN), ("b/b", None, {})))
    write(nbdspec, "b.json", with_results(honest, ("a/a", None, {"verdict": verdict}), ("b/b", None, {})))
    assert kinds(nbdspec, int(verdict == "error")) == [("worse" if verdict == "error" else "only_before", "a/a"), ("only_before" if verdict == "error" else "only_after", "a/a")]
    # A skip beside another point that ran does not hide that.
    write(nbdspec, "b.json", with_results(honest, ("a/a", "x=2", {"verdict": "skip"}), ("a/a", "x=3", {}), ("b/b", None, {})))
    assert ("mended", "a/a") in kinds(nbdspec, 0)


def test_the_worst_is_first_and_alike_is_one_line(nbdspec, honest):
    points = [("b/many", f"x={i}", BROKEN) for i in range(40)]
    write(nbdspec, "a.json", with_results(honest, ("a/a", None, BROKEN), *[(c, p, {}) for c, p, _ in points], ("c/c", None, {}), ("d/d", None, {})))
    write(nbdspec, "b.json", with_results(honest, ("a/a", None, {}), ("c/c", None, WARNED), *points, ("d/d", None, {"verdict": "error", "red": True})))
    assert [case for _, case in kinds(nbdspec, 1)] == ["d/d", *["b/many"] * 40, "c/c", "a/a"]
    lines = [line.split()[:2] for line in nbdspec("diff", "a.json", "b.json").stdout.splitlines() if re.match("  [a-z]", line)]
    assert lines == [["error", "d/d"], ["fail", "b/many[x=0]"], ["warn", "c/c"], ["pass", "a/a"]]
    assert "b/many[x=0] and 39 more points  was pass" in nbdspec("diff", "a.json", "b.json").stdout


@pytest.mark.parametrize("end, worse", [({"interrupted": True}, True), ({"broken": "the server is gone"}, True), ({}, False)])
def test_a_run_that_ended_early_got_worse(nbdspec, honest, end, worse):
    write(nbdspec, "a.json", honest)
    write(nbdspec, "b.json", {**honest, "summary": {**honest["summary"], **end}})
    assert kinds(nbdspec, int(worse)) == []
    assert ("ended early" in nbdspec("diff", "a.json", "b.json").stdout) == worse
    assert kinds(nbdspec, 0, before="b.json", after="b.json") == []
    # What explains the rest is said of both, though it counts for the one after alone.
    for before, after in ("b", "a"), ("b", "b"), ("a", "b"):
        sides = [side for side, name in (("before", before), ("after", after)) if worse and name == "b"]
        for options in [], ["--markdown", "-"]:
            text = nbdspec("diff", *options, f"{before}.json", f"{after}.json", status=int(worse and before == "a")).stdout
            assert re.findall("The run (before|after) ended early:", text) == sides
    # Then what is not there is not mended.
    write(nbdspec, "c.json", with_results(honest, ("a/a", "x=1", BROKEN), ("a/a", "x=2", {})))
    cut = with_results(honest, ("a/a", "x=2", {}))
    write(nbdspec, "d.json", {**cut, "summary": {**cut["summary"], **end}})
    assert kinds(nbdspec, int(worse), before="c.json", after="d.json") == [("only_before" if worse else "mended", "a/a")]


def test_directories(nbdspec, honest):
    """Files go together by their names; other JSON is passed over, and what is cut off is not."""
    bad = with_results(honest, ("a/a", None, BROKEN))
    for name, report in (("old/one.json", with_results(honest, ("a/a", None, {}))), ("new/one.json", bad), ("old/two.json", bad), ("new/two.json", bad),
                         ("old/three.json", honest), ("new/matrix.json", {"rows": []}), ("new/list.json", [1])):
        write(nbdspec, name, report)
    text = nbdspec("diff", "old", "new", status=1).stdout
    assert re.findall("^==== (.*)", text, re.M) == ["one.json", "three.json", "two.json"]
    assert "==== three.json\nonly before: old/three.json\n" in text and text.count("Got worse") == 1
    assert kinds(nbdspec, 1, before="old", after="new") == [("worse", "a/a")]
    diff = read(nbdspec, "diff.json")["diff"]
    assert [(part["name"], bool(part["before"]), bool(part["after"])) for part in diff] == [("one.json", 1, 1), ("three.json", 1, 0), ("two.json", 1, 1)]
    assert kinds(nbdspec, 0, before="new", after="old") == [("mended", "a/a")] and kinds(nbdspec, 1, "--exit-code", before="old", after="new")
    assert "### `one.json`" in nbdspec("diff", "--markdown", "-", "old", "new", status=1).stdout
    (nbdspec.cwd / "new/cut.json").write_text(json.dumps(bad)[:-40])
    assert "new/cut.json: line 1" in nbdspec.broken("diff", "old", "new")
    (nbdspec.cwd / "empty").mkdir()
    assert "empty: there is no report" in nbdspec.broken("diff", "old", "empty")
    assert "one of each" in nbdspec.usage("diff", "old", "old/one.json")


def damaged(honest):
    """Name, text, and what is said of it."""
    whole = json.dumps(honest)
    yield "cut", whole[:len(whole) // 2], "line 1"
    yield "empty", "", "line 1"
    yield "garbage", "\x00\x1b[2J", "line 1"
    yield "object", "{}", "is no report of 'nbdspec"
    yield "list", "[]", "is no report of 'nbdspec"
    yield "format", json.dumps({**honest, "format": 2}), "is no report of 'nbdspec"
    yield "old", json.dumps({k: v for k, v in honest.items() if k != "catalogue"}), "older nbdspec"
    for key, value in (("results", [1]), ("results", {}), ("summary", {}), ("stale", 1), ("open", [1]), ("shard", {"number": 2, "of": 1}), ("shard", 7), ("target", 1),
                       ("suite", None), ("catalogue", {}), ("started", "x"), ("strict", 1)):
        yield f"{key} {value}", json.dumps({**honest, key: value}), "is a damaged report"
    for key, value in (("verdict", "good"), ("verdict", None), ("case", None), ("point", 1), ("also", [1]), ("duration_us", -1), ("red", None), ("again", [])):
        yield f"{key} of a result {value}", json.dumps({**honest, "results": [{**honest["results"][0], key: value}]}), "is a damaged report"


def test_damaged_reports(nbdspec, honest):
    write(nbdspec, "good.json", honest)
    for name, text, says in damaged(honest):
        (nbdspec.cwd / "bad.json").write_text(text)
        for arguments in (["diff", "good.json", "bad.json"], ["diff", "bad.json", "good.json"], ["merge", "bad.json"], ["matrix", "bad.json"]):
            said = nbdspec.broken(*arguments)
            assert "bad.json" in said and says in said and said.count("\n") == 1, name
    said = nbdspec.broken("server", "-q", "--baseline", "nowhere.json", "--markdown", "m", "--", *command())
    assert said == "nbdspec server: --baseline nowhere.json: No such file or directory\n" and not (nbdspec.cwd / "m").exists()
    for arguments in (["diff", "nowhere.json", "good.json"], ["diff", ".", "nowhere.json"], ["merge", "nowhere.json"]):
        assert "nowhere.json: No such file or directory" in nbdspec.broken(*arguments)
    for command_ in "merge", "matrix":
        assert nbdspec.broken(command_, ".") == f"nbdspec {command_}: .: Is a directory\n"


def test_texts_that_nobody_of_us_wrote(nbdspec, honest):
    """A report written by hand reaches no terminal as it is."""
    bad = with_results(honest, ("a/a\x1b[2J", "\r\n::error", {**BROKEN, "message": "\x1b]0;owned\x07\nsecond line"}))
    write(nbdspec, "a.json", honest)
    write(nbdspec, "b.json", {**bad, "target": "\x1b[31m"})
    text = nbdspec("diff", "a.json", "b.json", status=1).stdout
    assert not re.search("[\x00-\x09\x0b-\x1f]", text) and "\\x1b]0;owned\\x07\\x0asecond line" in text


@pytest.mark.parametrize("arguments, says", [
    ([], "two reports"), (["a.json"], "two reports"), (["a.json", "b.json", "b.json"], "two reports"),
    (["--json", "", "a.json", "b.json"], "--json ''"), (["--markdown", "", "a.json", "b.json"], "--markdown ''"),
    (["--json", "x", "--markdown", "x", "a.json", "b.json"], "named twice"), (["--json", "a.json", "a.json", "b.json"], "would be lost"),
    (["a.json", "client.json"], "nbdspec client"),
])
def test_wrong_command_lines_of_diff(nbdspec, honest, arguments, says):
    for name, suite in ("a.json", "server"), ("b.json", "server"), ("client.json", "client"):
        write(nbdspec, name, {**honest, "suite": suite})
    assert says in nbdspec.usage("diff", *arguments)
    assert read(nbdspec, "a.json") == honest


def test_no_report_is_lost(nbdspec, honest):
    """By whatever name it is called, and where it is read from a directory."""
    for name in "a.json", "b.json", "old/a.json":
        write(nbdspec, name, honest)
    (nbdspec.cwd / "link").symlink_to("a.json")
    for arguments in (["diff", "--json", "./a.json", "a.json", "b.json"], ["diff", "--markdown", "link", "b.json", "a.json"], ["diff", "--json", "old/a.json", "old", "."],
                      ["merge", "-o", "./a.json", "a.json"], ["merge", "--junit", "link", "a.json"], ["matrix", "-o", "a.json", "a.json"], ["matrix", "-o", "link", "b.json", "a.json"]):
        assert "it would be lost" in nbdspec.usage(*arguments)
    assert "named twice" in nbdspec.usage("server", "-q", "--baseline", "a.json", "--markdown", "link", "--", *command())
    assert read(nbdspec, "a.json") == read(nbdspec, "old/a.json") == honest
    nbdspec("diff", "-q", "--json", "/dev/null", "--markdown", "/dev/null", "a.json", "b.json", status=0)


# ---- a full disk ----

@pytest.mark.parametrize("option", ["--json", "--markdown", "--github", "--gitlab", "--junit", "--html", "--text", "--tap"])
def test_full_disk(nbdspec, honest, option):
    """One line, status 3, and no half of a report."""
    write(nbdspec, "a.json", honest)

    def little():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))

    commands = [["merge", "-q", option, "out", "a.json"]]
    if option in ("--json", "--markdown"):
        commands.append(["diff", "-q", option, "out", "a.json", "a.json"])
    for arguments in commands:
        said = nbdspec.broken(*arguments, preexec_fn=little)
        assert "out: the report could not be written whole" in said and said.count("\n") == 1 and not (nbdspec.cwd / "out").exists()
        arguments[arguments.index("out")] = "/dev/full"
        assert "No space left on device" in nbdspec.broken(*arguments)
        arguments[arguments.index("/dev/full")] = "no/such/folder"
        assert "no/such/folder: No such file or directory" in nbdspec.broken(*arguments)
    with open("/dev/full", "w", encoding="utf-8") as full:
        for arguments in (["merge", "a.json"], ["diff", "a.json", "a.json"]):
            assert nbdspec(*arguments, stdout=full, status=3).stderr == "nbdspec: standard output: No space left on device\n"


# ---- shards ----

def listed(nbdspec, *options):
    return nbdspec("server", "--list", *options, status=0).stdout.split()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_shards_are_the_whole(nbdspec, n):
    whole = listed(nbdspec)
    shards = [listed(nbdspec, "--shard", f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(sum(shards, [])) == sorted(whole) and len(whole) == len(set(whole))
    assert {len(s) for s in shards} <= {len(whole) // n, len(whole) // n + 1}
    assert all(s == sorted(s) for s in shards) and shards == [listed(nbdspec, "--shard", f"{i}/{n}") for i in range(1, n + 1)]


def test_shards_stay_where_a_case_is_added(nbdspec):
    """Each gives its neighbour one case at most."""
    whole, n = listed(nbdspec), 5
    globs = [word for case in whole if case != whole[100] for word in ("-c", case)]
    for i in range(1, n + 1):
        with_it, without = set(listed(nbdspec, "--shard", f"{i}/{n}")), set(listed(nbdspec, "--shard", f"{i}/{n}", *globs))
        assert len(with_it - without) <= 2 and len(without - with_it) <= 1


def sharded(nbdspec, n, *options, lies=(), suite="server", peer=None, cases=CASES):
    """Runs all shards of a run; returns the paths of the reports, and the statuses."""
    paths, statuses = [], []
    for i in range(1, n + 1):
        paths.append(f"shard-{i}.json")
        statuses.append(nbdspec(suite, "-q", *cases, "--shard", f"{i}/{n}", "--json", paths[-1], *options, "--", *(peer or command(*lies))).returncode)
    return paths, statuses


def essence(report):
    """What must be the same of a run in parts and of one in one piece."""
    keys = ("case", "point", "title", "verdict", "red", "requirement", "level", "where", "text", "also", "message", "expected", "got", "feature", "expectation", "reason")
    return ([{k: r[k] for k in keys} for r in report["results"]], report["catalogue"], report["stale"], report["open"], report["cases"],
            {k: v for k, v in report["summary"].items() if k != "duration_us"}, *[report[k] for k in ("suite", "target", "again", "strict", "expect", "shard")])


def known_lines(report):
    """Lines of an expectation file for all that a run found, one for several cases, and some that nothing matches."""
    lines = {f"{r['case']}[{r['point']}]" if r["point"] else r["case"]: r for r in report["results"] if r["verdict"] == "fail"}
    assert len({r["case"] for r in lines.values()}) > 2
    text = "".join(f"{name}  fail  {r['requirement']}  known\n" for name, r in list(lines.items())[1:])
    return text + ("export_name/*  fail  export_name_no_zeroes  for many\nabort/*  fail  export_name_no_zeroes  of many cases, matches none\n"
                   "abort/a*  warn  export_name_no_zeroes  another\noption/*[nowhere]  fail  export_name_no_zeroes  of cases of all shards\nread/first_block  fail  export_name_no_zeroes  did not run\n"
                   "option/unknown_is_refused  fail  unknown_option_unsup  gone\noption/nothing_of_the_kind  fail  unknown_option_unsup  no such case\n")


@pytest.mark.parametrize("selected", [True, False])
def test_shards_merged_are_the_whole_run(nbdspec, selected):
    # What a crowd takes of memory is as it happens to be.
    cases = CASES if selected else ("--crowd", "0")
    found = run(nbdspec, "found.json", lies=[LIE], status=1, cases=cases)
    (nbdspec.cwd / "known").write_text(known_lines(found))
    whole = run(nbdspec, "whole.json", "--expect", "known", lies=[LIE], status=1, cases=cases)
    assert len(whole["stale"]) == (3 if selected else 4)
    paths, statuses = sharded(nbdspec, 3, "--expect", "known", "--target", "fake, 1.0", lies=[LIE], cases=cases)
    parts = [read(nbdspec, path) for path in paths]
    assert set(statuses) <= {0, 1} and any(part["open"] for part in parts)
    assert all(line in whole["stale"] for part in parts for line in part["stale"])
    nbdspec("merge", "-q", "-o", "merged.json", *paths, status=1)
    merged = read(nbdspec, "merged.json")
    conforms(merged)
    for part in parts:
        conforms(part)

    def settled(report):  # what is told of memory, or of who left first, is as it happens to be
        results, *rest = essence(report)
        return [[r if r["verdict"] == "fail" else {**r, "message": None} for r in results], *rest]

    assert settled(merged) == settled(whole)
    assert merged["started"] == min(part["started"] for part in parts)
    nbdspec("merge", "-q", "-o", "again.json", *reversed(paths), status=1)
    assert essence(read(nbdspec, "again.json")) == essence(merged)
    assert kinds(nbdspec, 0, "--exit-code", before="whole.json", after="merged.json") == []


def test_the_other_reports_of_a_merge(nbdspec):
    """They are those of the whole run, texts of the peer included."""
    options = [word for name in ("tap", "junit", "html", "markdown", "github", "gitlab", "text") for word in (f"--{name}", f"whole.{name}")]
    run(nbdspec, "whole.json", *options, lies=[LIE], status=1)
    paths, _ = sharded(nbdspec, 2, "--target", "fake, 1.0", lies=[LIE])
    nbdspec("merge", "-q", *[word.replace("whole", "merged") for word in options], *paths, status=1)
    # When it was, and the messages, which may cross each other on their way.
    happens = re.compile(r".* \d+\.\d+ ms .*|\s+[0-9a-f]{4}   .*|\s*… .*")
    for name in ("tap", "junit", "markdown", "github", "gitlab", "text"):
        texts = [(nbdspec.cwd / f"{which}.{name}").read_text().splitlines() for which in ("whole", "merged")]
        texts = [[re.sub(r"[0-9.]+( s\b|\")|duration_ms: .*|timestamp=\S+|command\" value=.*", "", line) for line in text if not happens.fullmatch(line)] for text in texts]
        assert len(texts[0]) > 3 and texts[0] == texts[1], name
    assert (nbdspec.cwd / "merged.html").read_text().endswith("</html>\n")


def test_merge_on_a_terminal_of_nobody(nbdspec):
    paths, _ = sharded(nbdspec, 2, lies=[LIE])
    assert "Why this run fails" in nbdspec("merge", *paths, status=1).stdout
    assert json.loads(nbdspec("merge", "-o", "-", *paths, status=1).stdout)["shard"] is None
    assert nbdspec("merge", "-q", *paths, status=1).stdout == ""
    sharded(nbdspec, 2)
    assert "fail" not in nbdspec("merge", *paths, status=0).stdout


def test_a_client_in_shards(nbdspec):
    peer, cases = [NBDSPEC, "driver", "--copy", "{uri}", "{out}"], ("-c", "copy/*", "-c", "flags/*")
    cases = ("-c", nbdspec("client", "--list", status=0).stdout.split()[0].split("/")[0] + "/*")
    nbdspec("client", "-q", *cases, "--json", "whole.json", "--", *peer)
    n = min(2, read(nbdspec, "whole.json")["cases"])
    paths, _ = sharded(nbdspec, n, suite="client", peer=peer, cases=cases)
    nbdspec("merge", "-q", "-o", "merged.json", *paths)
    assert essence(read(nbdspec, "merged.json")) == essence(read(nbdspec, "whole.json"))


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="no nbdkit here")
def test_durability_in_shards(nbdspec):
    peer, cases = ["nbdkit", "-f", "-U", "{socket}", "nbd", "uri={uri}"], ("-c", "errors/*", "-c", "below/*")
    nbdspec("durability", "-q", *cases, "--runs", 2, "--seed", 3, "--json", "whole.json", "--", *peer)
    paths, _ = sharded(nbdspec, 2, "--runs", 2, "--seed", 3, suite="durability", peer=peer, cases=cases)
    nbdspec("merge", "-q", "-o", "merged.json", *paths)
    whole, merged = (read(nbdspec, name) for name in ("whole.json", "merged.json"))
    assert merged["cases"] == whole["cases"] and {k: v for k, v in merged["summary"].items() if k != "duration_us"} == {k: v for k, v in whole["summary"].items() if k != "duration_us"}
    assert {(r["case"], r["point"], r["verdict"]) for r in merged["results"]} == {(r["case"], r["point"], r["verdict"]) for r in whole["results"]}
    nbdspec("durability", "-q", *cases, "--runs", 2, "--seed", 4, "--shard", "2/2", "--json", "other.json", "--", *peer)
    assert "differ in the command line (selection, seed" in nbdspec.usage("merge", paths[0], "other.json")


def test_a_shard_whose_cases_are_all_skipped(nbdspec):
    """The others may have run some; where none did, it is told by merge."""
    cases = ("-c", "tls/*")
    assert "all" in nbdspec.broken("server", "-q", *cases, "--", *command())
    paths, statuses = sharded(nbdspec, 2, cases=cases)
    assert statuses == [0, 0]
    assert "no case ran: all" in nbdspec("merge", *paths, status=3).stdout


def refused(honest):
    """What is merged, and what is said of it."""
    def shard(i, n=3, **changes):
        part = with_results(honest, (f"a/case_{i}", None, {}))
        part.update(cases=1, shard={"number": i, "of": n, "cases": n, "how": "-c 'a/*' -- it"})
        part.update(changes)
        return part

    def how(i, text):
        return {**shard(i)["shard"], "how": text}

    yield [shard(1), shard(2)], ["shard 3 of 3 is missing"]
    yield [shard(2)], ["shards 1, 3 of 3 are missing"]
    yield [shard(9, 200)], ["shards 1, 2, 3, 4, 5, 6, 7, 8, 10, ", "… of 200 are missing"]
    yield [shard(1), shard(2), shard(2)], ["2.json: shard 2 of 3 is given twice, also as 1.json"]
    yield [shard(1), {**shard(2), "shard": None}, shard(3)], ["1.json: is of a whole run, and of no shard"]
    yield [shard(1), shard(2, target="other"), shard(3)], ["0.json and 1.json", "differ in the target"]
    yield [shard(1), shard(2, nbdspec="9.9"), shard(3)], ["differ in the version of nbdspec"]
    yield [shard(1), shard(2, suite="client"), shard(3)], ["differ in the suite"]
    yield [shard(1), shard(2, strict=True), shard(3)], ["differ in the --strict"]
    yield [shard(1), shard(2, expect="known"), shard(3)], ["differ in the --expect"]
    yield [shard(1), shard(2, 4), shard(3)], ["differ in the number of shards"]
    yield [shard(1), shard(2, shard=how(2, "--seed 2 -- it")), shard(3)], ["differ in the command line"]
    yield [shard(1), shard(2, shard={**how(2, "-c 'a/*' -- it"), "cases": 4}), shard(3)], ["differ in the number of cases"]
    yield [shard(1), {**shard(1), "shard": shard(2)["shard"]}, shard(3)], ["0.json and 1.json overlap: both ran a/case_1"]
    yield [shard(1), shard(2, cases=2), shard(3)], ["the shards have 4 cases, and the whole has 3"]


def test_shards_that_do_not_belong_together(nbdspec, honest):
    for reports, says in refused(honest):
        paths = [write(nbdspec, f"{i}.json", report) for i, report in enumerate(reports)]
        said = nbdspec.usage("merge", "-o", "merged.json", *paths)
        assert all(text in said for text in says) and not (nbdspec.cwd / "merged.json").exists(), said
    unknown = with_results(honest, ("a/a", None, {**BROKEN, "requirement": "of_times_to_come"}))
    said = nbdspec.broken("merge", "-q", "-o", "merged.json", write(nbdspec, "0.json", {**unknown, "nbdspec": "9.9", "shard": {**honest["shard"], "cases": honest["cases"]}}))
    assert "requirements" in said and "9.9" in said and not (nbdspec.cwd / "merged.json").exists()
    done = nbdspec("merge", "-o", "-", "--junit", "merged.xml", "--html", "merged.html", "0.json", status=3)
    assert done.stdout == "" and done.stderr.count("\n") == 1 and not list(nbdspec.cwd.glob("merged*"))


@pytest.mark.parametrize("end, status", [({"interrupted": True}, 3), ({"broken": "the server is \\x1b gone"}, 3), ({"error": 1}, 3), ({"red": 1}, 1), ({}, 0)])
def test_the_status_of_a_merge(nbdspec, honest, end, status):
    write(nbdspec, "a.json", {**honest, "summary": {**honest["summary"], **end}})
    nbdspec("merge", "-q", "-o", "b.json", "a.json", status=status)
    summary = read(nbdspec, "b.json")["summary"]
    assert bool(summary["broken"]) == bool("broken" in end or end.get("interrupted")) and summary["interrupted"] == bool(end.get("interrupted"))
    if "broken" in end:
        assert summary["broken"] == "shard 1 of 1: the server is \\x1b gone"


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/", "/2", "1/0", "a/b", "1/2x", " 1/2", "-1/2", "1/1001", "", "1/99999999999999999999"])
def test_wrong_shards(nbdspec, shard):
    said = nbdspec.usage("server", "--shard", shard, "--", *command())
    assert f"--shard '{shard}'" in said and "I/N" in said


def test_wrong_command_lines_of_shards_and_baselines(nbdspec, honest):
    write(nbdspec, "a.json", honest)
    assert "no more than" in nbdspec.usage("server", "--shard", "1/1000", "--", *command())
    for option in (["--explore", "1"], ["--mutate", "3"]):
        assert "--shard is for cases" in nbdspec.usage("server", "--shard", "1/2", *option, "--", *command())
    assert "--baseline goes with" in nbdspec.usage("server", "--baseline", "a.json", "--", *command())
    assert "run of 'nbdspec server'" in nbdspec.usage("client", "--baseline", "a.json", "--markdown", "m", "--", "true", "{uri}")
    assert "one use" in nbdspec.usage("server", "--baseline", "a.json", "--markdown", "a.json", "--", *command())
    for arguments, says in (([], "want the reports"), (["-o", "", "a.json"], "--json ''"), (["-o", "x", "--junit", "x", "a.json"], "named twice"),
                            (["-o", "a.json", "a.json"], "would be lost")):
        assert says in nbdspec.usage("merge", *arguments)
    assert read(nbdspec, "a.json") == honest


# ---- reports for people who review ----

SPECIAL = ["`", "``", "` `", " ", " ``` ", "```\\x0a</details>", "~~~", "| a | b |", "</details>", "</code></summary><script>alert(1)</script>", "<!-- ", "<![CDATA[", "a<b>&amp;\"'",
           "@everyone", "#1", "GH-1", ":tada:", "[x](javascript:alert(1))", "![x](http://x/y.png)", "http://example.com/", "www.example.com", "a@example.com", "# x", "- x", "1. x",
           "> x", "***", "---", "===", "$x$", "$`x`$", "\\\\", "\\\\`", "\\\\x00", "\\x1b[2J", "\\x0d\\x0a::error::forged", "::error::forged", "##[error]forged", "%0A", "%25", "a,b:c",
           "\\xff\\xfe", "caf\u00e9 \U0001f4be", "*x* _y_ ~~z~~", "\\x09x", "    code", "x" * 4096, "`" * 4096, "\u00e9" * 2048, "<" * 4096, "%" * 4096]


class Structure(html.parser.HTMLParser):
    """The elements of a page, with their texts; which of them are open."""

    def __init__(self):
        super().__init__()
        self.tags, self.codes, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("br", "hr", "img", "input"):
            self.open.append(tag)
        if tag == "code":
            self.codes.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "code" in self.open:
            self.codes[-1] += data
        else:
            assert not re.search("alert|@everyone|forged|GH-1|:tada:|example", data), data


def rendered(text):
    if shutil.which("cmark-gfm") is None:
        pytest.skip("no cmark-gfm here")
    done = subprocess.run(["cmark-gfm", "--unsafe", *(w for e in ("table", "autolink", "strikethrough") for w in ("-e", e))], input=text, capture_output=True, text=True, check=True)
    page = Structure()
    page.feed(done.stdout)
    page.close()
    assert page.open == []
    assert set(page.tags) <= {"h2", "h3", "p", "ul", "li", "strong", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "b", "br"}
    return page


def hostile(honest, texts):
    """A report in which every text of the peer is one of these."""
    return with_results(honest, *[(f"a/case_{i}", text, {**BROKEN, "message": text, "expected": text, "got": text, "server": text, "transcript": text, "again": None})
                                  for i, text in enumerate(texts)])


@pytest.mark.parametrize("at", range(0, len(SPECIAL), 10))
def test_hostile_texts_stay_text(nbdspec, honest, at):
    texts = SPECIAL[at:at + 10]
    report = write(nbdspec, "a.json", {**hostile(honest, texts), "target": texts[0], "cases": honest["cases"]})
    nbdspec("merge", "-q", "--markdown", "m", "--github", "gh", "--gitlab", "gl", report, status=1)
    page = rendered((nbdspec.cwd / "m").read_text(encoding="utf-8"))
    for text in (t for t in texts if len(t) < 300):
        assert page.codes.count(text) >= 2 or text == " ", text
    assert page.tags.count("details") == len(texts)
    write(nbdspec, "b.json", with_results(honest, *[(f"a/case_{i}", text, {}) for i, text in enumerate(texts)]))
    text = nbdspec("diff", "--markdown", "-", "b.json", report, status=1).stdout
    assert rendered(text).tags.count("li") == len(texts) + 2 and len(text) < 65536
    # The lines of workflow commands are as many as were written, and are taken back as they were.
    lines = (nbdspec.cwd / "gh").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(texts) + 1 and all(line.startswith("::error ") for line in lines[:-1]) and lines[-1].startswith("::notice ")
    for line, text in zip(lines, texts):
        properties, data = annotation(line)[1:]
        assert properties["title"].startswith("fail a/case_") and (len(text) > 100 or (f"[{text}]" in properties["title"] and f"expected {text}, got {text}\n" in data))
    entries = read(nbdspec, "gl")
    assert len({e["fingerprint"] for e in entries}) == len(texts) == len(entries)
    assert all(set(e) == {"description", "check_name", "fingerprint", "severity", "location"} for e in entries)


def annotation(line):
    """As the runner reads it: the command, the properties, the data."""
    command_, properties, data = re.fullmatch(r"::(\w+) (.*?)::(.*)", line).groups()

    def taken_back(text, *escaped):
        for what, as_ in (*escaped, ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
            text = text.replace(what, as_)
        return text

    pairs = dict(p.split("=", 1) for p in properties.split(","))
    return command_, {k: taken_back(v, ("%3A", ":"), ("%2C", ",")) for k, v in pairs.items()}, taken_back(data)


def test_a_thousand_hostile_texts(nbdspec, honest):
    """Every report is valid, and Markdown is below what GitHub takes and counts what it left out."""
    texts = [SPECIAL[i % len(SPECIAL)] + str(i) for i in range(1000)]
    report = write(nbdspec, "a.json", {**hostile(honest, texts), "cases": honest["cases"]})
    nbdspec("merge", "-q", "--markdown", "m", "--github", "gh", "--gitlab", "gl", "--junit", "x", "--tap", "t", "--json", "j", "--html", "h", "--text", "tt", report, status=1)
    text = (nbdspec.cwd / "m").read_text(encoding="utf-8")
    page = rendered(text)
    shown, left = page.tags.count("details"), int(re.search(r"\*\*(\d+) more results had no room here", text).group(1))
    assert len(text.encode()) < 65536 and len(text) > 40000 and shown + left == 1000 and shown > 10
    lines = (nbdspec.cwd / "gh").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == ["::error"] * 10 + ["::notice"] and "991 more are not shown" in lines[9]
    assert len(read(nbdspec, "gl")) == 1000
    conforms(read(nbdspec, "j"))
    assert sorted(r["message"] for r in read(nbdspec, "j")["results"]) == sorted(texts)
    write(nbdspec, "b.json", with_results(honest, *[(f"a/case_{i}", t, {}) for i, t in enumerate(texts)]))
    text = nbdspec("diff", "--markdown", "-", "b.json", "a.json", status=1).stdout
    assert len(text.encode()) < 65536 and "Not all had room here" in text and re.search(r"- and \d+ more\n", text)
    rendered(text)


def test_markdown_says_what_changed_first(nbdspec, honest):
    write(nbdspec, "before.json", with_results(honest, *[(c, None, {}) for c in ("export_name/opens", "export_name/empty_is_default")]))
    run(nbdspec, "now.json", "--baseline", "before.json", "--markdown", "m", "--github", "gh", lies=[LIE], status=1)
    text = (nbdspec.cwd / "m").read_text()
    at = [text.index(word) for word in ("make this run fail", "### What changed since `before.json`", "**Got worse: ", "### Counts", "| before |", "| now |",
                                        "### What makes this run fail", "<details>", "- **MUST NOT, proto.md:1059", "- seen: ", "```\nnbdspec server -c ")]
    assert at[:7] == sorted(at[:7]) and at[7:9] == sorted(at[7:9]) and "The last messages:" in text
    assert "- **fail** `export_name/empty_is_default`, was pass" in text
    again = re.search(r"```\nnbdspec (server -c export_name/empty_is_default .*)\n```", text).group(1)
    assert subprocess.run(f"{NBDSPEC} {again}", shell=True, cwd=nbdspec.cwd, env=nbdspec.env, stdout=subprocess.PIPE, check=False).returncode == 1


def test_markdown_says_what_the_expectation_file_does_not_know(nbdspec):
    found = run(nbdspec, "found.json", lies=[LIE], status=1)
    (nbdspec.cwd / "known").write_text(known_lines(found))
    run(nbdspec, "now.json", "--expect", "known", "--markdown", "m", lies=[LIE], status=1)
    text = (nbdspec.cwd / "m").read_text()
    assert "### What `known` does not know\n" in text and "- **stale** `known` line " in text and "- **gone** unexpected pass `abort/" in text
    assert text.index("does not know") < text.index("### Counts")
    run(nbdspec, "now.json", "--markdown", "m", status=0)
    text = (nbdspec.cwd / "m").read_text()
    assert "**All as expected.**" in text and "does not know" not in text and "<details>" not in text


def test_annotations_are_where_the_cases_are(nbdspec, honest):
    cases = ["export_name/opens", "option/unknown_is_refused", "abort/other"]
    report = with_results(honest, *[(case, None, {**BROKEN, "message": "50% of it,\nwrong: all"}) for case in cases], ("a/a", None, WARNED),
                          ("a/b", None, {**BROKEN, "red": False, "expectation": "known"}), ("a/c", None, {**BROKEN, "red": False, "experimental": True}))
    report["stale"] = [{"file": "known, or: not", "line": 7, "pattern": "x/*"}]
    nbdspec("merge", "-q", "--github", "gh", "--gitlab", "gl", write(nbdspec, "a.json", report), status=1)
    lines = [annotation(line) for line in (nbdspec.cwd / "gh").read_text().splitlines()]
    assert [line[0] for line in lines] == ["error"] * 4 + ["warning", "notice"]
    places = {e["check_name"]: e["location"] for e in read(nbdspec, "gl")}
    for _, properties, data in lines[:3]:
        assert "50% of it,\\x0awrong: all" in data and "\nnbdspec server -c " in data
        case = properties["title"].removeprefix("fail ")
        if case == "abort/other":
            assert "file" not in properties
            continue
        with open(os.path.join(ROOT, properties["file"]), encoding="utf-8") as f:
            at = int(properties["line"])
            assert "CASE({}, {},".format(*case.split("/")) in "".join(f.read().split("\n")[at - 1:at + 1])
        assert places[case] == {"path": properties["file"], "lines": {"begin": at}}
    assert lines[3][1] == {"file": "known, or: not", "line": "7", "title": "stale expectation"} and places["stale_expectation"] == {"path": "known, or: not", "lines": {"begin": 7}}
    assert {e["check_name"]: e["severity"] for e in read(nbdspec, "gl")} == {
        **{case: "major" for case in cases}, "a/a": "minor", "a/b": "info", "a/c": "info", "stale_expectation": "minor"}


def test_annotations_that_github_shows(nbdspec, honest):
    """New ones first, and those of many points are one."""
    old = [(f"a/case_{i:02}", None, BROKEN) for i in range(20)]
    new = [("z/new", f"x={i}", BROKEN) for i in range(30)]
    write(nbdspec, "a.json", with_results(honest, *old, *[(c, p, {}) for c, p, _ in new]))
    results = with_results(honest, *old, *new)
    run(nbdspec, "base.json", status=0)
    run(nbdspec, "now.json", "--baseline", "base.json", "--github", "gh", lies=[LIE], status=1)
    lines = (nbdspec.cwd / "gh").read_text().splitlines()
    assert "::new: " in lines[0] and len(lines) <= 11 and any(re.search(r" at \d+ points::", line) for line in lines)
    nbdspec("merge", "-q", "--github", "gh", write(nbdspec, "b.json", results), status=1)
    lines = (nbdspec.cwd / "gh").read_text().splitlines()
    assert len(lines) == 11 and "12 more are not shown, for GitHub shows 10: a/case_09, " in lines[9] and lines[9].endswith(", z/new")


def test_fingerprints_are_those_of_the_run_before(nbdspec):
    prints = []
    for name in "ab":
        run(nbdspec, f"{name}.json", "--gitlab", name, lies=[LIE], status=1)
        prints.append([e["fingerprint"] for e in read(nbdspec, name)])
    assert prints[0] == prints[1] and len(set(prints[0])) == len(prints[0]) > 2
    run(nbdspec, "c.json", "--gitlab", "c", status=0)
    assert read(nbdspec, "c") == []
