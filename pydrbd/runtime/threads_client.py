"""Requests of other threads for an export: how nbdkit's threads reach the engine, which lives in Trio's.

    any thread   call(...)  ->  queue, one wake-up for all that are in it  ->  blocked on a lock of its own
    Trio         run        ->  all that are there become batches          ->  Session.submit
                 send       ->  the replies, as an NBD client would get them  ->  the locks

A hand-over costs far more than a request. So only whoever finds nobody waiting wakes Trio, and what has gathered until
Trio looks is one batch: a lone request pays for it alone, sixteen at a time share.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import Final, NoReturn

import trio

from pydrbd import native
from pydrbd.limits import BATCH_RECORDS_MAX, NBD_IN_FLIGHT_BYTES_MAX, NBD_REQUEST_BYTES_MAX
from pydrbd.native import Batch, LaneStream
from pydrbd.runtime.engine import ExportInfo, ReplyPart, Session
from pydrbd.wire.nbd import REQUEST_SIZE_BYTES, ChunkType, Command, NbdError, NbdMagic, encode_request

__all__ = ["Extents", "ThreadsClient", "ThreadsWakeup"]

Extents = list[tuple[int, int]]
"""(length in bytes, flags of base:allocation), one behind the other."""

_SIMPLE: Final = Struct(">IIQ")
_CHUNK: Final = Struct(">IHHQI")
_CONTEXT: Final = (1, "base:allocation")
_CONTEXT_BYTES: Final = 4
_EXTENT: Final = Struct(">II")


class _Call:
    """One thread's request; made once and used again, for a lock is dear to make."""

    __slots__ = ("buffer", "command", "error", "extents", "flags", "length", "lock", "offset")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()  # it is free only between an answer and the thread that takes it
        self.command = self.offset = self.length = self.flags = self.error = 0
        self.buffer: memoryview | None = None
        self.extents: Extents = []


class ThreadsWakeup:
    """Wakes Trio for all clients of a process: one descriptor, written once for all that have something to say."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._waiting: dict[ThreadsClient, None] = {}
        self._clients: dict[ThreadsClient, None] = {}
        self._is_closed = False
        self.wakeups = 0

    def wake(self, client: ThreadsClient) -> bool:
        """From any thread: this client's queue is not empty. False: Trio has ended, and will not look."""
        with self._lock:
            if self._is_closed:
                return False
            if not self._waiting:
                os.eventfd_write(self._fd, 1)
            self._waiting[client] = None
            return True

    def add(self, client: ThreadsClient) -> None:
        self._clients[client] = None

    def discard(self, client: ThreadsClient) -> None:
        self._clients.pop(client, None)

    async def run(self) -> None:
        """Have every client submit what it has, until cancelled; whoever still waits then gets ESHUTDOWN."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                os.eventfd_read(self._fd)
                self.wakeups += 1
                with self._lock:
                    waiting, self._waiting = self._waiting, {}
                for client in waiting:
                    client.submit()
        finally:
            with self._lock:
                self._is_closed = True
            os.close(self._fd)
            for client in list(self._clients):
                client.abort("the node has ended")


class ThreadsClient:
    """engine.Client for threads that are not Trio's. Trio opens `session` and closes it."""

    fits_lane = False

    def __init__(self, wakeup: ThreadsWakeup) -> None:
        self._wakeup = wakeup
        self._queue: deque[_Call] = deque()
        self._idle: list[_Call] = []
        self._calls: dict[int, _Call] = {}
        self._next_cookie = 1
        self._closed = False
        self._session: Session
        self.batches = 0

    # --- in Trio's thread ---

    def attach(self, session: Session) -> None:
        """What this client has opened."""
        self._session = session
        session.contexts = [_CONTEXT]
        self._wakeup.add(self)

    def close(self) -> None:
        """No thread calls any more."""
        assert not self._queue, "a request after the last one"
        self._wakeup.discard(self)
        if not self._closed:
            self._closed = True
            self._session.close()

    @property
    def info(self) -> ExportInfo:
        """What was opened."""
        return self._session.info

    def submit(self) -> None:
        """Everything that is in the queue, in as few batches as it takes."""
        while self._queue:
            calls: list[_Call] = []
            size_bytes = 0
            while self._queue and len(calls) < BATCH_RECORDS_MAX and size_bytes < NBD_IN_FLIGHT_BYTES_MAX:
                call = self._queue.popleft()
                calls.append(call)
                size_bytes += REQUEST_SIZE_BYTES + (call.length if call.command == Command.WRITE else 0)
            if self._closed:
                for call in calls:
                    self._finish(call, NbdError.ESHUTDOWN)
                continue
            buffer = self._encode(calls, size_bytes)
            batch, consumed, _need = native.nbd_split(buffer, 0, size_bytes, NBD_REQUEST_BYTES_MAX)
            assert (batch.count, consumed) == (len(calls), size_bytes), "our own requests are good"
            self.batches += 1
            self._session.submit(batch)

    def _encode(self, calls: Sequence[_Call], size_bytes: int) -> bytearray:
        """The requests as a client sends them: the engine keeps the buffer, and a thread's memory is its own."""
        buffer = bytearray(size_bytes)
        position = 0
        for call in calls:
            cookie, self._next_cookie = self._next_cookie, self._next_cookie + 1
            self._calls[cookie] = call
            end = position + REQUEST_SIZE_BYTES
            buffer[position:end] = encode_request(call.command, cookie, call.offset, call.length, call.flags)
            position = end
            if call.command == Command.WRITE:
                assert call.buffer is not None and len(call.buffer) == call.length
                end = position + call.length
                buffer[position:end] = call.buffer
                position = end
        return buffer

    def _finish(self, call: _Call, error: int) -> None:
        call.error = error
        call.lock.release()

    # --- engine.Client ---

    def send(self, parts: Sequence[ReplyPart]) -> None:
        """See engine.Client. A part is one whole reply, or several."""
        for part in parts:
            view = memoryview(part)
            position = 0
            while position < len(view):
                position = self._take_reply(view, position)

    def _take_reply(self, view: memoryview, position: int) -> int:
        magic = int.from_bytes(view[position : position + 4], "big")
        if magic == NbdMagic.CHUNK:
            return self._take_chunk(view, position)
        assert magic == NbdMagic.SIMPLE_REPLY, f"a reply begins with {magic:#x}"
        error: int
        _magic, error, cookie = _SIMPLE.unpack_from(view, position)
        position += _SIMPLE.size
        call = self._calls.pop(cookie)
        if call.command == Command.READ and not error:
            assert call.buffer is not None
            call.buffer[:] = view[position : position + call.length]
            position += call.length
        self._finish(call, error)
        return position

    def _take_chunk(self, view: memoryview, position: int) -> int:
        """The answer to BLOCK_STATUS: one context, one chunk."""
        length: int
        _magic, _flags, kind, cookie, length = _CHUNK.unpack_from(view, position)
        assert kind == ChunkType.BLOCK_STATUS, f"a chunk of type {kind}"
        begin, end = position + _CHUNK.size, position + _CHUNK.size + length
        call = self._calls.pop(cookie)
        call.extents = list(_EXTENT.iter_unpack(view[begin + _CONTEXT_BYTES : end]))
        self._finish(call, 0)
        return end

    def done(self, batch: Batch) -> None:
        """See engine.Client: what may be in flight is bounded by the number of threads."""

    def abort(self, reason: str) -> None:
        """See engine.Client: all that waits, and all that comes, fails with ESHUTDOWN."""
        if not self._closed:
            self._closed = True
            self._session.close()
        calls, self._calls = self._calls, {}
        waiting = [*calls.values(), *self._queue]
        self._queue.clear()
        for call in waiting:
            self._finish(call, NbdError.ESHUTDOWN)

    def lend(self, batch: Batch) -> None:
        """See engine.Client."""
        _no_lane()

    def take_back(self, batch: Batch) -> None:
        """See engine.Client."""
        _no_lane()

    def lane_enter(self) -> tuple[LaneStream, bytearray]:
        """See engine.Client."""
        _no_lane()

    def lane_leave(self, stream: LaneStream) -> None:
        """See engine.Client."""
        _no_lane()

    def lane_left(self) -> None:
        """See engine.Client."""
        _no_lane()

    # --- from any thread ---

    def call(self, command: int, offset: int, length: int, flags: int = 0, buffer: memoryview | None = None) -> int:
        """Carry out a request and wait for it: 0 or the protocol's error number.

        `buffer` is where a READ's data goes, and where a WRITE's comes from. What is longer than a request may be goes
        in pieces.
        """
        if buffer is None or length <= NBD_REQUEST_BYTES_MAX:
            return self._call(command, offset, length, flags, buffer)[0]
        for position in range(0, length, NBD_REQUEST_BYTES_MAX):
            piece = buffer[position : position + NBD_REQUEST_BYTES_MAX]
            error, _extents = self._call(command, offset + position, len(piece), flags, piece)
            if error:
                return error
        return 0

    def extents(self, offset: int, length: int, flags: int) -> tuple[int, Extents]:
        """BLOCK_STATUS of base:allocation: 0 or the error number, and the extents from `offset` on."""
        return self._call(Command.BLOCK_STATUS, offset, length, flags, None)

    def _call(
        self, command: int, offset: int, length: int, flags: int, buffer: memoryview | None
    ) -> tuple[int, Extents]:
        try:
            call = self._idle.pop()
        except IndexError:
            call = _Call()
        call.command, call.offset, call.length, call.flags, call.buffer = command, offset, length, flags, buffer
        self._queue.append(call)
        if not self._wakeup.wake(self):
            try:
                self._queue.remove(call)
            except ValueError:
                pass  # `abort` has it, and answers
            else:
                self._finish(call, NbdError.ESHUTDOWN)
        call.lock.acquire()  # the interpreter's lock is free meanwhile
        error, extents = call.error, call.extents
        call.buffer, call.extents = None, []
        self._idle.append(call)
        return error, extents


def _no_lane() -> NoReturn:
    raise AssertionError("a lane needs a socket")
