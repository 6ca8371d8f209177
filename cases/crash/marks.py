"""Marks: set by a workload, demanded by its checker (docs/recording.md)."""

import os
import sys


def mark(text):
    """Returns when it is set."""
    fd = int(os.environ["NBDSPEC_MARK_FD"])
    os.write(fd, f"{text}\n".encode())
    assert os.read(fd, 3) == b"ok\n"


def must():
    """The marks that stand before the cut, but for those of nbdspec itself."""
    n = int(os.environ.get("NBDSPEC_MARKS_MUST", "0"))
    if n == 0:
        return []
    with open(os.environ["NBDSPEC_MARKS"], encoding="utf-8") as f:
        return [text for line in list(f)[:n] if not (text := line.rstrip("\n")).startswith("nbdspec: ")]


def bad(text):
    """The state is bad: one line that says why."""
    print(text)
    sys.exit(1)
