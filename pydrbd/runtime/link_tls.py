"""TLS between the two nodes of a pair: both sides show a certificate that names the node.

The node that connects is TLS's client, the one that accepts is its server, on each of the two sockets. Both nodes
connect at once, so the server's side must not wait until the rendezvous gets round to accepting: a task of its own
shakes hands, and what has passed waits in line like a plain connection in the kernel's backlog.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from dataclasses import dataclass

import trio

from pydrbd.limits import LINK_TLS_HANDSHAKES_MAX
from pydrbd.runtime.accepting import accept
from pydrbd.runtime.tls import TlsFailed, TlsFiles, TlsIdentity, accept_tls, connect_tls

__all__ = ["LinkTls", "PlainDoor", "TlsDoor"]

_log = logging.getLogger(__name__)
_Accepted = tuple[trio.socket.SocketType, tuple[str, int]]


@dataclass(frozen=True, slots=True)
class LinkTls:
    """Our files, and the name that the peer's certificate must have."""

    files: TlsFiles
    peer_name: str

    def identity(self) -> TlsIdentity:
        """Reads the files. Raises ConfigError."""
        assert self.files.authority, "anybody could be the peer"
        return TlsIdentity(self.files, (self.peer_name,))


class PlainDoor:
    """The sockets of a link without TLS: as they are."""

    def __init__(self, listener: trio.socket.SocketType) -> None:
        self._listener = listener

    async def accept(self) -> _Accepted:
        """The next connection, and where it comes from."""
        sock, address = await accept(self._listener, "the peer")
        _no_delay(sock)
        return sock, address

    async def connected(self, sock: trio.socket.SocketType) -> trio.socket.SocketType | None:
        """What to go on with after `connect`."""
        _no_delay(sock)
        return sock

    def close(self) -> None:
        """No more connections."""
        self._listener.close()


class TlsDoor(PlainDoor):
    """The sockets of a link with TLS: only those whose other side has shown who it is."""

    def __init__(
        self, listener: trio.socket.SocketType, identity: TlsIdentity, pumps: trio.Nursery, timeout_s: float
    ) -> None:
        super().__init__(listener)
        self._identity = identity
        self._pumps = pumps
        self._timeout_s = timeout_s
        self._passed: tuple[trio.MemorySendChannel[_Accepted], trio.MemoryReceiveChannel[_Accepted]]
        self._passed = trio.open_memory_channel(LINK_TLS_HANDSHAKES_MAX)
        self._busy = trio.Semaphore(LINK_TLS_HANDSHAKES_MAX)
        self._scope = trio.CancelScope()
        self._said = ""
        pumps.start_soon(self._run)

    async def accept(self) -> _Accepted:
        """See PlainDoor."""
        return await self._passed[1].receive()

    async def connected(self, sock: trio.socket.SocketType) -> trio.socket.SocketType | None:
        """See PlainDoor. None: the other side is not the peer."""
        return await self._shake_hands(sock, "whom we connected to", server_side=False)

    def close(self) -> None:
        """See PlainDoor."""
        self._scope.cancel()
        super().close()  # after it: nobody waits there any more
        while True:
            try:
                self._passed[1].receive_nowait()[0].close()
            except trio.WouldBlock:
                return

    async def _run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._busy.acquire()
                    sock, address = await accept(self._listener, "the peer")
                    nursery.start_soon(self._let_in, sock, address)

    async def _let_in(self, sock: trio.socket.SocketType, address: tuple[str, int]) -> None:
        try:
            given = None
            with trio.move_on_after(self._timeout_s):
                given = await self._shake_hands(sock, f"{address[0]} port {address[1]}", server_side=True)
            if given is not None:
                try:
                    await self._passed[0].send((given, address))
                except trio.Cancelled:
                    given.close()
                    raise
        finally:
            self._busy.release()

    async def _shake_hands(
        self, sock: trio.socket.SocketType, who: str, *, server_side: bool
    ) -> trio.socket.SocketType | None:
        begin = accept_tls if server_side else connect_tls
        _no_delay(sock)
        raw = socket.socket(fileno=sock.detach())
        try:
            given, _names = await begin(raw, self._identity, self._pumps, half_close=True)
        except TlsFailed as failed:
            if str(failed) != self._said:
                self._said = str(failed)
                _log.warning("%s is not the peer: %s", who, failed)
            return None
        return trio.socket.from_stdlib_socket(given)


def _no_delay(sock: trio.socket.SocketType) -> None:
    with contextlib.suppress(OSError):  # it is dead already: the first read says so
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
