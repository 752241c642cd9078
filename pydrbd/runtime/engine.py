"""What lies between the NBD server and whatever stores the bytes: three small protocols.

The server (runtime.nbd_server) frames, batches, sends and limits; the engine answers. Everything here is called in
one Trio thread and returns at once; no call may block or raise, except where it says so. What takes time before an
export can be opened is `Engine.make_ready`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pydrbd.native import Batch, LaneStream
from pydrbd.wire.nbd import ExportInfo, ExportNotReady, ExportUnavailable

__all__ = ["Client", "Engine", "ExportInfo", "ExportNotReady", "ExportUnavailable", "LaneDoor", "ReplyPart", "Session"]

ReplyPart = bytes | bytearray | memoryview


class Client(Protocol):
    """One NBD connection past the handshake, as its session sees it."""

    def send(self, parts: Sequence[ReplyPart]) -> None:
        """Send reply bytes: at once as far as the socket takes them, the rest when it does.

        The parts must not change until they are sent; the server drops its references to them then. After the
        client has gone this does nothing.
        """
        ...

    def done(self, batch: Batch) -> None:
        """Every request of the batch has been answered: called once per submitted batch, after its last `send`.

        It frees the batch's share of the client's in-flight limit. The buffer behind the batch is not touched: it is
        used again only when the batch and the last memoryview of it are gone.
        """
        ...

    def abort(self, reason: str) -> None:
        """Drop the connection, unsent replies included. A kernel client then waits for a reconnect."""
        ...


    @property
    def fits_lane(self) -> bool:
        """Whether a lane may take this connection over now (runtime/lane.py)."""
        ...

    def lend(self, batch: Batch) -> None:
        """A batch is carried on by a lane: it counts as done."""
        ...

    def take_back(self, batch: Batch) -> None:
        """A batch without payload that a lane leaves under way: `done` will be called for it."""
        ...

    def lane_enter(self) -> tuple[LaneStream, bytearray]:
        """Give the socket to a lane, with memory for replies; not touched until `lane_leave`."""
        ...

    def lane_leave(self, stream: LaneStream) -> None:
        """Take the socket back: what the lane has used up, and what of its replies is still to be sent."""
        ...

    def lane_left(self) -> None:
        """Submit what a lane has left in the buffer."""
        ...


class LaneDoor(Protocol):
    """What serves requests without the engine, while it can (runtime/lane.py)."""

    @property
    def engaged(self) -> bool:
        """Whether it has all sockets now: leave the buffers alone."""
        ...

    async def wait_ended(self) -> None:
        """Wait until it has not."""
        ...

    async def run(self, who: object) -> bool:
        """Let it serve, after a session's socket has become readable; False: it has read nothing from that."""
        ...


class Session(Protocol):
    """One client's open export."""

    info: ExportInfo
    lane: LaneDoor | None
    contexts: Sequence[tuple[int, str]]
    """Number and name of what BLOCK_STATUS tells of; the server sets it when the handshake is over."""
    any_alignment: bool
    """Whether the client may send what is no multiple of `info.block_minimum`; set with `contexts`."""

    def submit(self, batch: Batch) -> None:
        """Carry out a batch of requests; answers go through `Client.send`, in any order, now or later.

        The server has checked framing only: unknown commands and flags, READs above NBD_REQUEST_BYTES_MAX, ranges
        outside the export and writes to a read-only export arrive here and are answered here. DISC never does.
        Keep the batch, or memoryviews of `batch.buffer`, as long as the payload is needed, and no longer.
        """
        ...

    def close(self) -> None:
        """The client is gone: called once, last. Requests in flight are finished or dropped, unanswered."""
        ...


class Engine(Protocol):
    """All exports of one process."""

    def exports(self) -> Sequence[ExportInfo]:
        """What LIST shows, in order; also exports that can't be opened right now."""
        ...

    def describe(self, name: str) -> ExportInfo:
        """What `open` would serve under this name (INFO). Raises ExportUnavailable."""
        ...

    def open(self, name: str, client: Client) -> Session:
        """Open an export for a client; the empty name is the default export.

        Raises ExportUnavailable with the reason for humans, e.g. on a Secondary: "r0 is Secondary here: promote it
        (pydrbd primary r0) or connect to its peer". Raises ExportNotReady where `make_ready` may help.
        """
        ...

    def make_ready(self, name: str) -> AbstractAsyncContextManager[ExportUnavailable | None]:
        """Do what `open` said it needs; gives why that can't be done. While it is open, it is not undone."""
        ...
