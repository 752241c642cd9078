"""Sockets, handshakes over them, and how many: what happens before a session, and around it."""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct

import pytest
import trio

from pydrbd.errors import BusyError, UsageError
from pydrbd.limits import NBD_HANDSHAKE_TIMEOUT_S
from pydrbd.runtime.nbd_server import NbdServer
from pydrbd.wire.nbd import Command, ExportUnavailable, Option, ReplyType, encode_request
from tests.nbd.memory_engine import MemorySession
from tests.nbd.raw_client import FIXED, RawClient, info_request, option, until


def test_a_unix_socket_is_for_its_user_only_and_goes_away(engine, socket_path):
    """Mode 0600 from before the first connection on; `close` removes the file."""
    server = NbdServer(engine)
    server.listen_unix(socket_path)
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    server.close()
    assert not socket_path.exists()


def test_a_dead_process_leaves_a_socket_that_is_replaced(engine, socket_path):
    """A file that nobody listens on is no obstacle."""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(socket_path))
    dead.close()
    server = NbdServer(engine)
    server.listen_unix(socket_path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(socket_path))
    server.close()


def test_a_live_socket_is_not_taken_over(engine, socket_path):
    """The second server is told, and the first one's socket stays, even with its backlog full."""
    first, second = NbdServer(engine), NbdServer(engine)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen(0)
        for _ in range(2):
            with pytest.raises(BusyError, match=str(socket_path)):
                second.listen_unix(socket_path)
    first.listen_unix(socket_path)
    with pytest.raises(BusyError, match="another process serves NBD on"):
        second.listen_unix(socket_path)
    second.close()
    assert socket_path.exists()
    first.close()


def test_close_leaves_a_socket_alone_that_is_not_ours_any_more(engine, socket_path):
    """Somebody removed our file and listens under its name: that one stays."""
    server = NbdServer(engine)
    server.listen_unix(socket_path)
    socket_path.rename(socket_path.with_suffix(".old"))  # keeps the inode number in use
    socket_path.write_text("another one's")
    server.close()
    assert socket_path.exists()


@pytest.mark.parametrize(("name", "error"), [("file", BusyError), ("missing/s", UsageError), ("n" * 120, UsageError)])
def test_a_path_that_cannot_be_a_socket_is_told(engine, short_tmp, name, error):
    """A file in the way, no directory, a name that is too long: clear words, and nothing destroyed."""
    (short_tmp / "file").write_text("precious")
    with pytest.raises(error, match=name):
        NbdServer(engine).listen_unix(short_tmp / name)
    assert (short_tmp / "file").read_text() == "precious"


def test_a_busy_port_is_an_error_with_its_number(engine):
    """So is an address that is not ours."""
    first, second = NbdServer(engine), NbdServer(engine)
    host, port = first.listen_tcp("127.0.0.1", 0)
    with pytest.raises(BusyError, match=f"{host}:{port}"):
        second.listen_tcp(host, port)
    with pytest.raises(BusyError, match=r"192\.0\.2\.1:.* none of this machine's"):
        second.listen_tcp("192.0.2.1", port)
    first.close()


async def test_tcp_connections_have_nodelay(engine, nursery, monkeypatch):
    """Measured as 40 ms a request without it."""
    accepted = []
    connection = NbdServer._serve_one

    async def spy(self, sock, peer, admission):
        accepted.append((sock, peer))
        await connection(self, sock, peer, admission)

    monkeypatch.setattr(NbdServer, "_serve_one", spy)
    server = NbdServer(engine)
    host, port = server.listen_tcp("127.0.0.1", 0)
    await nursery.start(server.serve)
    client = RawClient(await trio.open_tcp_stream(host, port))
    await client.go("disk")
    assert await client.request(Command.READ, 0, 512) == (0, bytes(512))
    ((sock, peer),) = accepted
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert peer.startswith("127.0.0.1:")
    await client.close()


async def test_a_silent_visitor_is_no_news(connect, server, caplog):
    """Monitors connect and go: nothing above the debug level, and the server goes on."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        await (await connect()).close()
    await until(lambda: server.statistics().accepted == 3 and server.statistics().connections == 0)
    assert [record.message for record in caplog.records if record.name.startswith("pydrbd")] == []
    assert await (await connect("disk")).request(Command.FLUSH) == (0, b"")


@pytest.mark.parametrize("words", [b"", FIXED[:2], FIXED, FIXED + b"IHAVEOPT\0\0", FIXED + option(7, b"x" * 99)[:50]])
async def test_a_handshake_that_stops_is_ended(connect, server, words, autojump_clock, caplog):
    """Half a handshake, then silence: dropped when its time is over, with one line."""
    client = await connect()
    assert len(await client.receive(18)) == 18
    await client.send(words)
    with trio.fail_after(NBD_HANDSHAKE_TIMEOUT_S + 1):
        assert await client.stream.receive_some() == b""
    assert trio.current_time() >= NBD_HANDSHAKE_TIMEOUT_S
    assert [record.message for record in caplog.records if "not finished within 30 s" in record.message]
    assert server.statistics().failed == 1


@pytest.mark.parametrize("refused", [False, True])
async def test_an_export_may_take_longer_than_a_handshake(connect, engine, refused, autojump_clock):
    """What the server needs to make it ready is not the client's time; others come in meanwhile."""
    client = await connect()
    assert len(await client.receive(18)) == 18
    await client.send(FIXED + option(Option.GO, info_request(b"slow")))
    await until(lambda: engine.waiting == 1)
    await trio.sleep(10 * NBD_HANDSHAKE_TIMEOUT_S)
    assert await (await connect("disk")).request(Command.FLUSH) == (0, b"")
    if refused:
        engine.refusal = ExportUnavailable("it can't be")
    engine.ready.set()
    answer = (Option.GO, ReplyType.ERR_POLICY, b"it can't be") if refused else (Option.GO, ReplyType.INFO)
    assert (await client.option_reply())[: len(answer)] == answer
    await until(lambda: engine.waiting == 0)
    if refused:
        with trio.fail_after(NBD_HANDSHAKE_TIMEOUT_S + 1):  # its own time goes on
            assert await client.stream.receive_some() == b""


async def test_a_client_that_does_not_read_its_handshake_is_ended(connect, server, autojump_clock):
    """LIST again and again without reading the answers ends by the number of options or by time."""
    client = await connect()
    await client.send(FIXED + option(Option.LIST) * 60)
    await until(lambda: server.statistics().connections == 1)
    assert await client.receive(18)
    await trio.sleep(NBD_HANDSHAKE_TIMEOUT_S + 1)
    assert server.statistics().connections == 0


async def test_an_export_can_be_opened_after_a_refusal(connect):
    """Unknown, Secondary, then the right one, on one connection."""
    client = await connect()
    await client.receive(18)
    await client.send(FIXED)
    for name, code in [(b"nope", ReplyType.ERR_UNKNOWN), (b"secondary", ReplyType.ERR_POLICY)]:
        await client.send(option(Option.GO, info_request(name)))
        number, reply, text = await client.option_reply()
        assert (number, reply) == (Option.GO, code)
        assert name in text
    await client.send(option(Option.GO, info_request(b"disk")))
    while (await client.option_reply())[1] != ReplyType.ACK:
        pass
    assert await client.request(Command.FLUSH) == (0, b"")


async def test_abort_is_acknowledged_then_closed(connect, server):
    """The spec demands the acknowledgement."""
    client = await connect()
    await client.receive(18)
    await client.send(FIXED + option(Option.ABORT))
    assert await client.option_reply() == (Option.ABORT, ReplyType.ACK, b"")
    assert await client.at_end()
    assert server.statistics().failed == 0


async def test_export_name_then_close_ends_the_session(connect, engine, server):
    """What crashes another server: the old way in, and gone before the first request."""
    for _ in range(5):
        client = await connect()
        await client.send(FIXED + option(Option.EXPORT_NAME, b"disk"))
        await client.close()
    await until(lambda: server.statistics().accepted == 5 and server.statistics().connections == 0)
    assert engine.sessions == []
    client = await connect()
    await client.receive(18)
    await client.send(FIXED + option(Option.EXPORT_NAME, b"disk"))
    assert struct.unpack(">QH", await client.receive(10))[0] == engine.size_bytes
    assert await client.request(Command.FLUSH) == (0, b"")


@pytest.mark.parametrize("words", [b"\xff" * 4, b"GET / HTTP/1.1\r\n\r\n", FIXED + b"x" * 100])
async def test_garbage_in_the_handshake_drops_only_this_client(connect, server, caplog, words):
    """One warning that says who and why."""
    other = await connect("disk")
    client = await connect()
    await client.receive(18)
    await client.send(words)
    assert await client.at_end()
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert server.statistics().failed == 1
    assert await other.request(Command.FLUSH) == (0, b"")


async def test_one_connection_too_many_is_closed_at_once_and_room_is_used_again(connect, server, caplog):
    """Eight are allowed here; the ninth gets nothing but a log line, until one of them leaves."""
    clients = [await connect("disk") for _ in range(8)]
    assert await (await connect()).at_end()
    assert server.statistics().refused == 1
    assert any("8 are connected already" in record.message for record in caplog.records)
    await clients[3].close()
    await until(lambda: server.statistics().connections == 7)
    assert await (await connect("disk")).request(Command.FLUSH) == (0, b"")


async def test_many_connections_share_the_disk(engine, socket_path, nursery):
    """Sixty clients at once, each sees what it wrote."""
    server = NbdServer(engine)
    server.listen_unix(socket_path)
    await nursery.start(server.serve)

    async def use(number):
        client = RawClient(await trio.open_unix_socket(str(socket_path)))
        await client.go("disk")
        data = os.urandom(4096)
        assert await client.request(Command.WRITE, number * 4096, data=data) == (0, b"")
        assert await client.request(Command.READ, number * 4096, 4096) == (0, data)
        await client.request(Command.FLUSH)
        await client.close()

    async with trio.open_nursery() as clients:
        for number in range(60):
            clients.start_soon(use, number)
    assert server.statistics().requests == 180
    await until(lambda: engine.sessions == [])


async def test_the_end_of_serve_closes_everything(engine, socket_path, nursery):
    """Connections, their sessions and the socket file."""
    server = NbdServer(engine)
    server.listen_unix(socket_path)
    async with trio.open_nursery() as inner:
        await inner.start(server.serve)
        client = RawClient(await trio.open_unix_socket(str(socket_path)))
        await client.go("disk")
        inner.cancel_scope.cancel()
    assert await client.at_end()
    assert engine.closed_count == 1
    assert not socket_path.exists()
    await client.close()


async def test_an_engines_failure_is_not_taken_for_a_clients(engine, socket_path, monkeypatch):
    """Our own fault, even as an OSError, ends the server instead of a connection."""
    server = NbdServer(engine)
    server.listen_unix(socket_path)

    def fail(session, batch):
        raise OSError(5, "disk trouble that nobody caught")

    monkeypatch.setattr(MemorySession, "submit", fail)
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="disk trouble"), flatten_subgroups=True):
        async with trio.open_nursery() as inner:
            await inner.start(server.serve)
            client = RawClient(await trio.open_unix_socket(str(socket_path)))
            await client.go("disk")
            await client.send(encode_request(Command.FLUSH, 1))
            await client.at_end()
    assert not socket_path.exists()
    await client.close()


async def test_running_out_of_descriptors_is_waited_for(
    engine, socket_path, nursery, monkeypatch, caplog, autojump_clock
):
    """EMFILE in accept is logged and tried again; connections that died in the backlog are skipped."""
    server = NbdServer(engine)
    server.listen_unix(socket_path)
    listener, admission = server._listeners[0]
    errors = [OSError(24, "Too many open files"), OSError(103, "Software caused connection abort")]

    class Failing:
        def accept(self):
            if errors:
                raise errors.pop(0)
            return listener.accept()

        def fileno(self):
            return listener.fileno()

        def close(self):
            listener.close()

    server._listeners[0] = (Failing(), admission)
    await nursery.start(server.serve)
    client = RawClient(await trio.open_unix_socket(str(socket_path)))
    await client.go("disk")
    assert errors == []
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    await client.close()


def test_places_that_can_not_be_listened_at(engine, socket_path, monkeypatch):
    """A file in the way, a directory that is not there, a name that nobody has, a port that somebody has."""
    server = NbdServer(engine)
    socket_path.touch()
    with pytest.raises(BusyError, match="is in the way of the NBD socket and is not a socket: move it"):
        server.listen_unix(socket_path)
    with pytest.raises(UsageError, match=r"can't listen on the NBD socket .*: No such file"):
        server.listen_unix(socket_path.with_name("none") / "s")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BusyError, match=f"can't serve NBD on 127.0.0.1:{port}: another process listens there"):
            server.listen_tcp("127.0.0.1", port)

    def nobody(*_words, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(UsageError, match="can't find the address 'nobody' to serve NBD on: Name or service"):
        server.listen_tcp("nobody", 10809)
    server.close()
