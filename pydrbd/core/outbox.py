"""Persist, then speak: the one door through which effects leave the core.

A superblock write is a *fence*: what the core decides after it may rest on it, so no later effect leaves before it is
durable. Activity-log transactions are not fences (only the writes that wait for them do). Answers to pings pass at
any time: a slow disk must not look like a dead node.

If a fenced write fails, its volume's disk is gone, and a reply of that volume that was waiting behind the fence turns
into an error: the client must not be told of a success that rested on a state that is not on disk.

What waits behind a fence for the peer is dropped with the link: the next one may stand before the fence is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from errno import EAGAIN

from pydrbd.core.effects import DiskSend, Effect, Persist, Reply, Send, Stage

__all__ = ["Outbox"]

_Failed = Callable[[int, int], None]
_ALL = (1 << 64) - 1


class Outbox:
    """Effects in the order in which they may begin."""

    __slots__ = ("_fail_reply", "_fence", "_held", "_on_failed", "_ready")

    def __init__(self, on_failed: _Failed, fail_reply: Callable[[Reply], Reply]) -> None:
        self._ready: list[Effect] = []
        self._held: deque[Effect] = deque()
        self._fence: Persist | None = None
        self._on_failed = on_failed
        self._fail_reply = fail_reply

    def put(self, effect: Effect) -> None:
        """Let an effect leave, behind the fences that were put before it."""
        if self._fence is None:
            self._ready.append(effect)
        else:
            self._held.append(effect)

    def put_urgent(self, effect: Effect) -> None:
        """Let an effect leave at once: it rests on nothing that is being written."""
        self._ready.append(effect)

    def persist(self, volume: int, stages: tuple[Stage, ...]) -> None:
        """Write meta-data and hold everything that comes later until it is durable."""
        fence = Persist(volume, stages, self._fenced_done)
        if self._fence is None:
            self._fence = fence
            self._ready.append(fence)
        else:
            self._held.append(fence)

    def lose_link(self) -> None:
        """Drop what has not left for the peer of a link that is gone; a DiskSend ends as one that can't be done now."""
        unsent = [effect for effect in self._held if isinstance(effect, DiskSend)]
        self._held = deque(effect for effect in self._held if not isinstance(effect, Send | DiskSend))
        for effect in unsent:
            effect.then(_ALL, EAGAIN)

    @property
    def fenced(self) -> bool:
        return self._fence is not None

    def take(self) -> list[Effect]:
        """The effects that may begin now."""
        ready, self._ready = self._ready, []
        return ready

    def _fenced_done(self, failed: int, errno: int) -> None:
        fence = self._fence
        assert fence is not None, "a fence ended that did not stand"
        self._fence = None
        void: list[Persist] = []
        if failed:
            void = [effect for effect in self._held if isinstance(effect, Persist) and effect.volume == fence.volume]
            self._held = deque(
                self._fail_reply(effect)
                if isinstance(effect, Reply) and effect.volume == fence.volume and effect.speaks
                else effect
                for effect in self._held
                if effect not in void  # what is written later rests on what was not written now
            )
        while self._held:
            effect = self._held.popleft()
            self._ready.append(effect)
            if isinstance(effect, Persist) and effect.then == self._fenced_done:
                self._fence = effect
                break
        if failed:
            self._on_failed(fence.volume, errno)
        for effect in void:
            if effect.then != self._fenced_done:
                effect.then(failed, errno)
