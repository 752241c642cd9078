"""The activity log's gate: a write passes when all extents that it touches are hot, that is in the durable log (B3).

One transaction makes hot what all waiting writes need, up to 64 extents. When every slot is taken by extents that the
peer has not confirmed, the peer is pressed for a barrier, and no write passes before the one that waits for it:
otherwise writes to hot extents could keep it out for ever. A batch that touches more extents than one transaction, or
half of the log, can take is split; a single request never does (32 MiB are 9 extents, the smallest log has 67 slots).

While I/O is frozen (WIRE 5.5) no write of ours passes at all: a disk that is being attached takes none yet, and its
peer would not remember that it lacks one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.log_room import LogRoom
from pydrbd.core.volume import LocalDisk, Volume
from pydrbd.errors import errno_text
from pydrbd.limits import AL_UPDATES_PER_TRANSACTION, EXTENTS_OF_BATCH_MAX
from pydrbd.metadata.activity_log import ActivityLog, Plan
from pydrbd.native import Batch

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["LogGate"]

_Go = Callable[[int], None]


class _Waiter:
    """Members of a batch before the gate; `go` is called with their mask."""

    __slots__ = ("epochs_back", "extents", "go", "mask", "volume")

    def __init__(self, volume: Volume, mask: int, extents: list[int], epochs_back: int, go: _Go) -> None:
        self.volume = volume
        self.mask = mask
        self.extents = extents
        self.epochs_back = epochs_back
        self.go = go


class LogGate:
    """The writes of a node that wait for the activity log of their volume."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: list[_Waiter] = []
        self._frozen: list[tuple[Volume, Batch, int, _Go]] = []
        self._logging: set[int] = set()
        self._after_logging: list[Callable[[], None]] = []
        self._starving: set[int] = set()
        self.room = LogRoom(node)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._frozen)

    @property
    def working(self) -> bool:
        """Whether anything waits here, or a transaction is under way."""
        return bool(self._waiting or self._frozen or self._logging)

    def starves(self, volume: Volume) -> bool:
        """Whether all slots are taken, until the peer has confirmed more."""
        return volume.vnr in self._starving

    def enter(self, volume: Volume, batch: Batch, mask: int, go: _Go, *, marked: bool = False) -> None:
        """Let members through, in parts perhaps, now or later.

        Their extents stay hot until the current epoch is released; with `marked`, their blocks are marked out of sync
        already, and the extents may be evicted at any time.
        """
        disk = volume.disk
        if volume.frozen and not marked:
            self._frozen.append((volume, batch, mask, go))
            return
        if disk is None or not volume.has_disk or not volume.options.al_updates:
            go(mask)
            return
        most = min(AL_UPDATES_PER_TRANSACTION, max(1, disk.log.slot_count // 2))
        for members, extents in _parts(batch, mask, most):
            waiter = _Waiter(volume, members, extents, int(marked), go)
            if volume.vnr in self._starving or disk.log.missing(extents):
                self._waiting.append(waiter)
                self._advance(volume)
            else:
                self._pass(waiter, disk)

    def when_quiet(self, volume: Volume, then: Callable[[], None]) -> None:
        """Call when no transaction of this volume is under way: now, or before the next one begins."""
        if volume.vnr not in self._logging:
            then()
        else:
            self._after_logging.append(lambda: self.when_quiet(volume, then))

    def thaw(self, volume: Volume) -> None:
        """I/O goes on: what came to the gate while it was frozen, after having been let in before, comes again."""
        entries, self._frozen = self._frozen, []
        for entry in entries:
            if entry[0] is volume:
                self.enter(*entry)
            else:
                self._frozen.append(entry)
        self.retry()

    def retry(self) -> None:
        """Let through what has become hot; begin the next transaction for what has not."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        queues: set[int] = set()
        for waiter in waiting:
            volume = waiter.volume
            disk = volume.disk
            if volume.frozen and not waiter.epochs_back:
                self._waiting.append(waiter)
            elif disk is None or not volume.has_disk:
                waiter.go(waiter.mask)
            elif volume.vnr in queues or disk.log.missing(waiter.extents):
                self._waiting.append(waiter)
                if volume.vnr in self._starving:
                    queues.add(volume.vnr)
            else:
                self._pass(waiter, disk)
        for volume in {id(waiter.volume): waiter.volume for waiter in self._waiting}.values():
            self._advance(volume)

    def _pass(self, waiter: _Waiter, disk: LocalDisk) -> None:
        disk.log.touch(waiter.extents, self._node.log.current.number - waiter.epochs_back)
        disk.logs_for_peer = disk.logs_for_peer or waiter.epochs_back > 0
        waiter.go(waiter.mask)

    def _advance(self, volume: Volume) -> None:
        """Begin the next transaction of a volume for everything that waits."""
        disk = volume.disk
        if volume.vnr in self._logging or disk is None or volume.frozen:
            return
        plan = self._plan(volume, disk)
        if plan is None:
            return
        self._logging.add(volume.vnr)

        def committed(failed: int, errno: int) -> None:
            self._logging.discard(volume.vnr)
            if volume.disk is disk:
                if failed:
                    # The block may have been written or not, so nobody knows which extents the log names.
                    self._node.on_disk_error(volume, disk, f"activity log write failed ({errno_text(errno)})")
                else:
                    disk.log.commit(plan)
                    volume.counters.al_writes += 1
            waiting, self._after_logging = self._after_logging, []
            for then in waiting:
                then()
            self.retry()

        self.room.write(volume, disk, plan, committed)
        self.room.make(volume, disk)

    def _plan(self, volume: Volume, disk: LocalDisk) -> Plan | None:
        """For the first of those that wait, as many as there is room for; else None: a flush will call again.

        Which extents may go without a flush of their own is asked first. Then no write passes any more, and the peer is
        pressed.
        """
        self._starving.discard(volume.vnr)
        waiting = [waiter for waiter in self._waiting if waiter.volume is volume]
        room, log = self.room, disk.log
        if not any(log.missing(waiter.extents) for waiter in waiting):
            return None
        found = _plan_first(log, waiting, room.ready_epoch(volume, disk), self._node.log.released)
        if found is None:
            room.make(volume, disk)
            released = self._node.log.released  # the current epoch has ended, and it may have waited for nothing else
            ready = room.ready_epoch(volume, disk) if room.awaits_flush(volume) else released
            found = _plan_first(log, waiting, ready, released)
        if found is None:
            self._starving.add(volume.vnr)
            self._node.conflicts.check()
        return found


def _plan_first(log: ActivityLog, waiting: list[_Waiter], ready_epoch: int, released_epoch: int) -> Plan | None:
    """The transaction for as many as can be of the first that wait, whole; None if it is not even one."""
    room = log.room(ready_epoch, AL_UPDATES_PER_TRANSACTION)
    wanted: dict[int, None] = {}
    for waiter in waiting:
        more = [extent for extent in log.missing(waiter.extents) if extent not in wanted]
        if len(wanted) + len(more) > room:
            break
        wanted.update(dict.fromkeys(more))
    return log.plan(list(wanted), released_epoch, ready_epoch) if wanted else None


def _parts(batch: Batch, mask: int, extents_most: int) -> Iterator[tuple[int, list[int]]]:
    """(members, their extents), as few as possible with at most so many extents in each."""
    extents = _extents(batch, mask)
    if len(extents) <= extents_most:
        yield mask, extents
        return
    members, taken = 0, set[int]()
    for index in native.indices(mask):
        more = set(_extents(batch, 1 << index))
        assert len(more) <= extents_most, "one request touches more extents than the activity log can take"
        if len(taken | more) > extents_most:
            yield members, sorted(taken)
            members, taken = 0, set()
        members |= 1 << index
        taken |= more
    yield members, sorted(taken)


def _extents(batch: Batch, mask: int) -> list[int]:
    """The activity-log extents that these members touch."""
    extents = native.records_extents(batch, mask, EXTENTS_OF_BATCH_MAX)
    assert extents is not None, "a batch touches more extents than its requests can"
    return extents
