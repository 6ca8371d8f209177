"""The expectations of a target in a release: ci/expectations/TARGET, which are Debian 12's, and what differs from them.

ci/expectations/TARGET-RELEASE (for testing also that of debian-13) has lines as there, and "- PATTERN  REASON": the lines of the first file with a pattern that this
one fits (a glob over the line's own text) are none of this release's.
"""
import fnmatch, os, re, sys

FOLDER = "ci/expectations"


class Wrong(Exception):
    """A line that says nothing, and where it is."""


def differing(target, release):
    """The path. Testing is as the last release, unless it has a file of its own."""
    path = f"{FOLDER}/{target}-{release}"
    return f"{FOLDER}/{target}-debian-13" if release == "debian-testing" and not os.path.exists(path) else path


def entries(path):
    """(number, text) of each line that is no comment; the reason's further lines belong to it."""
    found = []
    for number, line in enumerate(open(path), 1):
        if line[0] in " \t" and line.strip() and found:
            found[-1] = (found[-1][0], found[-1][1] + line)
        elif line.strip() and line[0] != "#":
            found.append((number, line))
    return found


def gone(path):
    """(number, pattern, reason) of each "- PATTERN  REASON"."""
    found = []
    for number, text in entries(path):
        if text.startswith("- "):
            pattern, *reason = text[2:].split(None, 1)
            if not reason:
                raise Wrong(f"{path}:{number}: the reason is missing: say why this deviation is gone")
            found.append((number, pattern, " ".join(reason[0].split())))
    return found


def fits(glob, pattern):
    """'[' begins a point, so it is no special character of the glob."""
    return fnmatch.fnmatchcase(pattern, re.sub(r"\[", "[[]", glob))


def composed(target, release):
    """The text of the expectation file of that release; "" where there are none."""
    base, own = f"{FOLDER}/{target}", differing(target, release)
    family, dash, _ = target.partition("-")
    shared = differing(family, release) if dash else ""
    lines = entries(base) if os.path.exists(base) else []
    for path in filter(os.path.exists, (own, shared)):
        for number, glob, _ in gone(path):
            kept = [line for line in lines if not fits(glob, line[1].split()[0])]
            if path == own and len(kept) == len(lines):
                raise Wrong(f"{own}:{number}: {glob}: no line of {base} has such a pattern")
            lines = kept
    new = {path: [line for line in entries(path) if not line[1].startswith("- ")] if os.path.exists(path) else [] for path in (own, shared)}
    # What is known of all targets of an implementation gives way to what is known of one.
    return "".join(text for _, text in [*new[own], *lines, *new[shared]])


def main():
    target, release, to = sys.argv[1:]
    try:
        text = composed(target, release)
    except Wrong as e:
        sys.exit(f"ci/releases: {e}")
    with open(to, "w") as f:
        f.write(f"# Made of {FOLDER}/{target} and, where it is there, {differing(target, release)}\n{text}")


if __name__ == "__main__":
    main()
