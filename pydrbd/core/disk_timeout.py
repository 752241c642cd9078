"""A disk that takes too long is given up by force: `disk-timeout`.

What the disk has been given is watched from the moment it is given it. If anything of it, data or meta-data, takes
longer, the disk is detached, and all of it counts as failed: the peer stands in, or clients get errors. The disk may
still be at work on it, and end it whenever it likes: nobody listens any more, and no memory that it uses is used for
anything else. It can't be attached again before the system has let go of it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pydrbd.core.effects import DiskDiscard, DiskFlush, DiskRead, DiskSend, DiskWrite, DiskZero, Effect, Level, Persist
from pydrbd.core.states import DiskState
from pydrbd.core.volume import Volume

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["DiskTimeout"]

_WATCHED = (DiskRead, DiskSend, DiskWrite, DiskFlush, DiskDiscard, DiskZero, Persist)
_ALL = (1 << 64) - 1


class DiskTimeout:
    """What the disks of one node are at work on, oldest first, where there is a limit."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._under_way: dict[Any, float] = {}
        self._given_up: set[Any] = set()

    def watch(self, effects: list[Effect]) -> None:
        """These are being given to the disks now."""
        volumes = self._node.volumes
        if not any(volume.options.disk_timeout_s for volume in volumes.values()):
            return
        for effect in effects:
            if isinstance(effect, _WATCHED) and volumes[effect.volume].options.disk_timeout_s:
                self._under_way[effect] = self._node.now

    def listens(self, effect: Any) -> bool:
        """An effect has ended: whether anybody wants to know."""
        self._under_way.pop(effect, None)
        if effect in self._given_up:
            self._given_up.discard(effect)
            return False
        return True

    def next_deadline(self) -> float | None:
        """When the oldest of them has taken too long."""
        return min(
            (started + self._limit_s(effect) for effect, started in self._under_way.items() if self._limit_s(effect)),
            default=None,
        )

    def _limit_s(self, effect: Any) -> float:
        return self._node.volumes[effect.volume].options.disk_timeout_s

    def check(self) -> None:
        """Give up the disks that have taken too long."""
        now = self._node.now
        late = {
            effect.volume: None
            for effect, started in self._under_way.items()
            if self._limit_s(effect) and now >= started + self._limit_s(effect)
        }
        for vnr in late:
            self._give_up(self._node.volumes[vnr])

    def _give_up(self, volume: Volume) -> None:
        node = self._node
        text = f"the local disk did not end a request in {volume.options.disk_timeout_s} s (disk-timeout); detaching it"
        node.log_line(Level.ERROR, f"volume {volume.vnr}: {text}")
        if volume.disk is not None and volume.state.disk > DiskState.Failed:
            node.disks.run_handler(volume)
            node.change(volume, disk=DiskState.Failed)
            node.disks.finish_detach(volume, urgent=True)
        given_up = [effect for effect in self._under_way if effect.volume == volume.vnr]
        for effect in given_up:
            del self._under_way[effect]
        self._given_up.update(given_up)
        for effect in given_up:
            effect.then(_ALL, errno.ETIMEDOUT)
