"""A client's FLUSH is answered when both nodes have flushed (A4+).

Here: a flush of the local disk. There: the current epoch is closed with an urgent barrier, and the peer's barrier
acknowledgement, which it sends after its own flush, covers every write that was answered before the FLUSH came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydrbd.core.effects import DiskFlush, Level
from pydrbd.core.states import DiskState
from pydrbd.core.volume import Volume
from pydrbd.errors import errno_text
from pydrbd.native import Batch

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Flushes"]

_EIO = 5


class _Flush:
    __slots__ = ("batch", "epoch", "local_busy", "local_failed", "member", "session", "volume")

    def __init__(self, volume: Volume, session: Any, batch: Batch, member: int, epoch: int) -> None:
        self.volume = volume
        self.session = session
        self.batch = batch
        self.member = member
        self.epoch = epoch
        self.local_busy = False
        self.local_failed = False


class Flushes:
    """All client flushes of a node that are under way."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: list[_Flush] = []

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def submit(self, volume: Volume, session: Any, batch: Batch, index: int) -> None:
        """Flush both disks for one client."""
        node = self._node
        if node.log.current.sent_count or node.log.last_unacked():
            node.press_for_barrier()
        flush = _Flush(volume, session, batch, 1 << index, node.log.last_unacked())
        if volume.has_disk:
            flush.local_busy = True
            disk, durable_up_to = volume.disk, node.gate.room.durable_up_to()

            def done(failed: int, errno: int) -> None:
                flush.local_busy = False
                if failed:
                    flush.local_failed = True
                    node.on_disk_error(volume, disk, f"flush failed ({errno_text(errno)})")
                elif disk is not None:
                    disk.is_durable(durable_up_to)
                self.check()

            node.out.put(DiskFlush(volume.vnr, done))
        else:
            flush.local_failed = True
        self._waiting.append(flush)
        self.check()

    def fail_waiting(self) -> None:
        """Whatever has not been answered fails: I/O was frozen, and is given up."""
        for flush in self._waiting:
            flush.local_failed = True

    def check(self) -> None:
        """Answer the flushes that both nodes have carried out."""
        if not self._waiting:
            return
        node = self._node
        still: list[_Flush] = []
        waiting, self._waiting = self._waiting, []
        for flush in waiting:
            if flush.local_busy or flush.volume.holds_answers or not node.log.acked_up_to(flush.epoch):
                still.append(flush)
                continue
            node.reply(flush.volume, flush.session, flush.batch, flush.member, 0 if self._is_good(flush) else _EIO)
            flush.volume.flush_in_doubt = False
        self._waiting = still + self._waiting

    def _is_good(self, flush: _Flush) -> bool:
        """Whether an UpToDate disk has flushed: one that is itself out of date will be overwritten by another one."""
        volume = flush.volume
        here = volume.state.disk == DiskState.UpToDate and not flush.local_failed
        return not volume.flush_in_doubt and (here or volume.state.pdsk == DiskState.UpToDate)

    def on_unconfirmed(self, volume: Volume) -> None:
        """The peer is being lost, and has not confirmed a write that was answered: was its disk the only good one?

        It may lose power, and with it what it had in its cache; returning, it is what counts. So the next FLUSH fails,
        whatever is there by then: whoever asked for durability must hear of it once.
        """
        if volume.state.disk != DiskState.UpToDate and not volume.flush_in_doubt:
            volume.flush_in_doubt = True
            self._node.log_line(
                Level.ERROR,
                f"volume {volume.vnr}: the peer had the only good disk, and may have lost what was not flushed there",
            )
