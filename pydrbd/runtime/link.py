"""The link to the peer while it stands: bytes in, bytes out, pings, and its end.

Two readers cut packets out of their sockets (native code, whole wake-ups at a time) and hand them to the node; two
senders take what the node says at once, or wait until the socket takes more. The meta socket's reader also watches the
time (WIRE 15): after `ping-int` of silence it asks, and after `ping-timeout` without any sign of life the link is dead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from pydrbd import native
from pydrbd.core.effects import Socket
from pydrbd.core.events import LinkDown, LinkUp, Received, Silence
from pydrbd.core.node import Node
from pydrbd.core.states import ConnState
from pydrbd.errors import BusyError, ConfigError, PeerProtocolError
from pydrbd.limits import (
    BATCH_RECORDS_MAX,
    DRBD_PAYLOAD_BYTES_MAX,
    LINK_LINGER_S,
    LINK_RETRY_S,
    LINK_SEND_BYTES,
)
from pydrbd.native import LaneStream
from pydrbd.runtime.buffers import ReceiveBuffer
from pydrbd.runtime.lane import Lane
from pydrbd.runtime.link_end import LinkEnd, discard
from pydrbd.runtime.link_unread import Unread
from pydrbd.runtime.nbd_sender import ReplySender
from pydrbd.runtime.rendezvous import Endpoints, LinkTimes, SocketPair, meet

__all__ = ["Link", "LinkDoor", "Owner"]

_log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 16
_CHALLENGE_BYTES: Final = 64


class Owner(Protocol):
    """What the link needs of the service."""

    node: Node
    lane: Lane

    def feed(self, event: object) -> None: ...


@dataclass(frozen=True, slots=True)
class LinkDoor:
    """The link as a lane takes it over: the socket that it reads, and the descriptor of the one that it writes."""

    stream: LaneStream
    other_fd: int


class Link:
    """One resource's connection, made again and again until it is closed for good."""

    def __init__(
        self, owner: Owner, endpoints: Endpoints, times: LinkTimes, draw_bytes: Callable[[int], bytes]
    ) -> None:
        self._owner = owner
        self._endpoints = endpoints
        self._times = times
        self._draw_bytes = draw_bytes
        self._rng = random.Random(draw_bytes(16))
        self._wanted = trio.Event()
        self._wanted_number = self._serving = 0
        """The link that was asked for last; and the one whose sockets stand, 0 if none do."""
        self._senders: tuple[ReplySender, ReplySender] | None = None
        self._scope: trio.CancelScope | None = None
        self._end: LinkEnd | None = None
        self._pending: tuple[list[object], list[object]] = ([], [])
        self._pending_bytes = 0
        self._lingering = False
        self._sockets: dict[Socket, socket.socket] = {}
        self._buffers: dict[Socket, ReceiveBuffer] = {}
        self._need = dict.fromkeys(Socket, _HEADER_BYTES)
        self._heard = dict.fromkeys(Socket, 0.0)
        self._hold_reading: trio.Event | None = None
        self._unread = Unread()
        self._progress, self._agreed = trio.Event(), trio.Event()
        self.wakeups = self.packets = 0

    # --- what the service calls ---

    def open(self, number: int) -> None:
        """Look for the peer (the effect OpenLink)."""
        assert not self._wanted.is_set() and number > self._wanted_number, "a link is asked for twice"
        self._wanted_number = number
        self._wanted.set()

    def close(self, number: int, reason: str, *, linger: bool) -> None:
        """Drop the sockets of this link, or stop looking for it (the effect CloseLink)."""
        if number == self._serving:
            self._lingering = linger
            self._finish(LinkEnd(ConnState.NetworkFailure, reason))
        elif number == self._wanted_number and self._wanted.is_set():
            self._wanted = trio.Event()
            if not self._serving and self._scope is not None:
                self._scope.cancel()

    def configure(self, endpoints: Endpoints, times: LinkTimes) -> None:
        """Other addresses and times: those of the next connection, and of the one that is being looked for."""
        changed = endpoints != self._endpoints
        self._endpoints, self._times = endpoints, times
        if changed and self._senders is None and self._scope is not None:
            self._scope.cancel()

    def send(self, which: Socket, parts: Sequence[bytes | bytearray | memoryview], *, answer: bool = False) -> None:
        """Queue bytes; `flush` sends what one event brought together.

        A lot is sent at once: the peer can work on it while the rest of the event's work is being done here.
        """
        if self._senders is not None:
            self._pending[which].extend(parts)
            self._pending_bytes += (byte_count := sum(map(len, parts)))
            if which is Socket.DATA:
                self._unread.say(byte_count, answer=answer)
            if self._pending_bytes >= LINK_SEND_BYTES:
                self.flush()

    def flush(self) -> None:
        """Send what was queued, one system call a socket."""
        self._pending_bytes = 0
        if self._senders is None:
            return
        for which in (Socket.META, Socket.DATA):
            parts = self._pending[which]
            if parts:
                self._senders[which].send(list(parts))  # type: ignore[arg-type]
                parts.clear()
        if self._unread.too_many_acks(self._senders[Socket.META].queued_bytes):
            self._finish(LinkEnd(ConnState.Timeout, "the peer does not read its acknowledgements"))

    def idle_data_sender(self) -> ReplySender | None:
        """The data socket's, if it has taken all that there was to send; None if not, or there is no link."""
        self.flush()
        senders = self._senders if self._end is None else None
        return None if senders is None or senders[Socket.DATA].queued_bytes else senders[Socket.DATA]

    def resume_reading(self) -> None:
        """Read on if the local disk has caught up (after every event)."""
        if self._hold_reading is not None and not self._must_hold():
            self._hold_reading.set()

    def _must_hold(self) -> bool:
        queued_bytes = self._senders[Socket.DATA].queued_bytes if self._senders is not None else 0
        return self._owner.node.holds_data or self._unread.too_many_answers(queued_bytes)

    # --- lanes (runtime/lane.py) ---

    @property
    def is_idle(self) -> bool:
        """Whether the sockets have taken all that there was to send."""
        senders = self._senders or ()
        return not any(self._pending) and not any(sender.queued_bytes for sender in senders)

    def lane_enter(self, reads: Socket) -> LinkDoor | None:
        """Give both sockets to a lane that reads this one and writes the other; None if that can't be now."""
        ready = (
            self._senders is not None
            and self._end is None
            and self._agreed.is_set()
            and not self._owner.node.links.handshaking
            and self.is_idle
        )
        if not ready:
            return None
        buffer, other = self._buffers[reads], Socket.META if reads is Socket.DATA else Socket.DATA
        stream = LaneStream(self._sockets[reads].fileno(), buffer.memory, buffer.start, buffer.end)
        return LinkDoor(stream, self._sockets[other].fileno())

    def lane_leave(self, reads: Socket, stream: LaneStream, *, packets: int) -> None:
        """Take the sockets back."""
        buffer = self._buffers[reads]
        buffer.start, buffer.end = stream.start, stream.end
        self.wakeups += stream.wakeups
        self.packets += packets
        if stream.received_bytes:
            self._heard[reads] = trio.current_time()

    def lane_left(self, reads: Socket) -> None:
        """Work in the packets that a lane has left in the buffer."""
        if self._senders is not None and self._end is None:
            self._need[reads] = self._split(reads)

    def lost(self, errno: int) -> None:
        """A lane found that a socket has failed."""
        self._on_lost(OSError(errno, os.strerror(errno)))

    # --- the loop ---

    async def run(self) -> None:
        """Serve the link for ever. An address of ours that goes must not take the disk with it: it may come back."""
        missed = ""
        while True:
            while not self._wanted.is_set():  # closed again before we woke up?
                await self._wanted.wait()
            number = self._wanted_number
            with trio.CancelScope() as self._scope:
                began = trio.current_time()
                async with trio.open_nursery() as pumps:
                    try:
                        pair = await meet(self._endpoints, self._times, self._rng, pumps)
                    except (BusyError, ConfigError, OSError) as error:
                        if str(error) != missed:
                            missed = str(error)
                            _log.error("%s; it is tried again every %g s", error, self._times.connect_int_s)
                        await trio.sleep(self._times.connect_int_s)
                        continue
                    missed = ""
                    if not self._wanted.is_set() or number != self._wanted_number:
                        pair.close()  # closed as it came to stand
                        continue
                    self._wanted = trio.Event()
                    self._scope = None
                    began = trio.current_time()
                    await self._serve(number, pair)
                    pumps.cancel_scope.deadline = trio.current_time() + LINK_LINGER_S
                if not self._wanted.is_set():
                    continue
                if trio.current_time() - began < LINK_RETRY_S:
                    await trio.sleep(LINK_RETRY_S)  # a handshake that fails must not spin
            self._scope = None

    def _finish(self, end: LinkEnd) -> None:
        """The first reason counts; the tasks of the link end."""
        if self._end is None:
            self._end = end
        if self._scope is not None:
            self._scope.cancel()

    async def _serve(self, number: int, pair: SocketPair) -> None:
        """One pair of sockets, from LinkUp to LinkDown."""
        self._serving, self._end, self._lingering = number, None, False
        data, meta = pair.raw()
        self._senders = (
            ReplySender(data, self._on_progress, self._on_lost),
            ReplySender(meta, self._on_progress, self._on_lost),
        )
        self._agreed, self._unread = trio.Event(), Unread()
        self._sockets = {Socket.DATA: data, Socket.META: meta}
        self._buffers = {which: ReceiveBuffer() for which in Socket}
        self._need = dict.fromkeys(Socket, _HEADER_BYTES)
        self._heard = dict.fromkeys(Socket, trio.current_time())
        try:
            with trio.CancelScope() as self._scope:
                self._feed(LinkUp(number, pair.resolve_conflicts, self._draw_bytes(_CHALLENGE_BYTES)))
                async with trio.open_nursery() as nursery:
                    for sender in self._senders:
                        nursery.start_soon(sender.run)
                    for which in Socket:
                        nursery.start_soon(self._read, self._sockets[which], which)
                    nursery.start_soon(self._watch)
            self.flush()
            if self._lingering:
                await self._linger(data)
        finally:
            for sender in self._senders:
                sender.close()
            self._senders = self._scope = None
            self._serving = 0
            for parts in self._pending:
                parts.clear()
            pair.close()
        end = self._end or LinkEnd(ConnState.NetworkFailure, "ended")
        self._owner.feed(LinkDown(number, end.reason, end.text))

    async def _linger(self, data: socket.socket) -> None:
        """Give the last packets time to leave, and the peer time to read them, before the sockets close.

        A kernel that sees its meta socket end first forgets what it has not read: the reason why it is being left.
        """
        assert self._senders is not None
        with trio.move_on_after(LINK_LINGER_S):
            async with trio.open_nursery() as nursery:
                for sender in self._senders:
                    nursery.start_soon(sender.run)
                while any(sender.queued_bytes for sender in self._senders):
                    self._progress = trio.Event()
                    await self._progress.wait()
                nursery.cancel_scope.cancel()
            with contextlib.suppress(OSError):
                data.shutdown(socket.SHUT_WR)
                while await discard(data):
                    pass

    def _on_progress(self) -> None:
        self._progress.set()
        self.resume_reading()

    def _on_lost(self, error: OSError) -> None:
        self._finish(LinkEnd(ConnState.BrokenPipe, str(error)))

    def _feed(self, event: object) -> None:
        """Hand an event to the node; a peer that lies ends the link."""
        try:
            self._owner.feed(event)
        except PeerProtocolError as error:
            _log.error("the peer broke the protocol: %s", error)
            self._finish(LinkEnd(ConnState.ProtocolError, str(error)))

    # --- reading ---

    async def _read(self, sock: socket.socket, which: Socket) -> None:
        buffer, lane = self._buffers[which], self._owner.lane
        if which is Socket.META:
            # A peer that is done with the handshake pings at once, in a format that we may not have read of yet.
            await self._agreed.wait()
        while True:
            if lane.reads(which):
                await lane.wait_ended()
                continue
            if which is Socket.DATA and self._must_hold():
                self._hold_reading = trio.Event()
                await self._hold_reading.wait()
                self._hold_reading = None
            await trio.lowlevel.wait_readable(sock)
            if lane.reads(which) or (not lane.engaged and await lane.run(which)):
                continue
            lane.end()
            buffer.make_room(self._need[which])
            try:
                count = sock.recv_into(buffer.room())
            except BlockingIOError:
                continue
            except OSError as error:
                self._finish(LinkEnd(ConnState.BrokenPipe, str(error)))
                return
            if not count:
                self._finish(LinkEnd(ConnState.BrokenPipe, "the peer closed the connection"))
                return
            buffer.end += count
            self.wakeups += 1
            self._heard[which] = trio.current_time()
            self._need[which] = self._split(which)

    def _split(self, which: Socket) -> int:
        """Hand over every whole packet; how many bytes the next one needs in all."""
        node, buffer = self._owner.node, self._buffers[which]
        while buffer.start != buffer.end and self._end is None:
            room = 1 if node.links.handshaking else BATCH_RECORDS_MAX
            try:
                batch, consumed, need = native.drbd_split(
                    buffer.memory,
                    buffer.start,
                    buffer.end,
                    node.header_format,
                    node.digest_bytes,
                    DRBD_PAYLOAD_BYTES_MAX,
                    room,
                )
            except PeerProtocolError as error:
                _log.error("the peer broke the protocol: %s", error)
                self._finish(LinkEnd(ConnState.ProtocolError, str(error)))
                break
            if not batch.count:
                return need or _HEADER_BYTES
            buffer.start += consumed
            self.packets += batch.count
            self._feed(Received(which, batch))
            if not node.links.handshaking:
                self._agreed.set()
        return _HEADER_BYTES

    # --- time ---

    async def _watch(self) -> None:
        """Ask for a sign of life after a silence; without one the link is dead."""
        while True:
            times = self._times
            heard = max(self._heard.values())
            now = trio.current_time()
            node = self._owner.node
            handshaking = node.links.handshaking or not node.established
            patience = max(4 * times.ping_timeout_s, times.timeout_s) if handshaking else times.ping_int_s
            if now < heard + patience:
                # no longer than ping-int: the handshake may be over by then, and its patience with it
                await trio.sleep(min(heard + patience - now, times.ping_int_s))
                continue
            if handshaking:
                self._finish(LinkEnd(ConnState.NetworkFailure, "the peer fell silent in the handshake"))
                return
            self._feed(Silence())
            await trio.sleep(times.ping_timeout_s)
            if max(self._heard.values()) <= heard:
                self._finish(LinkEnd(ConnState.NetworkFailure, "PingAck did not arrive in time"))
                return
