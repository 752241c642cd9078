"""What the lanes are given and give back: sockets with their memory, the epoch's log, writes under way, flushes."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydrbd._native import ffi, lib
from pydrbd.limits import BATCH_RECORDS_MAX, LANE_BOUNCE_BYTES
from pydrbd.native.batch import Batch, WritableBuffer, new, new_records, writable

__all__ = [
    "NO_DATA",
    "RECORD_BYTES",
    "LaneDisk",
    "LaneFlush",
    "LaneFlushed",
    "LaneGroup",
    "LaneLog",
    "LaneStream",
    "copied",
    "let_go",
]

NO_DATA = bytearray(1)
RECORD_BYTES: Final[int] = ffi.sizeof("struct pydrbd_record")


@dataclass(slots=True, eq=False)
class LaneStream:
    """A socket, and `memory[start:end]` that was read from it and is not used up; a lane moves start and end."""

    fd: int
    memory: WritableBuffer
    start: int
    end: int
    wakeups: int = 0
    received_bytes: int = 0
    need_bytes: int = 0
    batches: int = 0
    requests: int = 0
    structured: bool = False
    """An NBD client that wants structured replies."""
    unsent: bytes = b""
    """What a lane had to say on the socket, and it did not take."""

    def lay_down(self, c: Any, views: list[Any]) -> None:
        """Let C work on it."""
        view = memoryview(self.memory)
        views.append(view)
        c.buffer, c.size = writable(view), len(view)
        c.start, c.end, c.fd = self.start, self.end, self.fd
        c.wakeups = c.received = c.stuck = 0

    def take_up(self, c: Any) -> None:
        """See what C has done."""
        self.start, self.end = c.start, c.end
        self.wakeups, self.received_bytes = c.wakeups, c.received
        c.buffer = ffi.NULL


class LaneLog:
    """The writes that lanes have made in one epoch: `count` records of at most `room`."""

    __slots__ = ("count", "records", "room")

    def __init__(self, room: int) -> None:
        self.records = new("struct pydrbd_record[]", room)
        self.room = room
        self.count = 0

    def batches(self) -> Iterator[Batch]:
        """All of them, as batches without payload."""
        for first in range(0, self.count, BATCH_RECORDS_MAX):
            count = min(BATCH_RECORDS_MAX, self.count - first)
            yield Batch(NO_DATA, copied(self.records + first, count), count)


@dataclass(frozen=True, slots=True)
class LaneGroup:
    """Writes of one client, named by its place among the lane's clients, that have not been acknowledged (`busy`).

    `failed`: the local disk does not have these. The batch has no payload.
    """

    serial: int
    epoch: int
    client: int
    batch: Batch
    busy: int
    failed: int


class LaneDisk:
    """A lane's disk. With direct I/O (`block_bytes`) it has memory of its own, and a context of the kernel's for it."""

    def __init__(self, slow_us: int, direct_slow_us: int) -> None:
        self._slow_us, self._direct_slow_us = slow_us, direct_slow_us
        self._bounce: mmap.mmap | None = None
        self._context = 0

    def lay_down(self, c: Any, views: list[Any], fd: int, base_bytes: int, block_bytes: int) -> None:
        c.fd, c.base, c.block, c.pending = fd, base_bytes, block_bytes, 0
        c.bounce, c.bounce_size, c.context = ffi.NULL, 0, 0
        c.slow_us = self._direct_slow_us if block_bytes else self._slow_us
        if not block_bytes:
            return
        if self._bounce is None:
            self._bounce = mmap.mmap(-1, LANE_BOUNCE_BYTES)
            self._context = lib.pydrbd_lane_aio_open()  # 0: then it goes without
            if self._context:
                weakref.finalize(self, lib.pydrbd_lane_aio_close, self._context)
        view = memoryview(self._bounce)
        views.append(view)
        c.bounce, c.bounce_size, c.context = writable(view), len(view), self._context

    @staticmethod
    def take_up(c: Any) -> None:
        assert not c.pending, "a lane has left the disk at work"
        c.bounce = ffi.NULL


@dataclass(frozen=True, slots=True)
class LaneFlush:
    """What a lane may do about flushes. `size_bytes`: what the disk's file must have; 0: that is not looked at.

    `beside`: there is another processor, so that it pays to begin or look for what is likely to come.
    """

    allowed: bool
    size_bytes: int
    slow_us: int
    beside: bool = True

    def lay_down(self, c: Any) -> None:
        c.allowed, c.size_min, c.slow_us = self.allowed, self.size_bytes, self.slow_us
        c.beside = self.beside
        c.count = c.was_slow = c.error = 0


@dataclass(frozen=True, slots=True)
class LaneFlushed:
    """What has come of it: how many flushes, whether one was slow, and the errno of one that failed (or 0)."""

    count: int
    was_slow: bool
    errno: int

    @classmethod
    def take_up(cls, c: Any) -> LaneFlushed:
        return cls(c.count, bool(c.was_slow), c.error)


def copied(records: Any, count: int) -> Any:
    copy = new_records(count)
    ffi.memmove(copy, records, count * RECORD_BYTES)
    return copy


def let_go(views: list[Any]) -> None:
    """C has no pointers into this memory any more: it may move and be used again."""
    for view in views:
        if isinstance(view, memoryview):
            view.release()
        else:
            ffi.release(view)
    views.clear()
