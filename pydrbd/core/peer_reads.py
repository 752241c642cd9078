"""Serving the peer's reads: P_DATA_REQUEST, from a peer without a disk of its own or with one that is not good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import DiskRead
from pydrbd.core.ranges import Hold
from pydrbd.core.states import DiskState
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError, errno_text
from pydrbd.limits import DRBD_IO_BYTES_MAX, PEER_READ_BYTES_MAX
from pydrbd.native import Batch
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.packets import Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["PeerReads"]


class PeerReads:
    """The peer's reads on this connection; `bytes` of them are under way."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.bytes = 0

    def reset(self) -> None:
        """The connection is gone: what is read goes nowhere."""
        self.bytes = 0

    def on_read(self, volume: Volume, batch: Batch, index: int) -> None:
        """P_DATA_REQUEST: only good data is given away."""
        member = 1 << index
        if native.records_out_of_bounds(batch, member, volume.size_bytes):
            raise PeerProtocolError(f"volume {volume.vnr}: a read past the end of the device")
        record = batch.records[index]
        if not 0 < record.length <= DRBD_IO_BYTES_MAX or native.records_unaligned(batch, member, SECTOR_SIZE_BYTES):
            raise PeerProtocolError(f"volume {volume.vnr}: a read of {record.length} bytes at {record.offset}")
        room = self.bytes + record.length <= PEER_READ_BYTES_MAX
        if volume.disk is None or volume.state.disk != DiskState.UpToDate or not room:
            self._node.send_acks(Packet.P_NEG_DREPLY, volume, batch, member)
            return
        self.bytes += record.length
        request, buffer = native.single_read(record.offset, record.length)
        request.records[0].id = record.id
        generation, disk = self._node.link_generation, volume.disk

        def start(hold: Hold, _members: int) -> None:
            def done(failed: int, errno: int) -> None:
                if failed:
                    self._node.on_disk_error(volume, disk, f"read for the peer failed ({errno_text(errno)})", data=True)
                volume.ranges.release(hold, 1)
                if generation != self._node.link_generation:
                    return
                self.bytes -= record.length
                if failed:
                    self._node.send_acks(Packet.P_NEG_DREPLY, volume, batch, member)
                else:
                    self._node.send_blocks(Packet.P_DATA_REPLY, volume, request, 1, buffer)

            self._node.out.put(DiskRead(volume.vnr, request, 1, buffer, done))

        volume.counters.read += record.length >> 9
        # In protocols A and B the peer may ask for what it has just sent us, and we have not written yet.
        volume.ranges.acquire(request, 1, start)
