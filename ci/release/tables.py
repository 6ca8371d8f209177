"""What the reports of several releases say beside each other: how each target did, and what changed between releases."""
import collections, contextlib, fnmatch, glob, json, os, re

import expect

REPORTS = "build/reports"


def read(releases, targets=None):
    """{target: {release: the JSON report}} of those that are there, and whole."""
    found = collections.defaultdict(dict)
    for release in releases:
        for path in sorted(glob.glob(f"{REPORTS}/{release}/*.json")):
            target = os.path.basename(path).removesuffix(".json")
            if targets is None or target in targets:
                with contextlib.suppress(json.JSONDecodeError), open(path) as f:  # a run that was killed has cut it off
                    found[target][release] = json.load(f)
    return dict(sorted(found.items()))


def cell(report):
    """passed/failed/expected/new: infos are passed, failed are warnings too, and of these some are known; new is all red."""
    s = report["summary"]
    if s["broken"]:
        return "broken"
    return f"{s['pass'] + s['info']}/{s['warn'] + s['fail'] + s['error']}/{s['known']}/{s['red']}"


def how_each_did(found, releases):
    """Lines. A target that is not in a release is '-'."""
    rows = [[target, *(cell(by[r]) if r in by else "-" for r in releases)] for target, by in found.items()]
    head = ["passed/failed/expected/new", *releases]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in [head, *rows]]


def name_of(result):
    return result["case"] + (f"[{result['point']}]" if result["point"] else "")


def said(result):
    """The verdict, in capitals where it makes the run red; "none" where the release has no such point."""
    return "none" if result is None else result["verdict"].upper() if result["red"] else result["verdict"]


def verdicts(by, releases):
    """{case or point: [its result in each release that has the target, or None]}."""
    names = {}
    for i, release in enumerate(releases):
        for result in by[release]["results"]:
            names.setdefault(name_of(result), [None] * len(releases))[i] = result
    return names


def reasons(target, name, releases, results):
    """Why it is as it is: of what fails, and of what is gone; each once."""
    told = [r["reason"] for r in results if r and r["reason"]]
    for release in releases:
        path = expect.differing(target, release)
        if os.path.exists(path):
            told += [why for _, pattern, why in expect.gone(path) if fnmatch.fnmatchcase(name, re.sub(r"\[", "[[]", pattern))]
    return list(dict.fromkeys(told))


def what_changed(found, releases):
    """Rows {targets, case, points, verdicts: {release: said}, requirement, reasons}: the points of a case that changed alike,
    in all targets where they did."""
    rows = {}
    for target, by in found.items():
        there = [r for r in releases if r in by and not by[r]["summary"]["broken"]]
        for name, results in verdicts(by, there).items():
            seen = [said(r) for r in results]
            if len(set(map(str.lower, seen)) - {"info"} | ({"pass"} if "info" in seen else set())) < 2:
                continue
            broken = list(dict.fromkeys(r["requirement"] for r in results if r and r["verdict"] in ("warn", "fail") and r["requirement"]))
            key = name.split("[")[0], tuple(zip(there, seen)), tuple(broken)
            row = rows.setdefault(key, {"targets": [], "case": key[0], "points": [], "verdicts": dict(key[1]),
                                        "requirement": ", ".join(broken), "reasons": []})
            for where, what in ((row["targets"], [target]), (row["points"], [name]), (row["reasons"], reasons(target, name, there, results))):
                where.extend(w for w in what if w not in where)
    return sorted(rows.values(), key=lambda r: (r["targets"][0], r["case"]))


def change_lines(rows, releases, verbose):
    """The table; each row's reasons below it."""
    if not rows:
        return ["nothing changed between them"]
    cells = []
    for r in rows:
        what = r["case"] if len(r["points"]) > 1 else r["points"][0]
        cells.append([what + (f" ({len(r['points'])} points)" if len(r["points"]) > 1 else ""),
                      *(r["verdicts"].get(release, "-") for release in releases), r["requirement"]])
    head = ["what changed", *releases, "requirement"]
    widths = [min(72, max(len(c[i]) for c in [head, *cells])) for i in range(len(head))]
    lines = []
    for i, row in enumerate([head, *cells]):
        lines.append("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip())
        if i:
            lines.append("    " + ", ".join(rows[i - 1]["targets"]))
            lines += [f"    {why}" for why in rows[i - 1]["reasons"]]
            lines += [f"      {point}" for point in rows[i - 1]["points"] if verbose and len(rows[i - 1]["points"]) > 1]
    return lines
