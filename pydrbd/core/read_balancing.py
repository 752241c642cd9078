"""Which reads go to the peer although our disk could serve them: `read-balancing`.

    prefer-local             none
    prefer-remote            all
    round-robin              every second one
    least-pending            when more is under way on our disk than at the peer
    when-congested-remote    when our disk has much to do
    32K-striping .. 1M-striping   every second stripe of the device, by where the read begins

Only a peer that is UpToDate is asked; if it can't read, our disk is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydrbd import native
from pydrbd.core.states import DiskState
from pydrbd.core.volume import Volume
from pydrbd.limits import READ_CONGESTED_REQUESTS
from pydrbd.native import Batch
from pydrbd.units import KIB, MIB

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["ReadBalancing"]

_STRIPES: Final = {
    f"{words}-striping": size_bytes
    for words, size_bytes in (
        ("32K", 32 * KIB), ("64K", 64 * KIB), ("128K", 128 * KIB), ("256K", 256 * KIB), ("512K", 512 * KIB),
        ("1M", MIB),
    )
}  # fmt: skip


class ReadBalancing:
    """The choice, read by read. `local_count` client reads are under way on our disks."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.local_count = 0
        self._turn = False

    def remote_members(self, volume: Volume, batch: Batch, mask: int) -> int:
        """Those of the members, which our disk could serve, that the peer is to serve."""
        policy, state = volume.options.read_balancing, volume.state
        if policy == "prefer-local" or state.pdsk != DiskState.UpToDate or not state.connected:
            return 0
        if policy == "prefer-remote":
            return mask
        stripe_bytes = _STRIPES.get(policy)
        chosen = 0
        for index in native.indices(mask):
            if stripe_bytes is not None:
                remote = batch.records[index].offset // stripe_bytes % 2 == 1
            elif policy == "round-robin":
                remote, self._turn = self._turn, not self._turn
            else:
                remote = self._is_busy(policy, chosen.bit_count(), mask.bit_count())
            chosen |= remote << index
        return chosen

    def _is_busy(self, policy: str, chosen_count: int, count: int) -> bool:
        """Whether our disk has more to do than the peer, or much."""
        local = self.local_count + count - chosen_count - 1
        remote = self._node.reads.remote_count + chosen_count
        for write in self._node.writes.in_flight():
            local += write.local_busy.bit_count()
            remote += write.peer_busy.bit_count()
        return local > remote if policy == "least-pending" else local >= READ_CONGESTED_REQUESTS
