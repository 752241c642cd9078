"""What comes from the peer: each packet to the part that knows it.

Packets are cut by native code and come as batches. Runs of the peer's writes, and runs of its acknowledgements, are
worked in together; everything else is rare and goes through a table by itself.

While a handler is run that a resync waits for (before-resync-target), the data socket is held: what it brings is worked
in afterwards, in order, as it is with a kernel, whose receiver waits. Pings are on the other socket and are answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import Send, Socket
from pydrbd.core.events import Received
from pydrbd.core.states import ConnState
from pydrbd.core.volume import Volume
from pydrbd.core.write_batch import WriteBatch
from pydrbd.errors import PeerProtocolError
from pydrbd.native import Batch
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.packet_numbers import ID_SYNCER, OV_OUT_OF_SYNC, PACKET_SPECS, SocketKind, packet_name
from pydrbd.wire.packets import Barrier, BarrierAck, Packet, SyncUuid

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["PacketsIn"]

_WRITES = frozenset({Packet.P_DATA, Packet.P_TRIM, Packet.P_ZEROES})
_WRITE_ACKS = frozenset({Packet.P_WRITE_ACK, Packet.P_RS_WRITE_ACK, Packet.P_RECV_ACK, Packet.P_NEG_ACK})
_SYNC_ACKS = frozenset({Packet.P_WRITE_ACK, Packet.P_RS_WRITE_ACK})
"""Of a sync target, if they name no write."""
_CONFLICTS = frozenset({Packet.P_SUPERSEDED, Packet.P_RETRY_WRITE})
_NUMBERED = _WRITE_ACKS | _CONFLICTS | {
    Packet.P_NEG_DREPLY, Packet.P_NEG_RS_DREPLY, Packet.P_OV_RESULT, Packet.P_RS_IS_IN_SYNC, Packet.P_RS_CANCEL,
}  # fmt: skip
"""Those on the meta socket that bear a sequence number."""
_ABOUT_A_VOLUME = frozenset({Packet.P_SYNC_PARAM89, Packet.P_SIZES, Packet.P_UUIDS, Packet.P_STATE})
_IGNORED = frozenset({Packet.P_UNPLUG_REMOTE, Packet.P_DELAY_PROBE})
_SUMMED = frozenset({Packet.P_DATA, Packet.P_DATA_REPLY, Packet.P_RS_DATA_REPLY})
_RS_REQUESTS = frozenset({Packet.P_RS_DATA_REQUEST, Packet.P_RS_THIN_REQ, Packet.P_CSUM_RS_REQUEST})
_RS_ANSWERS = frozenset({Packet.P_RS_DATA_REPLY, Packet.P_RS_DEALLOCATED})

_OfRecord = Callable[[Volume, Batch, int], None]
"""Called with the place of one record, or with the mask of a run."""


class PacketsIn:
    """The dispatcher of both sockets."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.holding = False
        """Whether a handler is run that the data socket waits for."""
        self._awaits_meta = False
        self._held: deque[tuple[Batch, int]] = deque()  # what one read brought, at most: the shell reads no more
        self._data: dict[int, _OfRecord] = {
            Packet.P_DATA_REPLY: node.reads.on_data_reply,
            Packet.P_DATA_REQUEST: node.peer_reads.on_read,
            Packet.P_SYNC_PARAM89: self._payload(node.digests.on_sync_param),
            Packet.P_SIZES: self._payload(node.peers.on_sizes),
            Packet.P_UUIDS: self._payload(node.peers.on_uuids),
            Packet.P_STATE: self._payload(node.peers.on_state),
            Packet.P_SYNC_UUID: self._payload(
                lambda volume, payload: node.resync_start.start_target(volume, SyncUuid.decode(payload).uuid)
            ),
            Packet.P_STATE_CHG_REQ: self._payload(
                lambda volume, payload: node.operator.on_request(Packet.P_STATE_CHG_REQ, volume, payload)
            ),
            Packet.P_BITMAP: self._bitmap,
            Packet.P_COMPRESSED_BITMAP: self._bitmap,
            Packet.P_OUT_OF_SYNC: self._out_of_sync,
        }

        kinds = (
            (_WRITES, node.peer_writes.on_data),
            (_RS_ANSWERS, node.resync.on_data),
            (_RS_REQUESTS, node.resync_source.on_requests),
            (frozenset({Packet.P_OV_REQUEST}), node.verify.target.on_requests),
            (frozenset({Packet.P_OV_REPLY}), node.verify.on_replies),
        )
        self._runs = {int(command): (commands, handler) for commands, handler in kinds for command in commands}

    def _payload(self, handler: Callable[[Volume, bytes], None]) -> _OfRecord:
        def handle(volume: Volume, batch: Batch, index: int) -> None:
            handler(volume, bytes(batch.data(index)))

        return handle

    def on_received(self, event: Received) -> None:
        """One socket's packets, in order."""
        if event.socket == Socket.DATA:
            self._on_data(event.batch, 0)
        else:
            self._on_meta(event.batch)

    @property
    def holds(self) -> bool:
        """Whether nobody should read from the data socket."""
        return self.holding or self._awaits_meta

    def hold(self) -> None:
        """Leave what comes on the data socket from here on until `release`."""
        self.holding = True

    def release(self) -> None:
        """Work in what was held; it may be held again on the way."""
        held, self._held, self.holding = self._held, deque(), False
        try:
            for batch, index in held:
                self._on_data(batch, index)
        except PeerProtocolError as error:
            self._node.drop_link(f"the peer broke the protocol: {error}")

    def reset(self) -> None:
        """The connection is gone."""
        self._held.clear()
        self.holding = self._awaits_meta = False

    def _volume(self, vnr: int) -> Volume:
        volume = self._node.volumes.get(vnr)
        if volume is None:
            raise PeerProtocolError(f"a packet for volume {vnr}, which this resource does not have")
        return volume

    # --- data socket ---

    def _on_data(self, batch: Batch, index: int) -> None:
        while index < batch.count:
            if self._node.links.handshake is None or self._node.cstate < ConnState.WFConnection:
                return  # given up, or parting, in the middle of a batch: nothing of it counts any more
            if self.holds:
                self._held.append((batch, index))
                return
            record = batch.records[index]
            run = self._runs.get(record.command)
            if run is not None and not self._node.links.handshaking:
                begun, index = index, self._run(batch, index, *run)
                if index == begun:
                    self._held.append((batch, index))
                    self._awaits_meta = True
                    return
                continue
            self._on_data_packet(batch, index, record.command, record.volume)
            index += 1

    def _run(self, batch: Batch, first: int, commands: frozenset[Packet], handler: _OfRecord) -> int:
        """Consecutive packets of such kinds for one volume, worked in together; where the run ends."""
        vnr = batch.records[first].volume
        end = first
        while end < batch.count and batch.records[end].command in commands and batch.records[end].volume == vnr:
            end += 1
        volume = self._volume(vnr)
        if commands is _WRITES and self._node.conflicts.decides:
            end = self._in_turn(volume, batch, first, end)
            if end == first:
                return first
        if volume.state.conn < ConnState.Connected:
            name = packet_name(batch.records[first].command)
            raise PeerProtocolError(f"volume {vnr}: {name} in state {volume.state.conn.name}")
        if self._node.integrity is not None:
            self._check_digests(batch, first, end)
        handler(volume, batch, ((1 << end) - 1) & ~((1 << first) - 1))
        return end

    def _in_turn(self, volume: Volume, batch: Batch, first: int, end: int) -> int:
        """With two Primaries: the end of what may be worked in before more has come on the meta socket."""
        conflicts = self._node.conflicts
        while first < end and not conflicts.is_early(volume, batch.records[first].seq):
            conflicts.see(volume, batch.records[first].seq)
            first += 1
        return first

    def _on_data_packet(self, batch: Batch, index: int, command: int, vnr: int) -> None:
        node = self._node
        if node.links.handshaking:
            node.links.on_handshake_packet(command, bytes(batch.data(index)))
            return
        if command == Packet.P_BARRIER:
            node.peer_writes.on_barrier(Barrier.decode(batch.data(index)))
            return
        if command == Packet.P_CONN_ST_CHG_REQ:
            node.operator.on_request(Packet.P_CONN_ST_CHG_REQ, None, bytes(batch.data(index)))
            return
        if command == Packet.P_PROTOCOL_UPDATE:
            assert node.links.handshake is not None
            node.links.handshake.on_update(bytes(batch.data(index)))
            return
        if command in _IGNORED or (command in _ABOUT_A_VOLUME and vnr not in node.volumes):
            return
        handler = self._data.get(command)
        if handler is None:
            raise PeerProtocolError(f"unexpected {packet_name(command)} on the data socket")
        if node.integrity is not None:
            self._check_digests(batch, index, index + 1)
        handler(self._volume(vnr), batch, index)

    def _check_digests(self, batch: Batch, first: int, end: int) -> None:
        """Data that is not what its sender summed goes nowhere: the connection begins anew, and what we lack is sent
        again by the resync."""
        integrity = self._node.integrity
        assert integrity is not None
        for record in batch.records[first:end]:
            if record.command not in _SUMMED or not record.length:
                continue
            block = batch.view[record.data : record.data + record.length]
            if batch.view[record.data - record.digest : record.data] != integrity.compute(block):
                sector = record.offset // SECTOR_SIZE_BYTES
                raise PeerProtocolError(
                    f"volume {record.volume}: {packet_name(record.command)}: digest integrity check FAILED: "
                    f"{sector}s +{record.length} ({integrity.name})"
                )

    def _bitmap(self, volume: Volume, batch: Batch, index: int) -> None:
        self._node.bitmaps.on_packet(volume, batch.records[index].command, bytes(batch.data(index)))

    def _out_of_sync(self, volume: Volume, batch: Batch, index: int) -> None:
        record = batch.records[index]
        if volume.disk is not None:
            volume.disk.bitmap.set_range(record.offset, record.length)

    # --- meta socket ---

    def _on_meta(self, batch: Batch) -> None:
        node = self._node
        conflicts = node.conflicts
        counts = conflicts.decides
        touched: dict[int, WriteBatch] = {}
        if node.links.handshake is None:
            return  # given up: what the sockets still held does not count any more
        run_end = 0
        for index in range(batch.count):
            record = batch.records[index]
            command = record.command
            if counts and command in _NUMBERED and record.volume in node.volumes:
                conflicts.see(node.volumes[record.volume], record.seq)
            if index < run_end:
                continue
            if command in _CONFLICTS:
                self._settle(touched)
                write = node.writes.on_conflict(record.id, retry=command == Packet.P_RETRY_WRITE)
                node.writes.progress(write)
                continue
            if command in _WRITE_ACKS and record.id != ID_SYNCER:
                self._on_write_ack(batch, index, touched)
                continue
            self._settle(touched)
            if command in _SYNC_ACKS:
                run_end = self._on_sync_acks(batch, index)
            else:
                self._on_meta_packet(batch, index, command)
            if node.links.handshake is None:
                return
        self._settle(touched)
        if conflicts.possible:
            node.flushes.check()  # a kernel may have said its last word on an epoch that it will not confirm
        if self._awaits_meta and not self.holding:
            self._awaits_meta = False
            self.release()

    def _on_sync_acks(self, batch: Batch, first: int) -> int:
        """Consecutive acknowledgements of what a resync has written, worked in together; where they end."""
        vnr, end = batch.records[first].volume, first + 1
        while end < batch.count:
            record = batch.records[end]
            if record.command not in _SYNC_ACKS or record.id != ID_SYNCER or record.volume != vnr:
                break
            end += 1
        self._node.resync_source.on_acks(self._volume(vnr), batch, ((1 << end) - 1) & ~((1 << first) - 1), good=True)
        return end

    def _on_write_ack(self, batch: Batch, index: int, touched: dict[int, WriteBatch]) -> None:
        record = batch.records[index]
        try:
            write = self._node.writes.on_ack(
                record.id,
                good=record.command != Packet.P_NEG_ACK,
                in_sync=record.command == Packet.P_RS_WRITE_ACK,
                received=record.command == Packet.P_RECV_ACK,
            )
        except KeyError:
            self._on_late_refusal(batch, index)
            return
        touched[write.serial] = write

    def _on_late_refusal(self, batch: Batch, index: int) -> None:
        """P_NEG_ACK for a write that has been done with (protocols A and B), or that we know nothing of (WIRE 3)."""
        member = 1 << index
        volume = self._node.volumes.get(batch.records[index].volume)
        if (
            volume is not None
            and not native.records_out_of_bounds(batch, member, volume.size_bytes)
            and not native.records_unaligned(batch, member, SECTOR_SIZE_BYTES)
        ):
            self._node.writes.mark_failed(volume, batch, member)

    def _settle(self, touched: dict[int, WriteBatch]) -> None:
        for write in touched.values():
            self._node.writes.progress(write)
        touched.clear()

    def _on_meta_packet(self, batch: Batch, index: int, command: int) -> None:
        node = self._node
        record = batch.records[index]
        if command == Packet.P_PING:
            answer = Send(Socket.META, [node.packet(Packet.P_PING_ACK, b"", 0)])
            if node.resync_source.lets_target_end():
                node.out.put(answer)
            else:
                node.out.put_urgent(answer)
        elif command == Packet.P_PING_ACK:
            node.pings_answered = min(node.pings_answered + 1, node.pings_sent)
            node.resync.on_ping_ack()
            node.verify.on_ping_ack()
        elif command == Packet.P_BARRIER_ACK:
            ack = BarrierAck.decode(batch.data(index))
            node.writes.early.on_epoch_acked(node.log.on_barrier_ack(ack.barrier, ack.set_size))
            node.flushes.check()
            node.gate.retry()
            for volume in node.volumes.values():
                node.resync_source.start_when_ready(volume)
            node.congestion.review()
            node.operator.on_idle()
        elif command in (Packet.P_STATE_CHG_REPLY, Packet.P_CONN_ST_CHG_REPLY):
            node.operator.on_reply(Packet(command), record.volume, bytes(batch.data(index)))
        elif command == Packet.P_NEG_ACK:
            node.resync_source.on_acks(self._volume(record.volume), batch, 1 << index, good=False)
        elif command in (Packet.P_NEG_RS_DREPLY, Packet.P_RS_CANCEL):
            canceled = command == Packet.P_RS_CANCEL
            node.verify.on_negative(self._volume(record.volume), record.offset)
            node.resync.on_negative(self._volume(record.volume), record.offset, canceled=canceled)
        elif command == Packet.P_RS_IS_IN_SYNC:
            node.csums.on_in_sync(self._volume(record.volume), record.offset, record.length)
        elif command == Packet.P_OV_RESULT:
            equal = record.id != OV_OUT_OF_SYNC
            node.verify.target.on_result(self._volume(record.volume), record.offset, equal=equal)
        elif command == Packet.P_NEG_DREPLY:
            node.reads.on_negative_reply(record.id)
        elif command == Packet.P_RECV_ACK or command == Packet.P_DELAY_PROBE:
            return
        else:
            known = command in PACKET_SPECS and bool(PACKET_SPECS[Packet(command)].sockets & SocketKind.META)
            raise PeerProtocolError(
                f"{'unexpected' if known else 'unknown'} packet {packet_name(command)} on the meta socket"
            )
