"""What the matrices of this folder share: rows side by side, known deviations, the reports."""

import concurrent.futures
import fnmatch
import json
import os
import signal
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REPORTS = os.path.join(TOP, "build", "reports")


def stop(number, frame):
    raise KeyboardInterrupt


def each(work, items, jobs=2):
    """The results of work(item), in order, `jobs` at a time; an interrupt lets what runs end and starts no more."""
    signal.signal(signal.SIGTERM, stop)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)


def known(name):
    """The lines of ci/expectations/NAME: a pattern of "row: column: seen", two blanks, and the reason."""
    path = os.path.join(TOP, "ci", "expectations", name)
    lines = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for line in f:
                pattern, _, reason = line.strip().partition("  ")
                if pattern and not pattern.startswith("#"):
                    if not reason.strip():
                        sys.exit(f"{path}: no reason: {pattern}")
                    lines.append((pattern, reason.strip()))
    return lines


def agrees(documented, seen):
    """None agrees with everything; else one of the patterns between '|' must match."""
    return documented is None or any(fnmatch.fnmatchcase(seen, one) for one in documented.split("|"))


class Matrix:
    """
    Rows of a name and of columns (documented, seen); documented is None where no document says anything, or patterns as
    of fnmatch with '|' between. Whatever differs must stand in ci/expectations, and what stands there must differ.
    """

    def __init__(self, name, about, columns):
        self.name, self.about, self.columns = name, about, columns
        self.rows, self.started = [], time.monotonic()
        self.known, self.used = known(name), set()
        self.deviations, self.new = [], []

    def add(self, row, cells):
        """cells: for each column (documented, seen)."""
        marks = []
        for column, (documented, seen) in zip(self.columns, cells):
            if agrees(documented, seen):
                marks.append("")
                continue
            reason = next((line for line in self.known if fnmatch.fnmatchcase(f"{row}: {column}: {seen}", line[0])),
                          None)
            self.used.add(reason)
            marks.append("known" if reason else "NEW")
            self.deviations.append((row, column, documented, seen, reason and reason[1]))
            if not reason:
                self.new.append((row, column, documented, seen))
        self.rows.append({"row": row, "cells": [
            {"column": c, "documented": d, "seen": s, "mark": m} for c, (d, s), m in zip(self.columns, cells, marks)]})

    def table(self, out):
        print(f"# {self.about}", file=out)
        print("# Each cell is what was seen. Alone: so it is documented. With '*': no document says. With '~': it is one of\n"
              "# what is documented, which follows. With '!=': what is documented, which follows, is something else.\n",
              file=out)
        width = max(len(r["row"]) for r in self.rows)
        cells = [[self.cell(c) for c in r["cells"]] for r in self.rows]
        widths = [max([len(column)] + [len(row[i]) for row in cells]) for i, column in enumerate(self.columns)]
        print(" " * width + "  " + "  ".join(c.ljust(w) for c, w in zip(self.columns, widths)).rstrip(), file=out)
        for r, row in zip(self.rows, cells):
            print(r["row"].ljust(width) + "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip(), file=out)
        if self.deviations:
            print("\n# What differs", file=out)
        for row, column, documented, seen, reason in self.deviations:
            print(f"{row}: {column}: documented: {documented}; seen: {seen}; {reason or 'not known'}", file=out)

    @staticmethod
    def cell(c):
        if c["documented"] is None:
            return f"{c['seen']} *"
        if c["documented"] == c["seen"]:
            return c["seen"]
        return f"{c['seen']} {'!=' if c['mark'] else '~'} {c['documented']}{' (' + c['mark'] + ')' if c['mark'] else ''}"

    def finish(self, verbose, whole=True):
        """Writes the reports, prints the row of ci/conformance; the exit status. whole: no row was left out."""
        os.makedirs(REPORTS, exist_ok=True)
        base = os.path.join(REPORTS, "matrix-" + self.name.removeprefix("matrix-"))
        with open(base + ".txt", "w", encoding="utf-8") as out:
            self.table(out)
        with open(base + ".json", "w", encoding="utf-8") as out:
            json.dump({"matrix": self.name, "about": self.about, "rows": self.rows}, out, indent=1)
        if verbose:
            self.table(sys.stdout)
        stale = [line for line in self.known if whole and line not in self.used]
        print(f"{self.name:32} {len(self.rows)} combinations, {len(self.rows) * len(self.columns)} cells, "
              f"{len(self.deviations)} not as documented, {len(self.new)} of them not known   "
              f"{time.monotonic() - self.started:7.2f} s")
        for row, column, documented, seen in self.new[:20]:
            print(f"  {row}: {column}: documented: {documented}; seen: {seen}")
        for pattern, _ in stale:
            print(f"  ci/expectations/{self.name}: '{pattern}' matches nothing that deviates: remove it")
        return 1 if self.new or stale else 0
