"""What the matrices share: a run that leaves nothing behind, and the reports of its rows.

A row is {"row": its name, "seen": {aspect: [states]}, "differs": {aspect: one line}}, or {"row": …, "skipped": the reason}.
The known deviations in ci/expectations/NAME are lines "GLOB  ASPECT  REASON", two spaces between.
"""
import fnmatch, json, os, signal, subprocess, tempfile, time

PATIENCE = 30  # seconds for one command; only what hangs takes them


class Untestable(Exception):
    """What is not there, and what to do."""


def with_us(name, *command):
    """The command as one that gets this signal when we die, and that does not begin when we died before that was settled."""
    return ["setpriv", "--pdeathsig", name, "sh", "-c", f'test "$PPID" = {os.getpid()} && exec "$@"', "sh", *command]


class Run:
    """The folder of a run, and what it has started. The guard removes the folder when we and all that are gone, be it by
    SIGKILL: they hold its standard input."""

    def __init__(self):
        self.folder, self.started, self.ended = tempfile.mkdtemp(prefix="nbdspec-"), [], False
        # What we have started ends what it has started itself within moments.
        rm = 'cat; for i in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$1" 2>&1 && break; sleep 0.2; done'
        self.guard = subprocess.Popen(["sh", "-c", rm, "sh", self.folder], stdin=subprocess.PIPE,
                                      stdout=subprocess.DEVNULL, start_new_session=True)
        for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(which, self.interrupted)

    def call(self, *command):
        """Its status, output, and last line of errors. It ends with us; we end it when it hangs."""
        p = subprocess.Popen(with_us("TERM", *command), stdin=subprocess.DEVNULL, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": self.folder},
                             pass_fds=[self.guard.stdin.fileno()])
        self.started.append(p)
        if self.ended:
            p.terminate()
        try:
            out, err = p.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            p.terminate()
            p.communicate()
            return None, "", f"no end within {PATIENCE} s, the server may hang"
        return p.returncode, out, (err.strip() or "no word").splitlines()[-1]

    def interrupted(self, *_):
        self.ended = True
        for p in self.started:
            p.terminate()
        self.over()
        os._exit(130)

    def over(self):
        self.guard.stdin.close()
        self.guard.wait()


def differing(name, aspect, text):
    return [{"row": name, "seen": {}, "differs": {aspect: text}}]


def expect(rows, path):
    """Notes what is known; returns the lines that nothing matches any more."""
    gone = []
    with open(path) as f:
        for line in (line.strip() for line in f if line.strip() and not line.startswith("#")):
            glob, aspect, reason = line.split("  ", 2)
            named = [r for r in rows if fnmatch.fnmatchcase(r["row"], glob)]
            matches = [r for r in named if aspect in r.get("differs", {})]
            for r in matches:
                r.setdefault("known", {})[aspect] = reason.strip()
            if not matches and not any("skipped" in r for r in named):
                gone.append(f"* {glob}  {aspect}: this known deviation is gone, or its rows are not there; " +
                            f"remove its line from {path}")
    return gone


def is_red(row):
    return bool(row.get("differs", {}).keys() - row.get("known", {}).keys())


def lines(r):
    mark = "-" if "skipped" in r else "*" if is_red(r) else "k" if r["differs"] else " "
    seen = r.get("skipped") or "  ".join(f"{aspect} {'/'.join(states)}" for aspect, states in r["seen"].items())
    yield f"{mark} {r['row']:70} {seen}"
    for aspect, text in r.get("differs", {}).items():
        yield f"      {text}"
        if aspect in r.get("known", {}):
            yield f"      known: {r['known'][aspect]}"


def write(path, text):
    """Whole or not at all."""
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


def report(name, version, rows, verbose, begun, whole=True):
    """Writes build/reports/NAME.{txt,json}, prints a row for ci/conformance; returns the exit status.

    whole: no row was left out, so that a known deviation that is not there is gone."""
    gone = [line for line in expect(rows, f"ci/expectations/{name}") if whole]
    why = gone + [line for r in rows if is_red(r) for line in lines(r)]
    text = [f"{name}, {version}: what was seen; * differs from what is documented, k as is known, - skipped",
            *(line for r in rows for line in lines(r)), *(["", "Why this run fails:"] + why if why else [])]
    os.makedirs("build/reports", exist_ok=True)
    write(f"build/reports/{name}.txt", "\n".join(text) + "\n")
    write(f"build/reports/{name}.json", json.dumps({"target": name, "version": version, "rows": rows, "gone": gone}, indent=1))
    skipped, differ = sum("skipped" in r for r in rows), sum(bool(r.get("differs")) for r in rows)
    red = sum(map(is_red, rows))
    counts = (len(rows) - differ - skipped, 0, 0, differ, 0, skipped)
    print(*(text if verbose else ()), f"{name:32} " + " ".join(f"{n:6}" for n in counts) +
          f"   {differ - red:6} {red + len(gone):6} {time.monotonic() - begun:7.2f} s", sep="\n", flush=True)
    return 1 if why else 0
