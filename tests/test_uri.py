"""harness/uri.c against the real libnbd: what does each of them make of the same URI?"""

import ctypes
import errno
import os
import socket
import struct
import subprocess
import threading

import pytest

nbd = pytest.importorskip("nbd")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STRINGS = ("user", "host", "port", "socket", "export", "tls_certificates", "tls_psk_file", "tls_type", "tls_hostname",
           "tls_verify_peer")

UNIX = [  # {} is the socket
    "nbd+unix:///?socket={}", "nbd+unix://?socket={}", "nbd+unix:///disk?socket={}", "nbd+unix:////disk?socket={}",
    "nbd+unix:///a%20b%2Fc?socket={}", "nbd+unix:///%c3%a9?socket={}", "nbd+unix:///a+b?x=y&socket={}&z",
    "nbd+unix:///a/../b?socket=/nonexistent&&=x&socket={}", "nbd+unix://host:1/e?socket={}#fragment",
    "nbd+unix://alice@/e?so%63ket={}", "nbd+unix:///e;f?socket={};x=y",
]
TCP = [  # nobody listens on port 1 of the loopback; libnbd only has to say where it would have gone
    "nbd://127.0.0.1:1", "nbd://127.0.0.1:1/disk", "nbd://127.0.0.1:1//disk", "nbd://[::1]:1/%7e",
    "nbd://127.0.0.1:001/", "nbd://localhost:1?x=y", "nbd://al%69ce:b@127.0.0.1:1/", "nbd://127.0.0.1",
    "nbd://127.0.0.1:0/", "nbd:///disk", "nbds://127.0.0.1:1/", "nbds://bob@[::1]:1/x",
]
REFUSED = [
    "", "/run/nbd.sock", "localhost:10809", "http://localhost/", "NBD://localhost/", "nbd:/x", "nbd:x", "nbd+unix:///x",
    "nbd+unix:/x?socket=s", "nbd://localhost/?socket=s", "nbd+vsock:///?socket=s", "nbd+vsock://host/", "nbd://h/a b",
    "nbd://h/%zz", "nbd://h:x/", "nbd://h:/", "nbd://[::1/", "nbd://::1/", "nbd://h/é",
    "nbd://127.0.0.1/" + "x" * 4097,
]


class NbdUri(ctypes.Structure):
    _fields_ = [("transport", ctypes.c_int), ("tls", ctypes.c_bool)] + [(s, ctypes.c_char_p) for s in STRINGS]


@pytest.fixture(scope="module")
def parse(tmp_path_factory):
    """Returns a function from text to a dict of what uri_parse says, or None with the error printed."""
    so = tmp_path_factory.mktemp("uri") / "uri.so"
    xml = subprocess.check_output(["pkg-config", "--cflags", "--libs", "libxml-2.0"], text=True).split()
    subprocess.check_call(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-I", ROOT, "-shared", "-fPIC", "-o", so,
                           os.path.join(ROOT, "harness/uri.c"), *xml])
    library, libc = ctypes.CDLL(str(so)), ctypes.CDLL(None)
    library.uri_parse.restype, library.uri_format.restype = ctypes.c_bool, ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]

    def uri_parse(text):
        u, error = NbdUri(), ctypes.create_string_buffer(256)
        if not library.uri_parse(text.encode(), ctypes.byref(u), error):
            print(text, error.value)
            return None
        said = {s: None if getattr(u, s) is None else getattr(u, s).decode() for s in STRINGS}
        formatted = library.uri_format(ctypes.byref(u))
        said.update(transport=("tcp", "unix", "vsock")[u.transport], tls=u.tls,
                    formatted=ctypes.string_at(formatted).decode())
        libc.free(formatted)
        library.uri_free(ctypes.byref(u))
        return said
    return uri_parse


def asked_for(uri, path):
    """Lets libnbd connect, and returns the export name that it sent: a newstyle server that is not fixed gets no other
    option than NBD_OPT_EXPORT_NAME (proto.md:140)."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.settimeout(10)
    names = []

    def serve():
        peer = listener.accept()[0]
        with peer, peer.makefile("rb") as stream:
            peer.sendall(b"NBDMAGIC" b"IHAVEOPT" + struct.pack(">H", 0))
            magic, option, length = struct.unpack(">8sII", stream.read(4 + 16)[4:])
            assert (magic, option) == (b"IHAVEOPT", 1)
            names.append(stream.read(length).decode())

    server = threading.Thread(target=serve)
    server.start()
    handle = nbd.NBD()
    with pytest.raises(nbd.Error):  # the server hangs up
        handle.connect_uri(uri)
    server.join()
    listener.close()
    os.unlink(path)
    return names[0], handle


def same_user(said, handle):
    """Without one in the URI libnbd falls back to the login name, which a build machine may not have."""
    return said["user"] is None or said["user"] == handle.get_tls_username()


@pytest.mark.parametrize("template", UNIX)
def test_unix_socket(parse, template, tmp_path):
    path = str(tmp_path / "s")
    said = parse(template.format(path))
    assert (said["transport"], said["tls"], said["socket"]) == ("unix", False, path)
    for text in template.format(path), said["formatted"]:
        name, handle = asked_for(text, path)
        assert name == said["export"]
        assert same_user(said, handle)


@pytest.mark.parametrize("uri", TCP)
def test_tcp(parse, uri):
    said = parse(uri)
    handle = nbd.NBD()
    try:
        handle.aio_connect_uri(uri)
        where = handle.get_uri().replace("[", "").replace("]", "")  # somebody listens on 10809
    except nbd.Error as error:
        where = error.string
    assert said["transport"] == "tcp"
    assert f"{said['host']}:{said['port']}" in where
    assert said["export"] == handle.get_export_name()
    assert said["tls"] == (handle.get_tls() == nbd.TLS_REQUIRE)
    assert same_user(said, handle)


@pytest.mark.parametrize("uri", REFUSED, ids=lambda uri: uri[:30])
def test_refused(parse, uri):
    assert parse(uri) is None
    with pytest.raises(nbd.Error) as refusal:
        nbd.NBD().aio_connect_uri(uri)
    assert refusal.value.errnum in (errno.EINVAL, errno.ENAMETOOLONG)  # not for want of a server
