"""Whoever wants to hear of each change of state: the control verb `events`.

A watcher is sent a snapshot a line, the first at once. One that does not read is sent the latest state only, when it
reads again: between two that it gets, others may be missing.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trio

from pydrbd.limits import EVENTS_QUEUED_MAX, EVENTS_WATCHERS_MAX

__all__ = ["TooManyWatchers", "Watchers"]


class TooManyWatchers(Exception):
    """No more than EVENTS_WATCHERS_MAX at a time."""


class _Watcher:
    def __init__(self) -> None:
        self.snapshots: deque[dict[str, Any]] = deque(maxlen=EVENTS_QUEUED_MAX)
        self.news = trio.Event()

    def put(self, snapshot: dict[str, Any]) -> None:
        self.snapshots.append(snapshot)
        self.news.set()


class Watchers:
    """Those of one resource; `look` makes a snapshot."""

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        self._look = look
        self._watchers: list[_Watcher] = []

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._watchers)

    def tell(self) -> None:
        """The state has changed."""
        if self._watchers:
            snapshot = self._look()
            for watcher in self._watchers:
                watcher.put(snapshot)

    @contextmanager
    def _watch(self) -> Iterator[_Watcher]:
        if len(self._watchers) >= EVENTS_WATCHERS_MAX:
            raise TooManyWatchers(f"{EVENTS_WATCHERS_MAX} look on already")
        watcher = _Watcher()
        watcher.put(self._look())
        self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)

    async def serve(self, sock: trio.socket.SocketType) -> None:
        """Send snapshots until the other side hangs up, in whatever manner. Raises TooManyWatchers."""
        with self._watch() as watcher:
            async with trio.open_nursery() as nursery:
                # What a task raises comes out of the nursery as a group, which nobody would take for a hang-up.
                nursery.start_soon(_send, trio.SocketStream(sock), watcher, nursery.cancel_scope)
                with suppress(OSError):
                    while await sock.recv(4096):
                        pass  # it has nothing more to say
                nursery.cancel_scope.cancel()


async def _send(stream: trio.SocketStream, watcher: _Watcher, scope: trio.CancelScope) -> None:
    try:
        while True:
            await watcher.news.wait()
            watcher.news = trio.Event()
            while watcher.snapshots:
                response = {"code": 1, "text": "", "data": watcher.snapshots.popleft()}
                await stream.send_all(json.dumps(response).encode() + b"\n")
    except trio.BrokenResourceError:
        scope.cancel()
