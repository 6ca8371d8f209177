"""nbdspec serve: clients that mean harm do not make it grow beyond what docs/man/nbdspec-serve.pod says (LIMITS)."""

import random
import re
import resource
import socket
import struct
import time

import pytest

from test_serve import (CMD_BLOCK_STATUS, CMD_FLUSH, CMD_READ, CMD_WRITE, CMD_WRITE_ZEROES, ENOSPC, MIB, NO_HOLE, OPT_GO, OPT_INFO, OPT_LIST,
                        OPT_MAGIC, SET_META, Client, meta, serve)  # noqa: F401

# MiB: the process at rest, the longest payload, and all that one client may cost, also where replies change their order.
REST, PAYLOAD, ONE_CLIENT, ONE_REORDERED = 16, 32, 160, 320


def mebibytes(server, what="VmHWM"):
    with open(f"/proc/{server.process.pid}/status") as f:
        return int(re.search(what + r":\s+(\d+) kB", f.read()).group(1)) / 1024


def option(number, data=b"", length=None):
    return struct.pack(">QII", OPT_MAGIC, number, len(data) if length is None else length) + data


def request(command, offset, length, flags=0, data=b""):
    return struct.pack(">IHHQQI", 0x25609513, flags, command, 7, offset, length) + data


def flood(client, data, seconds=4):
    """Sends without reading until the server takes no more. That it comes to this is asserted."""
    client.s.settimeout(0.2)
    end = time.monotonic() + seconds
    with pytest.raises((socket.timeout, ConnectionError)):
        while time.monotonic() < end:
            client.s.sendall(data)
    client.s.settimeout(60)


def in_transmission(server, *contexts):
    client = Client(server).structured_reply()
    client.option(SET_META, meta(b"", *contexts))
    client.go()
    return client


def is_well(server):
    return in_transmission(server).command(CMD_FLUSH) == 0


@pytest.mark.parametrize("data", [option(OPT_LIST) * 20000, option(77, b"x" * 1000) * 1000,
                                  option(OPT_INFO, struct.pack(">IHHHH", 0, 3, 1, 2, 3)) * 10000,
                                  option(SET_META, meta(b"", *[b"x-nbdspec:*"] * 3000)) * 20],
                         ids=["LIST", "unknown", "INFO", "SET_META_CONTEXT"])
def test_options_without_end(serve, data):
    s = serve("--knob", "error_messages")
    flood(Client(s).structured_reply(), data)
    assert mebibytes(s) < ONE_CLIENT and is_well(s)


def test_options_without_end_whose_replies_are_read(serve):
    s = serve()
    c = Client(s).structured_reply()
    before = mebibytes(s)
    for _ in range(200):
        c.send(option(SET_META, meta(b"", *[b"x-nbdspec:*"] * 100)) * 50)
        for _ in range(50 * 3):
            c.recv_reply()
    assert mebibytes(s) < before + 4 and c.in_step() and is_well(s)


@pytest.mark.parametrize("number", [OPT_GO, OPT_LIST, SET_META, 77])
def test_four_gibibytes_of_option(serve, number):
    s = serve()
    before = mebibytes(s)
    many = [Client(s) for _ in range(20)]
    for c in many:
        c.send(option(number, b"x", length=0xffffffff))
    for _ in range(500):
        for c in many:
            c.send(b"x")
    for _ in range(64):
        many[0].send(bytes(MIB))
    assert mebibytes(s) < before + 4 and is_well(s)


@pytest.mark.parametrize("knobs", [[], ["replies_out_of_order"], ["read_fragments", "chunks_interleaved"], ["read_exceeds_max"]])
@pytest.mark.parametrize("length", [1, 32 * MIB])
def test_reads_whose_replies_are_not_read(serve, knobs, length):
    s = serve(*(a for k in knobs for a in ("--knob", k)))
    flood(in_transmission(s), request(CMD_READ, 0, length) * 20000)
    reordered = {"replies_out_of_order", "chunks_interleaved"} & set(knobs)
    assert mebibytes(s) < (ONE_REORDERED if reordered else ONE_CLIENT) and is_well(s)


def test_block_status_that_is_not_read(serve):
    s = serve()
    c = in_transmission(s, b"base:allocation", b"x-nbdspec:*")
    for at in range(0, 64 * MIB, 8192 * 512):
        c.send(b"".join(request(CMD_WRITE, at + 8192 * i, 1, data=b"x") for i in range(512)))
        for _ in range(512):
            c.recv_simple()
    disk = mebibytes(s)
    flood(c, request(CMD_BLOCK_STATUS, 0, 64 * MIB) * 20000)
    assert mebibytes(s) < disk + ONE_CLIENT and is_well(s)


def test_payloads_that_never_come_to_their_end(serve):
    s = serve("--buffer-limit", "128M")
    many = [in_transmission(s) for _ in range(40)]
    for c in many:
        try:
            c.send(request(CMD_WRITE, 0, 32 * MIB, data=bytes(31 * MIB)))
        except ConnectionError:
            pass
    assert mebibytes(s) < REST + 128 + 2 * PAYLOAD and is_well(s)


def test_many_who_do_not_read(serve):
    s = serve("--buffer-limit", "192M")
    honest = in_transmission(s)
    for _ in range(6):
        flood(in_transmission(s), request(CMD_READ, 0, 32 * MIB) * 20000, 2)
    assert mebibytes(s) < 192 + ONE_CLIENT and honest.alive() and is_well(s)


def test_many_small_hoards(serve):
    """None of them has much; the limit holds for all together nevertheless, and who has next to nothing stays."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit[1], 4096), limit[1]))
    try:
        s = serve("--buffer-limit", "64M")
        honest = in_transmission(s)
        hoards = [Client(s) for _ in range(1500)]
        for c in hoards:
            try:
                c.send(option(OPT_GO, bytes(90000), length=256 << 10))
            except ConnectionError:
                pass
        assert mebibytes(s) < REST + 64 + 4 and honest.alive() and is_well(s)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_thousands_of_connections(serve):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit[1], 4096), limit[1]))
    try:
        s = serve()
        before = mebibytes(s)
        some = min(3000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100)
        idle = [Client(s) for _ in range(some)]
        for c in idle[::2]:
            c.go()
        assert mebibytes(s) - before < some * 24 / 1024 and is_well(s)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    for c in idle:
        c.s.close()
    for _ in range(5000):
        Client(s, None).s.close()
    assert mebibytes(s) - before < some * 24 / 1024 and is_well(s)


def test_writes_all_over_a_huge_export(serve):
    s = serve("--size", str((1 << 63) - 1), "--memory-limit", "64M")
    c = in_transmission(s)
    before, rng, errors = mebibytes(s), random.Random(1), []
    for _ in range(50):
        batch = [request(CMD_WRITE, rng.getrandbits(62), 1, data=b"x") for _ in range(200)]
        batch += [request(CMD_WRITE_ZEROES, rng.getrandbits(62), rng.getrandbits(32), NO_HOLE * i) for i in (0, 1) * 100]
        c.send(b"".join(batch))
        for _ in batch:
            magic = c.s.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
            errors.append(c.recv_simple()[0] if magic == b"\x67\x44\x66\x98" else struct.unpack(">I", c.recv_chunk()[3][:4])[0])
    assert set(errors) == {0, ENOSPC} and mebibytes(s) < before + 64 + 8 and c.alive() and is_well(s)
