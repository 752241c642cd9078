"""How two nodes find each other: each connects and listens at once, until two TCP connections stand (WIRE 1.2).

There is no client and no server. The first connection that a node makes (or accepts) becomes the data socket, the next
one the meta socket; the first packet on each says which. When both nodes connect at the same moment the connections
cross, each keeps the accepted one, and a coin decides who goes on, so that they don't cross for ever.
"""

from __future__ import annotations

import errno
import logging
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import trio

from pydrbd.errors import BusyError, PeerProtocolError, PortForbidden, PydrbdError
from pydrbd.runtime.link_tls import LinkTls, PlainDoor, TlsDoor
from pydrbd.wire.framing import PacketReader, encode_packet
from pydrbd.wire.packet_numbers import SocketKind
from pydrbd.wire.packets import Packet

__all__ = ["Endpoints", "LinkTimes", "NotOurAddress", "SocketPair", "bind", "meet", "try_address"]

_log = logging.getLogger(__name__)

_BACKLOG: Final = 5
_JITTER: Final = 1 / 7
_ADVICE: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "another node or program has this port",
    errno.EADDRNOTAVAIL: "this address is none of this machine's: compare 'address' and 'ip address'",
    errno.EACCES: "ports below 1024 are root's: take a higher one, as 7788, on both nodes, or start it as root",
}


class NotOurAddress(BusyError):
    """The address that the configuration gives this node is none of this machine's, now."""


_KINDS: Final[Mapping[int, type[PydrbdError]]] = {errno.EACCES: PortForbidden, errno.EADDRNOTAVAIL: NotOurAddress}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where this node listens and where its peer does. `family` is AF_INET or AF_INET6.

    The sizes are those of the sockets' buffers; 0 leaves them to the kernel.
    """

    family: socket.AddressFamily
    local: tuple[str, int]
    peer: tuple[str, int]
    send_buffer_bytes: int = 0
    receive_buffer_bytes: int = 0
    tls: LinkTls | None = None

    def size_buffers(self, sock: socket.socket | trio.socket.SocketType) -> None:
        """Before it is connected, or TCP can't announce a large window; what it accepts inherits it."""
        for option, size in ((socket.SO_SNDBUF, self.send_buffer_bytes), (socket.SO_RCVBUF, self.receive_buffer_bytes)):
            if size:
                sock.setsockopt(socket.SOL_SOCKET, option, size)


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """The net options that are times, in seconds."""

    connect_int_s: float = 10.0
    ping_int_s: float = 10.0
    ping_timeout_s: float = 0.5
    timeout_s: float = 6.0
    socket_check_timeout_s: float = 0.5


@dataclass(slots=True)
class SocketPair:
    """Both connections to the peer; `resolve_conflicts`: we accepted the meta socket."""

    data: trio.socket.SocketType
    meta: trio.socket.SocketType
    resolve_conflicts: bool

    def raw(self) -> tuple[socket.socket, socket.socket]:
        """What native code can read and write: data, meta."""
        return _raw(self.data), _raw(self.meta)

    def close(self) -> None:
        self.data.close()
        self.meta.close()


@dataclass(slots=True)
class _Slot:
    sock: trio.socket.SocketType | None = None
    opened: bool = False

    def put(self, sock: trio.socket.SocketType, *, opened: bool) -> None:
        self.drop()
        self.sock = sock
        self.opened = opened

    def drop(self) -> None:
        if self.sock is not None:
            self.sock.close()
        self.sock = None


def bind(endpoints: Endpoints) -> socket.socket:
    """A socket that listens at our own address; raises BusyError when that can't be had."""
    sock = socket.socket(endpoints.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoints.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        endpoints.size_buffers(sock)
        sock.bind(endpoints.local)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        host, port = endpoints.local
        advice = _ADVICE.get(error.errno or 0)
        if advice is not None:
            kind = _KINDS.get(error.errno or 0, BusyError)
            raise kind(f"can't listen on {host} port {port} for the peer: {error.strerror}: {advice}") from error
        raise
    return sock


def try_address(endpoints: Endpoints, *, must_be_ours: bool) -> None:
    """Whether we can listen there. Raises BusyError, PortForbidden; NotOurAddress unless it may come later.

    ConfigError, too: for TLS files that can't be used.
    """
    if endpoints.tls is not None:
        endpoints.tls.identity()
    try:
        bind(endpoints).close()
    except NotOurAddress as error:
        if must_be_ours:
            raise
        _log.warning("%s", error)


async def meet(endpoints: Endpoints, times: LinkTimes, rng: random.Random, pumps: trio.Nursery) -> SocketPair:
    """Run the loop until both sockets stand and have been quiet for a moment. Raises BusyError, ConfigError.

    With TLS, tasks in `pumps` encrypt until the sockets are closed.
    """
    data, meta = _Slot(), _Slot()
    resolve_conflicts = False
    door = _open_door(endpoints, times, pumps)
    try:
        while True:
            opened = await _connect(endpoints, times, door)
            if opened is not None:
                if data.sock is None:
                    data.put(opened, opened=True)
                    await _announce(data, Packet.P_INITIAL_DATA)
                elif meta.sock is None:
                    meta.put(opened, opened=True)
                    await _announce(meta, Packet.P_INITIAL_META)
                    resolve_conflicts = False
                else:
                    opened.close()
            if await _established(data, meta, times):
                break
            while True:
                kind, accepted = await _accept(door, times, rng)
                if accepted is None and kind is None:
                    break
                _forget_dead(data, meta)
                crossed = False
                if kind == Packet.P_INITIAL_DATA and accepted is not None:
                    crossed = data.sock is not None and data.opened
                    data.put(accepted, opened=False)
                elif kind == Packet.P_INITIAL_META and accepted is not None:
                    crossed = meta.sock is not None and meta.opened
                    meta.put(accepted, opened=False)
                    resolve_conflicts = True
                else:
                    if accepted is not None:
                        accepted.close()
                    crossed = True
                if not crossed or rng.random() < 0.5:
                    break
            if await _established(data, meta, times):
                break
        assert data.sock is not None and meta.sock is not None
        pair = SocketPair(data.sock, meta.sock, resolve_conflicts)
        data.sock = meta.sock = None
        return pair
    finally:
        data.drop()
        meta.drop()
        door.close()


def _open_door(endpoints: Endpoints, times: LinkTimes, pumps: trio.Nursery) -> PlainDoor:
    identity = endpoints.tls.identity() if endpoints.tls is not None else None
    listener = trio.socket.from_stdlib_socket(bind(endpoints))
    if identity is None:
        return PlainDoor(listener)
    return TlsDoor(listener, identity, pumps, times.connect_int_s)


async def _connect(endpoints: Endpoints, times: LinkTimes, door: PlainDoor) -> trio.socket.SocketType | None:
    """One try to connect from our address; being refused is no error."""
    sock = trio.socket.socket(endpoints.family, socket.SOCK_STREAM)
    try:
        endpoints.size_buffers(sock)
        with trio.move_on_after(times.connect_int_s):
            await sock.bind((endpoints.local[0], 0))
            await sock.connect(endpoints.peer)
            if sock.getsockname() != sock.getpeername():  # TCP can connect a port to itself
                return await door.connected(sock)
    except OSError:
        pass
    except BaseException:
        sock.close()
        raise
    sock.close()
    return None


async def _announce(slot: _Slot, packet: Packet) -> None:
    assert slot.sock is not None
    try:
        await slot.sock.send(encode_packet(packet, apv=80))
    except OSError:
        slot.drop()


async def _accept(
    door: PlainDoor, times: LinkTimes, rng: random.Random
) -> tuple[int | None, trio.socket.SocketType | None]:
    """Wait for a connection and its first packet: (packet, socket), (0, None) for a useless one, (None, None)."""
    patience_s = times.connect_int_s * (1 + rng.choice((-_JITTER, _JITTER)))
    with trio.move_on_after(patience_s):
        sock, address = await door.accept()
        try:
            kind = await _first_packet(sock, 4 * times.ping_timeout_s)
        except PeerProtocolError as error:
            _log.warning("whoever connected from %s port %d is no DRBD node: %s", *address[:2], error)
            kind = None
        if kind is None:
            sock.close()
            return 0, None
        return kind, sock
    return None, None


async def _first_packet(sock: trio.socket.SocketType, timeout_s: float) -> int | None:
    """P_INITIAL_DATA or P_INITIAL_META, whole and in time; None if nothing comes. Raises PeerProtocolError."""
    reader = PacketReader(SocketKind.NEW)
    try:
        with trio.move_on_after(timeout_s):
            while True:
                received = await sock.recv(reader.wanted)
                if not received:
                    return None
                reader.feed(received)
                packet = reader.next_packet()
                if packet is not None:
                    return int(packet.command)
    except OSError:
        return None
    except BaseException:
        sock.close()
        raise
    return None


async def _established(data: _Slot, meta: _Slot, times: LinkTimes) -> bool:
    """Whether both sockets are there and still are after a moment of silence."""
    if data.sock is None or meta.sock is None:
        return False
    await trio.sleep(times.socket_check_timeout_s or times.ping_timeout_s)
    return _forget_dead(data, meta)


def _forget_dead(data: _Slot, meta: _Slot) -> bool:
    """Drop sockets that the other side has closed; whether both are alive."""
    for slot in (data, meta):
        if slot.sock is not None and not _is_alive(slot.sock):
            slot.drop()
    return data.sock is not None and meta.sock is not None


def _is_alive(sock: trio.socket.SocketType) -> bool:
    try:
        return bool(_raw(sock).recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _raw(sock: trio.socket.SocketType) -> socket.socket:
    raw: socket.socket = sock._sock  # type: ignore[attr-defined]
    return raw
