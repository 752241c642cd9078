"""Where clients may connect: TCP in both families, vsock, and sockets that systemd has opened."""

from __future__ import annotations

import os
import socket
from urllib.parse import unquote, urlsplit

import pytest
import trio

from pydrbd.admin.nbd_address import parse_uri
from pydrbd.config import Listen, ResourceSettings
from pydrbd.config.settings import TlsSettings
from pydrbd.errors import BusyError, UsageError
from pydrbd.limits import SYSTEMD_SOCKETS_MAX
from pydrbd.runtime import nbd_places
from pydrbd.runtime.nbd_places import listen_for_clients
from pydrbd.runtime.nbd_server import NbdServer
from pydrbd.runtime.systemd import inherited_sockets
from pydrbd.wire.nbd import Command
from tests.nbd.raw_client import RawClient


def environment(count, pid=None):
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": "a", "HOME": "/"}


@pytest.fixture
def listening():
    """`listening(family, address)` is a socket as systemd opens it."""
    sockets = []

    def make(family, address):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sockets.append(sock)
        sock.bind(address)
        sock.listen()
        return sock

    yield make
    for sock in sockets:
        if sock.fileno() >= 0:
            sock.close()


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
async def test_both_families_of_tcp_serve(engine, nursery, short_tmp, host, family):
    """The address is printed as a client takes it."""
    with socket.socket(family) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} here: {error}")
        port = probe.getsockname()[1]
    server = NbdServer(engine)
    uris = listen_for_clients(server, ResourceSettings((Listen(host=host, port=port),)), short_tmp, "r0")
    assert uris == [f"nbd://{f'[{host}]' if ':' in host else host}:{port}/r0"]
    await nursery.start(server.serve)
    client = RawClient(await trio.open_tcp_stream(host, port))
    await client.go("disk")
    assert await client.request(Command.READ, 0, 512) == (0, bytes(512))
    await client.close()


def test_vsock_is_listened_at_and_said(engine, short_tmp):
    """For guests, whose host is number 2; a busy port is an error."""
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except OSError:
        with pytest.raises(UsageError, match="no vsock"):
            NbdServer(engine).listen_vsock(10809)
        return
    settings = ResourceSettings((Listen(port=54321, is_vsock=True),), tls=TlsSettings("require"))
    first, second = NbdServer(engine), NbdServer(engine)
    try:
        assert listen_for_clients(first, settings, short_tmp, "r0") == ["nbds+vsock://2:54321/r0"]
        with pytest.raises(BusyError, match="vsock:54321"):
            second.listen_vsock(54321)
    finally:
        first.close()


async def test_sockets_of_systemd_are_served_beside_our_own(engine, nursery, short_tmp, listening, monkeypatch):
    """Taken over as they are, with their addresses; a Unix socket stays when the server goes."""
    path = short_tmp / "theirs.sock"
    theirs = [listening(socket.AF_UNIX, str(path)), listening(socket.AF_INET, ("127.0.0.1", 0))]
    port = theirs[1].getsockname()[1]
    monkeypatch.setattr(nbd_places, "inherited_sockets", lambda: theirs)
    server = NbdServer(engine)
    assert listen_for_clients(server, ResourceSettings(), short_tmp, "r0") == [
        f"nbd+unix:///r0?socket={short_tmp}/r0.nbd.sock",
        f"nbd+unix:///r0?socket={path}",
        f"nbd://127.0.0.1:{port}/r0",
    ]
    await nursery.start(server.serve)
    for stream in (await trio.open_unix_socket(str(path)), await trio.open_tcp_stream("127.0.0.1", port)):
        client = RawClient(stream)
        await client.go("disk")
        assert await client.request(Command.FLUSH) == (0, b"")
        await client.close()
    server.close()
    assert path.exists()


def test_what_systemd_gives_is_for_one_process_and_not_for_its_children(listening):
    """The variables are gone afterwards, and the descriptor is closed on exec."""
    sock = listening(socket.AF_INET, ("127.0.0.1", 0))
    given = os.dup2(sock.fileno(), 300, inheritable=True)
    environ = environment(1)
    (taken,) = inherited_sockets(environ, given)
    assert taken.getsockname() == sock.getsockname()
    assert not os.get_inheritable(given)
    assert environ == {"HOME": "/"}
    taken.close()
    assert inherited_sockets({}) == []
    assert inherited_sockets(environment(1, pid=1)) == []


def test_what_cannot_be_served_is_said(listening):
    """A connection instead of a listening socket (Accept=yes), a closed descriptor, far too many."""
    ours, theirs = socket.socketpair()
    given = os.dup2(ours.fileno(), 300)
    with pytest.raises(UsageError, match="descriptor 300 from systemd is no listening stream socket"):
        inherited_sockets(environment(1), given)
    with pytest.raises(UsageError, match="descriptor 301 from systemd can't be served"):
        inherited_sockets(environment(1), 301)
    with pytest.raises(UsageError, match="at most"):
        inherited_sockets(environment(SYSTEMD_SOCKETS_MAX + 1))
    ours.close()
    theirs.close()


@pytest.mark.parametrize(("name", "written"), [("a b", "a%20b"), ("r0%s", "r0%25s"), ("r?0", "r%3F0")])
def test_a_name_is_written_as_a_uri_has_it(engine, short_tmp, name, written):
    """DRBD's names may hold what means something else in a URI: clients that take it find the export all the same."""
    server = NbdServer(engine)
    try:
        (uri,) = listen_for_clients(server, ResourceSettings(), short_tmp, name)
    finally:
        server.close()
    assert uri.startswith(f"nbd+unix:///{written}?socket={short_tmp}/")
    assert parse_uri(uri).path == short_tmp / f"{name}.nbd.sock"
    assert unquote(urlsplit(uri).path) == f"/{name}"
