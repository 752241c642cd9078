"""The way of a client's write, batch by batch: admitted, logged, to the local disk and the peer at once, answered.

    hold its range -> extents hot in the activity log (one transaction for what is cold) -> epoch
      -> DiskWrite and P_DATA together -> local end, peer's acknowledgements -> one Reply

A member is answered when neither side is still busy with it (early_answers.py says when the peer is not). It fails
only if no side that counts has it: a local error with a peer that has the data is a success (and costs the local
disk), as in DRBD. Its range is free when no word of the peer on it is awaited any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydrbd import native
from pydrbd.core.data_packets import write_parts
from pydrbd.core.early_answers import EarlyAnswers
from pydrbd.core.effects import DiskDiscard, DiskWrite, DiskZero, Effect, Send, Socket
from pydrbd.core.ranges import Hold
from pydrbd.core.states import DiskState
from pydrbd.core.volume import LocalDisk, Volume
from pydrbd.core.write_batch import MEMBER_BITS, WriteBatch
from pydrbd.errors import PeerProtocolError, errno_text
from pydrbd.limits import CONFLICT_RETRY_S
from pydrbd.native import Batch
from pydrbd.wire import nbd

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Writes"]

_EIO = int(nbd.NbdError.EIO)
_ESHUTDOWN = int(nbd.NbdError.ESHUTDOWN)
_NO_DATA = bytearray(1)
_MEMBER_MASK = (1 << MEMBER_BITS) - 1


class Writes:
    """All client writes of a node that are under way."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.next_serial = 1
        self._in_flight: dict[int, WriteBatch] = {}
        self.waiting_count = 0
        self._at_gate: dict[Hold, int] = {}
        self.refusing = False
        """No write that is let in only now is begun: the node gives up being Primary with its I/O frozen."""
        self.early = EarlyAnswers(node)

    @property
    def busy(self) -> bool:
        """Whether any write has not been answered; also one that waits for its range or its extents."""
        return bool(self._in_flight or self.waiting_count)

    @property
    def waits(self) -> bool:
        """Whether any write waits for its range or its extents."""
        return bool(self.waiting_count)

    def in_flight(self) -> Iterator[WriteBatch]:
        """What has not been done with, on either side."""
        return iter(self._in_flight.values())

    def oldest_started(self) -> float | None:
        """When the oldest write that still waits for the peer began."""
        for write in self._in_flight.values():
            if write.peer_busy or (write.volume.awaits_generation and write.volume.state.connected):
                return write.started
        return None

    def submit(self, volume: Volume, session: Any, batch: Batch, mask: int, tried: float = 0.0) -> None:
        """Take members that were checked (bounds, role) on their way. `tried`: when that was done before, if it was."""
        self.waiting_count += mask.bit_count()
        self._node.conflicts.begins(volume, batch, mask)
        volume.ranges.acquire(
            batch, mask, lambda hold, few: self.enter_gate(volume, session, batch, hold, few, tried), yields=True
        )

    def enter_gate(self, volume: Volume, session: Any, batch: Batch, hold: Hold, few: int, tried: float) -> None:
        def go(part: int) -> None:
            self.waiting_count -= part.bit_count()
            self._at_gate[hold] &= ~part
            if not self._at_gate[hold]:
                del self._at_gate[hold]
            self._issue(volume, session, batch, hold, part, tried)

        self._at_gate[hold] = self._at_gate.get(hold, 0) | few
        self._node.gate.enter(volume, batch, few, go)

    # --- to both sides ---

    def _issue(self, volume: Volume, session: Any, batch: Batch, hold: Hold, mask: int, tried: float) -> None:
        node = self._node
        if self.refusing:
            node.reply(volume, session, batch, mask, _EIO if volume.fails else _ESHUTDOWN)
            volume.ranges.release(hold, mask)
            node.on_write_finished()  # a demotion may have waited for just this one
            node.resync.on_range_free(volume)
            return
        node.congestion.before_write(volume)
        write = WriteBatch(self.next_serial, volume, session, batch, mask, hold)
        write.started, write.tried = node.now, tried or node.now
        self._in_flight[write.serial] = write
        self.next_serial += 1
        send = volume.replicates
        write.epoch = node.log.current
        barriers = node.barrier_parts() if send else []
        node.log.add(write, mask.bit_count(), sent=send)
        if send:
            node.out.put(Send(Socket.DATA, barriers + write_parts(node, write, self.early.expect(write))))
            self.early.on_sent(write)
            volume.counters.sent += native.records_length_sum(batch, mask) >> 9
        elif volume.disk is not None:
            newly = volume.disk.bitmap.set_records(batch, mask)
            if newly and volume.sends_out_of_sync:
                node.send_out_of_sync(volume, batch, mask)
        if volume.has_disk:
            write.local_busy = mask
            volume.counters.written += native.records_length_sum(batch, mask) >> 9
            for effect in self._local_effects(volume, write):
                node.out.put(effect)
        else:
            write.local_failed = mask
        if not write.local_busy and not write.peer_busy:
            self._progress(write)
        node.conflicts.check()

    def _local_effects(self, volume: Volume, write: WriteBatch) -> list[Effect]:
        """One DiskWrite for all plain writes of the batch (two if some are FUA), one effect for each discard."""
        batch, kinds = write.batch, native.nbd_commands(write.batch, write.mask)
        effects: list[Effect] = []
        for members, fua in ((kinds.write & ~kinds.fua, False), (kinds.write & kinds.fua, True)):
            if members:
                effects.append(DiskWrite(volume.vnr, batch, members, fua, self._local_then(write, members)))
        for index in native.indices(write.mask & ~kinds.write):
            record = batch.records[index]
            then = self._local_then(write, 1 << index)
            if record.command == nbd.Command.TRIM:
                effects.append(DiskDiscard(volume.vnr, record.offset, record.length, then))
            else:
                unmap = not record.flags & nbd.CommandFlag.NO_HOLE
                fua = bool(record.flags & nbd.CommandFlag.FUA)
                effects.append(DiskZero(volume.vnr, record.offset, record.length, unmap, fua, then))
        return effects

    def _local_then(self, write: WriteBatch, members: int) -> Any:
        disk = write.volume.disk

        def done(failed: int, errno: int) -> None:
            write.local_busy &= ~members
            if failed & members:
                self.fail_locally(write, disk, failed & members, errno)
            self._progress(write)
            self._node.conflicts.check()

        return done

    def fail_locally(self, write: WriteBatch, disk: LocalDisk | None, members: int, errno: int) -> None:
        """These are not on our disk, and what else has come to it is in doubt."""
        write.local_failed |= members
        if write.volume.disk is not None:
            write.volume.disk.bitmap.set_records(write.batch, members)
            self._node.on_disk_error(write.volume, disk, f"write failed ({errno_text(errno)})", data=True)

    # --- lanes ---

    def lend(self) -> list[WriteBatch]:
        """Give away all that is under way: their epochs are not released before they are back."""
        lent, self._in_flight = list(self._in_flight.values()), {}
        for write in lent:
            write.epoch.open_batches -= 1
            if write.hold is not None:
                write.volume.ranges.release(write.hold, write.peer_busy)
        return lent

    def take_back(self, write: WriteBatch) -> None:
        """A write that a lane leaves under way."""
        write.started = self._node.now
        write.hold = write.volume.ranges.hold(write.batch, write.mask)
        write.epoch.open_batches += 1
        self._in_flight[write.serial] = write

    # --- the peer's acknowledgements ---

    def on_ack(self, block_id: int, *, good: bool, in_sync: bool, received: bool = False) -> WriteBatch:
        """One P_WRITE_ACK, P_RS_WRITE_ACK, P_RECV_ACK or P_NEG_ACK for a write of ours; `progress` comes later.

        Raises PeerProtocolError, or KeyError for a P_NEG_ACK that comes when the write has been done with.
        """
        write = self._in_flight.get(block_id >> MEMBER_BITS)
        member = 1 << (block_id & _MEMBER_MASK)
        if not good:
            if write is None or not write.sent & member:
                raise KeyError(block_id)
            self._on_negative_ack(write, member)
            return write
        if write is None or not (write.write_due | write.receive_due) & member:
            raise PeerProtocolError(f"acknowledgement for an unknown write (block_id {block_id:#x})")
        if received:
            self.early.on_received(write, member)
            return write
        if not write.write_due & member:
            raise PeerProtocolError(f"P_WRITE_ACK for a write that did not ask for it (block_id {block_id:#x})")
        self._hear(write, member)
        disk = write.volume.disk
        if in_sync and write.volume.state.disk == DiskState.UpToDate and disk is not None:
            # The sync source: it must know at once, as the target may be about to end the resync.
            record = write.batch.records[block_id & _MEMBER_MASK]
            disk.bitmap.clear_range(record.offset, record.length)
            self._node.resync_source.check_end(write.volume)
        elif in_sync:
            write.in_sync |= member  # the sync target: only when our own disk has it, too, may it be read from there
        return write

    def _on_negative_ack(self, write: WriteBatch, member: int) -> None:
        self._hear(write, member)
        write.receive_due &= ~member
        write.peer_failed |= member
        self.mark_failed(write.volume, write.batch, member)

    # --- two Primaries ---

    def at_gate(self) -> Iterator[tuple[Hold, int]]:
        """What has its range, and waits for the activity log."""
        return iter(self._at_gate.items())

    def on_conflict(self, block_id: int, *, retry: bool) -> WriteBatch:
        """P_SUPERSEDED: it is done, the peer's own came after it. P_RETRY_WRITE: again. Raises PeerProtocolError."""
        write = self._in_flight.get(block_id >> MEMBER_BITS)
        member = 1 << (block_id & _MEMBER_MASK)
        if write is None or not write.write_due & member or not self._node.conflicts.possible:
            raise PeerProtocolError(f"the fate of a write that is in no conflict (block_id {block_id:#x})")
        self._hear(write, member)
        if retry and self._node.now - write.tried > CONFLICT_RETRY_S:
            raise PeerProtocolError(f"P_RETRY_WRITE for {CONFLICT_RETRY_S:.0f} s")
        write.retried |= member if retry else 0
        self._node.log.take_off(write.epoch, confirmed=self._node.peer_is_pydrbd)
        return write

    def _begin_again(self, write: WriteBatch, members: int) -> None:
        """As if they came now: what the peer has put before them is in the way of their range."""
        volume, session, batch = write.volume, write.session, write.batch
        write.retried, write.replied = write.retried & ~members, write.replied | members
        self.waiting_count += 1  # it is not idle here between the two
        self._release(write, members)
        self.waiting_count -= 1
        self.submit(volume, session, batch, members, write.tried)

    def _hear(self, write: WriteBatch, member: int) -> None:
        """The peer's last word on it."""
        write.write_due &= ~member
        write.peer_busy &= ~member
        write.unconfirmed &= ~member

    def mark_failed(self, volume: Volume, batch: Batch, mask: int) -> None:
        """The peer could not store these: out of sync, and a target that has got our bitmap already must hear of it."""
        if volume.disk is not None:
            newly = volume.disk.bitmap.set_records(batch, mask)
            if newly and volume.sends_out_of_sync:
                self._node.send_out_of_sync(volume, batch, mask)
        self._node.quorum.on_write_refused(volume)

    def progress(self, write: WriteBatch) -> None:
        """Answer what has ended on both sides."""
        self._progress(write)
        self._node.resync_source.start_when_ready(write.volume)
        self._node.congestion.review()

    def wait_for_peer(self, volume: Volume) -> bool:
        """Whether the peer has not acknowledged every write of this volume that it was sent."""
        return any(
            write.peer_busy | write.write_due | write.receive_due and write.volume is volume
            for write in self._in_flight.values()
        )

    def _progress(self, write: WriteBatch) -> None:
        if write.volume.holds_answers:
            return
        retried = write.retried & ~write.local_busy
        if retried:
            self._begin_again(write, retried)
        done = write.mask & ~(write.local_busy | write.peer_busy | write.replied)
        if done & write.unconfirmed:
            done &= ~self.early.without_a_good_copy(write, done)
        if write.again and done & ~self._good_members(write):
            self._do_anew(write, done & ~self._good_members(write))
            done &= self._good_members(write)
        free = (write.replied | done) & ~(write.released | write.write_due | write.receive_due)
        if done:
            self._answer(write, done)
        if free:
            self._release(write, free)

    def _do_anew(self, write: WriteBatch, members: int) -> None:
        """These have no good copy yet, and their range is still theirs: they go on as a write of their own."""
        volume, session, batch, hold = write.volume, write.session, write.batch, write.hold
        assert hold is not None, "a range that was given away before the answer"
        self.waiting_count += members.bit_count()
        write.replied |= members
        write.released |= members
        if write.released == write.mask:
            self._finish(write)
        self.enter_gate(volume, session, batch, hold, members, write.tried)

    def _answer(self, write: WriteBatch, done: int) -> None:
        """Tell the client."""
        node = self._node
        write.replied |= done
        failed = done & ~self._good_members(write)
        if write.epoch is node.log.current and write.epoch.lane is None:
            node.log.close_current()
        if write.session is not None:
            node.reply(write.volume, write.session, write.batch, done & ~failed, 0)
            if failed:
                node.reply(write.volume, write.session, write.batch, failed, _EIO)

    def _release(self, write: WriteBatch, free: int) -> None:
        """These have been answered, and nothing more will be heard of them but the end of their epoch."""
        node = self._node
        self._clear_bits(write, free)
        write.released |= free
        finished = write.released == write.mask
        hold = write.hold
        if finished:
            self._finish(write)
        if hold is not None:
            write.volume.ranges.release(hold, free)
        if finished:
            node.gate.retry()
            node.on_write_finished()
        node.resync.on_range_free(write.volume)

    def _finish(self, write: WriteBatch) -> None:
        del self._in_flight[write.serial]
        write.batch = Batch(_NO_DATA, write.batch.records, write.batch.count)  # only the places are still needed
        write.hold = write.session = None
        self._node.log.on_batch_done(write)

    def _good_members(self, write: WriteBatch) -> int:
        """Those that an UpToDate disk has: a copy on a disk that is itself out of date would not be found again."""
        state, good = write.volume.state, 0
        if state.disk == DiskState.UpToDate:
            good |= ~write.local_failed
        if state.pdsk == DiskState.UpToDate:
            good |= write.sent & ~write.peer_failed
        return good

    def _clear_bits(self, write: WriteBatch, done: int) -> None:
        """Blocks that the peer called in sync are so when the write has ended here, too."""
        disk = write.volume.disk
        clean = done & write.in_sync & ~(write.local_failed | write.peer_failed)
        if clean and disk is not None:
            disk.bitmap.clear_records(write.batch, clean)

    def forgive_waiting(self, now: float) -> None:
        """The peer is being left for its silence, or has just come: what waits begins to wait for it now."""
        for write in self._in_flight.values():
            write.started = now
        barrier = self._node.log.oldest_barrier()
        if barrier is not None:
            barrier.barrier_at = now

    def lose_peer(self) -> None:
        """The peer is gone: mark what it may lack, and let the local result decide."""
        self.early.lose_peer()
        for write in self._in_flight.values():
            write.in_sync = 0
        lanes = self._node.log.unacked_lanes()
        for write in self._node.log.lose_peer():
            self.early.on_unconfirmed(write)
            if write.replied & write.sent:
                self._node.flushes.on_unconfirmed(write.volume)
            if write.volume.disk is not None:
                write.volume.disk.bitmap.set_records(write.batch, write.sent)
        self._node.lanes.lose_peer(lanes)

    def finish_without_peer(self) -> None:
        """Answer what waited for the peer alone (after the new generation was put behind a fence)."""
        for write in list(self._in_flight.values()):
            write.peer_failed |= write.peer_busy | write.unconfirmed
            write.peer_busy = write.write_due = write.receive_due = write.unconfirmed = 0
            self._progress(write)
        self._node.gate.retry()

    def fail_waiting(self) -> None:
        """What has not been answered has failed on both sides; also what a lane began, of which no epoch knows."""
        for write in self._in_flight.values():
            waiting = write.mask & ~write.replied
            write.local_failed |= waiting
            write.peer_failed |= waiting
            write.retried = 0

    def resume(self, *, again: bool = False) -> None:
        """Answer what had to wait for a new generation, or for good data; `again`: do anew what no good disk has."""
        for write in list(self._in_flight.values()):
            write.again = write.again or again
            self._progress(write)
