"""Where received bytes lie while requests that point into them are in flight: payload is never copied out.

Each connection reads into one buffer. Batches refer to it, and reading goes on behind them; when the room ends,
another buffer is taken and only an unfinished request moves along. A buffer is written again when nothing refers to
it any more. That is not counted but asked: memory that somebody has a view of refuses to be resized (BufferError), so
whoever still holds a batch, or a memoryview of its payload on the way to a disk or a peer, is safe, and has nothing
to release.

The memory is an anonymous mapping: untouched pages cost nothing, so a client that only claims a long request, or
never sends one, takes no memory for it.
"""

from __future__ import annotations

import mmap
from typing import Final, cast

from pydrbd.limits import RECEIVE_BUFFER_BYTES
from pydrbd.units import KIB, MIB

__all__ = ["ReceiveBuffer"]

_ROOM_BYTES_MIN: Final = 64 * KIB  # less room than this is not worth a system call: begin at the front or anew
_REWIND_BYTES: Final = 256 * KIB  # go back to the front after so much, if nobody looks at it any more
_MOVE_BYTES_MAX: Final = 16 * KIB  # neither is done when more than this would have to be moved for it
_ROOMY_BYTES_MAX: Final = 8 * MIB  # a buffer holds several of the long requests, so that not each of them is moved
_RETIRED_MAX: Final = 8  # buffers kept for another turn; more are left to the garbage collector


class ReceiveBuffer:
    """One connection's bytes between socket and requests: `memory[start:end]` are received and not yet consumed."""

    __slots__ = ("_current", "_retired", "_size", "end", "memory", "start")

    def __init__(self) -> None:
        self._retired: list[mmap.mmap] = []
        self._use(mmap.mmap(-1, RECEIVE_BUFFER_BYTES))
        self.start = 0
        self.end = 0

    def _use(self, current: mmap.mmap) -> None:
        self._current = current
        self._size = len(current)
        # What batches are made of. Not a memoryview: in CPython 3.11, one that C code has a pointer into crashes the
        # process when the garbage collector finds it in a cycle. To Batch a mapping is as good as a bytearray.
        self.memory = cast(bytearray, current)

    def room(self) -> memoryview:
        """Where the next bytes go; drop it soon, because it counts as a view."""
        return memoryview(self._current)[self.end :]

    def append(self, data: bytes) -> None:
        """Put bytes that were read elsewhere (with the handshake) behind the others."""
        self.make_room(self.end - self.start + len(data))
        self._current[self.end : self.end + len(data)] = data
        self.end += len(data)

    def make_room(self, need_bytes: int) -> None:
        """Before a read: see to it that a request of this many bytes, counted from `start`, can be completed."""
        held = self.end - self.start
        if self.start >= _REWIND_BYTES and held <= _MOVE_BYTES_MAX and not _has_views(self._current):
            # The usual case under light load: the same pages again, still in the processor's cache.
            self._current.move(0, self.start, held)
            self.start, self.end = 0, held
        room_wanted = need_bytes - held
        if held <= _MOVE_BYTES_MAX:
            room_wanted = max(room_wanted, _ROOM_BYTES_MIN)
        if self._size - self.end < room_wanted:
            self._move(need_bytes)

    def _move(self, need_bytes: int) -> None:
        """Begin at the front of memory nobody looks at, with the bytes that are not consumed yet."""
        held = self.end - self.start
        unfinished = memoryview(self._current)[self.start : self.end]
        fresh = self._take(need_bytes)
        fresh[:held] = unfinished
        self._retired.append(self._current)
        del self._retired[:-_RETIRED_MAX]
        self._use(fresh)
        self.start, self.end = 0, held

    def _take(self, need_bytes: int) -> mmap.mmap:
        for index, memory in enumerate(self._retired):
            if len(memory) >= need_bytes and not _has_views(memory):
                return self._retired.pop(index)
        return mmap.mmap(-1, max(RECEIVE_BUFFER_BYTES, min(4 * need_bytes, _ROOMY_BYTES_MAX), need_bytes))


def _has_views(memory: mmap.mmap) -> bool:
    try:
        memory.resize(len(memory))
    except BufferError:
        return True
    return False
