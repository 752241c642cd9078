"""`new-current-uuid`: an operator begins a new generation by hand (WIRE 8).

Two uses: two fresh disks that are known to be equal (both empty, say) need no first sync; and a copy that is carried to
the peer on a disk needs a generation from which the changes since are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd.core import uuids
from pydrbd.core.effects import Answer, Level
from pydrbd.core.refusals import ERR_CONNECTED, ERR_NO_DISK, StateCode, chosen_volumes, failure
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.uuids import PeerUuids
from pydrbd.core.volume import Volume
from pydrbd.wire.packet_numbers import UuidFlag
from pydrbd.wire.packets import Uuids

if TYPE_CHECKING:
    from pydrbd.core.events import Command
    from pydrbd.core.node import Node

__all__ = ["NewUuids"]


class NewUuids:
    """The verb, and what the peer makes of it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def on_command(self, command: Command) -> None:
        """Arguments: `clear_bitmap`, and `volume` to name a single one."""
        node = self._node
        clear = bool(command.arguments.get("clear_bitmap"))
        volumes = chosen_volumes(node.volumes, command.arguments)
        code, text = StateCode.SS_SUCCESS, ""
        for volume in volumes:
            text = text or self._refusal(volume, clear)
        if text:
            code = StateCode.SS_UNKNOWN_ERROR
        else:
            for volume in volumes:
                self._begin_generation(volume, clear)
        node.out.put(Answer(command.request, int(code), text))

    def _skips_first_sync(self, volume: Volume, clear: bool) -> bool:
        return clear and volume.state.conn == ConnState.Connected and volume.uuids.current == uuids.JUST_CREATED

    def _refusal(self, volume: Volume, clear: bool) -> str:
        if not volume.has_disk:
            return failure(ERR_NO_DISK)
        if self._skips_first_sync(volume, clear):
            if volume.state.pdsk < DiskState.Inconsistent:  # a kernel calls it UpToDate all the same
                return failure(ERR_CONNECTED, "(the peer has no disk that could have the same)")
            # The peer is about to change by a word that we wait for: what it has then may not be fresh any more.
            return failure(ERR_CONNECTED) if self._node.operator.waits_for(volume) else ""
        return "" if volume.state.conn == ConnState.StandAlone else failure(ERR_CONNECTED)

    def _begin_generation(self, volume: Volume, clear: bool) -> None:
        node, disk = self._node, volume.disk
        assert disk is not None
        skips = self._skips_first_sync(volume, clear)
        primary = volume.state.role == Role.Primary
        volume.uuids = uuids.new_current_by_operator(volume.uuids, node.draw_u64(), primary)
        node.log_line(Level.INFO, f"volume {volume.vnr}: new current UUID {volume.uuids.current:016X}")
        if skips:
            node.log_line(Level.INFO, f"volume {volume.vnr}: skipping the initial sync")
            self._declare_equal(volume, volume.uuids.current)
            volume.peer.skips_sync = True
            node.peers.send_uuids(volume, UuidFlag.SKIP_INITIAL_SYNC)
            return
        if clear:
            disk.bitmap.clear_all()
        node.changes.write_superblock(volume, node.changes.bitmap_stage(volume, flush_data=False))

    def on_peers_word(self, volume: Volume, packet: Uuids) -> bool:
        """P_UUIDS that may tell us to skip the first sync; whether it did (WIRE 4.7)."""
        if not packet.flags & UuidFlag.SKIP_INITIAL_SYNC or not volume.has_disk:
            return False
        if volume.state.conn != ConnState.Connected or volume.uuids.current != uuids.JUST_CREATED:
            return False
        self._node.log_line(Level.INFO, f"volume {volume.vnr}: the peer skips the initial sync")
        self._declare_equal(volume, packet.current)
        return True

    def _declare_equal(self, volume: Volume, current: int) -> None:
        """Both disks hold this generation. It is one superblock that says so: half of it would be a copy of nothing."""
        node, disk = self._node, volume.disk
        assert disk is not None
        disk.bitmap.clear_all()
        node.changes.write_bitmap(volume)
        volume.uuids = uuids.adopt_skipped_sync(volume.uuids, current, volume.state.role == Role.Primary)
        volume.peer.uuids = PeerUuids(volume.uuids, 0)
        node.change(volume, disk=DiskState.UpToDate, pdsk=DiskState.UpToDate)
