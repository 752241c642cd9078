"""Replies on their way out: to the socket at once, and what it refuses by a task that waits for it.

A client that stops reading therefore costs memory (counted in `queued_bytes`), never time of anybody else.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

import trio

from pydrbd.runtime.engine import ReplyPart

__all__ = ["ReplySender"]

_GATHER_PARTS_MAX: Final = 1024  # Linux: UIO_MAXIOV


class ReplySender:
    """The sending half of a non-blocking socket; `on_progress` when its queue got shorter, `on_lost` at the end."""

    __slots__ = ("_lost", "_on_lost", "_on_progress", "_queue", "_work", "queued_bytes", "socket")

    def __init__(
        self, sock: socket.socket, on_progress: Callable[[], None], on_lost: Callable[[OSError], None]
    ) -> None:
        self.socket = sock
        self._on_progress = on_progress
        self._on_lost = on_lost
        self._lost = False
        self._queue: deque[memoryview] = deque()
        self._work: trio.Event | None = None  # exists while the writer task has nothing to do
        self.queued_bytes = 0

    def send(self, parts: Sequence[ReplyPart]) -> None:
        """Send now what the socket takes, behind what is queued already; queue the rest. Never blocks or raises."""
        if self._lost:
            return
        total_bytes = sum(map(len, parts))
        sent_bytes = 0
        if not self._queue and len(parts) <= _GATHER_PARTS_MAX:
            sent_bytes = self._gather(parts)
            if sent_bytes == total_bytes or self._lost:
                return
        self.queued_bytes += total_bytes - sent_bytes
        for part in parts:
            if sent_bytes >= len(part):
                sent_bytes -= len(part)
            else:
                self._queue.append(memoryview(part)[sent_bytes:])
                sent_bytes = 0
        if self._work is not None:
            self._work.set()

    def close(self) -> None:
        """Forget what is queued; later `send` calls do nothing."""
        self._lost = True
        self._queue.clear()
        self.queued_bytes = 0

    async def run(self) -> None:
        """The writer task: empties the queue whenever the socket takes more. Ends by cancellation."""
        while True:
            while self._queue:
                await trio.lowlevel.wait_writable(self.socket)
                self._drop_sent(self._gather(list(islice(self._queue, _GATHER_PARTS_MAX))))
            self._work = trio.Event()
            await self._work.wait()
            self._work = None

    def _gather(self, parts: Sequence[ReplyPart]) -> int:
        """One sendmsg: how many bytes the socket took."""
        try:
            return self.socket.sendmsg(parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.close()
            self._on_lost(error)
            return 0

    def _drop_sent(self, sent_bytes: int) -> None:
        if not sent_bytes:
            return
        self.queued_bytes -= sent_bytes
        queue = self._queue
        while sent_bytes:
            first = queue[0]
            if len(first) > sent_bytes:
                queue[0] = first[sent_bytes:]
                break
            sent_bytes -= len(first)
            queue.popleft()
        self._on_progress()
