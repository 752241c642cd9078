"""The NBD client checks every byte that a server sends, and never forgets an answer that it has got."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from pydrbd.admin.nbd_client import NbdClient, RequestFailed
from pydrbd.admin.nbd_handshake import ConnectionLost, ExportRefused, ServerProtocolError
from pydrbd.wire.nbd import Command

GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
OPTION_REPLY = 0x0003E889045565A9
SIZE_BYTES = 1 << 20
FLAGS = 1 | 4 | 8


def option_reply(kind, data=b"", option=7):
    return struct.pack(">QIII", OPTION_REPLY, option, kind, len(data)) + data


OPENED = (
    option_reply(3, struct.pack(">HQH", 0, SIZE_BYTES, FLAGS))
    + option_reply(3, struct.pack(">HIII", 3, 512, 4096, 1 << 25))
    + option_reply(1)
)


def reply(cookie, error=0, payload=b""):
    return struct.pack(">IIQ", 0x67446698, error, cookie) + payload


@pytest.fixture
def serve():
    """`serve(bytes)` is our end of a connection whose server says just that, then closes if `closes`."""
    sockets, threads = [], []

    def serve(said, closes=True):
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        sockets.extend((ours, theirs))

        def run():
            theirs.sendall(said)
            if closes:
                theirs.shutdown(socket.SHUT_WR)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return ours

    yield serve
    for thread in threads:
        thread.join()
    for sock in sockets:
        sock.close()


def test_a_good_handshake_gives_size_and_limits(serve):
    """What the server said about the export."""
    client = NbdClient(serve(GREETING + OPENED), "r0")
    assert client.size_bytes == SIZE_BYTES
    assert client.export.block_minimum_bytes == 512
    assert client.export.block_maximum_bytes == 1 << 25


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        GREETING[:-1] + b"\0",
        GREETING + option_reply(1),
        GREETING + option_reply(3, struct.pack(">HQ", 0, SIZE_BYTES)),
        GREETING + option_reply(3, b"x" * 70000),
        GREETING + option_reply(1, option=6),
        GREETING + b"\0" * 20,
    ],
    ids=["http", "old-style", "no-size", "short-info", "long-info", "other-option", "no-magic"],
)
def test_what_is_no_nbd_server_is_said_to_be_none(serve, said):
    """Each is a protocol error, in words."""
    with pytest.raises(ServerProtocolError):
        NbdClient(serve(said), "r0")


@pytest.mark.parametrize("length", [0, 5, 17, len(GREETING) + 10])
def test_a_server_that_goes_away_in_the_handshake_is_a_lost_connection(serve, length):
    """However far it came."""
    with pytest.raises(ConnectionLost):
        NbdClient(serve((GREETING + OPENED)[:length]), "r0")


def test_a_refusal_carries_the_servers_words(serve):
    """ERR_POLICY with a text."""
    said = GREETING + option_reply(0x80000002, b"r0 is Secondary here")
    with pytest.raises(ExportRefused, match=r"'r0' was refused \(ERR_POLICY\): r0 is Secondary here"):
        NbdClient(serve(said), "r0")


def test_replies_in_any_order_reach_their_requests(serve):
    """Cookies decide; a READ's payload follows its reply."""
    client = NbdClient(serve(GREETING + OPENED + reply(2, payload=b"b" * 512) + reply(3, 28) + reply(1)), "r0")
    seen = []
    client.submit(Command.WRITE, 0, payload=b"a" * 512, on_reply=lambda *reply: seen.append((1, *reply)))
    client.submit(Command.READ, 0, 512, on_reply=lambda *reply: seen.append((2, *reply)))
    client.submit(Command.WRITE, 1 << 20, payload=b"c" * 512, on_reply=lambda *reply: seen.append((3, *reply)))
    client.drain()
    assert seen == [(2, 0, b"b" * 512), (3, 28, b""), (1, 0, b"")]


def test_an_error_that_nobody_takes_is_raised(serve):
    """With the command, the place and the error's name."""
    client = NbdClient(serve(GREETING + OPENED + reply(1, 108)), "r0")
    with pytest.raises(RequestFailed, match="WRITE of 512 bytes at 4096 failed: ESHUTDOWN"):
        client.write(4096, b"x" * 512)


@pytest.mark.parametrize("said", [reply(77), b"\0" * 16, reply(1) + reply(1)], ids=["cookie", "magic", "twice"])
def test_a_reply_to_nothing_is_a_protocol_error(serve, said):
    """An unknown cookie, a wrong magic number, a second reply."""
    client = NbdClient(serve(GREETING + OPENED + said), "r0")
    client.submit(Command.FLUSH)
    client.submit(Command.FLUSH)
    with pytest.raises(ServerProtocolError):
        client.drain()


def test_replies_that_came_before_the_connection_broke_are_handed_out(serve):
    """Two of three requests are answered, the third has an unknown end."""
    client = NbdClient(serve(GREETING + OPENED + reply(1) + reply(2) + reply(3)[:10]), "r0")
    acknowledged = []
    for number in (1, 2, 3):
        client.submit(Command.FLUSH, on_reply=lambda _error, _data, number=number: acknowledged.append(number))
    with pytest.raises(ConnectionLost):
        client.drain()
    assert acknowledged == [1, 2]
    assert client.in_flight == 1
    client.abandon()
    client.close()


def test_no_more_requests_are_in_flight_than_the_depth(serve):
    """The next one waits for a reply."""
    client = NbdClient(serve(GREETING + OPENED + reply(1), closes=False), "r0", depth=2)
    for _ in range(3):
        client.submit(Command.FLUSH)
    assert client.in_flight == 2
    client.abandon()


def test_nobody_there_is_a_lost_connection(short_tmp):
    """The message says where."""
    with pytest.raises(ConnectionLost, match=r"can't connect to the NBD server at .*nowhere"):
        NbdClient.connect(short_tmp / "nowhere", "r0")
