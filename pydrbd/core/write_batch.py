"""Client writes that were submitted together, and what each of them still waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydrbd.core.epochs import Epoch
from pydrbd.native import Batch

if TYPE_CHECKING:
    from pydrbd.core.ranges import Hold
    from pydrbd.core.volume import Volume

__all__ = ["MEMBER_BITS", "WriteBatch"]

MEMBER_BITS = 6
"""The lowest bits of a block_id: which member of its batch a write is."""


class WriteBatch:
    """Members of one client's batch that were submitted together; each mask holds members.

    `peer_busy` can't be answered yet for the peer's sake. `receive_due` and `write_due` await P_RECV_ACK, P_WRITE_ACK.
    `again`: it has waited for good data (core/no_data), and is done anew rather than failed.
    `unconfirmed` (protocols A and B) are those that the peer has not said to have written. `durable` are FUA writes.
    `retried` (two Primaries) must be sent again when our disk has them; `tried` is when that went on its way first.
    """

    __slots__ = (
        "again",
        "batch",
        "counted_bytes",
        "durable",
        "epoch",
        "hold",
        "in_sync",
        "local_busy",
        "local_failed",
        "mask",
        "peer_busy",
        "peer_failed",
        "receive_due",
        "released",
        "replied",
        "retried",
        "sent",
        "serial",
        "session",
        "started",
        "tried",
        "unconfirmed",
        "volume",
        "write_due",
    )

    def __init__(self, serial: int, volume: Volume, session: Any, batch: Batch, mask: int, hold: Hold | None) -> None:
        self.serial = serial
        self.volume = volume
        self.session = session
        self.batch = batch
        self.mask = mask
        self.hold = hold
        self.again = False
        self.local_busy = 0
        self.local_failed = 0
        self.peer_busy = 0
        self.peer_failed = 0
        self.in_sync = 0
        self.sent = 0
        self.replied = 0
        self.released = 0
        self.receive_due = 0
        self.write_due = 0
        self.unconfirmed = 0
        self.retried = 0
        self.durable = 0
        self.counted_bytes = 0
        self.started = 0.0
        self.tried = 0.0
        self.epoch: Epoch

    @property
    def first_id(self) -> int:
        return self.serial << MEMBER_BITS
