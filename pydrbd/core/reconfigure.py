"""Other options while the node is running (`pydrbd adjust`): what takes effect at once, and what waits.

    at once             times, policies, fencing, handlers, the digests of verify and csums (the peer is told)
    at the next meeting what both nodes have agreed on when they met: protocol, data-integrity-alg, limits of epochs
    at the next attach  what the meta-data of an attached disk rests on: size, al-extents, al-updates

The set of volumes is fixed: that takes a restart, and whoever asks for it is refused by runtime/adjust.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydrbd.core.refusals import StateCode
from pydrbd.core.states import ConnState

if TYPE_CHECKING:
    from pydrbd.core.events import Command
    from pydrbd.core.node import Node, NodeOptions
    from pydrbd.core.volume import Volume

__all__ = ["AT_ATTACH", "AT_MEETING", "Reconfigure"]

AT_MEETING = ("protocol", "data_integrity_alg", "allow_two_primaries", "max_epoch_size", "in_flight_bytes_max")
"""Fields of NetOptions that hold from one meeting of the nodes to its end."""

AT_ATTACH = ("size_sectors", "al_extents", "al_updates")
"""Fields of VolumeOptions that hold from an attach to the detach."""


class Reconfigure:
    """Takes over the options of a changed configuration."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._taken = {volume.vnr: volume for volume in node.options.volumes}

    def on_command(self, command: Command) -> None:
        """`options`: NodeOptions with the volumes that there are."""
        node = self._node
        options: NodeOptions = command.arguments["options"]
        assert [volume.vnr for volume in options.volumes] == [volume.vnr for volume in node.options.volumes]
        told, quorum = self._told(), node.options.quorum
        node.options = options
        node.quorum.on_reconfigure(quorum)
        self.on_meeting(meets=node.cstate < ConnState.WFReportParams and not node.links.handshaking)
        for volume in node.volumes.values():
            self.on_attach(volume, attaches=volume.disk is None)
            node.resync.advance(volume)  # its pace may be another one
        if told != self._told() and node.established:
            for volume in node.volumes.values():
                node.peers.send_sync_param(volume)
        node.operator.answer(command, StateCode.SS_SUCCESS)

    def _told(self) -> list[object]:
        """What P_SYNC_PARAM tells the peer."""
        volumes = self._node.volumes.values()
        return [self._node.digests.names, *((v.options.resync_rate_kib_s, v.options.controller) for v in volumes)]

    def on_meeting(self, *, meets: bool = True) -> None:
        """Take over the net options; those of AT_MEETING only if the nodes `meets` next."""
        node, wanted = self._node, self._node.options.net
        old = node.net
        kept = {} if meets else {name: getattr(old, name) for name in AT_MEETING}
        if any(node.verify.progress(volume) for volume in node.volumes.values()):
            kept["verify_alg"] = old.verify_alg  # half of a verify by one algorithm, and half by another
        node.net = replace(wanted, **kept)
        if node.net == old:
            return
        node.log.max_epoch_size = node.net.max_epoch_size
        node.digests.configure(old)

    def on_attach(self, volume: Volume, *, attaches: bool = True) -> None:
        """Take over a volume's options; those of AT_ATTACH only if it `attaches` now."""
        wanted = next(each for each in self._node.options.volumes if each.vnr == volume.vnr)
        if wanted == self._taken[volume.vnr]:
            return  # what a resize has made of it stays
        if attaches:
            self._taken[volume.vnr] = wanted
        kept = {} if attaches else {name: getattr(volume.options, name) for name in AT_ATTACH}
        volume.options = replace(wanted, **kept)
