"""Both bitmaps become one before a resync (WIRE 11).

The source (WFBitMapS) sends its bitmap at once; the target (WFBitMapT) ORs it in, sends the merged one back and waits
for the sync UUID; the source ORs that in and starts. The packets of one bitmap stand together on the data socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd.core.effects import Level, Part, Send, Socket
from pydrbd.core.states import ConnState
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError
from pydrbd.wire.bitmap_code import BitmapReceiver, encode_bitmap

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["BitmapExchange"]

_EXPECTING = (ConnState.WFBitMapS, ConnState.WFBitMapT, ConnState.WFSyncUUID)
"""In the last one we have answered already. A peer whose disk was compared twice, as ours was attached, let go and
attached again before it knew, sends its bitmap twice, and counts on the second: a kernel merges that one, too."""


class BitmapExchange:
    """The bitmaps that are being received on this connection."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._receivers: dict[int, BitmapReceiver] = {}

    def reset(self) -> None:
        """The connection is gone. What was merged stays: a superset is safe."""
        for vnr in self._receivers:
            disk = self._node.volumes[vnr].disk
            if disk is not None:
                disk.bitmap.recount()
        self._receivers.clear()

    def send(self, volume: Volume) -> None:
        """Send the whole bitmap in one piece."""
        node, disk = self._node, volume.disk
        assert disk is not None
        volume.peer.bitmap_merged = False
        if volume.state.conn == ConnState.WFBitMapS:
            volume.peer.awaited_epoch = node.writes.early.ask_for_the_rest()
        parts: list[Part] = list(node.barrier_parts())
        for command, payload in encode_bitmap(
            disk.bitmap.bits, disk.bitmap.bit_count, node.header_bytes, node.net.use_rle
        ):
            parts.append(node.packet(command, payload, volume.vnr))
        node.out.put(Send(Socket.DATA, parts))

    def on_packet(self, volume: Volume, command: int, payload: bytes) -> None:
        """P_BITMAP or P_COMPRESSED_BITMAP."""
        node, disk = self._node, volume.disk
        if disk is None and volume.state.conn == ConnState.Connected:
            return  # sent before the peer knew that our disk is gone: its resync ends when it does
        if disk is None or volume.state.conn not in _EXPECTING:
            raise PeerProtocolError(f"volume {volume.vnr}: a bitmap came in state {volume.state.conn.name}")
        receiver = self._receivers.get(volume.vnr)
        if receiver is None:
            receiver = BitmapReceiver(disk.bitmap.bits, disk.bitmap.bit_count, node.header_bytes)
            self._receivers[volume.vnr] = receiver
        if not receiver.receive(command, payload):
            return
        del self._receivers[volume.vnr]
        disk.bitmap.recount()
        if volume.state.conn == ConnState.WFSyncUUID:
            node.log_line(Level.INFO, f"volume {volume.vnr}: a second bitmap of the peer is merged")
        elif volume.state.conn == ConnState.WFBitMapT:
            self.send(volume)
            node.change(volume, conn=ConnState.WFSyncUUID)
        else:
            volume.peer.bitmap_merged = True
            node.resync_source.start_when_ready(volume)
