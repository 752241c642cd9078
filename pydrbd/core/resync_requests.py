"""What a sync target asks for: which runs of set bits, how many of them, in which packets (WIRE 12.2).

csums-alg                digests of what is here go with the request (csums.py)
rs-discard-granularity   a request of just that length is a thin one: the source may say that it has zeroes there
else                     plain requests, as long as the bits, their alignment and the pace allow
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import Send, Socket
from pydrbd.core.resync_progress import Request, ResyncProgress
from pydrbd.core.states import Role
from pydrbd.core.thin_resync import ThinResync
from pydrbd.core.volume import Volume
from pydrbd.limits import (
    CSUMS_REQUEST_BYTES_MAX,
    RESYNC_BUSY_BYTES_MAX,
    RESYNC_IN_FLIGHT_BYTES_MAX,
    RESYNC_PIECE_BYTES,
)
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES
from pydrbd.wire.packet_numbers import ID_SYNCER
from pydrbd.wire.packets import Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["ResyncRequests"]


class ResyncRequests:
    """The requests of a node's resyncs, as their target."""

    def __init__(self, node: Node, thin: ThinResync) -> None:
        self._node = node
        self._thin = thin

    def room_bytes(self, volume: Volume, running: ResyncProgress) -> int:
        """How much may be asked for now."""
        options, used = volume.options.pace, volume.counters.read + volume.counters.written - running.own_sectors
        is_busy = running.yielding.is_busy(options, self._node.now, used)
        room = (RESYNC_BUSY_BYTES_MAX if is_busy else RESYNC_IN_FLIGHT_BYTES_MAX) - running.in_flight_bytes
        if not options.bounds:
            return room
        running.pace.step(options, self._node.now, running.in_flight_bytes)
        return min(room, running.pace.allowance_bytes)

    def next_pieces(self, volume: Volume, running: ResyncProgress) -> Batch | None:
        """The places of the next requests, as many as there is room for: adjacent set bits, aligned to their power of
        two, inside 16 MiB."""
        assert volume.disk is not None
        room = self.room_bytes(volume, running)
        batch = Batch(bytearray(), native.new_records(), 0)
        most = self._longest(volume, running, room)
        count, running.next_bit = volume.disk.bitmap.pieces(running.next_bit, most, room, batch)
        batch.resize(count)
        return batch if count else None

    def _longest(self, volume: Volume, running: ResyncProgress, room: int) -> int:
        """The most bytes of one request."""
        thin = self._thin.request_bytes(volume, running)
        if thin:
            return thin  # whatever the pace says: what is too much is owed, and a shorter one would not be thin
        most = min(volume.peer.request_bytes_max // BIT_SIZE_BYTES * BIT_SIZE_BYTES, RESYNC_PIECE_BYTES)
        if volume.options.pace.bounds:
            most = min(most, max(BIT_SIZE_BYTES, room // BIT_SIZE_BYTES * BIT_SIZE_BYTES))
        return max(BIT_SIZE_BYTES, min(most, CSUMS_REQUEST_BYTES_MAX) if running.csums else most)

    def ask(self, volume: Volume, running: ResyncProgress, batch: Batch) -> None:
        """One packet for each piece that nobody is writing right now; the others are come by again."""
        node, requests = self._node, running.requests
        free = batch.all & ~volume.ranges.busy(batch, batch.all)
        if not free:
            return
        hold = None
        if volume.state.role == Role.Primary and not node.conflicts.possible:
            hold = volume.ranges.acquire(batch, free, lambda _hold, _members: None)
        thin = self._thin.request_bytes(volume, running)
        thinly = native.records_longer(batch, free, thin - 1) if thin else 0  # none is longer than that
        for index in native.indices(free):
            record = batch.records[index]
            offset = record.offset
            assert offset not in requests, "asked for one place twice"
            requests[offset] = Request(offset, record.length, hold, 1 << index, thin=bool(thinly >> index & 1))
        byte_count = native.records_length_sum(batch, free)
        running.in_flight_bytes += byte_count
        running.pace.asked(byte_count)
        if running.csums:
            node.csums.ask(volume, running, batch, free)
            return
        words = {"format": node.header_format, "volume": volume.vnr, "block_id": ID_SYNCER}
        packets = native.drbd_requests(batch, thinly, packet=Packet.P_RS_THIN_REQ, **words)
        packets += native.drbd_requests(batch, free & ~thinly, packet=Packet.P_RS_DATA_REQUEST, **words)
        node.out.put(Send(Socket.DATA, [packets]))
