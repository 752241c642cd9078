"""Lanes in the world of the simulator: what native/lane.c and lane_peer.c do with sockets, done with the world's link.

As there: a lane is engaged when the core allows it, serves plain writes and their acknowledgements by itself, and ends
before anything else is worked in. Its disk writes are at once in the disk's cache, as writes to a page cache are.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from pydrbd import native
from pydrbd.core import effects as fx
from pydrbd.core.events import ClientBatch, Event, LaneEnded, LaneWrites, PeerLaneEnded, Received
from pydrbd.core.lane import LaneTerms, LentWrites
from pydrbd.limits import DRBD_IO_BYTES_MAX, LANE_FOLD_S
from pydrbd.native import LANE_GROUPS, Batch
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.packet_numbers import DpFlag, Packet
from pydrbd.wire.packets import Barrier, BarrierAck
from tests.harness.disk import MemoryDisk

if TYPE_CHECKING:
    from tests.harness.world import Machine

__all__ = ["SimulatedLane"]

_NBD_WRITE, _NBD_FLUSH = 1, 3
_NO_DATA = bytearray(1)


class SimulatedLane:
    """The lane of one machine; `taken` counts what it has served, for a look at whether it did."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._terms: LaneTerms | None = None
        self._writes: dict[int, LaneWrites] = {}
        self._next_serial = self._written = 0
        self._touched: set[int] = set()
        self._peer_seq = 0
        self._epoch = self._epoch_sent = self._log_count = self._sent = 0
        self._flush: tuple[Any, Batch] | None = None  # that waits for the peer
        self._peer_flushed, self._peer_epoch_count, self._peer_may_flush = False, -1, False
        self._peer_count = self._peer_bytes = 0
        self.taken = 0
        self.flushed = 0
        """Flushes that this lane has carried out."""

    def forget(self) -> None:
        """The machine has died."""
        self._terms = None
        self._writes.clear()
        self._flush = None
        self._peer_count = self._peer_bytes = 0
        self._peer_flushed, self._peer_epoch_count = False, -1

    def takes(self, event: Event) -> bool:
        """Serve an event if it is one for a lane; else end the lane, and let the node work it in."""
        if isinstance(event, ClientBatch) and self._takes_requests(event):
            return True
        if isinstance(event, Received):
            if event.socket is fx.Socket.META and self._takes_acks(event.batch):
                return True
            if event.socket is fx.Socket.DATA and self._takes_packets(event.batch):
                return True
        if not isinstance(event, LaneEnded | PeerLaneEnded):
            self.end()
        return False

    # --- a Primary's ---

    def _takes_requests(self, event: ClientBatch) -> bool:
        node, batch = self._machine.node, event.batch
        assert node is not None
        if self._terms is None:
            volume = node.lanes.client_volume()
            if volume is None or _may_fail(self._machine.disks[0]):
                return False
            self._terms = node.lanes.begin(volume)
            self._peer_seq = volume.peer.seen_seq
            terms = self._terms
            self._next_serial, self._written, self._sent = terms.next_serial, 0, 0
            self._epoch, self._epoch_sent, self._log_count = terms.epoch, terms.epoch_sent, terms.log.count
            self._writes = {lent.serial: _lane_writes(lent) for lent in self._terms.lent}
            self._send(fx.Socket.DATA, b"".join(self._terms.barriers))
            self._machine.world.at(self._machine.world.now + LANE_FOLD_S, self._machine, self.end)
        if self._flush is not None:
            return False
        if batch.count == 1 and native.records_with_command(batch, batch.all, _NBD_FLUSH):
            return self._takes_flush(event.session, batch)
        if not self._may_pass(batch):
            return False
        self._write(event.session, batch)
        return True

    def _takes_flush(self, session: Any, batch: Batch) -> bool:
        assert self._terms is not None
        disk = self._machine.disks[0]
        if not self._terms.may_flush or self._writes or batch.records[0].flags or _may_fail(disk):
            return False
        disk.flush()
        self.flushed += 1
        if not self._epoch_sent:
            self._answer(session, batch, batch.all)
            return True
        self._send(fx.Socket.DATA, _packet(Packet.P_BARRIER, Barrier(self._epoch & 0xFFFF_FFFF, 1).encode()))
        self._flush = session, batch
        return True

    def _takes_barrier_ack(self, batch: Batch) -> bool:
        if self._flush is None or batch.count != 1 or batch.records[0].command != Packet.P_BARRIER_ACK:
            return False
        ack = BarrierAck.decode(batch.data(0))
        if (ack.barrier, ack.set_size) != (self._epoch & 0xFFFF_FFFF, self._epoch_sent):
            return False
        (session, flush), self._flush = self._flush, None
        self._epoch += 1
        self._epoch_sent = self._log_count = 0
        self._answer(session, flush, flush.all)
        return True

    def _answer(self, session: Any, batch: Batch, members: int) -> None:
        reply = fx.Reply(session, batch, members, [native.nbd_replies(batch, members, 0)], 0, speaks=True)
        if self._machine.world.observer is not None:
            self._machine.world.observer.on_effect(self._machine, reply)
        session.on_reply(reply)

    def _may_pass(self, batch: Batch) -> bool:
        terms = self._terms
        assert terms is not None
        oldest = min(self._writes, default=self._next_serial)
        return (
            native.records_with_command(batch, batch.all, _NBD_WRITE) == batch.all
            and not native.records_with_flags(batch, batch.all, 0xFFFF)
            and not native.records_longer(batch, batch.all, DRBD_IO_BYTES_MAX)
            and not native.records_empty(batch, batch.all)
            and not native.records_unaligned(batch, batch.all, SECTOR_SIZE_BYTES)
            and not native.records_out_of_bounds(batch, batch.all, self._machine.volume.size_bytes)
            and not native.records_overlap_self(batch, batch.all)
            and not any(native.records_overlap(w.batch, w.busy, batch, batch.all) for w in self._writes.values())
            and all(self._is_hot(extent) for extent in native.records_extents(batch, batch.all))
            and self._log_count + batch.count <= min(terms.log.room, terms.log.count + terms.room)
            and self._next_serial - oldest < LANE_GROUPS
        )

    def _is_hot(self, extent: int) -> bool:
        assert self._terms is not None
        hot = self._terms.hot
        return hot is None or bool(hot[extent >> 3] >> (extent & 7) & 1)

    def _write(self, session: Any, batch: Batch) -> None:
        machine, terms, serial = self._machine, self._terms, self._next_serial
        node, volume = machine.node, machine.volume
        assert node is not None and terms is not None
        first = self._log_count
        headers = native.drbd_data_headers(
            batch, batch.all, format=100, volume=0, first_id=serial << 6,
            first_seq=(terms.next_seq + self._sent) & 0xFFFF_FFFF, dp_flags=int(DpFlag.SEND_WRITE_ACK), digest_size=0,
        )  # fmt: skip
        size = len(headers) // batch.count
        for index in range(batch.count):
            record = batch.records[index]
            packet = bytes(headers[index * size : (index + 1) * size]) + bytes(batch.data(index))
            self._send(fx.Socket.DATA, packet)
            terms.log.records[first + index] = record
        effect = fx.DiskWrite(volume.vnr, batch, batch.all, False, lambda _failed, _errno: None)
        if machine.world.observer is not None:
            machine.world.observer.on_effect(machine, effect)
        machine.disks[0].write_batch(batch, batch.all)
        self._touched.update(native.records_extents(batch, batch.all))
        self._written += native.records_length_sum(batch, batch.all)
        self._writes[serial] = LaneWrites(serial, self._epoch, session, batch, batch.all, 0)
        self._log_count += batch.count
        self._epoch_sent += batch.count
        self._sent += batch.count
        self._next_serial += 1
        self.taken += batch.count

    def _takes_acks(self, batch: Batch) -> bool:
        if self._terms is None:
            return False
        if self._takes_barrier_ack(batch):
            return True
        acked: dict[int, int] = {}
        newest = batch.records[batch.count - 1].seq
        for record in batch.records[0 : batch.count]:
            serial, member = record.id >> 6, 1 << (record.id & 63)
            write = self._writes.get(serial)
            if record.command != Packet.P_WRITE_ACK or write is None:
                return False
            if not write.busy & member & ~acked.get(serial, 0):
                return False
            acked[serial] = acked.get(serial, 0) | member
        self._peer_seq = newest
        for serial, members in acked.items():
            write = self._writes.pop(serial)
            self._answer(write.session, write.batch, members)
            if write.busy & ~members:
                self._writes[serial] = LaneWrites(
                    serial, write.epoch, write.session, write.batch, write.busy & ~members, 0
                )
        return True

    # --- a Secondary's ---

    def _takes_packets(self, batch: Batch) -> bool:
        machine = self._machine
        node, disk = machine.node, machine.disks[0]
        assert node is not None
        volume = node.lanes.peer_volume()
        if volume is None or _may_fail(disk):
            return False
        if self._peer_epoch_count < 0:
            self._peer_epoch_count, self._peer_may_flush = node.peer_writes.lane_epoch(volume)
            self._peer_seq = volume.peer.seen_seq
        if batch.count == 1 and batch.records[0].command == Packet.P_BARRIER:
            return self._takes_barrier(batch)
        for record in batch.records[0 : batch.count]:
            if record.command != Packet.P_DATA or record.flags != DpFlag.SEND_WRITE_ACK or not record.length:
                return False
        if native.records_out_of_bounds(batch, batch.all, volume.size_bytes):
            return False
        disk.write_batch(batch, batch.all)
        seq = (volume.peer.next_seq + self._peer_count) & 0xFFFF_FFFF
        acks = native.drbd_acks(batch, batch.all, format=100, packet=int(Packet.P_WRITE_ACK), first_seq=seq)
        self._send(fx.Socket.META, bytes(acks))
        self._peer_count += batch.count
        self._peer_epoch_count += batch.count
        self._peer_bytes += native.records_length_sum(batch, batch.all)
        self._peer_seq = batch.records[batch.count - 1].seq
        self.taken += batch.count
        return True

    def _takes_barrier(self, batch: Batch) -> bool:
        barrier = Barrier.decode(batch.data(0))
        if not (barrier.pad and self._peer_may_flush and self._peer_epoch_count):
            return False
        self._machine.disks[0].flush()
        self.flushed += 1
        ack = BarrierAck(barrier.barrier, self._peer_epoch_count)
        self._send(fx.Socket.META, _packet(Packet.P_BARRIER_ACK, ack.encode()))
        self._peer_epoch_count, self._peer_flushed = 0, True
        return True

    # --- the end ---

    def end(self) -> None:
        """Tell the node what has been done."""
        terms, self._terms = self._terms, None
        if terms is not None:
            flush, self._flush = self._flush, None
            writes = [
                LaneWrites(w.serial, w.epoch, w.session, Batch(_NO_DATA, w.batch.records, w.batch.count), w.busy, 0)
                for _serial, w in sorted(self._writes.items())
            ]
            touched, self._touched = sorted(self._touched), set()
            self._writes.clear()
            ended = LaneEnded(
                0, self._next_serial, self._sent, self._epoch, self._log_count, flush is not None, self._written, 0,
                self._peer_seq, touched, writes, 0,
            )  # fmt: skip
            self._machine.feed(ended)
            if flush is not None:  # it is still in its buffer
                self._machine.feed(ClientBatch(flush[0], 0, flush[1]))
        if self._peer_count or self._peer_flushed:
            event = PeerLaneEnded(
                0,
                self._peer_count,
                self._peer_bytes,
                self._peer_flushed,
                self._peer_epoch_count,
                self._peer_seq,
            )
            self._peer_count = self._peer_bytes = 0
            self._peer_flushed, self._peer_epoch_count = False, -1
            self._machine.feed(event)
        self._peer_epoch_count = -1

    def _send(self, socket: fx.Socket, data: bytes) -> None:
        if data:
            self._machine.world.send(self._machine, fx.Send(socket, [data]))


def _lane_writes(lent: LentWrites) -> LaneWrites:
    return LaneWrites(lent.serial, lent.epoch, lent.session, lent.batch, lent.busy, 0)


def _packet(packet: Packet, payload: bytes) -> bytes:
    return struct.pack(">IHHII", 0x8620EC20, 0, packet, len(payload), 0) + payload


def _may_fail(disk: MemoryDisk) -> bool:
    """A disk that is about to fail is left to the node: the lane's own dealing with errors has tests of its own."""
    return disk.fail_writes or disk.fail_flushes or bool(disk.fail_once)
