"""Serving the peer: its writes to our disk, our acknowledgements, its barriers.

    P_DATA run -> range held -> DiskWrite -> P_WRITE_ACK (P_RS_WRITE_ACK during a resync, P_NEG_ACK on an error)
                  each only if the write asks for it: its dp_flags count, not our protocol; P_RECV_ACK comes at once
    P_BARRIER  -> all writes of the epoch done -> flush -> P_BARRIER_ACK, in order

A write's acknowledgement may rest on our volatile cache; the barrier's never does, unless `disk-flushes no` says that
there is none: it leaves after a flush that began when all of the epoch was written. A node of ours says in its barrier
whether somebody waits for it; if not, we flush at leisure, one flush for many epochs. Anyone else's barrier is flushed
at once, as the kernel does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydrbd import native
from pydrbd.core.effects import DiskDiscard, DiskFlush, DiskWrite, DiskZero, Effect, Send, Socket
from pydrbd.core.ranges import Hold
from pydrbd.core.states import ConnState, DiskState
from pydrbd.core.volume import LocalDisk, Volume
from pydrbd.errors import PeerProtocolError, errno_text
from pydrbd.limits import (
    LAZY_FLUSH_S,
    PEER_BACKLOG_BYTES_MAX,
    PEER_REQUESTS_MAX,
)
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES
from pydrbd.wire.packet_numbers import DpFlag
from pydrbd.wire.packets import Barrier, BarrierAck, Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["PeerWrites"]


@dataclass(slots=True, eq=False)
class _PeerEpoch:
    """The peer's writes between two of its barriers."""

    received_count: int = 0
    busy: int = 0
    disks: dict[int, LocalDisk | None] = field(default_factory=dict)
    """Where what we have acknowledged lies, by volume; None: on two disks, one after the other."""
    barrier: int | None = None
    urgent: bool = False
    deadline: float = 0.0

    @property
    def complete(self) -> bool:
        return self.barrier is not None and not self.busy


class PeerWrites:
    """Everything that the peer has asked of our disks on this connection."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._epochs: deque[_PeerEpoch] = deque([_PeerEpoch()])
        self._flushing = 0
        self._hurried = False
        self._generation = 0
        self._gave_up = False
        self._settling: list[tuple[Volume, Callable[[], None]]] = []
        self.busy_bytes = 0
        """What our disk has been given to write for the peer, of earlier connections too (`_weight_bytes`)."""
        self.waiting_bytes = 0
        """What has been received and waits for its range: for a write before it, or for the end of a verify."""

    @property
    def busy(self) -> bool:
        return any(epoch.busy for epoch in self._epochs)

    @property
    def unfinished(self) -> bool:
        """Whether our disk lacks anything that was received, on this connection or an earlier one."""
        return self.busy_bytes + self.waiting_bytes > 0

    @property
    def behind(self) -> bool:
        """Whether the peer sends faster than our disk writes, and must wait: memory is bounded.

        Only while the disk is at work for it. Its range a write may get from something that is still to be read.
        """
        most = min(self._node.net.max_buffers * BIT_SIZE_BYTES, PEER_BACKLOG_BYTES_MAX)
        return self.busy_bytes > 0 and self.busy_bytes + self.waiting_bytes >= most

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way here, and nobody waits for a flush."""
        return not (self._flushing or self._hurried or self._gave_up or self.busy)

    def lane_epoch(self, volume: Volume) -> tuple[int, bool]:
        """How many writes the open epoch has, and whether a lane may flush for it.

        That is if it is the only one, and all of it on this volume's disk, which is flushed at all.
        """
        epoch = self._epochs[-1]
        mine = all(vnr == volume.vnr and disk is volume.disk for vnr, disk in epoch.disks.items())
        return epoch.received_count, mine and len(self._epochs) == 1 and volume.flushes_disk

    def forget_flushed(self) -> None:
        """A lane has flushed and confirmed the only epoch that there was."""
        assert len(self._epochs) == 1 and not self._flushing and not self.busy
        self._epochs = deque([_PeerEpoch()])

    def add_lane(self, volume: Volume, count: int) -> None:
        """A lane has written and acknowledged so many writes of the peer's epoch."""
        epoch = self._epochs[-1]
        epoch.received_count += count
        if count and epoch.disks.setdefault(volume.vnr, volume.disk) is not volume.disk:
            epoch.disks[volume.vnr] = None

    def reset(self) -> None:
        """The connection is gone: finish what was received, say nothing, forget the epochs (WIRE 16.2)."""
        self._generation += 1
        self._epochs = deque([_PeerEpoch()])
        self._flushing = 0
        self._hurried = False
        self._gave_up = False

    # --- writes ---

    def on_data(self, volume: Volume, batch: Batch, mask: int) -> None:
        """A run of P_DATA, P_TRIM and P_ZEROES for one volume."""
        if native.records_out_of_bounds(batch, mask, volume.size_bytes):
            raise PeerProtocolError(f"volume {volume.vnr}: a write past the end of the device")
        if native.records_unaligned(batch, mask, SECTOR_SIZE_BYTES):
            raise PeerProtocolError(f"volume {volume.vnr}: a write that is not whole sectors")
        epoch = self._epochs[-1]
        epoch.busy += mask.bit_count()
        volume.counters.received += native.records_length_sum(batch, mask) >> 9
        generation = self._generation
        if self._node.conflicts.possible:
            self._node.conflicts.begins(volume, batch, mask)
            mask = self._node.conflicts.sift(volume, batch, mask, lambda: self._epoch_done(epoch, 1))
        count = mask.bit_count()
        epoch.received_count += count
        if not mask:
            return
        if not volume.has_disk:
            self._node.send_acks(Packet.P_NEG_ACK, volume, batch, mask)
            self._epoch_done(epoch, count)
            return
        early = native.records_with_flags(batch, mask, DpFlag.SEND_RECEIVE_ACK)

        def received() -> None:
            if generation == self._generation:
                self._node.send_acks(Packet.P_RECV_ACK, volume, batch, early)

        if early:
            self._node.quorum.confirm(received)
        marked = volume.disk is not None and volume.state.pdsk < DiskState.Inconsistent
        if volume.disk is not None and marked:
            # A diskless Primary keeps no log: that its own disk lacks this must be known here (WIRE 9.5).
            volume.disk.bitmap.set_records(batch, mask)

        def start(hold: Hold, members: int) -> None:
            def go(part: int) -> None:
                weight_bytes = _weight_bytes(batch, part)
                self.waiting_bytes -= weight_bytes
                if not volume.has_disk:  # gone while this waited; it would be on no disk that anybody marks
                    if generation == self._generation:
                        self._node.send_acks(Packet.P_NEG_ACK, volume, batch, part)
                        self._epoch_done(epoch, part.bit_count())
                    self._leave(volume, hold, part)
                    return
                self.busy_bytes += weight_bytes
                for effect, few in self._effects(volume, batch, part):
                    effect.then = self._written(volume, batch, few, hold, epoch, generation)  # type: ignore[union-attr]
                    self._node.out.put(effect)

            if marked:
                self._node.gate.enter(volume, batch, members, go, marked=True)
            else:
                go(members)

        volume.counters.written += native.records_length_sum(batch, mask) >> 9
        self.waiting_bytes += _weight_bytes(batch, mask)
        volume.ranges.acquire(batch, mask, start, first=self._node.conflicts.possible)

    def _effects(self, volume: Volume, batch: Batch, mask: int) -> list[tuple[Effect, int]]:
        def nothing(_failed: int, _errno: int) -> None: ...

        vnr = volume.vnr
        plain = native.records_with_command(batch, mask, Packet.P_DATA)
        fua = native.records_with_flags(batch, plain, DpFlag.FUA)
        effects: list[tuple[Effect, int]] = []
        for members, durable in ((plain & ~fua, False), (fua, True)):
            if members:
                effects.append((DiskWrite(vnr, batch, members, durable, nothing), members))
        for index in native.indices(mask & ~plain):
            record = batch.records[index]
            durable = bool(record.flags & DpFlag.FUA)
            if record.command == Packet.P_TRIM and not durable and self._node.zeroes_agreed:
                effect: Effect = DiskDiscard(vnr, record.offset, record.length, nothing)
            else:
                unmap = bool(record.flags & DpFlag.DISCARD)
                effect = DiskZero(vnr, record.offset, record.length, unmap, durable, nothing)
            effects.append((effect, 1 << index))
        return effects

    def _written(self, volume: Volume, batch: Batch, mask: int, hold: Hold, epoch: _PeerEpoch, generation: int) -> Any:
        disk = volume.disk

        def done(failed: int, errno: int) -> None:
            failed &= mask
            good = mask & ~failed
            self.busy_bytes -= _weight_bytes(batch, mask)
            assert self.busy_bytes >= 0, "more was written for the peer than it has sent"
            if good and epoch.disks.setdefault(volume.vnr, disk) is not disk:
                epoch.disks[volume.vnr] = None
            if failed:
                if volume.disk is not None:
                    volume.disk.bitmap.set_records(batch, failed)
                self._node.on_disk_error(volume, disk, f"write for the peer failed ({errno_text(errno)})", data=True)

            def told() -> None:
                if generation == self._generation:
                    self._ack_written(volume, batch, good)
                    if failed:
                        self._node.send_acks(Packet.P_NEG_ACK, volume, batch, failed)
                    self._epoch_done(epoch, mask.bit_count())

            self._node.quorum.confirm(told)
            self._leave(volume, hold, mask)

        return done

    def _leave(self, volume: Volume, hold: Hold, mask: int) -> None:
        volume.ranges.release(hold, mask)
        self._node.resync.on_range_free(volume)
        if self._settling:
            self._settle()
        if not self.unfinished:
            self._node.operator.promotion.on_peer_writes_finished()

    def _ack_written(self, volume: Volume, batch: Batch, mask: int) -> None:
        """The acknowledgement that each write asked for (WIRE 9.5); in protocols A and B most ask for none."""
        mask = native.records_with_flags(batch, mask, DpFlag.SEND_WRITE_ACK)
        resyncing = ConnState.SyncSource <= volume.state.conn <= ConnState.PausedSyncT
        clears = native.records_with_flags(batch, mask, DpFlag.MAY_SET_IN_SYNC) if resyncing else 0
        if clears and volume.disk is not None:
            for index in native.indices(clears):
                record = batch.records[index]
                volume.disk.bitmap.clear_range(record.offset, record.length)
            self._node.send_acks(Packet.P_RS_WRITE_ACK, volume, batch, clears)
        plain = mask & ~clears
        if plain:
            self._node.send_acks(Packet.P_WRITE_ACK, volume, batch, plain)

    # --- epochs ---

    def on_barrier(self, barrier: Barrier) -> None:
        """The peer closes an epoch; one without writes is not acknowledged."""
        epoch = self._epochs[-1]
        if not epoch.received_count:
            if barrier.pad and self._node.peer_is_pydrbd:
                self._hurry()
            return
        epoch.barrier = barrier.barrier
        epoch.urgent = not self._node.peer_is_pydrbd or bool(barrier.pad)
        epoch.deadline = self._node.now + LAZY_FLUSH_S
        if len(self._epochs) > PEER_REQUESTS_MAX:
            epoch.urgent = True
        self._hurried = self._hurried or epoch.urgent
        self._epochs.append(_PeerEpoch())
        self.flush_due(self._node.now)

    def _hurry(self) -> None:
        """Somebody has begun to wait for barriers that came without hurry."""
        for epoch in self._epochs:
            epoch.urgent = True
        self._hurried = True
        self.flush_due(self._node.now)

    def next_deadline(self) -> float | None:
        """When the oldest complete epoch must be flushed at the latest."""
        head = self._epochs[0]
        return head.deadline if head.complete and not self._flushing else None

    def _epoch_done(self, epoch: _PeerEpoch, count: int) -> None:
        epoch.busy -= count
        assert epoch.busy >= 0
        if epoch.complete:
            self.flush_due(self._node.now)

    def flush_due(self, now: float) -> None:
        """Flush for the complete epochs at the old end, if one of them is urgent or has waited long enough."""
        head = self._epochs[0]
        if self._flushing or self._gave_up or not head.complete:
            return
        if not self._hurried and now < head.deadline:  # deadlines ascend: the head's is the first
            return
        ready = 0
        wanted = False
        disks: dict[int, LocalDisk | None] = {}
        for epoch in self._epochs:
            if not epoch.complete:
                break
            ready += 1
            for vnr, disk in epoch.disks.items():
                disks[vnr] = disk if disks.get(vnr, disk) is disk else None
            wanted = wanted or epoch.urgent or now >= epoch.deadline
        if not wanted:
            return
        flushes = [self._node.volumes[vnr] for vnr in disks]
        if any(volume.disk is None or volume.disk is not disks[volume.vnr] for volume in flushes):
            self._give_up("the disk with what was acknowledged is gone")
            return
        flushes = [volume for volume in flushes if volume.flushes_disk]
        generation = self._generation
        self._flushing = max(1, len(flushes))

        def flushed(volume: Volume, disk: LocalDisk | None) -> Any:
            def done(failed: int, errno: int) -> None:
                if failed:
                    # A failed flush is final: what the peer believes to be here may not be. It must mark it all.
                    self._node.on_disk_error(volume, disk, f"flush failed ({errno_text(errno)})")
                if generation == self._generation:
                    self._flushing -= 1
                    if failed:
                        self._give_up("the local disk failed to flush")
                    elif not self._flushing and not self._gave_up:
                        self._send_barrier_acks(ready)

            return done

        for volume in flushes:
            self._node.out.put(DiskFlush(volume.vnr, flushed(volume, volume.disk)))
        if not flushes:
            self._flushing = 0
            self._send_barrier_acks(ready)

    def settle(self, volume: Volume, then: Callable[[], None]) -> None:
        """A disk is given up in good order (Failed: it takes no more): make durable what was acknowledged on it.

        So it can be confirmed later without that disk; else the peer would have to be left, and might fence us.
        """
        self._settling.append((volume, then))
        self._settle()

    def _settle(self) -> None:
        if not self.busy_bytes:
            settling, self._settling = self._settling, []
            for volume, then in settling:
                self._settle_one(volume, then)

    def _settle_one(self, volume: Volume, then: Callable[[], None]) -> None:
        touched = [epoch for epoch in self._epochs if volume.vnr in epoch.disks]
        if not touched or volume.disk is None:
            then()
            return
        disk, generation = volume.disk, self._generation
        self._flushing += 1  # nothing is confirmed meanwhile

        def done(failed: int, _errno: int) -> None:
            if generation == self._generation:
                self._flushing -= 1
                for epoch in touched:
                    if not failed and epoch.disks.get(volume.vnr) is disk:
                        del epoch.disks[volume.vnr]
                self.flush_due(self._node.now)
            then()

        self._node.out.put(DiskFlush(volume.vnr, done))

    def _give_up(self, reason: str) -> None:
        """What the peer believes to be here may not be: losing us makes it mark everything that is not confirmed."""
        if not self._gave_up:
            self._gave_up = True
            self._node.drop_link(reason)

    def _send_barrier_acks(self, count: int) -> None:
        parts = bytearray()
        for _ in range(count):
            epoch = self._epochs.popleft()
            assert epoch.complete and epoch.barrier is not None
            parts += self._node.packet(
                Packet.P_BARRIER_ACK, BarrierAck(epoch.barrier, epoch.received_count).encode(), 0
            )
        self._hurried = any(epoch.urgent for epoch in self._epochs)
        self._node.out.put(Send(Socket.META, [parts]))
        self.flush_due(self._node.now)


def _weight_bytes(batch: Batch, mask: int) -> int:
    """The payload; a request without any weighs as much as a block: many of them need memory, too."""
    data = native.records_with_command(batch, mask, Packet.P_DATA)
    return native.records_length_sum(batch, data) + (mask & ~data).bit_count() * BIT_SIZE_BYTES
