"""nbdspec serve --trace: all that came is in it, in order, and what the disk leaves to it can be read back."""

import os
import random
import signal
import subprocess
import time

import pytest

from test_crash_record import records
from test_serve import CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, MIB, NO_HOLE, PATIENCE, Client, Server, serve  # noqa: F401

SIZE = 8 * MIB
REQUEST = 28


def connect(server):
    c = Client(server)
    c.go()
    return c


class Disk:
    """What a client has written, beside what the server says that it holds."""

    def __init__(self, client, seed):
        self.client, self.random = client, random.Random(seed)
        self.holds, self.written = bytearray(SIZE), []

    def place(self):
        length = self.random.choice([1, 512, 4096, 100 << 10, 128 << 10, 300000, MIB, 2 * MIB])
        step = self.random.choice([1, 512, 4096])
        return self.random.randrange((SIZE - length) // step + 1) * step, length

    def write(self):
        offset, length = self.place()
        data = self.random.randbytes(length)
        assert self.client.command(CMD_WRITE, offset, length, data) == 0
        self.holds[offset:offset + length] = data
        self.written.append(data)

    def zero(self):
        offset, length = self.place()
        command, flags = self.random.choice([(CMD_WRITE_ZEROES, 0), (CMD_WRITE_ZEROES, NO_HOLE), (CMD_TRIM, 0)])
        assert self.client.command(command, offset, length, flags=flags) == 0
        self.holds[offset:offset + length] = bytes(length)

    def compare(self, offset, length):
        self.client.send_request(CMD_READ, offset, length)
        assert self.client.recv_simple(length) == (0, 7, bytes(self.holds[offset:offset + length]))

    def go_on(self, steps):
        for _ in range(steps):
            self.random.choice([self.write, self.write, self.zero, lambda: self.compare(*self.place())])()
        self.compare(0, SIZE)


def writes(path):
    return [data[REQUEST:] for kind, message, _, _, _, data in records(path) if kind == 0 and message == 7 and data[7] == CMD_WRITE]


@pytest.mark.parametrize("more", [[], ["--cache"], ["--knob", "requests_out_of_order"]], ids=["plain", "cache", "out of order"])
@pytest.mark.parametrize("seed", range(4))
def test_disk_holds_what_the_trace_keeps(serve, tmp_path, seed, more):  # noqa: F811
    path = tmp_path / "trace"
    s = serve("--size", str(SIZE), "--trace", str(path), *more)
    d = Disk(connect(s), seed)
    d.go_on(80)
    assert s.stop() == 0
    assert writes(path) == d.written


def test_many_at_once(serve, tmp_path):  # noqa: F811
    """More than may wait to be written, of two clients, and no answer is read meanwhile."""
    path = tmp_path / "trace"
    s = serve("--size", "64M", "--trace", str(path))
    clients = [connect(s), connect(s)]
    sent = [random.Random(i).randbytes(MIB) for i in range(48)]
    for i, data in enumerate(sent):
        clients[i % 2].send_request(CMD_WRITE, i * MIB, MIB, data, cookie=i)
    for i in range(48):
        assert clients[i % 2].recv_simple()[:2] == (0, i)
    for i in range(48):
        clients[i % 2].send_request(CMD_READ, i * MIB, MIB)
        assert clients[i % 2].recv_simple(MIB)[2] == sent[i]
    assert s.stop() == 0
    kept = writes(path)
    assert [w for w in kept if w in sent[::2]] == sent[::2] and [w for w in kept if w in sent[1::2]] == sent[1::2]


def test_a_pipe_is_not_read_back(serve, tmp_path):  # noqa: F811
    fifo, copy = tmp_path / "fifo", tmp_path / "copy"
    os.mkfifo(fifo)
    with open(copy, "wb") as f, subprocess.Popen(["cat", fifo], stdout=f) as cat:
        s = serve("--size", str(SIZE), "--trace", str(fifo))
        d = Disk(connect(s), 1)
        d.go_on(40)
        assert s.stop() == 0
        assert cat.wait(PATIENCE) == 0
    assert writes(copy) == d.written


def stuck_server(tmp_path, err, most):
    """A server whose trace nobody reads, and which has had so many MiB of a client, or as many as it takes."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    s = Server(tmp_path / "s", "--size", str(SIZE), "--trace", str(fifo), stderr=err)
    c = connect(s)
    c.s.settimeout(2)
    try:
        for _ in range(most):
            assert c.command(CMD_WRITE, 0, MIB, bytes(MIB)) == 0
    except TimeoutError:
        assert most > 8
    return s, reader


@pytest.mark.parametrize("most", [1, 40])
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_the_reader_stands_still(tmp_path, most, which):
    """It comes to its end, and says that the trace did not."""
    with open(tmp_path / "err", "w+") as err:
        s, reader = stuck_server(tmp_path, err, most)
        s.process.send_signal(which)
        try:
            assert s.process.wait(20) == 3
        finally:
            s.process.kill()
            os.close(reader)
        err.seek(0)
        assert err.read() == f"nbdspec serve: --trace {tmp_path}/fifo: nobody reads it; the trace holds what came before\n"


def test_stopped_while_the_reader_is_slow(tmp_path):
    """As long as it reads it gets all."""
    with open(tmp_path / "err", "w+") as err:
        s, reader = stuck_server(tmp_path, err, 1)
        s.process.send_signal(signal.SIGTERM)
        os.set_blocking(reader, True)
        read, last = bytearray(), b"x"
        while last:
            time.sleep(0.05)
            last = os.read(reader, 65536)
            read += last
        os.close(reader)
        assert s.process.wait(PATIENCE) == 0
    (tmp_path / "copy").write_bytes(read)
    assert writes(tmp_path / "copy") == [bytes(MIB)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("room", [600, 1500, 3000])
def test_full_disk_loses_nothing_of_ours(serve, tmp_path, room):  # noqa: F811
    """The trace ends behind a whole record; what it should have kept is still read."""
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}k", "none", full], check=False).returncode != 0:
        pytest.skip("cannot mount a small disk")
    try:
        with open(tmp_path / "err", "w+") as err:
            s = serve("--size", str(SIZE), "--trace", str(full / "trace"), stderr=err)
            d = Disk(connect(s), room)
            d.go_on(60)
            assert s.stop() == 3
            err.seek(0)
            assert err.read() == f"nbdspec serve: --trace {full}/trace: No space left on device; the trace holds what came before\n"
        kept = writes(full / "trace")
        assert len(kept) < len(d.written) and kept == d.written[:len(kept)]
        assert (full / "trace").stat().st_size <= room << 10
    finally:
        subprocess.run(["umount", full], check=True)


def test_a_kill_leaves_whole_records(serve, tmp_path):  # noqa: F811
    path = tmp_path / "trace"
    s = serve("--size", str(SIZE), "--trace", str(path))
    d = Disk(connect(s), 3)
    for _ in range(20):
        d.write()
    s.process.send_signal(signal.SIGKILL)
    s.process.wait(PATIENCE)
    os.unlink(s.path)
    data, at = path.read_bytes(), 16
    while at + 4 <= len(data) and at + int.from_bytes(data[at:at + 4], "big") <= len(data):
        at += int.from_bytes(data[at:at + 4], "big")
    path.write_bytes(data[:at])
    kept = writes(path)
    assert kept == d.written[:len(kept)]


def test_who_reads_a_pipe_may_go(tmp_path):
    """Both are told of, and the clients are served."""
    with open(tmp_path / "err", "w+") as err:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        with subprocess.Popen(["head", "-c", "100", fifo], stdout=subprocess.DEVNULL) as reader:
            s = Server(tmp_path / "s", "--size", str(SIZE), "--trace", str(fifo), "--log", "/dev/full", stderr=err)
            Disk(connect(s), 5).go_on(40)
        assert reader.returncode == 0 and s.stop() == 3
        err.seek(0)
        assert err.read() == ("nbdspec serve: --log /dev/full: the disk is full, or fails; the log holds what came before\n"
                              f"nbdspec serve: --trace {fifo}: Broken pipe; the trace holds what came before\n")


def test_nothing_waits_for_longer_than_a_second(serve, tmp_path):  # noqa: F811
    """However busy the server is with what is in no record."""
    path = tmp_path / "trace"
    s = serve("--size", str(SIZE), "--trace", str(path))
    one, other = connect(s), Client(s)
    other.send_option(77, length=1 << 30)
    other.send(bytes(MIB))
    assert one.command(CMD_FLUSH) == 0
    until, sent = time.monotonic() + 1.5, 1
    while time.monotonic() < until:
        if sent % 1024 == 0:
            other.send_option(77, length=1 << 30)
        other.send(bytes(MIB))
        sent += 1
    s.process.send_signal(signal.SIGKILL)
    s.process.wait(PATIENCE)
    os.unlink(s.path)
    assert bytes([0x25, 0x60, 0x95, 0x13, 0, 0, 0, CMD_FLUSH]) in path.read_bytes()


def test_whoever_cuts_the_trace_off_is_told(tmp_path):
    path = tmp_path / "trace"
    with open(tmp_path / "err", "w+") as err:
        s = Server(tmp_path / "s", "--size", str(SIZE), "--trace", str(path), stderr=err)
        c = connect(s)
        assert c.command(CMD_WRITE, 0, MIB, bytes(MIB)) == 0
        c.send_request(CMD_READ, 0, MIB)
        assert c.recv_simple(MIB)[0] == 0
        os.truncate(path, 100)
        c.send_request(CMD_READ, 0, MIB)
        assert s.process.wait(PATIENCE) == -signal.SIGABRT
        s.process.stdout.close()
        err.seek(0)
        assert err.read() == ("nbdspec: what a disk in memory holds cannot be read back from the trace: leave that file alone\n")
    os.unlink(s.path)
