"""What the core asks the world to do: the closed list of effects.

An effect that can end has a `then`: the shell reports the end with `events.Done(effect, failed, errno)` and the node
calls it. Effects come out of `Node.handle` in the order in which they may begin; what must wait for a durable write
has been held back by the outbox (see `outbox.py`), so the shell starts each one as it comes and never reorders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from pydrbd.native import Batch
from pydrbd.wire.witness import Verb, WitnessAnswer

__all__ = [
    "Answer",
    "AskWitness",
    "Attach",
    "CloseLink",
    "DetachDisk",
    "DiskDiscard",
    "DiskFlush",
    "DiskRead",
    "DiskSend",
    "DiskWrite",
    "DiskZero",
    "Effect",
    "Level",
    "Log",
    "MapDisk",
    "MeasureDisk",
    "OpenLink",
    "Part",
    "Persist",
    "ReadAhead",
    "Reply",
    "RunHelper",
    "Send",
    "Socket",
    "Stage",
    "StateChanged",
    "Then",
]

Part = bytes | bytearray | memoryview
Then = Callable[[int, int], None]
"""Called with (failed_mask, errno) when the effect has ended; (0, 0) is success."""


class Socket(IntEnum):
    """The two connections to the peer (WIRE 1)."""

    DATA = 0
    META = 1


class Level(IntEnum):
    """How loud a log line is; the numbers are the logging module's."""

    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(slots=True, eq=False)
class Send:
    """Queue these bytes on one socket to the peer, in order."""

    socket: Socket
    parts: list[Part]
    answer: bool = False
    """Data that the peer asked for: how much of it is made depends on whether the peer reads it."""


@dataclass(slots=True, eq=False)
class DiskWrite:
    """Write the masked members of a batch to the data area; with `fua` they are durable when it ends."""

    volume: int
    batch: Batch
    mask: int
    fua: bool
    then: Then


@dataclass(slots=True, eq=False)
class DiskRead:
    """Read the masked members into `buffer`, each at its record's `data`."""

    volume: int
    batch: Batch
    mask: int
    buffer: bytearray
    then: Then


@dataclass(slots=True, eq=False)
class DiskSend:
    """Send the masked members from the disk to the peer's data socket, each behind the `head_bytes` before its `data`.

    It leaves in order with what else is sent. It ends with EAGAIN if it can't be done now: nothing has left, read it.
    What is written to such a place before the peer has read it may arrive instead of what was there: whoever asks for
    this sends later writes behind it.
    """

    volume: int
    batch: Batch
    mask: int
    buffer: bytearray
    head_bytes: int
    then: Then


@dataclass(slots=True, eq=False)
class DiskFlush:
    """Make durable what was written to the data area before this effect."""

    volume: int
    then: Then


@dataclass(slots=True, eq=False)
class DiskDiscard:
    """Give the range back; it may read as anything afterwards, and ours reads as zeros where the disk can.

    `resync`: it is what a sync source has there, and nobody's write.
    """

    volume: int
    offset_bytes: int
    length_bytes: int
    then: Then
    resync: bool = False


@dataclass(slots=True, eq=False)
class DiskZero:
    """Make the range read as zeros."""

    volume: int
    offset_bytes: int
    length_bytes: int
    may_unmap: bool
    fua: bool
    then: Then


@dataclass(slots=True, eq=False)
class MapDisk:
    """Look where the disk has holes: (length, is a hole) one behind the other, put in here before `then`.

    At most `extents_max` of them, so they may end before the range does; none at all if it can't be known.
    """

    volume: int
    offset_bytes: int
    length_bytes: int
    extents_max: int
    then: Then
    extents: list[tuple[int, bool]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ReadAhead:
    """Have the range in memory soon, if that is any use; it can't fail."""

    volume: int
    offset_bytes: int
    length_bytes: int
    then: Then


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a `Persist`: flush the data area if asked, write these places of the meta-data, make them durable."""

    flush_data: bool
    writes: tuple[tuple[int, bytes], ...]


@dataclass(slots=True, eq=False)
class Persist:
    """Carry out the stages one after the other, each durable before the next begins. One volume's never overlap."""

    volume: int
    stages: tuple[Stage, ...]
    then: Then


@dataclass(slots=True, eq=False)
class Reply:
    """The answer to members of a batch, as finished NBD reply bytes for their client's session."""

    session: Any
    batch: Batch
    mask: int
    parts: list[Part]
    volume: int = 0
    speaks: bool = False
    """Tells of a write or flush that succeeded: it turns into errors if a fence before it fails."""


@dataclass(slots=True, eq=False)
class Answer:
    """The end of an operator's command: DRBD's return code (1 is success, negative a refusal) and words."""

    request: Any
    code: int
    text: str = ""


@dataclass(slots=True, eq=False)
class OpenLink:
    """Start to look for the peer: connect and accept until both sockets stand.

    Links are numbered, from 1 on. The one before has been closed or lost; its end may still be on its way.
    """

    number: int


@dataclass(slots=True, eq=False)
class CloseLink:
    """Drop both sockets of link `number`, or stop looking for it; nothing if another one is meant by now.

    `linger` waits for the peer to have read what was sent last.
    """

    number: int
    reason: str
    linger: bool = False


@dataclass(slots=True, eq=False)
class Attach:
    """Open the backing disk and read its meta-data; ends in `events.DiskOpened` or `events.DiskNotOpened`."""

    volume: int


@dataclass(slots=True, eq=False)
class DetachDisk:
    """Close the backing disk; what is still under way on it ends with an error."""

    volume: int


@dataclass(slots=True, eq=False)
class MeasureDisk:
    """Look how large the disks are now; the answer is put in here before `then`. It fails if one has shrunk."""

    volume: int
    then: Then
    backing_sectors: int = 0
    md_sectors: int = 0


@dataclass(slots=True, eq=False)
class RunHelper:
    """Run the handler that the configuration names for this event; its exit code is put in here before `then`.

    `volume` None: it is about the whole resource. The exit code stays None if the handler could not be run, or did not
    end in time.
    """

    name: str
    volume: int | None
    then: Then
    exit_code: int | None = None


@dataclass(slots=True, eq=False)
class AskWitness:
    """Ask the witness (core/quorum); its answer is put in here before `then`, or why there is none, in words."""

    verb: Verb
    then: Then
    generation: int = 0
    term: int = 0
    answer: WitnessAnswer | None = None
    error: str = ""


@dataclass(slots=True, eq=False)
class Log:
    """A line for the administrator."""

    level: Level
    text: str


@dataclass(slots=True, eq=False)
class StateChanged:
    """Something that `status` shows has changed: whoever waits for a state looks again."""

    fields: dict[str, Any] = field(default_factory=dict)


Effect = (
    Send
    | DiskWrite
    | DiskRead
    | DiskSend
    | DiskFlush
    | DiskDiscard
    | DiskZero
    | MapDisk
    | ReadAhead
    | Persist
    | Reply
    | Answer
    | OpenLink
    | CloseLink
    | Attach
    | DetachDisk
    | MeasureDisk
    | RunHelper
    | AskWitness
    | Log
    | StateChanged
)
