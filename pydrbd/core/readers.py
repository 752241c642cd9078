"""Read-only clients: served in either role, and no reason to be Primary.

    READ, CACHE, BLOCK_STATUS    on a Primary as for any client; on a Secondary from its own disk while that is
                                 UpToDate, else EIO
    FLUSH                        success: there is nothing of theirs to be made durable
    everything that writes       EPERM

What a reader sees on a Secondary is a disk that changes below it as the peer writes, also what nobody has been told of
as written. So there has to be a word of the configuration for it (runtime/exports).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydrbd import native
from pydrbd.core.states import DiskState, Role
from pydrbd.core.volume import Volume
from pydrbd.native import Batch
from pydrbd.wire.nbd import Command, NbdError

if TYPE_CHECKING:
    from pydrbd.core.clients import Clients
    from pydrbd.core.node import Node

__all__ = ["Readers"]

_LOOKS: Final = (Command.READ, Command.CACHE, Command.BLOCK_STATUS)


class Readers:
    """The requests of clients that may only read."""

    def __init__(self, node: Node, clients: Clients) -> None:
        self._node = node
        self._clients = clients

    def on_batch(self, volume: Volume, session: Any, batch: Batch) -> None:
        """One wake-up's requests of one of them."""
        is_primary = volume.state.role is Role.Primary and not self._node.operator.demoting
        if is_primary and volume.frozen:
            volume.held.append((session, batch))
            return
        good = batch.all & ~self._clients.refuse(volume, session, batch)
        flushes = native.records_with_command(batch, good, Command.FLUSH)
        reads, caches, maps = (native.records_with_command(batch, good, command) for command in _LOOKS)
        writes = good & ~(flushes | reads | caches | maps)
        if not is_primary and volume.state.disk != DiskState.UpToDate:
            self._clients.reply(volume, session, batch, reads | caches | maps, NbdError.EIO)
            reads = caches = maps = 0
        self._clients.reply(volume, session, batch, writes, NbdError.EPERM)
        self._clients.reply(volume, session, batch, flushes, NbdError.OK)
        if reads:
            self._clients.read(volume, session, batch, reads)
        for index in native.indices(maps):
            self._node.block_status.submit(volume, session, batch, index)
        for index in native.indices(caches):
            self._clients.read_ahead(volume, session, batch, index)
