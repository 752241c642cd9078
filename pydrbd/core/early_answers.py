"""When the peer's part of a write counts as done: replication protocols A, B and C (WIRE 9.5).

    C   the peer has written it (P_WRITE_ACK)
    B   the peer has it in memory (P_RECV_ACK)
    A   it is on its way to the peer, and no more than the limit is on the way

In A and B a write that has been answered stays in the transfer log, as in C: until the barrier acknowledgement says
that the peer has it durably, losing the peer marks it out of sync. What A and B never do here:

* answer a write that no good disk of ours has, before the peer has it: then the only copy would be in a socket. That is
  so without a local disk, with one that is not UpToDate, and when the local write has failed;
* answer a FUA write before the peer's disk has it, or a FLUSH before the peer has flushed: those who ask for durability
  get it from both disks in every protocol (flushes.py waits for the barrier acknowledgement);
* serve the peer's data as if nothing had happened when our disk and then the link have failed in A with answered
  writes on the way: nobody has those any more, and clients get errors until an operator demotes this node;
* let a later write to the same place go before the peer's word on the earlier one, which may clear bits, is here.

In A a write over the limit waits, and so do its client's next ones: a slow peer slows its clients down instead of
filling our memory. The peer is asked for a barrier acknowledgement in good time, so that a quick peer is never waited
for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import Level
from pydrbd.core.epochs import Epoch
from pydrbd.core.states import ConnState, DiskState
from pydrbd.core.uuids import UuidSet
from pydrbd.errors import PeerProtocolError
from pydrbd.units import BIT_SIZE_BYTES
from pydrbd.wire.packet_numbers import DpFlag, WireProtocol

if TYPE_CHECKING:
    from pydrbd.core.node import Node
    from pydrbd.core.write_batch import WriteBatch

__all__ = ["EarlyAnswers"]


class EarlyAnswers:
    """What the writes of a node wait for from the peer."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._throttled: deque[WriteBatch] = deque()
        self._pressed_epoch = 0
        self._bereft: set[int] = set()
        self.in_flight_bytes = 0
        """Protocol A: what was sent and is not covered by a barrier acknowledgement."""

    def expect(self, write: WriteBatch) -> DpFlag:
        """A write goes to the peer: what it waits for, and the flags that ask the peer for that."""
        state, mask = write.volume.state, write.mask
        resyncing = ConnState.SyncSource <= state.conn <= ConnState.PausedSyncT
        flags = DpFlag.MAY_SET_IN_SYNC if resyncing else DpFlag(0)
        write.sent = mask
        if self._node.net.protocol is WireProtocol.C or state.disk != DiskState.UpToDate:
            write.peer_busy = write.write_due = mask
            return flags | DpFlag.SEND_WRITE_ACK
        write.unconfirmed = mask
        write.durable = native.nbd_commands(write.batch, mask).fua & mask
        if write.durable or resyncing:
            write.write_due = mask
            flags |= DpFlag.SEND_WRITE_ACK
        if self._node.net.protocol is WireProtocol.B:
            write.receive_due = mask
            flags |= DpFlag.SEND_RECEIVE_ACK
        write.peer_busy = write.receive_due | write.durable
        return flags

    def on_sent(self, write: WriteBatch) -> None:
        """It is on its way: protocol A counts it, and holds it if there is too much on the way."""
        if self._node.net.protocol is not WireProtocol.A or not write.unconfirmed:
            return
        writes = native.nbd_commands(write.batch, write.mask).write
        length = native.records_length_sum(write.batch, writes)
        write.counted_bytes = max(length, write.mask.bit_count() * BIT_SIZE_BYTES)
        self.in_flight_bytes += write.counted_bytes
        if self.in_flight_bytes > self._node.net.throttle_bytes:
            write.peer_busy = write.mask
            self._throttled.append(write)
        if 2 * self.in_flight_bytes > self._node.net.throttle_bytes:
            self._press()

    def _press(self) -> None:
        """Ask for a barrier acknowledgement of everything up to now, unless one is awaited already."""
        if not self._pressed_epoch:
            self._node.press_for_barrier()
            self._pressed_epoch = self._node.log.last_unacked()

    def ask_for_the_rest(self) -> int:
        """The epoch up to which everything awaits the peer's confirmation, which is asked for; 0 in protocol C, where
        each write waits for its own acknowledgement."""
        if self._node.net.protocol is WireProtocol.C:
            return 0
        self._node.press_for_barrier()
        return self._node.log.last_unacked()

    def on_received(self, write: WriteBatch, member: int) -> None:
        """P_RECV_ACK for one member. Raises PeerProtocolError if it was not asked for."""
        if not write.receive_due & member:
            raise PeerProtocolError("P_RECV_ACK for a write that did not ask for it")
        write.receive_due &= ~member
        write.peer_busy &= ~(member & ~write.durable)

    def without_a_good_copy(self, write: WriteBatch, done: int) -> int:
        """Those of the members that must not be answered before the peer has them; they wait for that now."""
        if write.volume.state.disk == DiskState.UpToDate:
            done &= write.local_failed
        bare = done & write.unconfirmed
        if bare:
            write.peer_busy |= bare
            self._press()
        return bare

    def on_epoch_acked(self, epoch: Epoch) -> None:
        """The peer has an epoch durably: nothing of it waits any more, and what was held may go."""
        if self._node.net.protocol is WireProtocol.C:
            return
        if epoch.number >= self._pressed_epoch:
            self._pressed_epoch = 0
        writes = self._node.writes
        for write in epoch.batches:
            if write.unconfirmed & (write.write_due | write.receive_due):
                raise PeerProtocolError(f"P_BARRIER_ACK {epoch.number} before the acknowledgements of its writes")
        for write in epoch.batches:
            self.in_flight_bytes -= write.counted_bytes
            write.counted_bytes = 0
            if write.unconfirmed:
                write.unconfirmed = 0
                if write.peer_busy:
                    write.peer_busy = 0
                    writes.progress(write)
        limit = self._node.net.throttle_bytes
        while self._throttled and (self.in_flight_bytes <= limit or not self._throttled[0].unconfirmed):
            write = self._throttled.popleft()
            if write.unconfirmed:
                write.peer_busy &= write.write_due & write.durable
                writes.progress(write)
        if self._throttled:
            self._press()

    def on_unconfirmed(self, write: WriteBatch) -> None:
        """The peer is being lost, and has not confirmed this write: were clients told of it, and is it nowhere now?"""
        volume = write.volume
        if self._node.net.protocol is not WireProtocol.A or volume.has_disk or volume.vnr in self._bereft:
            return
        if write.unconfirmed & write.replied:
            self._bereft.add(volume.vnr)
            # What clients have seen is a generation that no disk has: no peer's data will be taken for it.
            volume.exposed, volume.exposed_moves = UuidSet(self._node.draw_u64(), 0, 0, 0), False
            self._node.log_line(
                Level.ERROR, f"volume {volume.vnr}: no disk is left that has all writes that were answered (protocol A)"
            )

    def lose_peer(self) -> None:
        """The peer is gone, and nothing is on the way any more."""
        self.in_flight_bytes = self._pressed_epoch = 0
        self._throttled.clear()
        self._bereft.clear()
