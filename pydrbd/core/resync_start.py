"""How a resync begins: the handlers that may forbid it, then the target's new state (WIRE 12.1).

    source   both bitmaps are one -> before-resync-source -> SyncSource, P_SYNC_UUID (resync_source.py)
    target   P_SYNC_UUID -> before-resync-target -> durably Inconsistent -> SyncTarget, and it asks (resync.py)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydrbd.core import uuids
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["ResyncStart"]

_IGNORED = ("before-resync-source", 3)


class ResyncStart:
    """The beginnings of all resyncs of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def start_target(self, volume: Volume, sync_uuid: int) -> None:
        """P_SYNC_UUID: what the peer sends next waits until before-resync-target has ended, which may forbid it."""
        node = self._node
        if volume.state.conn == ConnState.Connected and node.operator.waits_for(volume):
            volume.peer.early_sync_uuid = sync_uuid
            return
        if volume.state.conn == ConnState.Connected and volume.state.disk < DiskState.Negotiating:
            return  # sent before the peer knew that our disk is gone, or is going
        if volume.state.conn not in (ConnState.WFSyncUUID, ConnState.Behind) or volume.disk is None:
            raise PeerProtocolError(f"volume {volume.vnr}: P_SYNC_UUID in state {volume.state.conn.name}")
        node.packets.hold()

        def allowed() -> None:
            self._become_target(volume, sync_uuid)
            node.packets.release()

        self.run_before("before-resync-target", volume, allowed, node.packets.release)

    def run_before(
        self, name: str, volume: Volume, then: Callable[[], None], otherwise: Callable[[], None] = lambda: None
    ) -> None:
        """Run a handler that may forbid the resync that is about to begin; `otherwise`: it can't begin any more.

        A bad exit code ends the connection in StandAlone, as in DRBD, where 3 of before-resync-source is no bad one.
        """
        node, conn, generation = self._node, volume.state.conn, self._node.link_generation

        def ended(code: int | None) -> None:
            if node.link_generation != generation:
                return
            if code is None or (code and (name, code) != _IGNORED):
                node.give_up_connection(f"{name} handler returned {code}")
            elif volume.state.conn is conn and volume.disk is not None:
                then()
            else:
                otherwise()

        node.helpers.run(name, volume, ended)

    def _become_target(self, volume: Volume, sync_uuid: int) -> None:
        """Become SyncTarget, durably Inconsistent and with every bit on disk, then ask."""
        node = self._node
        volume.uuids = uuids.start_sync_target(volume.uuids, sync_uuid, volume.state.role == Role.Primary)
        running = node.resync.begin(volume)
        running.csums = node.csums.chosen(volume)
        stage = node.changes.bitmap_stage(volume, flush_data=False)
        node.change(volume, conn=ConnState.SyncTarget, disk=DiskState.Inconsistent)
        node.changes.write_superblock(volume, stage)
        node.resync.advance(volume)
