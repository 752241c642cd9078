"""Protocol A with a peer that can't keep up: `on-congestion` block, pull-ahead or disconnect.

    block         clients are slowed down (core/early_answers)
    pull-ahead    the Primary is Ahead: its writes stay here, and the peer, Behind and Outdated, is told which blocks
                  they are of (P_OUT_OF_SYNC). When the peer has confirmed all that it was sent before, and a moment has
                  passed, a resync begins at once, without an exchange of bitmaps: both have marked the same.
    disconnect    the peer is left, and this node stands alone until an operator connects it again

Congested is a connection with `congestion-fill` on its way that is not confirmed, or with `congestion-extents` of the
activity log in use for that. A node goes Ahead when it is Connected; in a resync, congestion blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd.core.effects import Level
from pydrbd.core.states import ConnState, DiskState
from pydrbd.core.volume import Volume
from pydrbd.limits import AHEAD_S
from pydrbd.wire.packet_numbers import WireProtocol

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Congestion"]


class Congestion:
    """The volumes of one node that are Ahead: the epoch that the peer must confirm, then the time of the resync."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._epochs: dict[int, int] = {}
        self._resyncs_at: dict[int, float] = {}

    def before_write(self, volume: Volume) -> None:
        """A write is about to be sent: is the way to the peer free?"""
        node, net = self._node, self._node.net
        if net.on_congestion == "block" or net.protocol is not WireProtocol.A:
            return
        if volume.state.conn is not ConnState.Connected or volume.state.disk is not DiskState.UpToDate:
            return
        if not volume.replicates:
            return
        reason = self._reason(volume)
        if not reason:
            return
        node.log_line(Level.WARNING, f"volume {volume.vnr}: {reason}")
        if net.on_congestion == "disconnect":
            node.give_up_connection(f"congestion: {reason}")
            return
        node.press_for_barrier()
        self._epochs[volume.vnr] = node.log.last_unacked()
        # What is written from here on is a generation that the peer does not have, however this connection ends.
        node.change(volume, conn=ConnState.Ahead, new_generation=True)
        self.review()

    def _reason(self, volume: Volume) -> str:
        net, disk = self._node.net, volume.disk
        if net.congestion_fill_bytes and self._node.writes.early.in_flight_bytes >= net.congestion_fill_bytes:
            return "Congestion-fill threshold reached"
        if disk is not None and disk.log.in_use_count(self._node.log.released) >= net.congestion_extents:
            return "Congestion-extents threshold reached"
        return ""

    def review(self) -> None:
        """The peer has confirmed something: of which volumes everything that it was sent?"""
        node = self._node
        for vnr, epoch in list(self._epochs.items()):
            volume = node.volumes[vnr]
            confirmed = node.log.acked_up_to(epoch) and not node.writes.wait_for_peer(volume)
            if confirmed and volume.state.conn is ConnState.Ahead:
                del self._epochs[vnr]
                self._resyncs_at[vnr] = node.now + AHEAD_S

    def forget(self, volume: Volume) -> None:
        """It is not Ahead any more."""
        self._epochs.pop(volume.vnr, None)
        self._resyncs_at.pop(volume.vnr, None)

    def next_deadline(self) -> float | None:
        """When the next resync begins."""
        return min(self._resyncs_at.values(), default=None)

    def start_due(self) -> None:
        """Begin the resyncs whose time has come."""
        for vnr, when in list(self._resyncs_at.items()):
            if self._node.now >= when:
                del self._resyncs_at[vnr]
                self._node.resync_source.start(self._node.volumes[vnr])
