"""One NBD connection: the handshake (runtime.nbd_handshake), then batches of requests in and replies out.

One wake-up of the reader is one recv, one split, and as many batches of at most 64 as it takes, each submitted at
once: a lone request never waits for company. Replies leave through runtime.nbd_sender.

What one client may hold is bounded: while its requests in flight and its unread replies would exceed
NBD_IN_FLIGHT_BYTES_MAX, or its share of what all may hold, it is not read from, and the socket's own buffers hold it
back. A lone request is let through whatever its size. Nothing here waits for one client on behalf of another.
"""

from __future__ import annotations

import logging
import mmap
import socket
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, cast

import trio

from pydrbd import native
from pydrbd.errors import ClientProtocolError
from pydrbd.limits import (
    LANE_REPLY_BYTES,
    NBD_ALL_IN_FLIGHT_BYTES_MAX,
    NBD_DISCONNECT_TIMEOUT_S,
    NBD_IN_FLIGHT_BYTES_MAX,
    NBD_REQUEST_BYTES_MAX,
)
from pydrbd.native import Batch, LaneStream
from pydrbd.runtime.buffers import ReceiveBuffer
from pydrbd.runtime.engine import Engine, ReplyPart, Session
from pydrbd.runtime.nbd_handshake import Admission, ClientGone, Handshake
from pydrbd.runtime.nbd_sender import ReplySender
from pydrbd.units import KIB
from pydrbd.wire.nbd import REQUEST_SIZE_BYTES, Command, ExportInfo, ExportUnavailable
from pydrbd.wire.nbd_negotiation import Opened

__all__ = ["NbdConnection", "NbdStatistics"]

_REQUEST_COST_BYTES: Final = 4 * KIB
"""What a request counts beyond its payload, so that those without payload are bounded too."""

# Plain numbers: an enum's members are slow to reach for what is done on every wake-up.
_READ: Final = int(Command.READ)
_DISC: Final = int(Command.DISC)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class NbdStatistics:
    """What the server has done since it started."""

    connections: int = 0  # open now
    accepted: int = 0
    refused: int = 0  # one too many
    failed: int = 0  # dropped for a protocol error
    wakeups: int = 0  # reads that brought requests, or pieces of them
    batches: int = 0
    requests: int = 0
    received_bytes: int = 0
    stops: int = 0  # times that a client was not read from because of a limit

    @property
    def requests_per_wakeup(self) -> float:
        """How many requests one read brings on average: 1 for a lone client at depth 1."""
        return self.requests / self.wakeups if self.wakeups else 0.0


class NbdConnection:
    """One accepted, non-blocking socket, closed at the end of `run`; a session sees it as engine.Client."""

    def __init__(
        self, sock: socket.socket, peer: str, engine: Engine, statistics: NbdStatistics, admission: Admission
    ) -> None:
        self._socket = sock
        self._peer = peer
        self._statistics = statistics
        self._admission = admission
        self._opener = _Opener(engine, self)
        self._opened: Opened | None = None  # without a handshake
        self._sender = ReplySender(sock, self._on_progress, self._on_lost)
        self._scope = trio.CancelScope()
        self._closed = False
        self._receive = ReceiveBuffer()
        self._need_bytes = REQUEST_SIZE_BYTES  # of the request at the front of the buffer, as far as is known
        self._structured = False  # READs are answered by chunks
        self._disconnecting = False  # DISC was read
        self._held_back = False  # a limit holds requests back that are here
        self._lane_replies: bytearray | None = None  # the memory for a lane's replies, once there was one
        self._costs: dict[Batch, int] = {}  # of the batches in flight
        self._in_flight_bytes = 0
        self._failure: ClientProtocolError | ClientGone | None = None
        self._progress: trio.Event | None = None  # exists while the reader waits for replies to be made or sent

    async def run(self, nursery: trio.Nursery) -> None:
        """From the greeting to the end of the connection. Raises only what is our own fault.

        With TLS, a task in `nursery` encrypts: it ends after this, when it has sent what is left.
        """
        try:
            with self._scope:
                opened = self._opened or await self._negotiate(nursery)
                if opened is not None:
                    await self._transmit(opened)
            if self._failure is not None:
                raise self._failure
        except ClientProtocolError as error:
            self._statistics.failed += 1
            _log.warning("NBD client %s: %s; its connection is dropped", self._peer, error)
        except ClientGone as gone:
            _log.info("NBD client %s is gone: %s", self._peer, gone)
        finally:
            self._closed = True
            self._sender.close()
            if self._opener.session is not None:
                self._opener.session.close()
            self._socket.close()

    def adopt(self, session: Session, context: tuple[int, str]) -> None:
        """Before `run`: the client is of this process, has opened this, and leaves the handshake out."""
        self._opener.session = session
        self._opened = Opened(session.info, b"", contexts=(context,))

    async def _negotiate(self, nursery: trio.Nursery) -> Opened | None:
        handshake = Handshake(self._socket, self._peer, self._opener, self._admission)
        try:
            opened = await handshake.run(nursery)
        finally:
            self._socket = self._sender.socket = handshake.socket
        if opened is not None:
            _log.info("NBD client %s opened %s", self._peer, opened.info.name)
        return opened

    # --- what the session calls: engine.Client ----------------------------------------------------------------------

    def send(self, parts: Sequence[ReplyPart]) -> None:
        """See engine.Client."""
        self._sender.send(parts)

    def done(self, batch: Batch) -> None:
        """See engine.Client."""
        self._in_flight_bytes -= self._costs.pop(batch)
        self._on_progress()

    @property
    def shakes_hands(self) -> bool:
        """Whether it has opened nothing yet."""
        return self._opener.session is None

    @property
    def fits_lane(self) -> bool:
        """See engine.Client."""
        waits = self._closed or self._disconnecting or self._held_back or self._sender.queued_bytes
        return not waits and self._opener.session is not None

    def lend(self, batch: Batch) -> None:
        """See engine.Client."""
        self._in_flight_bytes -= self._costs.pop(batch)

    def take_back(self, batch: Batch) -> None:
        """See engine.Client."""
        self._costs[batch] = cost_bytes = batch.count * _REQUEST_COST_BYTES
        self._in_flight_bytes += cost_bytes

    def lane_enter(self) -> tuple[LaneStream, bytearray]:
        """See engine.Client."""
        if self._lane_replies is None:
            self._lane_replies = cast(bytearray, mmap.mmap(-1, LANE_REPLY_BYTES))
        receive = self._receive
        stream = LaneStream(self._socket.fileno(), receive.memory, receive.start, receive.end)
        stream.need_bytes, stream.structured = self._need_bytes, self._structured
        return stream, self._lane_replies

    def lane_leave(self, stream: LaneStream) -> None:
        """See engine.Client."""
        self._receive.start, self._receive.end = stream.start, stream.end
        self._need_bytes = stream.need_bytes or REQUEST_SIZE_BYTES
        statistics = self._statistics
        statistics.wakeups += stream.wakeups
        statistics.received_bytes += stream.received_bytes
        statistics.batches += stream.batches
        statistics.requests += stream.requests
        if stream.unsent:
            self._sender.send([stream.unsent])

    def lane_left(self) -> None:
        """See engine.Client."""
        session = self._opener.session
        if session is None or self._closed:
            return
        try:
            self._held_back = not self._submit_received(session)
        except ClientProtocolError as error:
            self._failure = error
            self._close_now()

    def abort(self, reason: str) -> None:
        """See engine.Client."""
        if not self._closed:
            _log.info("NBD client %s: %s; its connection is dropped", self._peer, reason)
            self._close_now()

    def _on_lost(self, error: OSError) -> None:
        if not self._closed:
            _log.info("NBD client %s is gone: %s", self._peer, error.strerror)
            self._close_now()

    def _close_now(self) -> None:
        self._closed = True
        self._sender.close()
        self._scope.cancel()

    # --- transmission -----------------------------------------------------------------------------------------------

    async def _transmit(self, opened: Opened) -> None:
        """Until the client is gone. Raises ClientProtocolError, ClientGone."""
        assert self._opener.session is not None
        self._structured = opened.structured
        self._opener.session.contexts = opened.contexts
        self._opener.session.any_alignment = opened.any_alignment
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sender.run)
            try:
                self._receive.append(opened.unread)
                await self._read_requests(self._opener.session)
            except (ClientProtocolError, ClientGone) as error:
                self._failure = error  # raised outside, because the nursery would wrap it
            nursery.cancel_scope.cancel()

    async def _read_requests(self, session: Session) -> None:
        """Until DISC (then the replies that are due are still sent) or the end of the stream."""
        receive, lane = self._receive, session.lane
        while True:
            if lane is not None and lane.engaged:
                await lane.wait_ended()
                continue
            self._held_back = not self._submit_received(session)
            if self._held_back:
                self._statistics.stops += 1
                await self._wait_progress()
                continue
            if self._disconnecting:
                break
            await trio.lowlevel.wait_readable(self._socket)
            if lane is not None and await lane.run(session):
                continue
            if self._held_back or self._disconnecting:
                continue
            receive.make_room(self._need_bytes)
            try:
                count_bytes = self._socket.recv_into(receive.room())
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClientGone(error.strerror) from error
            if not count_bytes:
                where = "in the middle of a request" if receive.start != receive.end else "without DISC"
                raise ClientGone(f"it closed the connection {where}")
            receive.end += count_bytes
            self._statistics.wakeups += 1
            self._statistics.received_bytes += count_bytes
        with trio.move_on_after(NBD_DISCONNECT_TIMEOUT_S):
            while self._costs or self._sender.queued_bytes:
                await self._wait_progress()

    async def _wait_progress(self) -> None:
        self._progress = trio.Event()
        await self._progress.wait()
        self._progress = None

    def _on_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
        elif self._held_back:
            self.lane_left()  # the reader waits for its socket, and does not know that it may go on

    def _submit_received(self, session: Session) -> bool:
        """Submit the requests that are here; False if a limit holds some of them back. Raises ClientProtocolError."""
        receive = self._receive
        while receive.start != receive.end and not (self._disconnecting or self._closed):
            batch, consumed_bytes, self._need_bytes = native.nbd_split(
                receive.memory, receive.start, receive.end, NBD_REQUEST_BYTES_MAX
            )
            if not batch.count:
                return True
            cost_bytes = consumed_bytes + _bytes_to_read(batch) + batch.count * _REQUEST_COST_BYTES
            disconnects = native.records_with_command(batch, batch.all, _DISC)
            if disconnects or cost_bytes > self._allowance_bytes():
                admitted, cost_bytes = self._admit(batch)
                if admitted < batch.count:
                    if not admitted:
                        return self._disconnecting
                    self._need_bytes = 0
                    consumed_bytes = batch.records[admitted].data - REQUEST_SIZE_BYTES - receive.start
                    batch = Batch(receive.memory, batch.records, admitted)
            batch.structured = self._structured
            receive.start += consumed_bytes
            self._costs[batch] = cost_bytes
            self._in_flight_bytes += cost_bytes
            self._statistics.batches += 1
            self._statistics.requests += batch.count
            session.submit(batch)
            if self._need_bytes:
                return True
        self._need_bytes = REQUEST_SIZE_BYTES
        return True

    def _allowance_bytes(self) -> int:
        share_bytes = NBD_ALL_IN_FLIGHT_BYTES_MAX // max(1, self._statistics.connections)
        return min(NBD_IN_FLIGHT_BYTES_MAX, share_bytes) - self._in_flight_bytes - self._sender.queued_bytes

    def _admit(self, batch: Batch) -> tuple[int, int]:
        """How many of the first requests may go on, and their cost: up to DISC, as far as the allowance goes."""
        allowance_bytes = self._allowance_bytes()
        alone = not self._in_flight_bytes and not self._sender.queued_bytes
        total_bytes = 0
        for index in range(batch.count):
            record = batch.records[index]
            if record.command == Command.DISC:
                self._disconnecting = True
                return index, total_bytes
            cost_bytes = _REQUEST_COST_BYTES
            if record.command in (Command.READ, Command.WRITE) and record.length <= NBD_REQUEST_BYTES_MAX:
                cost_bytes += record.length
            if total_bytes + cost_bytes > allowance_bytes and not (alone and index == 0):
                return index, total_bytes
            total_bytes += cost_bytes
        return batch.count, total_bytes


def _bytes_to_read(batch: Batch) -> int:
    """What the READs of a batch ask for, those included that are too long to be answered."""
    reads = native.records_with_command(batch, batch.all, _READ)
    return native.records_length_sum(batch, reads) if reads else 0


class _Opener:
    """The engine as the handshake sees it; remembers the session that it opened."""

    def __init__(self, engine: Engine, connection: NbdConnection) -> None:
        self._engine = engine
        self._connection = connection
        self.session: Session | None = None

    def exports(self) -> Sequence[ExportInfo]:
        return self._engine.exports()

    def describe(self, name: str) -> ExportInfo:
        return self._engine.describe(name)

    def open(self, name: str) -> ExportInfo:
        assert self.session is None, "one connection opens one export"
        self.session = self._engine.open(name, self._connection)
        return self.session.info

    def make_ready(self, name: str) -> AbstractAsyncContextManager[ExportUnavailable | None]:
        return self._engine.make_ready(name)
