"""A Primary that can't reach good data, here or there: `on-no-data-accessible` io-error or suspend-io.

    io-error      requests fail at once
    suspend-io    I/O is frozen (susp_nod), on all volumes of the resource, until there is good data again: the peer is
                  back, or the disk is. What waited is then done anew where no good disk has it; nobody hears of an
                  error. An operator's resume-io ends it the other way: what waits fails, and so does what comes.

It begins with the change of state that takes the last good data (core/transitions), so no answer slips through. Those
that were answered before, and that the lost peer has not confirmed as durable, are no business of this: the next FLUSH
says that they are in doubt (core/flushes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydrbd.core.states import DiskState, State
from pydrbd.core.volume import Volume

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["NoData"]


class NoData:
    """When the frozen I/O of one node goes on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._thawing = False

    def _volumes(self) -> Iterator[Volume]:
        return iter(self._node.volumes.values())

    @property
    def frozen(self) -> bool:
        return any(volume.state.susp_nod for volume in self._volumes())

    def review(self) -> None:
        """A state has changed while I/O is frozen, or has just been: all volumes are, or none."""
        node = self._node
        if self._thawing or not self.frozen:
            return
        if node.operator.demoting:
            node.fence.give_up()
        elif all(_has_data(volume.state) for volume in self._volumes()):
            self.thaw(again=True)
        else:
            for volume in self._volumes():
                node.change(volume, susp_nod=True)

    def thaw(self, *, again: bool) -> None:
        """I/O goes on; what has waited is done `again`, or fails."""
        node = self._node
        self._thawing = True
        for volume in self._volumes():
            node.change(volume, susp_nod=False)
        self._thawing = False
        node.writes.resume(again=again)
        node.reads.resume()
        node.flushes.check()
        node.operator.on_idle()


def _has_data(state: State) -> bool:
    return state.disk is DiskState.UpToDate or (state.connected and state.pdsk is DiskState.UpToDate)
