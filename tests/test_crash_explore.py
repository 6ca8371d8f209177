"""Crash exploration: recordings made by hand, whose states and faults are known."""

import json
import os
import pty
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import time

import pytest

from conftest import PATIENCE, processes, until

WRITE, FLUSH, TRIM, WRITE_ZEROES = 1, 3, 4, 6
FUA = 1

# An append-only log: its header counts the records, each 4096 bytes of one value.
LOG_CHECKER = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	static unsigned char block[4096];
	uint32_t n, must = (uint32_t)atoi(getenv("NBDSPEC_MARKS_MUST"));
	int fd = open(argv[argc - 1], O_RDONLY);

	if (pread(fd, &n, 4, 0) != 4)
		return 9;
	for (uint32_t i = 0; i < n; i++) {
		if (pread(fd, block, 4096, 4096 * (i + 1)) != 4096)
			return 9;
		for (int k = 0; k < 4096; k++)
			if (block[k] != i + 1)
				return printf("record %u of %u is damaged\n", i + 1, n), 1;
	}
	if (n < must)
		return printf("%u records, and %u were acknowledged\n", n, must), 1;
	return 0;
}
"""


class Recording:
    """A trace as `nbdspec serve --trace` writes it (docs/trace-format.md)."""

    def __init__(self, size=1 << 20, minimum=1, multi_conn=0):
        self.bytes = bytearray(b"NBDTRACE" + struct.pack(">II", 1, 1 << 30))
        self.cookie = self.numbers = 0
        self.text(8, f"export size {size} minimum {minimum} multi-conn {multi_conn}")

    def record(self, kind, message, direction, connection, cookie, data, length=None):
        body = struct.pack(">BBBBHHQQI", kind, message, direction, 0, connection, 0, 0, cookie,
                           len(data) if length is None else length) + data
        self.bytes += struct.pack(">I", len(body) + 4) + body

    def text(self, kind, text):
        self.record(kind, 0, 2, 0, 0, text.encode())

    def mark(self, text):
        self.text(9, text)

    def request(self, command, offset=0, data=b"", length=0, flags=0, connection=1):
        self.cookie += 1
        header = struct.pack(">IHHQQI", 0x25609513, flags, command, self.cookie, offset, length or len(data))
        self.record(0, 7, 0, connection, self.cookie, header + data)
        return connection, self.cookie

    def reply(self, request, error=0):
        connection, cookie = request
        self.record(0, 8, 1, connection, cookie, struct.pack(">IIQ", 0x67446698, error, cookie))

    def do(self, *args, **kwargs):
        self.reply(self.request(*args, **kwargs))

    def save(self, path):
        path.write_bytes(self.bytes)
        return path


def header(n):
    return struct.pack("<I", n) + bytes(508)


def log(records=3, flush_records=True, flush_headers=True):
    r = Recording()
    for i in range(1, records + 1):
        r.do(WRITE, 4096 * i, bytes([i]) * 4096)
        if flush_records:
            r.do(FLUSH)
        r.do(WRITE, 0, header(i))
        if flush_headers:
            r.do(FLUSH)
        r.mark(f"record {i}")
    return r


@pytest.fixture(scope="session")
def log_checker(tmp_path_factory):
    """The path of a compiled checker: thousands of checks are made here."""
    program = tmp_path_factory.mktemp("checker") / "log_checker"
    subprocess.run(["cc", "-O2", "-o", program, "-x", "c", "-"], input=LOG_CHECKER, text=True, check=True)
    return f"{program} {{file}}"


@pytest.fixture
def explore(nbdspec):
    """Explores a recording; returns the text, and the JSON report."""

    def run(recording, check, *args, status=None):
        trace = recording.save(nbdspec.cwd / "trace")
        done = nbdspec("crash", "explore", trace, "--check", check, "--json", "report", *args, status=status)
        return done.stdout, json.loads((nbdspec.cwd / "report").read_text())

    return run


def failing(report):
    return {f["state"] for f in report["failing"]}


# ---- what is found ----


def test_correct_log(explore, log_checker):
    text, report = explore(log(), log_checker, "--budget", "600", status=0)
    assert "0 failing" in text and report["failing"] == [] and report["states"]["good"] > 100


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_flush_of_a_record_is_missing(explore, log_checker, jobs):
    """Each finding names the record whose flush is missing as lost, and the header that needs it as durable."""
    text, report = explore(log(flush_records=False), log_checker, "--budget", "400", "-j", jobs, status=1)
    assert len(report["findings"]) == 3
    for i, finding in enumerate(sorted(report["findings"], key=lambda f: f["state"].split(":")[1])):
        lost, durable = [next(line for line in finding["told"] if line.startswith("  " + word)) for word in ("lost:", "durable:")]
        assert f" WRITE {4096 * (i + 1)}+4096" in lost and " WRITE 0+512" in durable
        assert f"record {i + 1} of {i + 1} is damaged" in finding["told"][0]
        assert f"nbdspec crash replay {finding['told'][-1].split()[4]}" in text
    assert report["states"]["bad"] == len(report["failing"]) == sum(f["states"] for f in report["findings"])


def test_flush_of_the_header_is_missing(explore, log_checker):
    """What was acknowledged is not there: the checker is told what must be."""
    text, report = explore(log(flush_headers=False), log_checker, "--budget", "400", status=1)
    assert {f["output"] for f in report["findings"]} >= {"2 records, and 3 were acknowledged"}
    lost = [f["told"][2] for f in report["findings"] if f["output"].startswith("2 records")]
    assert all(" WRITE 0+512, after the mark \"record 2\"" in line for line in lost)


def test_fua_is_no_barrier(explore, log_checker):
    """A record that is merely written, and a header by FUA."""
    r = Recording()
    r.do(WRITE, 4096, b"\1" * 4096)
    r.do(WRITE, 0, header(1), flags=FUA)
    text, report = explore(r, log_checker, status=1)
    assert [f["told"][2].split()[:4] for f in report["findings"]] == [["lost:", "1", "WRITE", "4096+4096"]]
    assert "complete" in json.dumps(report["points"]) and all(p["complete"] for p in report["points"])


def test_write_in_flight_is_not_flushed(explore, log_checker):
    """The FLUSH was sent before the record's reply had come."""
    r = Recording()
    record, flush = r.request(WRITE, 4096, b"\1" * 4096), r.request(FLUSH)
    r.reply(record)
    r.reply(flush)
    r.do(WRITE, 0, header(1), flags=FUA)
    explore(r, log_checker, status=1)


@pytest.mark.parametrize("multi_conn, status", [(0, 1), (1, 0)])
def test_flush_on_another_connection(explore, log_checker, multi_conn, status):
    r = Recording(multi_conn=multi_conn)
    r.do(WRITE, 4096, b"\1" * 4096)
    r.do(FLUSH, connection=2)
    r.do(WRITE, 0, header(1), flags=FUA)
    explore(r, log_checker, status=status)


def test_failed_flush(explore, log_checker):
    r = Recording()
    r.do(WRITE, 4096, b"\1" * 4096)
    r.reply(r.request(FLUSH), error=5)
    r.do(WRITE, 0, header(1), flags=FUA)
    explore(r, log_checker, status=1)


@pytest.mark.parametrize("tear, found", [("sector", True), ("sector=512", True), ("4096", False), ("write", False)])
def test_torn_write(explore, tear, found):
    """Two halves that must be equal, in two sectors of one block."""
    r = Recording()
    r.do(WRITE, 0, b"a" * 1024)
    r.do(FLUSH)
    r.do(WRITE, 0, b"b" * 1024)
    text, report = explore(r, "cmp -n 512 {file} {file} 0 512", "--tear", tear, status=int(found))
    assert report["states"]["met"] == (4 + 4 - 1 if found else 3)
    assert ("torn:    3 WRITE 0+1024" in text) == found


def test_preparation(explore, log_checker):
    """No cut comes before the beginning; what was not flushed by then may be lost all the same."""
    broken = log(1, flush_records=False)
    broken.mark("nbdspec: begin")
    broken.do(WRITE, 8192, b"\2" * 4096)
    explore(broken, log_checker, status=0)
    pending = Recording()
    pending.do(WRITE, 4096, b"\1" * 4096)
    pending.mark("nbdspec: begin")
    pending.do(WRITE, 0, header(1), flags=FUA)
    text, report = explore(pending, log_checker, status=1)
    assert report["exploration"]["marks_set"] == 0


def test_trim_may_do_nothing(explore):
    r = Recording()
    r.do(WRITE, 0, b"a" * 512)
    r.do(FLUSH)
    r.do(TRIM, 0, length=512)
    r.do(FLUSH)
    r.do(WRITE, 4096, b"x" * 512, flags=FUA)
    _, report = explore(r, "sh -c \"test \\$(head -c 4097 {file} | tr -d '\\\\\\\\0') = x\"", status=1)
    assert len(report["failing"]) == report["states"]["met"] - 1


def test_equal_images_are_checked_once(explore):
    """The same bytes again and again, flushed each time."""
    r = Recording()
    for _ in range(20):
        r.do(WRITE, 0, b"a" * 512)
        r.do(FLUSH)
    _, report = explore(r, "true {file}", status=0)
    assert report["states"]["met"] == 2


def test_large_epoch_within_the_budget(explore):
    """Of 2^500 states, as many as were asked for; the least that fails is found all the same."""
    r = Recording(size=1 << 24)
    for i in range(500):
        r.do(WRITE, 8192 * i, bytes([1 + i % 255]) * 8192)
    r.do(FLUSH)
    text, report = explore(r, "sh -c 'test $(stat -c %b {file}) -lt 1 -o 1 = 1'", "--budget", "300", "--tear", "write", status=0)
    assert report["states"]["met"] == 300


# ---- checkers ----


def test_marks_are_told(nbdspec, explore):
    """How many must be visible, which may be, and all of them; with --marks for each number."""
    check = f"sh -c 'echo $NBDSPEC_MARKS_MUST $NBDSPEC_MARK_MAY >> {nbdspec.cwd}/told; cp $NBDSPEC_MARKS {nbdspec.cwd}/marks; test -e {{file}}'"
    r = log(2)
    explore(r, check, "--budget", "50", status=0)
    assert (nbdspec.cwd / "marks").read_text() == "record 1\nrecord 2\n"
    told = (nbdspec.cwd / "told").read_text().splitlines()
    assert set(told) == {"0 record 1", "1 record 2", "2"}
    (nbdspec.cwd / "told").unlink()
    _, report = explore(r, check, "--budget", "500", "--marks", status=0)
    assert len((nbdspec.cwd / "told").read_text().splitlines()) == report["states"]["met"] > len(told)


def test_hanging_checker(nbdspec, explore):
    text, report = explore(log(1), "sh -c 'sleep 1000; : {file}'", "--timeout", "1", "--budget", "2", "-j", "2", status=1)
    assert "the checker hung" in text and report["states"]["hang"] == 2 and report["states"]["good"] == 0
    assert not [line for line in processes(nbdspec.mark).values() if "sleep" in line]


@pytest.mark.parametrize("check", ["kill -SEGV $$; : {file}", "sh -c 'kill -SEGV $$; : {file}'; exit $?"])
def test_crashing_checker(explore, check):
    """Itself, or what its shell started."""
    text, report = explore(log(1), check, "--budget", "2", status=1)
    assert "the checker died of signal 11" in text and report["states"]["crash"] == 2


def test_checker_that_fails_with_nothing_lost(explore):
    text, report = explore(log(1), "sh -c 'echo no good; exit 7; {file}'", "--budget", "5", status=1)
    assert "the checker exited 7: no good" in text and "nothing: all that was written by then is there" in text
    assert len(report["findings"]) == 1


SCRIBBLES = {
    "write": "printf x | dd of={file} bs=1 seek=%d conv=notrunc 2>/dev/null",
    "far away": "printf x | dd of={file} bs=1 seek=1000000 conv=notrunc 2>/dev/null; : %d",
    "truncate": "truncate -s 0 {file}; : %d",
    "grow": "truncate -s 2M {file}; : %d",
    "punch": "fallocate -p -o 0 -l 1M {file}; : %d",
    "map": "python3 -I -S -c 'import mmap, sys; f = open(sys.argv[1], \"r+b\"); mmap.mmap(f.fileno(), 0)[%d] = 77' {file}",
}


@pytest.mark.parametrize("how", SCRIBBLES)
def test_checker_that_writes(nbdspec, explore, log_checker, how):
    """The next check finds its image as it must be, and so does the verdict."""
    script = nbdspec.cwd / "check"
    script.write_text(f"#!/bin/sh\ntest $(stat -L -c %s $1) = 1048576 && {log_checker.replace('{file}', '$1')} || exit 1\n"
                      f"{SCRIBBLES[how].replace('{file}', '$1') % 4100}\n")
    script.chmod(0o755)
    text, report = explore(log(2), f"{script} {{file}}", "--budget", "12", status=0)
    assert report["states"]["wrote"] > 5 and "wrote to the image" in text


def test_checker_that_leaves_a_process(nbdspec, explore):
    """It is ended: it could change the next image."""
    explore(log(1), "sh -c 'sleep 1000 & : {file}'", "--budget", "3", status=0)
    assert not processes(nbdspec.mark)


@pytest.mark.parametrize("check", ["/no/such/checker {file}", "sh -c 'no-such-checker {file}'", "/etc/passwd {file}"])
def test_checker_that_cannot_be_run(nbdspec, check):
    log(1).save(nbdspec.cwd / "trace")
    line = nbdspec.broken("crash", "explore", "trace", "--check", check)
    assert line.count("\n") == 1 and "the checker cannot be run" in line


def test_mounted(nbdspec, explore):
    """The filesystem of each state, through a loop device."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("only root may mount, and there must be loop devices")
    image = nbdspec.cwd / "image"
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    r = Recording(size=8 << 20)
    data = image.read_bytes()
    for at in range(0, len(data), 65536):
        if data[at:at + 65536].strip(b"\0"):
            r.do(WRITE, at, data[at:at + 65536])
    r.do(FLUSH)
    r.mark("nbdspec: begin")
    r.do(WRITE, 1024, bytes(1024))  # the superblock
    text, report = explore(r, "sh -c 'test -d {mount} && touch {mount}/x'", "--fs", "ext4", "-j", "2", status=1)
    assert report["states"] | {"wrote": 0} == report["states"] | {"wrote": 0, "met": 4, "good": 1, "bad": 3} or \
        report["states"]["met"] == 4
    assert "cannot be mounted" in text and "lost:    nothing" in text
    with open("/proc/self/mounts") as f:
        assert str(nbdspec.tmp) not in f.read()


# ---- over NBD ----


@pytest.fixture
def script(nbdspec):
    """Makes a checker of a shell script, whose $1 is the image."""

    def make(text, image="{uri}"):
        path = nbdspec.cwd / "script"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return f"{path} {image}"

    return make


@pytest.fixture
def header_checker(script):
    """Reads the header, and the last record that it tells of."""
    if not shutil.which("qemu-io"):
        pytest.skip("qemu-io is not installed (Debian: qemu-utils)")
    return script("""
        n=$(qemu-io -r -f raw -c 'read -v 0 512' $1 | sed -n 's/^00000000:  0\\(.\\).*/\\1/p')
        [ $n = 0 ] || ! qemu-io -r -f raw -c "read -P $n $((4096 * n)) 512" $1 | grep -q verification
    """)


def test_decided_by_what_is_read(explore, header_checker):
    """The same states fail with checks as without; most follow from what was read."""
    r = log(flush_records=False)
    _, every = explore(r, header_checker, "--budget", "150", "--no-trie", "-j", "2", status=1)
    text, few = explore(r, header_checker, "--budget", "150", "--verify-trie", "5", "-j", "2", status=1)
    assert failing(few) == failing(every) and few["states"]["bad"] == every["states"]["bad"] > 10
    assert every["states"]["decided"] == 0 and few["states"]["decided"] > 100 and few["states"]["verified"] == 5
    assert "more decided by what the checker reads" in text and "5 of these decisions were checked, and hold" in text


def test_checker_that_is_not_deterministic(nbdspec, script):
    """It answers by chance."""
    log(3).save(nbdspec.cwd / "trace")
    check = script("nbdinfo --size $1 && echo >> count && [ $(wc -l < count) -lt 3 ]\n")
    line = nbdspec.broken("crash", "explore", "trace", "--check", check, "--budget", "50", "--verify-trie", "10")
    assert "is not deterministic" in line and "--no-trie" in line


RECOVERY = """
    qemu-io -r -f raw -c 'read -P 74 0 512' $1 | grep -q verification ||
        qemu-io -t writeback -f raw -c 'write -P 98 8192 512' %s -c 'write -P 0 0 512' -c flush $1 > /dev/null
    [ $NBDSPEC_MARKS_MUST = 0 ] || ! qemu-io -r -f raw -c 'read -P 98 8192 512' $1 | grep -q verification
"""


def committed():
    r = Recording()
    r.do(WRITE, 0, b"J" * 512)
    r.do(FLUSH)
    r.mark("committed")
    r.do(WRITE, 65536, b"x" * 512)
    return r


@pytest.mark.parametrize("flush, status", [("-c flush", 0), ("", 1)])
def test_second_cut(explore, script, flush, status):
    """A recovery that replays a journal, and forgets it before what it replayed is durable."""
    if not shutil.which("qemu-io"):
        pytest.skip("qemu-io is not installed (Debian: qemu-utils)")
    check = script(RECOVERY % flush)
    explore(committed(), check, "--budget", "8", status=0)
    text, report = explore(committed(), check, "--budget", "8", "--nested", "20", status=status)
    assert status == 0 or "after a second cut: " in text
    assert [bool(f["second"]) for f in report["failing"]] == [True] * len(report["failing"])


def test_second_cut_is_replayed(nbdspec, explore, script):
    """Its name builds exactly that image, and nothing else: not of a checker that writes otherwise."""
    if not shutil.which("qemu-io"):
        pytest.skip("qemu-io is not installed (Debian: qemu-utils)")
    check = script(RECOVERY % "")
    args = ("--budget", "8", "--nested", "20", "--resume", "verdicts")
    text, report = explore(committed(), check, *args, status=1)
    finding = report["findings"][0]
    assert f"  then:    a second cut while the checker wrote: {finding['second'].split('@')[0]}" in text
    # The journal is gone, and what it held has not come: the rest is as the first cut left it.
    state = f"{finding['state']} then {finding['second']}"
    assert shlex.split(finding["replay"]) == ["nbdspec", "crash", "replay", f"{nbdspec.cwd}/trace", state, "--check", check]
    nbdspec("crash", "replay", "trace", finding["state"], "-o", "first", status=0)
    told = nbdspec("crash", "replay", "trace", state, "--check", check, "-o", "second", status=1).stdout
    assert told.startswith("bad: the checker exited 1")
    first, second = ((nbdspec.cwd / name).read_bytes() for name in ("first", "second"))
    assert first[:512] == b"J" * 512 and second == bytes(512) + first[512:]
    nbdspec("crash", "replay", "trace", finding["state"], "--check", check, status=0)
    # A verdict that was known has its name, too.
    again, resumed = explore(committed(), check, *args, status=1)
    assert resumed["states"]["resumed"] > 0 and [f["second"] for f in resumed["failing"]] == [f["second"] for f in report["failing"]]
    assert "another exploration" in nbdspec.broken("crash", "explore", "trace", "--check", check, "--resume", "verdicts")
    script((RECOVERY % "").replace("-P 98 8192 512'", "-P 98 8192 1024'", 1))
    assert "has written something else" in nbdspec.broken("crash", "replay", "trace", state, "--check", check, "-o", "third")
    assert not (nbdspec.cwd / "third").exists()


@pytest.mark.parametrize("second", ["", "7", "7:-2", "7@", "7@123", "7@0123456789ABCDEF", "x@0123456789abcdef", "7@0123456789abcdef then 7"])
def test_wrong_second_state(nbdspec, second):
    log(1).save(nbdspec.cwd / "trace")
    assert f"'3 then {second}'" in nbdspec.usage("crash", "replay", "trace", f"3 then {second}", "--check", "true {uri}")


def test_second_state_takes_a_checker(nbdspec):
    log(1).save(nbdspec.cwd / "trace")
    for options in (["-o", "image"], ["--check", "true {file}"]):
        assert "{uri}" in nbdspec.usage("crash", "replay", "trace", "3 then 7@0123456789abcdef", *options)
    assert "has written something else" in nbdspec.broken("crash", "replay", "trace", "3 then 7@0123456789abcdef", "--check", "true {uri}")


# ---- replay ----


def test_replayed_image(nbdspec):
    """It holds exactly what the state's name says."""
    r = Recording(size=65536)
    r.do(WRITE, 0, b"a" * 4096)
    r.do(FLUSH)
    r.do(WRITE, 0, b"b" * 4096)
    r.do(WRITE, 2048, b"c" * 4096)
    r.do(WRITE_ZEROES, 1024, length=512)
    r.do(WRITE, 40960, bytes(512))  # it makes no difference
    trace = r.save(nbdspec.cwd / "trace")
    at = 12
    states = {
        f"{at}": b"b" * 1024 + bytes(512) + b"b" * 512 + b"c" * 4096,
        f"{at}:-3": b"a" * 1024 + bytes(512) + b"a" * 512 + b"c" * 4096,
        f"{at}:-3..5": b"a" * 4096,
        f"{at}:-5,-4": b"b" * 4096,
        f"{at}:-5,0+512=1": b"a" * 512 + b"b" * 1536 + b"c" * 4096,
        f"{at}:1024+512=3,2048+1024=1": b"b" * 2048 + b"a" * 1024 + b"c" * 3072,
        "4": b"a" * 4096,
        "3:-1": b"",
        f"{at}:-6": b"b" * 1024 + bytes(512) + b"b" * 512 + b"c" * 4096,
        "3:512+512=0": b"a" * 512 + bytes(512) + b"a" * 3072,
    }
    for i, (state, data) in enumerate(states.items()):
        nbdspec("crash", "replay", trace, state, "-o", f"image{i}", status=0)
        assert (nbdspec.cwd / f"image{i}").read_bytes() == data + bytes(65536 - len(data))
    assert nbdspec("crash", "replay", trace, "3:-1", "--check", "cmp -n 4096 {file} /dev/zero", status=0).stdout == "good\n"
    told = nbdspec("crash", "replay", trace, "3", "--check", "cmp -n 4096 {file} /dev/zero", status=1).stdout
    assert told.startswith("bad: the checker exited 1: ")


def test_failing_states_replay(nbdspec, explore, log_checker):
    _, report = explore(log(flush_records=False), log_checker, "--budget", "60", status=1)
    for state in sorted(failing(report))[:10]:
        nbdspec("crash", "replay", "trace", state, "--check", log_checker, status=1)


def test_torn_trace(nbdspec, log_checker):
    """Killed while it was recorded."""
    r = log(1, flush_records=False)
    (nbdspec.cwd / "trace").write_bytes(r.bytes[:-7])
    done = nbdspec("crash", "explore", "trace", "--check", log_checker, status=1)
    assert done.stderr.count("\n") == 1 and "ends within a record" in done.stderr


# ---- what a person gets wrong ----

NO_EXPORT = b"NBDTRACE" + struct.pack(">II", 1, 1 << 30)
WRONG = [
    ([], None, ["TRACE"]),
    (["trace"], None, ["--check"]),
    (["trace", "--check", "true"], None, ["{file}", "{mount}"]),
    (["trace", "--check", "x {file} {mount}"], None, ["{file}", "{mount}"]),
    (["trace", "--check", "x {mount}"], None, ["--fs"]),
    (["trace", "--check", "x {file}", "--nested", "9"], None, ["--nested", "{uri}"]),
    (["trace", "--check", "x {file}", "--verify-trie", "9"], None, ["--verify-trie", "{uri}"]),
    (["trace", "--check", "x {file}", "--fs", "ext4"], None, ["--fs", "{mount}"]),
    (["trace", "--check", "x {mount}", "--fs", "ext5"], None, ["'ext5'", "ext4, xfs or btrfs"]),
    (["trace", "--check", "x {file}", "--tear", "512"], None, ["'512'", "sector"]),
    *[(["trace", "--check", "x {file}", "--shard", s], None, [f"'{s}'", "I/N"]) for s in ("0/2", "3/2", "1", "a/b", "1/2x")],
    (["trace", "--check", "x {file}", "--budget", "0"], None, ["--budget", "'0'"]),
    (["none", "--check", "x {file}"], None, ["none", "No such file"]),
    (["trace", "--check", "x {file}"], b"", ["trace", "no trace"]),
    (["trace", "--check", "x {file}"], b"hello, world, this is no trace", ["is not a trace"]),
    (["trace", "--check", "x {file}"], NO_EXPORT, ["no note", "crash record"]),
]


@pytest.mark.parametrize("args, data, wanted", WRONG)
def test_wrong(nbdspec, args, data, wanted):
    if data is None:
        log(1).save(nbdspec.cwd / "trace")
    else:
        (nbdspec.cwd / "trace").write_bytes(data)
    line = nbdspec.usage("crash", "explore", *args)
    assert all(word in line for word in wanted) or "is not a trace" in line


@pytest.mark.parametrize("state", ["x", "", "5:", "5:-", "5:-9", "5:-3..1", "99", "5:0+5=1", "5:0+512=9", "5 "])
def test_wrong_state(nbdspec, state):
    log(1).save(nbdspec.cwd / "trace")
    assert f"'{state}'" in nbdspec.usage("crash", "replay", "trace", state, "-o", "image")
    assert not (nbdspec.cwd / "image").exists()


def test_trace_without_data(nbdspec):
    r = Recording()
    r.record(0, 7, 0, 1, 1, struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 0, 4096) + b"x" * 32, length=28 + 4096)
    r.save(nbdspec.cwd / "trace")
    assert "record it with all data" in nbdspec.usage("crash", "explore", "trace", "--check", "true {file}")


def test_no_room(nbdspec, log_checker):
    """For the image; for the report; for the replayed image."""
    log(1).save(nbdspec.cwd / "trace")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    line = nbdspec.broken("crash", "explore", "trace", "--check", log_checker, preexec_fn=limit)
    assert line.count("\n") == 1 and "no room for an image" in line
    line = nbdspec.broken("crash", "explore", "trace", "--check", log_checker, "--json", "/dev/full")
    assert "/dev/full" in line and os.path.exists("/dev/full")
    assert "/no/where" in nbdspec.broken("crash", "replay", "trace", "3", "-o", "/no/where")
    (nbdspec.cwd / "old").write_text("mine")
    assert "old" in nbdspec.broken("crash", "replay", "trace", "3", "-o", "old")
    assert (nbdspec.cwd / "old").read_text() == "mine"


def test_group(nbdspec):
    """The commands of two words."""
    alone = nbdspec("crash", status=2).stderr
    assert "crash explore" in alone and "crash replay" in alone and "crash bench" not in alone
    assert nbdspec("crash", "--help", status=0).stdout == nbdspec("help", "crash", status=0).stdout == alone
    assert "--check" in nbdspec("crash", "explore", "--help", status=0).stdout
    assert "--check" in nbdspec("help", "crash", "explore", status=0).stdout
    for words in (["crash", "bogus"], ["help", "crash", "bogus"], ["explore"]):
        line = nbdspec(*words, status=2).stderr
        assert line.count("\n") == 1 and f"unknown command '{' '.join(words).removeprefix('help ')}'" in line


# ---- in pieces ----


def without_time(text):
    return [line for line in text.splitlines() if not line.startswith(("time:", "resumed:"))]


def test_shards(nbdspec, log_checker):
    """Merged, they say what one exploration says."""
    log(flush_records=False).save(nbdspec.cwd / "trace")
    args = ("crash", "explore", "trace", "--check", log_checker, "--budget", "500")
    whole = nbdspec(*args, "--json", "whole", status=1)
    for i in range(1, 4):
        nbdspec(*args, "--shard", f"{i}/3", "--json", f"shard{i}")
    states = [failing(json.loads((nbdspec.cwd / f"shard{i}").read_text())) for i in range(1, 4)]
    assert set.union(*states) == failing(json.loads((nbdspec.cwd / "whole").read_text()))
    assert sum(map(len, states)) == len(set.union(*states))
    merged = nbdspec("crash", "merge", "shard2", "shard1", "shard3", "--json", "merged", status=1)
    one, two = (json.loads((nbdspec.cwd / name).read_text()) for name in ("whole", "merged"))
    assert failing(one) == failing(two)
    assert all(one[key] == two[key] for key in ("exploration", "shard", "points", "findings", "timeline", "unexplained"))
    assert {**one["states"], "minimising": 0} == {**two["states"], "minimising": 0}
    assert merged.stdout.splitlines()[2:] == without_time(whole.stdout)[2:]
    assert "shard 3 of 3 is missing" in nbdspec.usage("crash", "merge", "shard1", "shard2")
    assert "given twice" in nbdspec.usage("crash", "merge", "shard1", "shard1")
    assert "another exploration" in nbdspec.usage("crash", "merge", "shard1", "whole")
    assert "trace" in nbdspec.usage("crash", "merge", "trace")
    assert "want the reports" in nbdspec.usage("crash", "merge")


def set_in(report, path, value):
    *way, last = path
    for name in way:
        report = report[name]
    report[last] = value


@pytest.mark.parametrize("path, value", [
    (["points"], [1, 2]), (["points"], {}), (["points"], None), (["points"], [[]]),
    (["points_complete"], "x"), (["points_complete"], -1), (["points_complete"], 5), (["points_reached"], 0), (["points_reached"], 1.5),
    *[(["exploration", "crash_points"], n) for n in (-1, 2**63 - 1, "4", 3, None)], (["exploration"], []),
    *[(["points", 0, "number"], n) for n in (-2**63, 0, 2, 5, "1", None)],
    *[(["points", 0, name], n) for name in ("states", "failing") for n in (-1, 2**63 - 1, "x", True)],
])
def test_nonsense_is_not_merged(nbdspec, log_checker, path, value):
    """What no exploration says of its points."""
    log(flush_records=False).save(nbdspec.cwd / "trace")
    for i in (1, 2):
        nbdspec("crash", "explore", "trace", "--check", log_checker, "--budget", "20", "--shard", f"{i}/2", "--json", f"shard{i}")
        report = json.loads((nbdspec.cwd / f"shard{i}").read_text())
        assert len(report["points"]) == report["exploration"]["crash_points"] == 4
        set_in(report, path, value)
        (nbdspec.cwd / f"nonsense{i}").write_text(json.dumps(report))
    nbdspec("crash", "merge", "shard1", "shard2")
    line = nbdspec.usage("crash", "merge", "nonsense1", "nonsense2", "--json", "merged")
    assert "nonsense1: is no report" in line and not (nbdspec.cwd / "merged").exists()


def test_shards_that_stop(nbdspec, log_checker):
    """With --stop-at-first each stops elsewhere: complete is what is so in all of them."""
    log(flush_records=False).save(nbdspec.cwd / "trace")
    args = ("crash", "explore", "trace", "--check", log_checker, "--tear", "write", "--stop-at-first")

    def explored(n):
        for i in range(1, n + 1):
            nbdspec(*args, "--shard", f"{i}/{n}", "--json", f"shard{i}")
        return [json.loads((nbdspec.cwd / f"shard{i}").read_text()) for i in range(1, n + 1)]

    def complete(report):
        return [p["complete"] for p in report["points"]]

    shards = next(s for n in range(2, 9) if (sum(complete((s := explored(n))[0])) > min(sum(complete(o)) for o in s)))
    text = nbdspec("crash", "merge", *(f"shard{i + 1}" for i in range(len(shards))), "--json", "merged", status=1).stdout
    merged = json.loads((nbdspec.cwd / "merged").read_text())
    assert complete(merged) == [all(c) for c in zip(*map(complete, shards))]
    assert merged["points_complete"] == sum(complete(merged)) < len(merged["points"])
    assert f"; all there are at {merged['points_complete']} of {len(merged['points'])} points\n" in text
    assert [p["states"] for p in merged["points"]] == [max(s) for s in zip(*([p["states"] for p in o["points"]] for o in shards))]
    assert merged["states"]["met"] == max(o["states"]["met"] for o in shards) == sum(p["states"] for p in merged["points"])


def test_very_many_points(nbdspec, script):
    """Those that fail are in the report, and some of the others; of merged shards they are the same."""
    if not shutil.which("qemu-io"):
        pytest.skip("qemu-io is not installed (Debian: qemu-utils)")
    r = Recording(size=1 << 24)
    r.do(WRITE, 0, b"A" * 512, connection=2)  # which no FLUSH covers
    for i in range(3200):
        r.do(WRITE, 4096 * i + 512, bytes([65 + i // 1500]) * 512)
        r.do(FLUSH)
        if i == 1500:
            r.do(WRITE, 512, b"B" * 512, flags=FUA)
    r.save(nbdspec.cwd / "trace")
    # B wants A to be there.
    check = script("qemu-io -r -f raw -c 'read -P 66 512 512' $1 | grep -q verification || ! qemu-io -r -f raw -c 'read -P 65 0 512' $1 | grep -q verification")
    args = ("crash", "explore", "trace", "--check", check, "--tear", "write")
    nbdspec(*args, "--json", "whole", status=1)
    for i in (1, 2, 3):
        nbdspec(*args, "--shard", f"{i}/3", "--json", f"shard{i}", status=1)
    nbdspec("crash", "merge", "shard1", "shard2", "shard3", "--json", "merged", status=1)
    reports = [json.loads((nbdspec.cwd / name).read_text()) for name in ("whole", "merged", "shard1")]
    for report in reports:
        all_of_them, points = report["exploration"]["crash_points"], report["points"]
        numbers = [p["number"] for p in points]
        assert report["points_left_out"] == all_of_them - len(points) > 500
        assert numbers == sorted(set(numbers)) and set(range(1, all_of_them + 1, 2)) <= set(numbers) and numbers[-1] <= all_of_them
        assert sum(p["failing"] for p in points) == len(report["failing"]) > 500
        assert report["points_complete"] == all_of_them and report["points_reached"] == 1
    assert reports[0]["points"] == reports[1]["points"]


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_resumed(nbdspec, log_checker, which):
    """The verdicts that were known are kept, a torn line is not, and the end is the same."""
    log(6, flush_records=False).save(nbdspec.cwd / "trace")
    args = ("crash", "explore", "trace", "--check", log_checker, "--budget", "800")
    whole = nbdspec(*args, "--json", "whole", status=1)
    p = nbdspec.start(*args[:-1], "50000", "--resume", "verdicts", "-j", "2")
    verdicts = nbdspec.cwd / "verdicts"
    until(lambda: verdicts.exists() and verdicts.read_bytes().count(b"\n") > 60)
    p.send_signal(which)
    out, err = p.communicate(timeout=PATIENCE)
    assert err == "" and p.returncode == (-signal.SIGKILL if which == signal.SIGKILL else 130)
    assert which == signal.SIGKILL or "interrupted" in out
    until(lambda: not nbdspec.leftovers())
    with open(verdicts, "ab") as f:
        f.write(b"0123456789abcdef01234567")
    again = nbdspec(*args, "--resume", "verdicts", "--json", "again", status=1)
    assert without_time(again.stdout) == without_time(whole.stdout)
    one, two = (json.loads((nbdspec.cwd / name).read_text()) for name in ("whole", "again"))
    assert two["states"]["resumed"] >= 20 and two["failing"] == one["failing"] and two["points"] == one["points"]
    assert "another exploration" in nbdspec.broken(*args[:4], log_checker + " ", *args[5:], "--resume", "verdicts")


# So that nothing is known of a checker's end before the stop that comes behind it.
HOLD = "until [ -s {0}/pid ]; do sleep 0.01; done; touch {0}/stopped; kill -STOP $(cat {0}/pid)"


def stopped(nbdspec, *args):
    """Stops the exploration just behind its checker, which has held it; returns the text, and the JSON report."""
    p = nbdspec.start(*args, "--json", "report")
    (nbdspec.cwd / "pid").write_text(str(p.pid))
    until((nbdspec.cwd / "stopped").exists)
    until(lambda: all("nbdspec crash" in line for line in processes(nbdspec.mark).values()))
    p.send_signal(signal.SIGTERM)
    p.send_signal(signal.SIGCONT)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and "interrupted" in out and err == ""
    return out, json.loads((nbdspec.cwd / "report").read_text())


@pytest.mark.parametrize("end", ["kill -TERM $$", "exit 1"])
def test_stopped_with_its_checkers(nbdspec, script, end):
    """Who stops all that a job has may come to a checker first: that it failed then says nothing of the state."""
    log(1).save(nbdspec.cwd / "trace")
    check = script(f"""
        [ ! -e {nbdspec.cwd}/again ] || exit 0
        sleep 0.03
        [ $(wc -l <{nbdspec.cwd}/verdicts) -lt 5 ] || [ -e {nbdspec.cwd}/stopped ] || {{ {HOLD.format(nbdspec.cwd)}; {end}; }}
    """, "{file}")
    args = ("crash", "explore", "trace", "--check", check, "--budget", "200", "--resume", "verdicts")
    out, report = stopped(nbdspec, *args)
    assert "0 failing" in out and "first failure" not in out
    assert report["failing"] == [] and report["first_failure"] < 0 and report["unexplained"] == 0
    assert not report["states"]["bad"] + report["states"]["crash"] + sum(p["failing"] for p in report["points"]) and report["states"]["good"] >= 4
    (nbdspec.cwd / "again").touch()
    told = nbdspec(*args, status=0).stdout
    assert int(re.search(r"resumed: (\d+)", told).group(1)) >= 4


def test_stopped_while_minimising(nbdspec, script, log_checker):
    """What failed before is told, and no finding stands on a checker that was stopped."""
    log(flush_records=False).save(nbdspec.cwd / "trace")
    check = script(f"""
        echo >>{nbdspec.cwd}/checks
        [ $(wc -l <{nbdspec.cwd}/checks) -gt 60 ] || exec {log_checker.replace("{file}", "$1")}
        sleep 0.7
        [ -e {nbdspec.cwd}/stopped ] && exit 0
        {HOLD.format(nbdspec.cwd)}
        kill -TERM $$
    """, "{file}")
    out, report = stopped(nbdspec, "crash", "explore", "trace", "--check", check, "--budget", "60")
    assert report["findings"] == [] and report["unexplained"] == len(report["failing"]) > 10
    assert "finding" not in out and f"{report['unexplained']} more failing states were not minimised" in out


def test_stopped_with_its_processes(nbdspec):
    """Those that check, first."""
    log(1).save(nbdspec.cwd / "trace")
    p = nbdspec.start("crash", "explore", "trace", "--check", "sh -c 'sleep 1000; : {file}'", "-j", "2")
    until(lambda: len([line for line in processes(nbdspec.mark).values() if line.startswith("sleep")]) == 2)
    for pid in subprocess.run(["pgrep", "-P", str(p.pid), "nbdspec$"], capture_output=True, text=True, check=True).stdout.split():
        os.kill(int(pid), signal.SIGTERM)
    time.sleep(0.05)
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and "interrupted" in out and err == ""


def test_stopped_while_it_starts_processes(nbdspec):
    """One that is just being executed has no environment by which it is found."""
    log(1).save(nbdspec.cwd / "trace")
    for _ in range(8):
        p = nbdspec.start("crash", "explore", "trace", "--check", "sh -c 'i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; wait; : {file}'", "-j", "2")
        until(lambda: any(line.startswith("sleep") for line in processes(nbdspec.mark).values()))
        p.send_signal(signal.SIGTERM)
        _, err = p.communicate(timeout=PATIENCE)
        assert p.returncode == 130 and err == "" and not nbdspec.leftovers()


@pytest.mark.parametrize("checks", [1, 2, 3])
def test_verdicts_are_written_in_time(nbdspec, script, checks):
    """While a checker takes long, as well one of the last state or of a finding: also a kill must not lose what came before."""
    log(1).save(nbdspec.cwd / "trace")
    check = script(f"echo >>{nbdspec.cwd}/checks; [ $(wc -l <{nbdspec.cwd}/checks) -le {checks} ] || sleep 1000; exit {checks // 3}", "{file}")
    p = nbdspec.start("crash", "explore", "trace", "--check", check, "--tear", "write", "--resume", "verdicts")
    verdicts = nbdspec.cwd / "verdicts"
    until(lambda: verdicts.exists() and verdicts.read_bytes().count(b"\n") == 1 + checks, 20)
    p.kill()
    p.communicate(timeout=PATIENCE)
    until(lambda: not nbdspec.leftovers())


def test_hangs_are_checked_anew(nbdspec, explore):
    """What took too long may have time enough when it goes on."""
    (nbdspec.cwd / "slow").touch()
    args = (log(1), f"sh -c 'test ! -e {nbdspec.cwd}/slow || sleep 1000; : {{file}}'", "--budget", "3", "--resume", "verdicts")
    _, first = explore(*args, "--timeout", "1", "-j", "3", status=1)
    (nbdspec.cwd / "slow").unlink()
    _, second = explore(*args, status=0)
    assert first["states"]["hang"] == 3 and second["states"]["hang"] == second["states"]["resumed"] == 0
    _, third = explore(*args, status=0)
    assert third["states"]["good"] == third["states"]["resumed"] == 3


def other_recording(change=None):
    """The same commands in the same order, but for one thing."""
    r = Recording()
    data = bytearray(b"\1" * 4096)
    data[1001] += change == "a byte"
    r.do(WRITE, 4096, bytes(data), flags=FUA if change == "fua" else 0)
    r.reply(r.request(WRITE, 8192, b"\2" * 512, connection=2 if change == "connection" else 1), error=5 if change == "success" else 0)
    r.mark("one" if change == "mark" else "two")
    r.mark("nbdspec: begin" if change == "beginning" else "nbdspec: going on")
    r.do(WRITE, 0, header(1), flags=FUA)
    return r


@pytest.mark.parametrize("change", ["a byte", "fua", "success", "connection", "mark", "beginning"])
def test_verdicts_are_of_one_recording(nbdspec, log_checker, change):
    """What is known of one recording is not said of another, be they ever so alike."""
    args = ("crash", "explore", "trace", "--check", log_checker, "--resume", "verdicts")
    other_recording().save(nbdspec.cwd / "trace")
    nbdspec(*args, status=1)
    assert nbdspec(*args, status=1).stdout.count("resumed: ") == 1
    other_recording(change).save(nbdspec.cwd / "trace")
    assert "another exploration" in nbdspec.broken(*args)


def test_what_is_read_is_kept(nbdspec, explore, header_checker):
    """A larger budget decides by what a smaller one has seen; without it more is checked, to the same end."""
    r, verdicts = log(4, flush_records=False), nbdspec.cwd / "verdicts"
    args = ("--resume", "verdicts")
    explore(r, header_checker, "--budget", "60", *args, status=1)
    kept = verdicts.read_text()
    assert re.search(r"(?m)^t \d+ \d+( \d+ \d+)*$", kept)
    _, with_reads = explore(r, header_checker, "--budget", "300", *args, status=1)
    again = verdicts.read_text()
    verdicts.write_text(re.sub(r"(?m)^t .*\n", "", kept))
    _, without = explore(r, header_checker, "--budget", "300", *args, status=1)
    checked = [sum(o["states"][v] for v in ("good", "bad")) - o["states"]["decided"] - o["states"]["resumed"] for o in (with_reads, without)]
    assert 0 <= checked[0] < checked[1] and failing(with_reads) == failing(without)
    # And what the first run has added goes on to grow.
    verdicts.write_text(again)
    _, third = explore(r, header_checker, "--budget", "600", "--no-trie", *args, status=1)
    verdicts.write_text(again[:-1].rpartition("\n")[0] + "\nt 5")
    _, torn = explore(r, header_checker, "--budget", "300", *args, status=1)
    assert failing(torn) == failing(with_reads)


@pytest.mark.parametrize("line", ["t", "t 0", "t 0 ", "t 0 1 2", "t x 1", "t 0 1 99999 0", "t 0 1 0 99999", "t 99999 1", "t -1 1", "t 0 0 0 0\nt 0 0 0 0"])
def test_wrong_reads(nbdspec, header_checker, line):
    log(2).save(nbdspec.cwd / "trace")
    args = ("crash", "explore", "trace", "--check", header_checker, "--budget", "3", "--resume", "verdicts")
    nbdspec(*args, status=0)
    head, first = (nbdspec.cwd / "verdicts").read_text().splitlines()[:2]
    (nbdspec.cwd / "verdicts").write_text(f"{head}\n{first}\n{line}\n")
    assert "is not understood" in nbdspec.broken(*args)


def test_interrupted_in_a_check(nbdspec):
    log(1).save(nbdspec.cwd / "trace")
    p = nbdspec.start("crash", "explore", "trace", "--check", "sh -c 'sleep 1000; : {file}'", "-j", "2")
    until(lambda: [line for line in processes(nbdspec.mark).values() if line.startswith("sleep")])
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and "interrupted" in out and err == ""


def test_interrupted_with_all_handed_out(nbdspec):
    """A state that is being checked has no verdict: nobody knows all that there are at its point."""
    log(1).save(nbdspec.cwd / "trace")
    p = nbdspec.start("crash", "explore", "trace", "--check", "sh -c 'sleep 1000; : {file}'", "--tear", "write", "-j", "8", "--json", "report")
    until(lambda: len([line for line in processes(nbdspec.mark).values() if line.startswith("sleep")]) == 3)
    time.sleep(0.2)
    p.send_signal(signal.SIGTERM)
    out, _ = p.communicate(timeout=PATIENCE)
    report = json.loads((nbdspec.cwd / "report").read_text())
    assert p.returncode == 130 and "0 checked, 0 failing; all there are at 0 of 3 points" in out
    assert [(p["states"] > 0, p["complete"]) for p in report["points"]] == [(True, False)] * 3
    assert report["points_complete"] == 0 and report["points_reached"] == 4


def test_interrupted_keeps_complete_points(nbdspec, script):
    """Those that were done before the one at which it was stopped."""
    log(1).save(nbdspec.cwd / "trace")
    check = script("[ $NBDSPEC_MARKS_MUST = 1 ] || sleep 1000", "{file}")
    p = nbdspec.start("crash", "explore", "trace", "--check", check, "--tear", "write", "--json", "report")
    until(lambda: [line for line in processes(nbdspec.mark).values() if line.startswith("sleep")])
    time.sleep(0.1)
    p.send_signal(signal.SIGTERM)
    out, _ = p.communicate(timeout=PATIENCE)
    points = json.loads((nbdspec.cwd / "report").read_text())["points"]
    assert p.returncode == 130 and [p["complete"] for p in points] == [False, False, True]


def test_progress(nbdspec, log_checker):
    """On a terminal: verdicts per second, and the time that is left."""
    log(8, flush_records=False).save(nbdspec.cwd / "trace")
    ours, theirs = pty.openpty()
    p = nbdspec.start("crash", "explore", "trace", "--check", log_checker, "--budget", "100000", stderr=theirs)
    os.close(theirs)
    told = ""
    while not re.search(r"\r\d+ verdicts, [1-9]\d* failing, \d+/s, point \d+ of \d+, at most \d+ s left", told):
        told += os.read(ours, 4096).decode()
    time.sleep(0.7)  # younger ones are not told of
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=PATIENCE)
    os.close(ours)
    assert p.returncode == 130 and "more failing states were not minimised" in out


def test_stop_at_first(explore, log_checker):
    _, report = explore(log(flush_records=False), log_checker, "--stop-at-first", status=1)
    assert 1 <= len(report["failing"]) <= 3


def test_same_seed_same_states(explore):
    reports = [explore(log(4, flush_records=False), "cmp -n 1 {file} /dev/zero", "--budget", "200", "--seed", seed)[1]
               for seed in ("1", "1", "2")]
    assert failing(reports[0]) == failing(reports[1]) != failing(reports[2])
