"""What can happen to a node: the closed list of events that `Node.handle` takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydrbd.core.effects import Effect, Socket
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import Superblock
from pydrbd.native import Batch

__all__ = [
    "ClientBatch",
    "Command",
    "DiskNotOpened",
    "DiskOpened",
    "Done",
    "Event",
    "LaneEnded",
    "LaneWrites",
    "LinkDown",
    "LinkUp",
    "PeerLaneEnded",
    "Received",
    "SessionClosed",
    "SessionOpened",
    "Silence",
    "Tick",
]


@dataclass(slots=True, eq=False)
class LinkUp:
    """Both sockets of link `number` stand (the one that `effects.OpenLink` asked for by that number).

    `resolve_conflicts`: we accepted the meta socket. `challenge`: 64 random bytes.
    """

    number: int
    resolve_conflicts: bool
    challenge: bytes


@dataclass(slots=True, eq=False)
class LinkDown:
    """A socket of link `number` is gone, and the other one with it: this link will say nothing more.

    `reason` is the connection state that says why (Timeout, BrokenPipe, NetworkFailure, ...).
    """

    number: int
    reason: int
    text: str = ""


@dataclass(slots=True, eq=False)
class Silence:
    """Nothing was heard from the peer for `ping-int`: time to ask."""


@dataclass(slots=True, eq=False)
class Received:
    """Whole packets from the peer, as `native.drbd_split` cut them."""

    socket: Socket
    batch: Batch


@dataclass(slots=True, eq=False)
class ClientBatch:
    """NBD requests of one client."""

    session: Any
    volume: int
    batch: Batch


@dataclass(slots=True, eq=False)
class SessionOpened:
    """An NBD client has opened the volume; one that may only read has no need for the role."""

    session: Any
    volume: int
    reads_only: bool = False


@dataclass(slots=True, eq=False)
class SessionClosed:
    """An NBD client is gone."""

    session: Any
    volume: int


@dataclass(slots=True, eq=False)
class Done:
    """An effect with a `then` has ended: the members that failed (all bits for effects without members) and errno."""

    effect: Effect
    failed: int
    errno: int


@dataclass(slots=True, eq=False)
class DiskOpened:
    """The backing disk is open, its activity log applied, its meta-data read."""

    volume: int
    layout: Layout
    superblock: Superblock
    bitmap: Bitmap
    capacity_sectors: int
    applied_extents: int = 0
    zeroes_fast: bool = False
    """The disk can zero a range without writing it."""
    held_back: bool = False
    """What is written may be in this machine's memory only, until a flush."""


@dataclass(slots=True, eq=False)
class DiskNotOpened:
    volume: int
    text: str


@dataclass(slots=True, eq=False)
class Command:
    """An operator's request; it ends with an `Answer` that carries `request`."""

    request: Any
    verb: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LaneWrites:
    """Writes of one client that a lane leaves under way: `busy` awaits the peer, `failed` is not on our disk."""

    serial: int
    epoch: int
    session: Any
    batch: Batch
    busy: int
    failed: int


@dataclass(slots=True, eq=False)
class LaneEnded:
    """What a Primary's lane has done since it began. `touched`: the 4 MiB extents that it has written to.

    `peer_seq`: of the newest acknowledgement. `epoch` is the open one, those before it are flushed on both nodes;
    `log_count`: what lanes have written in it, in all; `barrier_sent`: its barrier has gone out, for a FLUSH that is
    still to be answered.
    """

    volume: int
    next_serial: int
    write_count: int
    epoch: int
    log_count: int
    barrier_sent: bool
    written_bytes: int
    read_bytes: int
    peer_seq: int
    touched: list[int]
    groups: list[LaneWrites]
    errno: int


@dataclass(slots=True, eq=False)
class PeerLaneEnded:
    """What a Secondary's lane has written and acknowledged since it began.

    `flushed`: all earlier epochs are, and are confirmed; the open one then has `epoch_count` writes.
    `peer_seq`: the sequence number of the newest write.
    """

    volume: int
    write_count: int
    written_bytes: int
    flushed: bool
    epoch_count: int
    peer_seq: int


@dataclass(slots=True, eq=False)
class Tick:
    """A deadline of `Node.next_deadline` has passed."""


Event = (
    LinkUp
    | LinkDown
    | Silence
    | Received
    | ClientBatch
    | SessionOpened
    | SessionClosed
    | Done
    | DiskOpened
    | DiskNotOpened
    | LaneEnded
    | PeerLaneEnded
    | Command
    | Tick
)
