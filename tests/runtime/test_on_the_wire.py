"""Somebody who can read and change what goes over the network, between two ends that speak TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from pydrbd.runtime.tls import TlsFailed, TlsFiles, TlsIdentity, accept_tls, connect_tls
from tests.certificates import Authority

LIMIT_S = 60.0
WORDS = b"what only the two of them may know " * 1000
HANDSHAKE_OVER = b"ready"


@pytest.fixture
def identity(short_tmp: Path) -> TlsIdentity:
    """Of both ends; each believes the other by its name."""
    directory = Authority().save(short_tmp / "keys", "node.example", side="node")
    files = (str(directory / name) for name in ("node-cert.pem", "node-key.pem", "ca-cert.pem"))
    return TlsIdentity(TlsFiles(*files), ("node.example",))


class Wire:
    """Carries both directions, remembers them, and may change what passes."""

    def __init__(self) -> None:
        self.seen = {True: bytearray(), False: bytearray()}
        self.change: Callable[[bytes], bytes] = lambda data: data
        ours, self._left = socket.socketpair()
        theirs, self._right = socket.socketpair()
        self.ends = ours, theirs
        for sock in (ours, theirs):
            sock.setblocking(False)

    async def carry(self, *, forth: bool) -> None:
        """One direction, to its end."""
        pair = (self._left, self._right) if forth else (self._right, self._left)
        source, sink = (trio.SocketStream(trio.socket.from_stdlib_socket(sock.dup())) for sock in pair)
        async with source, sink:
            try:
                while data := await source.receive_some(1 << 16):
                    self.seen[forth] += data
                    await sink.send_all(self.change(data) if forth else data)
                await sink.send_eof()
            except trio.BrokenResourceError:
                pass

    def close(self) -> None:
        for sock in (self._left, self._right):
            sock.close()


async def met(wire: Wire, identity: TlsIdentity, nursery: trio.Nursery) -> list[trio.SocketStream]:
    """Both ends behind their handshakes, the one that connected first."""
    found: dict[bool, socket.socket] = {}

    async def begin(server_side: bool) -> None:
        side = accept_tls if server_side else connect_tls
        found[server_side], _names = await side(wire.ends[server_side], identity, nursery)

    for forth in (True, False):
        nursery.start_soon(lambda forth=forth: wire.carry(forth=forth))
    async with trio.open_nursery() as handshakes:
        handshakes.start_soon(begin, False)
        handshakes.start_soon(begin, True)
    ends = [trio.SocketStream(trio.socket.from_stdlib_socket(found[side])) for side in (False, True)]
    await ends[1].send_all(HANDSHAKE_OVER)
    assert await ends[0].receive_some() == HANDSHAKE_OVER
    return ends


async def hear(stream: trio.SocketStream) -> bytes:
    """All that comes until the end."""
    heard = b""
    try:
        while data := await stream.receive_some():
            heard += data
    except trio.BrokenResourceError:
        pass
    return heard


async def test_nothing_is_to_be_read_on_the_wire(identity: TlsIdentity) -> None:
    """What was said arrives, and nobody in between has seen any of it."""
    wire = Wire()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            client, server = await met(wire, identity, nursery)
            await client.send_all(WORDS)
            await client.send_eof()
            assert await hear(server) == WORDS
            await client.aclose()
            await server.aclose()
            wire.close()
    assert len(wire.seen[True]) > len(WORDS)
    for seen in wire.seen.values():
        assert WORDS[:8] not in seen and HANDSHAKE_OVER not in seen


async def test_what_was_changed_on_the_wire_never_arrives(identity: TlsIdentity) -> None:
    """One bit: the connection ends; all that was heard is what was said."""
    wire = Wire()

    def change(data: bytes) -> bytes:
        wire.change = lambda later: later
        return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            client, server = await met(wire, identity, nursery)
            wire.change = change
            await client.send_all(WORDS)
            heard = await hear(server)
            assert WORDS.startswith(heard) and len(heard) < len(WORDS)
            await client.aclose()
            await server.aclose()
            wire.close()
            nursery.cancel_scope.cancel()


async def test_what_was_once_said_is_worth_nothing_later(identity: TlsIdentity) -> None:
    """A whole recorded session, said again to another server: no handshake comes of it."""
    wire = Wire()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            client, server = await met(wire, identity, nursery)
            await client.send_all(WORDS)
            await client.send_eof()
            await hear(server)
            await client.aclose()
            await server.aclose()
            wire.close()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            with theirs:
                theirs.sendall(bytes(wire.seen[True]))
                theirs.shutdown(socket.SHUT_WR)
                with pytest.raises(TlsFailed):
                    await accept_tls(ours, identity, nursery)


def test_what_is_old_and_broken_is_not_spoken(identity: TlsIdentity) -> None:
    """TLS 1.2 at least, and no compression."""
    for server_side in (True, False):
        context = identity.context(server_side=server_side)
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.verify_mode is ssl.CERT_REQUIRED
