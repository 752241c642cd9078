"""Resync by checksums (`csums-alg`): blocks that turn out to be equal are not sent (WIRE 12.2, 12.3).

    target: read what is here -> P_CSUM_RS_REQUEST with its digest
    source: hold, read, compare -> P_RS_IS_IN_SYNC (equal), else P_RS_DATA_REPLY as usual

A newer write does no harm to a digest that was taken before it: whatever the source has written since then, the target
gets as a write of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import DiskRead, Level, Send, Socket
from pydrbd.core.resync_pieces import read_groups
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError, errno_text
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES, ceil_div
from pydrbd.wire.digests import DigestAlg
from pydrbd.wire.packet_numbers import ID_SYNCER
from pydrbd.wire.packets import DigestReq, Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node
    from pydrbd.core.resync_progress import ResyncProgress

__all__ = ["Csums"]


class Csums:
    """The checksums of a node's resyncs, on both sides."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def chosen(self, volume: Volume) -> DigestAlg | None:
        """How a resync that begins with this node as its target compares; None: it has everything sent."""
        assert volume.disk is not None
        if self._node.net.csums_after_crash_only and not volume.disk.crashed_primary:
            return None
        return self._node.digests.csums

    # --- target ---

    def ask(self, volume: Volume, running: ResyncProgress, batch: Batch, mask: int) -> None:
        """Ask for these members of a batch, with digests of what is here."""
        for members in read_groups(batch, mask):
            self._ask(volume, running, *self._node.pieces.read_batch(batch, members))

    def _ask(self, volume: Volume, running: ResyncProgress, request: Batch, buffer: bytearray) -> None:
        node, disk, algorithm = self._node, volume.disk, running.csums
        assert algorithm is not None

        def done(failed: int, errno: int) -> None:
            if failed & request.all:
                node.on_disk_error(volume, disk, f"read for resync failed ({errno_text(errno)})", data=True)
            if node.resync.progress(volume) is not running:
                return
            packets = bytearray()
            for index in native.indices(request.all & ~failed):
                record = request.records[index]
                digest = algorithm.compute(request.data(index))
                wire = DigestReq(record.offset // SECTOR_SIZE_BYTES, ID_SYNCER, record.length, digest)
                packets += node.packet(Packet.P_CSUM_RS_REQUEST, wire.encode(), volume.vnr)
            node.out.put(Send(Socket.DATA, [packets]))

        sectors = native.records_length_sum(request, request.all) >> 9
        running.own_sectors += sectors
        volume.counters.read += sectors
        node.out.put(DiskRead(volume.vnr, request, request.all, buffer, done))

    def on_in_sync(self, volume: Volume, offset_bytes: int, length_bytes: int) -> None:
        """P_RS_IS_IN_SYNC: what is here is what the source has."""
        running = self._node.resync.progress(volume)
        if running is None or volume.disk is None:
            return
        request = running.requests.pop(offset_bytes, None)
        if request is None or request.length_bytes != length_bytes or running.csums is None:
            raise PeerProtocolError(
                f"volume {volume.vnr}: {length_bytes} bytes at {offset_bytes} are said to be in sync, but nobody asked"
            )
        running.in_flight_bytes -= length_bytes
        running.pace.came_in(length_bytes)
        if request.hold is not None or not request.void:
            volume.disk.bitmap.clear_range(offset_bytes, length_bytes)
            running.same_bits += ceil_div(length_bytes, BIT_SIZE_BYTES)
        if request.hold is not None:
            volume.ranges.release(request.hold, request.member)
        self._node.resync.persist_progress(volume, running)
        self._node.resync.advance(volume)

    # --- source ---

    def received(self, volume: Volume, batch: Batch, mask: int) -> dict[int, bytes]:
        """The digests that came with these members, by their place among them; plain requests have none."""
        found: dict[int, bytes] = {}
        for place, index in enumerate(native.indices(mask)):
            record = batch.records[index]
            if record.command != Packet.P_CSUM_RS_REQUEST:
                continue
            algorithm = self._node.digests.csums
            if algorithm is None or record.digest != algorithm.size:
                expected = f"{algorithm.size} for {algorithm.name}" if algorithm else "none: no csums-alg is set"
                raise PeerProtocolError(
                    f"volume {volume.vnr}: a resync request with a digest of {record.digest} bytes, not {expected}"
                )
            found[place] = bytes(batch.view[record.data : record.data + record.digest])
        return found

    def settle_equal(
        self, volume: Volume, running: ResyncProgress, request: Batch, mask: int, digests: dict[int, bytes]
    ) -> int:
        """Those members that were read and are what the target has: unmarked, and the target is told."""
        algorithm, disk = self._node.digests.csums, volume.disk
        if algorithm is None or disk is None or self._node.resync.progress(volume) is not running:
            return 0  # another resync by now: plain data is always right
        same = 0
        for index, digest in digests.items():
            if mask >> index & 1 and algorithm.compute(request.data(index)) == digest:
                same |= 1 << index
        for index in native.indices(same):
            record = request.records[index]
            disk.bitmap.clear_range(record.offset, record.length)
            running.same_bits += ceil_div(record.length, BIT_SIZE_BYTES)
        self._node.send_acks(Packet.P_RS_IS_IN_SYNC, volume, request, same)
        return same

    # --- both ---

    def report(self, volume: Volume, running: ResyncProgress) -> None:
        """At the end: what was saved, in DRBD's words."""
        if not running.same_bits:
            return
        total, same = running.total_bits, running.same_bits
        kib = BIT_SIZE_BYTES // 1024
        self._node.log_line(
            Level.INFO,
            f"volume {volume.vnr}: {100 * same // max(total, 1)} % had equal checksums, eliminated: {same * kib}K; "
            f"transferred {max(0, total - same) * kib}K total {total * kib}K",
        )
