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
    BATCH_RECORDS_MAX,
    CSUMS_REQUEST_BYTES_MAX,
    DRBD_IO_BYTES_MAX,
    RESYNC_BUSY_BYTES_MAX,
    RESYNC_IN_FLIGHT_BYTES_MAX,
    RESYNC_PIECE_BYTES,
)
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, EXTENT_SIZE_BYTES, SECTOR_SIZE_BYTES, ceil_div
from pydrbd.wire.packet_numbers import ID_SYNCER
from pydrbd.wire.packets import BlockReq, Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["ResyncRequests"]

_RESYNC_EXTENT_BYTES = 4 * EXTENT_SIZE_BYTES


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

    def next_pieces(self, volume: Volume, running: ResyncProgress) -> list[tuple[int, int]]:
        """(offset, length) of the next requests, as many as there is room for."""
        assert volume.disk is not None
        room = self.room_bytes(volume, running)
        most = self._longest(volume, running, room)
        pieces: list[tuple[int, int]] = []
        while room > 0 and len(pieces) < BATCH_RECORDS_MAX:
            found = volume.disk.bitmap.find_next(running.next_bit)
            if found is None:
                break
            offset, length = self._run_at(volume, found, most)
            running.next_bit = found + ceil_div(length, BIT_SIZE_BYTES)
            pieces.append((offset, length))
            room -= length
        return pieces

    def _longest(self, volume: Volume, running: ResyncProgress, room: int) -> int:
        """The most bytes of one request."""
        thin = self._thin.request_bytes(volume, running)
        if thin:
            return thin  # whatever the pace says: what is too much is owed, and a shorter one would not be thin
        most = min(volume.peer.request_bytes_max, RESYNC_PIECE_BYTES)
        if volume.options.pace.bounds:
            most = min(most, max(BIT_SIZE_BYTES, room // BIT_SIZE_BYTES * BIT_SIZE_BYTES))
        return min(most, CSUMS_REQUEST_BYTES_MAX) if running.csums else most

    def _run_at(self, volume: Volume, first_bit: int, most: int) -> tuple[int, int]:
        """(offset, length) of one request: adjacent set bits, aligned to its power of two, inside 16 MiB."""
        assert volume.disk is not None
        offset = first_bit * BIT_SIZE_BYTES
        end = volume.disk.bitmap.run_end(first_bit, DRBD_IO_BYTES_MAX // BIT_SIZE_BYTES) * BIT_SIZE_BYTES
        align = offset & -offset if offset else DRBD_IO_BYTES_MAX
        border = (offset // _RESYNC_EXTENT_BYTES + 1) * _RESYNC_EXTENT_BYTES
        limit = min(most, max(BIT_SIZE_BYTES, align), border - offset)
        return offset, min(end, volume.size_bytes, offset + limit) - offset

    def ask(self, volume: Volume, running: ResyncProgress, pieces: list[tuple[int, int]]) -> None:
        """One packet for each piece that nobody is writing right now; the others are come by again."""
        node = self._node
        batch = Batch(bytearray(), native.new_records(len(pieces)), len(pieces))
        for index, (offset, length) in enumerate(pieces):
            batch.records[index].offset, batch.records[index].length = offset, length
        free = batch.all & ~volume.ranges.busy(batch, batch.all)
        if not free:
            return
        hold = None
        if volume.state.role == Role.Primary and not node.conflicts.possible:
            hold = volume.ranges.acquire(batch, free, lambda _hold, _members: None)
        packets, thin = bytearray(), self._thin.request_bytes(volume, running)
        for index in native.indices(free):
            offset, length = pieces[index]
            assert offset not in running.requests, "asked for one place twice"
            request = running.requests[offset] = Request(offset, length, hold, 1 << index, thin=length == thin)
            running.in_flight_bytes += length
            running.pace.asked(length)
            if running.csums:
                continue
            wire = BlockReq(offset // SECTOR_SIZE_BYTES, ID_SYNCER, length)
            packet = Packet.P_RS_THIN_REQ if request.thin else Packet.P_RS_DATA_REQUEST
            packets += node.packet(packet, wire.encode(), volume.vnr)
        if running.csums:
            node.csums.ask(volume, running, batch, free)
        else:
            node.out.put(Send(Socket.DATA, [packets]))
